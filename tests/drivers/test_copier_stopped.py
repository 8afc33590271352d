"""The copy engine's driver when the bus stops a copy, and at the end of its life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.devices.copier import Code, Copier
from pinfold.drivers.copier import CopierDriver
from pinfold.drivers.copies import DESCRIPTOR, CopyStopped
from pinfold.drivers.mmio import DeviceFailed, DeviceTimeout
from pinfold.errors import (
    BadState,
    OutOfReach,
)

if TYPE_CHECKING:
    from collections.abc import Callable

P = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
NEVER = 1 << 40


class Watched(Copier):
    """An engine whose register accesses are told to ``watch`` as (offset, value written)."""

    def __init__(self, master: pf.BusMaster, watch: Callable[[int, int | None], None]) -> None:
        super().__init__(master)
        self.watch = watch

    def read32(self, offset: int) -> int:
        self.watch(offset, None)
        return super().read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self.watch(offset, value)
        super().write32(offset, value)


def test_a_fault_in_the_middle_is_reported_with_its_descriptor(sim: pf.Iommu) -> None:
    """What came before is there, what came after is not, and the engine takes work again."""
    with (
        sim.initiator(0x10) as bti,
        pf.Vmo(P, name="input") as source,
        pf.Vmo(P, name="output") as destination,
        bti.pin(source, perms=READ) as taken,
        bti.pin(destination, perms=WRITE) as given,
        CopierDriver(Copier(bti.master()), bti) as driver,
    ):
        source.write(b"0123456789")
        work = np.repeat(driver.describe(given, taken, 1), 10)
        work["source"] += np.arange(10, dtype=np.uint64)
        work["destination"] += np.arange(10, dtype=np.uint64)
        work["destination"][6] = taken.addrs[0]  # granted for reading only
        driver.submit(work[:4])
        driver.submit(work[4:])
        with pytest.raises(CopyStopped, match="destination was stopped") as caught:
            driver.wait()
        error = caught.value
        assert (error.code, error.index, error.bytes_moved) == (Code.DESTINATION_FAULT, 6, 6)
        assert error.address == error.destination == int(taken.addrs[0])
        assert (error.source, error.length) == (int(taken.addrs[0]) + 6, 1)
        assert destination.read(0, 10) == b"012345" + bytes(4)
        [fault] = sim.faults
        assert fault.reason is pf.FaultReason.NOT_PERMITTED

        assert driver.copy(given, taken, 10).bytes_moved == 10
        assert destination.read(0, 10) == b"0123456789"
        found = driver.statistics()
        assert (found.submitted, found.completed, found.failures) == (11, 7, 1)


def test_the_index_counts_over_the_rounds_of_the_ring(process: pf.Process) -> None:
    """The destination goes away while the third round of the ring is under way."""
    del process
    with pf.open_bus("stub") as iommu, iommu.initiator(0x10) as bti, pf.Vmo(400 * P) as source:
        destination = pf.Vmo(400 * P)
        given = bti.pin(destination, perms=WRITE)
        rounds: list[int] = []

        def watch(offset: int, value: int | None) -> None:
            if offset == 0x1C and value is not None:  # the doorbell
                rounds.append(value)
                if len(rounds) == 3:
                    given.unpin()
                    destination.close()

        with (
            CopierDriver(Watched(bti.master(), watch), bti) as driver,
            bti.pin(source, perms=READ) as taken,
        ):
            with pytest.raises(CopyStopped) as caught:
                driver.copy(given, taken)
            assert caught.value.index == 2 * driver.capacity
            assert caught.value.bytes_moved == 2 * driver.capacity * P
        assert caught.value.code == Code.DESTINATION_FAULT
        assert [fault.reason for fault in iommu.faults] == [pf.FaultReason.NOTHING_THERE]


def test_an_unpin_under_way_stops_the_engine_at_the_next_descriptor(sim: pf.Iommu) -> None:
    with sim.initiator(0x10) as bti, pf.Vmo(P) as source, pf.Vmo(P) as destination:
        engine = Copier(bti.master(), step=1)
        with CopierDriver(engine, bti) as driver, bti.pin(source, perms=READ) as taken:
            given = bti.pin(destination, perms=WRITE)
            driver.submit(np.repeat(driver.describe(given, taken, 1), 5))
            for _ in range(2):
                engine.read32(0x08)
            given.unpin()
            with pytest.raises(CopyStopped) as caught:
                driver.wait()
            assert caught.value.index == 2
            assert sim.faults[0].reason is pf.FaultReason.REVOKED


def test_addresses_beyond_the_engine_are_refused(process: pf.Process) -> None:
    del process
    with pf.open_bus("stub") as iommu, iommu.initiator(0x10) as bti:
        engine = Copier(bti.master())
        with (
            CopierDriver(engine, bti, address_bits=28) as driver,
            pf.Vmo(P) as near_memory,
            bti.pin(near_memory, perms=READ | WRITE) as near,
            pf.Vmo.contiguous(bti, P, alignment=1 << 28) as far_memory,
            bti.pin(far_memory, perms=READ | WRITE) as far,
        ):
            for destination, source in ((near, far), (far, near)):
                with pytest.raises(OutOfReach) as caught:
                    driver.copy(destination, source)
                assert caught.value.extent == pf.Extent(far.extents[0].address, 0, P)
        assert engine.statistics().doorbells == 0
        with pytest.raises(OutOfReach):  # the ring itself
            CopierDriver(engine, bti, address_bits=20)
        assert bti.statistics().pins == 0


# The end ----------------------------------------------------------------------------------------


def test_close_stops_the_engine_then_unpins_its_ring(device_bti: pf.Bti) -> None:
    """Swapped, the engine could write a status into a page of somebody else."""
    pins: list[tuple[int, int | None, int]] = []

    def watch(offset: int, value: int | None) -> None:
        pins.append((offset, value, device_bti.statistics().pins))

    driver = CopierDriver(Watched(device_bti.master(), watch), device_bti)
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        driver.submit(driver.describe(pmt, pmt, 1))
    pins.clear()
    driver.close()
    assert pins == [(0x04, 0, 1), (0x08, None, 1), (0x04, 4, 1)]
    assert device_bti.statistics().pins == 0
    driver.close()
    with pytest.raises(BadState):
        driver.wait()
    with pytest.raises(BadState):
        driver.submit(np.zeros(1, dtype=DESCRIPTOR))


def test_work_that_is_dropped_touches_nothing_afterwards(
    any_bus: pf.Iommu, device_bti: pf.Bti
) -> None:
    engine = Copier(device_bti.master(), latency=50)
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        with CopierDriver(engine, device_bti) as driver:
            driver.submit(driver.describe(pmt, pmt, 1, destination_offset=1))
        for _ in range(100):
            engine.read32(0x08)
    assert engine.statistics().descriptors == 0
    assert len(any_bus.faults) == 0


def test_an_engine_that_does_not_finish_raises_and_can_still_be_stopped(
    device_bti: pf.Bti,
) -> None:
    engine = Copier(device_bti.master(), latency=NEVER)
    with (
        pf.Vmo(P) as memory,
        device_bti.pin(memory, perms=READ | WRITE) as pmt,
        pytest.raises(DeviceTimeout, match="a list of copies: not done after 5 polls"),
        CopierDriver(engine, device_bti, polls=5) as driver,
    ):
        driver.copy(pmt, pmt, 1)
    assert device_bti.statistics().pins == 0


class Stuck(Copier):
    """An engine that never says it has stopped."""

    def read32(self, offset: int) -> int:
        return super().read32(offset) | (offset == 0x08)


class Gone(Copier):
    """An engine that is pulled out when ``here`` is cleared."""

    here = True

    def read32(self, offset: int) -> int:
        return super().read32(offset) if self.here else (1 << 32) - 1


def test_a_ring_the_engine_may_still_use_goes_to_quarantine(device_bti: pf.Bti) -> None:
    driver = CopierDriver(Stuck(device_bti.master()), device_bti, polls=5)
    with pytest.raises(DeviceTimeout, match="stopping the engine"):
        driver.close()
    assert device_bti.statistics().quarantined == 1
    assert device_bti.release_quarantine() == 1


def test_an_engine_that_is_gone_is_no_timeout(device_bti: pf.Bti) -> None:
    engine = Gone(device_bti.master())
    driver = CopierDriver(engine, device_bti)
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        engine.here = False
        with pytest.raises(DeviceFailed, match="all ones"):
            driver.copy(pmt, pmt, 1)
    with pytest.raises(DeviceFailed):
        driver.close()
    assert device_bti.release_quarantine() == 1


def test_an_engine_that_forgets_its_work_is_found_out(
    driver: CopierDriver, engine: Copier, device_bti: pf.Bti
) -> None:
    """It is idle and reports no error, but nothing was written back."""
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        work = driver.describe(pmt, pmt, 1)
        work["status"] = Code.DONE  # left over from an earlier time: it must not count
        driver.submit(work)
        engine.reset()
        with pytest.raises(DeviceFailed, match="wrote back 0 of 1"):
            driver.wait()
        assert driver.copy(pmt, pmt, 1, destination_offset=1).bytes_moved == 1
