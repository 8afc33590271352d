# Direct I/O: what a file asks of transfers that pass by the page cache, and how it is opened.
#
# Source: open(2), O_DIRECT; statx(2), STATX_DIOALIGN, which Linux has from 6.1 on; proc(5).
from __future__ import annotations

import ctypes
import errno
import os
import sys
from struct import unpack_from
from typing import Final

from pinfold.host import calls

STATX_DIOALIGN: Final = 0x2000  # <linux/stat.h>
BLKGETSIZE64: Final = 0x80081272  # <linux/fs.h>
_NOT_ANEW: Final = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ETXTBSY,
    errno.ENOENT,
    errno.ENXIO,
)
"""This process may not open the file, or there is no /proc to find it by."""
_AT_EMPTY_PATH: Final = 0x1000  # <linux/fcntl.h>
_STATX_BYTES: Final = 256
_DIO_ALIGN: Final = 0x98
"""Where struct statx has stx_dio_mem_align, and stx_dio_offset_align after it."""

_statx = calls.declare(
    "statx",
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)


def alignment(fd: int) -> tuple[int, int] | None:
    """What direct I/O asks: the alignment of memory, and of offsets and lengths, in bytes.

    (0, 0) where the file system has no direct I/O; None where the kernel does not say.
    """
    calls.intercept("statx")
    answer = (ctypes.c_ubyte * _STATX_BYTES)()
    if _statx(fd, b"", _AT_EMPTY_PATH, STATX_DIOALIGN, ctypes.addressof(answer)) != 0:
        raise calls.refused()
    (mask,) = unpack_from("=I", answer, 0)
    if not mask & STATX_DIOALIGN:
        return None
    memory, offset = unpack_from("=II", answer, _DIO_ALIGN)
    return memory, offset


def reopened(fd: int, access: int) -> int | None:
    """Another descriptor of the file behind ``fd``, for direct I/O; None where it takes none, or
    cannot be opened anew."""
    try:
        return opened_anew(fd, access | os.O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return None
        raise


def opened_anew(fd: int, flags: int) -> int | None:
    """The file behind ``fd``, opened once more: with flags of its own, where a duplicate shares
    them. None where this process may not open it. Raises OSError."""
    try:
        return calls.open_file(f"/proc/self/fd/{fd}", flags)
    except OSError as error:
        if error.errno in _NOT_ANEW:
            return None
        raise


def disk_size(fd: int) -> int:
    """ioctl(BLKGETSIZE64): bytes in a block device. It moves no position, as lseek would."""
    answer = bytearray(8)
    calls.ioctl(fd, BLKGETSIZE64, answer)
    return int.from_bytes(answer, sys.byteorder)


def set_blocking(fd: int) -> None:
    """fcntl(F_SETFL): take O_NONBLOCK off a descriptor that was opened with it."""
    calls.intercept("fcntl")
    os.set_blocking(fd, True)
