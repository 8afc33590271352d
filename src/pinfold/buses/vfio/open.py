# Finding a device, saying why it cannot be had, and choosing what maps for it.
#
# iommufd is chosen where the kernel has it and this process may open it and the device; the group
# with its container everywhere else. Both pin alike; iommufd takes memory files without going
# through this process's addresses.
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

from pinfold.buses.vfio import iommufd, refusals
from pinfold.buses.vfio.type1 import Type1Container
from pinfold.errors import InvalidArgs, NotFound, PinfoldError
from pinfold.host import pci, vfio
from pinfold.memory.hosterrors import translated

if TYPE_CHECKING:
    from pinfold.buses.vfio.container import Container
    from pinfold.host.pci import PciDevice

Backend = Literal["type1", "iommufd"]

IOMMUFD: Final = "/dev/iommu"

_DRIVER: Final = "vfio-pci"
"""Or a variant for one kind of device, as mlx5_vfio_pci is."""


def parse_address(address: str) -> pci.PciAddress:
    """Where a PCI function is. Raises InvalidArgs: that is no PCI address."""
    parsed = pci.PciAddress.parse(address)
    if parsed is None:
        raise InvalidArgs(
            f"{address!r} is no PCI address", remedy="write it as lspci -D does: 0000:00:04.0"
        )
    return parsed


def find_device(address: str) -> PciDevice:
    """The PCI function at ``address``, bound to vfio-pci and behind an IOMMU.

    Raises:
      InvalidArgs: that is no PCI address.
      NotFound: there is no such device.
      NotSupported: no IOMMU translates for it, or the kernel has no VFIO.
      BadState: another driver has it (``.remedy`` has the commands).
      HostError: the kernel does not let it be looked at.
    """
    parsed = parse_address(address)
    with translated(f"look at PCI device {parsed}"):
        device = pci.look(parsed)
        if device is None:
            there = len(pci.addresses())
            raise NotFound(
                f"there is no PCI device {parsed}",
                available=f"{there} PCI device(s)",
                remedy="lspci -D lists them",
            )
    if not (device.driver or "").replace("_", "-").endswith(_DRIVER):
        # Without an IOMMU vfio-pci does not bind either, so that is the reason to name.
        raise refusals.no_iommu(device) if device.group is None else refusals.not_bound(device)
    if device.group is None:
        raise refusals.no_iommu(device)
    return device


def choose(device: PciDevice) -> Backend:
    """What maps for a device, unless the caller says: an iommufd where this process can have one.

    Raises as `pinfold.buses.vfio.iommufd.missing`.
    """
    if not os.path.exists(vfio.CONTAINER):
        return "iommufd" if os.path.exists(IOMMUFD) else "type1"
    return "iommufd" if iommufd.missing(device) is None else "type1"


def open_container(address: str, *, backend: Backend | None = None) -> Container:
    """Open what maps for the device at ``address``.

    Args:
      backend: ``type1`` or ``iommufd``; by default whichever `choose` finds.

    Raises: as `find_device`, and
      InvalidArgs: there is no such backend.
      AccessDenied: this process may not open the device.
      Unavailable: it is in use.
      BadState: its IOMMU group has devices with other drivers.
    """
    if backend not in (None, "type1", "iommufd"):
        raise InvalidArgs(
            f"there is no backend {backend!r}", available="type1, iommufd", remedy="name one"
        )
    device = find_device(address)
    if (backend or choose(device)) == "type1":
        return Type1Container(device)
    return iommufd.IommufdContainer(device)


def why_not(address: str) -> PinfoldError | None:
    """Why the device at ``address`` cannot be opened, without opening it; None where it may be."""
    if not os.path.exists(vfio.CONTAINER) and not os.path.exists(IOMMUFD):
        missing = FileNotFoundError(2, os.strerror(2))
        return refusals.from_open(vfio.CONTAINER, missing)
    try:
        find_device(address)
    except PinfoldError as error:
        return error
    return None
