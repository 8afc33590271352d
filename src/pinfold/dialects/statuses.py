# Statuses of Zircon's family: a negative number for each reaction, under the reaction's own name.
#
# NO_SPACE and IO are for memory that a file holds. The pages of the calls know a file only as
# NO_MEMORY (no room for a page) and the I/O family.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pinfold.dialects.calling import i32
from pinfold.errors import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

_CALLED: Final = {Status.NO_SPACE: Status.NO_MEMORY}


def by_reaction(numbers: Mapping[str, Any], prefix: str) -> dict[Status, int]:
    """From pinfold's reactions to a dialect's statuses.

    Args:
      numbers: all of the dialect's, by name.
      prefix: of the names of its statuses.
    """
    return {status: numbers[prefix + _CALLED.get(status, status).name] for status in Status}


def by_number(numbers: Mapping[str, Any], prefix: str, success: str) -> dict[int, str]:
    """The names of a dialect's statuses: of its errors, and of success."""
    named = numbers.items()
    return {number: name for name, number in named if name == success or name.startswith(prefix)}


def status_name(names: Mapping[int, str], status: int) -> str:
    """The name of a status, ``(UNKNOWN)`` for a number that is none."""
    return names.get(i32(status), "(UNKNOWN)")
