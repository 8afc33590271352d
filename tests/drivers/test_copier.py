"""The copy engine's driver, on every bus with software devices."""

from __future__ import annotations

import random

import numpy as np
import pytest

import pinfold as pf
from pinfold.devices.copier import LONGEST, Code, Copier
from pinfold.drivers.copier import CopierDriver
from pinfold.drivers.copies import CODES, DESCRIPTOR, CopyReport
from pinfold.errors import (
    BadState,
    InvalidArgs,
    LimitReached,
    NotSupported,
    OutOfRange,
    WrongType,
)
from tests.drivers.moving import expected, moved

P = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE


def filled(pages: int) -> bytes:
    return random.Random(pages).randbytes(pages * P)


def test_the_codes_are_the_engines() -> None:
    """Written down twice, on purpose; here the two are compared."""
    assert set(CODES) == {int(code) for code in Code if code is not Code.PENDING}
    assert DESCRIPTOR.itemsize == 32


@pytest.mark.parametrize(
    ("source_offset", "destination_offset", "size"),
    [
        (0, 0, 40 * P),
        (0, 0, 1),
        (P - 1, P - 1, 2),
        (5, P - 3, 17 * P + 9),
        (P, 0, 3 * P),
        (40 * P - 1, 0, 1),
    ],
)
def test_copy_moves_any_bytes_to_any_place(
    driver: CopierDriver,
    engine: Copier,
    device_bti: pf.Bti,
    any_bus: pf.Iommu,
    source_offset: int,
    destination_offset: int,
    size: int,
) -> None:
    data = filled(40)
    offsets = {"source_offset": source_offset, "destination_offset": destination_offset}
    found, report = moved(
        device_bti, data, lambda taken, given: driver.copy(given, taken, size, **offsets)
    )
    assert found == expected(data, source_offset, destination_offset, size)
    assert report.bytes_moved == engine.statistics().bytes_moved == size
    assert report.descriptors == engine.statistics().descriptors
    assert len(any_bus.faults) == 0


def test_as_few_descriptors_as_the_extents_allow(process: pf.Process) -> None:
    """One where a bus gives one run; one a page where no two pages follow each other."""
    del process
    for name, fewest in (("sim", 1), ("stub", 64)):
        with (
            pf.open_bus(name) as iommu,
            iommu.initiator(0x10) as bti,
            pf.Vmo(64 * P) as source,
            pf.Vmo(64 * P) as destination,
            bti.pin(source, perms=READ) as taken,
            bti.pin(destination, perms=WRITE) as given,
            CopierDriver(Copier(bti.master()), bti) as driver,
        ):
            assert driver.copy(given, taken).descriptors == fewest
            shifted = driver.copy(given, taken, 63 * P, destination_offset=100)
            assert shifted.descriptors == (1 if name == "sim" else 2 * 63)


def test_a_run_longer_than_the_engine_takes_is_cut(sim: pf.Iommu) -> None:
    size = LONGEST + P
    with (
        sim.initiator(0x10) as bti,
        pf.Vmo(size) as memory,
        pf.Vmo(size) as copied,
        bti.pin(memory, perms=READ) as taken,
        bti.pin(copied, perms=WRITE) as given,
        CopierDriver(Copier(bti.master()), bti) as driver,
    ):
        memory.write(b"end", size - 3)
        assert driver.copy(given, taken).descriptors == 2
        assert copied.read(size - 3, 3) == b"end"


def test_more_descriptors_than_the_ring_holds_go_in_rounds(process: pf.Process) -> None:
    """1000 scattered pages through a ring of one page, twice, so that the ring wraps unevenly."""
    del process
    pages = 1000
    data = filled(pages)
    with (
        pf.open_bus("stub") as iommu,
        iommu.initiator(0x10) as bti,
        pf.Vmo(pages * P) as source,
        pf.Vmo(pages * P) as destination,
        bti.pin(source, perms=READ) as taken,
        bti.pin(destination, perms=WRITE) as given,
    ):
        source.write(data)
        engine = Copier(bti.master())
        with CopierDriver(engine, bti) as driver:
            rounds = -(-pages // driver.capacity)
            assert driver.copy(given, taken).descriptors == pages
            assert destination.read() == data
            destination.zero()
            driver.copy(given, taken)
            assert destination.read() == data
            assert engine.statistics().doorbells == 2 * rounds
            assert driver.statistics().completed == driver.statistics().submitted == 2 * pages


def test_a_larger_ring_takes_them_at_once(process: pf.Process) -> None:
    """Its pages lie in one run, on a bus that scatters everything else too."""
    del process
    with (
        pf.open_bus("stub") as iommu,
        iommu.initiator(0x10) as bti,
        pf.Vmo(300 * P) as source,
        pf.Vmo(300 * P) as destination,
        bti.pin(source, perms=READ) as taken,
        bti.pin(destination, perms=WRITE) as given,
    ):
        engine = Copier(bti.master())
        with CopierDriver(engine, bti, ring_bytes=4 * P) as driver:
            assert driver.capacity == 4 * P // DESCRIPTOR.itemsize - 1
            driver.copy(given, taken)
    assert engine.statistics().doorbells == -(-300 // (4 * P // 32 - 1))


@pytest.mark.parametrize("ring_bytes", [0, P // 2, 3 * P, 1 << 22])
def test_a_ring_that_cannot_be_one(engine: Copier, device_bti: pf.Bti, ring_bytes: int) -> None:
    with pytest.raises(InvalidArgs):
        CopierDriver(engine, device_bti, ring_bytes=ring_bytes)
    assert device_bti.statistics().pins == 0


def test_another_device_is_refused(device_bti: pf.Bti) -> None:
    from pinfold.devices.edu import Edu

    with pytest.raises(NotSupported):
        CopierDriver(Edu(device_bti.master()), device_bti)
    assert device_bti.statistics().pins == 0


@pytest.mark.parametrize("size", [0, -1])
def test_a_copy_of_nothing_is_refused(driver: CopierDriver, device_bti: pf.Bti, size: int) -> None:
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        with pytest.raises(InvalidArgs):
            driver.copy(pmt, pmt, size)
        with pytest.raises(OutOfRange):
            driver.copy(pmt, pmt, P, destination_offset=1)
    assert driver.statistics().submitted == 0


# Submitting and waiting -------------------------------------------------------------------------


def test_submitted_work_is_done_by_the_wait(driver: CopierDriver, device_bti: pf.Bti) -> None:
    with pf.Vmo(2 * P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        memory.write(b"ab")
        first = driver.describe(pmt, pmt, 1, destination_offset=P)
        second = driver.describe(pmt, pmt, 1, source_offset=1, destination_offset=P + 1)
        driver.submit(first)
        driver.submit(second)
        assert memory.read(P, 2) == bytes(2)
        with pytest.raises(BadState):
            driver.copy(pmt, pmt, 1)
        assert driver.wait() == CopyReport(descriptors=2, bytes_moved=2, polls=2)
        assert memory.read(P, 2) == b"ab"
        assert driver.wait() == CopyReport(0, 0, 0)


def test_what_does_not_fit_the_ring_is_refused(driver: CopierDriver, device_bti: pf.Bti) -> None:
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        work = np.repeat(driver.describe(pmt, pmt, 1, destination_offset=9), driver.capacity)
        driver.submit(work[:-1])
        with pytest.raises(LimitReached) as caught:
            driver.submit(work[:2])
        assert (caught.value.asked, caught.value.available) == (2, 1)
        driver.submit(work[:1])
        assert driver.wait().descriptors == driver.capacity
        driver.submit(work[:0])
        assert driver.wait().descriptors == 0


def test_only_descriptors_are_taken(driver: CopierDriver) -> None:
    with pytest.raises(WrongType):
        driver.submit(np.zeros(3, dtype="V32"))


def test_work_that_was_done_can_be_submitted_again(
    driver: CopierDriver, device_bti: pf.Bti
) -> None:
    """A status left over from the last time would look like a copy that was made."""
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        work = driver.describe(pmt, pmt, 1, destination_offset=9)
        work["status"] = Code.DONE
        memory.write(b"x")
        driver.submit(work)
        assert driver.wait().descriptors == 1
        assert memory.read(9, 1) == b"x"
        assert work["status"][0] == Code.DONE
