"""The devices of the guest. A test that uses one is marked ``vfio`` by that, see plugin.py."""

from __future__ import annotations

import pytest

from tests.vfio import guest


def _address(name: str) -> str:
    found = guest.address(name)
    assert found is not None, "plugin.py skips before a fixture is made"
    return found


@pytest.fixture
def vfio_edu() -> str:
    """PCI address of an edu with 28 address bits."""
    return _address("edu0")


@pytest.fixture
def vfio_edu64() -> str:
    """PCI address of an edu with 64 address bits."""
    return _address("edu1")


@pytest.fixture
def vfio_nvme() -> str:
    """PCI address of an NVMe controller whose disk may be overwritten."""
    return _address("nvme")
