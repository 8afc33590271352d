# Keeping address ranges of this process in memory, with nesting counts of our own.
#
# mlock has no count: two locks and one unlock leave a range unlocked. So the counts are here, over
# any address range, and the kernel is asked only when a page goes from 0 to 1 or from 1 to 0.
#
# mlock can also fail half way: the part before a hole stays locked, and a range that cannot be
# populated is flagged locked as a whole. After a failure everything that was not locked before is
# unlocked again. All or nothing.
#
# One table per process, because locks belong to the process's address space. A forked child
# inherits none of the locks (mlock(2)), and so starts with an empty table.
#
# Source: mlock(2), and measurements on Linux 6.18 of what each failure leaves behind.
from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinfold.errors import HostError, LimitReached, NotFound, PinfoldError
from pinfold.host import mm, probe
from pinfold.memory.ranges import RangeCounts
from pinfold.units import PAGE_SIZE, HostVa, human_size, page_down, page_up

if TYPE_CHECKING:
    from pinfold.memory.ranges import Interval


@dataclass(frozen=True, slots=True)
class ResidencyStatistics:
    """What this process keeps resident through pinfold."""

    locked_bytes: int
    """Bytes with a count above 0."""
    ranges: int
    """Runs of equal count."""
    limit: int | None
    """RLIMIT_MEMLOCK in bytes; None where it does not bind this process."""


class Residency:
    """Nesting mlock counts over the addresses of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = RangeCounts()
        self._locked_bytes = 0

    def lock(self, address: HostVa, size: int) -> None:
        """Keep every page that ``[address, address + size)`` touches in memory; counts nest.

        Raises:
          LimitReached: RLIMIT_MEMLOCK would be passed (``.limit``), or the map count.
          NotFound: part of the range is not mapped (``.asked`` is where).
          HostError: a page cannot be had (no access, past the end of a file, poisoned).

        After a failure no count has changed and nothing new is locked.
        """
        start, stop = page_down(address), page_up(address + size)
        with self._lock:
            fresh = list(self._counts.gaps(start, stop))
            done: list[Interval] = []
            for low, high in fresh:
                try:
                    mm.lock(HostVa(low), high - low)
                except OSError as error:
                    done.append((low, high))  # the kernel may have locked a part of it
                    raise self._explain(error, low, high, done) from error
                except BaseException:
                    done.append((low, high))
                    self._undo(done)
                    raise
                done.append((low, high))
            self._counts.raise_(start, stop)
            self._locked_bytes += sum(high - low for low, high in fresh)

    def unlock(self, address: HostVa, size: int) -> None:
        """Undo one `lock` of the same range.

        Raises:
          NotFound: a page of it is not locked; nothing changed.
          HostError: the kernel refused; no count has changed.
        """
        start, stop = page_down(address), page_up(address + size)
        with self._lock:
            hole = next(self._counts.gaps(start, stop), None)
            if hole is not None:
                raise NotFound("not locked", asked=hole[0], remedy="unlock what was locked, once")
            ending = [
                (low, high) for low, high, count in self._counts.runs(start, stop) if count == 1
            ]
            for low, high in ending:
                try:
                    mm.unlock(HostVa(low), high - low)
                except OSError as error:
                    if error.errno != errno.ENOMEM:  # unmapped meanwhile: it is not locked any more
                        raise HostError(f"munlock [{low:#x}, {high:#x})", error) from error
            self._counts.lower(start, stop)
            self._locked_bytes -= sum(high - low for low, high in ending)

    def count(self, address: HostVa) -> int:
        """How often the page at ``address`` is locked."""
        return self._counts.count(page_down(address))

    def statistics(self) -> ResidencyStatistics:
        """The table as a frozen record."""
        with self._lock:
            return ResidencyStatistics(
                locked_bytes=self._locked_bytes,
                ranges=len(self._counts),
                limit=None if probe.may_exceed_memlock() else probe.memlock_limit(),
            )

    def _undo(self, ranges: list[Interval]) -> list[OSError]:
        """Unlock what this call locked; what the kernel refused."""
        refused = []
        for low, high in reversed(ranges):
            try:
                mm.unlock(HostVa(low), high - low)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    refused.append(error)
        return refused

    def _explain(self, error: OSError, low: int, high: int, done: list[Interval]) -> PinfoldError:
        """Undo, then say which of mlock's reasons it was. Source: mlock(2) ERRORS."""
        size = high - low
        hole = _first_hole(low, high) if error.errno == errno.ENOMEM else None
        refused = self._undo(done)
        told: PinfoldError
        if error.errno == errno.EPERM or (
            error.errno == errno.ENOMEM and hole is None and _over_limit(size)
        ):
            limit = probe.memlock_limit() or 0
            told = LimitReached(
                f"mlock of {human_size(size)} would pass the limit on locked memory",
                asked=size,
                available=max(0, limit - probe.process_memory().locked),
                limit=limit,
                remedy="raise RLIMIT_MEMLOCK, or grant CAP_IPC_LOCK",
            )
        elif hole is not None:
            told = NotFound("part of the range is not mapped", asked=hole)
        elif error.errno == errno.ENOMEM and (reason := _cannot_populate(low, size)) is not None:
            told = HostError(f"mlock [{low:#x}, {high:#x}): a page cannot be had", reason)
        elif error.errno == errno.ENOMEM:
            told = LimitReached(
                "mlock would split a mapping, and the process has as many as it may",
                asked=size,
                limit=probe.max_map_count(),
                remedy="raise vm.max_map_count, or lock whole mappings",
            )
        else:
            told = HostError(f"mlock [{low:#x}, {high:#x})", error)
        for failure in refused:
            told.add_note(f"undoing it failed too, part may stay locked: {failure}")
        return told


def _over_limit(size: int) -> bool:
    limit = probe.memlock_limit()
    if limit is None or probe.may_exceed_memlock():
        return False
    return probe.process_memory().locked + size > limit


def _first_hole(low: int, high: int) -> int | None:
    """Where the first unmapped page of the range is: bisection with mincore."""
    if _is_mapped(low, high):
        return None
    while high - low > PAGE_SIZE:
        middle = page_down((low + high) // 2)
        if _is_mapped(low, middle):
            low = middle
        else:
            high = middle
    return low


def _is_mapped(low: int, high: int) -> bool:
    try:
        mm.resident(HostVa(low), high - low)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return False
        raise
    return True


def _cannot_populate(low: int, size: int) -> OSError | None:
    try:
        mm.populate_read(HostVa(low), size)
    except OSError as error:
        return error
    return None


RESIDENCY = Residency()
"""The locks of this process."""


def _forget_parent() -> None:
    RESIDENCY.__init__()  # type: ignore[misc]  # the locks stayed with the parent's address space


os.register_at_fork(after_in_child=_forget_parent)
