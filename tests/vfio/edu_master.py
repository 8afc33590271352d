"""A port for software, behind which a real device does the moving: QEMU's edu with 64 bits.

It reads by having the device take the bytes into its own memory, and put them into a page that is
granted for that; it writes the other way round. VFIO does not tell of a stopped access, so what the
kernel's log gained meanwhile decides.

That log drops lines when they come too fast (see `faults_of`): an access that may be stopped is of
four bytes at most.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

import pinfold as pf
from pinfold.buses.vfio import VfioBus, VfioDevice
from pinfold.drivers.edu import CHUNK, EduDriver
from pinfold.errors import DmaFault, NotSupported
from tests.vfio.real import BOTH, faults_of, patience

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsIndex


class EduMaster:
    """Accesses through the device behind ``bti``. It keeps no pin between them."""

    def __init__(self, bti: pf.Bti) -> None:
        self._bti = bti
        device = bti.device()
        bus = bti.object.iommu.bus
        assert isinstance(device, VfioDevice)
        assert isinstance(bus, VfioBus)
        assert bus.faults.readable, "without the kernel's log a stopped access cannot be told"
        self._bus = bus
        self._driver = EduDriver(device.bar(0), bti, address_bits=64, wait=patience)

    @property
    def initiator(self) -> int:
        """The device's requester id."""
        return self._bti.statistics().initiator

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.read`; what is stopped may be there in part."""
        at, left = index(address), index(size)
        found = bytearray()
        while len(found) < left:
            count = min(CHUNK, left - len(found))
            self._move(lambda: self._driver.copy_to_device(at + len(found), count))  # noqa: B023
            found += self._unload(count)
        return bytes(found)

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        buffer[:] = self.read(address, len(buffer))

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`; what comes before a border may be moved."""
        at = index(address)
        for done in range(0, len(data), CHUNK):
            part = bytes(data[done : done + CHUNK])
            self._load(part)
            self._move(lambda: self._driver.copy_from_device(at + done, len(part)))  # noqa: B023

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        to, at, left = index(destination), index(source), index(size)
        for done in range(0, left, CHUNK):
            count = min(CHUNK, left - done)
            self._move(lambda: self._driver.copy_to_device(at + done, count))  # noqa: B023
            self._move(lambda: self._driver.copy_from_device(to + done, count))  # noqa: B023

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """Raises NotSupported: edu executes nothing."""
        raise NotSupported("edu executes nothing")

    def _move(self, transfer: Callable[[], None]) -> None:
        """One transfer; what the log gained meanwhile is raised."""
        stopped = faults_of(self._bus, transfer)
        if stopped:
            raise DmaFault(stopped[-1])

    def _load(self, data: bytes) -> None:
        """Put bytes into the device's memory, through a page that is granted for that alone."""
        with pf.Vmo(pf.PAGE_SIZE) as page, self._bti.pin(page, perms=BOTH) as pmt:
            page.write(data)
            self._driver.copy_to_device(pmt, len(data))

    def _unload(self, size: int) -> bytes:
        with pf.Vmo(pf.PAGE_SIZE) as page, self._bti.pin(page, perms=BOTH) as pmt:
            self._driver.copy_from_device(pmt, size)
            return page.read(0, size)


def reads_what_is_write_only(address: str) -> bool:
    """Whether this kernel's IOMMU driver lets a device read what it may only write.

    Intel's in Linux 6.1 does: it sets the bit for reading in every entry of its tables.
    """
    with (
        pf.open_bus(f"vfio:{address}") as iommu,
        iommu.initiator(iommu.bus.requester) as bti,  # type: ignore[attr-defined]
        pf.Vmo(pf.PAGE_SIZE) as vmo,
        bti.pin(vmo, perms=pf.Perm.WRITE) as pmt,
    ):
        vmo.write(b"seen")
        try:
            return EduMaster(bti).read(int(pmt.addrs[0]), 4) == b"seen"
        except DmaFault:
            return False
