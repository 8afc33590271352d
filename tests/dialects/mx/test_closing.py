"""A bus that refuses to take a pin back: the pages stay held, whoever lets go of what.

Source: ADR 1; mx_bti_unpin, and Magenta's BTI, whose pins end with its last handle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import mx, zx
from pinfold.dialects.calling import face
from pinfold.errors import HostError, Unavailable
from pinfold.objects.pmt import PmtState

from . import things
from .things import PAGE, attempt, counts, decommit, fine, named, pin, unpin

if TYPE_CHECKING:
    from collections.abc import Callable

    import pinfold as pf


class Refusing:
    """A bus's `revoke` that refuses while it is told to."""

    def __init__(self, bti: int) -> None:
        target: Any = face(bti).object
        self.revoke: Callable[[Any], None] = target.space.revoke
        self.times = 0
        target.space.revoke = self

    def __call__(self, grant: Any) -> None:
        if self.times:
            self.times -= 1
            raise HostError("revoke", OSError(5, "the bus does not answer"))
        self.revoke(grant)


def test_the_same_unpin_tries_again(process: pf.Process) -> None:
    """Until then the BTI makes no pins, and Zircon's release of quarantine tries as well."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    refusing = Refusing(bti)
    for by_zircon in (False, True):
        addrs = pin(bti, vmo)
        refusing.times = 1
        assert unpin(bti, addrs) == "IO"
        assert counts(vmo, 2) == [1, 0]
        assert attempt(bti, vmo, PAGE)[0] == "BAD_STATE"
        assert decommit(vmo) == "BAD_STATE"
        assert (_released(process, bti) if by_zircon else unpin(bti, addrs)) == "OK"
        assert counts(vmo, 2) == [0, 0]
        assert unpin(bti, addrs) == "INVALID_ARGS"


def _released(process: pf.Process, bti: int) -> str:
    process.handles[bti].rights |= zx.ZX_RIGHT_WRITE
    return named(zx.zx_bti_release_quarantine(bti))


@pytest.mark.parametrize("stuck_before", [False, True])
def test_closing_the_device_ends_the_others(process: pf.Process, stuck_before: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """One pin cannot be taken back: its pages are a leak on record, and the handle is closed."""
    bti, vmo = things.bti(), things.vmo(3 * PAGE)
    first = pin(bti, vmo)
    for page in (1, 2):
        pin(bti, vmo, page * PAGE)
    target: Any = face(bti).object
    token = next(iter(target.pins.values()))
    refusing = Refusing(bti)
    if stuck_before:
        refusing.times = 1
        assert unpin(bti, first) == "IO"
    refusing.times = 1
    assert named(mx.mx_handle_close(bti)) == "IO"
    assert counts(vmo, 3) == [1, 0, 0]
    assert (token.state, len(process.kernel.leaks)) == (PmtState.STUCK, 1)
    assert named(mx.mx_handle_close(bti)) == "BAD_HANDLE"
    refusing.revoke(token.grant)  # so that the process can end
    target.withdraw(token)
    process.kernel.leaks.clear()


def test_closing_inside_an_access_is_finished_later(process: pf.Process) -> None:
    """A finaliser that closes the last handle in the middle of an access of its own thread."""
    bti, vmo = things.bti("sim"), things.vmo(PAGE)
    pin(bti, vmo)
    target: Any = face(bti).object
    with target.space.lock:  # as an access does
        with pytest.raises(Unavailable):
            target.space.revoke(next(iter(target.pins.values())).grant)
        fine(mx.mx_handle_close, bti)
        assert counts(vmo, 1) == [1]
    target.space.ended_access()
    assert counts(vmo, 1) == [0]
    assert process.kernel.leaks == []


def test_a_leak_is_on_record_once(process: pf.Process) -> None:
    """One pin is refused, and the next has to wait. In its turn the first is left alone."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    first, second = pin(bti, vmo), pin(bti, vmo, PAGE)
    assert first[0] != second[0]
    target: Any = face(bti).object
    token = next(iter(target.pins.values()))
    revoke, answers = target.space.revoke, [HostError("revoke", OSError(5, "no")), Unavailable("")]

    def answer(grant: Any) -> None:
        if answers:
            raise answers.pop(0)
        revoke(grant)

    target.space.revoke = answer
    fine(mx.mx_handle_close, bti)
    assert counts(vmo, 2) == [1, 0]
    assert len(process.kernel.leaks) == 1
    target.withdraw(token)  # so that the process can end
    process.kernel.leaks.clear()


def test_a_pin_that_cannot_be_handed_over_and_not_be_undone(process: pf.Process) -> None:
    """The addresses are not handed over: nobody can name the pin, and it is held all the same."""
    bti, vmo = things.bti(), things.vmo(PAGE)
    refusing = Refusing(bti)
    refusing.times = 1
    found = mx.mx_bti_pin(bti, vmo, 0, PAGE, things.READ, None, 1, None)
    assert named(found) == "IO"
    assert counts(vmo, 1) == [1]
    assert _released(process, bti) == "OK"
    assert counts(vmo, 1) == [0]
