# Mapping as Magenta has it.
#
# Source: mx_vmar_map, mx_vmar_allocate, mx_vmar_protect, mx_vmar_unmap, mx_vmar_destroy; the kernel
# of August 2017 for the order of checks, which is the order of the code here.
#
# What differs from Zircon's rules: a taken place and a missing gap are both NO_MEMORY; arithmetic
# that overflows is INVALID_ARGS; a mapping may lie beyond the end of its memory, whatever a strict
# kernel says of Zircon's; a child region that is in the way of `protect` is INVALID_ARGS, and
# no right is asked for to unmap or destroy one. Options that came later are unknown bits.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidArgs,
    NoMemory,
    NoResources,
    NotFound,
    NotSupported,
)
from pinfold.memory.hosterrors import noted
from pinfold.memory.regions import Region
from pinfold.objects import mapping
from pinfold.objects.magenta.memory import follows_docs
from pinfold.objects.magenta.rights import VMAR_RIGHTS, of_kind, refuse_without, required
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.region import VmarObject
from pinfold.objects.region_ops import enter_all
from pinfold.objects.vmoption import (
    AT,
    CAN_RWX,
    CAN_SHIFT,
    CAN_SPECIFIC,
    COMPACT,
    MAP_RANGE,
    PERMS,
    RIGHT_SHIFT,
    SPECIFIC,
    check_address,
    check_perms,
    check_region_size,
    not_taken,
)
from pinfold.rights import Right, describe_perms
from pinfold.units import PAGE_MASK, PAGE_SIZE, UINT64_MAX, ByteRange, page_up

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle, HandleEntry
    from pinfold.objects.mapping import Mapping

_WRITE_BIT: Final = 2
_MAP: Final = int(Right.MAP)
_FOR_MAP: Final = PERMS | AT | MAP_RANGE
_FOR_ALLOCATE: Final = CAN_RWX | CAN_SPECIFIC | COMPACT | SPECIFIC


def map_memory(
    region: Handle[Any], offset: int, vmo: Handle[Any], vmo_offset: int, size: int, flags: int
) -> Mapping:
    """Show a part of a memory object at host addresses.

    Args:
      region, vmo: handles of whatever kind.
      offset: bytes from the base of the region; 0 without SPECIFIC and SPECIFIC_OVERWRITE.
      vmo_offset: bytes, page-aligned. What lies beyond the object has addresses and no memory.
      size: bytes, rounded up to pages.
      flags: PERM_*, SPECIFIC, SPECIFIC_OVERWRITE, MAP_RANGE.

    Raises:
      BadHandle, WrongType: ``region`` is closed, is no region; then ``vmo``, is no memory object.
      AccessDenied: ``vmo`` lacks MAP.
      InvalidArgs: WRITE or EXECUTE without READ; a CAN_MAP permission.
      AccessDenied: one of the handles lacks the right for a permission.
      InvalidArgs: another flag; ``vmo_offset`` is unaligned; the memory's range overflows.
      BadState: the region is destroyed.
      InvalidArgs: ``size`` is 0.
      AccessDenied: the region does not allow a permission.
      InvalidArgs: ``offset`` without a flag that places.
      AccessDenied: a flag that places, and the region lets nobody choose addresses.
      InvalidArgs: the range leaves the region; ``offset`` is unaligned; a child region is to be
        replaced.
      NoMemory: the place is taken, no gap is large enough, or the host is out of mappings.
      BadState: a live view shows what would be replaced.
      InvalidArgs: MAP_RANGE with a ``vmo_offset``, where the kernel of that time is followed.

    After an error nothing is mapped. What SPECIFIC_OVERWRITE had replaced by then is unmapped.

    Source: mx_vmar_map.
    """
    kernel = region._entry.process.kernel
    with kernel.lock:
        target, memory = of_kind(region, VmarObject), of_kind(vmo, VmoObject)
        refuse_without(vmo, _MAP)
        perms = flags & PERMS
        check_perms(perms)
        if flags & CAN_RWX:
            raise not_taken("map", flags & CAN_RWX)
        refuse_without(region, perms << RIGHT_SHIFT)
        refuse_without(vmo, perms << RIGHT_SHIFT)
        if flags & ~_FOR_MAP:
            raise not_taken("map", flags & ~_FOR_MAP)
        whole = page_up(size)
        if vmo_offset & PAGE_MASK or vmo_offset + (whole & UINT64_MAX) > UINT64_MAX:
            raise InvalidArgs(
                "a memory offset is page-aligned, and the range ends within 64 bits",
                asked=vmo_offset,
                limit=PAGE_SIZE,
                remedy="give a multiple of the page size",
            )
        start = _place(target, flags, perms << CAN_SHIFT, offset, whole)
        allowed = (region._entry.rights & vmo._entry.rights) >> RIGHT_SHIFT & PERMS
        made = mapping.show(target.region, memory, allowed, start, whole, vmo_offset, perms)
    if flags & MAP_RANGE:
        if vmo_offset and not follows_docs(kernel):
            slip = InvalidArgs("MAP_RANGE with a memory offset", asked=vmo_offset)
            with noted("unmap it again; it stays mapped", slip):
                made.unmap()
            raise slip
        enter_all(made)
    return made


def allocate(parent: Handle[Any], offset: int, size: int, flags: int, name: str) -> HandleEntry:
    """A region in a region.

    Args:
      offset: bytes from the base of ``parent``; 0 without SPECIFIC.
      size: bytes, whole pages.
      flags: CAN_MAP_*, COMPACT, SPECIFIC.

    Raises:
      BadHandle, AccessDenied, WrongType: ``parent`` is closed, lacks a right for a CAN_MAP flag, is
        no region.
      InvalidArgs: another flag. PERM_WRITE is ignored where the kernel of that time is followed.
      InvalidArgs: ``size`` is unaligned.
      BadState: the parent is destroyed.
      InvalidArgs: ``size`` is 0.
      AccessDenied: the parent does not allow a CAN_MAP flag.
      InvalidArgs, AccessDenied, NoMemory: placing, as `map_memory`.

    Source: mx_vmar_allocate.
    """
    process = parent._entry.process
    with process.kernel.lock:
        can = flags & CAN_RWX
        target = required(parent, VmarObject, can >> CAN_SHIFT << RIGHT_SHIFT)
        if not follows_docs(process.kernel):
            flags &= ~_WRITE_BIT
        if flags & ~_FOR_ALLOCATE:
            raise not_taken("allocate", flags & ~_FOR_ALLOCATE)
        check_region_size(size)
        start = _place(target, flags, can, offset, size)
        rights = VMAR_RIGHTS | can >> CAN_SHIFT << RIGHT_SHIFT
        return target.allocated(process, start, size, flags, name, rights)


def _place(target: VmarObject, flags: int, can: int, offset: int, size: int) -> int:
    """Where a block of whole pages goes: its address.

    `VmarObject.place` has Zircon's rules. Magenta looks at whether the region lets one choose
    before it looks at the offset, and has one error for every lack of room.
    """
    target.require_alive()
    if size > UINT64_MAX:
        size = 0  # as it wraps in 64 bits
    allowed = size and not can & ~target.options
    if flags & AT and allowed and not target.options & CAN_SPECIFIC:
        raise AccessDenied(
            f"{target} does not let its users choose addresses",
            remedy="allocate it with CAN_MAP_SPECIFIC, or let the region choose",
        )
    try:
        return target.place(flags & AT, can, offset, size)
    except (AlreadyExists, NoResources) as error:
        raise NoMemory(
            error.message,
            asked=error.asked,
            available=error.available,
            holder=error.holder,
            remedy=error.remedy,
        ) from error


def protect(region: Handle[Any], address: int, size: int, prot: int) -> None:
    """Change what may be done with a mapped range.

    Raises:
      BadHandle, AccessDenied, WrongType: ``region`` is closed, lacks the right for a permission, is
        no region.
      InvalidArgs: WRITE or EXECUTE without READ; ``address`` is unaligned; another flag; ``size``
        is 0 or overflows.
      BadState: the region is destroyed.
      InvalidArgs: the range leaves the region.
      NotFound, InvalidArgs, AccessDenied: of what is there in turn, a hole before it, a child
        region, a mapping that was made without the permission.
      NotFound: a hole at the end.
      BadState: a live view needs what would be taken away.
      NoMemory: the host is out of mappings.

    Source: mx_vmar_protect.
    """
    with region._entry.process.kernel.lock:
        target = required(region, VmarObject, (prot & PERMS) << RIGHT_SHIFT)
        check_perms(prot & PERMS)
        check_address(address)
        if prot & ~PERMS:
            raise not_taken("protect", prot & ~PERMS)
        start, stop = _range(target, address, size)
        _check_protect(target, start, stop, prot)
        mapping.protect(target.region, start, stop, prot)


def _check_protect(target: VmarObject, start: int, stop: int, prot: int) -> None:
    at = start
    for low, high, child in target.region.children.overlapping(start, stop):
        if at < low and at == start:
            break
        if isinstance(child, Region):
            raise InvalidArgs(
                "a child region is in the range",
                asked=low,
                holder=f"the region at {ByteRange(low, high)}",
                remedy="use the child's own handle",
            )
        if at < low:
            break
        denied = prot & ~child.mapped.allowed
        if denied:
            raise AccessDenied(
                f"the mapping at {ByteRange(low, high)} was made without {describe_perms(denied)}",
                missing=denied << RIGHT_SHIFT,
                remedy="map it again through handles with that right",
            )
        at = high
    if at < stop:
        raise NotFound(
            "a part of the range is not mapped", asked=at, remedy="protect only what is mapped"
        )


def unmap(region: Handle[Any], address: int, size: int) -> None:
    """Unmap a range; child regions in it are destroyed, mappings at its borders are cut.

    Raises:
      BadHandle, WrongType: ``region`` is closed, is no region. No right is needed.
      InvalidArgs: ``address`` is unaligned; ``size`` is 0 or overflows.
      BadState: the region is destroyed.
      InvalidArgs: the range leaves the region, or covers a part of a child region.
      NotFound: nothing is there; not where the kernel of that time is followed.
      BadState: a live view shows a part of the range.
      NoMemory: the host is out of mappings.

    Source: mx_vmar_unmap.
    """
    kernel = region._entry.process.kernel
    with kernel.lock:
        target = of_kind(region, VmarObject)
        check_address(address)
        start, stop = _range(target, address, size)
        target.check_unmap(start, stop, children=True)
        if follows_docs(kernel) and not target.region.children.overlapping(start, stop):
            raise NotFound("nothing is mapped in the range", asked=start, remedy="unmap it once")
        target.region.clear(start, stop)


def destroy(region: Handle[Any]) -> None:
    """Unmap all of a region, end it and those below it. The handles to it stay.

    Raises:
      BadHandle, WrongType: ``region`` is closed, is no region. No right is needed.
      NotSupported: the root region, which ends with its process.
      BadState: it is destroyed already; then, a live view shows a part of it.
      NoMemory: the host is out of mappings.

    Source: mx_vmar_destroy.
    """
    with region._entry.process.kernel.lock:
        target = of_kind(region, VmarObject)
        if target.region.parent is None:
            raise NotSupported(
                f"{target} is the root of its process", remedy="end the process instead"
            )
        target.require_alive().destroy()


def _range(target: VmarObject, address: int, size: int) -> tuple[int, int]:
    if not size or page_up(size) > UINT64_MAX:
        raise InvalidArgs("a range has at least a byte, and ends", asked=size, limit=UINT64_MAX)
    return target.range_of(address, size)
