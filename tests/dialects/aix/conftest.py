"""A kernel with room for eight pinned pages, as the vectors have it, and one with room enough."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.testing import HostState

from .world import P, World

if TYPE_CHECKING:
    from collections.abc import Iterator


def _world(kernel: pf.Kernel) -> Iterator[World]:
    gc.collect()
    before = HostState.now()
    made = World(kernel)
    with made.process:
        yield made
    made.close()
    made.user.close()
    gc.collect()
    assert before.difference(HostState.now()) == []
    assert [each for each in kernel.objects() if each is not made.process] == []


@pytest.fixture
def world() -> Iterator[World]:
    """Both spaces, on a kernel without a limit."""
    yield from _world(pf.Kernel(seed=1))


@pytest.fixture
def tight() -> Iterator[World]:
    """The same, where eight pages may be pinned."""
    yield from _world(pf.Kernel(seed=1, max_pinned=8 * P))


@pytest.fixture(params=["sim", "stub"])
def bti(request: pytest.FixtureRequest, world: World) -> Iterator[pf.Bti]:
    """A device on each bus that has software devices. Nothing may be granted to it at the end."""
    del world
    with pf.open_bus(request.param) as bus, bus.initiator(0x10) as made:
        yield made
        gc.collect()
        assert made.statistics().pins == 0
