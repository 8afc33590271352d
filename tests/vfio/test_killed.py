"""A driver that is killed while its device is writing: SIGKILL, which no program can prepare for.

The witness is the memory. What the driver had pinned is given back by the kernel the moment it is
gone, and taken again here at once with much else: a device that still wrote would write into
that. Beside it are the pages on both sides of the pinned one, in the same memory file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import pinfold as pf
from tests.vfio.real import BOTH, edu

P = pf.PAGE_SIZE
PAGES = 9
MIDDLE = PAGES // 2
CANARY = 0xC5
TRANSFERS = 3
"""That the device has finished before its driver is killed: it is in the midst of the next."""

MIB = 1 << 20

DRIVER = """
import os, sys, time
import pinfold as pf
from pinfold.drivers.edu import CHUNK, EduDriver

address, fd, page = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
iommu = pf.open_bus(f"vfio:{address}")
bti = iommu.initiator(iommu.bus.requester)
wait = lambda: time.sleep(0.001)
driver = EduDriver(bti.device().bar(0), bti, address_bits=64, wait=wait)
driver.store(b"\\xee" * 2048)
memory = pf.Vmo.from_fd(fd)
pin = bti.pin(memory, page, pf.PAGE_SIZE, perms=pf.Perm.WRITE)
while True:
    driver.copy_from_device(pin, CHUNK)
    os.write(1, b".")
"""


def available() -> int:
    """MiB that can be had."""
    with open("/proc/meminfo") as lines:
        fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) // 1024


@pytest.mark.vfio("edu1")
def test_a_killed_driver_leaves_no_device_that_writes(process: pf.Process, vfio_edu64: str) -> None:
    """No byte outside the pinned page has changed, and the device can be opened again."""
    memory = os.memfd_create("witness")
    os.write(memory, bytes([CANARY]) * (PAGES * P))
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, vfio_edu64, str(memory), str(MIDDLE * P)],
        pass_fds=[memory],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    done = b""
    while len(done) < TRANSFERS:
        chunk = os.read(child.stdout.fileno(), 16)
        assert chunk, "the driver ended by itself"
        done += chunk
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()

    # What the dead driver had, and half of what is free beside: taken at once, and filled.
    taken = [bytearray([CANARY]) * MIB for _ in range(available() // 2)]
    time.sleep(0.3)  # three of edu's transfers: one under way at the time of death is over
    assert all(block.count(CANARY) == MIB for block in taken)
    witness = os.pread(memory, PAGES * P, 0)
    outside = witness[: MIDDLE * P] + witness[(MIDDLE + 1) * P :]
    assert outside.count(CANARY) == len(outside)
    assert witness[MIDDLE * P] == 0xEE  # it was writing
    os.close(memory)
    del taken

    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        assert found.bus.faults.total == 0
        vmo.write(b"alive")
        with found.bti.pin(vmo, perms=BOTH) as pmt:
            driver.copy_to_device(pmt, 5)
        assert driver.load(5) == b"alive"
