"""pin(): the memory behind any buffer, held in place."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import BadHandle, InvalidArgs, WrongType
from pinfold.host import abi, calls, mm
from pinfold.memory.residency import RESIDENCY
from pinfold.units import ByteRange, HostVa, page_down, page_up
from tests.memory.locking import locked

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE

pytestmark = pytest.mark.usefixtures("process")  # which checks at the end that nothing is left


def pages_of(size: int, first: int = 0) -> memoryview:
    """``size`` bytes of mapped memory that share no page with anything else."""
    return memoryview(mmap.mmap(-1, page_up(first + size)))[first : first + size]


# What can be pinned ------------------------------------------------------------------------------


def read_only_map() -> Any:
    return mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"x" * 10_000,
        lambda: bytearray(10_000),
        lambda: memoryview(bytes(10_000))[100:9000],
        lambda: array.array("d", [1.0] * 2000),
        lambda: mmap.mmap(-1, 3 * PAGE),
        read_only_map,
        lambda: (ctypes.c_uint32 * 5000)(),
        lambda: np.arange(5000),
        lambda: np.zeros((50, 70), order="F"),
        lambda: np.zeros((50, 70))[10:20],
        lambda: np.broadcast_to(np.zeros(1), (1, 1, 1)),
        lambda: np.array(1.5),
        lambda: b"x",
    ],
    ids=[
        "bytes",
        "bytearray",
        "memoryview",
        "array.array",
        "mmap",
        "read-only mmap",
        "ctypes",
        "numpy",
        "Fortran order",
        "rows",
        "read-only numpy",
        "no dimension",
        "one byte",
    ],
)
def test_whatever_lends_its_memory_can_be_pinned(make: Callable[[], Any]) -> None:
    """Every page that it touches, no page more, and the bytes are those of the object."""
    made = make()
    size = memoryview(made).nbytes
    content = memoryview(made).tobytes(order="A")
    before = locked()
    with pf.pin(made) as held:
        assert held.size == size
        assert held.pages == ByteRange(page_down(held.address), page_up(held.address + size))
        assert locked() - before == held.pages.size
        assert ctypes.string_at(held.address, size) == content
        assert RESIDENCY.count(held.address) >= 1
    assert locked() == before


@pytest.mark.parametrize(
    ("make", "expected", "words"),
    [
        (lambda: 5, WrongType, "buffer protocol"),
        (lambda: "text", WrongType, "buffer protocol"),
        (lambda: b"", InvalidArgs, "empty"),
        (lambda: np.zeros((4, 0)), InvalidArgs, "empty"),
        (lambda: np.zeros(100)[::2], InvalidArgs, "one piece"),
        (lambda: np.zeros((50, 70))[:, 1:3], InvalidArgs, "one piece"),
        (lambda: np.zeros(100)[::-1], InvalidArgs, "one piece"),
        (lambda: memoryview(bytes(100))[::3], InvalidArgs, "one piece"),
        (lambda: np.zeros(4, dtype="datetime64[s]"), InvalidArgs, "view of its bytes"),
    ],
)
def test_whatever_has_no_memory_of_its_own_in_one_piece_is_refused(
    make: Callable[[], Any], expected: type[Exception], words: str
) -> None:
    """Source: AIX pin, EINVAL for a length of 0; that each has a remedy is ours."""
    made = make()
    with pytest.raises(expected, match=words):
        pf.pin(made)


def test_a_closed_mapping_is_refused() -> None:
    closed = mmap.mmap(-1, PAGE)
    closed.close()
    with pytest.raises(InvalidArgs):
        pf.pin(closed)


def test_untouched_memory_gets_real_pages_and_keeps_its_content() -> None:
    """mlock faults for writing where memory is private and writable: never the page of zeros."""
    start = calls.mmap(0, 8 * PAGE, 3, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS, -1, 0)
    try:
        with pf.pin(calls.buffer_at(start, 8 * PAGE)):
            assert resident_and_locked(start) == 8 * PAGE
            assert bytes(calls.buffer_at(start, 8 * PAGE)) == bytes(8 * PAGE)
    finally:
        mm.unmap(HostVa(start), 8 * PAGE)


def test_private_memory_that_may_not_be_written_locks_the_page_of_zeros() -> None:
    """What `pin` documents that it cannot do. Source: mlock(2) on Linux, as measured."""
    start = calls.mmap(0, 8 * PAGE, abi.PROT_READ, abi.MAP_PRIVATE | abi.MAP_ANONYMOUS, -1, 0)
    try:
        with pf.pin(calls.buffer_at(start, 8 * PAGE)):
            assert resident_and_locked(start) == 0
            mm.protect(HostVa(start), 8 * PAGE, abi.PROT_READ | abi.PROT_WRITE)
            calls.memset(start, 1, 8 * PAGE)
            assert resident_and_locked(start) == 8 * PAGE  # locked as they come
    finally:
        mm.unmap(HostVa(start), 8 * PAGE)


def resident_and_locked(address: int) -> int:
    """``Locked:`` of the mapping that begins at ``address``: bytes in memory and locked."""
    inside = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first, *rest = line.split()
            if not first.endswith(":"):
                low, high = (int(border, 16) for border in first.split("-"))
                inside = low <= address < high
            elif inside and first == "Locked:":
                return int(rest[0]) << 10
    raise AssertionError("not mapped")


# Counts, exactly once, and what the pin keeps -----------------------------------------------------


def test_a_shared_page_stays_until_the_last_pin_ends() -> None:
    """Source: AIX pin, the pin count of each page."""
    memory = pages_of(3 * PAGE)
    before = locked()
    first = pf.pin(memory[: PAGE + 10])
    second = pf.pin(memory[PAGE + 20 :])
    assert locked() - before == 3 * PAGE
    first.unpin()
    assert locked() - before == 2 * PAGE
    assert RESIDENCY.count(second.address) == 1
    second.unpin()
    assert locked() == before


def test_unpinning_twice_is_an_error_and_does_nothing() -> None:
    """Source: zx_pmt_unpin: the token is gone. A second pin of the same page is not touched."""
    memory = pages_of(PAGE)
    held = pf.pin(memory)
    with pf.pin(memory) as other:
        held.unpin()
        with pytest.raises(BadHandle):
            held.unpin()
        assert RESIDENCY.count(other.address) == 1
    assert not held.pinned
    for ask in (lambda: held.address, lambda: held.pages, held.statistics):
        with pytest.raises(BadHandle):
            ask()


def test_the_block_may_unpin_by_itself() -> None:
    before = locked()
    with pf.pin(bytearray(PAGE)) as held:
        held.unpin()
    assert locked() == before


def test_a_pinned_buffer_cannot_move_shrink_or_close() -> None:
    """Else the lock would pass to whoever gets the addresses next."""
    growing, mapping = bytearray(PAGE), mmap.mmap(-1, PAGE)
    with pf.pin(growing) as first, pf.pin(mapping) as second:
        with pytest.raises(BufferError):
            growing.extend(b"x" * PAGE)
        with pytest.raises(BufferError):
            mapping.close()
    growing.extend(b"x")
    mapping.close()
    assert not first.pinned
    assert not second.pinned


def test_the_pin_keeps_the_memory_when_its_owner_is_dropped() -> None:
    held = pf.pin(np.full(3 * PAGE, 7, np.uint8))
    gc.collect()
    assert ctypes.string_at(held.address, held.size) == b"\x07" * (3 * PAGE)
    held.unpin()


def test_statistics_say_what_holds_it_and_who_pinned_it_where() -> None:
    with pf.pin(pages_of(100, first=50)) as held:
        found = held.statistics()
    assert (found.size, found.address - found.pages.start, found.pages.size) == (100, 50, PAGE)
    assert found.anchor is pf.Anchor.MLOCK
    assert "'test'" in found.owner
    assert __file__ in found.pinned_at
    assert found.pinned_ns > 0
    assert "unpinned" in repr(held)
