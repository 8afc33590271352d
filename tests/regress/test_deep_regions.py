"""Regions could be nested deeper than Python calls can.

What walked down them called itself for each level. Past a thousand, protecting or listing raised a
RecursionError; destroying broke off half way, and ended processes kept objects that nothing could
release any more.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.testing import HostState
from tests.dialects.refused import name_of
from tests.dialects.things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPTH = 1200
CAN = zx.ZX_VM_CAN_MAP_READ | zx.ZX_VM_CAN_MAP_WRITE
RW = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE


class Nest:
    """Regions, each all but a page of the one it is in, and a mapping in the innermost."""

    def __init__(self) -> None:
        assert sys.getrecursionlimit() < DEPTH
        self.root = zx.zx_vmar_root_self()
        self.regions: list[int] = []
        inside = self.root
        for level in range(DEPTH):
            made, base = Out(), Out()
            size = (DEPTH + 1 - level) * PAGE
            assert zx.zx_vmar_allocate(inside, CAN, 0, size, made, base) == zx.ZX_OK
            inside = made.value
            self.regions.append(inside)
        self.vmo = ok(zx.zx_vmo_create, PAGE, 0)
        assert zx.zx_vmo_write(self.vmo, b"deep", 0, 4) == zx.ZX_OK
        self.address = ok(zx.zx_vmar_map, inside, RW, 0, self.vmo, 0, PAGE)

    def protect(self) -> str:
        return name_of(zx.zx_vmar_protect(self.root, zx.ZX_VM_PERM_READ, self.address, PAGE))

    def maps(self) -> int:
        """How many regions and mappings the two lists have."""
        counts = []
        for number, topic in (
            (self.root, zx.ZX_INFO_VMAR_MAPS),
            (zx.zx_process_self(), zx.ZX_INFO_PROCESS_MAPS),
        ):
            records = info(number, topic)
            counts.append(len(records))
            assert max(record.depth for record in records) >= DEPTH
        assert len(set(counts)) <= 2
        return min(counts)


@contextmanager
def nested() -> Iterator[tuple[pf.Process, Nest]]:
    """A process of a kernel of its own. After its end there is nothing left of either."""
    before = HostState.now()
    process = pf.Process(pf.Kernel())
    with process:
        yield process, Nest()
    process.exit()
    assert not process.alive
    assert process.kernel.objects() == []
    assert before.difference(HostState.now()) == []


def test_a_process_with_deep_regions_ends_and_leaves_nothing() -> None:
    with nested():
        pass


ACTS: dict[str, Callable[[Nest], str]] = {
    "protect": Nest.protect,
    "ZERO": lambda nest: name_of(
        zx.zx_vmar_op_range(nest.root, zx.ZX_VMAR_OP_ZERO, nest.address, PAGE, None, 0)
    ),
    "unmap from the root": lambda nest: name_of(
        zx.zx_vmar_unmap(nest.root, info(nest.regions[0], zx.ZX_INFO_VMAR).base, (DEPTH + 1) * PAGE)
    ),
    "destroy the outermost": lambda nest: name_of(zx.zx_vmar_destroy(nest.regions[0])),
    "destroy the innermost": lambda nest: name_of(zx.zx_vmar_destroy(nest.regions[-1])),
}


@pytest.mark.parametrize("act", ACTS)
def test_calls_on_deep_regions_succeed(act: str) -> None:
    """Source: zx_vmar_protect, zx_vmar_op_range, zx_vmar_unmap, zx_vmar_destroy."""
    with nested() as (_, nest):
        assert ACTS[act](nest) == "OK"


def test_deep_regions_are_listed() -> None:
    """Source: ZX_INFO_VMAR_MAPS, ZX_INFO_PROCESS_MAPS: depth first, each with its depth."""
    with nested() as (_, nest):
        assert nest.maps() > DEPTH


def test_what_was_in_a_destroyed_region_is_destroyed() -> None:
    """Every level of it, and the addresses are free."""
    with nested() as (_, nest):
        base = info(nest.regions[0], zx.ZX_INFO_VMAR).base
        assert zx.zx_vmar_destroy(nest.regions[0]) == zx.ZX_OK
        for level in (0, 1, DEPTH // 2, DEPTH - 1):
            region, out = nest.regions[level], Out()
            found = zx.zx_vmar_map(region, RW, 0, nest.vmo, 0, PAGE, out)
            assert name_of(found) == "BAD_STATE"
        assert info(nest.vmo, zx.ZX_INFO_VMO).num_mappings == 0
        again = base - info(nest.root, zx.ZX_INFO_VMAR).base
        specific = RW | zx.ZX_VM_SPECIFIC
        assert ok(zx.zx_vmar_map, nest.root, specific, again, nest.vmo, 0, PAGE) == base
