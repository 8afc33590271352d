# Direct I/O: what a file asks of transfers that pass by the page cache, and how it is opened.
#
# Source: open(2), O_DIRECT; statx(2), STATX_DIOALIGN, which Linux has from 6.1 on.
from __future__ import annotations

import ctypes
import errno
import os
from struct import unpack_from
from typing import Final

from pinfold.host import calls

STATX_DIOALIGN: Final = 0x2000  # <linux/stat.h>
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
    """Another descriptor of the file behind ``fd``, for direct I/O; None where it takes none."""
    try:
        return calls.open_file(f"/proc/self/fd/{fd}", access | os.O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EACCES):
            return None
        raise


def set_blocking(fd: int) -> None:
    """fcntl(F_SETFL): take O_NONBLOCK off a descriptor that was opened with it."""
    calls.intercept("fcntl")
    os.set_blocking(fd, True)
