# From pinfold's reactions to Magenta's statuses.
#
# Source: magenta/errors.h for the numbers. IO is also for a bus that refuses to take a pin back,
# which the pages of the calls do not know.
from __future__ import annotations

from typing import Final

from pinfold.dialects.calling import syscalls
from pinfold.dialects.mx import numbers as mx
from pinfold.dialects.statuses import by_number, by_reaction, status_name

STATUSES: Final = by_reaction(vars(mx), "MX_ERR_")

syscall = syscalls(STATUSES)

_NAMES: Final = by_number(vars(mx), "MX_ERR_", "MX_OK")


def mx_status_get_string(status: int) -> str:
    """The name of a status, ``(UNKNOWN)`` for a number that is none."""
    return status_name(_NAMES, status)
