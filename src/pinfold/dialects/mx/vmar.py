# Address regions.
#
# Source: mx_vmar_map, mx_vmar_allocate, mx_vmar_protect, mx_vmar_unmap, mx_vmar_destroy of August
# 2017. The order of checks is the objects'.
#
# Offsets of allocate and map are relative to the region, addresses of the others are absolute. An
# output pointer that is NULL is found out when the work is done, and the work is undone; what
# SPECIFIC_OVERWRITE had replaced by then stays unmapped.
#
# A live view of a mapping, which only Python code can have made, is one more reason for BAD_STATE
# where its memory would be taken away.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pinfold.dialects.calling import face, filled, give, slot, u32, u64
from pinfold.dialects.mx.status import syscall
from pinfold.objects.magenta import regions
from pinfold.objects.vmar import Vmar

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out

_NAME: Final = "useralloc"
"""Of every region that a program allocates."""


@syscall
def mx_vmar_allocate(
    parent_vmar: int,
    offset: int,
    size: int,
    map_flags: int,
    child_vmar: Out | None,
    child_addr: Out | None,
) -> None:
    """A region in a region: ``mx_vmar_allocate(mx_handle_t, size_t, size_t, uint32_t, mx_handle_t*,
    uintptr_t*)``.

    Address space, and nothing mapped in it. After an error there is no region, and no handle.

    Args:
      offset: bytes, whole pages, from the base of the parent; 0 without MX_VM_FLAG_SPECIFIC.
      size: bytes, whole pages.
      map_flags: MX_VM_FLAG_CAN_MAP_*, what may be mapped in it; _COMPACT; _SPECIFIC.
      child_addr: gets its absolute address.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``parent_vmar`` names nothing, lacks READ, WRITE or
        EXECUTE for a CAN_MAP flag, is no region.
      INVALID_ARGS: unknown bits; a PERM flag, SPECIFIC_OVERWRITE, MAP_RANGE. With
        ``Kernel(strict="kernel")`` PERM_WRITE is taken, and means nothing.
      INVALID_ARGS: ``size`` is not in whole pages.
      BAD_STATE: the parent is destroyed.
      INVALID_ARGS: ``size`` is 0.
      ACCESS_DENIED: the parent does not allow a CAN_MAP_READ, _WRITE or _EXECUTE.
      INVALID_ARGS: an offset without SPECIFIC.
      ACCESS_DENIED: SPECIFIC, and the parent lacks CAN_MAP_SPECIFIC.
      INVALID_ARGS: it leaves the parent, or is unaligned.
      NO_MEMORY: something is there, or no gap is large enough.
      INVALID_ARGS: ``child_vmar`` or ``child_addr`` is NULL.
    """
    parent, offset, size = u32(parent_vmar), u64(offset), u64(size)
    flags, child, child_addr = u32(map_flags), slot(child_vmar), slot(child_addr)
    made = Vmar.wrap(regions.allocate(face(parent), offset, size, flags, _NAME))
    if child is None or child_addr is None:
        regions.destroy(made)
    else:
        child_addr.value = made.base
    give(None if child_addr is None else child, made)


@syscall
def mx_vmar_destroy(vmar: int) -> None:
    """Unmap all of a region, end it and those below it: ``mx_vmar_destroy(mx_handle_t)``.

    Its addresses are its parent's again. The handles to it stay, and get BAD_STATE; MX_INFO_VMAR
    goes on answering. After an error nothing has changed.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``vmar`` names nothing, is no region.
      NOT_SUPPORTED: the root region of the process.
      BAD_STATE: the region is destroyed already; then, a live Python view shows a part of it.
      NO_MEMORY: the host is out of mappings.
    """
    regions.destroy(face(u32(vmar)))


@syscall
def mx_vmar_map(
    vmar: int,
    vmar_offset: int,
    vmo: int,
    vmo_offset: int,
    len: int,  # noqa: A002 - the page's name
    map_flags: int,
    mapped_addr: Out | None,
) -> None:
    """Map a memory object into a region: ``mx_vmar_map(mx_handle_t, size_t, mx_handle_t, uint64_t,
    size_t, uint32_t, uintptr_t*)``.

    The mapping keeps the object, whatever becomes of the handles, and notes what both of them
    allow: mx_vmar_protect never gives more. It may lie beyond the end of the object: touching it
    there ends the process.

    After an error nothing is mapped; what SPECIFIC_OVERWRITE had replaced by then stays unmapped.

    Args:
      vmar_offset: bytes, whole pages, from the base of the region; 0 without a flag that places.
      vmo_offset: bytes, whole pages, from the start of the object.
      len: bytes, rounded up to pages.
      map_flags: MX_VM_FLAG_PERM_*, of which none is fine; _SPECIFIC or _SPECIFIC_OVERWRITE to place
        it; _MAP_RANGE to enter the pages that have memory.
      mapped_addr: gets the absolute address.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``vmar`` names nothing, is no region; then ``vmo``, is no VMO.
      ACCESS_DENIED: ``vmo`` lacks MAP.
      INVALID_ARGS: WRITE or EXECUTE without READ; CAN_MAP_READ, CAN_MAP_WRITE or CAN_MAP_EXECUTE.
      ACCESS_DENIED: a handle lacks the right for a PERM flag.
      INVALID_ARGS: unknown bits, COMPACT, CAN_MAP_SPECIFIC; ``vmo_offset`` is unaligned, or with
        the rounded ``len`` overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: ``len`` is 0, or wraps when it is rounded.
      ACCESS_DENIED: the region does not allow a permission.
      INVALID_ARGS: an offset without a flag that places.
      ACCESS_DENIED: a flag that places, and the region lacks CAN_MAP_SPECIFIC.
      INVALID_ARGS: it leaves the region; ``vmar_offset`` is unaligned.
      NO_MEMORY: SPECIFIC, and something is there.
      INVALID_ARGS: SPECIFIC_OVERWRITE meets a region.
      NO_MEMORY: no gap is large enough.
      BAD_STATE: a live Python view shows what would be replaced.
      NO_MEMORY: the host is out of mappings or of memory.
      INVALID_ARGS: with ``Kernel(strict="kernel")``, MAP_RANGE and a ``vmo_offset``; last,
        ``mapped_addr`` is NULL.
    """
    region, vmar_offset, memory = u32(vmar), u64(vmar_offset), u32(vmo)
    vmo_offset, size, flags = u64(vmo_offset), u64(len), u32(map_flags)
    slot(mapped_addr)
    made = regions.map_memory(face(region), vmar_offset, face(memory), vmo_offset, size, flags)
    if mapped_addr is None:
        made.unmap()
    filled(mapped_addr, made.address)


@syscall
def mx_vmar_unmap(
    vmar: int,
    addr: int,
    len: int,  # noqa: A002 - the page's name
) -> None:
    """Unmap a range of addresses: ``mx_vmar_unmap(mx_handle_t, uintptr_t, size_t)``.

    Mappings at its borders are cut, and regions that it covers are destroyed. After an error
    nothing has changed.

    Args:
      addr: absolute, page-aligned.
      len: bytes, rounded up to pages.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``vmar`` names nothing, is no region.
      INVALID_ARGS: ``addr`` is unaligned; ``len`` is 0 or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region, or covers a part of a child region.
      NOT_FOUND: nothing is there; with ``Kernel(strict="kernel")`` that is no error.
      BAD_STATE: a live Python view shows a part of the range.
      NO_MEMORY: the host is out of mappings.
    """
    number, addr, size = u32(vmar), u64(addr), u64(len)
    regions.unmap(face(number), addr, size)


@syscall
def mx_vmar_protect(
    vmar: int,
    addr: int,
    len: int,  # noqa: A002 - the page's name
    prot: int,
) -> None:
    """Change what may be done with mapped memory:
    ``mx_vmar_protect(mx_handle_t, uintptr_t, size_t, uint32_t)``.

    Args:
      addr: absolute, page-aligned.
      len: bytes, rounded up to pages.
      prot: MX_VM_FLAG_PERM_*; 0 takes all access away.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``vmar`` names nothing, lacks READ, WRITE or EXECUTE
        for ``prot``, is no region.
      INVALID_ARGS: WRITE or EXECUTE without READ; ``addr`` is unaligned; other flags; ``len`` is 0
        or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region.

    Of what is there in turn, then:
      NOT_FOUND: a hole before it.
      INVALID_ARGS: it is a region.
      ACCESS_DENIED: it was mapped without a permission.

    Last, of all:
      NOT_FOUND: a hole at the end.
      BAD_STATE: a live Python view needs what would be taken away.
      NO_MEMORY: the host is out of mappings.
    """
    number, addr, size, prot = u32(vmar), u64(addr), u64(len), u32(prot)
    regions.protect(face(number), addr, size, prot)
