"""What the kernel refuses to lock: why, and what each refusal leaves behind."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pinfold.errors import HostError, LimitReached, NoMemory, NotFound, PinfoldError
from pinfold.host import abi, calls, mm, probe
from pinfold.memory.residency import Residency
from pinfold.units import PAGE_SIZE, HostVa
from tests.memory.locking import (
    PAGES,
    READ_WRITE,
    at,
    flagged_pages,
    locked,
    refuse,
)
from tests.programs import run

if TYPE_CHECKING:
    from tests.memory.locking import Intercept

# What the kernel refuses, and what each refusal leaves behind ------------------------------------


def refused_lock(table: Residency, area: HostVa, pages: int = PAGES) -> PinfoldError:
    """A lock that fails: it changes no count, and VmLck is as before."""
    before, counts = locked(), [table.count(at(area, page)) for page in range(pages)]
    with pytest.raises(PinfoldError) as caught:
        table.lock(area, pages * PAGE_SIZE)
    assert locked() == before
    assert [table.count(at(area, page)) for page in range(pages)] == counts
    assert isinstance(caught.value.__cause__, OSError)
    assert table.statistics().unsettled_bytes == 0
    return caught.value


@pytest.mark.parametrize("hole", [0, 5, PAGES - 1])
def test_a_hole_is_named_and_what_was_locked_before_it_is_not(
    table: Residency, area: HostVa, hole: int
) -> None:
    """Source: mlock(2), ENOMEM (b): the kernel leaves the part before the hole locked."""
    mm.unmap(at(area, hole), PAGE_SIZE)
    error = refused_lock(table, area)
    assert isinstance(error, NotFound)
    assert error.asked == at(area, hole)


def test_a_failure_leaves_what_was_locked_before(table: Residency, area: HostVa) -> None:
    """All or nothing, around a range that has a count already."""
    table.lock(at(area, 2), 3 * PAGE_SIZE)
    mm.unmap(at(area, 9), PAGE_SIZE)
    assert isinstance(refused_lock(table, area), NotFound)
    assert flagged_pages(area) == {2, 3, 4}
    table.unlock(at(area, 2), 3 * PAGE_SIZE)


def test_memory_without_access_is_not_left_flagged(table: Residency, area: HostVa) -> None:
    """Source: mlock(2), ENOMEM (c): the kernel flags the whole range, PROT_NONE included."""
    mm.protect(at(area, 4), PAGE_SIZE, abi.PROT_NONE)
    error = refused_lock(table, area)
    assert isinstance(error, HostError)
    assert "may not be read" in str(error)
    assert flagged_pages(area) == set()


def test_memory_past_the_end_of_its_file_is_not_left_flagged(
    table: Residency, area: HostVa
) -> None:
    """Source: mlock(2), ENOMEM (c)."""
    fd = mm.create_memfd("short", 3 * PAGE_SIZE)
    try:
        mm.map_shared_at(area, fd, 0, PAGES * PAGE_SIZE, READ_WRITE)
    finally:
        calls.close(fd)
    error = refused_lock(table, area)
    assert isinstance(error, HostError)
    assert (error.errno, "past the end of its file" in str(error)) == (errno.EFAULT, True)
    assert flagged_pages(area) == set()


def test_a_guard_page_is_not_left_flagged(table: Residency, area: HostVa) -> None:
    """Source: mlock(2), ENOMEM (c); MADV_GUARD_INSTALL is 102, from Linux 6.13."""
    try:
        calls.madvise(at(area, 4), PAGE_SIZE, 102)
    except OSError as error:
        pytest.skip(f"this kernel has no guard pages: {error}")
    told = refused_lock(table, area)
    assert isinstance(told, HostError)
    assert told.errno == errno.EFAULT


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [
        (errno.ENOMEM, LimitReached, "would split a mapping"),
        (errno.EAGAIN, NoMemory, "no memory for a page"),
        (errno.EPERM, LimitReached, "limit on locked memory"),
        (errno.EINVAL, HostError, "injected"),
    ],
)
def test_each_errno_has_its_reaction(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
    number: int,
    expected: type[PinfoldError],
    words: str,
) -> None:
    """Source: mlock(2) ERRORS; ENOMEM with nothing flagged and no limit passed is the map count."""
    intercept(refuse("mlock", number=number))
    error = refused_lock(table, area)
    assert type(error) is expected
    assert words in str(error) or words in str(error.__cause__)


def test_over_the_limit_says_how_much_there_was() -> None:
    """Source: mlock(2), ENOMEM (a). What was locked before the refused part is undone as well."""
    found = run(
        """
        give_up_privileges(memlock=8 * PAGE_SIZE + 1)  # the kernel rounds it down to pages
        start, table = area(16), Residency()
        table.lock(start + 2 * PAGE_SIZE, 2 * PAGE_SIZE)
        before = locked()
        try:
            table.lock(start, 10 * PAGE_SIZE)
        except LimitReached as error:
            print(json.dumps([told(error), before, locked(), table.count(start), PAGE_SIZE]))
        """
    )
    said, before, after, count, page = found
    assert (said["asked"], said["available"], said["limit"]) == (8 * page, 6 * page, 8 * page)
    assert "RLIMIT_MEMLOCK" in said["text"]
    assert "CAP_IPC_LOCK" in said["text"]
    assert said["notes"] == []
    assert before == after == 2 * page
    assert count == 0


def test_exactly_the_limit_can_be_locked_and_no_page_more() -> None:
    """Source: mlock(2). A part that is locked already is not counted twice."""
    found = run(
        """
        give_up_privileges(memlock=8 * PAGE_SIZE)
        start, table, outcome = area(16), Residency(), []
        table.lock(start, 8 * PAGE_SIZE)
        table.lock(start, 8 * PAGE_SIZE)
        for size in (9, 8):
            try:
                table.lock(start, size * PAGE_SIZE)
                outcome.append("locked")
            except LimitReached as error:
                outcome.append(error.available)
        print(json.dumps([outcome, locked() == 8 * PAGE_SIZE, table.statistics().limit]))
        """
    )
    assert found == [[0, "locked"], True, 8 * PAGE_SIZE]


def test_a_limit_of_0_forbids_every_lock() -> None:
    """Source: mlock(2), EPERM: the limit is 0 and the process has no CAP_IPC_LOCK."""
    found = run(
        """
        give_up_privileges(memlock=0)
        try:
            Residency().lock(area(1), PAGE_SIZE)
        except LimitReached as error:
            print(json.dumps([told(error), error.__cause__.errno, locked()]))
        """
    )
    said, number, after = found
    assert (said["limit"], said["available"], said["asked"]) == (0, 0, PAGE_SIZE)
    assert (number, after) == (errno.EPERM, 0)


def test_a_hole_is_not_mistaken_for_the_limit() -> None:
    """Source: mlock(2), ENOMEM (b) against (a): the flags of the failed call count in VmLck too."""
    found = run(
        """
        give_up_privileges(memlock=8 * PAGE_SIZE)
        start, table = area(6), Residency()
        mm.unmap(start + 5 * PAGE_SIZE, PAGE_SIZE)
        try:
            table.lock(start, 6 * PAGE_SIZE)
        except NotFound as error:
            print(json.dumps([error.asked - start, locked()]))
        """
    )
    assert found == [5 * PAGE_SIZE, 0]


@pytest.mark.slow
def test_out_of_mappings_is_said_and_an_unlock_can_be_tried_again() -> None:
    """Source: mlock(2), ENOMEM (d). munlock of a part splits a mapping too, and is refused."""
    if probe.max_map_count() > 1 << 20:
        pytest.skip(f"filling {probe.max_map_count()} mappings takes too long")
    found = run(
        """
        table, many = Residency(), probe.max_map_count()
        start, filler = area(8), area(many)
        table.lock(start, 8 * PAGE_SIZE)
        table.lock(start + 3 * PAGE_SIZE, PAGE_SIZE)
        before = locked()
        page = 0
        try:
            while True:
                mm.protect(filler + page * PAGE_SIZE, PAGE_SIZE, abi.PROT_READ)
                page += 2
        except OSError:
            pass
        outcome = []
        for act in (
            lambda: table.lock(filler + (many - 9) * PAGE_SIZE, PAGE_SIZE),
            lambda: table.unlock(start, 8 * PAGE_SIZE),
        ):
            try:
                act()
            except PinfoldError as error:
                outcome.append(told(error))
            outcome.append(locked() - before)
        mm.unmap(filler, many * PAGE_SIZE)
        table.unlock(start, 8 * PAGE_SIZE)
        outcome.append(locked())
        table.unlock(start + 3 * PAGE_SIZE, PAGE_SIZE)
        print(json.dumps([*outcome, locked(), table.statistics().unsettled_bytes]))
        """
    )
    lock, left, unlock, kept, nested, *rest = found
    assert (lock["class"], lock["limit"], left) == ("LimitReached", probe.max_map_count(), 0)
    assert (unlock["class"], kept) == ("HostError", 0)
    assert "max_map_count" in unlock["text"]
    assert unlock["notes"] == []
    assert nested == PAGE_SIZE
    assert rest == [0, 0]
