# What the kernel says of PCI devices: /sys/bus/pci/devices. Reads; changes nothing.
#
# Source: Documentation/ABI/testing/sysfs-bus-pci of Linux.
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from pinfold.host import calls

SYSFS: Final = "/sys/bus/pci/devices"

_ADDRESS: Final = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")

_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class PciAddress:
    """Where a PCI function is: domain, bus, device, function."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress | None:
        """``0000:00:04.0``, or without the domain for domain 0; None for anything else."""
        match = _ADDRESS.fullmatch(text.strip().lower())
        if match is None:
            return None
        domain, *rest = match.groups(default="0")
        return cls(int(domain, 16), *(int(part, 16) for part in rest))

    @property
    def requester(self) -> int:
        """The number that the device puts on each of its requests: bus, device, function."""
        return self.bus << 8 | self.device << 3 | self.function

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function, as the kernel has it."""

    address: PciAddress
    vendor: int
    device: int
    class_code: int
    """Class, subclass and programming interface, a byte each."""
    driver: str | None
    """The kernel driver that has it; None for none."""
    group: int | None
    """Its IOMMU group; None where no IOMMU translates for it."""
    cdev: str | None
    """Its VFIO character device, ``/dev/vfio/devices/vfio0``; None where there is none."""

    def __str__(self) -> str:
        return f"{self.address} ({self.vendor:04x}:{self.device:04x})"


def _read(path: str) -> str:
    fd = calls.open_file(path, os.O_RDONLY)
    try:
        return calls.pread(fd, _LONGEST, 0).decode(errors="replace").strip()
    finally:
        calls.close(fd)


def _link(path: str) -> str | None:
    """The last part of what a link in sysfs points to; None where there is none."""
    calls.intercept("readlink")
    try:
        return os.path.basename(os.readlink(path))
    except FileNotFoundError:
        return None


def _list(path: str) -> list[str]:
    calls.intercept("listdir")
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def addresses(sysfs: str = SYSFS) -> list[PciAddress]:
    """Every PCI function of the machine, ascending; none where there is no PCI."""
    found = (PciAddress.parse(name) for name in _list(sysfs))
    return [address for address in found if address is not None]


def look(address: PciAddress, sysfs: str = SYSFS) -> PciDevice | None:
    """One function; None where there is none.

    Raises:
      OSError: the kernel does not let it be read.
    """
    folder = f"{sysfs}/{address}"
    try:
        vendor, device, code = (
            int(_read(f"{folder}/{name}"), 16) for name in ("vendor", "device", "class")
        )
    except FileNotFoundError:
        return None
    group = _link(f"{folder}/iommu_group")
    cdevs = [name for name in _list(f"{folder}/vfio-dev") if name.startswith("vfio")]
    return PciDevice(
        address=address,
        vendor=vendor,
        device=device,
        class_code=code,
        driver=_link(f"{folder}/driver"),
        group=None if group is None else int(group),
        cdev=f"/dev/vfio/devices/{cdevs[0]}" if cdevs else None,
    )


def neighbours(device: PciDevice, sysfs: str = SYSFS) -> list[PciDevice]:
    """The other functions in its IOMMU group, ascending."""
    names = _list(f"{sysfs}/{device.address}/iommu_group/devices")
    parsed = (PciAddress.parse(name) for name in names)
    others = [look(address, sysfs) for address in parsed if address not in (None, device.address)]
    return [other for other in others if other is not None]
