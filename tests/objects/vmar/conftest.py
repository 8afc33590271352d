"""Fixtures of the tests of address regions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import Vmar
from tests.objects.vmar.world import CAN_ALL, RW, SPECIFIC, P, World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@pytest.fixture
def family(world: World) -> tuple[Vmar, Vmar, Mapping]:
    """A child at 8, its own child at 9, and a mapping of two pages there."""
    child = world.allocate(8 * P, CAN_ALL | SPECIFIC, offset=8 * P, name="child")
    inner = world.allocate(4 * P, CAN_ALL | SPECIFIC, offset=P, name="inner", of=child)
    return child, inner, inner.map(world.vmo, RW, size=2 * P)
