# Pinning as Magenta's draft of August 2017 has it: no commit, no token, a pin is its addresses.
#
# Source: mx_bti_pin and mx_bti_unpin; that kernel for the order of checks, which is the order of
# the code here: the first that fails decides the error.
#
# A pin never gives a page memory: a page without any is an error, and that is decided from what the
# object holds at that moment. From then on the pin's count keeps what is there, so the filling that
# follows finds everything.
#
# Where the page and the kernel of that time disagree about a page that the device has pinned
# already, the kernel of the objects says whom to follow: the page forbids it, the kernel counts.
from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold import sites
from pinfold.errors import (
    AlreadyBound,
    BufferTooSmall,
    InvalidArgs,
    NotFound,
    NotSupported,
    OutOfRange,
)
from pinfold.memory.pinned import PinnedRange
from pinfold.objects.completing import completed, granted
from pinfold.objects.initiator import BtiObject
from pinfold.objects.magenta.memory import byte_size, first_hole, follows_docs
from pinfold.objects.magenta.rights import of_kind, refuse_without, required
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.pmt import AddrForm
from pinfold.rights import ALL_PERMS, Right
from pinfold.units import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, page_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pinfold.memory.pages import Pages
    from pinfold.objects.handle import Handle
    from pinfold.objects.pmt import PmtObject
    from pinfold.sites import Site

_MAP: Final = int(Right.MAP)
_PERMS_TO_RIGHTS: Final = 2
"""READ, WRITE, EXECUTE among the rights: the permissions, shifted. EXECUTE asks for EXECUTE."""


class _Listing:
    """Takes the token of a pin for its device: lists it, hands its addresses over.

    In this order. If they cannot be handed over the pin is undone, and if the bus refuses that, it
    is listed still: the end of the device tries again, and says so where it fails.
    """

    __slots__ = ("room", "write")

    def __init__(self, room: int, write: Callable[[NDArray[np.uint64]], None]) -> None:
        self.room = room
        self.write = write

    def add(self, token: PmtObject, _rights: int, /) -> int:
        """How many addresses there are. Whatever is raised here undoes the pin."""
        bti = token.bti
        bti.listed.add(token)
        bti.kernel.enter(token)
        addresses = _addresses_of(token)
        if len(addresses) > self.room:
            raise BufferTooSmall(
                "the pin has more addresses than there is room for",
                asked=self.room,
                available=len(addresses),
                remedy="give room for one address a page",
            )
        self.write(addresses)
        bti.listed.handed_over(token, addresses.tobytes())
        return len(addresses)


def _addresses_of(token: PmtObject) -> NDArray[np.uint64]:
    """One address where the device finds all of it in one run, else one a page.

    Source: that kernel looks at the pages, and not at how the memory was made: a single page is
    one run, and so are pages that happen to be neighbours.
    """
    extents = token.grant.extents
    if len(extents) > 1:
        addresses = extents.addresses(token.step)
        if (np.diff(addresses) != token.step).any():
            return addresses
    token.form = AddrForm.CONTIGUOUS
    return extents.addresses(token.step)[:1]


def pin(
    bti: Handle[Any],
    vmo: Handle[Any],
    offset: int,
    size: int,
    perms: int,
    room: int,
    write: Callable[[NDArray[np.uint64]], None],
    site: Site | None = None,
) -> int:
    """Pin the pages that a range touches and let the device reach them; how many addresses.

    Args:
      bti, vmo: handles of whatever kind: what they are to is found out in its turn.
      offset: bytes, page-aligned.
      size: bytes, of any number; whole pages are pinned.
      perms: bits of `Perm`; EXECUTE asks for EXECUTE.
      room: how many addresses the caller has room for.
      write: is given the addresses, inside the kernel's lock, before the pin counts as made. If it
        raises, there is no pin.

    Raises:
      InvalidArgs: ``offset`` is unaligned, which is found before the handles are looked at; an
        unknown bit in ``perms``; then, late, ``perms`` or ``size`` is 0.
      BadHandle, AccessDenied, WrongType: ``bti`` is closed, lacks MAP, is no Bti.
      BadHandle, WrongType, AccessDenied: ``vmo`` is closed, is no memory object, lacks MAP or what
        ``perms`` asks.
      BadState: the bus has refused to take back an earlier pin, a token of Zircon's is in
        quarantine, or the last handle was closed.
      NotSupported: device memory.
      OutOfRange: the range leaves the object, to the byte.
      NotFound: a page that it touches has no memory. A page of a copy that nobody has written yet
        is such a page; of discarded memory all are.
      AlreadyBound: a page is in a live pin of this Bti; not where the kernel is followed.
      Unavailable: a page is pinned as often as a page can be: 31 times, contiguous memory 30.
      LimitReached, OutOfReach: the kernel's limit, or the bus's.
      BufferTooSmall: there are more addresses than ``room``.

    After any error nothing is pinned and nothing granted.

    Source: mx_bti_pin.
    """
    if offset & PAGE_MASK or offset < 0:
        raise InvalidArgs(
            "a pin begins at a page border",
            asked=offset,
            limit=PAGE_SIZE,
            remedy="align the offset to pages",
        )
    kernel = bti._entry.process.kernel
    with kernel.lock:
        device = required(bti, BtiObject, _MAP)
        source = of_kind(vmo, VmoObject)
        refuse_without(vmo, _MAP)
        refuse_without(vmo, (perms & ALL_PERMS) << _PERMS_TO_RIGHTS)
        if perms & ~ALL_PERMS:
            raise InvalidArgs("an unknown permission", asked=perms, limit=ALL_PERMS)
        device.refuse_if_unusable()
        pinned = _reserved(device, source, offset, size, site)
        try:
            filled = pinned.fill_from_books()
        except BaseException:
            device.let_go(source, pinned)
            raise
        holder = _Listing(room, write)
        if filled:
            return granted(device, holder, source, pinned, perms, AddrForm.PER_PAGE)

    def check() -> None:  # once more: another thread may have pinned a page of it meanwhile
        device.refuse_if_unusable()
        _refuse_bound(device, source, pinned.start, pinned.start + pinned.size)

    # Nothing is absent: this is for the anchor, for a real bus, and for what others may empty.
    return completed(device, holder, source, pinned, perms, AddrForm.PER_PAGE, check=check)


def _reserved(
    device: BtiObject, source: VmoObject, offset: int, size: int, site: Site | None
) -> PinnedRange:
    """The counts raised, if every page of the range may be pinned."""
    if source.physical:
        raise NotSupported(f"{source} is device memory", remedy="a device reaches that by address")
    end = byte_size(source)
    if offset + size > end:
        raise OutOfRange(
            f"the range leaves {source}",
            asked=offset + size,
            limit=end,
            remedy="pin what lies in the object, which has its size to the byte",
        )
    if not size:
        raise InvalidArgs("a pin of no bytes", asked=0, remedy="pin at least one byte")
    source.refuse_if_discarded()
    whole = page_up(size)
    start = source.base + offset
    _refuse_pages(device, source, start, start + whole)
    if source.contiguous:
        # That kernel pinned it once for good when it was made. There is no such pin in our books:
        # one is counted beside that which is to be made, to see whether there is room for both.
        stop = start + whole
        with _counted(source.pages, start, stop), _counted(source.pages, start, stop):
            pass
    made = PinnedRange(
        source.pages,
        offset,
        whole,
        owner=device.owner,
        what=source.label,
        site=site or sites.caller(4),
        ledger=device.kernel.ledger,
        anchor=device.limits.anchor,
        base=source.base,
    )
    source.pins += 1
    return made


def _refuse_pages(device: BtiObject, source: VmoObject, start: int, stop: int) -> None:
    """Raise for a page without memory, or one that the device has pinned. Bytes of the pages.

    Source: that kernel goes from page to page: one that is pinned as often as it can be wins over a
    hole above it. The page's ALREADY_BOUND has its place after the holes: what lies above one does
    not matter.
    """
    hole = first_hole(source, start, stop)
    if hole is None:
        _refuse_bound(device, source, start, stop)
        source.pages.remember(start, stop - start)
        return
    if start < hole and _first_bound(device, source, start, hole) is None:
        with _counted(source.pages, start, hole):
            pass
    raise NotFound(
        f"a page of {source} has no memory",
        asked=hole - source.base,
        remedy="commit the range, or write to it: a pin does not",
    )


def _refuse_bound(device: BtiObject, source: VmoObject, start: int, stop: int) -> None:
    """Raise `AlreadyBound` if the device has pinned a page of a range. Bytes of the pages."""
    bound = _first_bound(device, source, start, stop)
    if bound is not None:
        raise AlreadyBound(
            f"{device.owner} has pinned a page of {source} already",
            asked=bound - source.base,
            remedy="unpin it first, or pin through another Bti",
        )


def _first_bound(device: BtiObject, source: VmoObject, start: int, stop: int) -> int | None:
    """Where a page begins that is in a pin of the device, of either system's.

    None where the kernel of that time is followed, which did not look.
    """
    if not follows_docs(source.kernel):
        return None
    pages = source.pages
    page = device.listed.lowest(pages, start >> PAGE_SHIFT, stop >> PAGE_SHIFT)
    if page is not None:
        return page << PAGE_SHIFT
    for token in device.listed.strangers(device.pins):
        pinned = token.pinned
        if pinned.pages is pages and pinned.start < stop and start < pinned.start + pinned.size:
            return max(pinned.start, start)
    return None


@contextmanager
def _counted(pages: Pages, start: int, stop: int) -> Iterator[None]:
    """One more pin of each page, for as long as the block lasts.

    Raises:
      Unavailable: a page is pinned as often as a page can be.
    """
    first, last = start >> PAGE_SHIFT, stop >> PAGE_SHIFT
    pages.pin(first, last)
    try:
        yield
    finally:
        pages.unpin(first, last)


def unpin(bti: Handle[Any], addresses: bytes | None) -> None:
    """End the oldest pin of a device that gave exactly these addresses.

    Args:
      addresses: native 64-bit numbers, one after another; None for an array that cannot be read.

    Raises:
      BadHandle, AccessDenied, WrongType: ``bti`` is closed, lacks MAP, is no Bti.
      InvalidArgs: the array cannot be read.
      BadState: the last handle was closed meanwhile.
      InvalidArgs: no pin gave the array.
      What the bus or the anchor raises: the pages are held; the same call tries again.

    Source: mx_bti_unpin.
    """
    with bti._entry.process.kernel.lock:
        device = required(bti, BtiObject, _MAP)
    if addresses is None:
        raise InvalidArgs("the addresses cannot be read", remedy="give the array that was filled")
    device.unpin_listed(addresses)
