# How often each page of one memory object is pinned.
#
# Pins come in two shapes: very many small ones (ring entries, descriptors), and few large ones
# (whole buffers). Small pins are counted in a byte a page, in chunks that exist only where a small
# pin has been, because a byte in a bytearray is the cheapest count there is. Large pins are counted
# as intervals, because a terabyte must not cost a quarter of a billion bytes of books. A page's
# count is the sum of the two, and no caller can tell.
#
# Beside the pins there are holds: of memory that is held by address, for no device. Any part of a
# hold can end by itself, and there is no limit to how many a page has. A page that is held is
# pinned, to whoever would take it.
#
# Zircon counts to 31 (five bits in its page structure), so a byte is more than enough.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import Unavailable
from pinfold.memory.ranges import RangeCounts, RangeSet
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_PINS: Final = 31
"""Pins that one page can carry. Source: Zircon, VM_PAGE_OBJECT_MAX_PIN_COUNT."""

_CHUNK_SHIFT: Final = 10
_CHUNK: Final = 1 << _CHUNK_SHIFT  # pages counted by one bytearray
_CHUNK_MASK: Final = _CHUNK - 1
_KEPT_CHUNKS: Final = 64
LARGE: Final = _CHUNK
"""A pin of this many pages or more is counted as an interval."""


class PinCounts:
    """Pin counts by page number. Ranges are ``[first, last)`` in pages and never empty."""

    __slots__ = (
        "_chunks",
        "_from",
        "_held",
        "_holds",
        "_large",
        "_large_pins",
        "_most",
        "pinned_pages",
    )

    def __init__(self) -> None:
        self._most: int | None = MAX_PINS
        self._from = LARGE  # pages; pins of so many are intervals
        self._chunks: dict[int, bytearray] = {}
        self._large = RangeCounts()
        self._large_pins = 0  # of which the intervals are made; asked for on every small pin
        self._held = RangeCounts()
        self._holds = 0  # pages in it, each as often as it is held; asked for on every small pin
        self.pinned_pages = 0
        """Pages with a count above 0."""

    def lift_limit(self) -> None:
        """Let pages be pinned any number of times. Before anything is pinned."""
        self._most = None
        self._from = 1  # a byte counts to 255
        self._large_pins = 1  # never the hot path

    def raise_(self, first: int, last: int) -> int:
        """Count one more pin of each page; how many pages were not pinned before.

        Raises:
          Unavailable: a page is pinned `MAX_PINS` times already; nothing changed.
        """
        if last - first == 1 and not self._large_pins:  # the hot path: a few byte operations
            chunk = self._chunks.get(first >> _CHUNK_SHIFT)
            if chunk is None:
                chunk = self._chunks[first >> _CHUNK_SHIFT] = bytearray(_CHUNK)
            index = first & _CHUNK_MASK
            count = chunk[index]
            if count == MAX_PINS:
                raise _too_often(first)
            chunk[index] = count + 1
            if count or (self._holds and self._held.count(first)):
                return 0
            self.pinned_pages += 1
            return 1
        if self._most is not None:
            self._refuse_overflow(first, last)
        fresh = self._count_zero(first, last)
        if last - first >= self._from:
            self._large.raise_(first, last)
            self._large_pins += 1
        else:
            for part in self._small(first, last):
                part += 1
        self.pinned_pages += fresh
        return fresh

    def lower(self, first: int, last: int) -> int:
        """Undo one `raise_` of exactly this range; how many pages are no longer pinned.

        The caller owns a pin of exactly this range: counts are not checked against others' ranges.
        """
        if last - first == 1 and not self._large_pins:
            chunk = self._chunks[first >> _CHUNK_SHIFT]
            index = first & _CHUNK_MASK
            count = chunk[index]
            if not count:
                raise ValueError(f"page {first:#x} is not pinned")
            chunk[index] = count - 1
            if count > 1 or (self._holds and self._held.count(first)):
                return 0
            self.pinned_pages -= 1
            return 1
        if last - first >= self._from:
            self._large.lower(first, last)
            self._large_pins -= 1
            self._sweep()
        else:
            parts = list(self._small(first, last))
            if not all(part.all() for part in parts):
                raise ValueError(f"a page of [{first:#x}, {last:#x}) is not pinned")
            for part in parts:
                part -= 1
        freed = self._count_zero(first, last)
        self.pinned_pages -= freed
        return freed

    def hold(self, first: int, last: int) -> int:
        """Count one more hold of each page; how many pages nothing pinned or held before."""
        fresh = self._count_zero(first, last)
        self._held.raise_(first, last)
        self._holds += last - first
        self.pinned_pages += fresh
        return fresh

    def end_hold(self, first: int, last: int) -> int:
        """Undo one hold of each page, or of a part of what was held; how many pages are free now.

        Raises:
          ValueError: a page of the range is not held; nothing changed.
        """
        self._held.lower(first, last)
        self._holds -= last - first
        freed = self._count_zero(first, last)
        self.pinned_pages -= freed
        return freed

    def _sweep(self) -> None:
        """Let go of chunks that count nothing: a large pin looks at every chunk in its range.

        Not after every small pin, where the next one would make the same chunk again.
        """
        if len(self._chunks) > _KEPT_CHUNKS:
            self._chunks = {index: c for index, c in self._chunks.items() if any(c)}

    def count(self, page: int) -> int:
        """How often ``page`` is pinned."""
        chunk = self._chunks.get(page >> _CHUNK_SHIFT)
        small = chunk[page & _CHUNK_MASK] if chunk is not None else 0
        return small + self._large.count(page) + self._held.count(page)

    def first_pinned(self, first: int, last: int) -> int | None:
        """The lowest pinned page of ``[first, last)``."""
        if not self.pinned_pages or first >= last:
            return None
        found = [next((low for low, _, _ in book.runs(first, last)), last) for book in self._long]
        for at, part in self._present(first, last):
            nonzero = np.flatnonzero(part)
            if nonzero.size:
                found.append(at + int(nonzero[0]))
                break
        lowest = min(found)
        return lowest if lowest < last else None

    def pinned(self, first: int, last: int) -> RangeSet:
        """The pinned pages of ``[first, last)``."""
        found = RangeSet()
        for book in self._long:
            for low, high, _ in book.runs(first, last):
                found.add(low, high)
        for at, part in self._present(first, last):
            edges = np.flatnonzero(np.diff(part != 0, prepend=False, append=False))
            for low, high in edges.reshape(-1, 2).tolist():
                found.add(at + low, at + high)
        return found

    def _refuse_overflow(self, first: int, last: int) -> None:
        small = max((int(part.max()) for _, part in self._present(first, last)), default=0)
        if small + self._large.highest(first, last) < MAX_PINS:
            return
        # The two maxima may be of different pages: look again, interval by interval.
        for low, high, large in list(self._large.runs(first, last)) + [
            (low, high, 0) for low, high in self._large.gaps(first, last)
        ]:
            if large >= MAX_PINS:
                raise _too_often(low)
            for at, part in self._present(low, high):
                full = np.flatnonzero(part >= MAX_PINS - large)
                if full.size:
                    raise _too_often(at + int(full[0]))

    def _count_zero(self, first: int, last: int) -> int:
        """How many pages of the range have count 0."""
        zero = 0
        for start, stop in self._large.gaps(first, last):
            for low, high in self._held.gaps(start, stop):
                zero += high - low
                zero -= sum(int(np.count_nonzero(part)) for _, part in self._present(low, high))
        return zero

    @property
    def _long(self) -> tuple[RangeCounts, RangeCounts]:
        """The counts that are kept as intervals."""
        return self._large, self._held

    def _small(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """Writable views of the byte counts of the range, made where they are missing."""
        for index in range(first >> _CHUNK_SHIFT, ((last - 1) >> _CHUNK_SHIFT) + 1):
            chunk = self._chunks.get(index)
            if chunk is None:
                chunk = self._chunks[index] = bytearray(_CHUNK)
            base = index << _CHUNK_SHIFT
            low, high = max(first - base, 0), min(last - base, _CHUNK)
            yield np.frombuffer(chunk, np.uint8, high - low, low)

    def _present(self, first: int, last: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(page, byte counts) of the chunks in the range that exist, ascending."""
        wanted = range(first >> _CHUNK_SHIFT, ((last - 1) >> _CHUNK_SHIFT) + 1)
        if len(self._chunks) < len(wanted):
            indices = sorted(index for index in self._chunks if index in wanted)
        else:
            indices = [index for index in wanted if index in self._chunks]
        for index in indices:
            base = index << _CHUNK_SHIFT
            low, high = max(first - base, 0), min(last - base, _CHUNK)
            yield base + low, np.frombuffer(self._chunks[index], np.uint8, high - low, low)


def _too_often(page: int) -> Unavailable:
    return Unavailable(
        "a page is pinned as often as a page can be",
        asked=page << PAGE_SHIFT,
        limit=MAX_PINS,
        remedy="unpin it somewhere, or share one pin of it",
    )
