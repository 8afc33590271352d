# How large a memory object is, how much of it holds something, and whether it may be discarded.
#
# Source: zx_vmo_set_size, zx_vmo_set_stream_size, zx_vmo_op_range (LOCK, TRY_LOCK, UNLOCK);
# Zircon's dispatcher for the order of checks.
from __future__ import annotations

from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Final

from pinfold.errors import AccessDenied, InvalidArgs, NotSupported, OutOfRange, Unavailable
from pinfold.memory.hosterrors import noted
from pinfold.objects import page_ops
from pinfold.objects.handle import Handle
from pinfold.objects.memory_object import VmoObject
from pinfold.rights import Right
from pinfold.units import PAGE_MASK, UINT64_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.objects.vmo_parts import VmoLockState

_WRITE: Final = int(Right.WRITE)
_RESIZE: Final = int(Right.RESIZE)
_EITHER: Final = int(Right.READ | Right.WRITE)


class VmoSizes(Handle[VmoObject]):
    """The size, the stream and the locks of a memory object, through a handle. `Vmo` is one."""

    __slots__ = ()

    # Size ---------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Make the object ``size`` bytes, rounded up to whole pages; new pages read as zeros.

        The tail of the last page beyond ``size`` reads as zeros too, and ``size`` is the stream
        size. References see the new size. Mappings keep their length: touching one beyond the end
        ends the process, as Linux has it.

        Raises:
          AccessDenied: without WRITE, or without RESIZE on a resizable object.
          Unavailable: the object is not resizable.
          OutOfRange: more than a file can have.
          BadState: a page that would be cut off is pinned, or shown by a view; nothing changed.
          InvalidArgs: it is a snapshot of what lies so far up in its parent that it cannot grow so.
          NoMemory, HostError: the host refuses; nothing changed. Unless it was to clear the tail of
            the last page: then the object has its new size.

        Source: zx_vmo_set_size.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            if target.resizable:
                self._require(_RESIZE)
            resize(target, index(size))

    @property
    def stream_size(self) -> int:
        """Bytes that hold something, as its users say; 0 for contiguous and device memory.

        It limits neither reads nor pins. Source: zx_vmo_get_stream_size.
        """
        return self.object.stream.size

    def set_stream_size(self, size: int) -> None:
        """Say that ``size`` bytes hold something; all from there, or from the former end, are 0.

        Mappings with FAULT_BEYOND_STREAM_SIZE show the pages up to it from now on. Where the host
        refuses to show more, what lies beyond the former end may have been cleared; the size, and
        what mappings show, are as before.

        Raises:
          AccessDenied: without WRITE.
          NotSupported: contiguous or device memory.
          OutOfRange: more than the object has.
          BadState: it is not cached, and a part of a page would have to be written; a view of such
            a mapping shows what would be hidden (``.holder``). Nothing changed.
          NoMemory, HostError: the host refuses to change what a mapping shows; see above.

        Source: zx_vmo_set_stream_size.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            size = index(size)
            if target.contiguous:
                raise NotSupported(f"{target} is contiguous or device memory: it has no stream")
            former = target.stream.size
            if size == former:
                return
            if size > target.size or size < 0:
                raise OutOfRange(f"a stream ends within {target}", asked=size, limit=target.size)
            target.refuse_to_follow(size)
            start = min(size, former, target.size)
            if size < former:  # hidden, then cleared: nobody sees the one without the other
                with _stream_ended(target, size):
                    page_ops.zero(target, start, target.size - start)
            else:
                page_ops.zero(target, start, target.size - start)
                target.set_stream(size)

    def set_content_size(self, size: int) -> None:
        """The older way to say how many bytes hold something: any number is taken.

        Up to the size of the object it is `set_stream_size`. More is kept, and nothing is zeroed.

        Raises:
          As `set_stream_size`, but for OutOfRange.

        Source: ZX_PROP_VMO_CONTENT_SIZE.
        """
        with self._entry.process.kernel.lock:
            target = self._require(_WRITE)
            beyond = index(size) > target.size
            if beyond and not target.contiguous:
                target.set_stream(index(size))
                return
        self.set_stream_size(size)

    # Discardable memory -------------------------------------------------------------------------

    def lock_memory(self, offset: int = 0, size: int | None = None) -> VmoLockState:
        """Keep the memory of a discardable object from being discarded; count one lock more.

        Args:
          offset, size: all of the object, as Zircon wants it said.

        Returns:
          What had been discarded: it reads as zeros.

        Raises:
          AccessDenied: with neither READ nor WRITE.
          NotSupported: not a discardable object.
          OutOfRange: not exactly all of it.

        Source: zx_vmo_op_range, LOCK.
        """
        with self._entry.process.kernel.lock:
            target = self._lockable(offset, size)
            return target.lock_memory()

    def try_lock_memory(self, offset: int = 0, size: int | None = None) -> None:
        """As `lock_memory`, but only where nothing was discarded.

        Raises:
          As `lock_memory`.
          Unavailable: the memory was discarded; it is not locked.

        Source: zx_vmo_op_range, TRY_LOCK.
        """
        with self._entry.process.kernel.lock:
            target = self._lockable(offset, size)
            if target.discarded:
                raise Unavailable(
                    f"the memory of {target} was discarded", remedy="lock it, and fill it anew"
                )
            target.lock_memory()

    def unlock_memory(self, offset: int = 0, size: int | None = None) -> None:
        """Undo one lock; after the last the memory may be discarded.

        Raises:
          As `lock_memory`.
          BadState: it is not locked.

        Source: zx_vmo_op_range, UNLOCK.
        """
        with self._entry.process.kernel.lock:
            self._lockable(offset, size).unlock_memory()

    def check_lock(self, offset: int, size: int) -> None:
        """Raise what `lock_memory` would raise, and lock nothing."""
        with self._entry.process.kernel.lock:
            self._lockable(offset, size)

    def _lockable(self, offset: int, size: int | None) -> VmoObject:
        target = self._require(0)
        if not self._entry.rights & _EITHER:
            raise AccessDenied(
                f"a handle to {target}", missing=_EITHER, remedy="use a handle with one of them"
            )
        if not target.discardable:
            raise NotSupported(f"{target} is not discardable", remedy="make it discardable")
        size = target.size if size is None else index(size)
        if index(offset) or size != target.size:
            raise OutOfRange(
                f"{target} is locked as a whole", asked=index(offset) + size, limit=target.size
            )
        return target


def resize(target: VmoObject, size: int) -> None:
    """Change the size of an object, whoever asks for it; see `VmoSizes.resize`."""
    fixed = Unavailable(f"{target} cannot be resized", remedy="make it resizable")
    if target.contiguous:
        raise fixed
    page_ops.check_64_bits(size)
    if not target.resizable:
        raise fixed
    new, old = page_ops.checked_size(size), target.size
    if new < old:
        target.pages.refuse_if_pinned("shrink", new, old - new)
        target.refuse_if_viewed("shrink", new, old - new)
    elif new > old and target.root_offset + new > UINT64_MAX:
        raise InvalidArgs(
            f"{target} shows what ends beyond 64 bits of its ancestor",
            asked=target.root_offset + new,
            limit=UINT64_MAX,
        )
    target.refuse_to_follow(size)
    _resize(target, new, size)
    target.body.own(size, max(new, old))  # what is cut off, or cleared, is not borrowed any more
    if size & PAGE_MASK:
        target.pages.zero(size, new - size)


def _resize(target: VmoObject, new: int, stream: int) -> None:
    """Change size and stream size, or neither. What is cut off is hidden first."""
    old = target.size
    if new < old:
        with _stream_ended(target, stream):
            target.pages.resize(new)
        return
    if new > old:
        target.pages.resize(new)
    try:
        target.set_stream(stream)
    except BaseException as error:
        if new > old:
            with noted("shrink it again", error):
                target.pages.resize(old)
        raise


@contextmanager
def _stream_ended(target: VmoObject, size: int) -> Iterator[None]:
    """The stream ends at ``size`` from before the block on, unless the block fails."""
    former = target.stream.size
    target.set_stream(size)
    try:
        yield
    except BaseException as error:
        with noted("show the former stream", error):
            target.set_stream(former)
        raise
