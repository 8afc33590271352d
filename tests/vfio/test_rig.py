"""The guest has what the tests in it count on; otherwise they would fail in stranger ways."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

import pinfold as pf
from tests.vfio import guest

pytestmark = pytest.mark.vfio

IDENTITIES = {
    "edu0": ("0x1234", "0x11e8", "0x00ff00"),
    "edu1": ("0x1234", "0x11e8", "0x00ff00"),
    "nvme": ("0x1b36", "0x0010", "0x010802"),
}
"""Vendor, device and class. Source: QEMU, docs/specs/edu.rst and docs/specs/pci-ids.rst; NVMe Base
Specification 1.4, section 2.1.5."""

VFIO_GET_API_VERSION = 0x3B64


def _device(name: str) -> Path:
    return Path("/sys/bus/pci/devices", guest.address(name) or "")


@pytest.mark.parametrize("name", guest.DEVICES)
def test_a_device_is_what_its_name_says(name: str) -> None:
    fields = ("vendor", "device", "class")
    found = tuple((_device(name) / field).read_text().strip() for field in fields)
    assert found == IDENTITIES[name]


def test_each_device_is_alone_in_its_group() -> None:
    """Two in one group would be taken and let go together."""
    groups = [(_device(name) / "iommu_group").resolve() for name in guest.DEVICES]
    assert len(set(groups)) == len(guest.DEVICES)
    for name, group in zip(guest.DEVICES, groups, strict=True):
        assert [at.name for at in (group / "devices").iterdir()] == [guest.address(name)]


def test_the_iommu_translates() -> None:
    """A domain of type identity would let a device reach everything."""
    for name in guest.DEVICES:
        kind = (_device(name) / "iommu_group" / "type").read_text().strip()
        assert kind in {"DMA", "DMA-FQ"}


def test_the_kernel_speaks_vfio() -> None:
    """Through the container or through iommufd; some kernels have both."""
    container = Path("/dev/vfio/vfio")
    if container.exists():
        with container.open("r+b", buffering=0) as opened:
            assert fcntl.ioctl(opened, VFIO_GET_API_VERSION) == 0
    else:
        assert Path("/dev/iommu").is_char_device()


def test_each_device_has_a_node_to_open() -> None:
    """A group's, or with iommufd alone one of its own."""
    for name in guest.DEVICES:
        group = Path("/dev/vfio", (_device(name) / "iommu_group").resolve().name)
        own = _device(name) / "vfio-dev"
        assert group.is_char_device() or own.is_dir()


def test_the_package_is_the_checkouts() -> None:
    """And not one that was packed into an image some time ago."""
    assert Path(pf.__file__).is_relative_to(Path(__file__).parents[2] / "src")
