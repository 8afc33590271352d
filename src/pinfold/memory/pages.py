# The pages of one memory object: absent, committed, pinned.
#
# This is the only place where a pin count changes. Nothing in Linux stops a hole from being punched
# in memory that a device is writing to: the device then writes to an orphan page that nobody sees.
# So every operation that could free a page asks the counts here first, and the counts are raised
# before a page is committed for a pin and lowered after the device has been shut out.
#
# Pages that we committed ourselves, in memory that nobody else can punch, are remembered, so that a
# pin of committed memory makes no system call.
#
# Lock: every method is called with the kernel's lock held, but for `commit`, `read_into` and
# `write_from`, which may take long and say so. Ranges are in bytes where they are called offset and
# size, in pages where they are called first and last.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import BadState, NoMemory, NotSupported
from pinfold.host import probe
from pinfold.memory.counts import PinCounts
from pinfold.memory.locks import held_by_this_thread, refuse_inside
from pinfold.memory.physmap import FrameRun
from pinfold.memory.ranges import RangeMap, RangeSet
from pinfold.units import MIB, PAGE_SHIFT, human_size, page_down, page_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.memory.backing import Backing
    from pinfold.memory.physmap import PhysicalMap

ASK_HOST_FROM: Final = 64 * MIB
"""A commit of so many bytes first asks whether the host has them; past its memory Linux kills."""


class Pages:
    """Page states and pin counts of one backing.

    Attributes:
      backing: where the bytes live.
    """

    __slots__ = (
        "__weakref__",
        "_committed",
        "_counts",
        "_frames",
        "_physmap",
        "backing",
        "charged",
        "epoch",
        "family",
        "kept",
    )

    def __init__(self, backing: Backing, physmap: PhysicalMap) -> None:
        self.backing = backing
        self.kept = False
        """True where pages are never given back: contiguous memory, device memory."""
        self.charged = True
        """False for device memory, whose pins hold no memory of the host's."""
        self._counts = PinCounts()
        self._committed = RangeSet()
        self.epoch = 0
        """Changes whenever pages are given back."""
        self.family: list[Pages] = [self]
        """Every object of the kernel over the same file, this one included: a hole that is punched
        through one is a hole in all."""
        self._physmap = physmap
        self._frames: RangeMap[FrameRun] = RangeMap()

    @property
    def page_count(self) -> int:
        """Pages in the object."""
        return self.backing.size >> PAGE_SHIFT

    @property
    def pinned_pages(self) -> int:
        """Pages with a pin count above 0."""
        return self._counts.pinned_pages

    # Pins ---------------------------------------------------------------------------------------

    def pin(self, first: int, last: int) -> int:
        """Count one more pin of each page; how many pages of memory nothing pinned before.

        Device memory is no memory of the host's: it can be pinned any number of times, and none of
        it counts against a limit. Source: Zircon, which does not count its pins at all; we do, for
        the sake of a file behind it.

        Raises:
          Unavailable: a page is pinned as often as a page can be; nothing changed.
        """
        fresh = self._counts.raise_(first, last)
        return fresh if self.charged else 0

    def unpin(self, first: int, last: int) -> int:
        """Undo one `pin` of exactly this range; how many pages of memory nothing pins now.

        The caller has shut the device out first.
        """
        freed = self._counts.lower(first, last)
        return freed if self.charged else 0

    def hold(self, first: int, last: int) -> int:
        """Hold each page, for no device; how many pages of memory nothing pinned before.

        Any part of it can be let go by itself, and no page can be held too often.
        """
        fresh = self._counts.hold(first, last)
        return fresh if self.charged else 0

    def end_hold(self, first: int, last: int) -> int:
        """Undo one `hold` of each page; how many pages of memory nothing pins now."""
        freed = self._counts.end_hold(first, last)
        return freed if self.charged else 0

    def pin_count(self, page: int) -> int:
        """How often one page is pinned or held."""
        return self._counts.count(page)

    def lowest_pinned(self, first: int, last: int) -> int | None:
        """The first page of ``[first, last)`` that is pinned through this object."""
        return self._counts.first_pinned(first, last)

    def pinned_runs(self, first: int, last: int) -> RangeSet:
        """The pages of ``[first, last)`` that are pinned through this object."""
        return self._counts.pinned(first, last)

    def first_pinned(self, offset: int, size: int) -> int | None:
        """Where the first page of a byte range begins that is pinned, by whatever way to it."""
        first, last = offset >> PAGE_SHIFT, page_up(offset + size) >> PAGE_SHIFT
        lowest = None
        for member in self.family:
            shift = self._shift_to(member)
            page = member.lowest_pinned(max(first + shift, 0), last + shift)
            if page is not None and (lowest is None or page - shift < lowest):
                lowest = page - shift
        return None if lowest is None else lowest << PAGE_SHIFT

    def _shift_to(self, member: Pages) -> int:
        """What to add to a page number of ours for the same page of the file in another's."""
        return (self.backing.base - member.backing.base) >> PAGE_SHIFT

    def refuse_if_pinned(self, what: str, offset: int, size: int, *, base: int = 0) -> None:
        """Raise `BadState` when a page of the range is pinned.

        Args:
          base: where byte 0 of the object that is spoken of is, for a slice.
        """
        pinned = self.first_pinned(offset, size)
        if pinned is not None:
            page = pinned >> PAGE_SHIFT
            counts = [member.pin_count(page + self._shift_to(member)) for member in self.family]
            raise BadState(
                f"cannot {what}: a device may be using the page at {pinned - base:#x}",
                asked=size,
                holder=f"{sum(counts)} pin(s)",
                remedy="unpin it first; Kernel.ledger says who pinned it",
            )

    # Commit and give back -----------------------------------------------------------------------

    def is_committed(self, first: int, last: int) -> bool:
        """True when the pages are known to be committed; False when that is not known."""
        return self._committed.covers(first, last)

    def commit(self, offset: int, size: int) -> None:
        """Give every page of a page-aligned range memory. Call without the kernel's lock.

        On failure some pages may be committed. `remember` afterwards, with the lock.

        Raises:
          NoMemory, NoSpace, HostError: see `Backing.commit`.
        """
        if size >= ASK_HOST_FROM:
            self._ask_host(offset, size)
        self.backing.commit(offset, size)

    def remember(self, offset: int, size: int, epoch: int | None = None) -> None:
        """Note that a range has been committed.

        Args:
          epoch: `epoch` from before the commit: the range is noted only if nobody has given pages
            back since. None where the caller's own pin has kept them.
        """
        if self.backing.exclusive and (epoch is None or epoch == self.epoch):
            self._committed.add(offset >> PAGE_SHIFT, (offset + size) >> PAGE_SHIFT)

    def _ask_host(self, offset: int, size: int) -> None:
        absent = size - sum(stop - start for start, stop in self.backing.data_runs(offset, size))
        refuse_beyond_host(absent)

    def decommit(self, offset: int, size: int, *, base: int = 0) -> None:
        """Give the memory of a page-aligned range back; it reads as zeros.

        Args:
          base: as `refuse_if_pinned`.

        Raises:
          BadState: a page is pinned; nothing changed.
          NotSupported: memory that is never given back.
        """
        if self.kept:
            raise NotSupported("contiguous and device memory is never given back")
        self.refuse_if_pinned("decommit", offset, size, base=base)
        if size:
            self._forget(offset, size)
            self.backing.punch(offset, size)

    def _forget(self, offset: int, size: int) -> None:
        self.epoch += 1
        self._committed.discard(offset >> PAGE_SHIFT, (offset + size) >> PAGE_SHIFT)

    def zero(self, offset: int, size: int) -> None:
        """Make a byte range read as zeros.

        Whole pages are given back; pinned pages, and pages that are never given back, are cleared
        in place and stay where they are. Parts of pages that hold something are written.
        """
        end = offset + size
        low, high = page_up(offset), page_down(end)
        if low >= high:
            self._zero_part(offset, size)
            return
        self._zero_part(offset, low - offset)
        self._zero_part(high, end - high)
        first, last = low >> PAGE_SHIFT, high >> PAGE_SHIFT
        staying = RangeSet()
        for member in self.family:
            shift = self._shift_to(member)
            for start, stop in member.pinned_runs(max(first + shift, 0), last + shift):
                staying.add(start - shift, stop - shift)
        if self.kept:
            staying.add(first, last)
        for start, stop in staying:
            self.backing.write_zeros(start << PAGE_SHIFT, (stop - start) << PAGE_SHIFT)
        for start, stop in staying.gaps(first, last):
            self.decommit(start << PAGE_SHIFT, (stop - start) << PAGE_SHIFT)

    def _zero_part(self, offset: int, size: int) -> None:
        """Clear a part of a page, or of two; a page that has no memory needs none for that."""
        for low, high in self.backing.data_runs(offset, size) if size else ():
            self.backing.write_zeros(low, high - low)

    def resize(self, size: int) -> None:
        """Change the size to ``size`` bytes, whole pages.

        Raises:
          BadState: a page that would be cut off is pinned; nothing changed.
        """
        old = self.backing.size
        if size < old:
            self.refuse_if_pinned("shrink", size, old - size)
            with self._physmap.lock:  # no device of an untranslated bus is at the pages meanwhile
                self._forget(size, old - size)
                self.backing.resize(size)
        else:
            self.backing.resize(size)

    # Bytes --------------------------------------------------------------------------------------

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer``; commits nothing. Needs no lock."""
        self.backing.read_into(buffer, offset)

    def write_from(self, buffer: memoryview, offset: int) -> None:
        """Write ``buffer``; commits what it touches. Needs no lock."""
        self.backing.write_from(buffer, offset)

    # Simulated physical addresses ---------------------------------------------------------------

    def make_contiguous(self, alignment: int) -> None:
        """Give the whole object one run of simulated frames; it is never given back again."""
        self._frames.insert(
            0, self.page_count, self._physmap.contiguous(self, self.page_count, alignment)
        )
        self.kept = True

    def show_at(self, address: int) -> None:
        """The object shows the device memory at a physical address."""
        run = FrameRun(self, 0, self.page_count, address, 0)
        self._frames.insert(0, self.page_count, run)
        self.kept = True
        self.charged = False
        self._counts.lift_limit()

    @property
    def contiguous(self) -> bool:
        """True when the whole object is one run of physical memory."""
        return self.kept

    def physical_addresses(self, first: int, last: int) -> NDArray[np.uint64]:
        """The simulated physical address of each page; frames are given out on first use."""
        for start, stop in list(self._frames.gaps(first, last)):
            self._frames.insert(start, stop, self._physmap.scatter(self, start, stop - start))
        parts = [
            run.addresses(max(start, first), min(stop, last))
            for start, stop, run in self._frames.overlapping(first, last)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def refuse_inside_access(self) -> None:
        """Raise `Unavailable` in a finaliser that runs inside an access to the pages, or a change.

        Closing then would free the descriptor that the access is about to use.
        """
        if held_by_this_thread(self._physmap.lock):
            self._physmap.notify_idle()
        refuse_inside(self._physmap.lock)
        refuse_inside(self.backing.lock)

    def close(self) -> None:
        """Give everything back. The caller has made sure that nothing is pinned.

        Raises:
          Unavailable: see `refuse_inside_access`; nothing was done.
        """
        held = self._counts.pinned_pages
        if held:
            raise BadState("memory with live pins cannot be freed", holder=f"{held} pinned page(s)")
        self.refuse_inside_access()
        self.family.remove(self)
        with self._physmap.lock:
            self.abandon()
            self.backing.close()

    def abandon(self) -> None:
        """Take its frames out of the physical map; no device finds them afterwards."""
        with self._physmap.lock:
            for _, _, run in self._frames:
                self._physmap.release(run)
            self._frames.clear()


def refuse_beyond_host(absent: int) -> None:
    """Raise `NoMemory` when the host has not so many bytes left."""
    available = probe.available_memory()
    if absent > available:
        raise NoMemory(
            f"committing {human_size(absent)} would need more memory than the host has left",
            asked=absent,
            available=available,
            remedy="ask for less, or free memory; committing it would end some process",
        )
