"""Two threads at one device: its interrupts, its descriptor, and its end.

A host call is where one of the two is held: the seam that every call passes runs the other there.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.buses.vfio.interrupts import InterruptKind
from pinfold.errors import BadState, HostError, InvalidArgs
from pinfold.host import calls
from pinfold.testing.faults import FailNth
from tests.vfio.real import BOTH, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = pf.PAGE_SIZE
COMMAND = 0x04
SCRATCH = 0x3C
"""The interrupt line, in which nothing but software looks."""
EDU_RAISE = 0x60

pytestmark = pytest.mark.vfio("edu1")


@pytest.fixture
def at() -> Iterator[Callable[[str, Callable[[], None]], None]]:
    """Have a function called as the first host call of a name is about to be made."""

    def arrange(name: str, act: Callable[[], None]) -> None:
        acts = [act]

        def see(called: str) -> None:
            if called == name and acts:
                acts.pop()()

        calls.set_interceptor(see)

    yield arrange
    calls.set_interceptor(None)


class Beside:
    """A call in another thread: what it gave or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # looked at by the test
            self.error = error

    def ended(self, seconds: float) -> bool:
        """Whether it has; waits so long for it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


# Interrupts --------------------------------------------------------------------------------------


def test_enabling_while_others_are_disabled_is_not_undone(
    process: pf.Process, vfio_edu64: str, at: Callable[[str, Callable[[], None]], None]
) -> None:
    """Whoever enables between the two halves of a disable would hear nothing, and not know."""
    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts
        first = interrupts.enable(InterruptKind.MSI)
        others: list[Beside] = []

        def enable() -> None:
            others.append(Beside(lambda: interrupts.enable(InterruptKind.MSI)))
            others[0].ended(1)  # it has time, where nothing keeps it

        at("vfio_device_set_irqs", enable)
        first.disable()
        calls.set_interceptor(None)
        (other,) = others
        assert other.ended(30)
        assert other.error is None
        found.device.bar(0).write32(EDU_RAISE, 1)
        assert other.result.wait(10) == 1


def test_disabling_that_is_refused_can_be_tried_again(process: pf.Process, vfio_edu64: str) -> None:
    """Until then they are enabled; broken off after the kernel had done it, they are not."""
    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts.enable(InterruptKind.MSI)
        with FailNth(1, 5), pytest.raises(HostError):
            interrupts.disable()
        interrupts.trigger()
        assert interrupts.wait(10) == 1
        with pytest.raises(BadState, match="one kind"):
            found.device.interrupts.enable(InterruptKind.INTX)
        interrupts.disable()
        found.device.interrupts.enable(InterruptKind.MSI).disable()


def test_disabling_that_is_broken_off_can_be_tried_again(
    process: pf.Process, vfio_edu64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C right after the kernel has done it, which says EINVAL the second time."""
    from pinfold.host import vfio

    real = vfio.set_irqs

    def interrupted(*request: Any) -> None:
        real(*request)
        raise KeyboardInterrupt

    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts.enable(InterruptKind.MSI)
        with monkeypatch.context() as patched:
            patched.setattr(vfio, "set_irqs", interrupted)
            with pytest.raises(KeyboardInterrupt):
                interrupts.disable()
        interrupts.disable()
        found.device.interrupts.enable(InterruptKind.INTX).disable()


def test_who_waits_is_told_of_the_end(
    process: pf.Process, vfio_edu64: str, at: Callable[[str, Callable[[], None]], None]
) -> None:
    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts.enable(InterruptKind.MSI)
        waits = threading.Event()
        at("poll", waits.set)
        waiter = Beside(interrupts.wait)
        assert waits.wait(30)
        interrupts.disable()
        assert waiter.ended(30)
        assert isinstance(waiter.error, BadState)


def test_who_waits_reads_nobody_elses_file(
    process: pf.Process, vfio_edu64: str, at: Callable[[str, Callable[[], None]], None]
) -> None:
    """Disabled between the look and the read; the number would be a pipe's by then."""
    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts.enable(InterruptKind.MSI)
        interrupts.trigger()
        fd = interrupts.fileno()
        open_then: list[bool] = []

        def disable() -> None:
            interrupts.disable()
            open_then.append(os.path.exists(f"/proc/self/fd/{fd}"))

        at("read", disable)
        interrupts.wait(10)
        assert open_then == [True]
        assert not os.path.exists(f"/proc/self/fd/{fd}")  # the last who waited has closed it


def test_a_kind_that_is_a_number(process: pf.Process, vfio_edu64: str) -> None:
    with opened(vfio_edu64) as found:
        enable: Callable[[Any], Any] = found.device.interrupts.enable
        with enable(1) as interrupts:
            assert interrupts.kind is InterruptKind.MSI
        for wrong in (9, "MSI", None):
            with pytest.raises(InvalidArgs, match="kind of interrupt"):
                enable(wrong)


# The descriptor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vfio_write_region", "vfio_read_region"])
def test_an_access_ends_before_the_descriptor_does(
    process: pf.Process, vfio_edu64: str, at: Callable[[str, Callable[[], None]], None], name: str
) -> None:
    """Or the number would be another file's, which is written to."""
    with opened(vfio_edu64) as found:
        config = found.device.config
        config.write8(SCRATCH, 1)
        closing: list[Beside] = []

        def close() -> None:
            closing.append(Beside(found.bus.close))
            assert not closing[0].ended(1)

        at(name, close)
        if name == "vfio_write_region":
            config.write8(SCRATCH, 2)
        else:
            assert config.read8(SCRATCH) == 1
        calls.set_interceptor(None)
        assert closing[0].ended(30)
        assert closing[0].error is None
        with pytest.raises(BadState):
            config.read8(SCRATCH)


def test_registers_are_not_taken_from_under_their_users(
    process: pf.Process, vfio_edu64: str
) -> None:
    """A load while the device does not answer to memory accesses is a SIGBUS."""
    with opened(vfio_edu64) as found:
        config = found.device.config
        command = config.read16(COMMAND)
        config.write16(COMMAND, command & ~2)  # nothing is mapped yet
        config.write16(COMMAND, command)
        bar = found.device.bar(0)
        for write in (config.write8, config.write16, config.write32):
            with pytest.raises(BadState, match="mapped registers"):
                write(COMMAND, command & 0xFD)
        config.write16(COMMAND, command)
        assert bar.read32(0) & 0xFFFF == 0x00ED


# Mastering ---------------------------------------------------------------------------------------


def test_the_last_to_leave_stops_a_device_that_nobody_has_stopped(
    process: pf.Process, vfio_edu64: str
) -> None:
    """An attach that failed later leaves the bus, and says no more."""
    with pf.open_bus(f"vfio:{vfio_edu64}") as iommu:
        bus: Any = iommu.bus
        space = bus.attach(bus.requester)
        assert bus.device.config.master
        space.close()
        assert not bus.device.config.master
        with iommu.initiator(bus.requester):
            bus.attach(bus.requester).close()
            assert bus.device.config.master  # the other drives it
        assert not bus.device.config.master


def test_an_attach_that_is_refused_leaves_no_device_that_masters(
    process: pf.Process, vfio_edu64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off right after the kernel had let it."""
    from pinfold.host import vfio

    real = vfio.write_region

    def interrupted(*request: Any) -> int:
        real(*request)
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pf.open_bus(f"vfio:{vfio_edu64}") as iommu:
        bus: Any = iommu.bus
        monkeypatch.setattr(vfio, "write_region", interrupted)
        with pytest.raises(KeyboardInterrupt):
            iommu.initiator(bus.requester)
        assert not bus.device.config.master
        with iommu.initiator(bus.requester, address_bits=40):  # nobody was attached
            assert bus.device.config.master


# Unmapping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", [KeyboardInterrupt, TimeoutError])
def test_an_unpin_that_is_broken_off_can_be_finished(
    process: pf.Process,
    vfio_edu64: str,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[BaseException],
) -> None:
    """After the kernel had unmapped it: there is nothing to unmap the second time."""
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        container: Any = found.bus.container
        real = type(container).unmap

        def interrupted(*args: Any, **options: Any) -> None:
            real(container, *args, **options)
            raise raised

        pmt = found.bti.pin(vmo, perms=BOTH)
        with monkeypatch.context() as patched:
            patched.setattr(container, "unmap", interrupted)
            with pytest.raises(raised):
                pmt.unpin()
        assert found.bti.statistics().quarantined == 1
        assert found.bti.release_quarantine() == 1
        assert found.bus.statistics().grants == 0
        found.bti.pin(vmo, perms=BOTH).unpin()
