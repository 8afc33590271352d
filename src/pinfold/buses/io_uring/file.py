# A file as the device of a ring: opened twice where its file system takes direct I/O, once with the
# page cache and once past it. Each request goes past it where its address, size and offset allow.
#
# Both kinds may meet in one file, but never in one page of it: past the page cache go whole pages
# only, whatever less the file system would take. Linux keeps the two apart by writing back and
# dropping pages, which does not hold while both write to one page at once: the cached page brings
# back the old bytes of the other part (seen on ext4, Linux 6.18: stale bytes, then EIO of a sync).
from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import HostError, InvalidArgs, NotSupported
from pinfold.host import calls
from pinfold.host import direct as direct_io
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LASTING: Final = (stat.S_ISREG, stat.S_ISBLK)
"""Kinds of file whose transfers end by themselves; one from a pipe may never."""


class OpenFile:
    """An open file.

    Args:
      path: of a regular file or a block device; or a descriptor of one, which stays the caller's.
      writable: it can be written to.
      direct: past the page cache: True for nothing else, False for never, None where it can be.

    Attributes:
      memory_alignment, offset_alignment: bytes, of a direct request; 0 where there is none.

    Raises:
      HostError: it cannot be opened; the kernel's.
      NotSupported: it is no such file, or takes no direct I/O and that was asked for.
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
        name = f"/proc/self/fd/{path}" if isinstance(path, int) else self.path
        with translated(f"open {self.path}"):
            # A FIFO would keep us waiting for its other end.
            self._plain = calls.open_file(str(name), access | os.O_NONBLOCK)
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
                    f"the file system of {self.path} takes no direct I/O",
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
            if stat.S_ISBLK(found.st_mode):
                return calls.lseek(self._plain, 0, os.SEEK_END)
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


def _close(fd: int) -> None:
    try:
        calls.close(fd)
    except OSError as error:
        raise HostError("close a file", error) from error
