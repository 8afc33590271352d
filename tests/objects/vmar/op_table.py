"""Every documented error of zx_vmar_op_range, in the order of its checks.

Source: zx_vmar_op_range ERRORS, and zx_vmo_op_range's of the same operations; Zircon's dispatcher
for the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pinfold import Right, Vmo, open_bus
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    NotFound,
    NotSupported,
    OutOfRange,
)
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import Vmar, VmarOp
from pinfold.rights import Perm
from pinfold.units import UINT64_MAX
from tests.objects.vmar.slips import Slip, Table, closed_region, spoil
from tests.objects.vmar.world import (
    CAN_ALL,
    FAULTS,
    READ,
    ROOT_PAGES,
    RW,
    SPECIFIC,
    STREAM,
    P,
    World,
    childless_handle,
    contiguous,
)

COMMIT, DECOMMIT, PREFETCH = VmarOp.COMMIT, VmarOp.DECOMMIT, VmarOp.PREFETCH
OWN_ONLY = (COMMIT, DECOMMIT, PREFETCH)
CHANGES = (COMMIT, DECOMMIT, VmarOp.ZERO)


def put(world: World, vmo: Vmo, page: int, options: int = RW, pages: int | None = None) -> Mapping:
    """Map it at a page of the root region."""
    size = None if pages is None else pages * P
    return world.root.map(vmo, options | SPECIFIC, offset=page * P, size=size)


def dead(world: World) -> Vmar:
    """As large as all the addresses there are."""
    made = world.allocate(ROOT_PAGES * P, CAN_ALL)
    made.destroy()
    return made


def discarded(world: World) -> Vmo:
    made = world.keep(Vmo(P, discardable=True, process=world.process))
    made.lock_memory()
    made.write(b"x")
    made.unlock_memory()
    assert world.kernel.reclaim() == P
    return made


def pinned(world: World) -> Vmo:
    made = world.new_vmo(1)
    with open_bus("stub", process=world.process) as iommu, iommu.initiator(1) as bti:
        world.keep(bti.pin(made, perms=Perm.READ))
    return made


def plain(world: World) -> None:
    put(world, world.vmo, 0)


def child(world: World) -> None:
    region = world.allocate(8 * P, CAN_ALL | SPECIFIC, offset=8 * P)
    region.map(world.vmo, RW)


def never_writable(world: World) -> None:
    put(world, world.without(world.vmo, Right.WRITE), 16, READ)


def never_readable(world: World) -> None:
    put(world, world.without(world.vmo, Right.READ), 20, 0)


def a_stream(world: World) -> None:
    vmo = world.new_vmo(4)
    vmo.set_stream_size(P + 1)
    put(world, vmo, 24, RW | STREAM | FAULTS)


def too_long(world: World) -> None:
    put(world, world.new_vmo(2), 32, RW, 4)


LAYOUT: tuple[Callable[[World], Any], ...] = (
    plain,
    child,
    never_writable,
    never_readable,
    a_stream,
    too_long,
    lambda world: put(world, contiguous(world), 40),
    lambda world: put(world, discarded(world), 44, RW | FAULTS),
    lambda world: put(world, pinned(world), 48),
)


OPS: tuple[Slip, ...] = (
    Slip("the handle is closed", BadHandle, {"vmar": closed_region}),
    Slip("no such operation", InvalidArgs, {"op": 5}, facts=("asked", "remedy")),
    Slip("size 0", InvalidArgs, {"size": 0}, facts=("asked", "remedy")),
    Slip("a negative size", InvalidArgs, {"size": -P}),
    Slip("a size that overflows", InvalidArgs, {"size": UINT64_MAX}, facts=("asked", "limit")),
    Slip("an unaligned address", InvalidArgs, {"at": 1}, facts=("asked", "limit")),
    Slip("below the region", OutOfRange, {"at": -P}, facts=("asked", "limit", "remedy")),
    Slip("beyond the region", OutOfRange, {"at": ROOT_PAGES * P}, facts=("asked", "limit")),
    Slip("too long for the region", OutOfRange, {"size": (ROOT_PAGES + 1) * P}),
    Slip("the region is destroyed", BadState, {"vmar": dead}, facts=("asked", "remedy")),
    Slip("a hole at the start", BadState, {"at": 5 * P}, facts=("asked", "remedy")),
    *(
        Slip(
            f"{op.name} of a child's mapping",
            InvalidArgs,
            {"op": op, "at": 8 * P},
            facts=("asked", "holder", "remedy"),
        )
        for op in OWN_ONLY
    ),
    *(
        Slip(
            f"{op.name} of a child's mapping without OP_CHILDREN",
            InvalidArgs,
            {"op": op, "at": 8 * P, "vmar": childless_handle},
            facts=("asked", "holder", "remedy"),
        )
        for op in VmarOp
    ),
    *(
        Slip(
            f"{op.name} beyond the stream",
            OutOfRange,
            {"op": op, "at": 25 * P, "size": 2 * P},
            facts=("asked", "limit", "remedy"),
        )
        for op in VmarOp
    ),
    *(
        Slip(
            f"{op.name} of what can never be written",
            AccessDenied,
            {"op": op, "at": 16 * P},
            facts=("missing", "remedy"),
        )
        for op in CHANGES
    ),
    Slip(
        "PREFETCH of what can never be read",
        AccessDenied,
        {"op": PREFETCH, "at": 20 * P},
        facts=("missing", "remedy"),
    ),
    *(
        Slip(
            f"{op.name} beyond the end of the memory",
            OutOfRange,
            {"op": op, "at": 33 * P, "size": 2 * P},
            facts=("asked", "limit"),
        )
        for op in (*CHANGES, PREFETCH)
    ),
    Slip("DECOMMIT of contiguous memory", NotSupported, {"op": DECOMMIT, "at": 40 * P}),
    Slip("COMMIT of discarded memory", NotFound, {"op": COMMIT, "at": 44 * P}, facts=("remedy",)),
    Slip("DECOMMIT of a pinned page", BadState, {"op": DECOMMIT, "at": 48 * P}, facts=("holder",)),
    Slip("a hole at the end", BadState, {"size": 6 * P}, facts=("asked", "remedy")),
)


def spoilt_op(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar, op, address, size."""
    call = spoil(world, {"vmar": world.root, "options": 0, "op": COMMIT, "at": 0, "size": P}, slips)
    del call["options"]
    for arrange in LAYOUT:
        arrange(world)
    call["address"] = world.root.base + call.pop("at")
    return call


OP_RANGES = Table(OPS, spoilt_op, lambda vmar, **rest: vmar.op_range(**rest))
