"""zx_object_wait_one, which really waits.

Source: zx_object_wait_one; Zircon's kernel for the order of checks, and for what is observed when
the handle is closed.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx

from . import things
from .faulty import Call, Fault, attempts, check
from .things import PAGE, ok

if TYPE_CHECKING:
    from collections.abc import Callable

ZERO_CHILDREN = zx.ZX_VMO_ZERO_CHILDREN

WAIT = Call(
    zx.zx_object_wait_one,
    {
        "handle": things.vmo,
        "signals": lambda: ZERO_CHILDREN,
        "deadline": lambda: zx.ZX_TIME_INFINITE,
        "observed": Out,
    },
    (
        Fault("no handle", "handle", lambda: 0, "BAD_HANDLE"),
        Fault("a closed handle", "handle", things.closed, "BAD_HANDLE"),
        Fault(
            "without WAIT",
            "handle",
            lambda: things.without(zx.ZX_RIGHT_WAIT, things.vmo()),
            "ACCESS_DENIED",
        ),
        Fault("a region", "handle", things.region, "ACCESS_DENIED"),
        Fault("a token", "handle", things.pmt, "ACCESS_DENIED"),
    ),
)


@pytest.mark.parametrize(("call", "faults"), attempts([WAIT]))
@pytest.mark.usefixtures("process")
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...]) -> None:
    """And nothing is observed."""
    check(call, faults)


@pytest.mark.parametrize("fault", WAIT.faults, ids=lambda fault: fault.what)
@pytest.mark.usefixtures("process")
def test_a_handle_is_looked_at_before_the_clock(fault: Fault) -> None:
    """Source: the kernel's order. A deadline that has passed is no excuse."""
    passed = Fault("too late", "deadline", lambda: 0, "TIMED_OUT")
    never = Fault("a signal that it has not", "signals", lambda: 1, "TIMED_OUT")
    found, args = WAIT.attempt(fault, passed, never)
    assert found == f"ZX_ERR_{fault.status}"
    assert args["observed"].value is None


DEADLINES = [zx.ZX_TIME_INFINITE, zx.ZX_TIME_INFINITE_PAST, 0, -1]


@pytest.mark.parametrize("deadline", DEADLINES)
@pytest.mark.usefixtures("process")
def test_what_is_signalled_already_is_not_waited_for(deadline: int) -> None:
    """Source: zx_object_wait_one, "the wait ends immediately"."""
    observed = Out()
    number = things.vmo()
    wanted = ZERO_CHILDREN | zx.ZX_USER_SIGNAL_ALL
    assert zx.zx_object_wait_one(number, wanted, deadline, observed) == zx.ZX_OK
    assert observed.value == ZERO_CHILDREN
    assert zx.zx_object_wait_one(number, wanted, deadline, None) == zx.ZX_OK


@pytest.mark.parametrize("deadline", [zx.ZX_TIME_INFINITE_PAST, -1, 0, 1])
@pytest.mark.parametrize("signals", [zx.ZX_SIGNAL_NONE, zx.ZX_USER_SIGNAL_0])
@pytest.mark.usefixtures("process")
def test_a_deadline_that_has_passed_asks_and_does_not_wait(deadline: int, signals: int) -> None:
    """The state is written all the same. Source: zx_object_wait_one."""
    number, observed = things.vmo(), Out()
    found = zx.zx_object_wait_one(number, signals, deadline, observed)
    assert found == zx.ZX_ERR_TIMED_OUT
    assert observed.value == ZERO_CHILDREN
    assert type(observed.value) is int
    assert zx.zx_object_wait_one(number, signals, deadline, None) == zx.ZX_ERR_TIMED_OUT


@pytest.mark.usefixtures("process")
def test_a_deadline_is_a_time_of_the_monotonic_clock() -> None:
    """It ends neither before it nor for another reason."""
    number = things.vmo()
    deadline = time.monotonic_ns() + 2_000_000
    assert zx.zx_object_wait_one(number, 1, deadline, None) == zx.ZX_ERR_TIMED_OUT
    assert time.monotonic_ns() >= deadline


def waiting(process: pf.Process, number: int, act: Callable[[], int | None]) -> tuple[int, Out]:
    """What a wait for no children gives, if ``act`` happens once it is under way."""
    observed, found = Out(), []

    def wait() -> None:
        with process:
            forever = zx.ZX_TIME_INFINITE
            found.append(zx.zx_object_wait_one(number, ZERO_CHILDREN, forever, observed))

    thread = threading.Thread(target=wait)
    thread.start()
    while not process.kernel.waiters and thread.is_alive():
        thread.join(0.001)
    assert observed.value is None
    act()
    thread.join()
    return found[0], observed


def test_a_wait_lasts_until_the_last_child_is_gone(process: pf.Process) -> None:
    """Source: ZX_VMO_ZERO_CHILDREN."""
    parent = things.vmo()
    children = [ok(zx.zx_vmo_create_child, parent, zx.ZX_VMO_CHILD_SLICE, 0, PAGE) for _ in "ab"]

    def close() -> None:
        assert [zx.zx_handle_close(child) for child in children] == [zx.ZX_OK] * 2

    found, observed = waiting(process, parent, close)
    assert found == zx.ZX_OK
    assert observed.value == ZERO_CHILDREN


@pytest.mark.parametrize("end", ["close", "replace", "exit"])
def test_a_wait_is_cancelled_when_its_handle_is_gone(process: pf.Process, end: str) -> None:
    """Another handle to the object is no help. Source: zx_object_wait_one, CANCELED."""
    other = things.vmo()
    child = ok(zx.zx_vmo_create_child, other, zx.ZX_VMO_CHILD_SLICE, 0, PAGE)
    parent = ok(zx.zx_handle_duplicate, other, zx.ZX_RIGHT_SAME_RIGHTS)
    acts: dict[str, Callable[[], int | None]] = {
        "close": lambda: zx.zx_handle_close(parent),
        "replace": lambda: zx.zx_handle_replace(parent, zx.ZX_RIGHT_WAIT, Out()),
        "exit": process.exit,
    }
    found, observed = waiting(process, parent, acts[end])
    assert found == zx.ZX_ERR_CANCELED
    assert observed.value == zx.ZX_SIGNAL_HANDLE_CLOSED
    if end != "exit":
        assert zx.zx_object_wait_one(other, ZERO_CHILDREN, 0, None) == zx.ZX_ERR_TIMED_OUT
        assert zx.zx_handle_close(child) == zx.ZX_OK


def test_a_signal_that_is_gone_again_was_there(process: pf.Process) -> None:
    """What counts is the moment, not when the thread gets to look. Source: zx_object_wait_one."""
    parent = things.vmo()
    child = ok(zx.zx_vmo_create_child, parent, zx.ZX_VMO_CHILD_SLICE, 0, PAGE)

    def close_and_make_another() -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(1000)  # so that the other thread gets to look late, usually
        try:
            assert zx.zx_handle_close(child) == zx.ZX_OK
            ok(zx.zx_vmo_create_child, parent, zx.ZX_VMO_CHILD_SLICE, 0, PAGE)
        finally:
            sys.setswitchinterval(before)
        assert zx.zx_object_wait_one(parent, ZERO_CHILDREN, 0, None) == zx.ZX_ERR_TIMED_OUT

    found, observed = waiting(process, parent, close_and_make_another)
    assert found == zx.ZX_OK
    assert observed.value == ZERO_CHILDREN


def test_closing_another_handle_disturbs_nobody(process: pf.Process) -> None:
    parent = things.vmo()
    child = ok(zx.zx_vmo_create_child, parent, zx.ZX_VMO_CHILD_SLICE, 0, PAGE)
    other = ok(zx.zx_handle_duplicate, parent, zx.ZX_RIGHT_SAME_RIGHTS)

    def close() -> None:
        assert zx.zx_handle_close(other) == zx.ZX_OK
        assert zx.zx_handle_close(child) == zx.ZX_OK

    found, observed = waiting(process, parent, close)
    assert found == zx.ZX_OK
    assert observed.value == ZERO_CHILDREN
