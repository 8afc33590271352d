# PinnedRange: the only token a bus is given.
#
# It is made in two steps, because committing may take minutes and must not hold the kernel's lock:
#
#   reserve   with the lock: counts up, ledger charged. From here on nothing gives the pages back.
#   fill      without it: pages committed, and held by the anchor the bus asks for.
#
# and ends in two, in the opposite order:
#
#   loosen    without the lock: the anchor lets go.
#   drop      with it: counts down, ledger discharged.
#
# A bus is given a range only when it is filled, and has taken the device's access back before it is
# loosened. Swapped, a device can write to a page the host has given to someone else.
from __future__ import annotations

import enum
from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from pinfold.errors import BadState
from pinfold.memory.residency import RESIDENCY
from pinfold.units import PAGE_SHIFT, HostVa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pinfold.memory.ledger import Ledger
    from pinfold.memory.pages import Pages
    from pinfold.memory.window import Window
    from pinfold.sites import Site


class Anchor(enum.Enum):
    """What holds the pages of a pin, beside our own counts."""

    NONE = "none"
    """Nothing: the device is a program and reaches the memory object itself."""
    MLOCK = "mlock"
    """Resident, but not in place: compaction may move a locked page."""
    IO_URING = "io_uring"
    """Resident and in place: a registered buffer is a long-term pin."""
    VFIO = "vfio"
    """Resident and in place."""
    IOMMUFD = "iommufd"
    """Resident and in place."""
    CUDA = "cuda"
    """Resident and in place."""

    @property
    def in_place(self) -> bool:
        """True where the grant itself holds the pages, resident and in place: on a real bus."""
        return self in _IN_PLACE


_IN_PLACE: Final = frozenset({Anchor.IO_URING, Anchor.VFIO, Anchor.IOMMUFD, Anchor.CUDA})


@dataclass(frozen=True, slots=True)
class PinnedStatistics:
    """One pinned range at one moment."""

    offset: int
    size: int
    anchor: Anchor
    owner: str


class PinnedRange:
    """Pinned pages ``[offset, offset + size)`` of one memory object.

    Attributes:
      offset, size: bytes of the memory object, whole pages.
      start: where in the pages ``offset`` is: further on, for a slice.
      owner: who answers for the pin, for people.
      what: which memory object, for people.
      site: where in the caller's code it was made.
      when: `time.monotonic_ns()` at that moment.
      anchor: what holds the pages beside the counts.
    """

    __slots__ = (
        "_freed",
        "_ledger",
        "_locked",
        "_pages",
        "_window",
        "anchor",
        "held",
        "offset",
        "owner",
        "site",
        "size",
        "start",
        "what",
        "when",
    )

    def __init__(
        self,
        pages: Pages,
        offset: int,
        size: int,
        *,
        owner: str,
        what: str,
        site: Site,
        ledger: Ledger,
        anchor: Anchor = Anchor.NONE,
        base: int = 0,
    ) -> None:
        """Reserve: counts up and ledger charged, or neither. Call with the kernel's lock.

        Raises:
          Unavailable: a page is pinned as often as a page can be.
          LimitReached: the pin limit would be passed.
        """
        self._pages = pages
        self.offset = offset
        self.start = start = base + offset
        self.size = size
        self.owner = owner
        self.what = what
        self.site = site
        self.when = monotonic_ns()
        self.anchor = anchor
        self._ledger = ledger
        self._window: Window | None = None
        self._locked = False
        self._freed: int | None = None
        """Pages that the end of the pin has let go; None before it was told to them."""
        first, last = start >> PAGE_SHIFT, (start + size) >> PAGE_SHIFT
        fresh = pages.pin(first, last)
        try:
            ledger.charge(self, fresh)
        except BaseException:
            pages.unpin(first, last)
            raise
        self.held = True
        """True from reserve until drop."""

    @property
    def pages(self) -> Pages:
        """The memory object's pages."""
        return self._pages

    @property
    def filled(self) -> bool:
        """True once a bus may be given the range."""
        return self._window is not None

    def fill_from_books(self) -> bool:
        """Fill without a system call if the books say that all is there. Call with the lock.

        False where there is more to do: absent pages, or a host that is to hold them. Where a grant
        holds them that is all there is to do: it has the range filled, and finds every page, so it
        is not touched page by page here.
        """
        pages = self._pages
        backing = pages.backing
        if self.anchor is Anchor.MLOCK or not pages.is_committed(
            self.start >> PAGE_SHIFT, (self.start + self.size) >> PAGE_SHIFT
        ):
            return False
        self._window = backing.borrow(self.start, self.size)
        return self.anchor is Anchor.NONE

    def fill(self) -> None:
        """Commit every page and let the anchor take hold. Call without the kernel's lock.

        After a failure the range is still reserved: `loosen` and `drop` it.

        Raises:
          NoMemory, NoSpace, HostError: see `Pages.commit`.
          LimitReached: the anchor's limit would be passed.
        """
        self._pages.commit(self.start, self.size)
        window = self._pages.backing.borrow(self.start, self.size)
        if self.anchor is Anchor.MLOCK:
            try:
                RESIDENCY.lock(window.address_of(self.start), self.size)
            except BaseException:
                window.release()
                raise
            self._locked = True
        self._window = window

    def remember(self) -> None:
        """Note that the pages are committed, after `fill`. Call with the kernel's lock."""
        self._pages.remember(self.start, self.size)

    def loosen(self) -> None:
        """The anchor lets go. The device has been shut out before.

        Raises:
          HostError: the kernel refused; the pages are still held and `loosen` may be tried again.
        """
        window = self._window
        if window is None:
            return
        if self._locked:
            RESIDENCY.unlock(window.address_of(self.start), self.size)
            self._locked = False
        self._window = None
        window.release()

    def drop(self) -> None:
        """Counts down, ledger discharged. Call with the kernel's lock, after `loosen`.

        Raises:
          BadState: the range is still filled, or was dropped before.
        """
        if not self.held or self._window is not None:
            raise BadState("a pinned range is dropped once, and after it was loosened")
        # A step that is done is not done again, should the next be broken off and this be retried.
        if self._freed is None:
            start = self.start
            self._freed = self._pages.unpin(start >> PAGE_SHIFT, (start + self.size) >> PAGE_SHIFT)
        self._ledger.discharge(self, self._freed)
        self.held = False

    # What a bus may do with it ------------------------------------------------------------------

    @property
    def shared_view(self) -> memoryview | None:
        """The pinned bytes as memory of this process, valid until `loosen`.

        None where an access through a mapping could end the process, because somebody else may cut
        the file: then go through `read_into` and `write_from`.
        """
        window = self._window
        if window is None or not self._pages.backing.sealed:
            return None
        start = self.start - window.offset
        return window.view[start : start + self.size]

    @property
    def memfd(self) -> tuple[int, int] | None:
        """The descriptor of the memory file and where in it the range begins, valid until `loosen`.

        None for memory that is no memory file of our own, or that is not filled.
        """
        backing = self._pages.backing
        if self._window is None or backing.kind != "memfd":
            return None
        return backing.fd, backing.base + self.start

    @property
    def writable(self) -> bool:
        """True where the memory may be written at all, whatever the grant permits."""
        return self._pages.backing.writable

    @property
    def host_address(self) -> HostVa:
        """Where the first pinned byte is in this process, valid until `loosen`."""
        if self._window is None:
            raise BadState("a range that is not filled has no address")
        return self._window.address_of(self.start)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset`` bytes into the range."""
        self._pages.read_into(buffer, self.start + offset)

    def write_from(self, buffer: memoryview, offset: int) -> None:
        """Write ``buffer`` at ``offset`` bytes into the range."""
        self._pages.write_from(buffer, self.start + offset)

    def physical_addresses(self) -> NDArray[np.uint64]:
        """The simulated physical address of each page, ascending by offset."""
        start = self.start
        return self._pages.physical_addresses(
            start >> PAGE_SHIFT, (start + self.size) >> PAGE_SHIFT
        )

    @property
    def contiguous(self) -> bool:
        """True when the object is one run of physical memory."""
        return self._pages.contiguous

    def statistics(self) -> PinnedStatistics:
        """The range as a frozen record."""
        return PinnedStatistics(self.offset, self.size, self.anchor, self.owner)
