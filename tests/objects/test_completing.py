"""The bus's half of a pin where grants hold the pages: without the kernel's lock.

Source: objects/completing.py and objects/initiator.py. What must hold meanwhile is in the books.
"""

from __future__ import annotations

import gc
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import pytest

import pinfold as pf
from pinfold.errors import (
    AlreadyBound,
    BadHandle,
    BadState,
    HostError,
    InvalidArgs,
    LimitReached,
)
from pinfold.host import probe
from pinfold.objects.magenta import pins
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.usefixtures("process"), pytest.mark.timeout(60)]

PAGE = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE


@pytest.fixture
def bus(process: pf.Process) -> Iterator[pf.Iommu]:
    del process
    with pf.open_bus("io_uring") as made:
        yield made


def pinned() -> int:
    return probe.process_memory().pinned


def once(act: Callable[[], object]) -> Callable[[], None]:
    """The first call does it, and no other."""
    left = [act]

    def call() -> None:
        if left:
            left.pop()()

    return call


class Around:
    """Does something in the middle of the bus's work: around `grant`, or `revoke`, of a space."""

    def __init__(
        self,
        bti: pf.Bti,
        name: str,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        self.space: Any = bti.object.space
        self.name = name
        self.before, self.after = before, after
        self.calls = 0

    def __enter__(self) -> Self:
        real = getattr(self.space, self.name)

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.before is not None:
                self.before()
            found = real(*arguments)
            if self.after is not None:
                self.after()
            return found

        setattr(self.space, self.name, call)
        return self

    def __exit__(self, *_: object) -> None:
        delattr(self.space, self.name)


def elsewhere(act: Callable[[], object]) -> None:
    """Have another thread do it, and wait for it: it would wait for ever for a lock of ours."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("name", ["grant", "revoke"])
def test_the_kernels_lock_is_free_while_the_host_works(
    kernel: pf.Kernel, process: pf.Process, bus: pf.Iommu, vmo: pf.Vmo, name: str
) -> None:
    """Other threads pin, write and look at the books meanwhile; the pages are counted."""
    seen: list[int] = []

    def others() -> None:
        assert not kernel.lock.held_here
        seen.append(vmo.pin_count())
        assert kernel.statistics().ledger.pins == 1
        with pf.Vmo(PAGE, process=process) as more, other.pin(more, perms=RW):
            more.write(b"meanwhile")

    with bus.initiator(1) as bti, bus.initiator(2) as other:
        with Around(bti, name, before=lambda: elsewhere(others)) as around:
            bti.pin(vmo, perms=RW).unpin()
        assert around.calls == 1
    assert seen == [1]


def test_a_page_on_its_way_to_a_grant_is_not_given_back(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """It is counted before the bus is asked, and after it has revoked."""

    def give_back() -> None:
        with pytest.raises(BadState):
            vmo.decommit()

    with bus.initiator(1) as bti:
        for name in ("grant", "revoke"):
            with Around(
                bti, name, before=lambda: elsewhere(give_back), after=lambda: elsewhere(give_back)
            ) as around:
                bti.pin(vmo, perms=RW).unpin()
            assert around.calls == 1
        vmo.decommit()


def test_a_device_closed_while_the_bus_grants_gets_no_token(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """The grant is undone, and the device leaves its bus then, not before."""
    bti = bus.initiator(1)
    statistics = bus.bus.statistics  # type: ignore[attr-defined]
    left: list[int] = []

    def close() -> None:
        bti.close()
        left.append(statistics().devices)

    with (
        Around(bti, "grant", before=lambda: elsewhere(close)),
        pytest.raises(BadState, match="closed"),
    ):
        bti.pin(vmo, perms=RW)
    assert left == [1]
    assert statistics().devices == 0
    assert (pinned(), vmo.pin_count()) == (0, 0)


def test_a_refused_grant_lets_go_and_a_closed_device_leaves(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Both at once."""
    bti = bus.initiator(1)

    def close_and_refuse() -> None:
        elsewhere(bti.close)
        raise LimitReached("no room on purpose")

    with (
        Around(bti, "grant", before=close_and_refuse),
        pytest.raises(LimitReached, match="on purpose"),
    ):
        bti.pin(vmo, perms=RW)
    assert bus.bus.statistics().devices == 0  # type: ignore[attr-defined]
    assert (pinned(), vmo.pin_count()) == (0, 0)


def test_a_quarantine_that_begins_meanwhile_undoes_the_pin(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """No pin is made while one is in quarantine."""
    with bus.initiator(1) as bti:
        doomed = [bti.pin(vmo, perms=RW)]

        def drop() -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                doomed.clear()
                gc.collect()
            assert [warning.category for warning in caught] == [ResourceWarning]

        with (
            Around(bti, "grant", before=lambda: elsewhere(drop)),
            pytest.raises(BadState, match="quarantine"),
        ):
            bti.pin(vmo, 0, PAGE, perms=RW)
        assert (pinned(), vmo.pin_count()) == (0, 1)
        assert bti.release_quarantine() == 1
        assert vmo.pin_count() == 0
        bti.pin(vmo, perms=RW).unpin()


def test_the_memory_object_may_be_closed_meanwhile(kernel: pf.Kernel, bus: pf.Iommu) -> None:
    """A pin keeps its pages, handle or none."""
    for name in ("grant", "revoke"):
        vmo = pf.Vmo(4 * PAGE)
        before = kernel.statistics().objects
        with (
            bus.initiator(1) as bti,
            Around(bti, name, before=partial(elsewhere, vmo.close)) as around,
        ):
            bti.pin(vmo, perms=RW).unpin()
            assert around.calls == 1
        assert kernel.statistics().objects == before - 1
        assert pinned() == 0


def test_a_token_is_unpinned_once(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """While the bus revokes, nobody else ends it."""
    with bus.initiator(1) as bti:
        pmt = bti.pin(vmo, perms=RW)

        def again() -> None:
            with pytest.raises(BadHandle):
                pmt.unpin()
            pmt.close()
            assert bti.release_quarantine() == 0

        with Around(bti, "revoke", before=lambda: elsewhere(again)) as around:
            pmt.unpin()
        assert around.calls == 1
        assert (pinned(), vmo.pin_count()) == (0, 0)


def test_a_refused_revoke_holds_everything(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Source: ADR 1. The device may reach it, so it is held, until a release succeeds."""

    def refuse() -> None:
        raise HostError("revoke", OSError(5, "on purpose"))

    with bus.initiator(1) as bti:
        pmt = bti.pin(vmo, perms=RW)
        at, master = int(pmt.addrs[0]), bti.master()
        with Around(bti, "revoke", before=refuse):
            with pytest.raises(HostError):
                pmt.unpin()
            with pytest.raises(HostError):
                bti.release_quarantine()
        assert (pinned(), vmo.pin_count()) == (4 * PAGE, 1)
        assert master.read(at, 1) == b"\0"
        with pytest.raises(BadState):
            vmo.decommit()
        assert bti.release_quarantine() == 1
        assert (pinned(), vmo.pin_count()) == (0, 0)


def test_a_last_handle_that_goes_while_the_bus_revokes(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """The device leaves when the token has ended."""
    bti = bus.initiator(1)
    pmt = bti.pin(vmo, perms=RW)
    with Around(bti, "revoke", before=lambda: elsewhere(bti.close)):
        pmt.unpin()
    assert bus.bus.statistics().devices == 0  # type: ignore[attr-defined]
    assert (pinned(), vmo.pin_count()) == (0, 0)


def test_threads_pin_and_unpin_the_same_pages(
    kernel: pf.Kernel, bus: pf.Iommu, vmo: pf.Vmo
) -> None:
    """On one device and on two: a page that is pinned counts so, and the books agree at the end."""
    with bus.initiator(1) as one, bus.initiator(2) as two:
        failed: list[BaseException] = []

        def work(bti: pf.Bti, first: int) -> None:
            try:
                for turn in range(200):
                    page = (first + turn) % 4
                    size = (1 + turn % (4 - page)) * PAGE
                    with bti.pin(vmo, page * PAGE, size, perms=RW) as pmt:
                        assert vmo.pin_count(page * PAGE) >= 1
                        assert len(pmt.extents) == 1
            except BaseException as error:
                failed.append(error)

        threads = [
            threading.Thread(target=work, args=(bti, first))
            for first, bti in enumerate((one, one, two, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        check_books(kernel)
        assert [vmo.pin_count(page * PAGE) for page in range(4)] == [0] * 4
        assert pinned() == 0


def test_room_for_another_number_of_addresses_undoes_the_grant(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Which is found last. Source: zx_bti_pin."""
    with bus.initiator(1) as bti:
        before = pinned()
        with pytest.raises(InvalidArgs, match="another number"):
            bti.pin_as(vmo, 0, 2 * PAGE, int(RW), 1)
        assert pinned() == before
        assert vmo.pin_count() == 0
        bti.pin_as(vmo, 0, 2 * PAGE, int(RW), 2).unpin()


def test_a_page_that_another_thread_binds_meanwhile(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Of two of Magenta's pins of one page through one device, one is made."""
    vmo.write(b"x")

    def made() -> int:
        return pins.pin(bti, vmo, 0, PAGE, int(pf.Perm.READ), 1, lambda _: None)

    with bus.initiator(1) as bti:

        def other() -> None:
            thread = threading.Thread(target=made)
            thread.start()
            thread.join()

        with Around(bti, "grant", after=once(other)), pytest.raises(AlreadyBound):
            made()
        assert vmo.pin_count() == 1
        assert bti.statistics().pins == 1


def test_the_last_handle_has_the_device_stop(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Once, and before anything is taken from it; what was pinned stays so."""
    bti = bus.initiator(1)
    pmt = bti.pin(vmo, perms=RW)
    second = bti.duplicate(pf.Right.SAME_RIGHTS)
    with Around(bti, "quiesce") as stopping:
        bti.close()
        assert stopping.calls == 0
        second.close()
        assert stopping.calls == 1
        assert vmo.pin_count() == 1
        pmt.unpin()
        assert stopping.calls == 1


def test_a_device_that_leaves_with_an_error_has_left(bus: pf.Iommu) -> None:
    """All of it was tried; nothing waits for it for ever."""
    bti = bus.initiator(1)
    space: Any = bti.object.space
    close = space.close

    def refused() -> None:
        close()
        raise HostError("close a ring", OSError(5, "once"))

    space.close = refused
    assert bus.statistics().initiators == 1
    with pytest.raises(HostError):
        bti.close()
    assert bus.statistics().initiators == 0
