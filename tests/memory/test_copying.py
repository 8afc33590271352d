"""Copying pages: what has memory is copied, by the kernel, and nothing else is."""

from __future__ import annotations

import errno
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.errors import HostError, NoMemory
from pinfold.host import probe
from pinfold.memory import copying
from pinfold.memory.backing import Backing
from pinfold.memory.copying import copy_pages
from pinfold.memory.files import opened
from pinfold.memory.pages import ASK_HOST_FROM, Pages
from pinfold.memory.physmap import PhysicalMap
from pinfold.testing import FailNth, HostCalls, HostState
from pinfold.units import GIB, MIB, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

P = PAGE_SIZE


@pytest.fixture
def make() -> Iterator[Callable[[int], Pages]]:
    """Makes anonymous pages, so many; all are closed at the end, and nothing is left."""
    before = HostState.now()
    physmap, made = PhysicalMap(), list[Pages]()

    def anonymous(pages: int) -> Pages:
        made.append(Pages(Backing.memfd(pages * P, name="test", resizable=False), physmap))
        return made[-1]

    yield anonymous
    for pages in made:
        pages.close()
    assert before.difference(HostState.now()) == []


def content(pages: Pages) -> bytes:
    data = bytearray(pages.backing.size)
    pages.read_into(memoryview(data), 0)
    return bytes(data)


def put(pages: Pages, at: int, value: int) -> None:
    pages.write_from(memoryview(bytes([value]) * P), at * P)


@given(
    filled=st.sets(st.integers(0, 15)),
    first=st.integers(0, 15),
    to=st.integers(0, 15),
    count=st.integers(0, 16),
)
def test_any_range_of_any_pages(filled: set[int], first: int, to: int, count: int) -> None:
    """Whatever has memory, wherever the range begins: those pages, those bytes, and no others."""
    physmap = PhysicalMap()
    source = Pages(Backing.memfd(16 * P, name="source", resizable=False), physmap)
    target = Pages(Backing.memfd(16 * P, name="target", resizable=False), physmap)
    try:
        for at in filled:
            put(source, at, at + 1)
        before = content(source)
        count = min(count, 16 - first, 16 - to)
        copy_pages(source, first * P, target, to * P, count * P)
        expected = bytearray(16 * P)
        expected[to * P : (to + count) * P] = before[first * P : (first + count) * P]
        assert content(target) == expected
        assert content(source) == before
        copied = {at - first + to for at in filled if first <= at < first + count}
        runs = target.backing.data_runs(0, 16 * P)
        assert {at for low, high in runs for at in range(low // P, high // P)} == copied
        for at in range(16):
            assert target.is_committed(at, at + 1) == (at in copied), "the books know"
    finally:
        source.close()
        target.close()


def test_a_copy_is_made_of_as_many_calls_as_there_are_runs(make: Callable[[int], Pages]) -> None:
    """A megabyte in one run, and a page, are the same calls."""

    def calls(runs: list[tuple[int, int]]) -> list[str]:
        source, target = make(2048), make(2048)
        for low, high in runs:
            source.backing.commit(low * P, (high - low) * P)
        with HostCalls() as seen:
            copy_pages(source, 0, target, 0, 2048 * P)
        return seen.names

    assert calls([(0, 1)]) == calls([(100, 1200)])
    few, many = (calls([(n * 4, n * 4 + 1) for n in range(count)]) for count in (2, 4))
    assert many.count("pwrite") == 2 * few.count("pwrite") == 4
    assert many.count("mmap") <= 1


def test_a_long_run_goes_in_pieces(
    make: Callable[[int], Pages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a Ctrl-C is heard in between; the last piece is as long as what is left."""
    monkeypatch.setattr(copying, "_PIECE", 3 * P)
    source, target = make(8), make(8)
    for at in range(8):
        put(source, at, at + 1)
    with HostCalls() as seen:
        copy_pages(source, 0, target, 0, 8 * P)
    assert seen.names.count("pwrite") == 3
    assert content(target) == content(source)


def test_no_python_bytes_of_the_size_are_made(make: Callable[[int], Pages]) -> None:
    """The bytes go from page to page."""
    pages = 32 * MIB // P
    source, target = make(pages), make(pages)
    source.backing.commit(0, pages * P)
    tracemalloc.start()
    try:
        copy_pages(source, 0, target, 0, pages * P)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    assert target.backing.committed_bytes() == pages * P


def test_the_source_of_a_copy_is_a_mapping_that_is_given_back(make: Callable[[int], Pages]) -> None:
    """One window for every run of it; the fixture looks for what is left."""
    source, target = make(64), make(64)
    for at in range(0, 64, 2):
        put(source, at, 1)
    copy_pages(source, 0, target, 0, 64 * P)
    window = source.backing.borrow(0, P)
    assert window.users == 1
    window.release()


def test_a_sparse_source_of_many_terabytes(make: Callable[[int], Pages]) -> None:
    """Too large for one window: a window of each run."""
    huge = 4096 * GIB // P
    source, target = make(huge), make(huge)
    for at in (0, huge // 2, huge - 1):
        put(source, at, 7)
    copy_pages(source, 0, target, 0, huge * P)
    assert target.backing.committed_bytes() == 3 * P
    found = bytearray(P)
    target.read_into(memoryview(found), (huge - 1) * P)
    assert found == b"\7" * P


def test_a_file_is_copied_to_its_last_byte(tmp_path: Path, make: Callable[[int], Pages]) -> None:
    """What lies beyond it in the last page is zero."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * (2 * P + 5))
    source = Pages(opened(path, writable=False), PhysicalMap())
    target = make(3)
    copy_pages(source, 0, target, 0, 3 * P)
    assert content(target) == b"x" * (2 * P + 5) + bytes(P - 5)
    source.close()


def test_a_file_that_shrank_is_an_error_and_not_a_signal(
    tmp_path: Path, make: Callable[[int], Pages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the source that cannot be read is an EFAULT of the write."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * 2 * P)
    source = Pages(opened(path, writable=False), PhysicalMap())
    runs = source.backing.data_runs(0, 2 * P)
    os.truncate(path, P)
    monkeypatch.setattr(Backing, "data_runs", lambda *_: runs)  # cut after they were looked up
    target = make(2)
    with pytest.raises(HostError) as caught:
        copy_pages(source, 0, target, 0, 2 * P)
    assert caught.value.errno == errno.EFAULT
    monkeypatch.undo()
    source.close()


def test_more_than_the_host_has_is_refused_before_a_byte_is_copied(
    make: Callable[[int], Pages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past its memory Linux ends a process; the error says what was asked and what there is."""
    pages = ASK_HOST_FROM // P
    source, target = make(pages), make(pages)
    monkeypatch.setattr(Backing, "data_runs", lambda *_: [(0, ASK_HOST_FROM)])
    monkeypatch.setattr(probe, "available_memory", lambda: ASK_HOST_FROM - 1)
    with HostCalls() as seen, pytest.raises(NoMemory) as caught:
        copy_pages(source, 0, target, 0, ASK_HOST_FROM)
    assert seen.names == []
    assert caught.value.asked == ASK_HOST_FROM
    assert caught.value.available == ASK_HOST_FROM - 1
    monkeypatch.undo()


def test_each_call_of_a_copy_can_fail(make: Callable[[int], Pages]) -> None:
    """The window is given back, the source is as it was, and the same copy works afterwards."""

    def filled() -> Pages:
        source = make(8)
        for at in (0, 1, 5):
            put(source, at, at + 1)
        return source

    source, target = filled(), make(8)
    with HostCalls() as seen:
        copy_pages(source, 0, target, 0, 8 * P)
    assert {"lseek", "mmap", "pwrite"} <= set(seen.names)
    for n in range(1, len(seen.names) + 1):
        source, target = filled(), make(8)
        before = content(source)
        with FailNth(n, errno.EIO), pytest.raises(HostError):
            copy_pages(source, 0, target, 0, 8 * P)
        assert content(source) == before
        window = source.backing.borrow(0, P)
        assert window.users == 1
        window.release()
        copy_pages(source, 0, target, 0, 8 * P)
        assert content(target) == before
