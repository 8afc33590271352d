"""Every call that changes a family of memory objects, with every host call failing in turn.

Failing once: no child, no pin, no descriptor and no window is left of the call, the parent says
what it said before, and the same call works afterwards. Failing from then on, so that undoing
fails as well: the books still agree. Source: SQLite's malloc tests.
"""

from __future__ import annotations

import errno
import gc
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import PinfoldError
from pinfold.objects.signals import Signal
from pinfold.objects.vmo import VmoChild
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books
from tests.objects.pages import PAGE, numbered, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

C = VmoChild
R = pf.Right
WHOLE = 4 * PAGE
KEPT = ("mapping left", "descriptor gone")


class Family:
    """A root of four numbered pages and what was made of it, in a kernel of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.kernel = pf.Kernel(seed=4)
        self.process = stack.enter_context(pf.Process(self.kernel, name="family"))
        self.made: list[pf.Vmo] = []
        self.root = self.keep(numbered([1, 0, 3, 4]))
        self.loose = self.keep(numbered([1, 0, 3, 4], resizable=True))

    def keep(self, vmo: pf.Vmo) -> pf.Vmo:
        self.made.append(vmo)
        return vmo

    def standing(self) -> list[Any]:
        """What a call that failed leaves as it was."""
        check_books(self.kernel)
        now = self.kernel.statistics()
        found: list[Any] = [now.objects, now.handles, now.ledger, now.leaks]
        for vmo in self.made:
            if not vmo.closed:
                said = vmo.statistics()
                found.append((said.children, said.size, said.stream_size, said.discards))
                found.append((int(vmo.signals), vmo.rights, said.views, said.pinned))
        return found


@dataclass(frozen=True)
class Case:
    """A call on a family.

    Attributes:
      act: the call; a memory object that it returns is closed in the end.
      check: what must be so after it has succeeded, by itself or by being made again.
      arrange: what has to be there before.
      partial: it may have begun when it fails: then only books and descriptors are compared.
      consumes: it cannot be made again.
    """

    act: Callable[[Family], pf.Vmo | None]
    check: Callable[[Family, pf.Vmo | None], bool]
    arrange: Callable[[Family], object] = lambda family: None
    partial: bool = False
    consumes: bool = False


def _child(kind: C) -> Case:
    size = 0 if kind & C.REFERENCE else WHOLE
    return Case(
        lambda family: (family.loose if kind & C.RESIZABLE else family.root).child(kind, 0, size),
        lambda _, made: made is not None and numbers(made) == [1, 0, 3, 4],
    )


def _reference(family: Family) -> pf.Vmo:
    return family.keep(family.loose.child(C.REFERENCE | C.RESIZABLE))


def _discardable(family: Family) -> pf.Vmo:
    made = family.keep(pf.Vmo(WHOLE, discardable=True))
    made.write(b"x" * WHOLE)
    made.lock_memory()
    made.unlock_memory()
    return made


def _contiguous(family: Family) -> pf.Vmo:
    with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
        return family.keep(pf.Vmo.contiguous(bti, WHOLE))


def _pinned_slice(family: Family) -> None:
    part = family.keep(family.root.child(C.SLICE, 0, PAGE))
    bus = family.stack.enter_context(pf.open_bus("sim", anchor=pf.Anchor.MLOCK))
    bti = family.stack.enter_context(bus.initiator(1))
    family.stack.callback(bti.release_quarantine)
    family.stack.callback(part.close)
    family.stack.enter_context(bti.pin(part, perms=pf.Perm.READ))


def reclaim(family: Family) -> None:
    family.kernel.reclaim()


CASES: dict[str, Case] = {
    **{str(kind.name): _child(kind) for kind in C if kind not in (C.RESIZABLE, C.NO_WRITE)},
    "SNAPSHOT, RESIZABLE": _child(C.SNAPSHOT | C.RESIZABLE),
    "SNAPSHOT, NO_WRITE": _child(C.SNAPSHOT | C.NO_WRITE),
    "REFERENCE, RESIZABLE": _child(C.REFERENCE | C.RESIZABLE),
    "SLICE of contiguous": Case(
        lambda family: family.made[-1].child(C.SLICE, PAGE, PAGE),
        lambda _, made: made is not None and numbers(made) == [0],
        _contiguous,
    ),
    "a slice while another is pinned": Case(
        lambda family: family.root.child(C.SLICE, PAGE, 3 * PAGE),
        lambda _, made: made is not None and numbers(made) == [0, 3, 4],
        _pinned_slice,
    ),
    "transfer": Case(
        lambda family: family.loose.transfer(family.root, size=2 * PAGE, source_offset=2 * PAGE),
        lambda family, _: (
            numbers(family.root) == [1, 0, 0, 0] and numbers(family.loose) == [3, 4, 3, 4]
        ),
        partial=True,
    ),
    "set_stream_size": Case(
        lambda family: family.root.set_stream_size(2 * PAGE + 5),
        lambda family, _: family.root.read(2 * PAGE) == b"\3" * 5 + bytes(2 * PAGE - 5),
        partial=True,
    ),
    "resize of a reference": Case(
        lambda family: family.made[-1].resize(PAGE + 5),
        lambda family, _: family.loose.size == 2 * PAGE and family.loose.stream_size == PAGE + 5,
        _reference,
        partial=True,
    ),
    "resize of a reference, up": Case(
        lambda family: family.made[-1].resize(9 * PAGE),
        lambda family, _: numbers(family.loose) == [1, 0, 3, 4, 0, 0, 0, 0, 0],
        _reference,
    ),
    "zero of a slice": Case(
        lambda family: family.made[-1].zero(0, PAGE + 1),
        lambda family, _: family.root.read(2 * PAGE) == bytes(PAGE + 1) + b"\4" * (PAGE - 1),
        lambda family: family.keep(family.root.child(C.SLICE, 2 * PAGE, 2 * PAGE)),
        partial=True,
    ),
    "Kernel.reclaim": Case(
        reclaim,
        lambda family, _: (
            family.made[-1].statistics().committed == 0
            and family.made[-1].statistics().discards == 1
        ),
        _discardable,
    ),
    "replace_as_executable": Case(
        lambda family: family.made[-1].replace_as_executable(),
        lambda _, made: made is not None and R.EXECUTE in made.rights,
        lambda family: family.keep(family.root.duplicate()),
        consumes=True,
    ),
    "unbounded": Case(
        lambda family: pf.Vmo(5, unbounded=True),
        lambda _, made: made is not None and made.stream_size == 5,
    ),
    "closing a child": Case(
        lambda family: family.made[-1].close(),
        lambda family, _: family.root.signals == Signal.ZERO_CHILDREN,
        lambda family: family.keep(family.root.child(C.SNAPSHOT, 0, WHOLE)),
        partial=True,
        consumes=True,
    ),
}


def play(name: str, plan: HostCalls, *, again: bool) -> list[str]:
    """The call under a plan; what of the host is left after all that was made is closed."""
    case = CASES[name]
    gc.collect()
    start = HostState.now()
    with ExitStack() as stack:
        family = Family(stack)
        case.arrange(family)
        before, ready = family.standing(), HostState.now()
        made, failed = None, False
        try:
            with plan:
                made = case.act(family)
        except PinfoldError:
            failed = True
        check_books(family.kernel)
        if failed and not (case.partial or case.consumes):
            assert family.standing() == before, plan.refused
        if failed and again:
            # The window of a memory object stays with it, for the next call.
            left = ready.difference(HostState.now())
            assert [x for x in left if not x.startswith(KEPT)] == [], plan.refused
            if not case.consumes:
                made = case.act(family)
        if not failed or (again and not case.consumes):
            assert case.check(family, made), plan.refused
        for vmo in (made, *reversed(family.made)):
            if vmo is not None:
                vmo.close()
    check_books(family.kernel)
    assert [m for m in family.kernel.objects() if m is not family.process] == []
    family.process.exit()
    gc.collect()
    return start.difference(HostState.now())


def host_calls(name: str) -> list[str]:
    plan = HostCalls()
    assert play(name, plan, again=True) == []
    return plan.names


def test_what_asks_the_host_for_nothing() -> None:
    """Other names for pages, and rights, are books; every other case has something to refuse."""
    silent = {name for name in CASES if not host_calls(name)}
    books = {name for name in CASES if "SLICE" in name or "REFERENCE" in name or "slice w" in name}
    assert silent == books | {"replace_as_executable"}


@pytest.mark.parametrize("name", CASES)
def test_failing_once_leaves_the_family_as_it_was(name: str) -> None:
    """And the same call works when it is made again."""
    names = host_calls(name)
    for n in range(1, len(names) + 1):
        for code in (errno.ENOMEM, errno.EIO, errno.ENOSPC):
            plan = FailNth(n, code)
            assert play(name, plan, again=True) == [], (name, n, plan.refused)


@pytest.mark.parametrize("name", CASES)
def test_failing_from_then_on_keeps_the_books(name: str) -> None:
    """Undoing fails too; `play` recounts."""
    for n in range(1, len(host_calls(name)) + 1):
        play(name, FailFrom(n), again=False)
