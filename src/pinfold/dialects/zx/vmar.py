# Address regions.
#
# Source: zx_vmar_allocate, zx_vmar_destroy, zx_vmar_map, zx_vmar_unmap, zx_vmar_protect,
# zx_vmar_op_range. The order of checks is `Vmar`'s.
#
# Offsets of allocate and map are relative to the region, addresses of the others are absolute. An
# output pointer that is NULL is found out when the work is done, and the work is undone; what
# SPECIFIC_OVERWRITE had replaced by then stays unmapped.
#
# A live view of a mapping, which only Python code can have made, is one more reason for BAD_STATE
# where its memory would be taken away: after Zircon's own reasons, and before the host is asked.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import face, filled, give, handle_of, pointed, slot, u32, u64
from pinfold.dialects.zx.status import syscall
from pinfold.errors import InvalidArgs
from pinfold.objects.vmar import Vmar

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out

_NAME: Final = "useralloc"
"""Of every region that a program allocates. Source: Zircon, seen in ZX_INFO_PROCESS_MAPS."""


@syscall
def zx_vmar_allocate(
    parent: int, options: int, offset: int, size: int, child: Out | None, child_addr: Out | None
) -> None:
    """A region in a region: ``zx_vmar_allocate(zx_handle_t, zx_vm_option_t, uint64_t, uint64_t,
    zx_handle_t*, zx_vaddr_t*)``.

    Address space, and nothing mapped in it. After an error there is no region, and no handle.

    Args:
      options: ZX_VM_CAN_MAP_*, what may be mapped in it; ZX_VM_COMPACT; an alignment; and how to
        place it: ZX_VM_SPECIFIC or ZX_VM_OFFSET_IS_UPPER_LIMIT. Without one of these two ``offset``
        is 0, and it goes to the lowest address that fits.
      offset: bytes, whole pages, from the base of ``parent``: where it begins, or where it ends at
        the latest.
      size: bytes, whole pages.
      child_addr: gets its absolute address.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``parent`` names nothing, is no region.
      ACCESS_DENIED: ``parent`` lacks READ, WRITE or EXECUTE for a CAN_MAP option.
      INVALID_ARGS: unknown bits or alignment; a PERM option; ``size`` not in whole pages; an option
        of zx_vmar_map.
      BAD_STATE: ``parent`` is destroyed.
      INVALID_ARGS: ``size`` is 0.
      ACCESS_DENIED: ``parent`` does not allow a CAN_MAP option.
      INVALID_ARGS: placement options that exclude each other, an offset without one, or unaligned.
      ACCESS_DENIED: a placement option, and ``parent`` lacks CAN_MAP_SPECIFIC.
      INVALID_ARGS: it leaves ``parent``, or is not aligned as asked.
      ALREADY_EXISTS: something is there.
      NO_RESOURCES: no gap is large enough.
      INVALID_ARGS: ``child`` or ``child_addr`` is NULL.
    """
    number, options, offset, size = u32(parent), u32(options), u64(offset), u64(size)
    slot(child), slot(child_addr)
    made = handle_of(number, Vmar).allocate(size, options, offset=offset, name=_NAME)
    if child is None or child_addr is None:
        made.destroy()
    else:
        child_addr.value = made.base
    give(None if child_addr is None else child, made)


@syscall
def zx_vmar_destroy(handle: int) -> None:
    """Unmap all of a region, end it and those below it: ``zx_vmar_destroy(zx_handle_t)``.

    Its addresses are its parent's again. The handles to it stay, and get BAD_STATE; ZX_INFO_VMAR
    goes on answering. After an error nothing has changed.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no region.
      ACCESS_DENIED: it lacks OP_CHILDREN.
      NOT_SUPPORTED: the root region of the process.
      BAD_STATE: the region is destroyed already; then, a live Python view shows a part of it.
      NO_MEMORY: the host is out of mappings.
    """
    handle_of(u32(handle), Vmar).destroy()


@syscall
def zx_vmar_map(
    handle: int,
    options: int,
    vmar_offset: int,
    vmo: int,
    vmo_offset: int,
    len: int,  # noqa: A002 - the page's name
    mapped_addr: Out | None,
) -> None:
    """Map a memory object into a region: ``zx_vmar_map(zx_handle_t, zx_vm_option_t, uint64_t,
    zx_handle_t, uint64_t, uint64_t, zx_vaddr_t*)``.

    The mapping keeps the object, whatever becomes of the handles, and notes what both of them
    allow: zx_vmar_protect never gives more.

    After an error nothing is mapped, and what was there is as it was, with two exceptions. Where
    ``mapped_addr`` is NULL, what SPECIFIC_OVERWRITE had replaced stays unmapped. Where MAP_RANGE
    fails, and the host does not even let the mapping be undone, it stays; ZX_INFO_VMAR_MAPS has it.

    Args:
      options: ZX_VM_PERM_*, of which none is fine; an alignment and how to place it, as
        zx_vmar_allocate has it, or ZX_VM_SPECIFIC_OVERWRITE; and ZX_VM_MAP_RANGE,
        ZX_VM_REQUIRE_NON_RESIZABLE, ZX_VM_ALLOW_FAULTS, ZX_VM_FAULT_BEYOND_STREAM_SIZE.
      vmar_offset: bytes, whole pages, from the base of the region: where it begins, or where it
        ends at the latest.
      vmo_offset: bytes, whole pages, from the start of the object. It may lie beyond the end.
      len: bytes, rounded up to pages.
      mapped_addr: gets the absolute address.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no region; then ``vmo``, is no VMO.
      NOT_SUPPORTED: FAULT_BEYOND_STREAM_SIZE, and the object is contiguous or device memory.
      ACCESS_DENIED: ``vmo`` lacks MAP.
      INVALID_ARGS: WRITE or EXECUTE without READ; MAP_RANGE with SPECIFIC_OVERWRITE; CAN_MAP_READ,
        CAN_MAP_WRITE or CAN_MAP_EXECUTE.
      ACCESS_DENIED: a handle lacks the right for a PERM option.
      INVALID_ARGS: FAULT_BEYOND_STREAM_SIZE without ALLOW_FAULTS; unknown bits or alignment.
      NOT_SUPPORTED: REQUIRE_NON_RESIZABLE of a resizable object; a discardable one without
        ALLOW_FAULTS, and with ``Kernel(strict="docs")`` a resizable one.
      INVALID_ARGS: COMPACT or CAN_MAP_SPECIFIC.
      ACCESS_DENIED: the region does not allow a permission.
      INVALID_ARGS: ``vmo_offset`` is unaligned.
      OUT_OF_RANGE: ``len``, or ``vmo_offset`` and ``len``, overflow.
      BUFFER_TOO_SMALL: with ``Kernel(strict="docs")``, the range leaves the object, and there is no
        ALLOW_FAULTS.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: ``len`` is 0; placement options that exclude each other, an offset without one,
        or unaligned.
      ACCESS_DENIED: a placement option, and the region lacks CAN_MAP_SPECIFIC.
      INVALID_ARGS: it leaves the region, or is not aligned as asked; SPECIFIC_OVERWRITE meets a
        region.
      ALREADY_EXISTS: SPECIFIC, and something is there.
      NO_RESOURCES: no gap is large enough.
      BAD_STATE: a live Python view shows what would be replaced.
      ACCESS_DENIED: the host does not let the file behind a real window be mapped so.
      NO_MEMORY: the host is out of mappings or of memory.
      IO: MAP_RANGE, and a page of a file cannot be read.
      INVALID_ARGS: ``mapped_addr`` is NULL.
    """
    number, options, vmar_offset = u32(handle), u32(options), u64(vmar_offset)
    memory, vmo_offset, size = u32(vmo), u64(vmo_offset), u64(len)
    slot(mapped_addr)
    region, what = handle_of(number, Vmar), face(memory)
    made = region.map(what, options, offset=vmar_offset, vmo_offset=vmo_offset, size=size)
    if mapped_addr is None:
        made.unmap()
    filled(mapped_addr, made.address)


@syscall
def zx_vmar_unmap(
    handle: int,
    addr: int,
    len: int,  # noqa: A002 - the page's name
) -> None:
    """Unmap a range of addresses: ``zx_vmar_unmap(zx_handle_t, zx_vaddr_t, uint64_t)``.

    Holes in it are no error, mappings at its borders are cut, and regions that it covers are
    destroyed. After an error nothing has changed.

    Args:
      addr: absolute, page-aligned.
      len: bytes, rounded up to pages.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no region.
      INVALID_ARGS: ``addr`` is unaligned; ``len`` is 0 or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region; it covers a part of a child region, or any child
        region and ``handle`` lacks OP_CHILDREN.
      BAD_STATE: a live Python view shows a part of it.
      NO_MEMORY: the host is out of mappings, and one would be cut in two.
    """
    number, addr, size = u32(handle), u64(addr), u64(len)
    handle_of(number, Vmar).unmap(addr, size)


@syscall
def zx_vmar_protect(
    handle: int,
    options: int,
    addr: int,
    len: int,  # noqa: A002 - the page's name
) -> None:
    """Set the permissions of a mapped range: ``zx_vmar_protect(zx_handle_t, zx_vm_option_t,
    zx_vaddr_t, uint64_t)``.

    All of the range is checked before any of it changes: after an error nothing has, except after
    NO_MEMORY, where what lies before the place of the refusal may have.

    Args:
      options: ZX_VM_PERM_*; 0 takes all access away, and needs no right.
      addr: absolute, page-aligned.
      len: bytes, rounded up to pages.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no region.
      ACCESS_DENIED: it lacks a right for a PERM option.
      INVALID_ARGS: WRITE or EXECUTE without READ; ``addr`` is unaligned; other options; ``len`` is
        0 or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region.

    Of each mapping in turn, then:
      NOT_FOUND: a hole before it.
      ACCESS_DENIED: it was made without a permission.
      INVALID_ARGS: it is a child region's, and ``handle`` lacks OP_CHILDREN.
      ACCESS_DENIED: it is a child region's, and would gain a permission.

    Last, of all:
      NOT_FOUND: a hole at the end.
      BAD_STATE: a live Python view needs what would be taken away.
      NO_MEMORY: the host is out of mappings.
    """
    number, options, addr, size = u32(handle), u32(options), u64(addr), u64(len)
    handle_of(number, Vmar).protect(addr, size, options)


@syscall
def zx_vmar_op_range(
    handle: int, op: int, addr: int, size: int, buffer: Any, buffer_size: int
) -> None:
    """Do something with the pages behind a range of addresses: ``zx_vmar_op_range(zx_handle_t,
    uint32_t, zx_vaddr_t, size_t, void*, size_t)``.

    It goes from mapping to mapping, and of the rights of ``handle`` only OP_CHILDREN counts: the
    others were looked at when the memory was mapped. Work that was done before an error stays done.

    Args:
      op: ZX_VMAR_OP_*.
      addr: absolute, page-aligned.
      size: bytes, rounded up to pages.
      buffer, buffer_size: None and 0. No operation takes one.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no region.
      INVALID_ARGS: there is no such operation; a buffer; ``size`` is 0 or overflows; ``addr`` is
        unaligned.
      OUT_OF_RANGE: the range leaves the region.
      BAD_STATE: the region is destroyed.

    Of each mapping in turn, then:
      BAD_STATE: a hole before it.
      INVALID_ARGS: it is a child region's, and the operation is COMMIT, DECOMMIT or PREFETCH, or
        ``handle`` lacks OP_CHILDREN.
      OUT_OF_RANGE: it ends with a stream, and the range goes further.
      ACCESS_DENIED: it can never be made writable (COMMIT, DECOMMIT, ZERO) or readable (PREFETCH).
      NOT_SUPPORTED: COMMIT or ZERO of device memory, DECOMMIT of that or of contiguous memory.
      OUT_OF_RANGE: the range goes beyond the end of the object (COMMIT, DECOMMIT, ZERO, PREFETCH).
      NOT_FOUND: COMMIT of what was discarded.
      NOT_SUPPORTED: DECOMMIT of a snapshot, or of an object that has one.
      BAD_STATE: DECOMMIT, and a page is pinned; ZERO of what is not cached, and a page would have
        to be written.
      NO_MEMORY: the host has none, or is out of mappings; a part of the mapping may be done.
      IO: a page of a file cannot be read.

    Last, of all:
      BAD_STATE: a hole at the end.
    """
    number, op, addr, size = u32(handle), u32(op), u64(addr), u64(size)
    given, length = pointed(buffer), u64(buffer_size)
    region = handle_of(number, Vmar)
    if given is not None or length:
        raise InvalidArgs("this call takes no buffer", asked=length, remedy="give None and 0")
    region.op_range(op, addr, size)
