"""What a mapping must not show: more than its memory object has, or than its stream has.

Source: zx_vmar_map, ZX_VM_FAULT_BEYOND_STREAM_SIZE; Zircon, where a touch beyond the end faults.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pinfold import Resource, Vmo
from pinfold.errors import OutOfRange
from pinfold.objects.vmar import VmOption
from pinfold.objects.vmo_child import VmoChild
from pinfold.units import UINT64_MAX
from tests.objects.vmar.world import (
    DEVICE,
    FAULTS,
    OVERWRITE,
    RANGE,
    READ,
    RW,
    STREAM,
    P,
    World,
    agree,
    resident_in_tables,
    shown,
)
from tests.user_memory import store

FOLLOWS = STREAM | FAULTS


def part(world: World, of: Vmo, first: int, pages: int) -> Vmo:
    return world.keep(of.child(VmoChild.SLICE, first * P, pages * P))


# More than the object has -------------------------------------------------------------------------


def a_slice(world: World, _: Path) -> Vmo:
    return part(world, world.vmo, 1, 2)


def a_slice_of_a_slice(world: World, _: Path) -> Vmo:
    return part(world, part(world, world.vmo, 0, 3), 1, 2)


def a_window(world: World, _: Path) -> Vmo:
    bar = world.keep(Resource(DEVICE, 4 * P, process=world.process))
    with Vmo.physical(bar, DEVICE, 4 * P, process=world.process) as whole:
        made = world.root.map(whole, RW)
        for page in range(4):
            assert store(made.address + page * P, bytes([page + 1]))
        made.unmap()
    return world.keep(Vmo.physical(bar, DEVICE + P, 2 * P, process=world.process))


def a_file_that_grew(world: World, folder: Path) -> Vmo:
    path = folder / "data"
    path.write_bytes(b"\2" * P + b"\3" * P)
    made = world.keep(Vmo.from_file(path, process=world.process))
    with path.open("ab") as file:
        file.write(b"\4" * 2 * P)
    return made


PARTS: dict[str, Callable[[World, Path], Vmo]] = {
    "a slice": a_slice,
    "a slice of a slice": a_slice_of_a_slice,
    "a window on device memory": a_window,
    "a file that has grown": a_file_that_grew,
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_mapping_longer_than_its_memory_shows_nobody_elses_pages(
    world: World, tmp_path: Path, kind: str
) -> None:
    """Source: zircon: a touch at or past the end is OUT_OF_RANGE. The file has more; it stays."""
    vmo = PARTS[kind](world, tmp_path)
    made = world.root.map(vmo, READ, size=4 * P)
    assert shown(world, made) == [2, 3, None, None]
    agree(world)
    world.root.protect(made.address + P, 2 * P, 0)
    assert shown(world, made) == [2, None, None, None]
    world.root.protect(made.address, 4 * P, READ)
    assert shown(world, made) == [2, 3, None, None]
    assert world.root.map(vmo, RANGE | READ, vmo_offset=P, size=2 * P).size == 2 * P
    assert shown(world, world.root.map(vmo, READ, vmo_offset=2 * P, size=2 * P)) == [None, None]
    agree(world)
    with pytest.raises(OutOfRange) as caught:
        made.view(P, 2 * P)
    assert caught.value.limit == 2 * P
    assert bytes(made.view(P, P))[:1] == b"\3"
    world.root.unmap(made.address + P, 2 * P)
    assert shown(world, made) == [2, None, None, None]
    assert (made.pieces, made.mapped_size) == (2, 2 * P)
    agree(world)


@pytest.mark.parametrize("pages", [1, 3])
def test_what_is_not_shown_replaces_what_was(world: World, pages: int) -> None:
    """Source: zx_vmar_map, SPECIFIC_OVERWRITE: nothing of the old mapping is left in the range."""
    old = world.root.map(world.vmo, RW)
    made = world.root.map(part(world, world.vmo, 3, 1), READ | OVERWRITE, offset=P, size=pages * P)
    assert shown(world, made) == [4, None, None][:pages]
    assert shown(world, old) == [1, 4, None, None] if pages == 3 else [1, 4, 3, 4]
    agree(world)
    made.unmap()
    agree(world)


def test_a_slice_is_its_parents_pages_at_its_own_offset(world: World) -> None:
    """Source: zx_vmo_create_child, SLICE: an alias. Everything counts from the slice."""
    piece = part(world, world.vmo, 2, 2)
    made = world.root.map(piece, RW | RANGE)
    assert shown(world, made) == [3, 4]
    assert resident_in_tables(made.address)
    assert store(made.address + P, b"x")
    assert world.vmo.read(3 * P, 1) == piece.read(P, 1) == b"x"
    view = made.view(P, 1)
    assert bytes(view) == b"x"
    assert [lease.offset for lease in piece.object.views] == [3 * P]  # of the pages
    record = world.root.maps()[1]
    assert (record.vmo_koid, record.vmo_offset, record.committed) == (piece.koid, 0, 0)
    assert (piece.statistics().mappings, world.vmo.statistics().mappings) == (1, 0)
    piece.close()  # the mapping keeps it, and it keeps the pages
    world.vmo.close()
    assert shown(world, made) == [3, ord("x")]
    del view
    made.unmap()
    assert world.root.maps()[1:] == []


def test_a_reference_follows_its_parents_end(world: World) -> None:
    """Source: zx_vmo_create_child, REFERENCE: it shares the size."""
    parent = world.new_vmo(2, resizable=True)
    alias = world.keep(parent.child(VmoChild.REFERENCE))
    made = world.root.map(alias, READ, size=3 * P)
    assert shown(world, made) == [0, 0, None]
    parent.resize(3 * P)
    assert shown(world, made) == [0, 0, 0]
    parent.resize(P)
    assert shown(world, made) == [0, None, None]


BEYOND = [(1 << 63) - P, 1 << 63, UINT64_MAX + 1 - 2 * P]


@pytest.mark.parametrize("resizable", [False, True])
@pytest.mark.parametrize("offset", BEYOND)
def test_an_offset_that_no_file_has_is_mapped_and_shows_nothing(
    world: World, offset: int, *, resizable: bool
) -> None:
    """Source: zx_vmar_map; conformance vmar-065: only 64 bits limit the range of memory."""
    vmo = world.new_vmo(4, resizable=resizable)
    made = world.root.map(vmo, RW | RANGE, vmo_offset=offset, size=P)
    assert shown(world, made) == [None]
    assert not store(made.address, b"x")
    world.root.protect(made.address, P, READ)
    assert [r.vmo_offset for r in world.root.maps()[1:]] == [offset]
    assert vmo.statistics().mappings == 1
    agree(world)
    world.root.unmap(made.address, P)
    assert vmo.statistics().mappings == 0


def test_a_mapping_that_crosses_the_end_of_files_shows_what_lies_before(world: World) -> None:
    """Source: as above. An unbounded object ends a little before Linux's last file offset."""
    vmo = world.keep(Vmo(0, unbounded=True, process=world.process))
    made = world.root.map(vmo, RW, vmo_offset=vmo.size - P, size=4 * P)
    assert store(made.address, b"last")
    assert vmo.read(vmo.size - P, 4) == b"last"
    assert shown(world, made)[1:] == [None] * 3
    agree(world)


def test_an_alignment_and_a_reach_go_together(world: World) -> None:
    made = world.root.map(part(world, world.vmo, 0, 1), READ | VmOption.align(13), size=3 * P)
    assert made.address % (1 << 13) == 0
    assert shown(world, made) == [1, None, None]
