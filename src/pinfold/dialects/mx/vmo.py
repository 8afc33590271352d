# Magenta's calls on virtual memory objects.
#
# Source: the mx_vmo_* pages of August 2017, and that kernel for the order of checks. Checks and
# order are the objects'; here numbers become handles and buffers. A pointer that cannot be used is
# INVALID_ARGS, always.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import (
    face,
    filled,
    give,
    pointed,
    readable,
    slot,
    u32,
    u64,
    writable,
)
from pinfold.dialects.mx import numbers as mx
from pinfold.dialects.mx.status import syscall
from pinfold.errors import InvalidArgs, NotSupported
from pinfold.objects.magenta import making, memory
from pinfold.objects.magenta.rights import of_kind
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.process import current_process
from pinfold.objects.vmo import Vmo

if TYPE_CHECKING:
    from pinfold.dialects.calling import Out

_CACHE: Final = (
    mx.MX_VMO_OP_CACHE_SYNC,
    mx.MX_VMO_OP_CACHE_INVALIDATE,
    mx.MX_VMO_OP_CACHE_CLEAN,
    mx.MX_VMO_OP_CACHE_CLEAN_INVALIDATE,
)


# Making one ---------------------------------------------------------------------------------------


@syscall
def mx_vmo_create(size: int, options: int, out: Out | None) -> None:
    """A memory object of zeros, of ``size`` bytes exactly: ``mx_vmo_create(uint64_t, uint32_t,
    mx_handle_t*)``.

    Errors, in this order:
      INVALID_ARGS: ``options`` is not 0; ``size`` is more than an object can have.
      NO_MEMORY: the host has no descriptor or no memory for it.
      INVALID_ARGS: ``out`` is NULL.
    """
    size, options, out = u64(size), u32(options), slot(out)
    give(out, making.create(current_process(), size, options))


@syscall
def mx_vmo_clone(handle: int, options: int, offset: int, size: int, out: Out | None) -> None:
    """A copy-on-write clone:
    ``mx_vmo_clone(mx_handle_t, uint32_t, uint64_t, uint64_t, mx_handle_t*)``.

    What the source holds is copied at once. A page of the clone counts as uncommitted until it is
    written or committed, or mapped for writing. The handle has the rights of ``handle``,
    GET_PROPERTY, SET_PROPERTY and WRITE.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``handle`` names nothing, lacks DUPLICATE or READ, is
        no VMO.
      INVALID_ARGS: ``options`` is not MX_VMO_CLONE_COPY_ON_WRITE.
      NOT_SUPPORTED: device memory.
      BAD_STATE, NOT_FOUND: Zircon's calls have made it uncached; it was discarded.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      INVALID_ARGS: ``offset`` is unaligned.
      OUT_OF_RANGE: the range ends beyond 64 bits.
      NO_MEMORY: the host has no memory for the copy, or no descriptor.
      INVALID_ARGS: ``out`` is NULL.
    """
    handle, options, offset, size = u32(handle), u32(options), u64(offset), u64(size)
    out = slot(out)
    give(out, Vmo.wrap(making.clone(face(handle), options, offset, size)))


@syscall
def mx_vmo_create_contiguous(rsrc: int, size: int, alignment_log2: int, out: Out | None) -> None:
    """Physically contiguous memory, committed for good:
    ``mx_vmo_create_contiguous(mx_handle_t, size_t, uint32_t, mx_handle_t*)``.

    Args:
      size: bytes, rounded up to pages.

    Errors, in this order:
      INVALID_ARGS: ``size`` is 0; ``alignment_log2`` is neither 0 nor from a page to 63.
      BAD_HANDLE, WRONG_TYPE, ACCESS_DENIED: ``rsrc`` names nothing, is no resource, is not the root
        resource.
      INVALID_ARGS: ``size`` is more than an object can have.
      NO_MEMORY: no such run is left, or the host has no memory.
      INVALID_ARGS: ``out`` is NULL.
    """
    rsrc, size, log2, out = u32(rsrc), u64(size), u32(alignment_log2), slot(out)
    give(out, making.create_contiguous(face(rsrc), size, log2))


@syscall
def mx_vmo_create_physical(rsrc: int, paddr: int, size: int, out: Out | None) -> None:
    """Device memory, uncached:
    ``mx_vmo_create_physical(mx_handle_t, mx_paddr_t, size_t, mx_handle_t*)``.

    Args:
      size: bytes, rounded up to pages.

    Errors, in this order:
      INVALID_ARGS: ``size`` is 0; the range overflows.
      BAD_HANDLE, WRONG_TYPE: ``rsrc`` names nothing, is no resource.
      ACCESS_DENIED: it is neither the root nor a resource of device memory that holds the range; or
        there is RAM.
      INVALID_ARGS: ``paddr`` is unaligned.
      OUT_OF_RANGE: no file can simulate so high an address, or a real window begins or ends there.
      NO_MEMORY: the host has no descriptor for it.
      INVALID_ARGS: ``out`` is NULL.
    """
    rsrc, paddr, size, out = u32(rsrc), u64(paddr), u64(size), slot(out)
    give(out, making.create_physical(face(rsrc), paddr, size))


# Bytes --------------------------------------------------------------------------------------------


@syscall
def mx_vmo_read(handle: int, data: Any, offset: int, len: int, actual: Out | None) -> None:  # noqa: A002 - the page's name
    """Copy bytes out, as many as there are:
    ``mx_vmo_read(mx_handle_t, void*, uint64_t, size_t, size_t*)``.

    What has no memory reads as zeros, and gets none.

    Args:
      actual: gets how many bytes that were.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``handle`` names nothing, lacks READ, is no VMO.
      INVALID_ARGS: ``data`` is NULL, read-only or shorter than ``len``.
      NOT_SUPPORTED: device memory.
      BAD_STATE, NOT_FOUND: Zircon's calls have made it uncached; it was discarded.
      OUT_OF_RANGE: ``offset`` is the end or beyond it; with ``Kernel(strict="kernel")`` the end
        itself is no error, and 0 bytes. Or the range ends beyond 64 bits.
      INVALID_ARGS: ``actual`` is NULL.
    """
    handle, view, offset, size = u32(handle), pointed(data), u64(offset), u64(len)
    actual = slot(actual)
    told = actual is not None
    filled(actual, memory.read(face(handle), writable(view, size), offset, told=told))


@syscall
def mx_vmo_write(handle: int, data: Any, offset: int, len: int, actual: Out | None) -> None:  # noqa: A002 - the page's name
    """Copy bytes in, as many as there is room for:
    ``mx_vmo_write(mx_handle_t, const void*, uint64_t, size_t, size_t*)``.

    It commits the pages that it touches.

    Args:
      actual: gets how many bytes that were.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``handle`` names nothing, lacks WRITE, is no VMO.
      INVALID_ARGS: ``data`` is NULL or shorter than ``len``.
      NOT_SUPPORTED: device memory.
      BAD_STATE, NOT_FOUND, OUT_OF_RANGE: as mx_vmo_read.
      INVALID_ARGS: ``actual`` is NULL; nothing is written.
      NO_MEMORY: the host has no memory; a part may be written.
    """
    handle, view, offset, size = u32(handle), pointed(data), u64(offset), u64(len)
    actual = slot(actual)
    told = actual is not None
    filled(actual, memory.write(face(handle), readable(view, size), offset, told=told))


# Size ---------------------------------------------------------------------------------------------


@syscall
def mx_vmo_get_size(handle: int, size: Out | None) -> None:
    """Its size, to the byte: ``mx_vmo_get_size(mx_handle_t, uint64_t*)``.

    Errors: BAD_HANDLE, WRONG_TYPE, INVALID_ARGS (``size`` is NULL).
    """
    handle, size = u32(handle), slot(size)
    filled(size, memory.size_of(face(handle)))


@syscall
def mx_vmo_set_size(handle: int, size: int) -> None:
    """Change its size, to the byte: ``mx_vmo_set_size(mx_handle_t, uint64_t)``.

    Errors, in this order:
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``handle`` names nothing, lacks WRITE, is no VMO.
      NOT_SUPPORTED: device memory.
      OUT_OF_RANGE: ``size`` is more than an object can have.
      BAD_STATE: a page that would be cut off is pinned, or shown by a Python view; all pages of
        contiguous memory are pinned.
      NOT_SUPPORTED: contiguous memory would grow by a page.
      NO_MEMORY: the host refuses.
    """
    handle, size = u32(handle), u64(size)
    memory.set_size(face(handle), size)


# Operations ---------------------------------------------------------------------------------------


@syscall
def mx_vmo_op_range(
    handle: int, op: int, offset: int, size: int, buffer: Any, buffer_size: int
) -> None:
    """Do something with a range:
    ``mx_vmo_op_range(mx_handle_t, uint32_t, uint64_t, uint64_t, void*, size_t)``.

    No operation needs a right. COMMIT and DECOMMIT round the range out to pages and trim it to the
    object. LOOKUP writes the simulated physical address of each page that the range touches, native
    64-bit numbers; no other looks at the buffer.

    Errors, in this order:
      BAD_HANDLE, WRONG_TYPE: ``handle`` names nothing, is no VMO.
      INVALID_ARGS: there is no such operation.
      NOT_SUPPORTED: LOCK and UNLOCK; of device memory all but LOOKUP; DECOMMIT of a snapshot that
        Zircon's calls made never to change.

    Of COMMIT and DECOMMIT, then:
      OUT_OF_RANGE: the range begins beyond the end, or ends beyond 64 bits.
      BAD_STATE: DECOMMIT, and a page of it is pinned, or the memory is contiguous.
      NOT_FOUND: COMMIT, of memory that was discarded.
      NO_MEMORY: COMMIT, and the host has none; a part may be committed.

    Of LOOKUP, then:
      INVALID_ARGS: ``buffer`` is NULL.
      BUFFER_TOO_SMALL: ``buffer_size`` is less than 8 bytes a page; of device memory found last.
      INVALID_ARGS: ``size`` is 0.
      OUT_OF_RANGE: the range leaves the object.
      NO_MEMORY: a page has no memory.
      INVALID_ARGS: ``buffer`` is read-only, or shorter than what is written.

    Of the cache operations, then:
      INVALID_ARGS: ``size`` is 0.
      OUT_OF_RANGE: the range leaves the object.
    """
    handle, op, offset, size = u32(handle), u32(op), u64(offset), u64(size)
    view, room = pointed(buffer), u64(buffer_size)
    vmo = face(handle)
    if op == mx.MX_VMO_OP_COMMIT:
        memory.commit(vmo, offset, size)
    elif op == mx.MX_VMO_OP_DECOMMIT:
        memory.decommit(vmo, offset, size)
    elif op == mx.MX_VMO_OP_LOOKUP:
        found = memory.look_up(vmo, offset, size, None if view is None else room).tobytes()
        there = writable(view, len(found))
        if there is None:
            raise InvalidArgs("the buffer cannot be written so far", asked=len(found))
        there[:] = found
    elif op in _CACHE:
        memory.clean_cache(vmo, offset, size)
    else:
        of_kind(vmo, VmoObject)
        if op in (mx.MX_VMO_OP_LOCK, mx.MX_VMO_OP_UNLOCK):
            raise NotSupported("no memory is locked here", asked=op)
        raise InvalidArgs("there is no such operation", asked=op, remedy="use an MX_VMO_OP_*")


@syscall
def mx_vmo_set_cache_policy(handle: int, cache_policy: int) -> None:
    """Say how device memory is to be cached: ``mx_vmo_set_cache_policy(mx_handle_t, uint32_t)``.

    Errors, in this order:
      INVALID_ARGS: there is no such policy.
      BAD_HANDLE, ACCESS_DENIED, WRONG_TYPE: ``handle`` names nothing, lacks MAP, is no VMO.
      NOT_SUPPORTED: it is not device memory.
      BAD_STATE: it is mapped.
    """
    handle, policy = u32(handle), u32(cache_policy)
    memory.set_cache_policy(face(handle), policy)
