# Zircon's calls on virtual memory objects.
#
# Source: the zx_vmo_* pages, and Zircon's kernel for the order of checks. Checks and order are the
# objects'; here numbers become handles and buffers, and nothing is decided but what a NULL or too
# short pointer gets: for bytes to read or write NOT_FOUND, for results INVALID_ARGS.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import (
    face,
    filled,
    give,
    handle_of,
    pointed,
    readable,
    slot,
    u32,
    u64,
    writable,
)
from pinfold.dialects.zx import numbers as zx
from pinfold.dialects.zx import structures as of
from pinfold.dialects.zx.records import zx_vmo_lock_state_t
from pinfold.dialects.zx.status import syscall
from pinfold.errors import InvalidArgs, NotFound
from pinfold.objects.vmo import Vmo
from pinfold.objects.vmo_child import make_child, set_cache_policy, transfer
from pinfold.objects.vmo_exec import replace_as_executable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.dialects.calling import Out

_STATE_BYTES: Final = zx_vmo_lock_state_t.size


# Making one ---------------------------------------------------------------------------------------


@syscall
def zx_vmo_create(size: int, options: int, out: Out | None) -> None:
    """A memory object of zeros: ``zx_vmo_create(uint64_t, uint32_t, zx_handle_t*)``.

    Errors, in this order:
      INVALID_ARGS: RESIZABLE and UNBOUNDED.
      OUT_OF_RANGE: ``size``, in whole pages, is more than 64 bits hold.
      INVALID_ARGS: an unknown option.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      NO_MEMORY: the host has no descriptor or no memory for it.
      INVALID_ARGS: ``out`` is NULL.
    """
    size, options, out = u64(size), u32(options), slot(out)
    give(out, Vmo.with_options(size, options))


@syscall
def zx_vmo_create_contiguous(bti: int, size: int, alignment_log2: int, out: Out | None) -> None:
    """Physically contiguous memory, committed:
    ``zx_vmo_create_contiguous(zx_handle_t, size_t, uint32_t, zx_handle_t*)``.

    Errors, in this order:
      INVALID_ARGS: ``size`` is 0 or not in whole pages; ``alignment_log2`` is neither 0 nor from a
        page to 63.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``bti`` names nothing, is no BTI, lacks MAP.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      NO_MEMORY: no such run is left, or the host has no memory.
      INVALID_ARGS: ``out`` is NULL.
    """
    bti, size, log2, out = u32(bti), u64(size), u32(alignment_log2), slot(out)
    alignment = 1 << min(log2, 64) if log2 else zx.ZX_PAGE_SIZE
    made = Vmo.contiguous(face(bti), size, alignment=alignment)  # type: ignore[arg-type]  # checked
    give(out, made)


@syscall
def zx_vmo_create_physical(resource: int, paddr: int, size: int, out: Out | None) -> None:
    """Device memory: ``zx_vmo_create_physical(zx_handle_t, zx_paddr_t, size_t, zx_handle_t*)``.

    Errors, in this order:
      INVALID_ARGS: ``size`` is 0 or not in whole pages.
      BAD_HANDLE, WRONG_TYPE: ``resource`` names nothing, is no MMIO resource.
      OUT_OF_RANGE: the range leaves the pages of the resource.
      ACCESS_DENIED: the resource stands for every address, and there is RAM.
      INVALID_ARGS: ``paddr`` is unaligned, or the range leaves the address space.
      NO_MEMORY: the host has no descriptor for it.
      INVALID_ARGS: ``out`` is NULL.
    """
    resource, paddr, size, out = u32(resource), u64(paddr), u64(size), slot(out)
    made = Vmo.physical(face(resource), paddr, size)  # type: ignore[arg-type]  # checked there
    give(out, made)


@syscall
def zx_vmo_create_child(handle: int, options: int, offset: int, size: int, out: Out | None) -> None:
    """A snapshot, slice or reference:
    ``zx_vmo_create_child(zx_handle_t, uint32_t, uint64_t, uint64_t, zx_handle_t*)``.

    Errors, in this order:
      OUT_OF_RANGE: ``size``, in whole pages, is more than 64 bits hold.
      INVALID_ARGS: NO_WRITE and RESIZABLE.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks DUPLICATE or
        READ, or RESIZE for a resizable reference.
      NOT_SUPPORTED: the parent is discardable.
      INVALID_ARGS: no kind, two kinds, or an option that does not go with the kind.

    Of a slice, then:
      INVALID_ARGS: ``offset`` is unaligned.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      INVALID_ARGS: the range leaves the parent.
      NOT_SUPPORTED: the parent is resizable.
      BAD_STATE: the parent is neither cached nor contiguous.

    Of a reference, then:
      NOT_SUPPORTED: of device memory.
      INVALID_ARGS: ``offset`` or ``size`` is not 0.
      NOT_SUPPORTED: of a slice, or of contiguous memory; RESIZABLE, and the parent is not.
      BAD_STATE: the parent is not cached.

    Of a snapshot, then:
      NOT_SUPPORTED: of device memory.
      INVALID_ARGS: of contiguous memory; ``offset`` is unaligned.
      OUT_OF_RANGE: ``size`` is more than an object can have; the range ends beyond 64 bits, or
        leaves a parent that is a slice.
      BAD_STATE: the parent is not cached.
      INVALID_ARGS: the range ends beyond 64 bits of the first ancestor.
      NOT_SUPPORTED: of a slice.
      BAD_STATE: a page of the parent is pinned, wherever.

    Last, of all:
      NO_MEMORY: the host has no memory for the copy, or no descriptor.
      INVALID_ARGS: ``out`` is NULL.
    """
    handle, options, offset, size = u32(handle), u32(options), u64(offset), u64(size)
    out = slot(out)
    give(out, Vmo.wrap(make_child(face(handle), options, offset, size)))


# Bytes --------------------------------------------------------------------------------------------


@syscall
def zx_vmo_read(handle: int, buffer: Any, offset: int, length: int) -> None:
    """Copy bytes out: ``zx_vmo_read(zx_handle_t, void*, uint64_t, size_t)``.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks READ.
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: the range ends beyond 64 bits.
      BAD_STATE: not cached.
      OUT_OF_RANGE: the range leaves the object.
      NOT_FOUND: discarded; then, the buffer is NULL, read-only or shorter than ``length``.
    """
    handle, view, offset, length = u32(handle), pointed(buffer), u64(offset), u64(length)
    vmo, view = handle_of(handle, Vmo), writable(view, length)
    if view is None:
        vmo.check_read(offset, length)
        raise _inaccessible(length)
    vmo.read_into(view, offset)


@syscall
def zx_vmo_write(handle: int, buffer: Any, offset: int, length: int) -> None:
    """Copy bytes in: ``zx_vmo_write(zx_handle_t, const void*, uint64_t, size_t)``.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks WRITE.
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: the range ends beyond 64 bits.
      BAD_STATE: not cached.
      OUT_OF_RANGE: the range leaves the object.
      NOT_FOUND: discarded; then, the buffer is NULL or shorter than ``length``.
      NO_MEMORY: the host has no memory; a part may be written.
    """
    handle, view, offset, length = u32(handle), pointed(buffer), u64(offset), u64(length)
    vmo, view = handle_of(handle, Vmo), readable(view, length)
    if view is None:
        vmo.check_write(offset, length)
        raise _inaccessible(length)
    vmo.write(view, offset)


def _inaccessible(size: int) -> NotFound:
    return NotFound("the buffer is not all there", asked=size, remedy="pass one of that length")


# Size ---------------------------------------------------------------------------------------------


@syscall
def zx_vmo_get_size(handle: int, out: Out | None) -> None:
    """Its size in bytes, whole pages: ``zx_vmo_get_size(zx_handle_t, uint64_t*)``.

    Errors: BAD_HANDLE, WRONG_TYPE, INVALID_ARGS (``out`` is NULL).
    """
    handle, out = u32(handle), slot(out)
    filled(out, handle_of(handle, Vmo).size)


@syscall
def zx_vmo_set_size(handle: int, size: int) -> None:
    """Resize it: ``zx_vmo_set_size(zx_handle_t, uint64_t)``.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks WRITE, or
        RESIZE of a resizable object.
      UNAVAILABLE: contiguous or device memory.
      OUT_OF_RANGE: ``size``, in whole pages, is more than 64 bits hold.
      UNAVAILABLE: not resizable.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      BAD_STATE: a page that would be cut off is pinned, or shown by a Python view.
      INVALID_ARGS: a snapshot would end beyond 64 bits of its first ancestor.
      NO_MEMORY: the host refuses.
    """
    handle, size = u32(handle), u64(size)
    handle_of(handle, Vmo).resize(size)


@syscall
def zx_vmo_get_stream_size(handle: int, out: Out | None) -> None:
    """Its stream size in bytes: ``zx_vmo_get_stream_size(zx_handle_t, uint64_t*)``.

    Errors: BAD_HANDLE, WRONG_TYPE, INVALID_ARGS (``out`` is NULL).
    """
    handle, out = u32(handle), slot(out)
    filled(out, handle_of(handle, Vmo).stream_size)


@syscall
def zx_vmo_set_stream_size(handle: int, size: int) -> None:
    """Change its stream size: ``zx_vmo_set_stream_size(zx_handle_t, uint64_t)``.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks WRITE.
      NOT_SUPPORTED: contiguous or device memory.
      OUT_OF_RANGE: more than the object has.
      BAD_STATE: a Python view shows what a mapping would hide; not cached, and a part of a page
        would have to be cleared.
      NO_MEMORY: the host refuses to change what a mapping shows; the size is as before.
    """
    handle, size = u32(handle), u64(size)
    handle_of(handle, Vmo).set_stream_size(size)


# Operations ---------------------------------------------------------------------------------------


def _lock(vmo: Vmo, offset: int, size: int, buffer: memoryview | None, buffer_size: int) -> None:
    state = None if buffer_size < _STATE_BYTES else writable(buffer, _STATE_BYTES)
    if state is None:
        vmo.check_lock(offset, size)
        raise InvalidArgs(
            "there is no room for the lock state",
            asked=buffer_size,
            limit=_STATE_BYTES,
            remedy="pass a writable buffer of that many bytes",
        )
    lost = vmo.lock_memory(offset, size)
    state[:] = zx_vmo_lock_state_t.pack(
        of.VmoLockState(lost.offset, lost.size, lost.discarded_offset, lost.discarded_size)
    )


_OPERATIONS: Final[dict[int, Callable[[Vmo, int, int], object]]] = {
    zx.ZX_VMO_OP_COMMIT: Vmo.commit,
    zx.ZX_VMO_OP_DECOMMIT: Vmo.decommit,
    zx.ZX_VMO_OP_TRY_LOCK: Vmo.try_lock_memory,
    zx.ZX_VMO_OP_UNLOCK: Vmo.unlock_memory,
    zx.ZX_VMO_OP_CACHE_SYNC: Vmo.clean_cache,
    zx.ZX_VMO_OP_CACHE_INVALIDATE: lambda vmo, offset, size: vmo.clean_cache(
        offset, size, invalidate=True
    ),
    zx.ZX_VMO_OP_CACHE_CLEAN: Vmo.clean_cache,
    zx.ZX_VMO_OP_CACHE_CLEAN_INVALIDATE: Vmo.clean_cache,
    zx.ZX_VMO_OP_ZERO: Vmo.zero,
    zx.ZX_VMO_OP_DONT_NEED: Vmo.hint,
    zx.ZX_VMO_OP_ALWAYS_NEED: Vmo.hint,
    zx.ZX_VMO_OP_PREFETCH: Vmo.prefetch,
}


@syscall
def zx_vmo_op_range(
    handle: int, op: int, offset: int, size: int, buffer: Any, buffer_size: int
) -> None:
    """Do something with a range:
    ``zx_vmo_op_range(zx_handle_t, uint32_t, uint64_t, uint64_t, void*, size_t)``.

    Only LOCK looks at the buffer: it writes a ``zx_vmo_lock_state_t`` there.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no VMO.
      INVALID_ARGS: there is no such operation.
      NOT_SUPPORTED: CACHE_INVALIDATE on a kernel without debug calls.
      ACCESS_DENIED: COMMIT, DECOMMIT, ZERO, CACHE_INVALIDATE without WRITE; the other cache
        operations and PREFETCH without READ; LOCK, TRY_LOCK, UNLOCK with neither.

    Of COMMIT, then:
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: the range leaves the object.
      NOT_FOUND: discarded.
      NO_MEMORY: the host has none; a part may be committed.

    Of DECOMMIT, then:
      NOT_SUPPORTED: contiguous or device memory.
      OUT_OF_RANGE: the range leaves the object.
      NOT_SUPPORTED: a snapshot, or an object that has one.
      INVALID_ARGS: unaligned.
      BAD_STATE: a page of the range is pinned.

    Of ZERO, then:
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: the range, unless it is empty, leaves the object.
      BAD_STATE: not cached, and a page would have to be written.

    Of LOCK, TRY_LOCK and UNLOCK, then:
      NOT_SUPPORTED: not discardable.
      OUT_OF_RANGE: not exactly all of the object.
      INVALID_ARGS: LOCK without a writable buffer of 32 bytes.
      UNAVAILABLE: TRY_LOCK of what was discarded.
      BAD_STATE: UNLOCK of what is not locked.

    Of the cache operations, then:
      NOT_SUPPORTED: device memory.
      INVALID_ARGS: ``size`` is 0.
      OUT_OF_RANGE: the range leaves the object.

    Of PREFETCH, then:
      OUT_OF_RANGE: the range leaves the object.
    """
    handle, op, offset, size = u32(handle), u32(op), u64(offset), u64(size)
    view, buffer_size = pointed(buffer), u64(buffer_size)
    vmo = handle_of(handle, Vmo)
    if op == zx.ZX_VMO_OP_LOCK:
        _lock(vmo, offset, size, view, buffer_size)
        return
    operation = _OPERATIONS.get(op)
    if operation is None:
        raise InvalidArgs("there is no such operation", asked=op, remedy="use a ZX_VMO_OP_*")
    operation(vmo, offset, size)


@syscall
def zx_vmo_set_cache_policy(handle: int, policy: int) -> None:
    """Say how it is to be cached: ``zx_vmo_set_cache_policy(zx_handle_t, uint32_t)``.

    Errors, in this order:
      INVALID_ARGS: there is no such policy.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``handle`` names nothing, is no VMO, lacks MAP.
      BAD_STATE: a page is pinned; it is mapped, has a child, is a child, or shares its pages; it is
        discardable, and the policy is not CACHED. Device memory may have the policy it has.
    """
    handle, policy = u32(handle), u32(policy)
    set_cache_policy(face(handle), policy)


@syscall
def zx_vmo_replace_as_executable(handle: int, vmex: int, out: Out | None) -> None:
    """Replace a handle by one with EXECUTE; it is gone, error or not:
    ``zx_vmo_replace_as_executable(zx_handle_t, zx_handle_t, zx_handle_t*)``.

    Errors, in this order:
      BAD_HANDLE: ``handle`` names nothing, or no VMO.
      BAD_HANDLE, WRONG_TYPE, OUT_OF_RANGE: ``vmex`` names nothing, is no SYSTEM resource, or one
        for something else. 0 leaves it to the policy, which allows it.
      INVALID_ARGS: ``out`` is NULL.
    """
    handle, vmex, out = u32(handle), u32(vmex), slot(out)
    authority = face(vmex) if vmex else None
    give(out, Vmo.wrap(replace_as_executable(face(handle), authority)))


@syscall
def zx_vmo_transfer_data(
    dst_vmo: int, options: int, offset: int, length: int, src_vmo: int, src_offset: int
) -> None:
    """Move pages: ``zx_vmo_transfer_data(zx_handle_t, uint32_t, uint64_t, uint64_t, zx_handle_t,
    uint64_t)``.

    Errors, in this order:
      INVALID_ARGS: ``options`` is not 0; then, something is unaligned.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``dst_vmo`` names nothing, is no VMO, lacks WRITE.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``src_vmo``, READ and WRITE.
      NOT_SUPPORTED, OUT_OF_RANGE, BAD_STATE: the source is contiguous, device memory, or a file's;
        its range leaves it; a page of it is pinned. Then the destination, for the same.
      NO_MEMORY: the host has no memory for the copy.
    """
    dst_vmo, options, offset, length = u32(dst_vmo), u32(options), u64(offset), u64(length)
    src_vmo, src_offset = u32(src_vmo), u64(src_offset)
    if options:
        raise InvalidArgs("there are no options yet", asked=options, remedy="give 0")
    transfer(face(dst_vmo), face(src_vmo), offset, length, src_offset)
