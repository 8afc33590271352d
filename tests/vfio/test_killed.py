"""A driver that is killed while its device is writing: SIGKILL, which no program can prepare for.

The witnesses are memory. One is the page that was pinned: the test has the same memory file, writes
a canary into it once the driver is gone, and a device that still wrote would write over that.
Beside it are the pages around it. The other is what only the driver had: the kernel gives that
back the moment it is gone, and it is taken again here, with much else.

How long they are watched is another device of the same kind's to say: it makes transfers meanwhile,
each of which takes as long as one of the dead driver's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

import pinfold as pf
from tests.vfio.real import BOTH, edu

if TYPE_CHECKING:
    from collections.abc import Iterator

P = pf.PAGE_SIZE
PAGES = 9
MIDDLE = PAGES // 2
CANARY = 0xC5
WRITTEN = 0xEE
TRANSFERS = 4
"""That the device has finished before its driver is killed: it is in the midst of the next."""
WATCHED: Final = 8
"""Transfers of the other device, which is four rounds of the driver's two."""

MIB = 1 << 20

DRIVER = f"""
import os, sys, time
import pinfold as pf
from pinfold.drivers.edu import CHUNK, EduDriver

address, fd, page = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
iommu = pf.open_bus(f"vfio:{{address}}")
bti = iommu.initiator(iommu.bus.requester)
wait = lambda: time.sleep(0.001)
driver = EduDriver(bti.device().bar(0), bti, address_bits=64, wait=wait)
driver.store(bytes([{WRITTEN}]) * 2048)
memory, own = pf.Vmo.from_fd(fd), pf.Vmo(pf.PAGE_SIZE)
shared = bti.pin(memory, page, pf.PAGE_SIZE, perms=pf.Perm.WRITE)
alone = bti.pin(own, perms=pf.Perm.WRITE)
while True:
    for pin in (shared, alone):
        driver.copy_from_device(pin, CHUNK)
        os.write(1, b".")
"""


class Victim:
    """A driver in another process, whose device is writing."""

    def __init__(self, address: str, memory: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, address, str(memory), str(MIDDLE * P)],
            pass_fds=[memory],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        left = TRANSFERS
        while left > 0:
            chunk = os.read(self.output.fileno(), left)
            assert chunk, "the driver ended by itself"
            left -= len(chunk)

    def kill(self) -> None:
        """SIGKILL, and what the kernel does about it."""
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.output.close()


@contextmanager
def victim(address: str) -> Iterator[tuple[int, Victim]]:
    """The memory file, and the driver whose device writes into its middle."""
    memory = os.memfd_create("witness")
    os.write(memory, bytes([CANARY]) * (PAGES * P))
    try:
        driver = Victim(address, memory)
        try:
            yield memory, driver
        finally:
            driver.close()
    finally:
        os.close(memory)


def fill_again(memory: int) -> None:
    """Put the canary where the device had been let write, and see that it had."""
    assert os.pread(memory, 1, MIDDLE * P)[0] == WRITTEN
    os.pwrite(memory, bytes([CANARY]) * P, MIDDLE * P)


def watch(clock: str) -> None:
    """For as long as some transfers take."""
    with (
        edu(clock, address_bits=28) as (found, driver),
        pf.Vmo(P) as vmo,
        found.bti.pin(vmo, perms=BOTH) as pmt,
    ):
        for _ in range(WATCHED):
            driver.copy_to_device(pmt, P // 2)


def whole(memory: int) -> bool:
    """Whether the canary is everywhere."""
    return os.pread(memory, PAGES * P, 0) == bytes([CANARY]) * (PAGES * P)


def available() -> int:
    """MiB that can be had."""
    with open("/proc/meminfo") as lines:
        fields = dict(line.split(":") for line in lines)
    return int(fields["MemAvailable"].split()[0]) // 1024


@pytest.mark.vfio("edu0", "edu1")
def test_a_killed_driver_leaves_no_device_that_writes(
    process: pf.Process, vfio_edu: str, vfio_edu64: str
) -> None:
    """No byte has changed since it was gone, and the device can be opened again."""
    with victim(vfio_edu64) as (memory, driver):
        driver.kill()
        fill_again(memory)
        # What the dead driver had, and half of what is free beside: taken at once, and filled.
        taken = [bytearray([CANARY]) * MIB for _ in range(available() // 2)]
        watch(vfio_edu)
        assert whole(memory)
        assert all(block.count(CANARY) == MIB for block in taken)
        del taken

    with edu(vfio_edu64) as (found, again), pf.Vmo(P) as vmo:
        assert found.bus.faults.total == 0
        vmo.write(b"alive")
        with found.bti.pin(vmo, perms=BOTH) as pmt:
            again.copy_to_device(pmt, 5)
        assert again.load(5) == b"alive"


@pytest.mark.vfio("edu0", "edu1")
def test_a_driver_that_lives_is_seen_by_the_same_witness(
    process: pf.Process, vfio_edu: str, vfio_edu64: str
) -> None:
    """Or the test above could not fail."""
    with victim(vfio_edu64) as (memory, _):
        fill_again(memory)
        watch(vfio_edu)
        assert not whole(memory)
        assert os.pread(memory, 1, MIDDLE * P)[0] == WRITTEN
