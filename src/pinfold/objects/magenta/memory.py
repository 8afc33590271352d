# What Magenta's calls do with a memory object: its size to the byte, short reads and writes, ranges
# that are trimmed, and which pages have memory.
#
# Source: mx_vmo_read, mx_vmo_write, mx_vmo_set_size, mx_vmo_op_range, mx_vmo_set_cache_policy; the
# kernel of August 2017 for the order of checks, which is the order of the code here.
#
# An object of ours has whole pages and a stream size; Magenta's one size, kept to the byte, is the
# stream size. Contiguous and device memory have no stream: there it is all of their pages, until
# somebody sets another within the last of them.
#
# Zircon's calls ask for rights that Magenta's do not, so the handles' methods are of no use here:
# what is called is what lies below them. States that only Zircon's calls give an object (discarded,
# uncached, never to change) are states of the object: they hold whoever asks.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.errors import (
    BadState,
    BufferTooSmall,
    HostError,
    InvalidArgs,
    NoMemory,
    NotFound,
    NotSupported,
    OutOfRange,
)
from pinfold.objects import page_ops
from pinfold.objects.magenta.rights import of_kind, required
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.vmo_contents import SHORT, fill, take
from pinfold.objects.vmo_parts import CachePolicy
from pinfold.objects.vmo_sizes import resize
from pinfold.rights import Right
from pinfold.units import PAGE_SHIFT, UINT64_MAX, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.objects.handle import Handle
    from pinfold.objects.kernel import Kernel

_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_MAP: Final = int(Right.MAP)
_ADDRESS_BYTES: Final = 8


def follows_docs(kernel: Kernel) -> bool:
    """Whom Magenta's calls follow where its pages and its kernel differ: by default the pages."""
    return kernel.strict != "kernel"


# Sizes --------------------------------------------------------------------------------------------


def byte_size(vmo: VmoObject) -> int:
    """The size that Magenta's callers know. Called with the kernel's lock held."""
    stream = vmo.stream.size
    if vmo.contiguous:
        return stream or vmo.size
    return min(stream, vmo.size)


def size_of(handle: Handle[Any]) -> int:
    """`byte_size`, through a handle that needs no right. Source: mx_vmo_get_size."""
    with handle._entry.process.kernel.lock:
        return byte_size(of_kind(handle, VmoObject))


def set_size(handle: Handle[Any], size: int) -> None:
    """Change the size, to the byte; new bytes are zeros, and so is what is cut off the last page.

    Raises:
      BadHandle, AccessDenied, WrongType: ``handle`` is closed, lacks WRITE, is to no memory object.
      NotSupported: device memory; contiguous memory that would have to grow by a page.
      OutOfRange: more than an object can have.
      BadState: a page that would be cut off is pinned, or shown by a view. All pages of contiguous
        memory are.
      NoMemory, HostError: the host refuses.

    Source: mx_vmo_set_size.
    """
    with handle._entry.process.kernel.lock:
        vmo = required(handle, VmoObject, _WRITE)
        vmo.refuse_if_physical("resize")
        new = page_ops.checked_size(size)
        if not vmo.contiguous:
            resize(vmo, size)
        elif new < vmo.size:
            raise _kept(vmo)
        elif new > vmo.size:
            raise NotSupported(f"{vmo} is contiguous and cannot grow", remedy="make a larger one")
        else:
            vmo.stream.size = size


def _trimmed(vmo: VmoObject, offset: int, size: int) -> int:
    """How many bytes of a range that begins in the object lie in it.

    Raises:
      OutOfRange: it begins beyond the end, or ends beyond 64 bits.
    """
    end = byte_size(vmo)
    if offset > end or offset + size > UINT64_MAX:
        raise OutOfRange(
            f"the range begins beyond {vmo}",
            asked=offset,
            limit=end,
            remedy="begin within the object",
        )
    return min(size, end - offset)


def _whole(vmo: VmoObject, offset: int, size: int) -> None:
    """Raise `OutOfRange` unless all of a range lies in the object."""
    if offset + size > byte_size(vmo):
        raise OutOfRange(f"the range leaves {vmo}", asked=offset + size, limit=byte_size(vmo))


# Bytes --------------------------------------------------------------------------------------------


def read(handle: Handle[Any], buffer: memoryview | None, offset: int, *, told: bool) -> int:
    """Fill a buffer with what there is from ``offset`` on; how many bytes that were.

    Args:
      buffer: None where it cannot be written: that is found out before the range is looked at.
      told: the caller can be told how many bytes there were, or nothing is read.

    Raises:
      BadHandle, AccessDenied, WrongType: ``handle`` is closed, lacks READ, is to no memory object.
      InvalidArgs: ``buffer`` is None.
      NotSupported: device memory.
      BadState, NotFound: Zircon's calls have made it uncached; it was discarded.
      OutOfRange: it begins beyond the end; or there, where the page is followed; or it ends beyond
        64 bits.
      InvalidArgs: not ``told``.

    Source: mx_vmo_read.
    """
    return _moved(handle, _READ, fill, buffer, offset, told=told)


def write(handle: Handle[Any], buffer: memoryview | None, offset: int, *, told: bool) -> int:
    """Write what of a buffer there is room for from ``offset`` on; how many bytes that were.

    Args and errors as `read`, with WRITE, and:

    Raises:
      NoMemory, NoSpace: the host has no room; a part may be written.

    Source: mx_vmo_write.
    """
    return _moved(handle, _WRITE, take, buffer, offset, told=told)


def _moved(
    handle: Handle[Any],
    right: int,
    move: Callable[[VmoObject, memoryview, int], None],
    buffer: memoryview | None,
    offset: int,
    *,
    told: bool,
) -> int:
    kernel = handle._entry.process.kernel
    with kernel.lock:
        vmo = required(handle, VmoObject, right)
        if buffer is None:
            raise InvalidArgs("the buffer is not all there", remedy="pass one of that length")
        vmo.refuse_if_physical("read or write")
        vmo.refuse_if_uncached("read or write")
        vmo.refuse_if_discarded()
        left = _trimmed(vmo, offset, len(buffer))
        if follows_docs(kernel) and offset == byte_size(vmo):
            raise OutOfRange(f"the range begins at the end of {vmo}", asked=offset, limit=offset)
        if not told:
            raise InvalidArgs("nobody can be told how many bytes", remedy="pass an Out()")
        if left <= SHORT:
            _move(move, vmo, buffer[:left], offset)
            return left
        page_ops.begin_use(vmo)
    done = 0
    with page_ops.letting_go(kernel, vmo):
        while done < left:  # a piece at a time: another thread may shrink the object meanwhile
            with kernel.lock:
                room = max(byte_size(vmo) - offset - done, 0)
                piece = buffer[done : min(left, done + SHORT, done + room)]
                _move(move, vmo, piece, offset + done)
            if not piece:
                break
            done += len(piece)
    return done


def _move(
    move: Callable[[VmoObject, memoryview, int], None], vmo: VmoObject, piece: memoryview, at: int
) -> None:
    """One piece. A buffer over what cannot be accessed is a bad pointer like any other."""
    try:
        move(vmo, piece, at)
    except NotFound as error:
        raise InvalidArgs(error.message, asked=error.asked, remedy=error.remedy) from error


# Pages --------------------------------------------------------------------------------------------


def first_hole(vmo: VmoObject, start: int, stop: int) -> int | None:
    """Where the first page begins that has no memory of the object's own. Bytes of its pages.

    Page-aligned, and called with the kernel's lock held.
    """
    pages, borrowed = vmo.pages, vmo.body.borrowed
    at = start
    if pages.is_committed(start >> PAGE_SHIFT, stop >> PAGE_SHIFT):
        at = stop
    else:
        for low, high in pages.backing.data_runs(start, stop - start):
            if low > at:
                break
            at = high
    if borrowed is not None and start < at:
        first, last = start >> PAGE_SHIFT, at >> PAGE_SHIFT
        if borrowed.find(first) is not None:
            return start
        at = min(at, next(borrowed.gaps(first, last))[1] << PAGE_SHIFT)
    return at if at < stop else None


def own_bytes(vmo: VmoObject, offset: int, size: int) -> int:
    """Bytes of memory in a range that are the object's own. Called with the kernel's lock held."""
    found = vmo.attributed(offset, size)
    borrowed = vmo.body.borrowed
    if borrowed is not None:
        first = (vmo.base + offset) >> PAGE_SHIFT
        last = first + (page_up(min(size, vmo.size - offset)) >> PAGE_SHIFT)
        for low, high in borrowed:
            low, high = max(low, first), min(high, last)
            if low < high:
                found -= vmo.attributed((low << PAGE_SHIFT) - vmo.base, (high - low) << PAGE_SHIFT)
    return found


def commit(handle: Handle[Any], offset: int, size: int) -> None:
    """Give every page of a range memory, rounded out to pages and trimmed to the object.

    After a failure some of the pages may be committed.

    Raises:
      BadHandle, WrongType: ``handle`` is closed, is to no memory object. No right is needed.
      NotSupported: device memory.
      OutOfRange: it begins beyond the end, or ends beyond 64 bits.
      NotFound: it was discarded.
      NoMemory, NoSpace: the host has no room.

    Source: mx_vmo_op_range, COMMIT.
    """
    lock, asked = handle._entry.process.kernel.lock, size
    while True:
        with lock:
            vmo = of_kind(handle, VmoObject)
            vmo.refuse_if_physical("commit")
            size, epoch = _trimmed(vmo, offset, asked), vmo.pages.epoch
        if not size:
            return
        try:
            page_ops.commit(vmo, offset, size)
        except (OutOfRange, HostError):
            with lock:
                if vmo.pages.epoch == epoch:
                    raise
            continue  # another thread has cut it meanwhile: what there is now is committed
        return


def decommit(handle: Handle[Any], offset: int, size: int) -> None:
    """Give the memory of a range back, rounded out to pages and trimmed; it reads as zeros.

    Raises:
      BadHandle, WrongType, NotSupported, OutOfRange: as `commit`.
      NotSupported: a snapshot that Zircon's calls made never to change.
      BadState: a page of it is pinned, as all pages of contiguous memory are; nothing changed.

    Source: mx_vmo_op_range, DECOMMIT.
    """
    with handle._entry.process.kernel.lock:
        vmo = of_kind(handle, VmoObject)
        vmo.refuse_if_physical("decommit")
        if vmo.immutable:  # Zircon keeps it so by rights, and here no right is needed
            raise NotSupported(f"{vmo} is never to change", remedy="decommit another object")
        size = _trimmed(vmo, offset, size)
        if not size:
            return
        if vmo.contiguous:
            raise _kept(vmo)
        start, stop = vmo.base + page_down(offset), vmo.base + page_up(offset + size)
        vmo.pages.decommit(start, stop - start, base=vmo.base)
        vmo.body.own(start, stop)


def look_up(handle: Handle[Any], offset: int, size: int, room: int | None) -> NDArray[np.uint64]:
    """The simulated physical address of each page that a range touches.

    Args:
      room: bytes that the caller has room for; None for no buffer at all.

    Raises:
      BadHandle, WrongType: ``handle`` is closed, is to no memory object. No right is needed.
      InvalidArgs: ``room`` is None.
      BufferTooSmall: there is less room than 8 bytes a page. Of device memory this is found last.
      InvalidArgs: ``size`` is 0.
      OutOfRange: the range leaves the object.
      NoMemory: a page of it has no memory.

    Source: mx_vmo_op_range, LOOKUP.
    """
    with handle._entry.process.kernel.lock:
        vmo = of_kind(handle, VmoObject)
        if room is None:
            raise InvalidArgs("the buffer is NULL", remedy="give room for 8 bytes a page")
        start, stop = page_down(offset), page_up(offset + size)
        needed = ((stop - start) >> PAGE_SHIFT) * _ADDRESS_BYTES
        short = BufferTooSmall("there are more pages than that", asked=room, available=needed)
        if needed > room and not vmo.physical:
            raise short
        if not size:
            raise InvalidArgs("a look at no bytes", asked=0, remedy="look up at least one")
        _whole(vmo, offset, size)
        if needed > room:
            raise short
        start, stop = vmo.base + start, vmo.base + stop
        hole = None if vmo.physical else first_hole(vmo, start, stop)
        if hole is not None:
            raise NoMemory(
                f"a page of {vmo} has no memory", asked=hole - vmo.base, remedy="commit the range"
            )
        return vmo.pages.physical_addresses(start >> PAGE_SHIFT, stop >> PAGE_SHIFT)


def clean_cache(handle: Handle[Any], offset: int, size: int) -> None:
    """Have the caches and the memory of a range agree, which they do: it checks, no more.

    Raises:
      BadHandle, WrongType: ``handle`` is closed, is to no memory object. No right is needed.
      NotSupported: device memory.
      InvalidArgs: ``size`` is 0.
      OutOfRange: the range leaves the object.

    Source: mx_vmo_op_range, CACHE_SYNC and those after it.
    """
    with handle._entry.process.kernel.lock:
        vmo = of_kind(handle, VmoObject)
        vmo.refuse_if_physical("clean the cache of")
        if not size:
            raise InvalidArgs("a cache operation covers at least a byte", asked=0)
        _whole(vmo, offset, size)


def set_cache_policy(handle: Handle[Any], policy: int) -> None:
    """Say how the CPU is to cache device memory, before it is mapped.

    Raises:
      InvalidArgs: there is no such policy, which is found before the handle is looked at.
      BadHandle, AccessDenied, WrongType: ``handle`` is closed, lacks MAP, is to no memory object.
      NotSupported: it is not device memory.
      BadState: it is mapped.

    Source: mx_vmo_set_cache_policy.
    """
    if policy not in CachePolicy.__members__.values():
        raise InvalidArgs("there is no such cache policy", asked=policy, limit=3)
    with handle._entry.process.kernel.lock:
        vmo = required(handle, VmoObject, _MAP)
        if not vmo.physical:
            raise NotSupported(f"{vmo} is cached, always", remedy="use device memory")
        if vmo.mappings:
            raise BadState(f"{vmo} is mapped", remedy="set it right after the object is made")
        vmo.cache_policy = CachePolicy(policy)


def _kept(vmo: VmoObject) -> BadState:
    """The error for giving back contiguous memory. Source: its pages are pinned from the start."""
    return BadState(f"{vmo} is contiguous and keeps its pages", remedy="close it instead")
