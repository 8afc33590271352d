"""On a real bus the lock is not held while the bus grants, and a signal handler that pinned
meanwhile went through: the outer pin then registered what the inner one had prepared.

So did what a handler raised: any exception after the kernel had mapped was taken for its refusal,
and the pages were let go with the mapping alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import BadState
from pinfold.host import calls, probe

pytestmark = pytest.mark.usefixtures("process")
PAGE = pf.PAGE_SIZE
READ = pf.Perm.READ


@pytest.fixture
def bti() -> Iterator[pf.Bti]:
    with pf.open_bus("io_uring") as bus, bus.initiator(1) as made:
        yield made


@contextmanager
def at_the_next(name: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something, once, where a signal could come: before the next host call of that name."""

    def look(called: str) -> None:
        if called == name:
            calls.set_interceptor(None)
            act()

    calls.set_interceptor(look)
    try:
        yield
    finally:
        calls.set_interceptor(None)


def test_a_pin_inside_a_grant_is_refused(bti: pf.Bti) -> None:
    """As one under the lock is; the outer one is as if nothing had been."""
    refused: list[str] = []

    def again() -> None:
        with pytest.raises(BadState) as caught:
            bti.pin(other, perms=READ)
        refused.append(str(caught.value.remedy))

    with pf.Vmo(8 * PAGE) as vmo, pf.Vmo(PAGE) as other:
        vmo.write(b"\x01" * vmo.size)
        before = probe.process_memory().pinned
        with at_the_next("io_uring_register", again), bti.pin(vmo, perms=READ) as pmt:
            assert probe.process_memory().pinned == before + vmo.size
            assert bti.master().read(int(pmt.addrs[7]), 1) == b"\x01"
        assert len(refused) == 1
        assert vmo.pin_count() == other.pin_count() == 0


def test_an_unpin_inside_a_grant_is_refused_and_changes_nothing(bti: pf.Bti) -> None:
    """The handle stays open, and the pin stays a pin."""
    with pf.Vmo(PAGE) as vmo, pf.Vmo(PAGE) as other:
        held = bti.pin(other, perms=READ)

        def end() -> None:
            with pytest.raises(BadState):
                held.unpin()

        with at_the_next("io_uring_register", end):
            bti.pin(vmo, perms=READ).unpin()
        assert held.state is pf.PmtState.PINNED
        held.unpin()
        assert other.pin_count() == 0


def test_what_a_handler_raises_is_no_refusal(
    bti: pf.Bti, monkeypatch: pytest.MonkeyPatch, kernel: pf.Kernel
) -> None:
    """It comes when the kernel has registered: the pages stay held, and that is on record."""
    space: Any = bti.object.space
    enter = space._table.enter  # noqa: SLF001 - where the kernel has just registered

    def late(*arguments: Any) -> None:
        enter(*arguments)
        raise TimeoutError

    monkeypatch.setattr(type(space._table), "enter", lambda _, *a: late(*a))  # noqa: SLF001
    with pf.Vmo(PAGE) as vmo:
        with pytest.raises(TimeoutError):
            bti.pin(vmo, perms=READ)
        assert vmo.pin_count() == 1
        with pytest.raises(BadState):
            vmo.decommit(0, PAGE)
    assert len(kernel.leaks) == 1
