"""Placing blocks: never on top of each other, low where that is asked for, late reuse otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pinfold.memory.space import Placement

TOP = 64


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 8]), st.booleans())),
    st.booleans(),
    st.integers(0, 2),
    st.data(),
)
def test_blocks_fit_and_a_refusal_means_that_there_is_no_gap(
    steps: list[tuple[int, int, bool]],
    lowest: bool,  # noqa: FBT001 - hypothesis passes it by position
    guard: int,
    data: st.DataObject,
) -> None:
    """Against a list of taken addresses."""
    apertures = [(3, 20), (24, TOP)]
    space: Placement[int] = Placement(apertures, guard=guard, lowest=lowest)
    live: dict[int, int] = {}
    for serial, (size, align, removing) in enumerate(steps):
        if removing and live:
            start = data.draw(st.sampled_from(sorted(live)))
            assert space.remove(start) >= 0
            del live[start]
            continue
        taken = {a for s, n in live.items() for a in range(s - guard, s + n + guard)}
        fits = [
            at
            for low, high in apertures
            for at in range(low, high - size + 1)
            if at % align == 0 and not taken.intersection(range(at, at + size))
        ]
        assert (space.largest_gap(align) >= size) is bool(fits)
        got = space.place(size, align, serial)
        assert (got is None) is (not fits)
        if got is not None:
            assert got in fits
            if lowest:
                assert got == fits[0]
            live[got] = size


def test_a_high_aligned_block_does_not_push_later_ones_up() -> None:
    """A 28-bit device must still find low memory after somebody asked for a huge alignment."""
    space: Placement[str] = Placement([(1, 1 << 20)], lowest=True)
    assert space.place(1, 1 << 16, "aligned") == 1 << 16
    assert space.place(4, 1, "low") == 1


def test_without_lowest_an_address_rests() -> None:
    """What was given back is not given out until the space has been walked once."""
    space: Placement[int] = Placement([(0, 10)])
    given_out = []
    for serial in range(12):
        at = space.place(1, 1, serial)
        assert at is not None
        space.remove(at)
        given_out.append(at)
    assert given_out == [*range(10), 0, 1]


def test_the_largest_gap_is_what_there_is() -> None:
    """For the message of a refusal; with guards, what a block could still get."""
    space: Placement[int] = Placement([(0, 10)])
    for _ in range(3):
        space.place(3, 1, 0)
    space.remove(3)
    assert space.largest_gap() == 3
    assert space.place(4, 1, 0) is None
    guarded: Placement[int] = Placement([(8, 64)], guard=8)
    for at in (8, 24, 40):
        assert guarded.place(2, 8, 0) == at
    assert guarded.largest_gap(8) == 64 - 56
    assert guarded.place(1, 8, 0) == 56
    assert guarded.largest_gap(8) == 0
