"""The phys bus, for the tests of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from tests.buses.phys_machine import pinned, settles_at

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def phys_bus(process: pf.Process) -> Iterator[pf.Iommu]:
    """The bus; at its end nothing is pinned that was not pinned before."""
    del process
    before = pinned()
    with pf.open_bus("phys") as made:
        yield made
    assert settles_at(before)


@pytest.fixture
def phys(phys_bus: pf.Iommu) -> Iterator[pf.Bti]:
    """A device with 64 address bits."""
    with phys_bus.initiator(1, name="card") as made:
        yield made
