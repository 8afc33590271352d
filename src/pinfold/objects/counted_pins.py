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
#   unpin   the host lets go, THEN the books and the counters, in one holding of the kernel's lock
#
# Where the host refuses to let go, the page stays held and its counter as it was. Where it refuses
# to undo a failed pin, the hold stays without a counter, until the page is unpinned once more.
#
# Locks: the table's own, for as long as a pin takes, so that nobody is told that a page is pinned
# while another thread is still bringing it in; inside it the kernel's for the books and the
# counters, never while the host works. Who only asks needs the kernel's.
from __future__ import annotations

from contextlib import contextmanager
from time import monotonic_ns
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pinfold import sites
from pinfold.errors import NotPinned, PinfoldError
from pinfold.memory.locks import KernelLock
from pinfold.memory.process_memory import enter
from pinfold.memory.residency import RESIDENCY
from pinfold.objects import paging
from pinfold.objects.addresses import Stretch
from pinfold.objects.holds import (
    Book,
    CountedPinStatistics,
    Hold,
    Leftovers,
    Unpinned,
    address_in,
    fewer,
    not_pinned,
    pages_in,
    steps,
)
from pinfold.units import PAGE_SHIFT, HostVa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.memory.pages import Pages
    from pinfold.memory.ranges import Interval, RangeCounts
    from pinfold.objects.kernel import Kernel
    from pinfold.sites import Site


class CountedPins:
    """The counted pins of one kernel. Its `Kernel` has one, as ``counted``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = KernelLock()
        self.books: dict[Pages, Book] = {}
        self.hidden: WeakKeyDictionary[Pages, RangeCounts] = WeakKeyDictionary()
        """How often each page is wanted to be hidden from processors, while a device has it."""

    def pin(
        self,
        find: Callable[[], list[Stretch]],
        *,
        owner: str,
        long: bool = False,
        keep: object = None,
    ) -> None:
        """Count one more pin of every page of a range: of all of them, or of none.

        Args:
          find: says what is in the range, and raises what is to be raised where it is not as it
            should be. Called with the kernel's lock held.
          owner: who answers for it, for people.
          long: count a long-term pin.
          keep: lives for as long as what it brings in is held.

        Raises:
          LimitReached: the kernel's `max_pinned`, RLIMIT_MEMLOCK, or the map count.
          NoSpace: there is no paging space for what has to be brought in, or the file system behind
            it is full.
          NoMemory: the host has none.
          NotFound, HostError: see `Hold.take`.

        After a failure no counter has changed; pages may have been brought in.
        """
        kernel, site = self._kernel, sites.caller()
        with self._changing() as after:
            taken: list[Hold] = []
            with kernel.lock:
                found = find()
                try:
                    for stretch in found:
                        self._reserve(stretch, owner, site, taken)
                    paging.refuse_without_room(kernel, taken)
                except BaseException:
                    for hold in reversed(taken):
                        self._strike(hold, hold.stretch.first, hold.stretch.last, after)
                    raise
            done, counted = 0, list[Stretch]()
            try:
                for hold in taken:
                    hold.keep = keep
                    hold.take()
                    done += 1
                for stretch in found:
                    if stretch.own:  # its owner may have unmapped what was pinned there before
                        RESIDENCY.renew(HostVa(stretch.start), stretch.stop - stretch.start)
                    elif stretch.vmo.pages.charged:  # locked through a window of ours, seen here
                        enter(stretch.start, stretch.stop)
                with kernel.lock:
                    for hold in taken:
                        start, vmo = hold.stretch.first << PAGE_SHIFT, hold.stretch.vmo
                        vmo.pages.remember(start, hold.size)
                        vmo.body.own(start, start + hold.size)
                    for stretch in found:
                        self._counts(stretch, long=long).raise_(stretch.first, stretch.last)
                        counted.append(stretch)
            except BaseException as error:
                with kernel.lock:
                    for each in counted:
                        self._counts(each, long=long).lower(each.first, each.last)
                self._undo(taken, done, error, after)
                raise

    def unpin(
        self,
        find: Callable[[], list[Stretch]],
        *,
        long: bool = False,
        whole: bool = False,
        rest: bool = False,
        done: Unpinned | None = None,
    ) -> None:
        """Take one pin from every page of a range, upwards, as far as they are pinned.

        Args:
          find: as for `pin`.
          long: of the long-term pins.
          whole: take all of them, or none.
          rest: go on after a page that is not pinned, and raise for it in the end.
          done: is told what was done, whether the call fails or not.

        Raises:
          NotPinned: a page is not pinned (``.asked`` is its address); those before it have lost one
            pin, unless ``whole``. The pages after it are as they were, unless ``rest``.
          Unavailable: no paging space is left for what long-term pins had none for; nothing
            changed.
          HostError: the kernel refused to unlock a page; it and those after it are as they were. Or
            memory that nobody else has could not be closed; it is unpinned all the same.
        """
        kernel, done = self._kernel, done or Unpinned()
        with self._changing() as after:
            with kernel.lock:
                found = find()
                if whole or long:
                    wanted = paging.per_page(found)
                if whole:
                    self._refuse_unpinned(found, wanted, long=long)
                if long:
                    paging.refuse_to_page(kernel, self.books, wanted)
            missing: NotPinned | None = None
            for stretch in found:
                gaps = self._lower(stretch, done, after, long=long, rest=rest)
                if gaps:
                    missing = missing or not_pinned(address_in(stretch, gaps[0][0]))
                    if not rest:
                        break
            if missing is not None:
                raise missing

    def take_back(self, found: list[Stretch], error: BaseException) -> None:
        """Undo a `pin` of exactly this, because of ``error``; no counter keeps it.

        Where the host refuses to unlock a page, ``error`` gets a note, and the page stays held
        without a counter: see the head of this file.
        """
        with self._changing() as after:
            for stretch in found:
                self._lower(stretch, Unpinned(), after, long=False, because=error)

    def lose(self) -> None:
        """In a forked child: the pins are the parent's, and every use raises."""
        self._lock.lose()

    # Asking: with the kernel's lock held --------------------------------------------------------

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
        freed, kernel = 0, self._kernel
        with self._changing() as after:
            with kernel.lock:
                books = list(self.books.values())
            for book in books:
                with kernel.lock:
                    holds = list(book.holds)
                for low, high, hold in holds:
                    hold.let_go(low, high)
                    with kernel.lock:
                        for counts in (book.short, book.long):
                            for first, last, count in list(counts.runs(low, high)):
                                for _ in range(count):
                                    counts.lower(first, last)
                        self._strike(hold, low, high, after)
                    freed += high - low
        return freed << PAGE_SHIFT

    # With the table's lock held -----------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Leftovers]:
        """The block has the table. What it leaves is released, what it logs is told, afterwards."""
        after = Leftovers()
        with self._lock, self._kernel.lock.told_after(self._lock):
            try:
                yield after
            except BaseException as error:
                after.release(self._kernel, error)
                raise
            after.release(self._kernel)

    def _counts(self, stretch: Stretch, *, long: bool) -> RangeCounts:
        book = self.books[stretch.vmo.pages]
        return book.long if long else book.short

    def _reserve(self, stretch: Stretch, owner: str, site: Site, taken: list[Hold]) -> None:
        """Enter holds for those pages that have none. Called with the kernel's lock as well."""
        pages = stretch.vmo.pages
        book = self.books.setdefault(pages, Book())
        for first, last in list(book.holds.gaps(stretch.first, stretch.last)):
            part = pages_in(stretch, first, last)
            hold = Hold(part, owner, site, monotonic_ns())
            hold.there = pages.is_committed(first, last)
            fresh = part.hold()
            try:
                self._kernel.ledger.charge(hold, fresh)
            except BaseException:
                part.end_hold()
                self._forget(pages)
                raise
            book.holds.insert(first, last, hold)
            taken.append(hold)

    def _undo(self, taken: list[Hold], done: int, error: BaseException, after: Leftovers) -> None:
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
                self._strike(hold, first, last, after)

    def _lower(
        self,
        stretch: Stretch,
        done: Unpinned,
        after: Leftovers,
        *,
        long: bool,
        rest: bool = False,
        because: BaseException | None = None,
    ) -> list[Interval]:
        """Take one pin from each page, as far as they have one; all the same, if for an error.

        Returns:
          The pages that have none. Unless ``rest``, those after the first are as they were.
        """
        lock = self._kernel.lock
        with lock:
            book = self.books.get(stretch.vmo.pages)
            if book is None:
                return [(stretch.first, stretch.last)]
            counts, other = (book.long, book.short) if long else (book.short, book.long)
            gaps = list(counts.gaps(stretch.first, stretch.last))
            stop = gaps[0][0] if gaps and not rest else stretch.last
            found_steps = steps(counts, other, stretch.first, stop)
        for low, high, ending in found_steps:
            first = low
            while first < high:
                with lock:
                    found = book.holds.find(first) if ending else None
                last = high if found is None else min(high, found[1])
                hold = None if found is None else found[2]
                try:
                    if hold is not None:
                        hold.let_go(first, last)
                except PinfoldError as second:
                    if because is None:
                        raise
                    because.add_note(f"undoing it failed too: {second}")
                    hold = None  # it stays
                part = pages_in(stretch, first, last)
                with lock:  # counter and hold together: nobody sees the one without the other
                    counts.lower(first, last)
                    if hold is not None:
                        self._strike(hold, first, last, after)
                done.lowered.append(part)
                if ending:
                    done.let_go.append(part)
                first = last
        return gaps

    def _refuse_unpinned(
        self, found: list[Stretch], wanted: dict[Pages, RangeCounts], *, long: bool
    ) -> None:
        """Raise `NotPinned` unless every page has as many pins as are to be taken from it."""
        for stretch in found:
            book = self.books.get(stretch.vmo.pages, Book())
            times = wanted[stretch.vmo.pages]
            for low, high, count in times.runs(stretch.first, stretch.last):
                page = fewer(book.long if long else book.short, low, high, count)
                if page is not None:
                    raise not_pinned(address_in(stretch, page))

    def _strike(self, hold: Hold, first: int, last: int, after: Leftovers) -> None:
        """Take pages out of a hold, in the books. Called with the kernel's lock as well."""
        stretch = hold.stretch
        vmo, pages = stretch.vmo, stretch.vmo.pages
        book = self.books[pages]
        ends = ((stretch.first, first), (last, stretch.last))
        rests = [hold.rest(low, high) for low, high in ends if low < high]
        vmo.pins += len(rests)  # each hold counts for one
        freed = pages_in(stretch, first, last).end_hold()
        self._kernel.ledger.replace(hold, rests, freed)
        book.holds.pop(stretch.first)
        for rest in rests:
            book.holds.insert(rest.stretch.first, rest.stretch.last, rest)
        if hold.window is not None:
            after.windows.append(hold.window)
        after.objects.append(vmo)
        self._forget(pages)

    def _forget(self, pages: Pages) -> None:
        if not self.books[pages].holds:
            del self.books[pages]
