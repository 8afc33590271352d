"""The model of QEMU's edu, register by register. Source throughout: docs/specs/edu.rst of QEMU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.edu import BUFFER_SIZE, BUFFER_START, DeviceAbort, Edu
from pinfold.errors import InvalidArgs, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.drivers.mmio import Mmio

P = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE
ONES32 = (1 << 32) - 1
ONES64 = (1 << 64) - 1
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
RUN, TO_RAM, INTERRUPT = 1, 2, 4


@pytest.fixture
def edu(device_bti: pf.Bti) -> Edu:
    return Edu(device_bti.master())


def start(edu: Mmio, source: int, destination: int, count: int, command: int) -> None:
    edu.write64(SOURCE, source)
    edu.write64(DESTINATION, destination)
    edu.write64(COUNT, count)
    edu.write32(COMMAND, command | RUN)


def to_end(edu: Mmio) -> None:
    while edu.read32(COMMAND) & RUN:
        pass


def test_the_model_is_what_a_driver_needs(edu: Edu) -> None:
    """mypy checks the shape; the size is the one of the BAR."""
    registers: Mmio = edu
    assert registers.size == 1 << 20


@pytest.mark.parametrize(
    ("offset", "width", "value"),
    [
        (0x00, 4, 0x010000ED),
        (0x04, 4, 0),
        (0x08, 4, 0),
        (0x20, 4, 0),
        (0x24, 4, 0),
        (0x80, 4, 0),
        (0x80, 8, 0),
        (0x88, 8, 0),
        (0x90, 8, 0),
        (0x98, 4, 0),
        (0x98, 8, 0),
        (0x60, 4, ONES32),  # write-only
        (0x64, 4, ONES32),
        (0x0C, 4, ONES32),  # no register
        (0x84, 4, ONES32),
        (0xA0, 8, ONES64),
        (0xFFFFC, 4, ONES32),
        (0x00, 8, ONES64),  # eight bytes below 0x80
        (0x08, 8, ONES64),
        (0x20, 8, ONES64),
        (0x02, 4, ONES32),  # unaligned
        (0x84, 8, ONES64),
    ],
)
def test_registers_after_power_on(edu: Edu, offset: int, width: int, value: int) -> None:
    """Source: edu_mmio_read: what is no register, or of a wrong width, reads all ones."""
    assert (edu.read32 if width == 4 else edu.read64)(offset) == value


@pytest.mark.parametrize(
    ("offset", "width", "counted"),
    [
        (0x00, 4, "ignored"),
        (0x24, 4, "ignored"),
        (0x0C, 4, "ignored"),
        (0xA0, 8, "ignored"),
        (0x98, 4, "ignored"),  # a command without its start bit
        (0x04, 8, "refused"),
        (0x06, 4, "refused"),
        (0x94, 8, "refused"),
    ],
)
def test_a_write_that_no_register_takes_changes_nothing(
    edu: Edu, offset: int, width: int, counted: str
) -> None:
    """Source: edu_mmio_write."""
    seen = [0x00, 0x04, 0x08, 0x20, 0x24, 0x80, 0x88, 0x90, 0x98]
    before = [edu.read32(register) for register in seen]
    (edu.write32 if width == 4 else edu.write64)(offset, 0xFE)
    assert [edu.read32(register) for register in seen] == before
    assert getattr(edu.statistics(), counted) == 1


@pytest.mark.parametrize("access", ["read32", "read64"])
def test_there_is_no_register_outside_the_bar(edu: Edu, access: str) -> None:
    read: Callable[[int], int] = getattr(edu, access)
    with pytest.raises(OutOfRange) as caught:
        read(edu.size)
    assert caught.value.limit == edu.size
    with pytest.raises(OutOfRange):
        read(-8)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_value_wider_than_its_access_is_refused(edu: Edu, value: int) -> None:
    with pytest.raises(InvalidArgs):
        edu.write32(0x04, value)
    assert edu.read32(0x04) == 0


@pytest.mark.parametrize("pattern", [0, 1, 0x12345678, ONES32])
def test_liveness_reads_the_inverse(edu: Edu, pattern: int) -> None:
    """Source: 0x04, "It is a simple value inversion"."""
    edu.write32(0x04, pattern)
    assert edu.read32(0x04) == ~pattern & ONES32


# Factorial --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 5, 12, 13, 20, 33, 34, 1000, ONES32])
def test_factorial_is_computed_in_32_bits(edu: Edu, number: int) -> None:
    """Source: 0x08. From 34! on, 32 factors of two leave nothing."""
    edu.write32(0x08, number)
    assert edu.read32(0x20) == 0x01
    assert edu.read32(0x20) == 0
    small = min(number, 34)  # any n >= 34 is a multiple of 34!
    assert edu.read32(0x08) == math.factorial(small) % (1 << 32)


@pytest.mark.parametrize("latency", [0, 1, 3])
def test_factorial_takes_as_many_reads_as_the_latency(device_bti: pf.Bti, latency: int) -> None:
    """The register shows the operand till then: a driver that does not poll fails every time."""
    edu = Edu(device_bti.master(), latency=latency)
    edu.write32(0x08, 5)
    assert [edu.read32(0x08) for _ in range(latency)] == [5] * latency
    assert edu.read32(0x08) == 120


def test_a_factorial_under_way_is_not_replaced(device_bti: pf.Bti) -> None:
    """Source: edu_mmio_write, 0x08 is not taken while COMPUTING is set."""
    edu = Edu(device_bti.master(), latency=2)
    edu.write32(0x08, 5)
    edu.write32(0x08, 6)
    assert [edu.read32(0x08) for _ in range(3)] == [5, 5, 120]
    assert edu.statistics().ignored == 1


def test_only_the_interrupt_bit_of_the_status_is_written(edu: Edu) -> None:
    """Source: 0x20, COMPUTING is read-only."""
    edu.write32(0x20, ONES32)
    assert edu.read32(0x20) == 0x80
    edu.write32(0x20, 0)
    assert edu.read32(0x20) == 0


@pytest.mark.parametrize(("status", "raised"), [(0x80, [0x001]), (0, [])])
def test_factorial_interrupts_when_asked(edu: Edu, status: int, raised: list[int]) -> None:
    """Source: 0x20, "raise interrupt after finishing factorial computation"; 0x24."""
    seen: list[int] = []
    edu.on_interrupt(seen.append)
    edu.write32(0x20, status)
    edu.write32(0x08, 3)
    assert seen == []
    edu.read32(0x20)
    assert seen == raised
    assert edu.read32(0x24) == sum(raised)


# Interrupts -------------------------------------------------------------------------------------


def test_interrupts_are_raised_and_acknowledged_bit_by_bit(edu: Edu) -> None:
    """Source: 0x60 is ORed into the status, 0x64 is cleared from it."""
    seen: list[int] = []
    end = edu.on_interrupt(seen.append)
    edu.write32(0x60, 0x5)
    edu.write32(0x60, 0x8)
    edu.write32(0x64, 0x4)
    assert edu.read32(0x24) == 0x9
    assert seen == [0x5, 0xD]
    edu.write32(0x64, 0x9)
    edu.write32(0x60, 0)  # nothing is pending: no interrupt
    end()
    edu.write32(0x60, 1)
    assert seen == [0x5, 0xD]
    assert edu.statistics().interrupts == 3


# DMA --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 2048, BUFFER_SIZE - 1, BUFFER_SIZE])
def test_dma_moves_bytes_both_ways(device_bti: pf.Bti, edu: Edu, size: int) -> None:
    """Source: 0x80 to 0x98; the device's memory is 4096 bytes at 0x40000."""
    data = bytes(i % 251 for i in range(size))
    with pf.Vmo(2 * P) as memory, device_bti.pin(memory, perms=RW) as pmt:
        memory.write(data)
        source, destination = (int(a) for a in pmt.addrs)
        start(edu, source, BUFFER_START, size, 0)
        to_end(edu)
        assert edu.contents()[:size] == data
        start(edu, BUFFER_START, destination, size, TO_RAM)
        to_end(edu)
        assert memory.read(P, size) == data
    found = edu.statistics()
    assert (found.transfers, found.bytes_read, found.bytes_written) == (2, size, size)
    assert (found.stopped, found.truncated) == (0, 0)


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_the_busy_bit_is_set_until_the_bytes_have_moved(device_bti: pf.Bti, latency: int) -> None:
    """Source: 0x98 bit 0, "start transfer"; registers are locked till it clears (dma_rw)."""
    edu = Edu(device_bti.master(), latency=latency)
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=RW) as pmt:
        memory.write(b"data")
        start(edu, int(pmt.addrs[0]), BUFFER_START, 4, 0)
        for _ in range(latency):
            assert edu.contents()[:4] == bytes(4)
            edu.write64(COUNT, 1)
            edu.write64(SOURCE, 0)
            edu.write32(COMMAND, TO_RAM | RUN)
            assert edu.read32(COMMAND) == RUN
        assert edu.read32(COMMAND) == 0
        assert edu.contents()[:4] == b"data"
        assert (edu.read64(COUNT), edu.read64(SOURCE)) == (4, int(pmt.addrs[0]))
    assert edu.statistics().ignored == 3 * latency


@pytest.mark.parametrize(("command", "raised"), [(0, 0), (INTERRUPT, 0x100)])
def test_dma_interrupts_when_asked(device_bti: pf.Bti, edu: Edu, command: int, raised: int) -> None:
    """Source: 0x98 bit 2, "raise interrupt 0x100 after finishing the DMA"."""
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=RW) as pmt:
        start(edu, int(pmt.addrs[0]), BUFFER_START, 4, command)
        to_end(edu)
    assert edu.read32(0x24) == raised


@pytest.mark.parametrize(("bits", "truncated"), [(28, 1), (32, 0)])
def test_ram_addresses_lose_the_bits_beyond_the_mask(
    process: pf.Process, bits: int, truncated: int
) -> None:
    """Source: edu_clamp_addr: 28 bits by default, and nobody is told."""
    del process
    high = 1 << 28
    with (
        pf.open_bus("sim", aperture=(P, 1 << 40)) as iommu,
        iommu.initiator(0x10) as bti,
        pf.Vmo(P) as memory,
        bti.pin(memory, perms=RW) as pmt,
    ):
        memory.write(b"low!")
        edu = Edu(bti.master(), dma_mask=(1 << bits) - 1)
        start(edu, int(pmt.addrs[0]) + high, BUFFER_START, 4, 0)
        to_end(edu)
        assert edu.contents()[:4] == (b"low!" if truncated else bytes(4))
        assert edu.statistics().truncated == truncated
        assert len(iommu.faults) == 1 - truncated


@pytest.mark.parametrize("command", [0, TO_RAM])
@pytest.mark.parametrize(
    ("inside", "count"),
    [
        (BUFFER_START - 1, 1),
        (BUFFER_START, BUFFER_SIZE + 1),
        (BUFFER_START + BUFFER_SIZE, 1),
        (BUFFER_START + 1, BUFFER_SIZE),
        (0, 4),
        (BUFFER_START, ONES64),
    ],
)
def test_a_transfer_outside_the_devices_memory_names_the_registers(
    edu: Edu, any_bus: pf.Iommu, inside: int, count: int, command: int
) -> None:
    """Source: edu_check_range; QEMU 7.2 ends there. Nothing is started."""
    ends = (inside, 0x1000000) if command else (0x1000000, inside)
    with pytest.raises(DeviceAbort, match="device's own memory") as caught:
        start(edu, *ends, count, command)
    name = "DMA source" if command else "DMA destination"
    assert caught.value.registers == {
        name: inside,
        "DMA count": count,
        "DMA command": command | RUN,
    }
    assert edu.read32(COMMAND) == 0
    assert len(any_bus.faults) == 0


@pytest.mark.parametrize("count", [0, BUFFER_SIZE])
def test_the_strict_end_is_the_one_of_qemu_7(device_bti: pf.Bti, count: int) -> None:
    """Seen in QEMU 7.2: no empty transfer, and none up to the very end. Newer ones take both."""
    strict = Edu(device_bti.master(), strict_end=True)
    with pytest.raises(DeviceAbort):
        start(strict, 0x1000000, BUFFER_START, count, 0)
    relaxed = Edu(device_bti.master())
    start(relaxed, 0x1000000, BUFFER_START, count, 0)
    to_end(relaxed)
    assert relaxed.statistics().transfers == 1


def test_reset_forgets_everything_but_the_statistics(device_bti: pf.Bti) -> None:
    edu = Edu(device_bti.master(), latency=5)
    with pf.Vmo(P) as memory, device_bti.pin(memory, perms=RW) as pmt:
        memory.write(b"data")
        edu.write32(0x04, 1)
        edu.write32(0x60, 1)
        edu.write32(0x08, 5)
        start(edu, int(pmt.addrs[0]), BUFFER_START, 4, INTERRUPT)
        edu.reset()
        for register in (0x04, 0x08, 0x20, 0x24, 0x80, 0x88, 0x90, 0x98):
            assert edu.read32(register) == 0
    assert edu.contents() == bytes(BUFFER_SIZE)
    assert (edu.statistics().transfers, edu.statistics().factorials) == (0, 0)
    assert edu.statistics().interrupts == 1


def test_a_negative_latency_is_refused(device_bti: pf.Bti) -> None:
    with pytest.raises(InvalidArgs):
        Edu(device_bti.master(), latency=-1)
