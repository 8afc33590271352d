"""The NVMe driver when its controller fails, falls silent or goes away, and at the end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.nvme import Nvme
from pinfold.drivers.mmio import DeviceFailed, DeviceTimeout
from pinfold.drivers.nvme import CommandFailed
from pinfold.errors import InvalidArgs
from tests.drivers.nvme_stages import (
    ACQ,
    ASQ,
    BLOCK,
    CC,
    CSTS,
    DOORBELLS,
    ENABLE,
    FATAL,
    NOTIFY,
    READY,
    REQUESTER,
    SHUT_DOWN,
    Bad,
    Stage,
    Switched,
    Watched,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.drivers.mmio import Mmio

P = pf.PAGE_SIZE
BLOCKS = 4096


@pytest.fixture
def medium() -> Bad:
    return Bad(BLOCKS * BLOCK)


@pytest.fixture
def stage(any_bus: pf.Iommu, medium: Bad) -> Iterator[Stage]:
    """A controller whose commands are done as they come."""
    with any_bus.initiator(REQUESTER) as bti:
        yield Stage(any_bus.name, any_bus, bti, Nvme(bti.master(), medium))


class Orderly(Watched):
    """Notes the status that the driver has last seen each time that it clears EN."""

    def __init__(self, registers: Mmio) -> None:
        super().__init__(registers, reading=self.seen, writing=self.configured)
        self.stopped: list[int] = []
        self._status = self._enabled = 0

    def seen(self, offset: int, value: int) -> int:
        if offset == CSTS:
            self._status = value
        elif offset == CC:
            self._enabled = value & ENABLE
        return value

    def configured(self, offset: int, value: int) -> None:
        if offset == CC:
            if self._enabled and not value & ENABLE:
                self.stopped.append(self._status)
            self._enabled = value & ENABLE


# Starting ----------------------------------------------------------------------------------------


def test_a_controller_that_never_becomes_ready(stage: Stage) -> None:
    """It may not be told to stop either, so it keeps its queues until it is reset.

    Source: section 3.1.5: clearing EN while RDY is clear has undefined results.
    """
    seen: list[tuple[int, int]] = []

    def writing(offset: int, value: int) -> None:
        if offset == CC:
            seen.append((value & ENABLE, stage.bti.statistics().pins))

    registers = Watched(
        stage.registers,
        reading=lambda offset, value: value & ~READY if offset == CSTS else value,
        writing=writing,
    )
    with pytest.raises(DeviceTimeout, match="before which the controller cannot") as caught:
        stage.driver(registers, polls=5)
    assert "asks 0.5 s at most: not done after 5 polls" in str(caught.value.__context__)
    assert seen == [(0, 1), (1, 1)]
    found = stage.bti.statistics()
    assert (found.pins, found.quarantined) == (1, 1)
    assert isinstance(stage.registers, Nvme)
    stage.registers.reset()
    assert stage.bti.release_quarantine() == 1
    assert stage.clean


def test_a_controller_that_becomes_ready_too_late(any_bus: pf.Iommu, medium: Bad) -> None:
    """It is stopped once it is ready, not before, and everything is given back."""
    with any_bus.initiator(REQUESTER) as bti:
        stage = Stage(any_bus.name, any_bus, bti, Nvme(bti.master(), medium, latency=9))
        registers = Orderly(stage.registers)
        with pytest.raises(DeviceTimeout, match=r"becoming ready, for which .* after 5 polls"):
            stage.driver(registers, polls=5)
        assert registers.stopped == [READY]
        assert stage.clean
        with stage.driver(registers, polls=50) as driver:
            driver.flush()


def test_a_controller_that_somebody_else_has_begun_to_start(any_bus: pf.Iommu, medium: Bad) -> None:
    """Killed in the middle, say. Its queues are nowhere, so it fails; that ends the wait as well.

    Source: section 9.5: after a fatal status the controller is reset.
    """
    with any_bus.initiator(REQUESTER) as bti:
        stage = Stage(any_bus.name, any_bus, bti, Nvme(bti.master(), medium, latency=9))
        stage.registers.write32(CC, ENABLE)
        registers = Orderly(stage.registers)
        with pytest.raises(DeviceTimeout, match="becoming ready, before which"):
            stage.driver(registers, polls=2)
        assert not registers.stopped
        assert stage.clean
        with stage.driver(registers, polls=50) as driver:
            assert registers.stopped == [FATAL]
            driver.flush()
    assert registers.stopped == [FATAL, READY | SHUT_DOWN]


def test_a_controller_that_does_not_like_its_queues(stage: Stage) -> None:
    """It answers with a fatal status, which is not waited out."""

    class Crooked(Watched):
        def write32(self, offset: int, value: int) -> None:
            super().write32(offset, value | 8 if offset == ASQ else value)

    with pytest.raises(DeviceFailed, match="fatal status"):
        stage.driver(Crooked(stage.registers))
    assert stage.clean


def test_a_controller_that_cannot_fetch(stage: Stage) -> None:
    """Its admin queue is where nothing is granted."""

    class Astray(Watched):
        def write32(self, offset: int, value: int) -> None:
            super().write32(offset, 0x7FFF if offset == ASQ + 4 else value)

    with pytest.raises(DeviceFailed, match="fatal status"):
        stage.driver(Astray(stage.registers))
    assert stage.clean
    assert len(stage.iommu.faults) == 1


def test_an_empty_slot(stage: Stage) -> None:
    with pytest.raises(DeviceFailed, match="all ones"):
        stage.driver(Watched(stage.registers, reading=lambda *_: 0xFFFFFFFF))
    assert stage.clean


def test_the_errors_of_starting_are_the_commands(stage: Stage) -> None:
    """A controller that is a little different from what it says."""

    class Misfit(Watched):
        def write32(self, offset: int, value: int) -> None:
            super().write32(offset, value & ~(0xF << 20) if offset == CC else value)

    with pytest.raises(CommandFailed, match="create I/O completion queue: invalid field"):
        stage.driver(Misfit(stage.registers))
    assert stage.clean


# While it runs -----------------------------------------------------------------------------------


def test_a_fatal_status_ends_the_wait(stage: Stage) -> None:
    """And shutdown is not asked of it: it could not answer."""
    registers = Switched(stage)
    with stage.pinned(P) as (_, pmt):
        driver = stage.driver(registers)
        registers.held = registers.fatal = True
        with pytest.raises(DeviceFailed, match="fatal status"):
            driver.read(pmt, 0, 1)
        driver.close()
    assert stage.clean


def test_a_read_that_is_late(stage: Stage) -> None:
    """The next use of the driver's own memory waits for it, and what is reaped is not."""
    registers = Switched(stage)
    driver = stage.driver(registers, polls=20)
    driver.store(0, b"late" * (BLOCK // 4))
    driver.store(1, b"next" * (BLOCK // 4))
    registers.held = True
    with pytest.raises(DeviceTimeout, match="a read: not done after 20 polls"):
        driver.load(0, 1)
    assert driver.statistics().outstanding == 1
    with pytest.raises(DeviceTimeout, match="an earlier transfer"):
        driver.load(1, 1)
    registers.release()
    assert driver.load(1, 1) == b"next" * (BLOCK // 4)
    assert driver.reap() == []
    with pytest.raises(InvalidArgs):
        driver.reap(1)
    assert driver.statistics().outstanding == 0
    driver.close()


def test_a_late_read_into_other_memory_is_not_waited_for(stage: Stage) -> None:
    """It does not reach the driver's own; and the next doorbell rings for both."""
    registers = Switched(stage)
    with stage.driver(registers, polls=20) as driver, stage.pinned(P) as (_, pmt):
        driver.store(0, b"late" * (BLOCK // 4))
        registers.held = True
        with pytest.raises(DeviceTimeout, match="a read: not done"):
            driver.read(pmt, 0, 1)
        registers.held = False
        assert driver.load(0, 1) == b"late" * (BLOCK // 4)
        assert driver.reap() == []
        assert driver.statistics().outstanding == 0


def test_completions_that_are_late_are_not_lost(stage: Stage) -> None:
    registers = Switched(stage)
    with stage.driver(registers, polls=5) as driver, stage.pinned(P) as (_, pmt):
        first = driver.submit_read(pmt, 0, 1)
        registers.held = True
        second = driver.submit_read(pmt, 1, 1)
        with pytest.raises(DeviceTimeout, match="2 completions"):
            driver.reap(2)
        registers.release()
        assert [found.ticket for found in driver.reap(2)] == [first, second]


def test_a_completion_of_nobodys_command(stage: Stage) -> None:
    """Not taken for somebody else's: what the controller means by it is not known."""
    bases: dict[int, int] = {}

    def writing(offset: int, value: int) -> bool:
        bases[offset] = value
        if offset == DOORBELLS:
            address = bases[ACQ + 4] << 32 | bases[ACQ]
            stage.bti.master().write(address, struct.pack("<IIHHHH", 0, 0, 1, 0, 999, 1))
        return offset != DOORBELLS

    with pytest.raises(DeviceFailed, match="command 999 of queue 0, which nobody waits for"):
        stage.driver(Watched(stage.registers, writing=writing))
    assert stage.clean


def test_a_controller_that_goes_away(stage: Stage) -> None:
    """It may come back and go on, so nothing of what it was given is reused."""
    registers = Switched(stage)
    driver = stage.driver(registers)
    registers.gone = True
    with pytest.raises(DeviceFailed, match="all ones"):
        driver.reap()
    with pytest.raises(DeviceFailed, match="all ones"):
        driver.close()
    driver.close()
    assert stage.bti.statistics().quarantined == 1
    assert stage.bti.release_quarantine() == 1


# The end -----------------------------------------------------------------------------------------


def test_close_notifies_disables_and_only_then_unpins(stage: Stage, medium: Bad) -> None:
    """Swapped, the controller could write completions into somebody else's page."""
    steps: list[tuple[str, int, int]] = []

    def reading(offset: int, value: int) -> int:
        if offset == CSTS:
            steps.append(("status", value, stage.bti.statistics().pins))
        return value

    def writing(offset: int, value: int) -> None:
        if offset == CC:
            word = value & (ENABLE | NOTIFY)
            steps.append(("configuration", word, stage.bti.statistics().pins))

    driver = stage.driver(Watched(stage.registers, reading=reading, writing=writing))
    steps.clear()
    driver.close()
    assert steps == [
        ("status", READY, 1),
        ("configuration", ENABLE | NOTIFY, 1),
        ("status", READY | SHUT_DOWN, 1),
        ("status", READY | SHUT_DOWN, 1),
        ("configuration", 0, 1),
        ("status", 0, 1),
    ]
    assert stage.clean
    assert medium.flushes == 1
    driver.close()
    assert len(steps) == 6


def test_a_controller_that_does_not_stop_keeps_its_memory(stage: Stage) -> None:
    registers = Switched(stage)
    driver = stage.driver(registers, polls=5)
    registers.stuck = True
    with pytest.raises(DeviceTimeout, match="stopping the controller"):
        driver.close()
    driver.close()  # twice is once
    found = stage.bti.statistics()
    assert (found.pins, found.quarantined) == (1, 1)
    assert isinstance(stage.registers, Nvme)
    stage.registers.reset()
    assert stage.bti.release_quarantine() == 1
    assert stage.clean


def test_a_shutdown_that_is_not_confirmed(stage: Stage) -> None:
    """It is told, since what was cached may be lost; and everything is given back."""
    registers = Switched(stage)
    driver = stage.driver(registers, polls=5)
    registers.mute = True
    with pytest.raises(DeviceTimeout, match="shutting down"):
        driver.close()
    assert stage.clean


def test_the_block_raises_its_own_timeout(stage: Stage) -> None:
    registers = Switched(stage)
    driver = stage.driver(registers, polls=5)
    registers.held = registers.mute = True
    with pytest.raises(DeviceTimeout, match="a read: not done"), driver:
        driver.load(0, 1)
    assert stage.clean


def test_commands_that_were_dropped_touch_nothing_afterwards(stage: Stage) -> None:
    registers = Switched(stage)
    driver = stage.driver(registers)
    with stage.pinned(P) as (_, pmt):
        registers.held = True
        driver.submit_read(pmt, 0, 1)
        driver.close()
    registers.release()
    for _ in range(10):
        registers.read32(CSTS)
    assert len(stage.iommu.faults) == 0
    assert stage.clean
