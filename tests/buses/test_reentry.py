"""Finalisers and listeners in awkward places: never a deadlock, never a half-done change."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import BadState, DmaFault
from pinfold.host import mm
from pinfold.objects import bti as pins_of_a_bti
from pinfold.objects import completing

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE


def in_a_cycle(*things: object) -> None:
    """Garbage that only the collector finds."""
    cycle: list[object] = list(things)
    cycle.append(cycle)


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Make the collector run inside a method of an object, once, right after its own work."""

    def arrange(target: Any, name: str) -> None:
        real = getattr(target, name)

        def method(*arguments: Any, **keywords: Any) -> Any:
            monkeypatch.setattr(target, name, real)
            result = real(*arguments, **keywords)
            gc.collect()
            return result

        monkeypatch.setattr(target, name, method)

    return arrange


@pytest.fixture(autouse=True)
def only_when_told() -> Any:
    """The collector runs where the test says."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_view_collected_while_a_window_is_being_made(
    process: pf.Process, collecting: Callable[[Any, str], None]
) -> None:
    """The window's lock is held by this very thread; the view's end waits for it to be let go."""
    with pf.Vmo(PAGE, resizable=True) as vmo:
        in_a_cycle(vmo.view())
        vmo.resize(8 * PAGE)  # the next window is a new one
        collecting(mm, "map_shared")
        vmo.commit()
        assert vmo.statistics().views == 0


def test_a_device_collected_inside_its_own_access(
    sim: pf.Iommu, collecting: Callable[[Any, str], None], kernel: pf.Kernel
) -> None:
    """Its space is left only when the access is over."""
    keeper, other = sim.initiator(1), sim.initiator(1)
    with pf.Vmo(PAGE) as vmo, keeper.pin(vmo, perms=READ) as pmt:
        space: Any = keeper.object.space
        before = space.users
        collecting(type(space), "translate")
        in_a_cycle(other)
        del other
        with pytest.warns(ResourceWarning):
            assert keeper.master().read(int(pmt.addrs[0]), 1) == b"\0"
        assert space.users == before - 1
    keeper.close()


def test_a_listener_may_use_pinfold(sim: pf.Iommu, bti: pf.Bti, vmo: pf.Vmo) -> None:
    """It runs when the access is over, outside every lock: here it unpins, as a driver would."""
    pmt = bti.pin(vmo, perms=READ)
    at, master = int(pmt.addrs[0]), bti.master()
    heard: list[bytes] = []

    def react(fault: pf.Fault) -> None:
        heard.append(master.read(at, 1))
        pmt.unpin()
        assert fault.address == at

    stop = sim.faults.subscribe(react)
    with pytest.raises(DmaFault):
        master.write(at, b"x")
    stop()
    assert heard == [b"\0"]
    assert vmo.pin_count() == 0


def test_a_listener_that_fails_does_not_hide_the_fault(
    any_bus: pf.Iommu, caplog: pytest.LogCaptureFixture
) -> None:
    """The access raises its own error; the listener's is logged."""

    def broken(fault: pf.Fault) -> None:
        raise ValueError(f"no idea what to do with {fault.number}")

    stop = any_bus.faults.subscribe(broken)
    with any_bus.initiator(1) as bti, pytest.raises(DmaFault):
        bti.master().read(0, 1)
    stop()
    assert "no idea what to do with 1" in caplog.text


def test_addresses_may_be_numpy_integers(any_bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """What pmt.addrs holds goes straight to a device, and never wraps."""
    with any_bus.initiator(1) as bti, bti.pin(vmo, perms=READ | WRITE) as pmt:
        master = bti.master()
        master.write(pmt.addrs[1], b"numpy")
        assert master.read(pmt.addrs[1], np.int64(5)) == b"numpy"
        with pytest.raises(DmaFault):
            master.read(np.uint64(2**64 - 1), 2)
        with pytest.raises(TypeError):
            master.read(1.5, 1)  # type: ignore[arg-type]  # the mistake


class Finalised:
    """Garbage with a `__del__` of its user's, which the collector runs wherever it likes."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.itself = self

    def __del__(self) -> None:
        self.act()


def test_a_users_finaliser_may_close_a_handle_inside_a_pin(
    bti: pf.Bti, vmo: pf.Vmo, collecting: Callable[[Any, str], None], kernel: pf.Kernel
) -> None:
    """The kernel's lock is held by this very thread: it is closed right after the pin."""
    other = pf.Vmo(PAGE)
    before = kernel.statistics().objects
    seen: list[bool] = []

    def close() -> None:
        other.close()
        other.close()
        seen.append(other.closed)

    Finalised(close)
    collecting(completing, "granted")
    with bti.pin(vmo, perms=READ) as pmt:
        assert (seen, other.closed) == ([False], True)
        assert bti.master().read(int(pmt.addrs[0]), 1) == b"\0"
    assert kernel.statistics().objects == before - 1


def test_a_users_finaliser_may_do_nothing_else_inside_a_pin(
    bti: pf.Bti, vmo: pf.Vmo, collecting: Callable[[Any, str], None], kernel: pf.Kernel
) -> None:
    """Half of the pin is done: any other call there would meet books that do not add up."""
    held = bti.pin(vmo, perms=READ)
    calls: list[Callable[[], object]] = [
        vmo.read,
        lambda: vmo.write(b"x"),
        vmo.decommit,
        vmo.duplicate,
        vmo.view,
        vmo.statistics,
        held.unpin,
        bti.release_quarantine,
        lambda: bti.pin(vmo, perms=READ),
        lambda: pf.Vmo(PAGE),
        kernel.statistics,
    ]
    refused: list[str] = []

    def try_all() -> None:
        for call in calls:
            try:
                call()
            except BadState as error:
                refused.append(str(error.remedy))

    Finalised(try_all)
    collecting(pins_of_a_bti, "granted")
    bti.pin(vmo, perms=READ).unpin()
    assert len(refused) == len(calls)
    assert all("outside" in remedy for remedy in refused)
    assert vmo.pin_count() == 1
    held.unpin()
