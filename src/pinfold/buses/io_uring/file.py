# A file as the device of a ring: opened twice where its file system takes direct I/O, once with the
# page cache and once past it. Each request goes past it where its address, size and offset allow.
#
# A descriptor that the caller hands over is duplicated, and never stands for more than it gives:
# who may open the file is asked only where a flag is wanted that duplicates share, O_DIRECT above
# all. Its position and its flags are the caller's too, and stay as they are.
#
# Both kinds may meet in one file, but never in one page of it: past the page cache go whole pages
# only, whatever less the file system would take. Linux keeps the two apart by writing back and
# dropping pages, which does not hold while both write to one page at once: the cached page brings
# back the old bytes of the other part (seen on ext4, Linux 6.18: stale bytes, then EIO of a sync).
from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import AccessDenied, HostError, InvalidArgs, NotSupported
from pinfold.host import calls
from pinfold.host import direct as direct_io
from pinfold.host.abi import F_GETFL
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LASTING: Final = (stat.S_ISREG, stat.S_ISBLK)
"""Kinds of file whose transfers end by themselves; one from a pipe may never."""
_SHARED: Final = os.O_APPEND | os.O_DIRECT | os.O_NONBLOCK
"""What duplicates of a descriptor have in common, and what makes transfers go to the end of the
file, be refused when they are not aligned, or end early."""
_MOST: Final = (1 << 31) - 1
"""No descriptor is larger: a C int."""


class OpenFile:
    """An open file.

    Args:
      path: of a regular file or a block device; or a descriptor of one, which stays the caller's
        and was opened for reading, and for writing where that is asked for.
      writable: it can be written to. Otherwise a write ends with EBADF, whatever the descriptor is
        good for: see `Queue`.
      direct: past the page cache: True for nothing else, False for never, None where it can be.

    Attributes:
      memory_alignment, offset_alignment: bytes, of a direct request; 0 where there is none.

    Raises:
      HostError: it cannot be opened; the kernel's. EBADF of a descriptor that is closed.
      InvalidArgs: a descriptor that cannot be read.
      AccessDenied: ``writable``, and a descriptor that cannot be written to.
      NotSupported: it is no such file, or takes no direct I/O and that was asked for; a descriptor
        of appending, say, whose file cannot be opened anew.
    """

    __slots__ = ("_direct", "_plain", "memory_alignment", "offset_alignment", "path", "writable")

    def __init__(
        self, path: str | os.PathLike[str] | int, *, writable: bool, direct: bool | None
    ) -> None:
        if isinstance(path, bool):
            raise InvalidArgs("a file is named by its path or its descriptor")
        self.path = path if isinstance(path, int) else os.fsdecode(path)
        self.writable = writable
        access = os.O_RDWR if writable else os.O_RDONLY
        with translated(f"open {self.path}"):
            if isinstance(self.path, int):
                self._plain = _duplicate(self.path, access)
            else:  # a FIFO would keep us waiting for its other end
                self._plain = calls.open_file(self.path, access | os.O_NONBLOCK)
        self._direct: int | None = None
        self.memory_alignment = self.offset_alignment = 0
        try:
            with translated(f"look at {self.path}"):
                mode = calls.fstat(self._plain).st_mode
            if not any(kind(mode) for kind in _LASTING):
                raise NotSupported(f"{self.path} is neither a regular file nor a block device")
            # With it some file systems say EAGAIN instead of reading what is not in memory.
            with translated(f"have {self.path} wait"):
                direct_io.set_blocking(self._plain)
            if direct is not False:
                self._open_direct(access)
            if direct and self._direct is None:
                raise NotSupported(
                    f"no direct I/O on {self.path}: its file system takes none, or it cannot be "
                    "opened anew",
                    remedy="leave direct out, and the page cache is used",
                )
        except BaseException as error:
            with noted("close it", error):
                self.close()
            raise

    def _open_direct(self, access: int) -> None:
        with translated(f"ask for direct I/O on {self.path}"):
            asked = direct_io.alignment(self._plain)
            if asked is None:  # before Linux 6.1 nobody says; a page satisfies every device
                asked = PAGE_SIZE, PAGE_SIZE
            if not all(asked):
                return
            self._direct = direct_io.reopened(self._plain, access)
        if self._direct is not None:
            self.memory_alignment, self.offset_alignment = asked

    @property
    def takes_direct(self) -> bool:
        """True where requests can go past the page cache."""
        return self._direct is not None

    @property
    def plain(self) -> int:
        """The descriptor that goes through the page cache."""
        return self._plain

    def size(self) -> int:
        """Bytes in it now. Raises HostError."""
        with translated(f"look at {self.path}"):
            found = calls.fstat(self._plain)
            if stat.S_ISBLK(found.st_mode):  # not by lseek: the position may be the caller's
                return direct_io.disk_size(self._plain)
            return found.st_size

    def descriptors(
        self, addresses: NDArray[np.uint64], sizes: NDArray[np.uint64], offsets: NDArray[np.uint64]
    ) -> NDArray[np.int32] | int:
        """By which descriptor each request goes."""
        if self._direct is None:
            return self._plain
        memory = np.uint64(self.memory_alignment - 1)
        offset = np.uint64(max(self.offset_alignment, PAGE_SIZE) - 1)  # see the top
        plain = (addresses & memory) | ((sizes | offsets) & offset)
        if not plain.any():
            return self._direct
        return np.where(plain != 0, self._plain, self._direct).astype(np.int32)

    def close(self) -> None:
        """Close it. Twice is once. Raises HostError: what the first close was refused."""
        plain, self._plain = self._plain, -1
        past, self._direct = self._direct, None
        each_tried(partial(_close, fd) for fd in (past, plain) if fd is not None and fd >= 0)


def _duplicate(fd: int, access: int) -> int:
    """A descriptor of ours of the caller's file, good for ``access``. Raises OSError and others."""
    if not 0 <= fd <= _MOST:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    own = calls.dup(fd)
    try:
        flags = calls.fcntl(own, F_GETFL)
        _check_access(flags, access)
        if not flags & _SHARED:
            return own
        anew = direct_io.opened_anew(own, access | os.O_NONBLOCK)
        if anew is None:
            raise NotSupported(
                "a descriptor with O_APPEND, O_DIRECT or O_NONBLOCK, whose file cannot be opened "
                "anew without",
                remedy="open it without them",
            )
    except BaseException as error:
        with noted("close a duplicate", error):
            _close(own)
        raise
    try:
        _close(own)
    except BaseException as error:
        with noted("close the other", error):
            _close(anew)
        raise
    return anew


def _check_access(flags: int, access: int) -> None:
    """Refuse what the descriptor does not give, whoever we are."""
    given = flags & os.O_ACCMODE
    if flags & os.O_PATH or given not in (os.O_RDONLY, os.O_RDWR):
        raise InvalidArgs("a descriptor that cannot be read", remedy="open it for reading")
    if access == os.O_RDWR and given != os.O_RDWR:
        raise AccessDenied("a descriptor that cannot be written to", remedy="open it with O_RDWR")


def _close(fd: int) -> None:
    try:
        calls.close(fd)
    except OSError as error:
        raise HostError("close a file", error) from error
