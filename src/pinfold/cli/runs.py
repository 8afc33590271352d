# What of a file goes through one slot of the buffer: mostly a chunk; where there are many holes,
# several runs between them, so that what each slot costs is not paid for each run.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.units import page_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Run(NamedTuple):
    """Bytes that lie together in both files."""

    place: int
    """Bytes into a slot, a page border."""
    at: int
    """Bytes into the files."""
    size: int


def slotfuls_of(segments: Iterable[tuple[int, int]], chunk: int) -> Iterator[list[Run]]:
    """Segments, (start, stop), as runs: as many together as a slot of ``chunk`` bytes holds."""
    runs: list[Run] = []
    used = 0
    for start, stop in segments:
        at = start
        while at < stop:
            size = min(chunk - used, stop - at)
            runs.append(Run(used, at, size))
            at += size
            used += page_up(size)
            if used == chunk:
                yield runs
                runs, used = [], 0
    if runs:
        yield runs


def joined(segments: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Segments, ascending by their starts, as ones that neither overlap nor touch."""
    start = stop = 0
    for low, high in segments:
        if low > stop:
            if stop > start:
                yield start, stop
            start = low
        stop = max(stop, high)
    if stop > start:
        yield start, stop
