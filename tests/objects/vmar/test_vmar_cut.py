"""Address regions: cutting, protecting, replacing and destroying parts of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pinfold import Right
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    InvalidArgs,
    NotFound,
)
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import Vmar
from pinfold.rights import Perm
from tests.objects.vmar.world import (
    OVERWRITE,
    READ,
    ROOT_PAGES,
    RW,
    SPECIFIC,
    P,
    World,
    agree,
    childless_handle,
    shown,
)
from tests.user_memory import load, store

# Cutting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "left", "count"),
    [
        (0, 4, [None] * 4, 0),
        (0, 1, [None, 2, 3, 4], 1),
        (3, 4, [1, 2, 3, None], 1),
        (1, 3, [1, None, None, 4], 2),
    ],
)
def test_unmap_cuts(
    world: World, first: int, last: int, left: list[int | None], count: int
) -> None:
    """Source: zx_vmar_unmap: the rest keeps its offset, protection and maximum."""
    made = world.root.map(world.vmo, READ)
    world.root.unmap(made.address + first * P, (last - first - 1) * P + 1)
    assert shown(world, made) == left
    assert made.pieces == world.vmo.statistics().mappings == count
    assert made.mapped_size == sum(page is not None for page in left) * P
    for record in world.root.maps()[1:]:
        assert record.vmo_offset == record.base - made.address
    for page, byte in enumerate(left):
        if byte is not None:
            world.root.protect(made.address + page * P, P, RW)
    agree(world)
    made.unmap()
    assert made.pieces == 0


def test_unmapping_a_hole_succeeds(world: World) -> None:
    """Source: the documentation says NOT_FOUND, the kernel OK; the kernel wins."""
    world.root.unmap(world.root.base, world.root.size)
    made = [world.root.map(world.vmo, READ | SPECIFIC, offset=at * P) for at in (2, 10)]
    world.root.unmap(world.root.base + P, 20 * P)
    assert [m.pieces for m in made] == [0, 0]


def test_protect_keeps_one_mapping_with_runs(world: World) -> None:
    """Source: zircon, the mapping keeps a list of protection runs."""
    made = world.root.map(world.vmo, RW)
    world.root.protect(made.address + P, 2 * P, READ)
    world.root.protect(made.address + 2 * P, 1, 0)
    assert [(r.base - made.address, r.size, int(r.perms)) for r in world.root.maps()[1:]] == [
        (0, P, 3),
        (P, P, 1),
        (2 * P, P, 0),
        (3 * P, P, 3),
    ]
    assert world.vmo.statistics().mappings == 1
    assert shown(world, made) == [1, 2, None, 4]
    agree(world)
    assert bytes(made.view(0, P + 1))[-1] == 2
    with pytest.raises(TypeError):
        made.view(0, 2 * P)[0] = 1
    with pytest.raises(AccessDenied) as caught:
        made.view()
    assert caught.value.remedy
    world.root.protect(made.address, 4 * P, RW)
    assert len(world.root.maps()) == 2


def test_protect_spans_mappings_and_stops_at_a_hole_before_it_changes_anything(
    world: World,
) -> None:
    """Source: zx_vmar_protect: everything is checked before anything changes."""
    first = world.root.map(world.vmo, RW | SPECIFIC)
    second = world.root.map(world.new_vmo(2), RW | SPECIFIC, offset=4 * P)
    world.root.protect(first.address + 3 * P, 2 * P, READ)
    agree(world)
    third = world.root.map(world.vmo, RW | SPECIFIC, offset=8 * P)
    with pytest.raises(NotFound) as caught:
        world.root.protect(first.address, third.address + P - first.address, 0)
    assert caught.value.asked == second.address + 2 * P
    assert store(first.address, b"x")


def test_the_maximum_is_what_both_handles_allowed_at_map_time(world: World) -> None:
    """Source: zx_vmar_map, the mapping records its maximum; handles held later do not count."""
    weak = world.without(world.vmo, Right.WRITE)
    made = world.root.map(weak, READ)
    weak.close()
    with pytest.raises(AccessDenied) as caught:
        world.root.protect(made.address, P, RW)
    assert caught.value.missing == Right.WRITE
    full = world.root.map(world.vmo, 0)
    world.vmo.close()
    world.root.protect(full.address, P, RW)
    assert store(full.address, b"x")
    assert full.max_perms == Perm.READ | Perm.WRITE


def test_overwrite_replaces_and_leaves_the_rest(world: World) -> None:
    """Source: zx_vmar_map, SPECIFIC_OVERWRITE."""
    old = world.root.map(world.vmo, RW)
    new = world.new_vmo(2)
    new.write(b"\x09" * 2 * P)
    made = world.root.map(new, READ | OVERWRITE, offset=P)
    assert made.address == old.address + P
    assert shown(world, old) == [1, 9, 9, 4]
    assert (old.pieces, made.pieces) == (2, 1)
    with pytest.raises(NotFound):
        old.view(P, 1)
    assert bytes(old.view(3 * P, 1)) == b"\x04"
    both = world.root.map(new, READ | OVERWRITE | SPECIFIC, offset=40 * P)
    assert both.address == world.root.base + 40 * P
    old.unmap()
    assert shown(world, made) == [9, 9]
    agree(world)


def test_memory_that_replaces_its_own_last_mapping_is_kept(world: World) -> None:
    vmo = world.new_vmo(1)
    vmo.write(b"same")
    first = world.root.map(vmo, READ)
    holder = world.keep(vmo.duplicate())
    vmo.close()
    world.root.map(holder, READ | OVERWRITE)
    holder.close()
    assert load(first.address, 4) == b"same"


def test_a_reader_sees_the_old_bytes_or_the_new_ones(world: World) -> None:
    """Source: mx_vmar_map: the replacement is atomic."""
    new = world.new_vmo(1)
    new.write(b"\x09" * P)
    address = world.root.map(world.vmo, READ, size=P).address
    seen: set[bytes | None] = set()
    started, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(load(address))
            started.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    started.wait()
    try:
        for turn in range(2000):
            world.root.map(new if turn % 2 == 0 else world.vmo, READ | OVERWRITE, size=P)
    finally:
        done.set()
        watcher.join()
    assert seen <= {b"\x01", b"\x09"}
    assert seen


# Child regions ----------------------------------------------------------------------------------


def test_a_child_region_is_in_the_way_of_its_parent(
    world: World, family: tuple[Vmar, Vmar, Mapping]
) -> None:
    """Source: zircon, child VMAR overlap."""
    child = family[0]
    with pytest.raises(AlreadyExists) as taken:
        world.root.map(world.vmo, READ | SPECIFIC, offset=8 * P)
    assert "region" in str(taken.value.holder)
    with pytest.raises(AlreadyExists):
        world.allocate(P, SPECIFIC, offset=8 * P)
    for offset in (8, 6, 10):
        with pytest.raises(InvalidArgs):
            world.root.map(world.vmo, READ | OVERWRITE, offset=offset * P)
    assert child.alive
    agree(world)


def test_unmapping_a_whole_child_destroys_it_and_what_is_below(
    world: World, family: tuple[Vmar, Vmar, Mapping]
) -> None:
    child, inner, made = family
    world.root.unmap(child.base - P, child.size + 2 * P)
    assert not child.alive
    assert not inner.alive
    assert load(made.address) is None
    assert world.vmo.statistics().mappings == 0
    assert (inner.base, inner.size) == (made.address, 4 * P)  # still known
    assert inner.statistics().alive is False
    dead: tuple[Callable[[], Any], ...] = (
        lambda: inner.map(world.vmo, READ),
        lambda: world.allocate(P, of=inner),
        lambda: inner.unmap(inner.base, P),
        lambda: inner.protect(inner.base, P, 0),
        inner.maps,
        inner.destroy,
    )
    for act in dead:
        with pytest.raises(BadState):
            act()
    made.unmap()  # nothing is left of it
    assert world.root.map(world.vmo, READ | SPECIFIC, offset=8 * P).address == child.base


def test_destroy_frees_the_range(world: World, family: tuple[Vmar, Vmar, Mapping]) -> None:
    """Source: zx_vmar_destroy."""
    child, inner, made = family
    inner.destroy()
    assert child.alive
    assert load(made.address) is None
    assert child.statistics().regions == 0
    koid = child.koid
    child.close()
    assert koid in {found.koid for found in world.kernel.objects()}  # it is still there
    world.root.unmap(made.address - P, 8 * P)
    assert koid not in {found.koid for found in world.kernel.objects()}
    agree(world)


def test_protect_through_the_parent_may_only_take_away(
    world: World, family: tuple[Vmar, Vmar, Mapping]
) -> None:
    """Source: zx_vmar_protect, mappings of child regions."""
    inner, made = family[1:]
    weak = childless_handle(world)
    with pytest.raises(InvalidArgs) as caught:
        weak.protect(made.address, P, READ)
    assert caught.value.remedy
    world.root.protect(made.address, P, READ)
    with pytest.raises(AccessDenied) as denied:
        world.root.protect(made.address, 2 * P, RW)
    assert denied.value.missing == Right.WRITE
    assert [int(r.perms) for r in inner.maps()[1:]] == [1, 3]
    inner.protect(made.address, 2 * P, RW)
    agree(world)


def test_maps_lists_depth_first_with_runs(world: World, family: tuple[Vmar, Vmar, Mapping]) -> None:
    """Source: ZX_INFO_VMAR_MAPS: the region itself at depth 0, children one deeper."""
    child, inner, made = family
    world.root.map(world.vmo, READ | SPECIFIC, offset=30 * P, vmo_offset=P, size=P)
    inner.protect(made.address + P, P, READ)
    lines = [
        (r.depth, r.kind, r.name, (r.base - world.root.base) // P, r.size // P, r.vmo_offset // P)
        for r in world.root.maps()
    ]
    assert lines == [
        (0, "vmar", "root", 0, ROOT_PAGES, 0),
        (1, "vmar", "child", 8, 8, 0),
        (2, "vmar", "inner", 9, 4, 0),
        (3, "mapping", "m", 9, 1, 0),
        (3, "mapping", "m", 10, 1, 1),
        (1, "mapping", "m", 30, 1, 1),
    ]
    assert inner.maps()[0].depth == 0
    with pytest.raises(AccessDenied):
        world.without(child, Right.INSPECT).maps()
    now = inner.statistics()
    assert (now.regions, now.mappings, now.mapped, now.free) == (0, 1, 2 * P, 2 * P)
    assert now.largest_gap == 2 * P
    assert world.root.statistics().regions == 1
