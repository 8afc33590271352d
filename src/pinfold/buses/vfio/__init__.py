# The vfio bus: one real PCI device behind a real IOMMU, driven from this process.
#
# What it promises: the device reaches what is granted, as it is permitted, and nothing else; the
# pages are held in place by the kernel itself. What it cannot promise: that a stopped access is
# noticed. VFIO has no event for it. Where this process may read the kernel's log, `faults` has what
# the log says, which is the page and the direction, and only a few of them a second.
#
# Four things are done at the end, and their order is the safety of everything here:
#
#   1 the device loses the bus   2 it is reset   3 grants are revoked   4 the caller unpins
#
# A device that is still working when its grants go would fault, or finish into memory that the
# IOMMU still shows it. Not all devices have a reset, which is why mastering comes first.
#
# One bus has one device, because one container has one: another device's grants would be reachable
# for this one. The initiator is the device's requester id; `requester` says which.
from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from pinfold.bus import BusLimits
from pinfold.buses.vfio.device import VfioDevice
from pinfold.buses.vfio.faults import KernelFaultLog
from pinfold.buses.vfio.grant import VfioGrant
from pinfold.buses.vfio.open import Backend, open_container, parse_address
from pinfold.buses.vfio.space import VfioSpace
from pinfold.errors import InvalidArgs, NotSupported
from pinfold.faults import FaultReason
from pinfold.memory.hosterrors import each_tried, noted
from pinfold.memory.locks import LostLock, refuse_inside
from pinfold.units import PAGE_SIZE, ByteRange

if TYPE_CHECKING:
    from pinfold.buses.vfio.container import Container
    from pinfold.faults import GrantRecord
    from pinfold.memory.physmap import PhysicalMap

__all__ = ["VfioBus", "VfioDevice", "VfioGrant", "VfioSpace", "VfioStatistics", "open_bus"]


@dataclass(frozen=True, slots=True)
class VfioStatistics:
    """The bus at one moment."""

    address: str
    """The device's, as ``lspci -D`` writes it."""
    requester: int
    backend: str
    """What maps: ``type1`` or ``iommufd``."""
    page_sizes: tuple[int, ...]
    """Bytes in each kind of page that the IOMMU has, ascending."""
    grants: int
    max_grants: int | None
    granted_bytes: int
    faults_readable: bool
    """Whether this process may read the kernel's log, without which no fault is seen."""


class VfioBus:
    """One PCI device behind an IOMMU.

    Args:
      address: the PCI device; ``lspci -D`` writes it so.
      backend: ``type1`` or ``iommufd``; by default whichever this machine has.

    Raises: as `pinfold.buses.vfio.open.open_container`.
    """

    def __init__(self, address: str, *, backend: Backend | None = None) -> None:
        parsed = parse_address(address)
        self._space: VfioSpace | None = None
        self.container: Container = open_container(address, backend=backend)
        """What maps for it."""
        self._requester = parsed.requester
        try:
            self.page_sizes = self.container.page_sizes()
            """Bytes in each kind of page that the IOMMU has, ascending."""
            self._limits = self._read_limits()
            self._device = VfioDevice(str(parsed), self.container.open_device())
            try:
                self._faults = KernelFaultLog(parsed, self._explain)
            except BaseException as error:
                with noted("closing the device", error):
                    self._device.close()
                raise
        except BaseException as error:
            with noted("closing the container", error):
                self.container.close()
            raise
        self._closed = False
        self.numbers = count(1)
        """Numbers for grants."""
        self._lock: threading.RLock | LostLock = threading.RLock()

    def _read_limits(self) -> BusLimits:
        smallest = min(self.page_sizes)
        if smallest > PAGE_SIZE:
            raise NotSupported(
                "the IOMMU's smallest page is larger than the machine's",
                asked=PAGE_SIZE,
                limit=smallest,
            )
        ranges = self.container.ranges()
        if not ranges:  # no IOMMU has all of it: there is the window of the interrupts
            raise NotSupported(
                "this kernel does not say which addresses the IOMMU can map",
                remedy="use Linux 5.4 or later",
            )
        # Address 0 is not given out: it is what a register says that was never written.
        usable = [
            ByteRange(max(low + PAGE_SIZE - 1 & -PAGE_SIZE, PAGE_SIZE), high & -PAGE_SIZE)
            for low, high in ranges
        ]
        return BusLimits(
            page_size=PAGE_SIZE,
            minimum_contiguity=PAGE_SIZE,
            apertures=tuple(window for window in usable if window.start < window.stop),
            max_grant=None,
            max_grants=self.container.limit(),
            isolates=True,
            anchor=self.container.anchor,
        )

    @property
    def name(self) -> str:
        """``vfio``."""
        return "vfio"

    @property
    def requester(self) -> int:
        """The device's requester id, which is the initiator's number: 0x20 for 00:04.0."""
        return self._requester

    @property
    def limits(self) -> BusLimits:
        """What it promises, as the kernel says."""
        return self._limits

    @property
    def faults(self) -> KernelFaultLog:
        """What the kernel's log says of this device since the bus was opened."""
        return self._faults

    @property
    def device(self) -> VfioDevice:
        """The device."""
        return self._device

    def attach(self, initiator: int, *, address_bits: int = 64) -> VfioSpace:
        """See `pinfold.bus.Bus.attach`. Lets the device master the bus.

        Raises: as there, and HostError: mastering could not be switched on; nobody is attached.
        """
        if initiator != self._requester:
            raise InvalidArgs(
                f"the device of this bus is initiator {self._requester:#x}, its requester id",
                asked=initiator,
                available=self._requester,
                remedy="use the bus's `requester`",
            )
        with self._lock:
            space = self._space
            if space is None or (space.address_bits != address_bits and space.idle):
                space = VfioSpace(self, initiator, address_bits)
            elif space.address_bits != address_bits:
                raise InvalidArgs(
                    f"initiator {initiator:#x} is attached with {space.address_bits} address bits",
                    asked=address_bits,
                )
            self._space = space
            space.users += 1
            space.driving += 1
            try:
                self._device.start()
            except BaseException as error:
                space.driving -= 1
                with noted("stopping the device", error):
                    self._leave(space)
                raise
            return space

    def quiesce(self, space: VfioSpace) -> None:
        """One who drives the device is done; after the last it is stopped.

        Raises:
          Unavailable: in a finaliser inside a call of its thread; nothing was done.
          HostError: the kernel refused to stop it.
        """
        refuse_inside(self._lock)
        with self._lock:  # so that nobody attaches between the last one's end and the stop
            space.driving = max(0, space.driving - 1)
            if not space.driving:
                self._device.stop()

    def detach(self, space: VfioSpace) -> None:
        """One user of the space is done; after the last the device is stopped, if it is not yet.

        The space stays: it knows what was granted last, and which addresses were given out.

        Raises:
          Unavailable: in a finaliser inside a call of its thread; nothing was done.
          HostError: the kernel refused to stop the device. The user is gone all the same.
        """
        refuse_inside(self._lock)
        with self._lock:
            self._leave(space)

    def _leave(self, space: VfioSpace) -> None:
        space.users -= 1
        if not space.users:
            space.driving = 0  # an attach that failed later has not said so
            if self._device.mastering:
                self._device.stop()

    def _explain(self, page: int, access: int) -> tuple[FaultReason, str, GrantRecord | None]:
        """Why an access was stopped."""
        space = self._space
        if space is None:
            return FaultReason.NOTHING_THERE, "nothing is granted to this device", None
        return space.explain(page, access)

    def statistics(self) -> VfioStatistics:
        """The bus as a frozen record."""
        space = self._space
        grants = space.live_grants() if space is not None else []
        return VfioStatistics(
            address=self._device.address,
            requester=self._requester,
            backend=self.container.name,
            page_sizes=self.page_sizes,
            grants=len(grants),
            max_grants=self._limits.max_grants,
            granted_bytes=sum(grant.pinned.size for grant in grants),
            faults_readable=self._faults.readable,
        )

    def close(self) -> None:
        """Stop the device, revoke what is live, and give everything back. Twice is once.

        Raises:
          HostError, BadState: the first refusal. What could not be revoked ends with the container,
            when the last descriptor of it is closed.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            space = self._space
        each_tried(
            [
                self._device.stop,
                *(
                    (lambda grant=grant, space=space: space.revoke(grant))
                    for grant in (space.live_grants() if space is not None else ())
                ),
                self._device.close,
                self.container.close,
                self._faults.close,
            ]
        )

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`: the child's copies of the descriptors are closed."""
        self._lock = LostLock()
        self._closed = True
        if self._space is not None:
            self._space.abandon()
        each_tried([self._device.abandon, self.container.abandon, self._faults.abandon])


def open_bus(physical: PhysicalMap, **options: Any) -> VfioBus:
    """What `pinfold.open_bus("vfio:0000:00:04.0")` calls; device addresses are the IOMMU's."""
    del physical
    if "address" not in options:
        raise InvalidArgs(
            "the vfio bus is one device's", remedy='name it: open_bus("vfio:0000:00:04.0")'
        )
    return VfioBus(**options)
