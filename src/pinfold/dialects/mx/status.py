# From pinfold's reactions to Magenta's statuses.
#
# Source: magenta/errors.h for the numbers. NO_SPACE and IO are for memory that a file holds, and IO
# for a bus that refuses to take a pin back: the pages of the calls know neither.
from __future__ import annotations

from typing import Final

from pinfold.dialects.calling import i32, syscalls
from pinfold.dialects.mx import numbers as mx
from pinfold.errors import Status

STATUSES: Final = {
    Status.INTERNAL: mx.MX_ERR_INTERNAL,
    Status.NOT_SUPPORTED: mx.MX_ERR_NOT_SUPPORTED,
    Status.NO_RESOURCES: mx.MX_ERR_NO_RESOURCES,
    Status.NO_MEMORY: mx.MX_ERR_NO_MEMORY,
    Status.INVALID_ARGS: mx.MX_ERR_INVALID_ARGS,
    Status.BAD_HANDLE: mx.MX_ERR_BAD_HANDLE,
    Status.WRONG_TYPE: mx.MX_ERR_WRONG_TYPE,
    Status.OUT_OF_RANGE: mx.MX_ERR_OUT_OF_RANGE,
    Status.BUFFER_TOO_SMALL: mx.MX_ERR_BUFFER_TOO_SMALL,
    Status.BAD_STATE: mx.MX_ERR_BAD_STATE,
    Status.NOT_FOUND: mx.MX_ERR_NOT_FOUND,
    Status.ALREADY_EXISTS: mx.MX_ERR_ALREADY_EXISTS,
    Status.ALREADY_BOUND: mx.MX_ERR_ALREADY_BOUND,
    Status.UNAVAILABLE: mx.MX_ERR_UNAVAILABLE,
    Status.ACCESS_DENIED: mx.MX_ERR_ACCESS_DENIED,
    Status.IO: mx.MX_ERR_IO,
    Status.NO_SPACE: mx.MX_ERR_NO_MEMORY,
    Status.TIMED_OUT: mx.MX_ERR_TIMED_OUT,
    Status.CANCELED: mx.MX_ERR_CANCELED,
}

syscall = syscalls(STATUSES)

_NAMES: Final = {
    number: name
    for name, number in vars(mx).items()
    if name == "MX_OK" or name.startswith("MX_ERR_")
}


def mx_status_get_string(status: int) -> str:
    """The name of a status, ``(UNKNOWN)`` for a number that is none."""
    return _NAMES.get(i32(status), "(UNKNOWN)")
