# Whose memory is behind an address of this process.
#
# Pins that are made by address have to enter the books of whoever owns the pages: a view of a
# memory object that is pinned in place holds the object's pages, or somebody decommits them under
# the pin. So every address is one of three things:
#
#   mapped by a region     a page of the mapping's memory object, where the piece shows one
#   lent as a view         a page of the object whose window, or read-only mapping, it lies in
#   anything else          a page of the process's own memory, whose offset is the address
#
# Lock: the kernel's is held by the caller, from the look-up until what was found has been counted.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.errors import InvalidArgs, NotFound
from pinfold.memory import residency
from pinfold.memory.pages import Pages
from pinfold.memory.process_memory import ProcessMemory
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.region import ROOTS
from pinfold.units import PAGE_SHIFT, ByteRange, HostVa, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.memory.mapped import Piece
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.region import VmarObject


class Stretch(NamedTuple):
    """Addresses ``[start, stop)``, whole pages, that show pages of one object in their order."""

    start: int
    stop: int
    vmo: VmoObject
    first: int
    """The page at ``start``, a number among the pages of the object."""

    @property
    def last(self) -> int:
        """One past the page at the end."""
        return self.first + (self.stop - self.start >> PAGE_SHIFT)

    @property
    def own(self) -> bool:
        """True for memory of the process, which no object owns."""
        return self.vmo is self.vmo.kernel.own_memory

    @property
    def offset(self) -> int:
        """Where ``start`` is, in bytes of the object."""
        return (self.first << PAGE_SHIFT) - self.vmo.base

    def hold(self) -> int:
        """Hold the pages, and their object; how many pages nothing pinned before."""
        self.vmo.pins += 1
        return self.vmo.pages.hold(self.first, self.last)

    def end_hold(self) -> int:
        """Undo one `hold` of exactly these pages; how many nothing pins now.

        Then `VmoObject.release_if_idle` gives back an object that nobody has any more.
        """
        self.vmo.pins -= 1
        return self.vmo.pages.end_hold(self.first, self.last)

    def part(self, start: int, stop: int) -> Stretch:
        """What of it lies in a range of whole pages that it overlaps."""
        low, high = max(self.start, start), min(self.stop, stop)
        return Stretch(low, high, self.vmo, self.first + (low - self.start >> PAGE_SHIFT))


class HeldByAddress:
    """A pin of no device: a record of the ledger, and what it holds.

    Attributes:
      held: whose pages they are, while the books have them.
    """

    __slots__ = ("held",)

    held: list[Stretch]


def address_of(view: memoryview) -> HostVa:
    """Where the first byte of a contiguous buffer is.

    Raises:
      BufferError: it is not contiguous.
      ValueError: it was released.
    """
    return residency.address_of(view)


def pages_of(address: int, size: int) -> ByteRange:
    """The addresses of the whole pages that a range touches."""
    return ByteRange(page_down(address), page_up(address + size))


def stretches(kernel: Kernel, start: int, stop: int) -> list[Stretch]:
    """What is behind ``[start, stop)``, whole pages, ascending and without a gap.

    Memory that no object of the kernel owns is the process's own, whether there is any or not.

    Raises:
      InvalidArgs: a part is in an address space of another kernel: its objects' books are not ours.
    """
    for base, (end, owner) in list(ROOTS.items()):  # one step: other kernels change it, too
        if owner is not kernel and base < stop and start < end:
            raise InvalidArgs(
                "the memory is mapped by another kernel",
                asked=max(start, base),
                remedy="pin it in a process of that kernel",
            )
    found = sorted(_owned(kernel, start, stop), key=_by_start)
    own, at, complete = own_memory(kernel), start, list[Stretch]()
    for stretch in found:
        if at < stretch.start:
            complete.append(Stretch(at, stretch.start, own, at >> PAGE_SHIFT))
        complete.append(stretch)
        at = stretch.stop
    if at < stop:
        complete.append(Stretch(at, stop, own, at >> PAGE_SHIFT))
    return complete


def mapped(root: VmarObject | None, start: int, stop: int) -> list[Stretch]:
    """What is mapped in ``[start, stop)`` of an address space, all of which has to be.

    Addresses beyond the end of the memory object, or of what a mapping may show of it, are not.

    Raises:
      NotFound: a part is not (``.asked`` is where it begins).
    """
    found = [] if root is None else list(_in_region(root, start, stop))
    at = start
    for stretch in found:
        if at < stretch.start:
            break
        at = stretch.stop
    if at < stop:
        raise NotFound("a part of the range is not mapped", asked=at)
    return found


def own_memory(kernel: Kernel) -> VmoObject:
    """The memory of this process that no object owns. It stays, and nobody has a handle to it."""
    own = kernel.own_memory
    if own is None:
        own = VmoObject(kernel, Pages(ProcessMemory(), kernel.physmap), name="process memory")
        own.handle_count = 1  # the process's, for as long as it lives
        kernel.own_memory = own
    return own


# Looking ------------------------------------------------------------------------------------------


def _by_start(stretch: Stretch) -> int:
    return stretch.start


def _owned(kernel: Kernel, start: int, stop: int) -> Iterator[Stretch]:
    for root in list(kernel.spaces.values()):
        yield from _in_region(root, start, stop)
    for low, high, lent in kernel.lent.overlapping(start, stop):
        first = lent.first + (max(low, start) - low >> PAGE_SHIFT)
        last = lent.first + (min(high, stop) - low >> PAGE_SHIFT)
        owner = lent.owner(first, last)
        if owner is not None:
            yield Stretch(max(low, start), min(high, stop), owner, first)


def _in_region(root: VmarObject, start: int, stop: int) -> Iterator[Stretch]:
    region = root.region
    if stop <= region.base or region.stop <= start:
        return
    for piece in region.pieces(start, stop):
        shown = _shown(piece)
        if shown is not None and start < shown.stop and shown.start < stop:
            yield shown.part(start, stop)


def _shown(piece: Piece) -> Stretch | None:
    """What of a piece shows pages that the memory object has."""
    vmo: VmoObject = piece.mapped.vmo  # type: ignore[attr-defined]  # of a region, so a Mapping
    backing = vmo.pages.backing
    offset = piece.offset - backing.base
    edge = min(piece.edge, piece.start + max(backing.size - offset, 0))
    if edge <= piece.start:
        return None
    return Stretch(piece.start, edge, vmo, offset >> PAGE_SHIFT)
