"""Every documented error of the calls that change a region, in the order of their checks.

Source: zx_vmar_allocate, zx_vmar_map, zx_vmar_protect, zx_vmar_unmap, zx_vmar_destroy ERRORS, and
mx_vmar_map; Zircon's dispatcher and its placement rules for the order. The tests of the objects and
those of the dialects play the same tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pinfold import Right, Vmo
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    BufferTooSmall,
    InvalidArgs,
    NotFound,
    NotSupported,
    OutOfRange,
    WrongType,
)
from pinfold.objects.vmar import Vmar, VmOption
from pinfold.units import UINT64_MAX
from tests.objects.vmar.slips import (
    PLACING,
    Slip,
    Table,
    closed_region,
    closed_vmo,
    read_only_region,
    spoil,
)
from tests.objects.vmar.world import (
    CAN_READ,
    CAN_WRITE,
    EXECUTE,
    ILLEGAL,
    OVERWRITE,
    READ,
    ROOT_PAGES,
    RW,
    SPECIFIC,
    STREAM,
    WRITE,
    P,
    World,
    childless_handle,
    contiguous,
    dead_region,
)

ALLOCATE: tuple[Slip, ...] = (
    Slip("the handle is closed", BadHandle, {"vmar": closed_region}),
    Slip(
        "the handle lacks WRITE",
        AccessDenied,
        {"vmar": lambda w: w.without(w.root, Right.WRITE)},
        int(CAN_WRITE),
        ("missing", "remedy"),
    ),
    Slip("an illegal bit", InvalidArgs, adds=ILLEGAL, facts=("asked",)),
    Slip("an alignment of 512 bytes", InvalidArgs, adds=9 << 24, facts=("asked", "limit")),
    *(
        Slip(f"a mapping's {perm!r}", InvalidArgs, adds=int(perm), facts=("asked",))
        for perm in (READ, WRITE, EXECUTE)
    ),
    Slip("an unaligned size", InvalidArgs, {"size": P + 1}, facts=("asked", "limit")),
    *(
        Slip(f"{option!r}", InvalidArgs, adds=int(option), facts=("asked",), places=True)
        for option in (
            OVERWRITE,
            VmOption.REQUIRE_NON_RESIZABLE,
            VmOption.ALLOW_FAULTS,
            STREAM,
            VmOption.MAP_RANGE,
        )
    ),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}, facts=("asked", "remedy")),
    Slip("size 0", InvalidArgs, {"size": 0}),
    Slip(
        "a permission that the region does not have",
        AccessDenied,
        {"vmar": read_only_region},
        int(CAN_WRITE),
        ("missing", "remedy"),
    ),
    *PLACING,
)


def spoilt_allocate(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar, options, offset, size."""
    call = spoil(world, {"vmar": world.root, "options": 0, "offset": 0, "size": P}, slips)
    if call["size"] == ROOT_PAGES * P + 1:
        call["size"] = (ROOT_PAGES + 1) * P
    return call


MAP: tuple[Slip, ...] = (
    Slip("the region's handle is closed", BadHandle, {"vmar": closed_region}),
    Slip("the memory's handle is closed", BadHandle, {"vmo": closed_vmo}),
    Slip("the memory is a region", WrongType, {"vmo": lambda w: w.root}),
    Slip("the memory is no handle", WrongType, {"vmo": lambda _: b"bytes"}),
    Slip("STREAM on contiguous memory", NotSupported, {"vmo": contiguous}, int(STREAM)),
    Slip(
        "no MAP right",
        AccessDenied,
        {"vmo": lambda w: w.without(w.vmo, Right.MAP)},
        facts=("missing", "remedy"),
    ),
    Slip("WRITE without READ", InvalidArgs, {"perms": WRITE}, facts=("remedy",)),
    Slip("EXECUTE without READ", InvalidArgs, {"perms": EXECUTE}, facts=("remedy",)),
    Slip(
        "MAP_RANGE with OVERWRITE",
        InvalidArgs,
        adds=int(VmOption.MAP_RANGE | OVERWRITE),
        places=True,
    ),
    Slip("CAN_MAP_READ", InvalidArgs, adds=int(CAN_READ)),
    Slip(
        "the memory's handle lacks WRITE",
        AccessDenied,
        {"vmo": lambda w: w.without(w.vmo, Right.WRITE), "perms": RW},
        facts=("missing", "remedy"),
    ),
    Slip(
        "the region's handle lacks WRITE",
        AccessDenied,
        {"vmar": lambda w: w.without(w.root, Right.WRITE), "perms": RW},
        facts=("missing", "remedy"),
    ),
    Slip(
        "EXECUTE without the right",
        AccessDenied,
        {"perms": READ | EXECUTE},
        facts=("missing", "remedy"),
    ),
    Slip("STREAM without ALLOW_FAULTS", InvalidArgs, adds=int(STREAM), facts=("remedy",)),
    Slip("an illegal bit", InvalidArgs, adds=ILLEGAL, facts=("asked",)),
    Slip("an alignment of 512 bytes", InvalidArgs, adds=9 << 24, facts=("asked", "limit")),
    Slip("an alignment of 8 GiB", InvalidArgs, adds=33 << 24, facts=("asked", "limit")),
    Slip(
        "REQUIRE_NON_RESIZABLE of a resizable object",
        NotSupported,
        {"vmo": lambda w: w.new_vmo(2, resizable=True)},
        int(VmOption.REQUIRE_NON_RESIZABLE),
        facts=("remedy",),
    ),
    Slip(
        "discardable memory without ALLOW_FAULTS",
        NotSupported,
        {"vmo": lambda w: w.keep(Vmo(4 * P, discardable=True, process=w.process))},
        facts=("remedy",),
    ),
    Slip("COMPACT", InvalidArgs, adds=int(VmOption.COMPACT)),
    Slip("CAN_MAP_SPECIFIC", InvalidArgs, adds=int(VmOption.CAN_MAP_SPECIFIC)),
    Slip(
        "the region does not allow WRITE",
        AccessDenied,
        {"vmar": read_only_region, "perms": RW},
        facts=("missing", "remedy"),
    ),
    Slip("an unaligned memory offset", InvalidArgs, {"vmo_offset": 1}, facts=("asked",)),
    Slip("a negative memory offset", InvalidArgs, {"vmo_offset": -P}, facts=("asked",)),
    Slip("a length that overflows", OutOfRange, {"size": UINT64_MAX}, facts=("asked", "limit")),
    Slip(
        "a memory offset that overflows",
        OutOfRange,
        {"vmo_offset": UINT64_MAX - 2 * P + 1, "size": 2 * P},
        facts=("asked", "limit"),
    ),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}, facts=("asked", "remedy")),
    Slip("length 0", InvalidArgs, {"size": 0}),
    Slip("a negative length", InvalidArgs, {"size": -P}),
    *PLACING,
    Slip("a length that only a file lacks", InvalidArgs, {"size": 1 << 63}, places=True),
)


def spoilt_map(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar, vmo, options, offset, vmo_offset, size."""
    good = {
        "vmar": world.root,
        "vmo": world.vmo,
        "perms": READ,
        "options": 0,
        "offset": 0,
        "vmo_offset": 0,
        "size": P,
    }
    call = spoil(world, good, slips)
    call["options"] |= int(call.pop("perms"))
    return call


# A strict kernel: what the page says and the kernel does not do -----------------------------------

STRICT: tuple[Slip, ...] = (
    Slip("WRITE without READ", InvalidArgs, {"perms": WRITE}),
    Slip("an illegal bit", InvalidArgs, adds=ILLEGAL),
    Slip(
        "resizable memory without ALLOW_FAULTS",
        NotSupported,
        {"vmo": lambda w: w.new_vmo(4, resizable=True)},
        facts=("remedy",),
    ),
    Slip("COMPACT", InvalidArgs, adds=int(VmOption.COMPACT)),
    Slip("an unaligned memory offset", InvalidArgs, {"vmo_offset": 1}),
    Slip("a length that overflows", OutOfRange, {"size": UINT64_MAX}),
    Slip(
        "beyond the end without ALLOW_FAULTS",
        BufferTooSmall,
        {"vmo_offset": 4 * P},
        facts=("asked", "limit", "remedy"),
    ),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}),
)


# Ranges of addresses ------------------------------------------------------------------------------


def root_without(rights: Right) -> Callable[[World], Vmar]:
    return lambda world: world.without(world.root, rights)


PROTECT: tuple[Slip, ...] = (
    Slip("the handle is closed", BadHandle, {"vmar": closed_region}),
    Slip(
        "the handle lacks READ",
        AccessDenied,
        {"vmar": root_without(Right.READ), "perms": READ},
        facts=("missing", "remedy"),
    ),
    Slip("WRITE without READ", InvalidArgs, {"perms": WRITE}, facts=("remedy",)),
    Slip("an unaligned address", InvalidArgs, {"at": 1}, facts=("asked",)),
    Slip("an illegal bit", InvalidArgs, adds=ILLEGAL, facts=("asked",)),
    Slip("an option of map", InvalidArgs, adds=int(SPECIFIC), facts=("asked",)),
    Slip("an alignment", InvalidArgs, adds=12 << 24, facts=("asked",)),
    Slip("length 0", InvalidArgs, {"size": 0}),
    Slip("a length that overflows", InvalidArgs, {"size": UINT64_MAX}, facts=("asked",)),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}, facts=("asked", "remedy")),
    Slip("below the region", InvalidArgs, {"at": -P}, facts=("asked", "limit")),
    Slip("beyond the region", InvalidArgs, {"at": ROOT_PAGES * P}, facts=("asked", "limit")),
    Slip("a hole at the start", NotFound, {"at": 8 * P}, facts=("asked", "remedy")),
    Slip(
        "more than the mapping was made with",
        AccessDenied,
        {"perms": READ | EXECUTE},
        facts=("missing", "remedy"),
    ),
    Slip("a hole at the end", NotFound, {"size": 5 * P}, facts=("asked", "remedy")),
)


def spoilt_protect(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar, options, address, size."""
    world.root.map(world.vmo, READ | SPECIFIC)
    good = {"vmar": world.root, "options": 0, "perms": READ, "at": 0, "size": P}
    call = spoil(world, good, slips)
    call["options"] |= int(call.pop("perms"))
    call["address"] = world.root.base + call.pop("at")
    return call


UNMAP: tuple[Slip, ...] = (
    Slip("the handle is closed", BadHandle, {"vmar": closed_region}),
    Slip("an unaligned address", InvalidArgs, {"at": 1}, facts=("asked",)),
    Slip("length 0", InvalidArgs, {"size": 0}),
    Slip("a negative length", InvalidArgs, {"size": -P}),
    Slip("a length that overflows", InvalidArgs, {"size": UINT64_MAX}, facts=("asked",)),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}, facts=("asked", "remedy")),
    Slip("below the region", InvalidArgs, {"at": -P}, facts=("asked", "limit")),
    Slip("beyond the region", InvalidArgs, {"size": 65 * P}, facts=("asked", "limit")),
    Slip("a part of a child", InvalidArgs, {"at": 9 * P}, facts=("holder", "remedy")),
    Slip(
        "a child without OP_CHILDREN",
        InvalidArgs,
        {"vmar": childless_handle, "at": 8 * P, "size": 4 * P},
        facts=("holder", "remedy"),
    ),
)


def spoilt_unmap(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar, address, size."""
    world.root.map(world.vmo, READ | SPECIFIC)
    world.allocate(4 * P, SPECIFIC | CAN_READ, offset=8 * P)
    call = spoil(world, {"vmar": world.root, "options": 0, "at": 0, "size": P}, slips)
    del call["options"]
    call["address"] = world.root.base + call.pop("at")
    return call


DESTROY: tuple[Slip, ...] = (
    Slip("the handle is closed", BadHandle, {"vmar": closed_region}),
    Slip("no OP_CHILDREN", AccessDenied, {"vmar": childless_handle}, facts=("missing", "remedy")),
    Slip(
        "no OP_CHILDREN, of a dead region",
        AccessDenied,
        {"vmar": lambda w: w.without(dead_region(w), Right.OP_CHILDREN)},
        facts=("missing",),
    ),
    Slip("the root", NotSupported, {"vmar": lambda w: w.root}, facts=("remedy",)),
    Slip("the region is destroyed", BadState, {"vmar": dead_region}, facts=("remedy",)),
)


def spoilt_destroy(world: World, slips: tuple[Slip, ...]) -> dict[str, Any]:
    """vmar."""
    call = spoil(world, {"options": 0}, slips)
    del call["options"]
    return call


ALLOCATES = Table(
    ALLOCATE,
    spoilt_allocate,
    lambda vmar, size, options, offset: vmar.allocate(size, options, offset=offset),
)
MAPS = Table(MAP, spoilt_map, lambda vmar, vmo, options, **rest: vmar.map(vmo, options, **rest))
STRICT_MAPS = Table(STRICT, MAPS.spoilt, MAPS.call)
PROTECTS = Table(PROTECT, spoilt_protect, lambda vmar, **rest: vmar.protect(**rest))
UNMAPS = Table(UNMAP, spoilt_unmap, lambda vmar, **rest: vmar.unmap(**rest))
DESTROYS = Table(DESTROY, spoilt_destroy, lambda vmar: vmar.destroy())
