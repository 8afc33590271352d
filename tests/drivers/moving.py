"""A move of bytes from one pin to another, whatever device makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pinfold as pf

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_UNTOUCHED = b"\xee"


def moved(bti: pf.Bti, data: bytes, move: Callable[[pf.Pmt, pf.Pmt], T]) -> tuple[bytes, T]:
    """Have ``move(source, destination)`` move bytes of ``data``.

    Returns:
      The whole destination afterwards, which is as long as ``data``; and what ``move`` returned.
    """
    with pf.Vmo(len(data)) as source, pf.Vmo(len(data)) as destination:
        source.write(data)
        destination.write(_UNTOUCHED * len(data))
        with (
            bti.pin(source, perms=pf.Perm.READ) as taken,
            bti.pin(destination, perms=pf.Perm.WRITE) as given,
        ):
            result = move(taken, given)
        return destination.read(), result


def expected(data: bytes, source_offset: int, destination_offset: int, size: int) -> bytes:
    """What `moved` finds after a move of ``size`` bytes, and of no others."""
    found = bytearray(_UNTOUCHED * len(data))
    found[destination_offset : destination_offset + size] = data[source_offset:][:size]
    return bytes(found)
