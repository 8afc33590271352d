"""Every documented error of the other calls of a region, and which of two comes first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pinfold import Right
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    NotFound,
    NotSupported,
    PinfoldError,
)
from pinfold.objects.vmar import Vmar, VmOption
from pinfold.units import UINT64_MAX
from tests.objects.vmar.slips import (
    PLACING,
    Slip,
    closed_region,
    expect,
    pairs,
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
    SPECIFIC,
    STREAM,
    WRITE,
    P,
    World,
    childless_handle,
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


def call_allocate(world: World, slips: tuple[Slip, ...]) -> None:
    good = {"vmar": world.root, "options": 0, "offset": 0, "size": P}
    call = spoil(world, good, slips)
    call["size"] = call["size"] if call["size"] != ROOT_PAGES * P + 1 else (ROOT_PAGES + 1) * P
    call.pop("vmar").allocate(call.pop("size"), call.pop("options"), **call)


@pytest.mark.parametrize("slip", ALLOCATE, ids=str)
def test_allocate_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_allocate ERRORS."""
    expect(call_allocate, world, (slip,))


@pytest.mark.parametrize(("first", "second"), pairs(ALLOCATE), ids=str)
def test_allocate_checks_in_the_documented_order(first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_allocate."""
    world = World()
    try:
        expect(call_allocate, world, (first, second))
    finally:
        world.process.exit()


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


def call_protect(world: World, slips: tuple[Slip, ...]) -> None:
    world.root.map(world.vmo, READ | SPECIFIC)
    good = {"vmar": world.root, "options": 0, "perms": READ, "at": 0, "size": P}
    call = spoil(world, good, slips)
    options = call["options"] | int(call["perms"])
    call["vmar"].protect(world.root.base + call["at"], call["size"], options)


@pytest.mark.parametrize("slip", PROTECT, ids=str)
def test_protect_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_protect ERRORS."""
    expect(call_protect, world, (slip,))


@pytest.mark.parametrize(("first", "second"), pairs(PROTECT), ids=str)
def test_protect_checks_in_the_documented_order(first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_protect."""
    world = World()
    try:
        expect(call_protect, world, (first, second))
    finally:
        world.process.exit()


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


def call_unmap(world: World, slips: tuple[Slip, ...]) -> None:
    world.root.map(world.vmo, READ | SPECIFIC)
    world.allocate(4 * P, SPECIFIC | CAN_READ, offset=8 * P)
    good = {"vmar": world.root, "options": 0, "at": 0, "size": P}
    call = spoil(world, good, slips)
    call["vmar"].unmap(world.root.base + call["at"], call["size"])


@pytest.mark.parametrize("slip", UNMAP, ids=str)
def test_unmap_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_unmap ERRORS."""
    expect(call_unmap, world, (slip,))


@pytest.mark.parametrize(("first", "second"), pairs(UNMAP), ids=str)
def test_unmap_checks_in_the_documented_order(first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_unmap."""
    world = World()
    try:
        expect(call_unmap, world, (first, second))
    finally:
        world.process.exit()


@pytest.mark.parametrize(
    ("arrange", "error"),
    [
        (closed_region, BadHandle),
        (childless_handle, AccessDenied),
        (lambda world: world.root, NotSupported),
        (dead_region, BadState),
        (
            lambda w: w.without(dead_region(w), Right.OP_CHILDREN),
            AccessDenied,
        ),
    ],
)
def test_destroy_refuses(
    world: World, arrange: Callable[[World], Vmar], error: type[PinfoldError]
) -> None:
    """Source: zx_vmar_destroy ERRORS; the right comes before the root, the root before death."""
    with pytest.raises(PinfoldError) as caught:
        arrange(world).destroy()
    assert type(caught.value) is error
