# Where bytes live: a memfd, an adopted descriptor, a file, a window into a device's memory.
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
import os
import threading
from typing import TYPE_CHECKING, Final

from pinfold.errors import HostError, InvalidArgs, NoMemory, NotSupported, OutOfRange
from pinfold.host import calls, mm
from pinfold.host.abi import (
    F_GETFL,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    FALLOC_FL_KEEP_SIZE,
    S_IFMT,
    S_IFREG,
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
      exclusive: nobody outside can punch holes in it, so what we committed stays committed.
    """

    __slots__ = (
        "_current",
        "base",
        "closed",
        "exclusive",
        "fd",
        "inode",
        "kind",
        "length",
        "lock",
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

    @classmethod
    def adopted(cls, fd: int) -> Backing:
        """The file behind ``fd``, through a descriptor of our own.

        A memfd that can be sealed is sealed against shrinking, for good: memory that a device
        writes to must not be cut by whoever else holds the file.

        Raises:
          NotSupported: not a regular file or memfd.
          HostError: ``fd`` is not open.
        """
        with translated("adopt a descriptor"):
            own = calls.dup(fd)
        return cls._of_file("fd", own)

    @classmethod
    def file(cls, path: str | os.PathLike[str], *, writable: bool) -> Backing:
        """The bytes of a file, shared with everybody else who has it open."""
        flags = os.O_RDWR if writable else os.O_RDONLY
        with translated(f"open {os.fspath(path)}"):
            fd = calls.open_file(os.fspath(path), flags)
        return cls._of_file("file", fd)

    @classmethod
    def window_of(cls, fd: int, base: int, size: int) -> Backing:
        """``size`` bytes from ``base`` of a device's memory; ``fd`` stays its owner's.

        Raises:
          OutOfRange: a regular file that ends before the window does.
        """
        with translated("open a device window"):
            own = calls.dup(fd)
        made = cls("physical", own, size, base=base)
        try:
            with translated("look at a device window"):
                regular = _is_regular(calls.fstat(own).st_mode)
                # What is no file cannot be truncated: a BAR, /dev/mem. A file is sealed before its
                # size is asked for: in between somebody else could cut it.
                made.sealed = not regular or _seal_against_shrinking(own, mm.seals_of(own))
                status = calls.fstat(own)
            if regular and status.st_size < base + size:
                raise OutOfRange(
                    "the file ends before the window", asked=base + size, limit=status.st_size
                )
        except BaseException as error:
            with noted("close the window's descriptor", error):
                made.close()
            raise
        made.exclusive = made.sealed
        return made

    @classmethod
    def _of_file(cls, kind: str, fd: int) -> Backing:
        try:
            with translated("look at a descriptor"):
                if not _is_regular(calls.fstat(fd).st_mode):
                    raise NotSupported("only a regular file or a memfd can hold memory")
                access = calls.fcntl(fd, F_GETFL) & os.O_ACCMODE
                seals = mm.seals_of(fd)
            if access == os.O_WRONLY:
                raise InvalidArgs("a descriptor that cannot be read", remedy="open it for reading")
            with translated("seal a descriptor"):
                sealed = _seal_against_shrinking(fd, seals)
            # Only now is its size asked for: before the seal somebody else could have cut it.
            with translated("look at a descriptor"):
                status = calls.fstat(fd)
                block = calls.fstatvfs(fd).f_bsize
            # Of huge pages there may be none when one is touched, and that ends the process. The
            # file system says which it has; st_blksize is large on a tmpfs that prefers them, too.
            if seals is not None and block > PAGE_SIZE:
                raise NotSupported(
                    "a memfd of huge pages",
                    asked=block,
                    limit=PAGE_SIZE,
                    remedy="pass one of ordinary pages",
                )
            if not status.st_size:
                raise InvalidArgs("the file is empty", asked=0, remedy="give it a size first")
            writable = access == os.O_RDWR and not (seals or 0) & _NO_WRITING
            made = cls(kind, fd, page_up(status.st_size), writable=writable)
            made.length = status.st_size
            made.sealed = sealed and made.length == made.size
            made.inode = (status.st_dev, status.st_ino)
        except BaseException as error:
            with noted("close the descriptor", error):
                calls.close(fd)
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
        """The ranges of ``[offset, offset + size)`` that hold data, in bytes, ascending."""
        base = self.base
        with translated("walk the data of a backing"):
            runs = mm.data_runs(self.fd, base + offset, base + offset + size)
        return [(start - base, stop - base) for start, stop in runs]

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
        return Window(self, offset, size)

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
        start = page_down(offset)
        with translated("map a view", asked=size):
            mapped = calls.readonly_mapping(self.fd, self.base + start, offset + size - start)
        return Export(mapped, memoryview(mapped)[offset - start :]), None

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


_NO_WRITING: Final = F_SEAL_WRITE | F_SEAL_FUTURE_WRITE


def _is_regular(mode: int) -> bool:
    return mode & S_IFMT == S_IFREG


def _seal_against_shrinking(fd: int, seals: int | None) -> bool:
    """True when the file behind ``fd``, which has ``seals``, cannot shrink any more."""
    if seals is None:
        return False
    if seals & F_SEAL_SHRINK:
        return True
    try:
        mm.seal(fd, F_SEAL_SHRINK)
    except OSError as error:
        if error.errno == errno.EPERM:  # it cannot be sealed any more
            return False
        raise
    return True
