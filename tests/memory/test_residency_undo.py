"""Locking that fails, and whose undoing fails as well: nothing is lost."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pinfold.errors import HostError, NotFound, PinfoldError
from pinfold.host import mm
from pinfold.memory.residency import Residency
from pinfold.units import PAGE_SIZE, HostVa
from tests.memory.locking import (
    PAGES,
    at,
    flagged_pages,
    locked,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.memory.locking import Intercept

# Undoing that is refused as well -----------------------------------------------------------------


def test_what_cannot_be_undone_is_noted_and_undone_by_the_next_call(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    """A hole leaves pages locked; munlock is refused; nobody forgets them."""
    before = locked()
    mm.unmap(at(area, 5), PAGE_SIZE)
    intercept(refuse("munlock"))
    with pytest.raises(NotFound) as caught:
        table.lock(area, PAGES * PAGE_SIZE)
    assert any("may stay locked" in note for note in caught.value.__notes__)
    assert table.count(area) == 0
    assert table.statistics().unsettled_bytes == PAGES * PAGE_SIZE
    assert locked() - before == 5 * PAGE_SIZE

    intercept(None)
    assert table.statistics().unsettled_bytes == 0
    assert locked() == before


def test_a_leftover_that_is_locked_again_belongs_to_whoever_locked_it(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    before = locked()
    mm.unmap(at(area, 5), PAGE_SIZE)
    intercept(refuse("munlock"))
    with pytest.raises(NotFound):
        table.lock(area, PAGES * PAGE_SIZE)
    table.lock(area, 2 * PAGE_SIZE)
    assert table.statistics().unsettled_bytes == (PAGES - 2) * PAGE_SIZE
    intercept(None)
    assert table.statistics().unsettled_bytes == 0
    assert locked() - before == 2 * PAGE_SIZE
    table.unlock(area, 2 * PAGE_SIZE)


def nested(table: Residency, area: HostVa) -> None:
    """Locked throughout, and once more in the middle: unlocking it all takes two munlocks."""
    table.lock(area, 8 * PAGE_SIZE)
    table.lock(at(area, 3), 2 * PAGE_SIZE)


def not_nested(table: Residency, area: HostVa) -> None:
    table.unlock(at(area, 3), 2 * PAGE_SIZE)


def test_an_unlock_that_is_refused_half_way_is_taken_back(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    """After HostError no count has changed and every page of it is locked, so it can be retried."""
    nested(table, area)
    before, seen = locked(), list[str]()

    def second_munlock(name: str) -> None:
        seen.append(name)
        if name == "munlock" and seen.count(name) == 2:
            raise OSError(errno.EPERM, "injected")

    intercept(second_munlock)
    with pytest.raises(HostError) as caught:
        table.unlock(area, 8 * PAGE_SIZE)
    intercept(None)
    assert not hasattr(caught.value, "__notes__")
    assert locked() == before
    assert flagged_pages(area) == set(range(8))
    assert table.statistics().unsettled_bytes == 0
    assert table.unlock(area, 8 * PAGE_SIZE) == 6 * PAGE_SIZE
    not_nested(table, area)


def test_a_lock_lost_in_the_undo_of_an_unlock_is_taken_again_by_the_next_call(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    """munlock half done, then mlock refused: the pages are counted, so they must come back."""
    nested(table, area)
    before, seen = locked(), list[str]()

    def from_second_munlock(name: str) -> None:
        seen.append(name)
        if name in {"mlock", "munlock"} and seen.count("munlock") >= 2:
            raise OSError(errno.EPERM, "injected")

    intercept(from_second_munlock)
    with pytest.raises(HostError) as caught:
        table.unlock(area, 8 * PAGE_SIZE)
    assert any("locking it again" in note for note in caught.value.__notes__)
    assert locked() - before == -3 * PAGE_SIZE
    with pytest.raises(PinfoldError):  # a lock of what has lapsed is no lock
        table.lock(area, PAGE_SIZE)
    assert table.count(area) == 1

    intercept(None)
    assert table.lock(area, PAGE_SIZE) == 0
    assert locked() == before
    assert table.statistics().unsettled_bytes == 0
    table.unlock(area, PAGE_SIZE)
    table.unlock(area, 8 * PAGE_SIZE)
    not_nested(table, area)


def lock_with_hole(table: Residency, area: HostVa) -> None:
    table.lock(area, PAGES * PAGE_SIZE)


def lock_around(table: Residency, area: HostVa) -> None:
    table.lock(area, 5 * PAGE_SIZE)


def unlock_nested(table: Residency, area: HostVa) -> None:
    table.unlock(at(area, 1), 3 * PAGE_SIZE)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("act", [lock_with_hole, lock_around, unlock_nested])
def test_whichever_host_call_fails_nothing_is_lost(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
    act: Callable[[Residency, HostVa], None],
    forever: bool,  # noqa: FBT001 - a test's parameter
) -> None:
    """Fail host call 1, then 2, until none is left to fail; alone, and with all that follow.

    Always a PinfoldError; counts as before; and once the kernel is willing again, its locks are
    what the counts say.
    """
    mm.unmap(at(area, 7), PAGE_SIZE)
    table.lock(at(area, 1), 3 * PAGE_SIZE)
    table.lock(at(area, 2), PAGE_SIZE)
    failing = reached = 1
    while reached >= failing:
        reached = 0

        def interceptor(name: str, failing: int = failing) -> None:
            nonlocal reached
            reached += 1
            if reached == failing or (forever and reached > failing):
                raise OSError(errno.EIO, f"injected into {name}")

        counts = [table.count(at(area, page)) for page in range(PAGES)]
        intercept(interceptor)
        try:
            act(table, area)
        except PinfoldError:
            assert [table.count(at(area, page)) for page in range(PAGES)] == counts
        else:
            intercept(None)
            if act is lock_around:
                table.unlock(area, 5 * PAGE_SIZE)
            elif act is unlock_nested:
                table.lock(at(area, 1), 3 * PAGE_SIZE)
        intercept(None)
        assert table.statistics().unsettled_bytes == 0
        assert flagged_pages(area) == {1, 2, 3}
        failing += 1
    assert failing > 3
    table.unlock(at(area, 2), PAGE_SIZE)
    table.unlock(at(area, 1), 3 * PAGE_SIZE)


def test_an_interrupt_undoes_what_was_locked(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    """Ctrl-C between two mlocks of one call is no reason to keep the first."""
    table.lock(at(area, 2), PAGE_SIZE)
    before, seen = locked(), list[str]()

    def second_mlock(name: str) -> None:
        seen.append(name)
        if name == "mlock" and seen.count(name) == 2:
            raise KeyboardInterrupt

    intercept(second_mlock)
    with pytest.raises(KeyboardInterrupt):
        table.lock(area, 4 * PAGE_SIZE)
    intercept(None)
    assert (locked(), table.count(area)) == (before, 0)
    table.unlock(at(area, 2), PAGE_SIZE)
