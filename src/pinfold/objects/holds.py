# What counted pins are made of: runs of pages that are held and locked, and the counters of pages.
#
# A hold is a record of the ledger. It is taken once, by locking the pages through a window of ours,
# or at their own addresses where no object owns them, and let go a part at a time.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.errors import HostError, NoSpace
from pinfold.memory.process_memory import no_room_behind
from pinfold.memory.ranges import RangeCounts, RangeMap
from pinfold.memory.residency import RESIDENCY
from pinfold.objects.addresses import HeldByAddress, Stretch
from pinfold.units import PAGE_SHIFT, HostVa

if TYPE_CHECKING:
    from pinfold.memory.window import Window
    from pinfold.sites import Site


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


class Hold(HeldByAddress):
    """A run of pages that are kept, a record of the ledger."""

    __slots__ = ("owner", "site", "what", "when", "window")

    def __init__(self, stretch: Stretch, owner: str, site: Site, when: int) -> None:
        self.held = [stretch]
        self.owner = owner
        self.what = stretch.vmo.label
        self.site = site
        self.when = when
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
        if not (stretch.own or pages.is_committed(stretch.first, stretch.last)):
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
