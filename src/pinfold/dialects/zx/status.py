# From pinfold's reactions to Zircon's statuses.
#
# Source: zircon/errors.h for the numbers. NO_SPACE and IO are for memory that a file holds: the
# pages of the calls know a file only as NO_MEMORY (no room for a page) and the I/O family.
from __future__ import annotations

from typing import Final

from pinfold.dialects.calling import i32, syscalls
from pinfold.dialects.zx import numbers as zx
from pinfold.errors import Status

STATUSES: Final = {
    Status.INTERNAL: zx.ZX_ERR_INTERNAL,
    Status.NOT_SUPPORTED: zx.ZX_ERR_NOT_SUPPORTED,
    Status.NO_RESOURCES: zx.ZX_ERR_NO_RESOURCES,
    Status.NO_MEMORY: zx.ZX_ERR_NO_MEMORY,
    Status.INVALID_ARGS: zx.ZX_ERR_INVALID_ARGS,
    Status.BAD_HANDLE: zx.ZX_ERR_BAD_HANDLE,
    Status.WRONG_TYPE: zx.ZX_ERR_WRONG_TYPE,
    Status.OUT_OF_RANGE: zx.ZX_ERR_OUT_OF_RANGE,
    Status.BUFFER_TOO_SMALL: zx.ZX_ERR_BUFFER_TOO_SMALL,
    Status.BAD_STATE: zx.ZX_ERR_BAD_STATE,
    Status.NOT_FOUND: zx.ZX_ERR_NOT_FOUND,
    Status.ALREADY_EXISTS: zx.ZX_ERR_ALREADY_EXISTS,
    Status.ALREADY_BOUND: zx.ZX_ERR_ALREADY_BOUND,
    Status.UNAVAILABLE: zx.ZX_ERR_UNAVAILABLE,
    Status.ACCESS_DENIED: zx.ZX_ERR_ACCESS_DENIED,
    Status.IO: zx.ZX_ERR_IO,
    Status.NO_SPACE: zx.ZX_ERR_NO_MEMORY,
    Status.TIMED_OUT: zx.ZX_ERR_TIMED_OUT,
    Status.CANCELED: zx.ZX_ERR_CANCELED,
}

syscall = syscalls(STATUSES)

_NAMES: Final = {
    number: name
    for name, number in vars(zx).items()
    if name == "ZX_OK" or name.startswith("ZX_ERR_")
}


def zx_status_get_string(status: int) -> str:
    """The name of a status, ``(UNKNOWN)`` for a number that is none."""
    return _NAMES.get(i32(status), "(UNKNOWN)")
