"""Locks on memory with nesting counts, against a dict and against the real kernel."""

from __future__ import annotations

import mmap
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.errors import InvalidArgs, NotFound, PinfoldError
from pinfold.host import mm
from pinfold.memory.residency import Residency, address_of
from pinfold.units import PAGE_SIZE, HostVa
from tests.memory.locking import (
    PAGES,
    at,
    flagged_pages,
    give_back,
    locked,
    make_area,
    refuse,
)
from tests.programs import run

if TYPE_CHECKING:
    from tests.memory.locking import Intercept

# Counts -----------------------------------------------------------------------------------------


def test_a_page_is_locked_from_its_first_lock_to_its_last_unlock(
    table: Residency, area: HostVa
) -> None:
    """Source: AIX pin, "increments the pin count"; mlock(2) has none."""
    before = locked()
    assert table.lock(area, 4 * PAGE_SIZE) == 4 * PAGE_SIZE
    assert table.lock(at(area, 2), 4 * PAGE_SIZE) == 2 * PAGE_SIZE
    assert locked() - before == 6 * PAGE_SIZE
    assert table.count(at(area, 3)) == 2
    assert table.unlock(area, 4 * PAGE_SIZE) == 2 * PAGE_SIZE
    assert locked() - before == 4 * PAGE_SIZE
    assert table.unlock(at(area, 2), 4 * PAGE_SIZE) == 4 * PAGE_SIZE
    assert locked() == before


def test_the_whole_page_of_the_first_and_the_last_byte_is_locked(
    table: Residency, area: HostVa
) -> None:
    """Source: AIX pin, the note on ranges that are not aligned."""
    before = locked()
    assert table.lock(HostVa(area + PAGE_SIZE - 1), 2) == 2 * PAGE_SIZE
    assert locked() - before == 2 * PAGE_SIZE
    assert table.count(HostVa(area + 5)) == 1
    assert table.unlock(HostVa(area + PAGE_SIZE - 1), 2) == 2 * PAGE_SIZE


@pytest.mark.parametrize("size", [0, -1])
def test_a_lock_of_nothing_is_refused(table: Residency, area: HostVa, size: int) -> None:
    """Source: AIX pin, EINVAL for a length that is negative or 0. mlock(2) would accept 0."""
    with pytest.raises(InvalidArgs):
        table.lock(area, size)
    with pytest.raises(InvalidArgs):
        table.unlock(area, size)


@pytest.mark.parametrize("start", [-PAGE_SIZE, (1 << 64) - PAGE_SIZE, 1 << 64])
def test_a_range_outside_the_address_space_is_refused(table: Residency, start: int) -> None:
    """ctypes would cut the address to 64 bits and lock somebody else's memory."""
    with pytest.raises(InvalidArgs):
        table.lock(HostVa(start), 2 * PAGE_SIZE)


def test_unlocking_what_is_not_locked_changes_nothing(table: Residency, area: HostVa) -> None:
    """Source: AIX unpin, EINVAL. The error names the first page that is not locked."""
    table.lock(area, 2 * PAGE_SIZE)
    with pytest.raises(NotFound) as caught:
        table.unlock(area, 3 * PAGE_SIZE)
    assert caught.value.asked == at(area, 2)
    assert table.count(area) == 1
    table.unlock(area, 2 * PAGE_SIZE)


def test_statistics_count_bytes_once(table: Residency, area: HostVa) -> None:
    table.lock(area, 3 * PAGE_SIZE)
    table.lock(at(area, 1), PAGE_SIZE)
    found = table.statistics()
    assert (found.locked_bytes, found.ranges, found.unsettled_bytes) == (3 * PAGE_SIZE, 3, 0)
    table.unlock(at(area, 1), PAGE_SIZE)
    table.unlock(area, 3 * PAGE_SIZE)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, PAGES - 1))
    return start, draw(st.integers(start + 1, PAGES))


@given(st.lists(st.tuples(st.booleans(), spans()), max_size=20))
def test_counts_are_those_of_a_dict_and_the_kernel_agrees(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    """After any locks and unlocks: counts as in a dict, and VmFlags and VmLck to match."""
    area, table, model = make_area(), Residency(), Counter[int]()
    before = locked()
    try:
        for locking, (start, stop) in steps:
            pages = range(start, stop)
            fresh = sum(not model[page] for page in pages) * PAGE_SIZE
            ending = sum(model[page] == 1 for page in pages) * PAGE_SIZE
            size = len(pages) * PAGE_SIZE
            if locking:
                assert table.lock(at(area, start), size) == fresh
                model.update(pages)
            elif all(model[page] for page in pages):
                assert table.unlock(at(area, start), size) == ending
                model.subtract(pages)
            else:
                with pytest.raises(NotFound):
                    table.unlock(at(area, start), size)
            held = {page for page in range(PAGES) if model[page]}
            assert locked() - before == len(held) * PAGE_SIZE
            assert table.statistics().locked_bytes == len(held) * PAGE_SIZE
            assert all(table.count(at(area, page)) == model[page] for page in range(PAGES))
        assert flagged_pages(area) == {page for page in range(PAGES) if model[page]}
    finally:
        give_back(area)


def test_threads_share_one_table(table: Residency, area: HostVa) -> None:
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            start.wait()
            for turn in range(50):
                page = (first + turn) % (PAGES - 4)
                table.lock(at(area, page), 4 * PAGE_SIZE)
                assert table.count(at(area, page)) >= 1
                table.unlock(at(area, page), 4 * PAGE_SIZE)
        except BaseException as error:  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Memory that goes away, finalisers, other processes ----------------------------------------------


@pytest.mark.parametrize(("first", "count"), [(0, 2), (3, 2), (6, 2), (0, 8)])
def test_what_was_unmapped_meanwhile_does_not_keep_the_rest_locked(
    table: Residency, area: HostVa, first: int, count: int
) -> None:
    """Source: munlock(2), ENOMEM. The kernel's munlock stops at a hole; what follows counts too."""
    before = locked()
    table.lock(area, 8 * PAGE_SIZE)
    mm.unmap(at(area, first), count * PAGE_SIZE)
    assert table.unlock(area, 8 * PAGE_SIZE) == 8 * PAGE_SIZE
    assert locked() == before


def test_a_finaliser_inside_the_table_does_not_wait_for_it(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
) -> None:
    """The garbage collector may run anywhere, on a thread that is inside the table already."""
    buffer = mmap.mmap(-1, 2 * PAGE_SIZE)
    view = memoryview(buffer)
    address = address_of(view)
    table.lock(address, len(view))
    seen = list[str]()

    def collect(name: str) -> None:
        if not seen:
            seen.append(name)
            table.drop(address, 2 * PAGE_SIZE, view)
            assert len(view) == 2 * PAGE_SIZE  # still lent, so nobody else can get the addresses

    intercept(collect)
    table.lock(area, PAGE_SIZE)
    intercept(None)
    assert seen == ["mlock"]
    assert table.count(address) == 0
    buffer.close()  # BufferError if the view were still there
    table.unlock(area, PAGE_SIZE)


def test_a_dropped_lock_that_the_kernel_keeps_is_settled_later(
    table: Residency,
    area: HostVa,
    intercept: Intercept,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A finaliser has nobody to raise to."""
    before = locked()
    table.lock(area, 2 * PAGE_SIZE)
    intercept(refuse("munlock"))
    table.drop(area, 2 * PAGE_SIZE, memoryview(b"x"))
    assert "could not be undone" in caplog.text
    assert table.statistics().locked_bytes == 0
    assert table.statistics().unsettled_bytes == 2 * PAGE_SIZE
    intercept(None)
    assert table.statistics().unsettled_bytes == 0
    assert locked() == before


def test_the_statistics_of_a_host_that_refuses_are_a_pinfold_error(
    table: Residency, intercept: Intercept
) -> None:
    intercept(refuse("open", "pread"))
    with pytest.raises(PinfoldError):
        table.statistics()
    intercept(None)


def test_a_forked_child_has_no_locks_and_takes_none_away() -> None:
    """Source: mlock(2), "not inherited by a child"."""
    found = run(
        """
        start = area(4)
        RESIDENCY.lock(start, 4 * PAGE_SIZE)
        mine = locked()
        there, here = os.pipe()
        child = os.fork()
        if not child:
            first = [locked(), RESIDENCY.statistics().locked_bytes, RESIDENCY.count(start)]
            try:
                RESIDENCY.unlock(start, 4 * PAGE_SIZE)
            except NotFound:
                first.append("not found")
            RESIDENCY.lock(start, PAGE_SIZE)
            first.append(locked())
            RESIDENCY.unlock(start, PAGE_SIZE)
            os.write(here, json.dumps(first).encode())
            os._exit(0)
        os.close(here)
        seen = json.loads(os.read(there, 1000))
        status = os.waitpid(child, 0)[1]
        gc.collect()
        print(json.dumps([mine, seen, status, locked(), RESIDENCY.count(start)]))
        """
    )
    size = 4 * PAGE_SIZE
    assert found == [size, [0, 0, 0, "not found", PAGE_SIZE], 0, size, 1]
