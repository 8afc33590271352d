# The configuration space of a real device, as VFIO lets it be seen.
#
# VFIO shows some of it as it is, keeps some of it for itself, and ignores writes to what would
# harm the host: a BAR's address, for one, is what this process wrote and not where the BAR is.
#
# Source: PCI Local Bus Specification 3.0, section 6.1; <linux/pci_regs.h>.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.buses.vfio.region import Region
from pinfold.errors import BadState
from pinfold.host import abi_vfio as abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.host.vfio import RegionInfo


class Capability(NamedTuple):
    """One capability of the standard list."""

    id: int
    """PCI_CAP_ID_*: 1 power management, 5 MSI, 0x10 PCI Express, 0x11 MSI-X."""
    offset: int
    """Where it is in the configuration space."""


class ConfigSpace:
    """The configuration space of one device. Accesses are of 1, 2 or 4 bytes, and aligned.

    After the bus is closed every access raises `BadState`; in a forked child, `WrongProcess`.

    Args:
      device: the device's descriptor.
      mapped: whether a BAR is mapped, whose accesses would end the process if the device no longer
        answered to memory accesses.
    """

    def __init__(self, device: int, region: RegionInfo, mapped: Callable[[], bool]) -> None:
        self._region = Region("the configuration space", device, region)
        self._mapped = mapped

    @property
    def size(self) -> int:
        """Bytes: 256, or 4096 on PCI Express."""
        return self._region.size

    @property
    def vendor(self) -> int:
        """The vendor's number."""
        return self.read16(abi.PCI_VENDOR_ID)

    @property
    def device(self) -> int:
        """The vendor's number for the device."""
        return self.read16(abi.PCI_DEVICE_ID)

    @property
    def master(self) -> bool:
        """True while the device may master the bus: read and write memory."""
        return bool(self.read16(abi.PCI_COMMAND) & abi.PCI_COMMAND_MASTER)

    def set_master(self, allowed: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Let the device master the bus and answer to memory accesses, or master it no more."""
        with self._region.lock:
            command = self.read16(abi.PCI_COMMAND)
            if allowed:
                command |= abi.PCI_COMMAND_MASTER | abi.PCI_COMMAND_MEMORY
            else:
                command &= ~abi.PCI_COMMAND_MASTER
            self._region.write(abi.PCI_COMMAND, 2, command)

    def capabilities(self) -> tuple[Capability, ...]:
        """The standard list, in the device's order."""
        if not self.read16(abi.PCI_STATUS) & abi.PCI_STATUS_CAP_LIST:
            return ()
        found: list[Capability] = []
        at = self.read8(abi.PCI_CAPABILITY_LIST) & ~3
        # A list that runs in a circle ends where there is no room for more.
        most = (abi.PCI_CFG_SPACE_SIZE - abi.PCI_STD_HEADER_SIZEOF) // 4
        while at >= abi.PCI_STD_HEADER_SIZEOF and len(found) < most:
            found.append(Capability(self.read8(at), at))
            at = self.read8(at + abi.PCI_CAP_LIST_NEXT) & ~3
        return tuple(found)

    def read8(self, offset: int) -> int:
        """One byte. Raises OutOfRange: it leaves the space; HostError: the kernel refused."""
        return self._read(offset, 1)

    def read16(self, offset: int) -> int:
        """Two bytes. Raises as `read8`, and InvalidArgs: not aligned."""
        return self._read(offset, 2)

    def read32(self, offset: int) -> int:
        """Four bytes. Raises as `read16`."""
        return self._read(offset, 4)

    def write8(self, offset: int, value: int) -> None:
        """One byte.

        Raises: as `read8`, and
          InvalidArgs: the value does not fit.
          BadState: it switches off the device's answers to memory accesses while a BAR is mapped.
            The kernel would take the mapping away, and the next access would end the process.
        """
        self._write(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        """Two bytes. Raises as `write8`, and InvalidArgs: not aligned."""
        self._write(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        """Four bytes. Raises as `write16`."""
        self._write(offset, 4, value)

    def _read(self, offset: int, width: int) -> int:
        return self._region.read(offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        if offset == abi.PCI_COMMAND and not value & abi.PCI_COMMAND_MEMORY and self._mapped():
            raise BadState(
                "this write would take mapped registers from under their users",
                asked=value,
                holder="a mapped BAR",
                remedy=f"keep bit {abi.PCI_COMMAND_MEMORY:#x} of the command register",
            )
        self._region.write(offset, width, value)

    def close(self) -> None:
        """The descriptor is about to be closed."""
        self._region.close()

    def abandon(self) -> None:
        """In a forked child."""
        self._region.abandon()
