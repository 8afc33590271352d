# A pretranslation list: the address that a device uses for each page of a buffer, worked out once.
#
# Source: AIX xlate_create, xlate_pin, xlate_unpin, xlate_remove.
#
# A list has room for the pages of one range, and is filled as they are pinned. What a page is
# translated to is its (simulated) physical address; or, where the list is made for a device behind
# a `Bti`, the address that the device's bus has given it. Then pinning grants the pages to the
# device as well, by a token of its own, and the orders are those of every pin:
#
#   pin     the pages are counted and held, THEN the bus grants them
#   unpin   the bus revokes them, THEN the counters go down
#
# A token is taken back as a whole: what one call has pinned for a device, one call unpins.
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pinfold.errors import BadState, InvalidArgs, NotPinned, OutOfRange
from pinfold.memory.ranges import RangeCounts, RangeMap
from pinfold.objects.addresses import Stretch, pages_of
from pinfold.objects.device_maps import granted
from pinfold.rights import Perm
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.objects.bti import Bti
    from pinfold.objects.cross_memory import CrossMemory
    from pinfold.objects.holds import Unpinned
    from pinfold.objects.pmt import Pmt
    from pinfold.units import ByteRange

_BOTH = int(Perm.READ | Perm.WRITE)


class Translations:
    """The list of one attached buffer.

    Attributes:
      pages: the addresses of the pages that it has room for.
      addresses: of each page, uint64: what it is translated to, where `valid` says that it is.
      valid: of each page, bool.
      sparse: parts of it are pinned at a time, and pages more than once.
    """

    __slots__ = (
        "_bti", "_found", "_pinned", "_tokens", "addresses", "memory", "pages", "sparse", "valid",
    )  # fmt: skip

    def __init__(
        self,
        memory: CrossMemory,
        address: int,
        size: int,
        *,
        sparse: bool = False,
        bti: Bti | None = None,
    ) -> None:
        """Room for the pages that a range touches, whatever is there; nothing is translated yet.

        Raises:
          MemoryError: there is none for the list.
        """
        self.memory = memory
        self.pages = pages_of(address, size)
        count = self.pages.size >> PAGE_SHIFT
        self.addresses: NDArray[np.uint64] = np.zeros(count, np.uint64)
        self.valid: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.sparse = sparse
        self._bti = bti
        self._pinned = RangeCounts()
        self._found: RangeMap[Stretch] = RangeMap()
        """What is pinned, by the address where it was seen."""
        self._tokens: dict[ByteRange, list[list[tuple[Stretch, Pmt]]]] = {}
        """What each call has granted, by the range that it named, the latest last."""

    @property
    def pinned(self) -> bool:
        """True while a page of it is pinned through the list."""
        return bool(self._pinned)

    @property
    def granted(self) -> bool:
        """True while a device has been granted a page of it."""
        return bool(self._tokens)

    def fill(self) -> None:
        """Translate every page, none of which is pinned by it: that is up to the caller.

        Raises:
          BadState: a page is not pinned by anybody; or the list is for a device, which has been
            granted nothing.
          AccessDenied: a page may not be read and written.
          NotFound, OutOfRange: as `CrossMemory.find`.
        """
        if self._bti is not None:
            raise BadState("a device has been granted nothing", remedy="pin through the list")
        memory, span = self.memory, self.pages
        kernel = memory.space.process.kernel
        memory.space.check_access(span.start, span.size, _BOTH)
        with kernel.lock:
            found = memory.find(span.start, span.size)
            for stretch in found:
                hole = kernel.counted.first_unpinned(stretch)
                if hole is not None:
                    raise BadState("a page is not pinned", asked=hole, remedy="pin it first")
            for stretch in found:
                self._note(stretch)

    def pin(self, address: int, size: int, perms: int) -> None:
        """Pin the pages that a range touches, and translate them: all of them, or none.

        Args:
          perms: what a device is to do with them, bits of `Perm`.

        Raises:
          InvalidArgs: ``size`` is not above 0; a page is pinned through the list, which is not
            sparse.
          OutOfRange: the range leaves the list, or the space.
          NotFound: a part of it is not defined.
          AccessDenied: a page does not allow ``perms``.
          LimitReached, NoMemory, NoSpace, HostError: as `CountedPins.pin`; and what the bus raises.

        After a failure nothing is pinned, granted or translated that was not before.
        """
        memory, span = self.memory, self._span(address, size)
        if not self.sparse and next(self._pinned.runs(*span), None) is not None:
            raise InvalidArgs("a page of the range is pinned through the list", asked=address)
        process = memory.space.process
        counted, found = process.kernel.counted, list[Stretch]()

        def find() -> list[Stretch]:  # what is granted below is what was pinned, and no other
            found[:] = memory.find(address, size)
            memory.space.check_access(address, size, perms)
            return found

        counted.pin(find, owner=str(process))
        try:
            tokens = [] if self._bti is None else granted(self._bti, found, perms)
        except BaseException as error:
            counted.take_back(found, error)
            raise
        grants = list(zip(found, tokens, strict=True)) if tokens else []
        if grants:
            self._tokens.setdefault(span, []).append(grants)
        with process.kernel.lock:
            for at, stretch in enumerate(found):
                self._note(stretch, tokens[at].addrs if tokens else None)
                for low, high in list(self._found.gaps(stretch.start, stretch.stop)):
                    self._found.insert(low, high, stretch.part(low, high))
        self._pinned.raise_(*span)

    def unpin(self, address: int, size: int, done: Unpinned) -> None:
        """Undo one pin of every page of a range. ``done`` is as for `CountedPins.unpin`.

        Raises:
          InvalidArgs: ``size`` is not above 0; a device has been granted the pages by a call that
            named another range.
          OutOfRange: the range leaves the list.
          NotPinned: a page is not pinned through the list; nothing changed.
          HostError, or what the bus raises: a device could not be shut out, and the pages are
            still pinned, the token in the Bti's quarantine; or the host refused to unlock a page,
            and it and those after it are as they were.
        """
        span = self._span(address, size)
        hole = next(self._pinned.gaps(*span), None)
        if hole is not None:
            raise NotPinned("a page is not pinned through the list", asked=hole[0])
        if self._bti is not None:
            self._take_back(span)
        counted = self.memory.space.process.kernel.counted
        found = [stretch.part(*span) for _, _, stretch in self._found.overlapping(*span)]
        try:
            counted.unpin(lambda: found, done=done)
        finally:
            for stretch in done.lowered:
                for low, high in self._pinned.lower(stretch.start, stretch.stop):
                    self._forget(low, high)
            for calls in self._tokens.values():  # a page can have been granted more than once
                for granted_still, token in (grant for call in calls for grant in call):
                    self._note(granted_still, token.addrs)

    def _take_back(self, span: ByteRange) -> None:
        """The device loses what one call of `pin` has given it, the latest of that range."""
        calls = self._tokens.get(span)
        if not calls:
            if any(other.overlaps(span) for other in self._tokens):
                raise InvalidArgs(
                    "the device was granted these pages by a call that named another range",
                    asked=span.start,
                    remedy="unpin what was pinned in one call, in one call",
                )
            return  # shut out before, by a call that then could not unlock the pages
        grants = calls[-1]
        while grants:
            token = grants[-1][1]
            if not token.closed:
                token.unpin()
            grants.pop()
        calls.pop()
        if not calls:
            del self._tokens[span]

    def _forget(self, low: int, high: int) -> None:
        self.valid[self._index(low) : self._index(high)] = False
        for start, stop, stretch in self._found.overlapping(low, high):
            self._found.pop(start)
            for a, b in ((start, low), (high, stop)):
                if a < b:
                    self._found.insert(a, b, stretch.part(a, b))

    def address_of(self, address: int) -> int | None:
        """What a byte is translated to; None where its page is not."""
        if not self.pages.start <= address < self.pages.stop:
            return None
        page = self._index(address)
        if not self.valid[page]:
            return None
        return int(self.addresses[page]) + (address - pages_of(address, 1).start)

    def _span(self, address: int, size: int) -> ByteRange:
        if size <= 0:
            raise InvalidArgs("a range has at least a byte", asked=size)
        span = pages_of(address, size)
        if not self.pages.contains(span):
            raise OutOfRange("the range leaves the list", asked=address, limit=self.pages.stop)
        return span

    def _index(self, address: int) -> int:
        return address - self.pages.start >> PAGE_SHIFT

    def _note(self, stretch: Stretch, device: NDArray[np.uint64] | None = None) -> None:
        first, last = self._index(stretch.start), self._index(stretch.stop)
        pages = stretch.vmo.pages
        self.addresses[first:last] = (
            pages.physical_addresses(stretch.first, stretch.last) if device is None else device
        )
        self.valid[first:last] = True
