"""A device on each bus that has software devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def device_bti(any_bus: pf.Iommu) -> Iterator[pf.Bti]:
    """28 address bits, which is what edu has; any bus can serve that."""
    with any_bus.initiator(0x10, address_bits=28) as made:
        yield made
