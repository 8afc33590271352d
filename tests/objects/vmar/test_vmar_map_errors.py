"""Every documented error of map, and which of two comes first."""

from __future__ import annotations

import pytest

from pinfold import Right
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    NotSupported,
    OutOfRange,
    WrongType,
)
from pinfold.objects.vmar import VmOption
from pinfold.units import UINT64_MAX
from tests.objects.vmar.slips import (
    PLACING,
    Slip,
    closed_region,
    closed_vmo,
    expect,
    pairs,
    read_only_region,
    spoil,
)
from tests.objects.vmar.world import (
    CAN_READ,
    EXECUTE,
    ILLEGAL,
    OVERWRITE,
    READ,
    RW,
    STREAM,
    WRITE,
    P,
    World,
    contiguous,
    dead_region,
)

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
    Slip("COMPACT", InvalidArgs, adds=int(VmOption.COMPACT)),
    Slip("CAN_MAP_SPECIFIC", InvalidArgs, adds=int(VmOption.CAN_MAP_SPECIFIC)),
    Slip(
        "STREAM, which no object has",
        NotSupported,
        adds=int(STREAM | VmOption.ALLOW_FAULTS),
        facts=("remedy",),
    ),
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
    Slip(
        "a memory offset that no file has (ours: the last check)",
        OutOfRange,
        {"vmo_offset": (1 << 63) - P},
        facts=("asked", "limit", "remedy"),
    ),
)


def call_map(world: World, slips: tuple[Slip, ...]) -> None:
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
    vmar, vmo = call.pop("vmar"), call.pop("vmo")
    options = call.pop("options") | int(call.pop("perms"))
    vmar.map(vmo, options, **call)


@pytest.mark.parametrize("slip", MAP, ids=str)
def test_map_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_map ERRORS, mx_vmar_map ERRORS."""
    expect(call_map, world, (slip,))


@pytest.mark.parametrize(("first", "second"), pairs(MAP), ids=str)
def test_map_checks_in_the_documented_order(first: Slip, second: Slip) -> None:
    """Source: zircon, the first failing check of zx_vmar_map decides the status."""
    world = World()
    try:
        expect(call_map, world, (first, second))
    finally:
        world.process.exit()
