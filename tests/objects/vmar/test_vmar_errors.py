"""Every documented error of the calls that change a region, and which of two comes first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from pinfold import Vmo
from pinfold.errors import BufferTooSmall, NotSupported
from tests.objects.vmar.slips import Slip, expect
from tests.objects.vmar.tables import ALLOCATES, DESTROYS, MAPS, PROTECTS, STRICT_MAPS, UNMAPS
from tests.objects.vmar.world import FAULTS, READ, P, World, agree


@pytest.mark.parametrize("slip", ALLOCATES.slips, ids=str)
def test_allocate_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_allocate ERRORS."""
    expect(ALLOCATES, world, (slip,))


@pytest.mark.parametrize(("first", "second"), ALLOCATES.pairs, ids=str)
def test_allocate_checks_in_the_documented_order(world: World, first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_allocate."""
    expect(ALLOCATES, world, (first, second))


@pytest.mark.parametrize("slip", MAPS.slips, ids=str)
def test_map_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_map ERRORS, mx_vmar_map ERRORS."""
    expect(MAPS, world, (slip,))


@pytest.mark.parametrize(("first", "second"), MAPS.pairs, ids=str)
def test_map_checks_in_the_documented_order(world: World, first: Slip, second: Slip) -> None:
    """Source: zircon, the first failing check of zx_vmar_map decides the status."""
    expect(MAPS, world, (first, second))


@pytest.mark.parametrize("slip", PROTECTS.slips, ids=str)
def test_protect_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_protect ERRORS."""
    expect(PROTECTS, world, (slip,))


@pytest.mark.parametrize(("first", "second"), PROTECTS.pairs, ids=str)
def test_protect_checks_in_the_documented_order(world: World, first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_protect."""
    expect(PROTECTS, world, (first, second))


@pytest.mark.parametrize("slip", UNMAPS.slips, ids=str)
def test_unmap_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_unmap ERRORS."""
    expect(UNMAPS, world, (slip,))


@pytest.mark.parametrize(("first", "second"), UNMAPS.pairs, ids=str)
def test_unmap_checks_in_the_documented_order(world: World, first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_unmap."""
    expect(UNMAPS, world, (first, second))


@pytest.mark.parametrize("slip", DESTROYS.slips, ids=str)
def test_destroy_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_destroy ERRORS; the right comes before the root, the root before death."""
    expect(DESTROYS, world, (slip,))


# A strict kernel: what the page of zx_vmar_map says and the kernel does not do --------------------


@pytest.fixture
def strict() -> Iterator[World]:
    made = World(strict="docs")
    yield made
    made.end()


@pytest.mark.parametrize("slip", STRICT_MAPS.slips, ids=str)
def test_map_on_a_strict_kernel_refuses_what_its_page_says(strict: World, slip: Slip) -> None:
    """Source: zx_vmar_map ERRORS, ALLOW_FAULTS."""
    expect(STRICT_MAPS, strict, (slip,))


@pytest.mark.parametrize(("first", "second"), STRICT_MAPS.pairs, ids=str)
def test_a_strict_kernel_checks_where_the_kernel_checks_the_like(
    strict: World, first: Slip, second: Slip
) -> None:
    """Ours: the page says no order. Resizable beside discardable, the end beside the overflow."""
    expect(STRICT_MAPS, strict, (first, second))


@pytest.mark.parametrize("kind", [None, "docs"])
def test_what_allow_faults_is_for(kind: Literal["docs"] | None) -> None:
    """Source: zx_vmar_map, ALLOW_FAULTS; the kernel asks for it of discardable memory only."""
    world = World(strict=kind)
    resizable, vmo = world.new_vmo(2, resizable=True), world.vmo
    discardable = world.keep(Vmo(2 * P, discardable=True, process=world.process))
    for memory, size in ((resizable, 2 * P), (vmo, 5 * P), (discardable, 2 * P)):
        assert world.root.map(memory, READ | FAULTS, size=size).size == size
        if kind == "docs" or memory is discardable:
            with pytest.raises((NotSupported, BufferTooSmall)):
                world.root.map(memory, READ, size=size)
        else:
            assert world.root.map(memory, READ, size=size).size == size
    agree(world)
    world.end()
