"""The copy engine, register by register. Source throughout: the table in pinfold.devices.copier."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.copier import DESCRIPTOR, LONGEST, Code, Copier
from pinfold.errors import InvalidArgs, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.drivers.mmio import Mmio

P = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE
ONES32 = (1 << 32) - 1
CONTROL, STATUS, CODE, BASE, SIZE, TAIL, HEAD = 0x04, 0x08, 0x0C, 0x10, 0x18, 0x1C, 0x20
ERROR_SLOT, ERROR_ADDRESS, IRQ, MOVED = 0x24, 0x28, 0x30, 0x38
RUN, INTERRUPTS, RESET = 1, 2, 4
RUNNING, BUSY, ERROR = 1, 2, 4
SLOTS = 8


class Rig:
    """An engine with a ring of eight, and four pages of data pinned beside it."""

    def __init__(self, bti: pf.Bti, latency: int = 1, step: int | None = None) -> None:
        self.engine = Copier(bti.master(), latency=latency, step=step)
        self.ring = pf.Vmo(P, name="ring")
        self.data = pf.Vmo(4 * P, name="data")
        self.ring_pin = bti.pin(self.ring, perms=RW)
        self.pin = bti.pin(self.data, perms=RW)
        self.pages = [int(a) for a in self.pin.addrs]

    def start(self, control: int = RUN) -> None:
        self.engine.write32(CONTROL, RESET)
        self.engine.write64(BASE, int(self.ring_pin.addrs[0]))
        self.engine.write32(SIZE, SLOTS)
        self.engine.write32(CONTROL, control)

    def put(self, slot: int, source: int, destination: int, length: int, flags: int = 0) -> None:
        raw = DESCRIPTOR.pack(source, destination, length, flags, 0, 0)
        self.ring.write(raw, slot * DESCRIPTOR.size)

    def status(self, slot: int) -> int:
        word: int = struct.unpack("<I", self.ring.read(slot * DESCRIPTOR.size + 0x18, 4))[0]
        return word

    def idle(self) -> int:
        while (status := self.engine.read32(STATUS)) & BUSY:
            pass
        return status

    def close(self) -> None:
        for pin in (self.pin, self.ring_pin):
            if not pin.closed:
                pin.unpin()
        self.ring.close()
        self.data.close()


@pytest.fixture
def rig(device_bti: pf.Bti) -> Iterator[Rig]:
    made = Rig(device_bti)
    yield made
    made.close()


@pytest.fixture
def sim_rig(sim: pf.Iommu) -> Iterator[Rig]:
    with sim.initiator(0x20) as bti:
        made = Rig(bti)
        yield made
        made.close()


def test_the_model_is_what_a_driver_needs(rig: Rig) -> None:
    registers: Mmio = rig.engine
    assert registers.size == 64


@pytest.mark.parametrize(
    ("offset", "width", "value"),
    [
        (0x00, 4, 0x43504631),
        (CONTROL, 4, 0),
        (STATUS, 4, 0),
        (CODE, 4, 0),
        (BASE, 8, 0),
        (BASE, 4, 0),
        (BASE + 4, 4, 0),
        (SIZE, 4, 0),
        (TAIL, 4, 0),
        (HEAD, 4, 0),
        (ERROR_SLOT, 4, 0),
        (ERROR_ADDRESS, 8, 0),
        (IRQ, 4, 0),
        (0x34, 4, ONES32),
        (MOVED, 8, 0),
        (0x00, 8, (1 << 64) - 1),
        (SIZE, 8, (1 << 64) - 1),
        (0x06, 4, ONES32),
    ],
)
def test_registers_after_power_on(rig: Rig, offset: int, width: int, value: int) -> None:
    assert (rig.engine.read32 if width == 4 else rig.engine.read64)(offset) == value


@pytest.mark.parametrize("offset", [0x00, STATUS, CODE, HEAD, ERROR_SLOT, MOVED])
def test_read_only_registers_stay(rig: Rig, offset: int) -> None:
    before = rig.engine.read32(offset)
    rig.engine.write32(offset, 0x55)
    assert rig.engine.read32(offset) == before
    assert rig.engine.statistics().ignored == 1


def test_a_wide_register_takes_two_halves(rig: Rig) -> None:
    """Some hosts split an access of eight bytes."""
    rig.engine.write32(BASE + 4, 0x12)
    rig.engine.write32(BASE, 0x34567880)
    assert rig.engine.read64(BASE) == 0x12_34567880
    assert rig.engine.read32(BASE + 4) == 0x12
    with pytest.raises(OutOfRange):
        rig.engine.read32(64)


def test_the_ring_is_locked_while_it_runs(rig: Rig) -> None:
    rig.start()
    rig.engine.write64(BASE, 0)
    rig.engine.write32(SIZE, 2)
    assert rig.engine.read32(SIZE) == SLOTS
    assert rig.engine.read64(BASE) == int(rig.ring_pin.addrs[0])
    assert rig.engine.statistics().ignored == 2


def test_descriptors_are_done_in_order_and_written_back(rig: Rig) -> None:
    rig.data.write(b"abcdefgh")
    rig.start()
    a, b, c, _ = rig.pages
    rig.put(0, a, b, 8)
    rig.put(1, b + 2, c + 5, 3)
    rig.engine.write32(TAIL, 2)
    assert rig.engine.read32(STATUS) == RUNNING | BUSY
    assert rig.idle() == RUNNING
    assert rig.data.read(P, 8) == b"abcdefgh"
    assert rig.data.read(2 * P + 5, 3) == b"cde"
    assert [rig.status(slot) for slot in range(3)] == [Code.DONE, Code.DONE, Code.PENDING]
    assert rig.engine.read32(HEAD) == 2
    assert rig.engine.read64(MOVED) == 11
    assert rig.engine.statistics().descriptors == 2


def test_the_ring_wraps(rig: Rig) -> None:
    rig.data.write(b"abc")
    rig.start()
    for round_ in range(3):
        for i in range(5):
            slot = (5 * round_ + i) % SLOTS
            rig.put(slot, rig.pages[0], rig.pages[1] + 3 * i, 3)
        rig.engine.write32(TAIL, 5 * (round_ + 1) % SLOTS)
        assert rig.idle() == RUNNING
        assert rig.data.read(P, 15) == b"abc" * 5
        rig.data.zero(P, P)
    assert rig.engine.read64(MOVED) == 45


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_work_begins_after_the_latency(device_bti: pf.Bti, latency: int) -> None:
    rig = Rig(device_bti, latency=latency)
    rig.data.write(b"x")
    rig.start()
    rig.put(0, rig.pages[0], rig.pages[1], 1)
    rig.engine.write32(TAIL, 1)
    assert [rig.engine.read32(HEAD) for _ in range(latency)] == [0] * latency
    assert rig.engine.read32(HEAD) == 1
    rig.close()


def test_with_a_step_each_read_is_worth_so_many_descriptors(device_bti: pf.Bti) -> None:
    rig = Rig(device_bti, latency=2, step=2)
    rig.start()
    for slot in range(5):
        rig.put(slot, rig.pages[0], rig.pages[1], 1)
    rig.engine.write32(TAIL, 5)
    assert [rig.engine.read32(HEAD) for _ in range(5)] == [0, 0, 2, 4, 5]
    rig.close()


def test_clearing_run_stops_between_descriptors_and_run_goes_on(device_bti: pf.Bti) -> None:
    rig = Rig(device_bti, step=1)
    rig.start()
    for slot in range(3):
        rig.put(slot, rig.pages[0], rig.pages[1], 1)
    rig.engine.write32(TAIL, 3)
    rig.engine.read32(STATUS)
    rig.engine.write32(CONTROL, 0)
    assert rig.engine.read32(STATUS) == 0
    assert [rig.engine.read32(HEAD) for _ in range(3)] == [1, 1, 1]
    rig.engine.write32(CONTROL, RUN)
    assert rig.idle() == RUNNING
    assert rig.engine.read32(HEAD) == 3
    rig.close()


@pytest.mark.parametrize(
    ("length", "flags"), [(0, 0), (LONGEST + 1, 0), (ONES32, 0), (1, 2), (1, ONES32)]
)
def test_a_bad_descriptor_stops_the_engine(rig: Rig, length: int, flags: int) -> None:
    rig.start()
    rig.put(0, rig.pages[0], rig.pages[1], length, flags)
    rig.engine.write32(TAIL, 1)
    assert rig.idle() == ERROR
    assert rig.engine.read32(CODE) == rig.status(0) == Code.BAD_DESCRIPTOR
    assert rig.engine.read32(ERROR_SLOT) == 0


@pytest.mark.parametrize(
    ("base", "size"), [(8, SLOTS), (0, 0), (0, 1), (0, 3), (0, 1 << 17), (0, ONES32)]
)
def test_a_ring_that_cannot_be_one_stops_the_engine(rig: Rig, base: int, size: int) -> None:
    rig.engine.write64(BASE, int(rig.ring_pin.addrs[0]) + base)
    rig.engine.write32(SIZE, size)
    rig.engine.write32(CONTROL, RUN)
    assert rig.engine.read32(STATUS) == ERROR
    assert rig.engine.read32(CODE) == Code.BAD_RING


def test_a_doorbell_beyond_the_ring_stops_the_engine(rig: Rig) -> None:
    rig.start()
    rig.engine.write32(TAIL, SLOTS)
    assert rig.engine.read32(STATUS) == ERROR
    assert rig.engine.read32(CODE) == Code.BAD_DOORBELL
    rig.engine.write32(CONTROL, 0)
    rig.start()
    rig.engine.write32(CONTROL, 0)
    rig.engine.write32(TAIL, SLOTS)  # taken while stopped, found when it starts
    rig.engine.write32(CONTROL, RUN)
    assert rig.engine.read32(CODE) == Code.BAD_DOORBELL


# Interrupts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "heard"), [(RUN, []), (RUN | INTERRUPTS, [1, 3])])
def test_interrupts_of_descriptors_and_of_errors(rig: Rig, control: int, heard: list[int]) -> None:
    seen: list[int] = []
    rig.engine.on_interrupt(seen.append)
    rig.start(control)
    rig.put(0, rig.pages[0], rig.pages[1], 1)
    rig.put(1, rig.pages[0], rig.pages[1], 1, 1)
    rig.put(2, rig.pages[0], rig.pages[1], 0)
    rig.engine.write32(TAIL, 3)
    assert rig.idle() == ERROR
    assert seen == heard
    assert rig.engine.read32(IRQ) == 3
    rig.engine.write32(IRQ, 1)
    assert rig.engine.read32(IRQ) == 2


def test_a_listener_may_reset_the_engine(rig: Rig) -> None:
    """What was prefetched from the old ring is not worked on any more."""
    rig.engine.on_interrupt(lambda _: rig.engine.write32(CONTROL, RESET))
    rig.start(RUN | INTERRUPTS)
    for slot in range(3):
        rig.put(slot, rig.pages[0], rig.pages[1], 1, 1)
    rig.engine.write32(TAIL, 3)
    assert rig.idle() == 0
    assert rig.engine.read32(HEAD) == 0
    assert [rig.status(slot) for slot in range(3)] == [Code.DONE, Code.PENDING, Code.PENDING]


def test_a_listener_may_start_another_ring(device_bti: pf.Bti) -> None:
    """The new ring has come to the very slot that the old one would take next."""
    rig = Rig(device_bti, latency=0)

    def restart(_: int) -> None:
        rig.start()
        rig.put(0, rig.pages[0], rig.pages[2], 1)
        rig.engine.write32(TAIL, 1)

    rig.engine.on_interrupt(restart)
    rig.start(RUN | INTERRUPTS)
    rig.put(0, rig.pages[0], rig.pages[1], 1, 1)
    rig.put(1, rig.pages[0], rig.pages[1], 1)
    rig.engine.write32(TAIL, 2)
    assert rig.engine.read32(HEAD) == 1
    assert [rig.status(slot) for slot in range(2)] == [Code.DONE, Code.PENDING]
    rig.close()


# What the bus stops -----------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "code"), [(0, Code.SOURCE_FAULT), (1, Code.DESTINATION_FAULT)])
def test_the_first_fault_stops_the_engine_and_is_told(
    sim: pf.Iommu, sim_rig: Rig, side: int, code: Code
) -> None:
    stray = 1 << 40
    sim_rig.data.write(b"ab")
    sim_rig.start()
    a, b, c, _ = sim_rig.pages
    ends = [a, b]
    ends[side] = stray
    sim_rig.put(0, a, b, 1)
    sim_rig.put(1, ends[0], ends[1], 1)
    sim_rig.put(2, a, c, 1)
    sim_rig.engine.write32(TAIL, 3)
    assert sim_rig.idle() == ERROR
    assert [sim_rig.status(slot) for slot in range(3)] == [Code.DONE, code, Code.PENDING]
    assert sim_rig.engine.read32(CODE) == code
    assert sim_rig.engine.read32(ERROR_SLOT) == sim_rig.engine.read32(HEAD) == 1
    assert sim_rig.engine.read64(ERROR_ADDRESS) == stray
    assert sim_rig.data.read(2 * P, 1) == b"\0"
    assert [fault.address for fault in sim.faults] == [stray]
    sim_rig.engine.write32(CONTROL, RUN)
    assert sim_rig.engine.read32(STATUS) == ERROR  # only a reset gets it going again
    sim_rig.start()
    assert sim_rig.engine.read32(STATUS) == RUNNING


def test_a_ring_unpinned_too_early_is_a_ring_fault(sim: pf.Iommu, sim_rig: Rig) -> None:
    sim_rig.start()
    sim_rig.put(0, sim_rig.pages[0], sim_rig.pages[1], 1)
    sim_rig.ring_pin.unpin()
    sim_rig.engine.write32(TAIL, 1)
    assert sim_rig.idle() == ERROR
    assert sim_rig.engine.read32(CODE) == Code.RING_FAULT
    assert [fault.reason for fault in sim.faults] == [pf.FaultReason.REVOKED]


def test_a_ring_that_cannot_be_written_is_a_ring_fault(sim: pf.Iommu, sim_rig: Rig) -> None:
    sim_rig.ring_pin.unpin()
    with sim.initiator(0x20) as bti, bti.pin(sim_rig.ring, perms=pf.Perm.READ) as ring_pin:
        sim_rig.engine.write64(BASE, int(ring_pin.addrs[0]))
        sim_rig.engine.write32(SIZE, SLOTS)
        sim_rig.engine.write32(CONTROL, RUN)
        sim_rig.put(0, sim_rig.pages[0], sim_rig.pages[1], 1)
        sim_rig.engine.write32(TAIL, 1)
        assert sim_rig.idle() == ERROR
        assert sim_rig.engine.read32(CODE) == Code.RING_FAULT
        assert sim_rig.engine.read64(ERROR_ADDRESS) == int(ring_pin.addrs[0]) + 0x18
        assert [fault.reason for fault in sim.faults] == [pf.FaultReason.NOT_PERMITTED]
        assert sim_rig.engine.statistics().stopped == 1


@pytest.mark.parametrize(("latency", "step"), [(-1, None), (1, 0), (0, 1)])
def test_impossible_timings_are_refused(device_bti: pf.Bti, latency: int, step: int | None) -> None:
    with pytest.raises(InvalidArgs):
        Copier(device_bti.master(), latency=latency, step=step)
