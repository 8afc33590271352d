# What a software disk keeps its blocks on.
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from pinfold.errors import InvalidArgs

if TYPE_CHECKING:
    from types import TracebackType


class Medium(Protocol):
    """Bytes that last. A disk reads and writes within ``size`` only.

    What fails raises OSError, of which the disk makes a media error.
    """

    @property
    def size(self) -> int:
        """Bytes; constant."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``."""

    def write(self, offset: int, data: bytes) -> None:
        """All of ``data``, from ``offset`` on."""

    def flush(self) -> None:
        """On return what was written survives a loss of power, as far as the host can promise."""


class MemoryMedium:
    """A medium that lasts as long as it is kept: ``size`` bytes of zeros."""

    def __init__(self, size: int) -> None:
        self._contents = bytearray(size)
        self.flushes = 0

    @property
    def size(self) -> int:
        """See `Medium.size`."""
        return len(self._contents)

    def read(self, offset: int, size: int) -> bytes:
        """See `Medium.read`."""
        return bytes(self._contents[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """See `Medium.write`."""
        self._contents[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing is lost before all of it is. Counted in ``flushes``."""
        self.flushes += 1


class FileMedium:
    """A regular file, as long as it is now.

    Args:
      file: a path, which is opened for reading and writing and closed by `close`; or a file that
        is open already, which stays its owner's to close. Its position is not used.

    Raises:
      OSError: it cannot be opened.
      InvalidArgs: it is empty.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        self._owned = isinstance(file, (str, os.PathLike))
        if isinstance(file, (str, os.PathLike)):
            self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        else:
            self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        if not self._size:
            self.close()
            raise InvalidArgs("an empty file holds no block", remedy="truncate() it to the size")

    @property
    def size(self) -> int:
        """See `Medium.size`."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """See `Medium.read`. A file that somebody else cut raises EIO."""
        parts = []
        while size:
            part = os.pread(self._open(), size, offset)
            if not part:
                raise OSError(errno.EIO, "the file ends before the disk does")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """See `Medium.write`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._open(), view, offset)
            offset += written
            view = view[written:]

    def flush(self) -> None:
        """See `Medium.flush`."""
        os.fsync(self._open())

    def _open(self) -> int:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._descriptor

    def close(self) -> None:
        """Close what was opened by path; twice is once. Reads and writes then raise OSError."""
        if self._owned and self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
