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
# where its memory would be taken away.
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
    """Allocate a region in a region.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``parent``.
      ACCESS_DENIED: the handle lacks READ, WRITE or EXECUTE for a CAN_MAP option.
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
      INVALID_ARGS: an output pointer is NULL; nothing is allocated.
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
    """Unmap all of a region, end it and those below it, and free its range.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle``.
      ACCESS_DENIED: it lacks OP_CHILDREN.
      NOT_SUPPORTED: the root region of the process.
      BAD_STATE: the region is destroyed already.
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
    """Map a memory object into a region.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle``; then ``vmo``.
      NOT_SUPPORTED: FAULT_BEYOND_STREAM_SIZE, and the object is contiguous or device memory.
      ACCESS_DENIED: ``vmo`` lacks MAP.
      INVALID_ARGS: WRITE or EXECUTE without READ; MAP_RANGE with SPECIFIC_OVERWRITE; CAN_MAP_READ,
        CAN_MAP_WRITE or CAN_MAP_EXECUTE.
      ACCESS_DENIED: a handle lacks the right for a PERM option.
      INVALID_ARGS: FAULT_BEYOND_STREAM_SIZE without ALLOW_FAULTS; unknown bits or alignment.
      NOT_SUPPORTED: REQUIRE_NON_RESIZABLE of a resizable object; a discardable one without
        ALLOW_FAULTS.
      INVALID_ARGS: COMPACT or CAN_MAP_SPECIFIC.
      ACCESS_DENIED: the region does not allow a permission.
      INVALID_ARGS: ``vmo_offset`` is unaligned.
      OUT_OF_RANGE: ``len``, or ``vmo_offset`` and ``len``, overflow.
      BAD_STATE ... NO_RESOURCES: as zx_vmar_allocate, from the destroyed region on; and
        INVALID_ARGS where SPECIFIC_OVERWRITE meets a region.
      NO_MEMORY: the host is out of mappings or of memory.
      INVALID_ARGS: ``mapped_addr`` is NULL; nothing is mapped.
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
    """Unmap a range of addresses. Holes in it are no error.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle``.
      INVALID_ARGS: ``addr`` is unaligned; ``len`` is 0 or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region; it covers a part of a child region, or any child
        region and ``handle`` lacks OP_CHILDREN.
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
    """Set the permissions of a mapped range of addresses.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle``.
      ACCESS_DENIED: it lacks a right for a PERM option.
      INVALID_ARGS: WRITE or EXECUTE without READ; ``addr`` is unaligned; other options; ``len`` is
        0 or overflows.
      BAD_STATE: the region is destroyed.
      INVALID_ARGS: the range leaves the region.
      NOT_FOUND: a hole, before the mapping that is looked at next.
      ACCESS_DENIED: the mapping was made without a permission.
      INVALID_ARGS: it is a child region's, and ``handle`` lacks OP_CHILDREN.
      ACCESS_DENIED: it is a child region's, and would gain a permission.
      NO_MEMORY: the host is out of mappings; a part may have changed.
    """
    number, options, addr, size = u32(handle), u32(options), u64(addr), u64(len)
    handle_of(number, Vmar).protect(addr, size, options)


@syscall
def zx_vmar_op_range(
    handle: int, op: int, addr: int, size: int, buffer: Any, buffer_size: int
) -> None:
    """Do something with the pages behind a range of addresses, mapping by mapping.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle``.
      INVALID_ARGS: no such operation; a buffer; ``size`` is 0 or overflows; ``addr`` is unaligned.
      OUT_OF_RANGE: the range leaves the region.
      BAD_STATE: the region is destroyed; then, for each mapping in turn, a hole before it.
      INVALID_ARGS: it is a child region's, and the operation is COMMIT, DECOMMIT or PREFETCH, or
        ``handle`` lacks OP_CHILDREN.
      OUT_OF_RANGE: it ends with a stream, and the range goes further.
      ACCESS_DENIED: it can never be made writable (COMMIT, DECOMMIT, ZERO) or readable (PREFETCH).
      what zx_vmo_op_range has for that operation, but for the rights.
    """
    number, op, addr, size = u32(handle), u32(op), u64(addr), u64(size)
    given, length = pointed(buffer), u64(buffer_size)
    region = handle_of(number, Vmar)
    if given is not None or length:
        raise InvalidArgs("this call takes no buffer", asked=length, remedy="give None and 0")
    region.op_range(op, addr, size)
