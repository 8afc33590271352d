"""Devices on each bus that has software devices, and their drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.copier import Copier
from pinfold.drivers.copier import CopierDriver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def device_bti(any_bus: pf.Iommu) -> Iterator[pf.Bti]:
    """28 address bits, which is what edu has; any bus can serve that."""
    with any_bus.initiator(0x10, address_bits=28) as made:
        yield made


@pytest.fixture
def engine(device_bti: pf.Bti) -> Copier:
    """A copy engine."""
    return Copier(device_bti.master())


@pytest.fixture
def driver(engine: Copier, device_bti: pf.Bti) -> Iterator[CopierDriver]:
    """And its driver; test_edu.py has one of its own."""
    with CopierDriver(engine, device_bti) as made:
        yield made
