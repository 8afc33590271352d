"""`pinfold copy`: what it makes of its options, before it touches anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.cli.copy import size_of
from pinfold.cli.destination import Refused
from pinfold.cli.plan import Options
from pinfold.cli.runs import joined, slotfuls_of
from pinfold.units import GIB, KIB, MIB, PAGE_SIZE, page_up
from tests.cli.copies import command


def test_sizes_as_people_write_them() -> None:
    """Powers of 1024; nobody knows what a megabyte is."""
    given_sizes = ["4096", "64K", "64KiB", "1M", "1mib", "2G", "1T"]
    assert list(map(size_of, given_sizes)) == [
        4096, 64 * KIB, 64 * KIB, MIB, MIB, 2 * GIB, 1024 * GIB,
    ]  # fmt: skip
    for wrong in ["", "M", "1MB", "1.5M", "-1", "1 M", "0x10", "1KB", "٣"]:
        with pytest.raises(ValueError, match="is no size"):
            size_of(wrong)
    assert command("a", "b", "--buffer", "1MB").returncode == 2


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (0, Options(), (2 * PAGE_SIZE, PAGE_SIZE)),
        (1, Options(), (2 * PAGE_SIZE, PAGE_SIZE)),
        (10 * GIB, Options(buffer=64 * MIB), (32 * MIB, MIB)),
        (10 * GIB, Options(buffer=64 * MIB, depth=64), (64 * MIB, MIB)),
        (10 * GIB, Options(buffer=2 * MIB), (2 * MIB, 128 * KIB)),
        (10 * GIB, Options(buffer=256 * KIB), (256 * KIB, 64 * KIB)),
        (10 * GIB, Options(buffer=3 * PAGE_SIZE), (3 * PAGE_SIZE, PAGE_SIZE)),
        (10 * GIB, Options(buffer=100 * MIB, chunk=8 * MIB), (96 * MIB, 8 * MIB)),
        (9 * MIB, Options(chunk=8 * MIB), (9 * MIB, 9 * MIB // 2)),
        (100 * MIB, Options(chunk=8 * MIB), (32 * MIB, 8 * MIB)),
        (5_000_000, Options(chunk=3 * GIB), (611 * 2 * PAGE_SIZE, 611 * PAGE_SIZE)),
        (PAGE_SIZE + 1, Options(chunk=3 * GIB), (2 * PAGE_SIZE, PAGE_SIZE)),
        (75 * PAGE_SIZE, Options(buffer=GIB), (76 * PAGE_SIZE, 38 * PAGE_SIZE)),
    ],
)
def test_how_much_is_pinned(size: int, options: Options, expected: tuple[int, int]) -> None:
    """No more than the file needs, nor than can be under way; always two chunks."""
    most = options.buffer or 32 * MIB
    plan = options.plan(size, most, source_direct=True, target_direct=True)
    assert (plan.buffer, plan.chunk) == expected
    assert plan.slots >= 2
    assert plan.limit is None


def test_options_that_do_not_go_together() -> None:
    refused: list[dict[str, Any]] = [
        {"chunk": PAGE_SIZE + 1},
        {"chunk": 0},
        {"buffer": PAGE_SIZE},
        {"depth": 5000},
    ]
    for wrong in refused:
        with pytest.raises(Refused):
            Options(**wrong)
    with pytest.raises(Refused, match="a buffer of 4097 bytes does not hold two chunks of 4 KiB"):
        Options(buffer=4097)


def test_a_chunk_does_not_say_how_much_is_pinned() -> None:
    """More than the default is pinned for who asks for it with --buffer; a chunk is cut to what
    the file needs."""
    Options(chunk=3 * GIB).check(32 * MIB)
    Options(chunk=3 * GIB, buffer=6 * GIB).check(10 * GIB)
    with pytest.raises(Refused, match=r"of 3 GiB are more than the 32 MiB .* 6442450944"):
        Options(chunk=3 * GIB).check(10 * GIB)
    with pytest.raises(Refused, match="choose a smaller --chunk, or give --buffer"):
        Options(chunk=17 * MIB).check(34 * MIB)


@given(
    st.lists(st.tuples(st.integers(0, 20 * PAGE_SIZE), st.integers(1, 5 * PAGE_SIZE))),
    st.integers(1, 4),
)
def test_slots_take_all_of_it_once(spans: list[tuple[int, int]], pages: int) -> None:
    """Held to a set of bytes; and no run leaves its slot, or meets another in it."""
    chunk = pages * PAGE_SIZE
    segments = sorted((start, start + size) for start, size in spans)
    seen: list[int] = []
    for runs in slotfuls_of(joined(segments), chunk):
        used = 0
        for place, at, size in runs:
            assert place == page_up(used)
            used = place + size
            seen.extend(range(at, at + size))
        assert used <= chunk
    assert seen == sorted({at for start, stop in segments for at in range(start, stop)})
