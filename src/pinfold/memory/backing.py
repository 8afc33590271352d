# Where bytes live: a memfd, an adopted descriptor, a file, a window into a device's memory. All but
# the first are made in memory/files.py.
#
# A backing opens its descriptor once and closes it once. Bytes are read and written through the
# descriptor, because a read through a shared mapping would commit the page it reads and an access
# past the end of a mapping kills the process; a pread does neither.
#
# Its windows (memory/window.py) are mappings for our own use. Only a sealed backing lends a window
# to devices: where somebody else could truncate the file under us, an access through a mapping
# could end the process, so those go through the descriptor.
#
# Source: memfd_create(2), fallocate(2), and measurements on Linux 6.18 for what commits a page.
from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Final

from pinfold.errors import HostError, NoMemory
from pinfold.host import calls, mm
from pinfold.host.abi import (
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    FALLOC_FL_KEEP_SIZE,
    STAT_BLOCK_BYTES,
)
from pinfold.memory.hosterrors import noted, translated
from pinfold.memory.window import Export, Window
from pinfold.units import GIB, MIB, PAGE_SIZE, page_down, page_up

if TYPE_CHECKING:
    from pinfold.memory.ranges import Interval

_WHOLE_WINDOW: Final = 1024 * GIB  # larger objects are mapped a range at a time
_COPY_CHUNK: Final = 4 * MIB
_COMMIT_PIECE: Final = 256 * MIB


class Backing:
    """Bytes ``[0, size)`` in an open file, from ``base`` of it on.

    Attributes:
      fd: the descriptor, ours to close.
      base: where in the file byte 0 is.
      size: bytes, whole pages.
      length: bytes that the file really has; the last page may be partly beyond it.
      writable: the descriptor and the caller allow writing.
      sealed: nobody, ourselves included, can make the file shorter than `size` behind our back.
      grain: bytes in each page of the file; mappings of it begin and end at multiples.
      exclusive: nobody outside can punch holes in it, so what we committed stays committed.
      own_position: the descriptor's position is nobody else's: looking for data moves it.
    """

    __slots__ = (
        "_current",
        "base",
        "closed",
        "exclusive",
        "fd",
        "grain",
        "inode",
        "kind",
        "length",
        "lock",
        "own_position",
        "sealed",
        "size",
        "writable",
    )

    def __init__(
        self, kind: str, fd: int, size: int, *, base: int = 0, writable: bool = True
    ) -> None:
        self.kind = kind
        self.fd = fd
        self.base = base
        self.size = size
        self.length = size
        self.writable = writable
        self.sealed = False
        self.exclusive = False
        self.grain = PAGE_SIZE
        self.own_position = True
        self.closed = False
        self.inode: tuple[int, int] | None = None
        """Device and inode of a file that others may have too; None for one of our own."""
        self._current: Window | None = None
        self.lock = threading.RLock()
        """Of the windows. Reentrant only so that a finaliser can be told to come back later."""

    # Making one ---------------------------------------------------------------------------------

    @classmethod
    def memfd(cls, size: int, *, name: str, resizable: bool) -> Backing:
        """Anonymous memory of ``size`` bytes, sealed to that size unless ``resizable``."""
        with translated("create a memfd", asked=size):
            fd = mm.create_memfd(f"pinfold:{name}", size)
        made = cls("memfd", fd, size)
        made.exclusive = True
        # A resizable one is cut by nobody but us, under our own pin counts.
        made.sealed = True
        seals = F_SEAL_SEAL if resizable else F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
        try:
            with translated("seal a memfd"):
                mm.seal(fd, seals)
        except BaseException as error:
            with noted("close the memfd", error):
                made.close()
            raise
        return made

    # Bytes --------------------------------------------------------------------------------------

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``. Commits nothing. Bytes beyond `length` read as zero.

        Raises:
          HostError: the file has become shorter (EIO), or the read failed.
        """
        wanted = min(len(buffer), max(self.length - offset, 0))
        done = 0
        while done < wanted:
            with translated("read"):
                count = calls.preadv(self.fd, buffer[done:wanted], self.base + offset + done)
            if not count:
                error = OSError(errno.EIO, "the file ends before its recorded length")
                raise HostError(f"read at {offset + done:#x}", error)
            done += count
        if wanted < len(buffer):
            buffer[wanted:] = bytes(len(buffer) - wanted)

    def write_from(self, buffer: memoryview, offset: int) -> None:
        """Write ``buffer`` at ``offset``; commits the pages it touches.

        Bytes beyond `length` are dropped, as a write through a mapping of the file drops them: a
        device that fills a page must not make the file longer.

        Raises:
          HostError: the file has become shorter (EIO), or the write failed.
          NoSpace, NoMemory: no room; a part may be written.
        """
        buffer = buffer[: max(self.length - offset, 0)]
        if not self.sealed:
            self._refuse_if_cut(offset + len(buffer))
        done = 0
        while done < len(buffer):
            with translated("write", asked=len(buffer)):
                done += calls.pwrite(self.fd, buffer[done:], self.base + offset + done)

    def _refuse_if_cut(self, stop: int) -> None:
        """Raise when the file ends before ``stop``: writing there would make it longer again."""
        with translated("look at a file"):
            size = calls.fstat(self.fd).st_size
        if size < self.base + min(stop, self.length):
            error = OSError(errno.EIO, "the file ends before its recorded length")
            raise HostError(f"write up to {stop:#x}", error)

    def write_zeros(self, offset: int, size: int) -> None:
        """Write zeros, keeping the pages that hold them; never past `length`."""
        size = min(size, max(self.length - offset, 0))
        zeros = memoryview(bytes(min(size, _COPY_CHUNK)))
        for at in range(0, size, _COPY_CHUNK):
            self.write_from(zeros[: min(_COPY_CHUNK, size - at)], offset + at)

    def punch(self, offset: int, size: int) -> None:
        """Free the pages of a range. The caller has made sure that none is pinned."""
        with translated("punch a hole", asked=size):
            mm.punch(self.fd, self.base + offset, size)

    def commit(self, offset: int, size: int) -> None:
        """Give every page of a range memory. May take long; holds no lock of anybody's.

        Raises:
          NoSpace: the file system behind it is full.
          NoMemory: the host has no memory.
          HostError: a page cannot be had (past the end of a file that shrank, poisoned).
        """
        if not self.sealed:
            self._refuse_if_cut(offset + size)
        if self.kind == "file" and self.writable and offset < self.length:
            with translated("reserve file blocks", asked=size):
                wanted = min(size, self.length - offset)
                calls.fallocate(self.fd, FALLOC_FL_KEEP_SIZE, offset, wanted)
        window = self.borrow(offset, size)
        try:
            populate = mm.populate_write if self.writable else mm.populate_read
            # In pieces, so that a Ctrl-C is heard before the last of many gigabytes.
            for at in range(offset, offset + size, _COMMIT_PIECE):
                piece = min(_COMMIT_PIECE, offset + size - at)
                with translated("commit pages", asked=size):
                    populate(window.address_of(at), piece)
        finally:
            window.release()

    def committed_bytes(self) -> int:
        """Bytes of memory or of blocks behind the whole file."""
        with translated("look at a backing"):
            return calls.fstat(self.fd).st_blocks * STAT_BLOCK_BYTES

    def data_runs(self, offset: int, size: int) -> list[Interval]:
        """The ranges of ``[offset, offset + size)`` that hold data, in bytes, ascending.

        Whole pages, but for the borders of the range. All of it where looking would move somebody
        else's position in the file.
        """
        end = offset + size
        if not self.own_position:
            end = min(end, page_up(self.length))
            return [(offset, end)] if offset < end else []
        base = self.base
        with translated("walk the data of a backing"):
            found = mm.data_runs(self.fd, base + offset, base + end)
        runs: list[Interval] = []
        for start, stop in found:  # a file system's blocks may be smaller than pages
            low, high = max(page_down(start - base), offset), min(page_up(stop - base), end)
            if runs and low <= runs[-1][1]:
                runs[-1] = (runs[-1][0], high)
            else:
                runs.append((low, high))
        return runs

    def resize(self, size: int) -> None:
        """Make the file ``size`` bytes; the caller has made sure that no cut page is pinned."""
        with translated("resize", asked=size):
            calls.ftruncate(self.fd, size)
        self.size = self.length = size

    # Windows ------------------------------------------------------------------------------------

    def borrow(self, offset: int, size: int) -> Window:
        """A window that shows ``[offset, offset + size)``; `Window.release` it when done."""
        with self.lock:
            window = self._current
            if (
                window is None
                or window.offset > offset
                or window.offset + window.size < offset + size
            ):
                fresh = self._open_window(offset, size)
                self._current, stale = fresh, window
                if stale is not None and not stale.users:
                    stale.unmap()
                window = fresh
            window.users += 1
            return window

    def _open_window(self, offset: int, size: int) -> Window:
        """Of everything, which serves every later call; of the range alone, if that is too much."""
        if self.size <= _WHOLE_WINDOW:
            try:
                return Window(self, 0, self.size)
            except NoMemory:
                if size == self.size:
                    raise
        lead = offset % self.grain
        return Window(self, offset - lead, lead + size)

    def export(self, offset: int, size: int, *, writable: bool) -> tuple[Export, Window | None]:
        """The bytes of a range for somebody else to hold; and the window that must outlive them.

        What is not writable is a mapping of its own, which the kernel keeps anybody from writing
        through, and which needs no window: it goes with the last view of it.
        """
        if writable:
            window = self.borrow(offset, size)
            try:
                owner = window.export(offset, size)
                return Export(owner, memoryview(owner).cast("B")), window
            except BaseException:
                window.release()
                raise
        start = offset - offset % self.grain
        length = offset + size - start
        if self.grain > PAGE_SIZE:
            length += -length % self.grain
        with translated("map a view", asked=size):
            mapped = calls.readonly_mapping(self.fd, self.base + start, length)
        return Export(mapped, memoryview(mapped)[offset - start : offset - start + size]), None

    def lend_again(self, window: Window) -> None:
        """A window in use has one user more."""
        with self.lock:
            window.users += 1

    def give_back(self, window: Window) -> None:
        """One user of ``window`` is done."""
        with self.lock:
            window.users -= 1
            if not window.users and (window is not self._current or self.closed):
                if window is self._current:
                    self._current = None
                window.unmap()

    def close(self) -> None:
        """Close the descriptor; the window goes when its last user is done. Once is enough."""
        if self.closed:
            return
        self.closed = True
        try:
            with self.lock:
                window = self._current
                if window is not None and not window.users:
                    self._current = None
                    window.unmap()
        finally:
            with translated("close a backing"):
                calls.close(self.fd)
