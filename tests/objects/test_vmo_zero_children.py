"""ZERO_CHILDREN: what keeps a child alive, and who is told when the last one goes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, Canceled, TimedOut
from pinfold.objects.signals import Signal
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books

from .pages import PAGE, RW, SNAPSHOTS, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

C = VmoChild
ZERO = Signal.ZERO_CHILDREN
READ = pf.Perm.READ
PATIENCE = 20
"""Seconds after which a wake-up has been lost. Nobody waits for so long where all is well."""

KINDS = (C.SLICE, C.REFERENCE, *SNAPSHOTS)

pytestmark = pytest.mark.usefixtures("process")


def child(vmo: pf.Vmo, kind: C) -> pf.Vmo:
    return vmo.child(kind, 0, 0 if kind is C.REFERENCE else PAGE)


# What keeps a child -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_signal_is_cleared_by_the_first_child_and_comes_back_with_the_last(
    vmo: pf.Vmo, kind: C
) -> None:
    """Source: ZX_VMO_ZERO_CHILDREN: asserted from the start."""
    assert vmo.signals == ZERO
    first = child(vmo, kind)
    assert vmo.signals == Signal.NONE
    second = child(vmo, C.SNAPSHOT)
    first.close()
    assert vmo.signals == Signal.NONE
    second.close()
    assert vmo.signals == ZERO


def by_a_handle(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del bti, process
    return made.duplicate().close


def by_a_mapping(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del bti
    return process.root.map(made, RW).unmap


def by_a_pin(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del process
    return bti.pin(made, perms=READ).unpin


def by_a_quarantined_pin(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del process
    bti.pin(made, perms=READ).close()
    return bti.release_quarantine


def by_a_view(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del bti, process
    views = [made.view()]
    return views.clear


def by_a_view_of_a_mapping(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del bti
    mapping = process.root.map(made, RW)
    views = [mapping.view()]
    mapping.unmap(force=True)
    return views.clear


def by_a_handle_elsewhere(made: pf.Vmo, bti: pf.Bti, process: pf.Process) -> Callable[[], object]:
    del bti
    other = pf.Process(process.kernel)
    with process.kernel.lock:
        other.add(made.object, int(made.rights))
    return other.exit


HOLDS = (
    by_a_handle,
    by_a_mapping,
    by_a_pin,
    by_a_quarantined_pin,
    by_a_view,
    by_a_view_of_a_mapping,
    by_a_handle_elsewhere,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", HOLDS)
def test_a_child_is_there_while_anything_holds_it(
    vmo: pf.Vmo, bti: pf.Bti, process: pf.Process, kind: C, hold: Callable[..., Any]
) -> None:
    """Source: Zircon: closing the handle of a child whose pages are pinned signals nothing;
    unpinning does."""
    made = child(vmo, kind)
    let_go = hold(made, bti, process)
    made.close()
    assert vmo.signals == Signal.NONE
    assert vmo.statistics().children == 1
    check_books(vmo.kernel)
    let_go()
    assert vmo.signals == ZERO
    assert vmo.statistics().children == 0


def test_a_child_dropped_by_a_bti_that_was_closed_is_lost_for_good(
    sim: pf.Iommu, kernel: pf.Kernel
) -> None:
    """Source: Zircon leaks quarantined pins of a closed BTI: the parent never signals again."""
    vmo, bti = numbered([1]), sim.initiator(7)
    made = child(vmo, C.SNAPSHOT)
    bti.pin(made, perms=READ).close()
    made.close()
    bti.close()
    assert len(kernel.leaks) == 1
    assert vmo.signals == Signal.NONE
    vmo.close()


def test_a_slice_of_a_slice_that_is_pinned_keeps_the_whole_line(vmo: pf.Vmo, bti: pf.Bti) -> None:
    """The inner one is adopted; the root is told when its pin goes."""
    outer = vmo.child(C.SLICE, 0, 2 * PAGE)
    inner = outer.child(C.SLICE, PAGE, PAGE)
    pmt = bti.pin(inner, perms=READ)
    inner.close()
    outer.close()
    assert vmo.signals == Signal.NONE
    assert vmo.statistics().children == 1
    pmt.unpin()
    assert vmo.signals == ZERO


# Waiting ------------------------------------------------------------------------------------------


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Noticing(list[Any]):
    """The kernel's list of waiters, which tells when there is another."""

    def __init__(self, waiters: list[Any], listed: threading.Event) -> None:
        super().__init__(waiters)
        self.listed = listed

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self.listed.set()


def waiting(pool: ThreadPoolExecutor, vmo: pf.Vmo) -> Future[Signal]:
    """A thread that waits for the signal; on return the kernel knows of it."""
    listed = threading.Event()
    kernel: Any = vmo.kernel
    kernel.waiters = Noticing(kernel.waiters, listed)
    found = pool.submit(vmo.wait, ZERO, time.monotonic_ns() + 3 * PATIENCE * 10**9)
    assert listed.wait(PATIENCE)
    return found


@pytest.mark.parametrize("hold", HOLDS)
def test_a_waiter_is_woken_when_the_last_child_goes(
    vmo: pf.Vmo,
    bti: pf.Bti,
    process: pf.Process,
    pool: ThreadPoolExecutor,
    hold: Callable[..., Any],
) -> None:
    """Source: zx_object_wait_one. By whatever ends the child, on another thread."""
    made = child(vmo, C.SNAPSHOT)
    let_go = hold(made, bti, process)
    made.close()
    woken = waiting(pool, vmo)
    assert not woken.done()
    let_go()
    assert woken.result(PATIENCE) == ZERO
    assert vmo.kernel.waiters == []


def test_a_waiter_sleeps_on_while_children_come_and_go(
    vmo: pf.Vmo, pool: ThreadPoolExecutor
) -> None:
    """A middle one that goes hands its children on, and the signal stays clear."""
    middle = child(vmo, C.REFERENCE)
    leaf = child(middle, C.SNAPSHOT)
    woken = waiting(pool, vmo)
    child(vmo, C.SLICE).close()
    middle.close()
    assert not woken.done()
    assert vmo.signals == Signal.NONE
    leaf.close()
    assert woken.result(PATIENCE) == ZERO


def test_closing_the_handle_cancels_its_wait_and_no_other(
    vmo: pf.Vmo, pool: ThreadPoolExecutor
) -> None:
    """Source: zx_object_wait_one, CANCELED; the object goes on."""
    made = child(vmo, C.SLICE)
    other = vmo.duplicate()
    canceled = waiting(pool, other)
    with ThreadPoolExecutor(1) as second:
        woken = waiting(second, vmo)
        other.close()
        with pytest.raises(Canceled) as caught:
            canceled.result(PATIENCE)
        assert caught.value.available == Signal.HANDLE_CLOSED
        assert not woken.done()
        made.close()
        assert woken.result(PATIENCE) == ZERO


def test_a_wait_whose_deadline_has_passed_asks_and_does_not_wait(vmo: pf.Vmo) -> None:
    """Source: zx_object_wait_one, TIMED_OUT with the state."""
    assert vmo.wait(ZERO, time.monotonic_ns()) == ZERO
    with child(vmo, C.SLICE):
        with pytest.raises(TimedOut) as caught:
            vmo.wait(ZERO, 0)
        assert caught.value.available == Signal.NONE
        with vmo.duplicate(pf.Right.READ) as less, pytest.raises(AccessDenied):
            less.wait(ZERO, 0)
    assert vmo.kernel.waiters == []


def test_a_waiter_on_a_child_is_not_told_of_its_parent_s_children(
    vmo: pf.Vmo, pool: ThreadPoolExecutor
) -> None:
    """Each object says it of itself, references too."""
    with child(vmo, C.REFERENCE) as other:
        inner = child(other, C.SNAPSHOT)
        woken = waiting(pool, other)
        child(vmo, C.SLICE).close()
        assert not woken.done()
        inner.close()
        assert woken.result(PATIENCE) == ZERO
        assert vmo.signals == Signal.NONE
