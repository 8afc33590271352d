# Keeping address ranges of this process in memory, with nesting counts of our own.
#
# mlock has no count: two locks and one unlock leave a range unlocked. So the counts are here, over
# any address range, and the kernel is asked only when a page goes from 0 to 1 or from 1 to 0. Locks
# that somebody takes on the same pages past this table end with ours: Linux has one flag for both.
#
# mlock can also fail half way: the part before a hole stays locked, and a range that cannot be
# populated is flagged locked as a whole. After a failure everything that was not locked before is
# unlocked again. All or nothing.
#
# The undo can be refused as well. What then may differ between the kernel and the counts is kept as
# "unsettled", and every later call tries again to bring it in line. The order in which that is
# written down is what makes it true: a range enters the unsettled set before the call that may go
# wrong, and leaves it after.
#
# No MADV_POPULATE_WRITE before the lock. Where memory is private and writable, mlock itself faults
# for writing, so that the zero page is never what gets locked. Where it is shared, populating for
# writing would dirty every page of somebody's file for nothing. Where it is not writable, it fails.
# And it would take the memory before the limit has been asked. What remains is a private mapping
# without write permission that nobody has written to: its lock holds the zero page, and the page
# that a later mprotect and write bring is locked when it comes.
#
# One table per process: locks belong to its address space. A forked child inherits none (mlock(2)).
#
# Locks: the table's own is the last in the order of memory/locks.py, and is held while the kernel
# works. A finaliser never waits for it: see `Residency.drop`.
#
# Source: mlock(2), and measurements on Linux 6.18 of what each failure leaves behind.
from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pinfold.errors import (
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotFound,
    PinfoldError,
)
from pinfold.host import calls, mm, probe
from pinfold.host.abi import EHWPOISON
from pinfold.memory.hosterrors import translated
from pinfold.memory.locks import KernelLock, log
from pinfold.memory.ranges import RangeCounts, RangeSet
from pinfold.units import HostVa, human_size, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.memory.ranges import Interval

_ADDRESS_SPACE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class ResidencyStatistics:
    """What this process keeps resident through pinfold."""

    locked_bytes: int
    """Bytes with a count above 0."""
    ranges: int
    """Runs of equal count."""
    unsettled_bytes: int
    """Bytes whose lock may not be what the count says, because the kernel refused to change it."""
    limit: int | None
    """RLIMIT_MEMLOCK in bytes; None where it does not bind this process."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What a finaliser left to be done."""

    settle: Callable[[], None]


class Residency:
    """Nesting mlock counts over the addresses of this process."""

    def __init__(self) -> None:
        self._lock = KernelLock()
        self._counts = RangeCounts()
        self._locked_bytes = 0
        self._unsettled = RangeSet()

    def lock(self, address: HostVa, size: int) -> int:
        """Keep every page that ``[address, address + size)`` touches in memory; counts nest.

        Returns:
          Bytes, in whole pages, that nobody had locked before.

        Raises:
          InvalidArgs: ``size`` is not above 0, or the range leaves the address space.
          LimitReached: RLIMIT_MEMLOCK would be passed (``.limit``), or the map count.
          NotFound: part of the range is not mapped (``.asked`` is where).
          NoMemory: the host has no memory for a page.
          HostError: a page cannot be had (no access, past the end of a file, poisoned), or the
            reason could not be found out.

        After a failure no count has changed and nothing new is locked. Where the kernel refused
        even to undo, the error has a note of it and `statistics` counts it as unsettled.
        """
        start, stop = _pages(address, size)
        with self._lock:
            self._settle()
            fresh = list(self._counts.gaps(start, stop))
            wanted = [*fresh, *self._lapsed(start, stop)] if self._unsettled else fresh
            tried = 0
            try:
                for low, high in wanted:
                    tried += 1  # before the call: a failed one may have locked a part
                    mm.lock(HostVa(low), high - low)
            except OSError as error:
                raise self._refusal(error, wanted[:tried]) from error
            except BaseException:
                self._restore_all(wanted[:tried])
                raise
            self._counts.raise_(start, stop)
            if self._unsettled:
                self._unsettled.discard(start, stop)
            locked = sum(high - low for low, high in fresh)
            self._locked_bytes += locked
            return locked

    def unlock(self, address: HostVa, size: int) -> int:
        """Undo one `lock` of the same range.

        What was unmapped meanwhile is not locked any more, and only its count goes down.

        Returns:
          Bytes, in whole pages, that nobody has locked now.

        Raises:
          InvalidArgs: as `lock`.
          NotFound: a page of it is not locked; nothing changed.
          HostError: the kernel refused; no count has changed, what this call had unlocked is locked
            again, and it may be tried again.
        """
        start, stop = _pages(address, size)
        with self._lock:
            self._settle()
            hole = next(self._counts.gaps(start, stop), None)
            if hole is not None:
                raise NotFound("not locked", asked=hole[0], remedy="unlock what was locked, once")
            ending = [(a, b) for a, b, count in self._counts.runs(start, stop) if count == 1]
            tried = 0
            try:
                for low, high in ending:
                    tried += 1
                    _unlock_mapped(low, high)
            except OSError as error:
                remedy = None
                if error.errno == errno.ENOMEM:  # it wants to split a mapping
                    remedy = "raise vm.max_map_count, or lock and unlock whole mappings"
                told = HostError(f"munlock [{low:#x}, {high:#x})", error, remedy=remedy)
                for refused in self._restore_all(ending[:tried]):
                    told.add_note(f"locking it again was refused too: {refused}")
                raise told from error
            except BaseException:
                self._restore_all(ending[:tried])
                raise
            self._counts.lower(start, stop)
            return self._freed(ending)

    def renew(self, address: HostVa, size: int) -> None:
        """Lock again what is counted: other memory may be there by now. Errors as `lock`."""
        start, stop = _pages(address, size)
        with self._lock:
            try:
                mm.lock(HostVa(start), stop - start)
            except OSError as error:
                raise self._refusal(error, [(start, stop)]) from error

    def drop(self, address: HostVa, size: int, view: memoryview) -> None:
        """Undo one `lock` as soon as the table is free, then release ``view``. Never waits.

        For finalisers, which may run on a thread that is inside this very table. There is nobody to
        raise to and nobody to try again, so the count goes down whatever the kernel says, and what
        it refuses is logged and unsettled. ``view`` keeps the memory until then: given back
        earlier, its addresses could hold something else by the time they are unlocked.
        """
        start, stop = _pages(address, size)
        self._lock.post(_Left(partial(self._give_up, start, stop, view)))

    def count(self, address: HostVa) -> int:
        """How often the page at ``address`` is locked."""
        with self._lock:
            return self._counts.count(page_down(address))

    def statistics(self) -> ResidencyStatistics:
        """The table as a frozen record, after another attempt at what is unsettled.

        Raises:
          HostError: the limit could not be read.
        """
        with translated("reading the limit on locked memory"):
            limit = None if probe.may_exceed_memlock() else probe.memlock_limit()
        with self._lock:
            self._settle()
            return ResidencyStatistics(
                locked_bytes=self._locked_bytes,
                ranges=len(self._counts),
                unsettled_bytes=self._unsettled.total,
                limit=limit,
            )

    # With the table's lock held ------------------------------------------------------------------

    def _give_up(self, start: int, stop: int, view: memoryview) -> None:
        freed = self._counts.lower(start, stop)
        self._freed(freed)
        for refused in self._restore_all(freed):
            log.warning("a dropped lock could not be undone yet: %s", refused)
        view.release()

    def _freed(self, ended: list[Interval]) -> int:
        """Book intervals whose count has reached 0; their bytes."""
        if self._unsettled:
            for low, high in ended:
                self._unsettled.discard(low, high)
        size = sum(high - low for low, high in ended)
        self._locked_bytes -= size
        return size

    def _settle(self) -> None:
        """Try again what the kernel refused before."""
        if self._unsettled:
            self._restore_all(list(self._unsettled))

    def _lapsed(self, start: int, stop: int) -> Iterator[Interval]:
        """The parts of ``[start, stop)`` that are counted but may have lost the kernel's lock."""
        for low, high in list(self._unsettled):
            for begin, end, _ in self._counts.runs(max(low, start), min(high, stop)):
                yield begin, end

    def _restore_all(self, intervals: list[Interval]) -> list[OSError]:
        """Bring the kernel's locks there in line with the counts, the last first; its refusals."""
        for low, high in intervals:  # all of them first: the next line may be interrupted
            self._unsettled.add(low, high)
        return [
            refused for low, high in reversed(intervals) for refused in self._restore(low, high)
        ]

    def _restore(self, low: int, high: int) -> Iterator[OSError]:
        for begin, end in list(self._counts.gaps(low, high)):
            try:
                _unlock_mapped(begin, end)
            except OSError as error:
                yield error
            else:
                self._unsettled.discard(begin, end)
        for begin, end, _ in list(self._counts.runs(low, high)):
            try:
                mm.lock(HostVa(begin), end - begin)
            except OSError as error:
                yield error
            else:
                self._unsettled.discard(begin, end)

    def _refusal(self, error: OSError, tried: list[Interval]) -> PinfoldError:
        """Undo what a failed `lock` tried, the last of which the kernel refused; say why."""
        low, high = tried[-1]
        refused: list[OSError] = []
        told: PinfoldError
        try:
            told = self._reason(error, tried, refused)
        except (OSError, MemoryError) as probing:  # no /proc, or no memory to read it into
            told = HostError(f"mlock [{low:#x}, {high:#x})", error)
            told.add_note(f"why could not be looked up: {probing}")
            refused += self._restore_all(tried[-1:])
        refused += self._restore_all(tried[:-1])
        for failure in refused:
            told.add_note(f"undoing it failed too, part may stay locked for now: {failure}")
        return told

    def _reason(
        self, error: OSError, tried: list[Interval], refused: list[OSError]
    ) -> PinfoldError:
        """Which of mlock's reasons it was, found by undoing it. Source: mlock(2) ERRORS.

        ENOMEM is four stories, told apart by what the failed call has left behind: with a hole, or
        pages that cannot be had, the range was flagged locked and VmLck falls when it is unlocked;
        over the limit, or out of mappings, nothing had changed. Asking about the limit first would
        blame it for the flags of the failed call itself.
        """
        low, high = tried[-1]
        where = f"mlock [{low:#x}, {high:#x})"
        out_of_memory = error.errno == errno.ENOMEM
        hole = _first_hole(low, high) if out_of_memory else None
        before = probe.process_memory().locked
        refused += self._restore_all(tried[-1:])
        after = probe.process_memory().locked
        if hole is not None:
            return NotFound("part of the range is not mapped", asked=hole)
        if error.errno == errno.EAGAIN:
            return NoMemory(f"{where}: no memory for a page", asked=high - low)
        if error.errno == errno.EPERM or (out_of_memory and _over_limit(after, high - low)):
            return self._over_limit(after, tried)
        if not out_of_memory:
            return HostError(where, error)
        if after < before or refused:
            cause = _cannot_populate(low, high - low) or error
            why = _WHY_NOT.get(cause.errno or 0, "a page cannot be had")
            return HostError(f"{where}: {why}", cause)
        return LimitReached(
            "mlock would split a mapping, and the process has as many as it may",
            asked=high - low,
            limit=probe.max_map_count(),
            remedy="raise vm.max_map_count, or lock whole mappings",
        )

    def _over_limit(self, locked: int, tried: list[Interval]) -> LimitReached:
        """The refusal; ``locked`` still counts what the call had locked before it failed."""
        own = sum(high - low for low, high in tried[:-1])
        asked = own + tried[-1][1] - tried[-1][0]
        limit = page_down(probe.memlock_limit() or 0)
        holder = f"this process, {human_size(self._locked_bytes)} through pinfold"
        return LimitReached(
            f"mlock of {human_size(asked)} would pass the limit on locked memory",
            asked=asked,
            available=max(0, limit - (locked - own)),
            limit=limit,
            holder=holder if locked > own else None,
            remedy="raise RLIMIT_MEMLOCK, or grant CAP_IPC_LOCK",
        )


_WHY_NOT: Final = {
    errno.EINVAL: "the memory may not be read",
    errno.EFAULT: "nothing is behind a page: past the end of its file, or a guard page",
    EHWPOISON: "a page is broken memory",
}
"""What populating says of a page that cannot be had. Source: madvise(2), MADV_POPULATE_READ."""


def address_of(view: memoryview) -> HostVa:
    """Where the first byte of a contiguous buffer is; see `pinfold.host.calls.address_of`."""
    return HostVa(calls.address_of(view))


def _pages(address: int, size: int) -> Interval:
    """The whole pages that ``[address, address + size)`` touches."""
    if size <= 0:
        raise InvalidArgs("a lock covers at least one byte", asked=size)
    start, stop = page_down(address), page_up(address + size)
    if start < 0 or stop > _ADDRESS_SPACE:  # ctypes would cut it, and lock something else
        raise InvalidArgs("the range leaves the address space", asked=size, limit=_ADDRESS_SPACE)
    return start, stop


def _over_limit(locked: int, size: int) -> bool:
    limit = probe.memlock_limit()
    if limit is None or probe.may_exceed_memlock():
        return False
    return locked + size > page_down(limit)


def _first_hole(low: int, high: int) -> int | None:
    """Where the first unmapped page of the range is."""
    mapped = probe.mapped_ranges(low, high)
    if not mapped or mapped[0][0] > low:
        return low
    return mapped[0][1] if mapped[0][1] < high else None


def _unlock_mapped(low: int, high: int) -> None:
    """munlock what is mapped of a range. The kernel's own stops at the first hole."""
    try:
        mm.unlock(HostVa(low), high - low)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        mapped = probe.mapped_ranges(low, high)
        if mapped == [(low, high)]:  # no hole: it would split a mapping, and there are too many
            raise
        for begin, end in mapped:
            mm.unlock(HostVa(begin), end - begin)


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
