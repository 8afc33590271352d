"""The edu driver, on every bus with software devices, and on both editions of the device."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.edu import Edu
from pinfold.drivers.edu import CHUNK, DMA_DONE, FACTORIAL_DONE, USABLE, EduDriver
from pinfold.drivers.mmio import DeviceFailed, DeviceTimeout
from pinfold.errors import BadState, InvalidArgs, NotSupported, OutOfRange, OutOfReach
from tests.drivers.moving import expected, moved

if TYPE_CHECKING:
    from collections.abc import Iterator

P = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
NEVER = 1 << 40


@pytest.fixture(params=[False, True], ids=["edu", "edu-strict-end"])
def edu(request: pytest.FixtureRequest, device_bti: pf.Bti) -> Edu:
    return Edu(device_bti.master(), strict_end=request.param)


@pytest.fixture
def driver(edu: Edu, device_bti: pf.Bti) -> Iterator[EduDriver]:
    with EduDriver(edu, device_bti) as made:
        yield made


class Constant:
    """Registers that all read the same, as an empty slot's do."""

    size = 1 << 20

    def __init__(self, value: int) -> None:
        self.value = value

    def read32(self, offset: int) -> int:
        del offset
        return self.value

    def read64(self, offset: int) -> int:
        del offset
        return self.value << 32 | self.value

    def write32(self, offset: int, value: int) -> None:
        """Nothing takes it."""

    def write64(self, offset: int, value: int) -> None:
        """Nothing takes it."""


class Unplugged(Constant):
    """An edu until it is pulled out."""

    def __init__(self, edu: Edu) -> None:
        super().__init__((1 << 32) - 1)
        self.edu: Edu | None = edu

    def read32(self, offset: int) -> int:
        return self.value if self.edu is None else self.edu.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        if self.edu is not None:
            self.edu.write32(offset, value)


def test_the_driver_knows_its_device(driver: EduDriver) -> None:
    assert driver.identify() == driver.version == (1, 0)
    assert driver.alive()
    assert driver.alive(0)


@pytest.mark.parametrize("value", [0, (1 << 32) - 1, 0x010000EC])
def test_another_device_is_refused(device_bti: pf.Bti, value: int) -> None:
    with pytest.raises(NotSupported):
        EduDriver(Constant(value), device_bti)


@pytest.mark.parametrize(
    ("number", "result"), [(0, 1), (5, 120), (12, 479001600), (13, 1932053504), (34, 0)]
)
def test_factorial(driver: EduDriver, number: int, result: int) -> None:
    """13! is the first that 32 bits do not hold."""
    assert driver.factorial(number) == result


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_factorial_of_what_the_register_cannot_hold(driver: EduDriver, number: int) -> None:
    with pytest.raises(InvalidArgs):
        driver.factorial(number)


def test_interrupts(driver: EduDriver, edu: Edu, device_bti: pf.Bti) -> None:
    seen: list[int] = []
    edu.on_interrupt(seen.append)
    driver.factorial(3)
    assert driver.interrupt_status() == 0
    driver.factorial(3, interrupt=True)
    assert driver.acknowledge() == FACTORIAL_DONE
    driver.raise_interrupt(0x6)
    assert driver.acknowledge(0x2 | 0x8) == 0x2
    assert driver.interrupt_status() == 0x4
    driver.acknowledge()
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=READ) as pmt:
        driver.copy_to_device(pmt, 4, interrupt=True)
    assert driver.acknowledge() == DMA_DONE
    assert seen == [0x1, 0x6, 0x100]


@pytest.mark.parametrize(
    ("size", "at"), [(1, 0), (CHUNK, 0), (CHUNK + 1, 0), (USABLE, 0), (100, USABLE - 100)]
)
def test_store_and_load(driver: EduDriver, size: int, at: int) -> None:
    data = random.Random(size).randbytes(size)
    driver.store(data, at=at)
    assert driver.load(size, at=at) == data


@pytest.mark.parametrize(("at", "size"), [(0, USABLE + 1), (USABLE, 1)])
def test_the_devices_memory_ends_where_every_edition_agrees(
    driver: EduDriver, at: int, size: int
) -> None:
    """Seen in QEMU 7.2: a transfer up to the very end is refused."""
    with pytest.raises(OutOfRange) as caught:
        driver.store(bytes(size), at=at)
    assert caught.value.limit == USABLE
    assert driver.statistics().transfers == 0


@pytest.mark.parametrize(("at", "size"), [(-1, 4), (0, 0), (0, -1)])
def test_no_part_of_the_devices_memory(driver: EduDriver, at: int, size: int) -> None:
    with pytest.raises(InvalidArgs):
        driver.load(size, at=at)


@pytest.mark.parametrize(
    ("source_offset", "destination_offset", "size"),
    [
        (0, 0, 8 * P),
        (0, 0, 1),
        (P - 1, 0, 2),
        (1, P - 1, 3 * P + 5),
        (P, 3 * P, 4 * P),
        (CHUNK - 3, 7, CHUNK + 11),
        (8 * P - 1, 8 * P - 1, 1),
    ],
)
def test_transfer_moves_any_bytes_to_any_place(
    driver: EduDriver,
    edu: Edu,
    device_bti: pf.Bti,
    any_bus: pf.Iommu,
    source_offset: int,
    destination_offset: int,
    size: int,
) -> None:
    """On `stub` no two pages follow each other: a chunk across a border would go astray."""
    data = random.Random(size).randbytes(8 * P)
    offsets = {"source_offset": source_offset, "destination_offset": destination_offset}
    found, count = moved(
        device_bti, data, lambda taken, given: driver.transfer(taken, given, size, **offsets)
    )
    assert found == expected(data, source_offset, destination_offset, size)
    assert len(any_bus.faults) == 0
    assert driver.statistics().bytes_moved == 2 * size
    assert driver.statistics().transfers == edu.statistics().transfers == count
    assert edu.statistics().truncated == 0


def test_transfer_takes_the_rest_of_the_source(driver: EduDriver, device_bti: pf.Bti) -> None:
    with pf.Vmo(2 * P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        memory.write(b"x" * P, P)
        driver.transfer(pmt, pmt, source_offset=P)
        assert memory.read(0, P) == b"x" * P


@pytest.mark.parametrize(
    ("size", "source_offset", "destination_offset"),
    [(2 * P + 1, 0, 0), (P, P + 1, 0), (P, 0, P + 1)],
)
def test_a_range_beyond_a_pin_is_refused(
    driver: EduDriver,
    device_bti: pf.Bti,
    size: int,
    source_offset: int,
    destination_offset: int,
) -> None:
    with (
        pf.Vmo(2 * P) as memory,
        device_bti.pin(memory, perms=READ | WRITE) as pmt,
        pytest.raises(OutOfRange),
    ):
        driver.transfer(
            pmt, pmt, size, source_offset=source_offset, destination_offset=destination_offset
        )
    assert driver.statistics().transfers == 0


def test_copies_take_pins_and_addresses(driver: EduDriver, device_bti: pf.Bti) -> None:
    with pf.Vmo(2 * P) as memory, device_bti.pin(memory, perms=READ | WRITE) as pmt:
        memory.write(b"data", P + 5)
        driver.copy_to_device(pmt, 4, offset=P + 5, at=9)
        driver.copy_from_device(int(pmt.addrs[0]), 4, offset=3, at=9)
        driver.copy_from_device(pmt, 2, offset=P - 1, at=10)  # across the border of two pages
        assert memory.read(3, 4) == b"data"
        assert memory.read(P - 1, 2) == b"at"


# Addresses the device does not keep -------------------------------------------------------------


def test_an_address_beyond_28_bits_is_refused_before_anything_moves(process: pf.Process) -> None:
    """The device drops the upper bits without a word: the write would go to somebody else."""
    del process
    high = 1 << 32
    with (
        pf.open_bus("sim", aperture=(high, 1 << 40)) as iommu,
        iommu.initiator(0x10) as bti,
        pf.Vmo(2 * P) as memory,
        bti.pin(memory, perms=READ | WRITE) as pmt,
    ):
        edu = Edu(bti.master(), dma_mask=(1 << 40) - 1)
        with EduDriver(edu, bti) as driver:
            with pytest.raises(OutOfReach) as caught:
                driver.transfer(pmt, pmt, P, destination_offset=P)
            assert caught.value.extent == pf.Extent(pmt.extents[0].address, 0, P)
            with pytest.raises(OutOfReach):
                driver.copy_from_device(int(pmt.addrs[0]), 1)
            with pytest.raises(OutOfReach):
                driver.store(b"x")
            assert edu.statistics().transfers == 0
        # Told that this device keeps 40 bits, it is used.
        with EduDriver(edu, bti, address_bits=40) as driver:
            memory.write(b"far")
            driver.transfer(pmt, pmt, 3, destination_offset=P)
            assert memory.read(P, 3) == b"far"
        assert len(iommu.faults) == 0


@pytest.mark.parametrize("far_side", ["source", "destination"])
def test_either_side_out_of_reach_is_named(process: pf.Process, far_side: str) -> None:
    """On `stub` an address is physical: memory beyond the first 256 MiB is out of reach."""
    del process
    with (
        pf.open_bus("stub") as iommu,
        iommu.initiator(0x10) as bti,
        pf.Vmo(P) as near_memory,
        bti.pin(near_memory, perms=READ | WRITE) as near,
        pf.Vmo.contiguous(bti, P, alignment=1 << 28) as far_memory,
        bti.pin(far_memory, perms=READ | WRITE) as far,
        EduDriver(Edu(bti.master()), bti) as driver,
    ):
        with pytest.raises(OutOfReach) as caught:
            driver.transfer(*((far, near) if far_side == "source" else (near, far)), 16)
        assert caught.value.extent == pf.Extent(far.extents[0].address, 0, 16)
        assert caught.value.limit == 1 << 28
        with pytest.raises(OutOfReach):
            driver.copy_to_device(far, 16, offset=32)
        assert driver.statistics().transfers == 0


# What the bus stops -----------------------------------------------------------------------------


def test_a_stopped_transfer_leaves_memory_alone_and_a_record(sim: pf.Iommu) -> None:
    """The device is not told, so neither is the driver; the bus's log has it."""
    with sim.initiator(0x10, address_bits=28) as bti, pf.Vmo(2 * P, name="mine") as memory:
        memory.write(b"mine" * (P // 2))
        before = memory.read()
        with EduDriver(Edu(bti.master()), bti) as driver, bti.pin(memory, perms=READ) as pmt:
            driver.store(b"stray")
            driver.copy_from_device(pmt, 5, offset=P)
            assert memory.read() == before
            [fault] = sim.faults
            assert fault.reason is pf.FaultReason.NOT_PERMITTED
            assert (fault.initiator, fault.address, fault.size) == (0x10, pmt.addrs[1], 5)
            assert fault.nearest is not None
            assert "mine" in fault.nearest.what


# Devices that do not answer in time -------------------------------------------------------------


def test_a_job_that_does_not_end_raises_after_the_polls(device_bti: pf.Bti) -> None:
    waits: list[int] = []
    edu = Edu(device_bti.master(), latency=NEVER)
    driver = EduDriver(edu, device_bti, polls=5, wait=lambda: waits.append(1))
    with pytest.raises(DeviceTimeout, match="the factorial of 4: not done after 5 polls"):
        driver.factorial(4)
    assert len(waits) == 4
    driver.close()


def test_a_page_the_device_may_still_use_goes_to_quarantine(device_bti: pf.Bti) -> None:
    """Idle, THEN unpin. What never goes idle keeps its page until the device is reset."""
    edu = Edu(device_bti.master(), latency=NEVER)
    driver = EduDriver(edu, device_bti, polls=5)
    with pytest.raises(DeviceTimeout, match="a transfer of 4 bytes"):
        driver.store(b"data")
    with pytest.raises(DeviceTimeout, match="becoming quiet"):
        driver.close()
    driver.close()  # twice is once
    assert device_bti.statistics().quarantined == 1
    edu.reset()
    assert device_bti.release_quarantine() == 1
    assert device_bti.statistics().pins == 0


def test_the_block_raises_its_own_timeout(device_bti: pf.Bti) -> None:
    edu = Edu(device_bti.master(), latency=NEVER)
    with (
        pytest.raises(DeviceTimeout, match="a transfer of 4 bytes"),
        EduDriver(edu, device_bti, polls=5) as driver,
    ):
        driver.store(b"data")
    assert device_bti.release_quarantine() == 1


def test_close_waits_for_a_transfer_that_is_late(device_bti: pf.Bti) -> None:
    """A driver gave up at 5 polls; the device is done at 8; close() looks again and unpins."""
    edu = Edu(device_bti.master(), latency=8)
    driver = EduDriver(edu, device_bti, polls=5)
    with pytest.raises(DeviceTimeout):
        driver.store(b"data")
    driver.close()
    assert edu.contents()[:4] == b"data"
    assert device_bti.statistics().pins == 0
    assert device_bti.statistics().quarantined == 0


class Split(Edu):
    """An edu behind a host that makes two accesses of a wide one, as some kernels do."""

    def write64(self, offset: int, value: int) -> None:
        self.write32(offset, value & 0xFFFFFFFF)
        self.write32(offset + 4, value >> 32)


def test_addresses_of_32_bits_take_four_byte_accesses(device_bti: pf.Bti) -> None:
    """A wide write that a host splits would leave its second half at no register."""
    edu = Split(device_bti.master())
    with EduDriver(edu, device_bti) as driver:
        driver.store(b"data")
        assert driver.load(4) == b"data"
    assert edu.statistics().ignored == edu.statistics().refused == 0


def test_a_device_that_is_gone_is_no_timeout(device_bti: pf.Bti) -> None:
    registers = Unplugged(Edu(device_bti.master()))
    driver = EduDriver(registers, device_bti)
    driver.store(b"data")
    registers.edu = None
    with pytest.raises(DeviceFailed, match="all ones"):
        driver.factorial(3)
    with pytest.raises(DeviceFailed):
        driver.close()
    assert device_bti.release_quarantine() == 1


def test_a_closed_driver_moves_nothing(edu: Edu, device_bti: pf.Bti) -> None:
    driver = EduDriver(edu, device_bti)
    driver.store(b"data")
    driver.close()
    with pytest.raises(BadState):
        driver.store(b"data")
    with pytest.raises(BadState):
        driver.copy_to_device(0x1000000, 4)
    assert edu.statistics().transfers == 1
