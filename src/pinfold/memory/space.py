# Placing blocks in an address space: device addresses, simulated frames.
#
# Next fit. The cursor moves on, so an address that was given back is not given out again until the
# space has been walked once, and a device that uses it too late meets nothing instead of somebody
# else's memory. Above the highest block ever placed everything is free, so placing there costs no
# search; that is where a 64-bit space spends its life.
from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from pinfold.memory.ranges import RangeMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.memory.ranges import Interval

V = TypeVar("V")


class Placement(Generic[V]):
    """Blocks with values in the address ranges of ``apertures`` (ascending, disjoint).

    ``guard`` bytes stay free after every block, so that a run past its end meets nothing.
    ``lowest`` starts each search at the lowest free address instead of at the cursor.
    """

    __slots__ = ("_apertures", "_cursor", "_guard", "_lowest", "_top", "blocks")

    def __init__(
        self, apertures: Sequence[Interval], *, guard: int = 0, lowest: bool = False
    ) -> None:
        self._apertures = tuple(apertures)
        self._guard = guard
        self._lowest = lowest
        self._cursor = self._top = self._apertures[0][0]
        self.blocks: RangeMap[V] = RangeMap()

    def place(self, size: int, align: int, value: V) -> int | None:
        """Put a block somewhere; its address, or None where no gap is left."""
        start = -(-self._cursor // align) * align
        if start < self._top or not self._fits(start, size):
            found = self._search(size, align)
            if found is None:
                return None
            start = found
        end = start + size
        self.blocks.append(start, end, value)
        self._cursor = end + self._guard
        if end > self._top:
            self._top = end + self._guard
        return start

    def place_at(self, start: int, size: int, value: V) -> None:
        """Put a block at ``start``, which the caller knows to be free."""
        self.blocks.insert(start, start + size, value)
        self._top = max(self._top, start + size + self._guard)

    def remove(self, start: int) -> V:
        """Take the block at ``start`` away."""
        if self._lowest and start < self._cursor:
            self._cursor = start
        return self.blocks.pop(start)[1]

    def largest_gap(self) -> int:
        """Bytes in the largest free range, guards not counted; for messages."""
        best = 0
        for low, high in self._apertures:
            for start, stop in self.blocks.gaps(low, high):
                best = max(best, stop - start)
        return best

    def _fits(self, start: int, size: int) -> bool:
        return any(low <= start and start + size <= high for low, high in self._apertures)

    def _search(self, size: int, align: int) -> int | None:
        """First fit from the cursor up, then from the bottom."""
        for floor in (self._cursor, 0):
            for low, high in self._apertures:
                at = -(-max(low, floor) // align) * align
                while at + size <= high:
                    # A block in the way, with its guard: the last that begins before our end.
                    below = self.blocks.at_or_below(at + size + self._guard - 1)
                    if below is None or below[1] + self._guard <= at:
                        return at
                    at = -(-(below[1] + self._guard) // align) * align
        return None
