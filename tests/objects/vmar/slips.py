"""One mistake at a time, and two: how the tables of errors are played."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pinfold import Right, Vmo
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidArgs,
    NoResources,
    PinfoldError,
)
from pinfold.objects.vmar import Vmar, VmOption
from tests.objects.vmar.world import (
    CAN_ALL,
    CAN_READ,
    CAN_WRITE,
    READ,
    ROOT_PAGES,
    SPECIFIC,
    UPPER,
    P,
    World,
    agree,
)


@dataclass(frozen=True)
class Slip:
    """One mistake: what it changes in an otherwise good call, and the error it earns."""

    name: str
    error: type[PinfoldError]
    sets: dict[str, Callable[[World], Any] | Any] = field(default_factory=dict)
    adds: int = 0
    facts: tuple[str, ...] = ()
    places: bool = False
    """It needs, or is about, a placement option."""

    def __str__(self) -> str:
        return self.name


def pairs(slips: tuple[Slip, ...]) -> list[tuple[Slip, Slip]]:
    """Every two mistakes that one call can make at once, the earlier check first."""
    return [
        (first, second)
        for first, second in itertools.combinations(slips, 2)
        if not first.sets.keys() & second.sets.keys()
        and not first.adds & second.adds
        and not (first.places and second.places)
    ]


def spoil(world: World, good: dict[str, Any], slips: tuple[Slip, ...]) -> dict[str, Any]:
    call = dict(good)
    for slip in slips:
        for key, value in slip.sets.items():
            call[key] = value(world) if callable(value) else value
        call["options"] = int(call["options"]) | slip.adds
    return call


def closed_region(world: World) -> Vmar:
    made = world.keep(world.root.duplicate())
    made.close()
    return made


def closed_vmo(world: World) -> Vmo:
    made = world.new_vmo(1)
    made.close()
    return made


def bound_region(world: World) -> Vmar:
    """One that lets nobody choose addresses."""
    return world.allocate(8 * P, CAN_READ | CAN_WRITE)


def read_only_region(world: World) -> Vmar:
    """One that allows reading only, through a handle that claims more."""
    made = world.allocate(8 * P, CAN_READ | VmOption.CAN_MAP_SPECIFIC)
    made._entry.rights |= Right.WRITE
    return made


def occupied_region(world: World) -> Vmar:
    made = world.allocate(16 * P, CAN_ALL)
    made.map(world.vmo, READ | SPECIFIC, offset=2 * P)
    return made


def full_region(world: World) -> Vmar:
    made = world.allocate(8 * P, CAN_ALL)
    made.map(world.vmo, READ | SPECIFIC, offset=2 * P)
    return made


@dataclass(frozen=True)
class Table:
    """A call's mistakes, in the order of its checks."""

    slips: tuple[Slip, ...]
    spoilt: Callable[[World, tuple[Slip, ...]], dict[str, Any]]
    """Arranges what the call is made in: its arguments, with these mistakes."""
    call: Callable[..., Any]
    """Makes it, of the object."""

    @property
    def pairs(self) -> list[tuple[Slip, Slip]]:
        return pairs(self.slips)


def expect(table: Table, world: World, slips: tuple[Slip, ...]) -> None:
    """The first mistake's error, its facts, and nothing changed by it."""
    first = slips[0]
    arguments = table.spoilt(world, slips)
    before = world.root.maps()
    with pytest.raises(PinfoldError) as caught:
        table.call(**arguments)
    assert type(caught.value) is first.error, f"{first} comes before {slips[1:]}"
    for fact in first.facts:
        assert getattr(caught.value, fact) is not None, fact
    assert world.root.maps() == before
    agree(world)


PLACING: tuple[Slip, ...] = (
    Slip("SPECIFIC and an upper limit", InvalidArgs, adds=int(SPECIFIC | UPPER), places=True),
    Slip(
        "an offset that says nothing",
        InvalidArgs,
        {"offset": P},
        facts=("asked", "remedy"),
        places=True,
    ),
    Slip(
        "an unaligned offset",
        InvalidArgs,
        {"offset": P + 1},
        int(SPECIFIC),
        ("asked",),
        places=True,
    ),
    Slip(
        "SPECIFIC in a region that does not let one choose",
        AccessDenied,
        {"vmar": bound_region},
        int(SPECIFIC),
        ("remedy",),
        places=True,
    ),
    Slip(
        "an upper limit in a region that does not let one choose",
        AccessDenied,
        {"vmar": bound_region, "offset": 4 * P},
        int(UPPER),
        ("remedy",),
        places=True,
    ),
    Slip(
        "an offset at the region's end",
        InvalidArgs,
        {"offset": ROOT_PAGES * P},
        int(SPECIFIC),
        ("asked", "limit"),
        places=True,
    ),
    Slip("a negative offset", InvalidArgs, {"offset": -P}, int(SPECIFIC), ("asked",), places=True),
    Slip(
        "a range that leaves the region",
        InvalidArgs,
        {"offset": (ROOT_PAGES - 1) * P, "size": 2 * P},
        int(SPECIFIC),
        ("asked", "limit"),
        places=True,
    ),
    Slip("more than the region", InvalidArgs, {"size": ROOT_PAGES * P + 1}, places=True),
    Slip(
        "an upper limit beyond the region",
        InvalidArgs,
        {"offset": (ROOT_PAGES + 1) * P},
        int(UPPER),
        ("limit",),
        places=True,
    ),
    Slip(
        "more than there is below the upper limit",
        InvalidArgs,
        {"offset": P, "size": 2 * P},
        int(UPPER),
        ("asked", "available"),
        places=True,
    ),
    Slip(
        "SPECIFIC over a mapping",
        AlreadyExists,
        {"vmar": occupied_region, "offset": 3 * P},
        int(SPECIFIC),
        ("asked", "holder", "remedy"),
        places=True,
    ),
    Slip(
        "no gap that is large enough",
        NoResources,
        {"vmar": full_region, "size": 3 * P},
        0,
        ("asked", "available", "limit", "remedy"),
        places=True,
    ),
)
