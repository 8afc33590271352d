# Ordered disjoint intervals, three ways: to values, as a set, and with counts.
#
# Keys are plain ints (bytes or page numbers, the user says which) and ranges are half-open. Lookups
# and changes are logarithmic in the number of intervals and never depend on how long one is: a
# page and a million pages are the same work. The tests hold each class against a plain dict of
# single keys.
from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from sortedcontainers import SortedList

if TYPE_CHECKING:
    from collections.abc import Iterator

V = TypeVar("V")

Interval = tuple[int, int]

_FEW: Final = 8
"""So many intervals are looked through, one by one, sooner than they are put into order."""

_BACKLOG: Final = 256
"""Changes that may wait for the next question: it is kept short, so that no question takes long."""


def _start(interval: tuple[int, int, object]) -> int:
    return interval[0]


class RangeMap(Generic[V]):
    """Disjoint half-open intervals, each with a value, in ascending order.

    The order is brought up to date when somebody asks for it. An interval that comes and goes
    between two questions, as most pins do, never enters the sorted list at all.
    """

    __slots__ = ("_entries", "_fresh", "_sorted", "_stale")

    def __init__(self) -> None:
        self._entries: dict[int, tuple[int, V]] = {}  # start -> (stop, value)
        self._sorted: SortedList[int] = SortedList()
        self._fresh: set[int] = set()  # starts that are not in the list yet
        self._stale: set[int] = set()  # starts that are in the list still

    @property
    def _starts(self) -> SortedList[int]:
        if self._fresh or self._stale:
            self._catch_up()
        return self._sorted

    def _catch_up(self) -> None:
        for start in self._stale:
            self._sorted.remove(start)
        self._stale.clear()
        self._sorted.update(self._fresh)
        self._fresh.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[tuple[int, int, V]]:
        for start in self._starts:
            stop, value = self._entries[start]
            yield start, stop, value

    def insert(self, start: int, stop: int, value: V) -> None:
        """Add ``[start, stop)``.

        Raises:
          ValueError: it is empty or overlaps an interval that is there; nothing changed.
        """
        if start >= stop:
            raise ValueError(f"empty interval [{start:#x}, {stop:#x})")
        starts = self._starts
        at = starts.bisect_left(stop)
        if at and self._entries[starts[at - 1]][0] > start:
            raise ValueError(f"[{start:#x}, {stop:#x}) overlaps an interval")
        self.append(start, stop, value)

    def append(self, start: int, stop: int, value: V) -> None:
        """Add an interval that the caller knows to be free. No check: for allocators that know."""
        self._entries[start] = (stop, value)
        if start in self._stale:
            self._stale.discard(start)
        else:
            self._fresh.add(start)
            if len(self._fresh) > _BACKLOG:
                self._catch_up()

    def pop(self, start: int) -> tuple[int, V]:
        """Remove the interval that begins at ``start``: its stop and value.

        Raises:
          KeyError: no interval begins there.
        """
        entry = self._entries[start]
        if start in self._fresh:
            self._fresh.discard(start)
        else:
            self._stale.add(start)
        del self._entries[start]
        if len(self._stale) > _BACKLOG:
            self._catch_up()
        return entry

    def find(self, key: int) -> tuple[int, int, V] | None:
        """The interval that holds ``key``."""
        below = self.at_or_below(key)
        return below if below is not None and key < below[1] else None

    def at_or_below(self, key: int) -> tuple[int, int, V] | None:
        """The interval with the greatest start that is not above ``key``."""
        if len(self._entries) <= _FEW:
            start = max((begin for begin in self._entries if begin <= key), default=None)
            return None if start is None else (start, *self._entries[start])
        at = self._starts.bisect_right(key)
        if not at:
            return None
        start = self._starts[at - 1]
        stop, value = self._entries[start]
        return start, stop, value

    def above(self, key: int) -> tuple[int, int, V] | None:
        """The interval with the smallest start above ``key``."""
        at = self._starts.bisect_right(key)
        if at == len(self._starts):
            return None
        start = self._starts[at]
        stop, value = self._entries[start]
        return start, stop, value

    def get(self, start: int) -> tuple[int, V] | None:
        """The stop and value of the interval that begins exactly at ``start``."""
        return self._entries.get(start)

    def onward(self, start: int) -> Iterator[tuple[int, int, V]]:
        """The intervals that begin at or above ``start``, ascending, found as they are asked for.

        For whoever stops at the first that will do. The map must not change meanwhile.
        """
        for begin in self._starts.irange(start):
            stop, value = self._entries[begin]
            yield begin, stop, value

    def overlapping(self, start: int, stop: int) -> list[tuple[int, int, V]]:
        """The whole intervals that share a key with ``[start, stop)``, ascending."""
        found: list[tuple[int, int, V]] = []
        if start >= stop or not self._entries:
            return found
        if len(self._entries) <= _FEW:
            for begin, (end, value) in self._entries.items():
                if begin < stop and start < end:
                    found.append((begin, end, value))
            if len(found) > 1:
                found.sort(key=_start)
            return found
        first = self.find(start)
        if first is not None:
            found.append(first)
        for begin in self._starts.irange(start, stop, inclusive=(False, False)):
            end, value = self._entries[begin]
            found.append((begin, end, value))
        return found

    def gaps(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of ``[start, stop)`` that no interval holds, ascending."""
        at = start
        for begin, end, _ in self.overlapping(start, stop):
            if at < begin:
                yield at, begin
            at = end
        if at < stop:
            yield at, stop

    def clear(self) -> None:
        """Remove everything."""
        for book in (self._sorted, self._fresh, self._stale, self._entries):
            book.clear()


class RangeSet:
    """A set of keys, kept as the fewest disjoint intervals."""

    __slots__ = ("_last", "_map", "total")

    def __init__(self) -> None:
        self._map: RangeMap[None] = RangeMap()
        self._last: Interval = (0, 0)  # the interval that covers() met last; empty when unknown
        self.total = 0
        """How many keys are in the set."""

    def __bool__(self) -> bool:
        return bool(self._map)

    def __iter__(self) -> Iterator[Interval]:
        for start, stop, _ in self._map:
            yield start, stop

    def __len__(self) -> int:
        """How many intervals the set takes."""
        return len(self._map)

    def covers(self, start: int, stop: int) -> bool:
        """True when every key of ``[start, stop)`` is in the set."""
        low, high = self._last
        if low <= start and stop <= high:
            return True
        found = self._map.find(start)
        if found is None:
            return start >= stop
        self._last = found[0], found[1]
        return stop <= found[1]

    def find(self, key: int) -> Interval | None:
        """The interval that holds ``key``."""
        found = self._map.find(key)
        return None if found is None else (found[0], found[1])

    def gaps(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of ``[start, stop)`` that are not in the set, ascending."""
        return self._map.gaps(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Put every key of ``[start, stop)`` into the set."""
        if start >= stop:
            return
        low, high = start, stop
        for begin, end, _ in self._map.overlapping(start - 1, stop + 1):  # neighbours merge
            self._map.pop(begin)
            self.total -= end - begin
            low, high = min(low, begin), max(high, end)
        self._map.append(low, high, None)
        self.total += high - low
        self._last = (low, high)

    def discard(self, start: int, stop: int) -> None:
        """Take every key of ``[start, stop)`` out of the set."""
        self._last = (0, 0)
        for begin, end, _ in self._map.overlapping(start, stop):
            self._map.pop(begin)
            self.total -= min(end, stop) - max(begin, start)
            if begin < start:
                self._map.append(begin, start, None)
            if stop < end:
                self._map.append(stop, end, None)


class RangeCounts:
    """A count for every key: 0 but for finitely many intervals, never below 0."""

    __slots__ = ("_map",)

    def __init__(self) -> None:
        self._map: RangeMap[int] = RangeMap()

    def __bool__(self) -> bool:
        """True when any count is not 0."""
        return bool(self._map)

    def __len__(self) -> int:
        """How many intervals of equal count there are."""
        return len(self._map)

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts of ``[start, stop)`` with a count above 0, as (start, stop, count)."""
        for begin, end, count in self._map.overlapping(start, stop):
            yield max(begin, start), min(end, stop), count

    def gaps(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of ``[start, stop)`` with count 0."""
        return self._map.gaps(start, stop)

    def count(self, key: int) -> int:
        """The count at ``key``."""
        found = self._map.find(key)
        return found[2] if found is not None else 0

    def highest(self, start: int, stop: int) -> int:
        """The greatest count in ``[start, stop)``."""
        return max((count for _, _, count in self._map.overlapping(start, stop)), default=0)

    def lowest(self, start: int, stop: int) -> int:
        """The smallest count in ``[start, stop)``."""
        if next(self.gaps(start, stop), None) is not None:
            return 0
        return min((count for _, _, count in self._map.overlapping(start, stop)), default=0)

    def raise_(self, start: int, stop: int) -> list[Interval]:
        """Add 1 throughout ``[start, stop)``; the parts that went from 0 to 1."""
        fresh = list(self.gaps(start, stop))
        self._shift(start, stop, 1)
        return fresh

    def lower(self, start: int, stop: int) -> list[Interval]:
        """Take 1 away throughout ``[start, stop)``; the parts that went from 1 to 0.

        Raises:
          ValueError: a count in the range is 0; nothing changed.
        """
        hole = next(self.gaps(start, stop), None)
        if hole is not None:
            raise ValueError(f"the count at {hole[0]:#x} is already 0")
        freed = [(a, b) for a, b, count in self.runs(start, stop) if count == 1]
        self._shift(start, stop, -1)
        return freed

    def _shift(self, start: int, stop: int, by: int) -> None:
        """Rebuild the touched intervals, neighbours included, with equal counts merged."""
        if start >= stop:
            return
        pieces: list[tuple[int, int, int]] = []

        def put(low: int, high: int, count: int) -> None:
            if low >= high or count == 0:
                return
            if pieces and pieces[-1][1] == low and pieces[-1][2] == count:
                low = pieces.pop()[0]
            pieces.append((low, high, count))

        at = start
        for begin, end, count in self._map.overlapping(start - 1, stop + 1):
            self._map.pop(begin)
            put(begin, min(end, start), count)
            low, high = max(begin, start), min(end, stop)
            if low < high:
                put(at, low, by)
                put(low, high, count + by)
                at = high
            if end > stop:
                put(at, stop, by)
                at = stop
                put(max(begin, stop), end, count)
        put(at, stop, by)
        for low, high, count in pieces:
            self._map.append(low, high, count)
