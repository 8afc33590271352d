"""What becomes of an edu transfer that the bus stops. Seen in QEMU behind an emulated IOMMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.edu import BUFFER_START, Edu

if TYPE_CHECKING:
    from collections.abc import Iterator

P = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE
TO_RAM, INTERRUPT = 2, 4


def start(edu: Edu, source: int, destination: int, count: int, command: int) -> None:
    edu.write64(0x80, source)
    edu.write64(0x88, destination)
    edu.write64(0x90, count)
    edu.write32(0x98, command | 1)


@pytest.fixture
def sim_bti(sim: pf.Iommu) -> Iterator[pf.Bti]:
    with sim.initiator(0x20, address_bits=28) as made:
        yield made


def test_a_stopped_read_gives_zeros_and_a_record(sim: pf.Iommu, sim_bti: pf.Bti) -> None:
    """Seen in QEMU behind an IOMMU: the device is not told. The bus is."""
    edu = Edu(sim_bti.master(), latency=0)
    with pf.Vmo(P) as memory, sim_bti.pin(memory, perms=RW) as pmt:
        memory.write(b"before")
        address = int(pmt.addrs[0])
        start(edu, address, BUFFER_START, 6, 0)
    start(edu, address, BUFFER_START, 6, INTERRUPT)  # unpinned by now
    assert edu.contents()[:6] == bytes(6)
    assert edu.read32(0x24) == 0x100
    assert (edu.statistics().stopped, edu.statistics().transfers) == (1, 2)
    [fault] = sim.faults
    assert (fault.address, fault.size, fault.access) == (address, 6, pf.Perm.READ)
    assert fault.reason is pf.FaultReason.REVOKED


@pytest.mark.parametrize("perms", [pf.Perm.READ, pf.Perm.NONE])
def test_a_stopped_write_is_lost_and_recorded(
    sim: pf.Iommu, sim_bti: pf.Bti, perms: pf.Perm
) -> None:
    edu = Edu(sim_bti.master(), latency=0)
    with pf.Vmo(P) as memory:
        memory.write(b"keep me")
        with sim_bti.pin(memory, perms=perms or RW) as pmt:
            address = int(pmt.addrs[0])
            if perms:
                start(edu, BUFFER_START, address, 7, TO_RAM)
        if not perms:
            start(edu, BUFFER_START, address, 7, TO_RAM)
        assert memory.read(0, 7) == b"keep me"
    assert edu.statistics().stopped == 1
    assert edu.statistics().bytes_written == 0
    [fault] = sim.faults
    expected = pf.FaultReason.NOT_PERMITTED if perms else pf.FaultReason.REVOKED
    assert (fault.access, fault.reason) == (pf.Perm.WRITE, expected)


def test_the_pages_of_one_transfer_fare_separately(sim: pf.Iommu, sim_bti: pf.Bti) -> None:
    """An IOMMU translates page by page: what lies before the border has been moved."""
    edu = Edu(sim_bti.master(), latency=0)
    with pf.Vmo(P) as memory, sim_bti.pin(memory, perms=RW) as pmt:
        memory.write(b"tail", P - 4)
        start(edu, int(pmt.addrs[0]) + P - 4, BUFFER_START, 8, 0)
        assert edu.contents()[:8] == b"tail" + bytes(4)
        start(edu, BUFFER_START, int(pmt.addrs[0]) + P - 2, 6, TO_RAM)
        assert memory.read(P - 4, 4) == b"tata"
        assert [f.address for f in sim.faults] == [int(pmt.addrs[0]) + P] * 2
    assert edu.statistics().stopped == 2
    assert (edu.statistics().bytes_read, edu.statistics().bytes_written) == (4, 2)


def test_without_an_iommu_a_late_write_lands(process: pf.Process) -> None:
    """Why `sim` exists: on `stub`, as on a machine without an IOMMU, nobody stops it."""
    del process
    with pf.open_bus("stub") as iommu, iommu.initiator(0x10) as bti, pf.Vmo(P) as memory:
        memory.write(b"data")
        edu = Edu(bti.master(), latency=0)
        with bti.pin(memory, perms=RW) as pmt:
            address = int(pmt.addrs[0])
        start(edu, BUFFER_START, address, 4, TO_RAM)
        assert memory.read(0, 4) == bytes(4)
        assert len(iommu.faults) == 0
