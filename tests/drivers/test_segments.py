"""Runs of device addresses against one address a byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pinfold as pf
from pinfold.bus import Extents
from pinfold.drivers.segments import Segments, pair
from pinfold.errors import InvalidArgs, OutOfRange, OutOfReach

CHUNK = 16


@st.composite
def extents(draw: st.DrawFn) -> Extents:
    """One run, or chunks of 16 bytes at any slots, so that some follow on."""
    slots = draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    if len(slots) == 1:
        return Extents.run(slots[0] * CHUNK, draw(st.integers(1, 60)))
    addresses = np.array(slots, dtype=np.uint64) * np.uint64(CHUNK)
    short = draw(st.integers(0, CHUNK - 1))
    return Extents.scattered(addresses, CHUNK, CHUNK * len(slots) - short)


def per_byte(found: Extents) -> list[int]:
    return [e.address + i for e in found for i in range(e.size)]


def spelled(found: Segments) -> list[int]:
    runs = zip(found.addresses.tolist(), found.lengths.tolist(), strict=True)
    return [address + i for address, length in runs for i in range(length)]


@given(st.data(), extents())
def test_segments_are_the_bytes_of_the_range_in_as_few_runs_as_can_be(
    data: st.DataObject, found: Extents
) -> None:
    offset = data.draw(st.integers(0, found.size - 1))
    size = data.draw(st.integers(1, found.size - offset))
    segments = Segments.of(found, offset, size)
    assert spelled(segments) == per_byte(found)[offset : offset + size]
    ends = segments.addresses + segments.lengths.astype(np.uint64)
    assert not (ends[:-1] == segments.addresses[1:]).any()
    assert segments.size == size
    assert segments.addresses.dtype == np.uint64
    assert segments.lengths.dtype == np.int64


@given(st.data(), extents(), extents(), st.integers(1, 40))
def test_moves_take_each_byte_to_its_place_and_cross_no_border(
    data: st.DataObject, source: Extents, destination: Extents, longest: int
) -> None:
    size = data.draw(st.integers(1, min(source.size, destination.size)))
    taken, given_ = Segments.of(source, 0, size), Segments.of(destination, 0, size)
    moves = pair(taken, given_, longest)
    steps = list(
        zip(
            moves.sources.tolist(), moves.destinations.tolist(), moves.lengths.tolist(), strict=True
        )
    )
    assert [s + i for s, _, n in steps for i in range(n)] == per_byte(source)[:size]
    assert [d + i for _, d, n in steps for i in range(n)] == per_byte(destination)[:size]
    assert all(0 < n <= longest for _, _, n in steps)
    assert len(moves) <= len(taken) + len(given_) + size // longest


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (-1, 4), (0, -1)])
def test_no_part_is_refused(offset: int, size: int) -> None:
    with pytest.raises(InvalidArgs):
        Segments.of(Extents.run(0, 64), offset, size)


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (63, 2)])
def test_a_range_beyond_the_pin_is_refused(offset: int, size: int) -> None:
    with pytest.raises(OutOfRange) as caught:
        Segments.of(Extents.run(0, 64), offset, size)
    assert caught.value.limit == 64


@pytest.mark.parametrize(("address", "size"), [(0, 0), (-1, 2), ((1 << 64) - 1, 2), (1 << 64, 1)])
def test_no_range_of_addresses_is_refused(address: int, size: int) -> None:
    with pytest.raises(InvalidArgs):
        Segments.run(address, size)


def test_the_last_byte_decides_what_a_device_reaches() -> None:
    Segments.run((1 << 64) - 16, 16).refuse_beyond(64)
    Segments.run((1 << 28) - 16, 16).refuse_beyond(28)
    with pytest.raises(OutOfReach):
        Segments.run((1 << 28) - 16, 17).refuse_beyond(28)


def test_out_of_reach_names_the_run_and_its_offset() -> None:
    addresses = np.array([0x1000, 1 << 30, 0x3000], dtype=np.uint64)
    found = Segments.of(Extents.scattered(addresses, CHUNK, 3 * CHUNK), 4, 2 * CHUNK)
    with pytest.raises(OutOfReach) as caught:
        found.refuse_beyond(28)
    assert caught.value.extent == pf.Extent(pf.DevVa(1 << 30), CHUNK - 4, CHUNK)
    assert caught.value.limit == 1 << 28


def test_sizes_must_agree() -> None:
    with pytest.raises(InvalidArgs):
        pair(Segments.run(0, 4), Segments.run(0, 5), 4)
