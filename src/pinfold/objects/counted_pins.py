# Pins by address, counted by the page: short-term and long-term.
#
# Source: AIX pin, unpin, ltpin, ltunpin. Whole pages; counts that nest; two counters a page, of
# which either keeps it; a pin of all of a range or of none of it; an unpin that goes page by page
# from the low end and stops at the first page that is not pinned.
#
# A page is counted where its memory is, not where it was seen: what was pinned through one mapping
# is pinned for everybody who maps the object, and stays pinned when the mapping goes. It is
# unpinned through whatever shows it then.
#
# A *hold* is what a page has while either of its counters is above 0: a count in its object's books
# and a lock of the host's, both once. Holds are made for runs of pages and cut where an unpin ends.
#
# Orders that carry safety, as in memory/pinned.py:
#
#   pin     the books, THEN the pages are brought in and locked, THEN entered where the caller sees
#           them, THEN the counters
#   unpin   the host lets go, THEN the books and the counters
#
# Where the host refuses to let go, the page stays held and its counter as it was. Where it refuses
# to undo a failed pin, the hold stays without a counter, until the page is unpinned once more.
#
# Locks: the table's own, for as long as a pin takes, so that nobody is told that a page is pinned
# while another thread is still bringing it in; inside it the kernel's for the books, never while
# the host works.
from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pinfold import sites
from pinfold.errors import NotPinned, PinfoldError
from pinfold.memory.locks import KernelLock
from pinfold.memory.process_memory import enter
from pinfold.objects import paging
from pinfold.objects.holds import Book, Hold, Unpinned, address_in, pages_in
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.memory.pages import Pages
    from pinfold.memory.ranges import RangeCounts
    from pinfold.objects.addresses import Stretch
    from pinfold.objects.kernel import Kernel
    from pinfold.sites import Site


@dataclass(frozen=True, slots=True)
class CountedPinStatistics:
    """The counted pins of a kernel at one moment. Sizes in bytes."""

    held: int
    """Of pages that either counter holds."""
    long_term: int
    """Of pages that have a long-term pin."""
    paging_space: int | None
    """What there is of it; None for no limit."""
    paging_space_used: int
    """What is spoken for; 0 where nobody counts, because there is no limit."""


class CountedPins:
    """The counted pins of one kernel. Its `Kernel` has one, as ``counted``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = KernelLock()
        self.books: dict[Pages, Book] = {}
        self.hidden: WeakKeyDictionary[Pages, RangeCounts] = WeakKeyDictionary()
        """How often each page is wanted to be hidden from processors, while a device has it."""

    def pin(self, find: Callable[[], list[Stretch]], *, owner: str, long: bool = False) -> None:
        """Count one more pin of every page of a range: of all of them, or of none.

        Args:
          find: says what is in the range, and raises what is to be raised where it is not as it
            should be. Called with the kernel's lock held.
          owner: who answers for it, for people.
          long: count a long-term pin.

        Raises:
          LimitReached: the kernel's `max_pinned`, RLIMIT_MEMLOCK, or the map count.
          NoSpace: there is no paging space for what has to be brought in, or the file system behind
            it is full.
          NoMemory: the host has none.
          NotFound, HostError: see `Hold.take`.

        After a failure no counter has changed; pages may have been brought in.
        """
        kernel, site = self._kernel, sites.caller()
        with self._lock:
            taken: list[Hold] = []
            with kernel.lock:
                found = find()
                try:
                    for stretch in found:
                        self._reserve(stretch, owner, site, taken)
                    paging.refuse_without_room(kernel, taken)
                except BaseException:
                    for hold in reversed(taken):
                        self._strike(hold, hold.stretch.first, hold.stretch.last)
                    raise
            done = 0
            try:
                for hold in taken:
                    hold.take()
                    done += 1
                for stretch in found:  # locked through a window of ours, and seen elsewhere
                    if not stretch.own:
                        enter(stretch.start, stretch.stop)
            except BaseException as error:
                self._undo(taken, done, error)
                raise
            with kernel.lock:
                for hold in taken:
                    start, vmo = hold.stretch.first << PAGE_SHIFT, hold.stretch.vmo
                    vmo.pages.remember(start, hold.size)
                    vmo.body.own(start, start + hold.size)
                for stretch in found:
                    book = self.books[stretch.vmo.pages]
                    (book.long if long else book.short).raise_(stretch.first, stretch.last)

    def unpin(
        self,
        find: Callable[[], list[Stretch]],
        *,
        long: bool = False,
        whole: bool = False,
        done: Unpinned | None = None,
    ) -> None:
        """Take one pin from every page of a range, upwards, as far as they are pinned.

        Args:
          find: as for `pin`.
          long: of the long-term pins.
          whole: take all of them, or none.
          done: is told what was done, whether the call fails or not.

        Raises:
          NotPinned: a page is not pinned (``.asked`` is its address); those before it have lost one
            pin, unless ``whole``. The pages after it are as they were.
          Unavailable: no paging space is left for what long-term pins had none for; nothing
            changed.
          HostError: the kernel refused to unlock a page; it and those after it are as they were.
        """
        kernel, done = self._kernel, done or Unpinned()
        with self._lock:
            with kernel.lock:
                found = find()
                if whole:
                    for stretch in found:
                        self._refuse_unpinned(stretch, long=long)
                if long:
                    paging.refuse_to_page(kernel, self.books, found)
            for stretch in found:
                self._lower(stretch, done, long=long)

    def take_back(self, found: list[Stretch], error: BaseException) -> None:
        """Undo a `pin` of exactly this, because of ``error``; no counter keeps it.

        Where the host refuses to unlock a page, ``error`` gets a note, and the page stays held
        without a counter: see the head of this file.
        """
        with self._lock:
            for stretch in found:
                self._lower(stretch, Unpinned(), long=False, because=error)

    def is_pinned(self, stretch: Stretch) -> bool:
        """True when every page of it has a pin of either kind."""
        return self.first_unpinned(stretch) is None

    def has_pins(self, stretch: Stretch) -> bool:
        """True when some page of it has a pin of either kind."""
        book = self.books.get(stretch.vmo.pages)
        return book is not None and any(
            next(counts.runs(stretch.first, stretch.last), None) is not None
            for counts in (book.short, book.long)
        )

    def first_unpinned(self, stretch: Stretch) -> int | None:
        """The address of the first page that has no pin of either kind."""
        book = self.books.get(stretch.vmo.pages)
        if book is None:
            return stretch.start
        for low, high in book.short.gaps(stretch.first, stretch.last):
            gap = next(book.long.gaps(low, high), None)
            if gap is not None:
                return address_in(stretch, gap[0])
        return None

    def counts(self, stretch: Stretch) -> tuple[int, int]:
        """How often its first page is pinned, (short-term, long-term)."""
        book = self.books.get(stretch.vmo.pages)
        if book is None:
            return 0, 0
        return book.short.count(stretch.first), book.long.count(stretch.first)

    def statistics(self) -> CountedPinStatistics:
        """The table as a frozen record."""
        kernel = self._kernel
        with self._lock, kernel.lock:
            held = sum(b - a for book in self.books.values() for a, b, _ in book.holds)
            long = sum(b - a for book in self.books.values() for a, b in paging.spans(book.long))
            limit = kernel.paging_space
            used = 0 if limit is None else paging.used(kernel, self.books) << PAGE_SHIFT
            return CountedPinStatistics(
                held=held << PAGE_SHIFT,
                long_term=long << PAGE_SHIFT,
                paging_space=limit,
                paging_space_used=used,
            )

    def release(self) -> int:
        """Let everything go, whatever its counters say; bytes that were held.

        For the end of a program that has lost count. Nothing is known of devices here.

        Raises:
          HostError: the kernel refused to unlock something; it and what comes after it is held.
        """
        freed = 0
        with self._lock:
            for pages, book in list(self.books.items()):
                for low, high, hold in list(book.holds):
                    self._end(hold, low, high)
                    freed += high - low
                self.books.pop(pages, None)
        return freed << PAGE_SHIFT

    # With the table's lock held -----------------------------------------------------------------

    def _reserve(self, stretch: Stretch, owner: str, site: Site, taken: list[Hold]) -> None:
        """Enter holds for those pages that have none. Called with the kernel's lock as well."""
        pages = stretch.vmo.pages
        book = self.books.setdefault(pages, Book())
        for first, last in list(book.holds.gaps(stretch.first, stretch.last)):
            part = pages_in(stretch, first, last)
            hold = Hold(part, owner, site, monotonic_ns())
            fresh = part.hold()
            try:
                self._kernel.ledger.charge(hold, fresh)
            except BaseException:
                part.end_hold()
                self._forget(pages)
                raise
            book.holds.insert(first, last, hold)
            taken.append(hold)

    def _undo(self, taken: list[Hold], done: int, error: BaseException) -> None:
        """Give up what a failed pin had reserved, and locked the first of."""
        for number in reversed(range(len(taken))):
            hold = taken[number]
            first, last = hold.stretch.first, hold.stretch.last
            try:
                if number < done:
                    hold.let_go(first, last)
            except PinfoldError as second:  # it stays, see the head of this file
                error.add_note(f"undoing it failed too: {second}")
                continue
            with self._kernel.lock:
                self._strike(hold, first, last)

    def _lower(
        self,
        stretch: Stretch,
        done: Unpinned,
        *,
        long: bool,
        because: BaseException | None = None,
    ) -> None:
        """Take one pin from each page, as far as they have one; all the same, if for an error."""
        book = self.books.get(stretch.vmo.pages)
        if book is None:
            raise _not_pinned(stretch.start)
        counts, other = (book.long, book.short) if long else (book.short, book.long)
        hole = next(counts.gaps(stretch.first, stretch.last), None)
        stop = stretch.last if hole is None else hole[0]
        for low, high, ending in _steps(counts, other, stretch.first, stop):
            if ending:
                for start, end, hold in book.holds.overlapping(low, high):
                    first, last = max(start, low), min(end, high)
                    try:
                        self._end(hold, first, last)
                    except PinfoldError as second:
                        if because is None:
                            raise
                        because.add_note(f"undoing it failed too: {second}")
                    counts.lower(first, last)
                    done.let_go.append(pages_in(stretch, first, last))
                    done.lowered.append(done.let_go[-1])
            else:
                counts.lower(low, high)
                done.lowered.append(pages_in(stretch, low, high))
        if hole is not None:
            raise _not_pinned(address_in(stretch, hole[0]))

    def _refuse_unpinned(self, stretch: Stretch, *, long: bool) -> None:
        book = self.books.get(stretch.vmo.pages)
        if book is None:
            raise _not_pinned(stretch.start)
        hole = next((book.long if long else book.short).gaps(stretch.first, stretch.last), None)
        if hole is not None:
            raise _not_pinned(address_in(stretch, hole[0]))

    def _end(self, hold: Hold, first: int, last: int) -> None:
        """The host lets some pages of a hold go, then the books do."""
        hold.let_go(first, last)
        with self._kernel.lock:
            self._strike(hold, first, last)

    def _strike(self, hold: Hold, first: int, last: int) -> None:
        """Take pages out of a hold, in the books. Called with the kernel's lock as well."""
        stretch, ledger = hold.stretch, self._kernel.ledger
        vmo, pages = stretch.vmo, stretch.vmo.pages
        book = self.books[pages]
        ends = ((stretch.first, first), (last, stretch.last))
        rests = [hold.rest(low, high) for low, high in ends if low < high]
        ended = hold.rest(first, last)
        vmo.pins += len(rests)  # each hold counts for one
        freed = ended.stretch.end_hold()
        ledger.discharge(hold, freed)
        book.holds.pop(stretch.first)
        for rest in rests:
            ledger.charge(rest, 0)  # it was charged before
            book.holds.insert(rest.stretch.first, rest.stretch.last, rest)
        for gone in (hold, ended):
            if gone.window is not None:
                gone.window.release()
        self._forget(pages)
        vmo.release_if_idle()

    def _forget(self, pages: Pages) -> None:
        if not self.books[pages].holds:
            del self.books[pages]


def _steps(
    counts: RangeCounts, other: RangeCounts, first: int, last: int
) -> list[tuple[int, int, bool]]:
    """The pages of a range, which are all counted, upwards: (from, to, lose their last pin)."""
    steps: list[tuple[int, int, bool]] = []
    for low, high, count in counts.runs(first, last):
        if count > 1:
            steps.append((low, high, False))
            continue
        kept = [(a, b, False) for a, b, _ in other.runs(low, high)]
        steps += sorted([*kept, *((a, b, True) for a, b in other.gaps(low, high))])
    return steps


def _not_pinned(address: int) -> NotPinned:
    return NotPinned("a page is not pinned", asked=address, remedy="unpin what was pinned, once")
