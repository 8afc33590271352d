# What counted pins are made of: runs of pages that are held and locked, and the counters of pages.
#
# A hold is a record of the ledger. It is taken once, by locking the pages through a window of ours,
# or at their own addresses where no object owns them, and let go a part at a time.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinfold.errors import HostError, NoSpace, NotPinned, PinfoldError
from pinfold.memory.process_memory import no_room_behind
from pinfold.memory.ranges import RangeCounts, RangeMap
from pinfold.memory.residency import RESIDENCY
from pinfold.objects.addresses import HeldByAddress, Stretch
from pinfold.units import PAGE_SHIFT, HostVa

if TYPE_CHECKING:
    from pinfold.memory.window import Window
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.memory_object import VmoObject
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


class Unpinned:
    """What an unpin has done.

    Attributes:
      lowered: the pages that have lost a pin.
      let_go: those of them that no counter holds any more.
    """

    __slots__ = ("let_go", "lowered")

    def __init__(self) -> None:
        self.lowered: list[Stretch] = []
        self.let_go: list[Stretch] = []


class Leftovers:
    """What a change of the books has left to be released, without the kernel's lock.

    Attributes:
      windows: one user fewer of each.
      objects: given back, if nobody has them any more.
    """

    __slots__ = ("objects", "windows")

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.objects: list[VmoObject] = []

    def release(self, kernel: Kernel, error: BaseException | None = None) -> None:
        """Do it. All of it, whatever is refused; that is a note on ``error``, or raised.

        Raises:
          HostError: a window could not be unmapped, or memory not be closed.
        """
        failed: BaseException | None = None
        for act in (*(w.release for w in self.windows), *(o.release_if_idle for o in self.objects)):
            try:
                with kernel.lock:
                    act()
            except PinfoldError as refused:
                if error is not None:
                    error.add_note(f"and then: {refused}")
                failed = failed or refused
        if failed is not None and error is None:
            raise failed


class Hold(HeldByAddress):
    """A run of pages that are kept, a record of the ledger."""

    __slots__ = ("keep", "owner", "site", "there", "what", "when", "window")

    def __init__(self, stretch: Stretch, owner: str, site: Site, when: int) -> None:
        self.held = [stretch]
        self.owner = owner
        self.what = stretch.vmo.label
        self.site = site
        self.when = when
        self.keep: object = None
        """What has to stay while it is held."""
        self.there = False
        """Every page has memory already, as the books had it when the hold was entered."""
        self.window: Window | None = None
        """Of ours, through which the pages are locked; None while they are not."""

    @property
    def stretch(self) -> Stretch:
        """The pages, and where they were seen."""
        return self.held[0]

    @property
    def offset(self) -> int:
        """For the ledger: where it begins, in bytes of the object."""
        return self.stretch.offset

    @property
    def size(self) -> int:
        """For the ledger: bytes."""
        return self.stretch.stop - self.stretch.start

    def take(self) -> None:
        """Bring every page in, and lock it. Call without the kernel's lock.

        Device memory is always there. What no object owns is brought in by the lock itself.

        Raises:
          LimitReached: RLIMIT_MEMLOCK, or the map count.
          NoMemory, NoSpace: the host, or the file system behind the memory, has no room.
          NotFound: memory of the process that was unmapped meanwhile.
          HostError: a page cannot be had.

        After an error nothing is locked.
        """
        stretch = self.stretch
        pages = stretch.vmo.pages
        if not pages.charged:
            return
        start = stretch.first << PAGE_SHIFT
        if not (stretch.own or self.there):
            pages.commit(start, self.size)
        window = pages.backing.borrow(start, self.size)
        try:
            RESIDENCY.lock(window.address_of(start), self.size)
        except HostError as error:
            window.release()
            if stretch.own and no_room_behind(stretch.start, stretch.stop):
                raise NoSpace(
                    "the file system behind a mapped file is full",
                    asked=self.size,
                    remedy="free space on it",
                ) from error
            raise
        except BaseException:
            window.release()
            raise
        self.window = window

    def let_go(self, first: int, last: int) -> None:
        """Unlock some of the pages. Call without the kernel's lock.

        Raises:
          HostError: the kernel refused; they are still locked.
        """
        if self.window is not None:
            address = self.window.address_of(first << PAGE_SHIFT)
            RESIDENCY.unlock(HostVa(address), last - first << PAGE_SHIFT)

    def rest(self, first: int, last: int) -> Hold:
        """What is left of it when only these pages stay."""
        stretch = self.stretch
        made = Hold(pages_in(stretch, first, last), self.owner, self.site, self.when)
        made.keep = self.keep
        if self.window is not None:
            self.window.share()
            made.window = self.window
        return made


class Book:
    """The counters of one object's pages, by page number."""

    __slots__ = ("holds", "long", "short")

    def __init__(self) -> None:
        self.short = RangeCounts()
        self.long = RangeCounts()
        self.holds: RangeMap[Hold] = RangeMap()


def pages_in(stretch: Stretch, first: int, last: int) -> Stretch:
    """Some pages of a stretch."""
    at = address_in(stretch, first)
    return stretch.part(at, at + (last - first << PAGE_SHIFT))


def address_in(stretch: Stretch, page: int) -> int:
    """Where a page of a stretch was seen."""
    return stretch.start + (page - stretch.first << PAGE_SHIFT)


def steps(
    counts: RangeCounts, other: RangeCounts, first: int, last: int
) -> list[tuple[int, int, bool]]:
    """The pages of a range, which are all counted, upwards: (from, to, lose their last pin)."""
    found: list[tuple[int, int, bool]] = []
    for low, high, count in counts.runs(first, last):
        if count > 1:
            found.append((low, high, False))
            continue
        kept = [(a, b, False) for a, b, _ in other.runs(low, high)]
        found += sorted([*kept, *((a, b, True) for a, b in other.gaps(low, high))])
    return found


def not_pinned(address: int) -> NotPinned:
    """The error for a page that has no pin to take."""
    return NotPinned("a page is not pinned", asked=address, remedy="unpin what was pinned, once")


def fewer(counts: RangeCounts, first: int, last: int, count: int) -> int | None:
    """The first page of a range that has fewer pins than so many."""
    at = first
    for low, high, there in counts.runs(first, last):
        if at < low:
            return at
        if there < count:
            return low
        at = high
    return at if at < last else None
