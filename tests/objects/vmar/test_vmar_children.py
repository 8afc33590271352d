"""What may be done through a region over the regions in it.

Source: zircon, the summary of operations over a child VMAR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pinfold.errors import AccessDenied, AlreadyExists, InvalidArgs, NotFound, PinfoldError
from pinfold.objects.vmar import Vmar, VmarOp
from tests.objects.vmar.op_table import OWN_ONLY
from tests.objects.vmar.world import (
    CAN_ALL,
    OVERWRITE,
    READ,
    RW,
    SPECIFIC,
    P,
    World,
    agree,
    childless_handle,
)


@dataclass(frozen=True)
class Over:
    """An act of a parent over a range with a child region in it."""

    name: str
    act: Callable[[World, Vmar], Any]
    error: type[PinfoldError] | None
    weak: type[PinfoldError] | None
    """Through a handle without OP_CHILDREN."""

    def __str__(self) -> str:
        return self.name


def op_over(op: VmarOp) -> Over:
    full = InvalidArgs if op in OWN_ONLY else None
    return Over(op.name, lambda w, v: v.op_range(op, w.root.base + 8 * P, 2 * P), full, InvalidArgs)


OVER: tuple[Over, ...] = (
    Over(
        "allocate SPECIFIC",
        lambda w, v: w.allocate(P, SPECIFIC, offset=9 * P, of=v),
        AlreadyExists,
        AlreadyExists,
    ),
    Over(
        "map SPECIFIC",
        lambda w, v: v.map(w.vmo, READ | SPECIFIC, offset=9 * P),
        AlreadyExists,
        AlreadyExists,
    ),
    Over(
        "map SPECIFIC_OVERWRITE",
        lambda w, v: v.map(w.vmo, READ | OVERWRITE, offset=8 * P),
        InvalidArgs,
        InvalidArgs,
    ),
    Over(
        "unmap all of it",
        lambda w, v: v.unmap(w.root.base + 7 * P, 10 * P),
        None,
        InvalidArgs,
    ),
    Over(
        "unmap a part of it",
        lambda w, v: v.unmap(w.root.base + 7 * P, 4 * P),
        InvalidArgs,
        InvalidArgs,
    ),
    Over(
        "protect, taking away",
        lambda w, v: v.protect(w.root.base + 8 * P, 2 * P, READ),
        None,
        InvalidArgs,
    ),
    Over(
        "protect, keeping",
        lambda w, v: v.protect(w.root.base + 8 * P, P, RW),
        None,
        InvalidArgs,
    ),
    Over(
        "protect, allowing more",
        lambda w, v: v.protect(w.root.base + 9 * P, P, RW),
        AccessDenied,
        InvalidArgs,
    ),
    Over(
        "protect over a hole",
        lambda w, v: v.protect(w.root.base + 8 * P, 4 * P, READ),
        NotFound,
        InvalidArgs,
    ),
    *(op_over(op) for op in VmarOp),
)


@pytest.mark.parametrize("weak", [False, True], ids=["with OP_CHILDREN", "without"])
@pytest.mark.parametrize("over", OVER, ids=str)
def test_what_a_parent_may_do_over_a_child(world: World, over: Over, *, weak: bool) -> None:
    """Source: zircon, the summary of operations over a child VMAR."""
    region = world.allocate(8 * P, CAN_ALL | SPECIFIC, offset=8 * P)
    made = region.map(world.vmo, RW, size=2 * P)
    region.protect(made.address + P, P, READ)
    handle = childless_handle(world) if weak else world.root
    error = over.weak if weak else over.error
    if error is None:
        over.act(world, handle)
        assert region.alive == (not over.name.startswith("unmap"))
    else:
        before = world.root.maps()
        with pytest.raises(PinfoldError) as caught:
            over.act(world, handle)
        assert type(caught.value) is error
        assert world.root.maps() == before
        assert region.alive
    agree(world)
