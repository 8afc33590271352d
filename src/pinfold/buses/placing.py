# What the buses share that place grants in an address space of their own: the part of it that a
# device reaches, and the refusal when no room is left.
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pinfold.bus import reach
from pinfold.errors import InvalidArgs, LimitReached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pinfold.memory.ranges import Interval
    from pinfold.memory.space import Placement


def within(apertures: Sequence[Interval], address_bits: int) -> list[Interval]:
    """What a device with so many address bits reaches of a bus's apertures, ascending.

    Raises:
      InvalidArgs: nothing.
    """
    top = reach(address_bits)
    found = [(low, min(high, top)) for low, high in apertures if low < min(high, top)]
    if not found:
        raise InvalidArgs(
            f"a device with {address_bits} address bits reaches none of the bus's addresses",
            asked=address_bits,
            limit=apertures[0][0],
        )
    return found


def no_room(
    what: str, asked: int, space: Placement[Any], *, align: int = 1, remedy: str = ""
) -> LimitReached:
    """The refusal when ``space`` has no gap for ``asked``; ``what`` says who has no room."""
    return LimitReached(
        what,
        asked=asked,
        available=space.largest_gap(align),
        limit=space.size,
        holder=f"{len(space.blocks)} live grant(s)",
        remedy=remedy or "unpin something, or pin smaller ranges",
    )
