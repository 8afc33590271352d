"""What sysfs says of PCI devices, read from a tree like the kernel's, and from this machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pinfold.host import pci
from pinfold.host.pci import PciAddress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "written", "requester"),
    [
        ("0000:00:04.0", "0000:00:04.0", 0x20),
        ("00:05.0", "0000:00:05.0", 0x28),
        ("0001:3F:1f.7", "0001:3f:1f.7", 0x3FFF),
        ("10000:00:1f.2", "10000:00:1f.2", 0xFA),
    ],
)
def test_an_address(text: str, written: str, requester: int) -> None:
    address = PciAddress.parse(text)
    assert address is not None
    assert (str(address), address.requester) == (written, requester)


@pytest.mark.parametrize("text", ["", "4", "00:20.0", "00:04.8", "000:00:04.0", "00:04", "g0:00.0"])
def test_no_address(text: str) -> None:
    assert PciAddress.parse(text) is None


def machine(root: Path) -> str:
    """Two functions in group 7, one of them bound; a third with neither driver nor IOMMU."""
    devices, groups, drivers = root / "devices", root / "groups", root / "drivers"
    (groups / "7/devices").mkdir(parents=True)
    for name in ("vfio-pci", "ahci"):
        (drivers / name).mkdir(parents=True)
    for name, driver in (
        ("0000:00:04.0", "vfio-pci"),
        ("0000:00:04.1", "ahci"),
        ("0000:00:05.0", None),
    ):
        device = devices / name
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1234\n")
        (device / "device").write_text("0x11e8\n")
        (device / "class").write_text("0x00ff00\n")
        if driver is not None:
            (device / "driver").symlink_to(drivers / driver)
            (device / "iommu_group").symlink_to(groups / "7")
            (groups / "7/devices" / name).symlink_to(device)
    (devices / "0000:00:04.0/vfio-dev/vfio3").mkdir(parents=True)
    return str(devices)


def test_a_device(tmp_path: Path) -> None:
    root = machine(tmp_path)
    addresses = pci.addresses(root)
    assert [str(address) for address in addresses] == [
        "0000:00:04.0",
        "0000:00:04.1",
        "0000:00:05.0",
    ]
    bound, other, bare = (pci.look(address, root) for address in addresses)
    assert bound is not None
    assert (bound.vendor, bound.device, bound.class_code) == (0x1234, 0x11E8, 0x00FF00)
    assert (bound.driver, bound.group, bound.cdev) == ("vfio-pci", 7, "/dev/vfio/devices/vfio3")
    assert str(bound) == "0000:00:04.0 (1234:11e8)"
    assert other is not None
    assert (other.driver, other.cdev) == ("ahci", None)
    assert bare is not None
    assert (bare.driver, bare.group) == (None, None)
    assert pci.neighbours(bound, root) == [other]
    assert pci.neighbours(bare, root) == []
    assert pci.look(PciAddress(0, 0, 9, 0), root) is None


def test_a_machine_without_pci(tmp_path: Path) -> None:
    assert pci.addresses(str(tmp_path / "nowhere")) == []


def test_this_machine() -> None:
    """Whatever it has can be looked at."""
    for address in pci.addresses():
        device = pci.look(address)
        assert device is not None
        assert device.address == address
        assert device.vendor
