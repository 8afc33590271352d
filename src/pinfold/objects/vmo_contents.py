# What a handle does with the bytes and the pages of a memory object.
#
# Source: zx_vmo_read, zx_vmo_write, zx_vmo_set_size, zx_vmo_op_range; Zircon's dispatcher for the
# order of checks.
#
# Reads and writes go through the descriptor, not through a mapping: a read of an absent page
# commits nothing, and neither can end the process.
from __future__ import annotations

from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import BadHandle, InvalidArgs, NotSupported, OutOfRange, Unavailable
from pinfold.memory.buffers import flat
from pinfold.objects.handle import Handle
from pinfold.objects.memory_object import MAX_SIZE, VmoObject, checked_size
from pinfold.rights import Right
from pinfold.units import KIB, PAGE_MASK, UINT64_MAX, page_down, page_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pinfold.objects.kernel import Kernel

_READ: Final = int(Right.READ)
_WRITE: Final = int(Right.WRITE)
_RESIZE: Final = int(Right.RESIZE)

_SHORT: Final = 256 * KIB
"""Bytes that are moved in one holding of the kernel's lock; more is moved without it."""


class VmoContents(Handle[VmoObject]):
    """The bytes and pages of a memory object, through a handle to it. `Vmo` is one."""

    __slots__ = ()

    # Bytes --------------------------------------------------------------------------------------

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """``size`` bytes from ``offset``; to the end by default. Commits nothing.

        Raises:
          AccessDenied: without READ.
          NotSupported: device memory; map it instead.
          OutOfRange: the range leaves the object; nothing was read.
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
                target.pages.read_into(memoryview(data), offset)
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
                target.pages.read_into(view, offset)
                return len(view)
            target.in_use += 1
        with _letting_go(kernel, target):
            target.pages.read_into(view, offset)
        return len(view)

    def _within(self, right: int, offset: int, size: int) -> VmoObject:
        """The object, if the handle has the right and the range can be read or written."""
        target = self._require(right)
        if target.physical:
            raise NotSupported(f"{target} is device memory", remedy="map it")
        target.check_range(offset, size)
        return target

    def write(self, data: bytes | bytearray | memoryview | NDArray[Any], offset: int = 0) -> int:
        """Write ``data`` at ``offset``; how many bytes that were. Commits what it touches.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory; map it instead.
          OutOfRange: the range leaves the object, or the file behind it; nothing was written.
          NoMemory, NoSpace: the host, or the file system, has no room; a part may be written.

        Source: zx_vmo_write.
        """
        view, offset = flat(data), index(offset)
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._writable(offset, len(view))
            if _is_short(target, len(view)):
                target.pages.write_from(view, offset)
                return len(view)
            target.in_use += 1
        with _letting_go(kernel, target):
            if target.resizable:
                self._write_under_lock(view, offset)
            else:
                target.pages.write_from(view, offset)
        return len(view)

    def _write_under_lock(self, view: memoryview, offset: int) -> None:
        """A piece at a time, each checked again: a write past the end would make the file longer.

        Without the lock another thread could shrink the object between the check and the write.
        """
        for at in range(0, len(view), _SHORT):
            piece = view[at : at + _SHORT]
            with self._entry.process.kernel.lock:
                self._writable(offset + at, len(piece)).pages.write_from(piece, offset + at)

    def _writable(self, offset: int, size: int) -> VmoObject:
        target = self._within(_WRITE, offset, size)
        length = target.pages.backing.length
        if offset + size > length:
            raise OutOfRange(
                "the file behind the memory ends before that", asked=offset + size, limit=length
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
          NoMemory, NoSpace: the host, or the file system, has no room.

        Source: zx_vmo_op_range, COMMIT.
        """
        kernel = self._entry.process.kernel
        with kernel.lock:
            target = self._require(_WRITE)
            start, stop = self._range(target, offset, size, "commit")
            start, stop = page_down(start), page_up(stop)
            if start == stop:
                return
            epoch = target.pages.epoch
            target.in_use += 1
        with _letting_go(kernel, target):
            target.pages.commit(start, stop - start)
            with kernel.lock:
                target.pages.remember(start, stop - start, epoch)

    def decommit(self, offset: int = 0, size: int | None = None) -> None:
        """Give the memory of a range back; it reads as zeros afterwards.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: contiguous or device memory.
          OutOfRange: the range leaves the object.
          InvalidArgs: unaligned.
          BadState: a page of it is pinned; nothing changed.

        Source: zx_vmo_op_range, DECOMMIT.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            if target.pages.kept:
                raise NotSupported(f"{target} is contiguous or device memory and keeps its pages")
            start, stop = self._range(target, offset, size, "decommit")
            if start < stop:
                if (start | stop) & PAGE_MASK:
                    raise InvalidArgs("only whole pages are decommitted", asked=start)
                target.pages.decommit(start, stop - start)

    def zero(self, offset: int = 0, size: int | None = None) -> None:
        """Make a range read as zeros; to the end by default.

        Whole pages are given back. Pinned pages are cleared in place and keep their address.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: device memory.
          OutOfRange: the range leaves the object.

        Source: zx_vmo_op_range, ZERO.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            start, stop = self._range(target, offset, size, "zero")
            if start < stop:
                target.pages.zero(start, stop - start)

    def _range(
        self, target: VmoObject, offset: int, size: int | None, what: str
    ) -> tuple[int, int]:
        if target.physical:
            raise NotSupported(f"cannot {what} device memory")
        offset = index(offset)  # numpy's integers wrap; ours do not
        size = max(target.size - offset, 0) if size is None else index(size)
        target.check_range(offset, size)
        return offset, offset + size

    def resize(self, size: int) -> None:
        """Make the object ``size`` bytes, rounded up to whole pages; new pages read as zeros.

        The tail of the last page beyond ``size`` reads as zeros too. Mappings keep their length:
        touching one beyond the end ends the process, as Linux has it.

        Raises:
          AccessDenied: without WRITE, or without RESIZE on a resizable object.
          Unavailable: the object is not resizable.
          OutOfRange: more than a file can have.
          BadState: a page that would be cut off is pinned, or shown by a view; nothing changed.

        Source: zx_vmo_set_size.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            if target.resizable:
                self._require(_RESIZE)
            size = index(size)
            fixed = Unavailable(f"{target} cannot be resized", remedy="make it resizable")
            if target.contiguous:
                raise fixed
            if page_up(size) > UINT64_MAX:
                raise OutOfRange("no object can be so large", asked=size, limit=MAX_SIZE)
            if not target.resizable:
                raise fixed
            new, old = checked_size(size), target.size
            if new < old:
                target.refuse_if_viewed("shrink", new, old - new)
            if new != old:
                target.pages.resize(new)
            if size & PAGE_MASK:
                target.pages.zero(size, new - size)


@contextmanager
def using(kernel: Kernel, target: VmoObject) -> Iterator[None]:
    """Keep the memory of an object while it is used without the kernel's lock.

    Else another thread could close its last handle meanwhile: the descriptor would be free, and
    soon somebody else's file.

    Raises:
      BadHandle: that has happened already.
    """
    with kernel.lock:
        if target.released:
            raise BadHandle(f"the last handle to {target} was closed meanwhile")
        target.in_use += 1
    with _letting_go(kernel, target):
        yield


@contextmanager
def _letting_go(kernel: Kernel, target: VmoObject) -> Iterator[None]:
    """The end of a use that has been counted."""
    try:
        yield
    finally:
        with kernel.lock:
            target.in_use -= 1
            if not target.in_use and not target.handle_count:
                target.release_if_idle()


def _is_short(target: VmoObject, size: int) -> bool:
    """True for what is moved in no time, from memory of ours, and so under the kernel's lock."""
    return size <= _SHORT and target.pages.backing.kind == "memfd"
