# What a handle does with the bytes and the pages of a memory object.
#
# Source: zx_vmo_read, zx_vmo_write, zx_vmo_op_range; Zircon's dispatcher for the order of checks.
#
# Reads and writes go through the descriptor, not through a mapping: a read of an absent page
# commits nothing, and neither can end the process.
from __future__ import annotations

import errno
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.buffers import flat
from pinfold.errors import HostError, NotFound, NotSupported, OutOfRange
from pinfold.objects import page_ops
from pinfold.objects.page_ops import letting_go
from pinfold.objects.vmo_sizes import VmoSizes
from pinfold.rights import Right
from pinfold.units import KIB, UINT64_MAX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.objects.memory_object import VmoObject

_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)

SHORT: Final = 256 * KIB
"""Bytes that are moved in one holding of the kernel's lock; more is moved without it."""


class VmoContents(VmoSizes):
    """The bytes and pages of a memory object, through a handle to it. `Vmo` is one."""

    __slots__ = ()

    # Bytes --------------------------------------------------------------------------------------

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """``size`` bytes from ``offset``; to the end by default. Commits nothing.

        Raises:
          AccessDenied: without READ.
          NotSupported: device memory; map it instead.
          BadState: its cache policy is not CACHED; map it instead.
          OutOfRange: the range leaves the object; nothing was read.
          NotFound: its memory was discarded.
          HostError: a file behind it has become shorter.

        Source: zx_vmo_read.
        """
        offset = index(offset)  # numpy's integers wrap; ours do not
        if size is None:
            size = max(self.object.size - offset, 0)
        with self._entry.process.kernel.lock:
            # Checked before a buffer of that size is made.
            target = self._within(_READ, offset, index(size))
            if _is_short(target, size):
                data = bytearray(size)
                target.pages.read_into(memoryview(data), target.base + offset)
                return bytes(data)
        data = bytearray(size)
        self.read_into(data, offset)
        return bytes(data)

    def read_into(self, buffer: bytearray | memoryview | NDArray[Any], offset: int = 0) -> int:
        """Fill a writable buffer from ``offset``; how many bytes that were. See `read`."""
        view, offset = flat(buffer), index(offset)
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._within(_READ, offset, len(view))
            if _is_short(target, len(view)):
                fill(target, view, offset)
                return len(view)
            target.in_use += 1
        with letting_go(kernel, target):
            fill(target, view, offset)
        return len(view)

    def _within(self, right: int, offset: int, size: int) -> VmoObject:
        """The object, if the handle has the right and the range can be read or written."""
        target = self._require(right)
        if target.physical:
            raise NotSupported(f"{target} is device memory", remedy="map it")
        if target.cache_policy:
            if offset + size > UINT64_MAX:
                raise OutOfRange("the range ends beyond 64 bits", asked=offset + size)
            target.refuse_if_uncached("read or write bytes")
        target.check_range(offset, size)
        if target.discarded and size:
            target.refuse_if_discarded()
        return target

    def check_read(self, offset: int, size: int) -> None:
        """Raise what reading so many bytes would raise, before it looks at a buffer for them."""
        with self._entry.process.kernel.lock:
            self._within(_READ, index(offset), index(size))

    def check_write(self, offset: int, size: int) -> None:
        """Raise what writing so many bytes would raise, before it looks at the bytes."""
        with self._entry.process.kernel.lock:
            self._writable(index(offset), index(size))

    def write(self, data: bytes | bytearray | memoryview | NDArray[Any], offset: int = 0) -> int:
        """Write ``data`` at ``offset``; how many bytes that were. Commits what it touches.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory; map it instead.
          BadState: its cache policy is not CACHED; map it instead.
          OutOfRange: the range leaves the object, or the file behind it; nothing was written.
          NotFound: its memory was discarded.
          NoMemory, NoSpace: the host, or the file system, has no room; a part may be written.

        Source: zx_vmo_write.
        """
        view, offset = flat(data), index(offset)
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._writable(offset, len(view))
            if _is_short(target, len(view)):
                take(target, view, offset)
                return len(view)
            target.in_use += 1
        with letting_go(kernel, target):
            if target.resizable:
                self._write_under_lock(view, offset)
            else:
                take(target, view, offset)
        return len(view)

    def _write_under_lock(self, view: memoryview, offset: int) -> None:
        """A piece at a time, each checked again: a write past the end would make the file longer.

        Without the lock another thread could shrink the object between the check and the write.
        """
        for at in range(0, len(view), SHORT):
            piece = view[at : at + SHORT]
            with self._entry.process.kernel.lock:
                target = self._writable(offset + at, len(piece))
                take(target, piece, offset + at)

    def _writable(self, offset: int, size: int) -> VmoObject:
        target = self._within(_WRITE, offset, size)
        length = target.pages.backing.length
        if target.base + offset + size > length:
            raise OutOfRange(
                "the file behind the memory ends before that",
                asked=offset + size,
                limit=length - target.base,
            )
        return target

    # Pages --------------------------------------------------------------------------------------

    def commit(self, offset: int = 0, size: int | None = None) -> None:
        """Give every page of a range memory; to the end by default. Rounded out to pages.

        After a failure some of the pages may be committed.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory.
          OutOfRange: the range leaves the object.
          NotFound: its memory was discarded.
          NoMemory, NoSpace: the host, or the file system, has no room.

        Source: zx_vmo_op_range, COMMIT.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            size = _to_end(target, offset, size)
        page_ops.commit(target, offset, size)

    def decommit(self, offset: int = 0, size: int | None = None) -> None:
        """Give the memory of a range back; it reads as zeros afterwards.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: contiguous or device memory; an object that is a snapshot or has one.
          OutOfRange: the range leaves the object.
          InvalidArgs: unaligned.
          BadState: a page of it is pinned; nothing changed.

        Source: zx_vmo_op_range, DECOMMIT.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            page_ops.decommit(target, offset, _to_end(target, offset, size))

    def zero(self, offset: int = 0, size: int | None = None) -> None:
        """Make a range read as zeros; to the end by default.

        Whole pages are given back. Pinned pages are cleared in place and keep their address.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory.
          OutOfRange: the range leaves the object; nothing changed.
          BadState: it is not cached, and a part of a page would have to be written.

        Source: zx_vmo_op_range, ZERO.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            page_ops.zero(target, offset, _to_end(target, offset, size))

    def prefetch(self, offset: int = 0, size: int | None = None) -> None:
        """Say that a range will be read soon. What has no memory gets none.

        Raises:
          AccessDenied: without READ.
          OutOfRange: the range leaves the object.

        Source: zx_vmo_op_range, PREFETCH.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_READ)
            page_ops.prefetch(target, offset, _to_end(target, offset, size))

    def hint(self, offset: int = 0, size: int | None = None) -> None:
        """Say that a range is needed always, or not any more. Nothing is made of it.

        Nothing is checked either: it is for memory that a pager fills. Source: zx_vmo_op_range,
        DONT_NEED, ALWAYS_NEED.
        """
        del offset, size
        with self._entry.process.kernel.lock:
            self._require(0)

    def clean_cache(self, offset: int, size: int, *, invalidate: bool = False) -> None:
        """Have the caches and the memory of a range agree. On Linux they do; it checks, no more.

        Args:
          invalidate: drop what the caches have, written back or not.

        Raises:
          NotSupported: device memory; ``invalidate``, on a kernel without ``debug_syscalls``.
          AccessDenied: without READ, or without WRITE to invalidate.
          InvalidArgs: ``size`` is 0.
          OutOfRange: the range leaves the object.

        Source: zx_vmo_op_range, CACHE_SYNC, CACHE_CLEAN, CACHE_INVALIDATE.
        """
        kernel = self._entry.process.kernel
        with kernel.lock:
            self._require(0)
            if invalidate and not kernel.debug_syscalls:
                raise NotSupported(
                    "invalidating a cache is a debug call",
                    remedy="make the kernel with debug_syscalls=True, or clean the cache",
                )
            page_ops.clean_cache(self._require(_WRITE if invalidate else _READ), offset, size)


def _to_end(target: VmoObject, offset: int, size: int | None) -> int:
    return max(target.size - index(offset), 0) if size is None else index(size)


def _is_short(target: VmoObject, size: int) -> bool:
    """True for what is moved in no time, from memory of ours, and so under the kernel's lock."""
    return size <= SHORT and target.pages.backing.kind == "memfd"


def fill(target: VmoObject, view: memoryview, offset: int) -> None:
    """Fill a buffer from an object, which a check has found to have the range."""
    try:
        target.pages.read_into(view, target.base + offset)
    except HostError as error:
        if error.errno != errno.EFAULT:
            raise
        raise _not_there(view) from error


def take(target: VmoObject, view: memoryview, offset: int) -> None:
    """Write a buffer to an object, which a check has found to have the range."""
    if target.body.borrowed is not None:
        target.body.own(target.base + offset, target.base + offset + len(view))
    try:
        target.pages.write_from(view, target.base + offset)
    except HostError as error:
        if error.errno != errno.EFAULT:
            raise
        raise _not_there(view) from error


def _not_there(view: memoryview) -> NotFound:
    """The error for a buffer that lies over what cannot be accessed."""
    return NotFound("the buffer cannot be accessed", asked=len(view), remedy="pass another")
