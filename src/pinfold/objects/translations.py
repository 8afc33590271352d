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
# A token is taken back as a whole: what one call has pinned for a device, one call unpins. The list
# gives no address out from before its grant is revoked.
#
# Lock: whoever has the list, a descriptor, lets one call at a time at it.
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pinfold.errors import BadState, InvalidArgs, NotPinned, OutOfRange
from pinfold.memory.ranges import RangeCounts, RangeMap
from pinfold.objects.addresses import Stretch, pages_of
from pinfold.objects.device_maps import granted, take_back
from pinfold.rights import Perm
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pinfold.memory.ranges import Interval
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
        "_bti", "_found", "_pinned", "_shut", "_tokens",
        "addresses", "memory", "pages", "sparse", "valid",
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
        self._shut = RangeCounts()
        """Pages that the device has lost, and that could not be unlocked then."""
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
                self._note(stretch, self._addresses(stretch, 0, []))

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
            self._refuse_another(found)
            return found

        counted.pin(find, owner=str(process), keep=memory.keep)
        tokens: list[Pmt] = []
        try:
            if self._bti is not None:
                tokens = granted(self._bti, found, perms, memory.keep)
            with process.kernel.lock:
                notes = [self._addresses(s, at, tokens) for at, s in enumerate(found)]
                fresh = [(s, gap) for s in found for gap in self._found.gaps(s.start, s.stop)]
        except BaseException as error:
            take_back(tokens, error)
            counted.take_back(found, error)
            raise
        if tokens:
            self._tokens.setdefault(span, []).append(list(zip(found, tokens, strict=True)))
        for stretch, addresses in zip(found, notes, strict=True):
            self._note(stretch, addresses)
        for stretch, gap in fresh:
            self._found.insert(*gap, stretch.part(*gap))
        self._pinned.raise_(*span)

    def _refuse_another(self, found: list[Stretch]) -> None:
        """Raise `InvalidArgs` where a page that is pinned through the list shows other memory now.

        It is unpinned by what was remembered, which can be one memory only.
        """
        for stretch in found:
            for low, high, before in self._found.overlapping(stretch.start, stretch.stop):
                low, high = max(low, stretch.start), min(high, stretch.stop)
                if before.part(low, high) != stretch.part(low, high):
                    raise InvalidArgs(
                        "something else is mapped where a page is pinned through the list",
                        asked=low,
                        remedy="unpin that first",
                    )

    def unpin(self, address: int, size: int, done: Unpinned) -> None:
        """Undo one pin of every page of a range. ``done`` is as for `CountedPins.unpin`.

        Raises:
          InvalidArgs: ``size`` is not above 0; a device has been granted the pages by a call that
            named another range.
          OutOfRange: the range leaves the list.
          NotPinned: a page is not pinned through the list; nothing changed. Or somebody has
            unpinned a page of it already: the rest is unpinned, and the list has none of it.
          HostError, or what the bus raises: a device could not be shut out, and the pages are
            still pinned, the token in the Bti's quarantine; or the host refused to unlock a page,
            and it and those after it are as they were. It can be tried again.
        """
        span = self._span(address, size)
        hole = next(self._pinned.gaps(*span), None)
        if hole is not None:
            raise NotPinned("a page is not pinned through the list", asked=hole[0])
        if self._bti is not None and next(self._shut.gaps(*span), None) is not None:
            self._take_back(span)
            self._shut.raise_(*span)
        counted = self.memory.space.process.kernel.counted
        found = [stretch.part(*span) for _, _, stretch in self._found.overlapping(*span)]
        try:
            counted.unpin(lambda: found, rest=True, done=done)
        except NotPinned:
            self._lower([span])
            raise
        except BaseException:
            self._lower((part.start, part.stop) for part in done.lowered)
            raise
        self._lower([span])

    def _lower(self, spans: Iterable[Interval]) -> None:
        """The list has one pin fewer of some pages."""
        for span in spans:
            if self._bti is not None:
                self._shut.lower(*span)
            for low, high in self._pinned.lower(*span):
                self._forget(low, high)

    def _take_back(self, span: ByteRange) -> None:
        """The device loses what the latest call that named the range has given it.

        From here on the list has what it has been granted still.
        """
        calls = self._tokens.get(span)
        if not calls:
            raise InvalidArgs(
                "the device was granted these pages by a call that named another range",
                asked=span.start,
                remedy="unpin what was pinned in one call, in one call",
            )
        grants = calls[-1]
        try:
            while grants:
                stretch, token = grants[-1]
                self.valid[self._index(stretch.start) : self._index(stretch.stop)] = False
                if not token.closed:
                    token.unpin()
                grants.pop()
            calls.pop()
            if not calls:
                del self._tokens[span]
        finally:
            for other, given in self._tokens.items():  # a page can be granted more than once
                for stretch, token in (g for call in given for g in call):
                    if other.overlaps(span) and not token.closed:
                        self._note(stretch, token.addrs)

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

    @staticmethod
    def _addresses(stretch: Stretch, at: int, tokens: list[Pmt]) -> NDArray[np.uint64]:
        """What the pages of a stretch are translated to."""
        if tokens:
            return tokens[at].addrs
        return stretch.vmo.pages.physical_addresses(stretch.first, stretch.last)

    def _note(self, stretch: Stretch, addresses: NDArray[np.uint64]) -> None:
        first, last = self._index(stretch.start), self._index(stretch.stop)
        self.addresses[first:last] = addresses
        self.valid[first:last] = True
