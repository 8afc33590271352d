# Placing blocks in an address space: device addresses, simulated frames.
#
# Next fit. The cursor moves on, so an address that was given back is not given out again until the
# space has been walked once, and a device that uses it too late meets nothing instead of somebody
# else's memory. Above the highest block ever placed everything is free, so placing there costs no
# search; that is where a 64-bit space spends its life.
from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from pinfold.memory.ranges import RangeMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.memory.ranges import Interval

V = TypeVar("V")

_PROBES: Final = 64
"""Gaps that a search for a low address looks at: what it costs does not grow with what is live."""


class Placement(Generic[V]):
    """Blocks with values in the address ranges of ``apertures`` (ascending, disjoint).

    ``guard`` bytes stay free after every block, so that a run past its end meets nothing.
    ``lowest`` prefers low addresses: it tries the lowest gaps first, `_PROBES` of them, before it
    goes on from the cursor. Without it an address is not given out again until the space has been
    walked once.
    """

    __slots__ = ("_apertures", "_cursor", "_guard", "_hint", "_lowest", "_top", "blocks")

    def __init__(
        self, apertures: Sequence[Interval], *, guard: int = 0, lowest: bool = False
    ) -> None:
        self._apertures = tuple(apertures)
        self._guard = guard
        self._lowest = lowest
        self._cursor = self._top = self._hint = self._apertures[0][0]
        self.blocks: RangeMap[V] = RangeMap()

    def place(self, size: int, align: int, value: V) -> int | None:
        """Put a block somewhere; its address, or None where no gap is left.

        ``align`` is a power of two.
        """
        start = self._cursor + align - 1 & -align
        if self._lowest or start < self._top or not self._fits(start, size):
            found = self._first_fit(self._hint, size, align, _PROBES) if self._lowest else None
            if found is None:
                found = self._search(size, align)
            if found is None:
                return None
            start = found
        end = start + size
        if start == self._hint:
            self._hint = end + self._guard
        self.blocks.append(start, end, value)
        self._cursor = end + self._guard
        if end > self._top:
            self._top = end + self._guard
        return start

    def remove(self, start: int) -> V:
        """Take the block at ``start`` away."""
        if start < self._hint:
            self._hint = start
        return self.blocks.pop(start)[1]

    @property
    def size(self) -> int:
        """Bytes in all the apertures."""
        return sum(high - low for low, high in self._apertures)

    def largest_gap(self, align: int = 1) -> int:
        """Bytes in the largest block that `place` would find a gap for; for messages."""
        best, guard = 0, self._guard
        for low, high in self._apertures:
            for start, stop in self.blocks.gaps(low, high):
                first = start if start == low else start + guard  # behind a block
                last = stop if stop == high else stop - guard
                best = max(best, last - (first + align - 1 & -align))
        return best

    def _fits(self, start: int, size: int) -> bool:
        for low, high in self._apertures:  # noqa: SIM110 - a generator would cost a tenth of a pin
            if low <= start and start + size <= high:
                return True
        return False

    def _search(self, size: int, align: int) -> int | None:
        """First fit from the cursor up, then from the bottom."""
        found = self._first_fit(self._cursor, size, align)
        return self._first_fit(0, size, align) if found is None else found

    def _first_fit(
        self, floor: int, size: int, align: int, probes: int | None = None
    ) -> int | None:
        """The lowest gap at or above ``floor``, if one is among the first ``probes``."""
        for low, high in self._apertures:
            at = max(low, floor) + align - 1 & -align
            while at + size <= high:
                # A block in the way, with its guard: the last that begins before our end.
                below = self.blocks.at_or_below(at + size + self._guard - 1)
                if below is None or below[1] + self._guard <= at:
                    return at
                if probes is not None:
                    probes -= 1
                    if probes < 0:
                        return None
                at = below[1] + self._guard + align - 1 & -align
        return None
