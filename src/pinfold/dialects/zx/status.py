# From pinfold's reactions to Zircon's statuses.
#
# Source: zircon/errors.h for the numbers.
from __future__ import annotations

from typing import Final

from pinfold.dialects.calling import syscalls
from pinfold.dialects.statuses import by_number, by_reaction, status_name
from pinfold.dialects.zx import numbers as zx

STATUSES: Final = by_reaction(vars(zx), "ZX_ERR_")

syscall = syscalls(STATUSES)

_NAMES: Final = by_number(vars(zx), "ZX_ERR_", "ZX_OK")


def zx_status_get_string(status: int) -> str:
    """The name of a status, ``(UNKNOWN)`` for a number that is none."""
    return status_name(_NAMES, status)
