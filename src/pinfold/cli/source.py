# What a copy is made of: a file that is there, whole, and stays as it is meanwhile.
#
# A copy of a file that somebody writes to is a file that never was. So whatever shows that it was
# written to is an error, and the same call works once nobody does: another size, another time of
# change, fewer bytes than it says, or more (files in /proc say 0 and have what they like).
from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Self

from pinfold.cli.destination import Refused
from pinfold.cli.text import counted
from pinfold.host import calls
from pinfold.memory.hosterrors import translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class FileChanged(RuntimeError):
    """The source did not stay as it was."""


class Source:
    """The file that is copied: a regular file or a block device, symbolic links followed.

    Attributes:
      fd: its descriptor, open for reading.
      size: bytes in it when it was opened.

    Raises:
      Refused: it cannot be read, or is no such file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # Looked at first: to open some devices does something. And O_NONBLOCK: a FIFO that has
            # taken its place would keep us waiting for its other end.
            self._refuse_others(os.stat(path).st_mode)
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}") from error
        try:
            self.found = os.fstat(self.fd)
            self._refuse_others(self.found.st_mode)
            self.size = self.found.st_size
            if stat.S_ISBLK(self.found.st_mode):
                self.size = os.lseek(self.fd, 0, os.SEEK_END)
        except BaseException as error:
            os.close(self.fd)
            if isinstance(error, OSError):
                raise Refused(f"{path}: {error.strerror}") from error
            raise

    def _refuse_others(self, mode: int) -> None:
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            return
        kinds = {
            stat.S_IFDIR: "a directory",
            stat.S_IFIFO: "a FIFO, which has no size",
            stat.S_IFCHR: "a character device, which has no size",
            stat.S_IFSOCK: "a socket",
        }
        kind = kinds.get(stat.S_IFMT(mode), "something else")
        raise Refused(f"{self.path} is {kind}; name a regular file or a block device")

    def segments(self, fd: int | None = None) -> Iterator[tuple[int, int]]:
        """The parts that are no holes, as (start, stop), ascending; of ``fd`` if it is another's.

        A file that has no idea of holes is one part. Source: lseek(2), SEEK_DATA. Raises HostError.
        """
        fd, stop = self.fd if fd is None else fd, 0
        while stop < self.size:
            try:
                start = calls.lseek(fd, stop, os.SEEK_DATA)
                stop = calls.lseek(fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                if error.errno != errno.EINVAL:  # a block device has none
                    with translated(f"look for the holes of {self.path}"):
                        raise
                start, stop = stop, self.size
            if start < self.size:  # what was appended meanwhile is not copied, and is an error
                yield start, min(stop, self.size)

    def cut(self, at: int) -> FileChanged:
        """The error for a read that found the end too early."""
        return FileChanged(
            f"{self.path} is shorter than it was: {counted(self.size, 'byte')} at first, and now "
            f"it ends at {at}; copy it again while nobody writes to it"
        )

    def check_unchanged(self) -> None:
        """Raise `FileChanged` where it shows that it was written to; HostError."""
        with translated(f"look at {self.path}"):
            now = calls.fstat(self.fd)
            more = calls.pread(self.fd, 1, self.size)
        if now.st_size < self.found.st_size:
            raise self.cut(now.st_size)
        if more:
            raise FileChanged(
                f"{self.path} is longer than it was, or than it said: more than "
                f"{counted(self.size, 'byte')}; copy it again while nobody writes to it"
            )
        if now.st_mtime_ns != self.found.st_mtime_ns and stat.S_ISREG(now.st_mode):
            raise FileChanged(
                f"{self.path} was written to while it was being copied; copy it again while "
                "nobody writes to it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        os.close(self.fd)
