"""Every documented error of every zx_vmar call, alone and beside every other it can be beside.

The tables are those of the objects (tests/objects/vmar), where the rules are, with what only a flat
call can get wrong: numbers that are handles to something else, NULL pointers, a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pinfold.dialects import Out, zx
from pinfold.errors import BadHandle, InvalidArgs, WrongType
from pinfold.objects.handle import Handle
from tests.objects.vmar import op_table, tables
from tests.objects.vmar.slips import Slip, Table, pairs
from tests.objects.vmar.world import World, agree

NO_HANDLE = Slip("ZX_HANDLE_INVALID", BadHandle, {"vmar": 0})
NO_REGION = Slip("a number of a memory object", WrongType, {"vmar": lambda w: w.vmo})


def null(name: str) -> Slip:
    return Slip(f"NULL for {name}", InvalidArgs, {name: None})


@dataclass(frozen=True)
class Flat:
    """A call, what can be wrong with it in the order of its checks, and its good arguments."""

    call: Callable[..., int]
    table: Table
    parameters: str
    """In the order of the page, by the names that the table has for them; outs are capitals."""
    first: tuple[Slip, ...] = (NO_HANDLE, NO_REGION)
    early: tuple[Slip, ...] = ()
    """What is found out right after the handle."""
    last: tuple[Slip, ...] = ()

    @property
    def slips(self) -> tuple[Slip, ...]:
        """Those that C could have passed."""
        possible = tuple(
            slip
            for slip in self.table.slips
            if not any(
                isinstance(value, int) and value < 0 and key != "at"
                for key, value in slip.sets.items()
            )
            and slip.name != "the memory is no handle"
        )
        closed = sum(slip.error is BadHandle for slip in possible[:1])
        found = possible[:closed] + self.early + possible[closed:]
        return self.first + found + self.last

    def attempts(self) -> Iterator[Any]:
        name = self.call.__name__
        slips = self.slips
        for faults in (*((slip,) for slip in slips), *pairs(slips)):
            yield pytest.param(self, faults, id=f"{name}: {' and '.join(map(str, faults))}")


MAPS = Flat(
    zx.zx_vmar_map,
    tables.MAPS,
    "vmar options offset vmo vmo_offset size ADDRESS",
    (NO_HANDLE, NO_REGION, Slip("ZX_HANDLE_INVALID for the memory", BadHandle, {"vmo": 0})),
    last=(null("ADDRESS"),),
)
CALLS = (
    Flat(
        zx.zx_vmar_allocate,
        tables.ALLOCATES,
        "vmar options offset size CHILD ADDRESS",
        last=(null("CHILD"), null("ADDRESS")),
    ),
    MAPS,
    Flat(zx.zx_vmar_protect, tables.PROTECTS, "vmar options address size"),
    Flat(zx.zx_vmar_unmap, tables.UNMAPS, "vmar address size"),
    Flat(zx.zx_vmar_destroy, tables.DESTROYS, "vmar"),
    Flat(
        zx.zx_vmar_op_range,
        op_table.OP_RANGES,
        "vmar op address size buffer buffer_size",
        early=(
            Slip("a buffer", InvalidArgs, {"buffer": bytearray(8)}),
            Slip("an empty buffer", InvalidArgs, {"buffer": b""}),
            Slip("the size of a buffer", InvalidArgs, {"buffer_size": 1}),
        ),
    ),
)
STRICT = Flat(zx.zx_vmar_map, tables.STRICT_MAPS, MAPS.parameters, MAPS.first, last=MAPS.last)


def attempt(world: World, flat: Flat, faults: tuple[Slip, ...]) -> None:
    """The first fault's status, no output, and nothing changed."""
    outs = {name: Out() for name in flat.parameters.split() if name.isupper()}
    arguments: dict[str, Any] = {"buffer": None, "buffer_size": 0, **outs}
    ours = {key for slip in faults for key in slip.sets} & arguments.keys()
    theirs = tuple(slip for slip in faults if not slip.sets.keys() & ours)
    arguments |= flat.table.spoilt(world, theirs)
    for slip in faults:
        arguments |= {key: slip.sets[key] for key in slip.sets.keys() & ours}
    given = [arguments[name] for name in flat.parameters.split()]
    numbers = [value.value if isinstance(value, Handle) else value for value in given]
    before = world.root.maps(), set(world.process.handles)

    with world.process:
        status = flat.call(*numbers)

    expected = f"ZX_ERR_{faults[0].error.status.name}"
    assert zx.zx_status_get_string(status) == expected, f"{faults[0]} comes before {faults[1:]}"
    assert status == getattr(zx, expected)
    assert [out.value for out in outs.values()] == [None] * len(outs)
    assert (world.root.maps(), set(world.process.handles)) == before
    agree(world)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.mark.parametrize(("flat", "faults"), [a for flat in CALLS for a in flat.attempts()])
def test_the_documented_error_wins(world: World, flat: Flat, faults: tuple[Slip, ...]) -> None:
    """Source: each call's page, ERRORS; zircon, the first failing check decides the status."""
    attempt(world, flat, faults)


@pytest.mark.parametrize(("flat", "faults"), list(STRICT.attempts()))
def test_a_strict_kernel_follows_the_page(flat: Flat, faults: tuple[Slip, ...]) -> None:
    """Source: zx_vmar_map, ALLOW_FAULTS, where the kernel maps."""
    strict = World(strict="docs")
    attempt(strict, flat, faults)
    strict.end()


WRONG: dict[str, tuple[Callable[..., int], tuple[Any, ...], type[Exception]]] = {
    "map: a 65-bit offset": (zx.zx_vmar_map, (1, 1, 1 << 64, 1, 0, 1, Out()), OverflowError),
    "map: a negative length": (zx.zx_vmar_map, (1, 1, 0, 1, 0, -1, Out()), OverflowError),
    "map: options of 33 bits": (zx.zx_vmar_map, (1, 1 << 32, 0, 1, 0, 1, Out()), OverflowError),
    "map: no Out": (zx.zx_vmar_map, (1, 1, 0, 1, 0, 1, []), TypeError),
    "map: a float": (zx.zx_vmar_map, (1, 1.0, 0, 1, 0, 1, Out()), TypeError),
    "allocate: no Out": (zx.zx_vmar_allocate, (1, 0, 0, 1, Out(), 5), TypeError),
    "allocate: a negative size": (zx.zx_vmar_allocate, (1, 0, 0, -1, Out(), Out()), OverflowError),
    "unmap: a negative address": (zx.zx_vmar_unmap, (1, -1, 1), OverflowError),
    "protect: a string": (zx.zx_vmar_protect, (1, "r", 0, 1), TypeError),
    "destroy: a handle of 33 bits": (zx.zx_vmar_destroy, (1 << 32,), OverflowError),
    "op_range: no buffer": (zx.zx_vmar_op_range, (1, 1, 0, 1, 5, 0), TypeError),
    "op_range: a negative operation": (zx.zx_vmar_op_range, (1, -1, 0, 1, None, 0), OverflowError),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_c_could_not_pass_is_pythons_error(world: World, what: str) -> None:
    """Source: the calling convention of the dialects, section 2."""
    call, arguments, error = WRONG[what]
    with world.process, pytest.raises(error):
        call(*arguments)
