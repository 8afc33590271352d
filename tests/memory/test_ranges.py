"""Interval structures against a plain dict of single keys."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.errors import Unavailable
from pinfold.memory.counts import LARGE, MAX_PINS, PinCounts
from pinfold.memory.ranges import RangeCounts, RangeMap, RangeSet

KEYS = 64


@st.composite
def spans(draw: st.DrawFn, top: int = KEYS) -> tuple[int, int]:
    start = draw(st.integers(0, top - 1))
    return start, draw(st.integers(start + 1, top))


@given(st.lists(st.tuples(st.booleans(), spans())))
def test_range_set_is_a_set(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    ours, model = RangeSet(), set[int]()
    for adding, (start, stop) in steps:
        if adding:
            ours.add(start, stop)
            model |= set(range(start, stop))
        else:
            ours.discard(start, stop)
            model -= set(range(start, stop))
        intervals = list(ours)
        assert {key for a, b in intervals for key in range(a, b)} == model
        assert all(a[1] < b[0] for a, b in itertools.pairwise(intervals))
        assert ours.total == len(model)
        assert ours.covers(start, stop) is set(range(start, stop)).issubset(model)
        for key in range(KEYS):
            found = ours.find(key)
            assert found in intervals if key in model else found is None
            assert found is None or found[0] <= key < found[1]
        holes = {key for a, b in ours.gaps(0, KEYS) for key in range(a, b)}
        assert holes == set(range(KEYS)) - model


@given(st.lists(st.tuples(st.booleans(), spans())))
def test_range_map_finds_what_a_dict_finds(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    ours: RangeMap[int] = RangeMap()
    model: dict[int, tuple[int, int, int]] = {}
    for serial, (inserting, (start, stop)) in enumerate(steps):
        taken = any(key in model for key in range(start, stop))
        if inserting and taken:
            with pytest.raises(ValueError, match="overlaps"):
                ours.insert(start, stop, serial)
        elif inserting:
            ours.insert(start, stop, serial)
            model |= dict.fromkeys(range(start, stop), (start, stop, serial))
        elif start in model and model[start][0] == start:
            assert ours.pop(start) == model[start][1:]
            model = {key: entry for key, entry in model.items() if entry[0] != start}
        for key in range(KEYS):
            assert ours.find(key) == model.get(key)
        inside = sorted({model[key] for key in range(start, stop) if key in model})
        assert ours.overlapping(start, stop) == inside
        holes = {key for a, b in ours.gaps(0, KEYS) for key in range(a, b)}
        assert holes == set(range(KEYS)) - set(model)
        starts = sorted({entry[0] for entry in model.values()})
        above = ours.above(start)
        assert (above and above[0]) == next((s for s in starts if s > start), None)


def test_range_map_pop_of_nothing_raises() -> None:
    with pytest.raises(KeyError):
        RangeMap[int]().pop(3)


def test_range_map_refuses_an_empty_interval() -> None:
    with pytest.raises(ValueError, match="empty"):
        RangeMap[int]().insert(3, 3, 0)


@given(st.lists(st.tuples(st.booleans(), spans())))
def test_range_counts_count(steps: list[tuple[bool, tuple[int, int]]]) -> None:
    ours, model = RangeCounts(), [0] * KEYS
    for raising, (start, stop) in steps:
        before = list(model)
        if raising:
            for key in range(start, stop):
                model[key] += 1
            changed = ours.raise_(start, stop)
            expected = {key for key in range(start, stop) if before[key] == 0}
        elif min(model[start:stop]) == 0:
            with pytest.raises(ValueError, match="already 0"):
                ours.lower(start, stop)
            continue
        else:
            for key in range(start, stop):
                model[key] -= 1
            changed = ours.lower(start, stop)
            expected = {key for key in range(start, stop) if model[key] == 0}
        assert {key for a, b in changed for key in range(a, b)} == expected
        assert [ours.count(key) for key in range(KEYS)] == model
        assert ours.highest(start, stop) == max(model[start:stop])
        assert ours.lowest(start, stop) == min(model[start:stop])
        runs = list(ours.runs(0, KEYS))
        assert all(a[1] < b[0] or a[2] != b[2] for a, b in itertools.pairwise(runs))


# Ranges that cross chunk borders, small and large ones mixed, scaled so that both shapes occur.
PAGES = 4 * LARGE
page_spans: st.SearchStrategy[tuple[int, int]] = st.one_of(
    spans(PAGES),
    st.integers(0, PAGES - 1).map(lambda page: (page, page + 1)),
    st.sampled_from([(0, PAGES), (LARGE, 3 * LARGE), (LARGE - 1, LARGE + 1), (5, 9)]),
)


@given(st.lists(page_spans, max_size=40), st.data())
def test_pin_counts_against_a_list(pins: list[tuple[int, int]], data: st.DataObject) -> None:
    ours, model = PinCounts(), [0] * PAGES
    live: list[tuple[int, int]] = []
    for first, last in pins:
        if max(model[first:last]) == MAX_PINS:
            with pytest.raises(Unavailable) as caught:
                ours.raise_(first, last)
            assert caught.value.limit == MAX_PINS
        else:
            fresh = model[first:last].count(0)
            assert ours.raise_(first, last) == fresh
            model[first:last] = [count + 1 for count in model[first:last]]
            live.append((first, last))
        unpinning: bool = data.draw(st.booleans())
        if live and unpinning:
            first, last = live.pop(data.draw(st.integers(0, len(live) - 1)))
            model[first:last] = [count - 1 for count in model[first:last]]
            assert ours.lower(first, last) == model[first:last].count(0)
        pinned = [page for page in range(PAGES) if model[page]]
        assert ours.pinned_pages == len(pinned)
        assert ours.first_pinned(0, PAGES) == (pinned[0] if pinned else None)
        assert [p for a, b in ours.pinned(0, PAGES) for p in range(a, b)] == pinned
        assert all(ours.count(page) == model[page] for page in range(0, PAGES, 7))


@given(st.lists(st.tuples(st.sampled_from(["pin", "hold", "let go"]), page_spans), max_size=40))
def test_holds_beside_pins_against_a_list(steps: list[tuple[str, tuple[int, int]]]) -> None:
    """Any part of a hold ends by itself; a page that is held is pinned, and no pin is refused."""
    ours, pins, holds = PinCounts(), [0] * PAGES, [0] * PAGES
    for what, (first, last) in steps:
        both = [a + b for a, b in zip(pins, holds, strict=True)]
        if what == "pin" and max(pins[first:last]) < MAX_PINS:
            assert ours.raise_(first, last) == both[first:last].count(0)
            pins[first:last] = [count + 1 for count in pins[first:last]]
        elif what == "hold":
            assert ours.hold(first, last) == both[first:last].count(0)
            holds[first:last] = [count + 1 for count in holds[first:last]]
        elif what == "let go" and min(holds[first:last]):
            holds[first:last] = [count - 1 for count in holds[first:last]]
            both = [a + b for a, b in zip(pins, holds, strict=True)]
            assert ours.end_hold(first, last) == both[first:last].count(0)
        elif what == "let go":
            with pytest.raises(ValueError, match="already 0"):
                ours.end_hold(first, last)
        both = [a + b for a, b in zip(pins, holds, strict=True)]
        pinned = [page for page in range(PAGES) if both[page]]
        assert ours.pinned_pages == len(pinned)
        assert ours.first_pinned(0, PAGES) == (pinned[0] if pinned else None)
        assert [p for a, b in ours.pinned(0, PAGES) for p in range(a, b)] == pinned
        assert all(ours.count(page) == both[page] for page in range(0, PAGES, 7))


@pytest.mark.parametrize("shape", [(0, 1), (3, 5), (0, LARGE), (7, 3 * LARGE)])
def test_the_32nd_pin_of_a_page_is_refused_whatever_its_shape(shape: tuple[int, int]) -> None:
    """Source: zircon, a page pinned 31 times gives UNAVAILABLE."""
    counts = PinCounts()
    for turn in range(MAX_PINS):
        counts.raise_(*((0, 4 * LARGE) if turn % 2 else shape))
    with pytest.raises(Unavailable) as caught:
        counts.raise_(0, 4 * LARGE)
    assert "remedy" not in str(caught.value)
    assert caught.value.remedy is not None
    assert counts.count(shape[0]) == MAX_PINS


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 2), (0, LARGE)])
def test_lowering_a_count_of_zero_is_an_error(first: int, last: int) -> None:
    counts = PinCounts()
    counts.raise_(first, last)
    counts.lower(first, last)
    with pytest.raises(ValueError, match=r"not pinned|already 0"):
        counts.lower(first, last)
