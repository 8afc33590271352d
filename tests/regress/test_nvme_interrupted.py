"""An exception just after the doorbell left an NVMe command that its driver did not know about.

Ctrl-C raises wherever the program is. The driver noted whom to wait for once the command had been
submitted; so a `load` that was interrupted in between was under way, and nobody waited for it. The
next `store` put its bytes where that read was about to put its own, and the disk got the blocks
that had been read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.devices.nvme import MemoryMedium, Nvme
from pinfold.drivers import nvme
from pinfold.drivers.mmio import DeviceTimeout
from pinfold.drivers.nvme import CommandFailed
from pinfold.errors import BadHandle, InvalidArgs
from pinfold.units import page_up
from tests.drivers.nvme_stages import BLOCK, DOORBELLS, REQUESTER, Bad, Stage, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pinfold.drivers.mmio import Mmio
    from pinfold.drivers.nvme import NvmeDriver

P = pf.PAGE_SIZE
PER_PAGE = P // BLOCK
DRIVER = Path(nvme.__file__).parent
TAIL_OF_1 = DOORBELLS + 2 * 4
OLD, LOADED, NEW = (letter * P for letter in (b"B", b"A", b"C"))


class Interrupted:
    """Registers at whose n-th access from now on Ctrl-C is pressed, before it or after."""

    def __init__(self, registers: Mmio) -> None:
        self._registers = registers
        self.left = 0
        self.before = False
        self.only: int | None = None
        """The offset that counts; None for all."""

    @property
    def size(self) -> int:
        return self._registers.size

    def press(self, at: int, *, before: bool, only: int | None = None) -> None:
        self.left, self.before, self.only = at, before, only

    def _count(self, offset: int) -> bool:
        if not self.left or self.only not in (None, offset):
            return False
        self.left -= 1
        return not self.left

    def read32(self, offset: int) -> int:
        pressed = self._count(offset)
        value = 0 if pressed and self.before else self._registers.read32(offset)
        if pressed:
            raise KeyboardInterrupt
        return value

    def write32(self, offset: int, value: int) -> None:
        pressed = self._count(offset)
        if not (pressed and self.before):
            self._registers.write32(offset, value)
        if pressed:
            raise KeyboardInterrupt

    def read64(self, offset: int) -> int:
        raise AssertionError(f"an access of eight bytes at {offset:#x}")

    def write64(self, offset: int, value: int) -> None:
        raise AssertionError(f"a write of {value:#x} to eight bytes at {offset:#x}")


@pytest.fixture
def medium() -> Bad:
    made = Bad(1 << 20)
    made.write(0, LOADED)
    made.write(P, OLD)
    return made


@pytest.fixture
def stage(any_bus: pf.Iommu, medium: Bad) -> Iterator[Stage]:
    """A controller that takes its time."""
    with any_bus.initiator(REQUESTER) as bti:
        registers = Interrupted(Nvme(bti.master(), medium, latency=3, step=1))
        yield Stage(any_bus.name, any_bus, bti, registers)


@pytest.fixture
def keys(stage: Stage) -> Interrupted:
    assert isinstance(stage.registers, Interrupted)
    return stage.registers


def interrupt_load(driver: NvmeDriver, keys: Interrupted, at: int, *, before: bool) -> bool:
    """False when the load was over before."""
    keys.press(at, before=before)
    try:
        driver.load(0, PER_PAGE)
    except KeyboardInterrupt:
        return True
    finally:
        keys.left = 0
    return False


def test_a_store_after_a_load_that_was_interrupted_at_the_doorbell(
    stage: Stage, keys: Interrupted, medium: MemoryMedium
) -> None:
    """It waits for the read to be over; it wrote what had been read."""
    with stage.driver() as driver:
        keys.press(1, before=False, only=TAIL_OF_1)
        with pytest.raises(KeyboardInterrupt):
            driver.load(0, PER_PAGE)
        assert driver.statistics().outstanding == 1
        driver.store(PER_PAGE, NEW)
        assert medium.read(P, P) == NEW
        assert driver.reap() == []
        with pytest.raises(InvalidArgs):
            driver.reap(1)
    assert stage.clean


@pytest.mark.parametrize("before", [False, True])
def test_wherever_a_load_is_interrupted(stage: Stage, medium: MemoryMedium, before: bool) -> None:  # noqa: FBT001
    """What is stored afterwards is what was asked for, or the store says that it did not happen.

    A command whose doorbell was not rung is one of those: the next doorbell rings for it too.
    """
    keys = stage.registers
    assert isinstance(keys, Interrupted)
    late = at = 0
    while True:
        at += 1
        medium.write(P, OLD)
        with stage.driver(polls=30) as driver:
            if not interrupt_load(driver, keys, at, before=before):
                break
            try:
                driver.store(PER_PAGE, NEW)
            except DeviceTimeout:
                late += 1
                assert medium.read(P, P) == OLD
                driver.flush()
                driver.store(PER_PAGE, NEW)
            assert medium.read(P, P) == NEW
            assert driver.load(0, PER_PAGE) == LOADED
            assert driver.reap() == []
            assert driver.statistics().outstanding == 0
        assert stage.clean
    assert at > 4
    assert late == before


def at_line(number: int, function: Callable[[], object]) -> bool:
    """Call it with Ctrl-C at the n-th line of the driver that it runs; False where it has fewer."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if Path(frame.f_code.co_filename).parent != DRIVER:
            return None
        if event == "line":
            left -= 1
            if not left:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_at_whatever_line_a_load_is_interrupted(stage: Stage, medium: MemoryMedium) -> None:
    """Either no store happens, or the right one; and no record of the load is anybody else's."""
    stores = at = 0
    while True:
        at += 1
        medium.write(P, OLD)
        with stage.driver(polls=10) as driver:
            if not at_line(at, lambda driver=driver: driver.load(0, PER_PAGE)):  # type: ignore[misc]
                break
            try:
                driver.store(PER_PAGE, NEW)
            except DeviceTimeout:
                assert medium.read(P, P) == OLD
            else:
                assert medium.read(P, P) == NEW
                stores += 1
            assert driver.reap() == []
            with pytest.raises(InvalidArgs):
                driver.reap(1)
        assert stage.clean
    assert stores > 0.9 * at > 90


def test_a_submitted_command_outlives_an_interruption(stage: Stage, keys: Interrupted) -> None:
    """Its ticket was never told, so its record has to come back by itself."""
    with stage.driver() as driver, stage.pinned(P) as (memory, pmt):
        keys.press(1, before=False, only=TAIL_OF_1)
        with pytest.raises(KeyboardInterrupt):
            driver.submit_read(pmt, 0, PER_PAGE)
        (found,) = driver.reap(1)
        assert (found.command, found.lba, found.error) == ("read", 0, None)
        assert memory.read() == LOADED


def test_a_transfer_whose_pin_ends_between_two_commands(stage: Stage) -> None:
    """The second had a ticket, and never was: nobody waits for it, and nothing else is amiss."""
    pins: list[pf.Pmt] = []

    def unpin(offset: int, value: int) -> None:
        del value
        if offset == TAIL_OF_1 and pins:
            pins.pop().unpin()

    with stage.driver(Watched(stage.registers, writing=unpin)) as driver:
        blocks = driver.statistics().max_transfer // BLOCK + 1
        with pf.Vmo(page_up(blocks * BLOCK)) as memory:
            pins.append(pmt := stage.bti.pin(memory, perms=pf.Perm.WRITE))
            with pytest.raises(BadHandle):
                driver.read(pmt, 0, blocks)
            assert driver.statistics().outstanding == 1
            assert driver.load(PER_PAGE, PER_PAGE) == OLD
            assert driver.statistics().outstanding == 0
        assert driver.reap() == []
        ticket = driver.submit_flush()
        assert [found.ticket for found in driver.reap(1)] == [ticket]


def test_completions_of_an_interrupted_transfer_are_not_reaped(
    stage: Stage, keys: Interrupted, medium: Bad
) -> None:
    """And its failure is nobody's."""
    medium.lost = range(1)
    with stage.driver() as driver:
        assert interrupt_load(driver, keys, 1, before=False)
        driver.store(PER_PAGE, NEW)
        assert driver.statistics().failures == 1
        assert driver.reap() == []
        with pytest.raises(CommandFailed):
            driver.load(0, PER_PAGE)
        medium.lost = range(0)
