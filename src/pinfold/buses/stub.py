# The stub bus: no IOMMU at all. Source: Zircon's stub (formerly dummy) IOMMU.
#
# Device addresses are physical addresses, of simulated memory: scattered by a seeded policy, in one
# run for contiguous objects. Granting has nothing to do and revoking has nothing to take back.
#
# What it cannot promise: anything. A device reaches every page that has a physical address,
# granted or not, with any access, before and after the pin. That is what a machine without an IOMMU
# is like, and the reason to test on `sim` as well. It stops only an address where no memory is.
#
# It does keep one promise of ours: a device that cannot put an address on the bus is told so when
# the memory is pinned, with the extent named, instead of silently using the low bits.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, Final, NoReturn, SupportsIndex

from pinfold.buffers import flat
from pinfold.bus import (
    Anchor,
    BusLimits,
    Extents,
    Fault,
    FaultLog,
    FaultReason,
    Grant,
    PinnedRange,
    out_of_reach_text,
    page_extents,
    reach,
)
from pinfold.errors import DmaFault, InvalidArgs, NotSupported, OutOfReach
from pinfold.rights import Perm
from pinfold.units import MIB, PAGE_SIZE, UINT64_MAX, ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.memory.physmap import PhysicalMap

_READ = int(Perm.READ)
_WRITE = int(Perm.WRITE)
_EXECUTE = int(Perm.EXECUTE)

_BURST: Final = 4 * MIB
"""Bytes a copy moves at a time, each checked whole before it moves."""


class StubSpace:
    """One initiator on a bus that translates nothing."""

    def __init__(self, bus: StubBus, initiator: int, address_bits: int) -> None:
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self._live: dict[int, Grant] = {}

    @property
    def initiator(self) -> int:
        """The device, as the bus knows it."""
        return self._initiator

    @property
    def address_bits(self) -> int:
        """How many address bits the device has."""
        return self._address_bits

    def grant(self, pinned: PinnedRange, perms: int) -> Grant:
        """See `pinfold.bus.DeviceSpace.grant`."""
        addresses = pinned.physical_addresses()
        extents = (
            Extents.run(int(addresses[0]), pinned.size)
            if pinned.contiguous
            else page_extents(addresses, pinned.size)
        )
        highest = extents.highest()
        if highest.address + highest.size > reach(self._address_bits):
            raise OutOfReach(
                out_of_reach_text(highest, self._address_bits),
                extent=highest,
                limit=reach(self._address_bits),
                remedy="use a bus that translates, or a device with more address bits",
            )
        grant = Grant(pinned, perms, extents)
        self._live[id(grant)] = grant
        return grant

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`. There is nothing to take back."""
        self._live.pop(id(grant), None)

    def live_grants(self) -> list[Grant]:
        """See `pinfold.bus.DeviceSpace.live_grants`."""
        return list(self._live.values())

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`. Revoking never has to wait here."""
        settle()

    def master(self) -> StubMaster:
        """A port for a software device."""
        return StubMaster(self._bus, self._initiator, self._address_bits)

    def device(self) -> NoReturn:
        """See `pinfold.bus.DeviceSpace.device`."""
        raise NotSupported("the devices of the stub bus are programs", remedy="use master()")

    def quiesce(self) -> None:
        """A program stops when its own program has it stop."""

    def close(self) -> None:
        """Nothing is held."""


class StubMaster:
    """A software device's port: physical memory, unguarded."""

    def __init__(self, bus: StubBus, initiator: int, address_bits: int) -> None:
        self._bus = bus
        self._physical = bus.physical
        self._initiator = initiator
        self._address_bits = address_bits

    @property
    def initiator(self) -> int:
        """Who is calling; the bus does not care."""
        return self._initiator

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        return self._load(address, size, _READ)

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`."""
        return self._load(address, size, _EXECUTE)

    def _load(self, where: SupportsIndex, count: SupportsIndex, access: int) -> bytes:
        address, size = index(where), index(count)
        if size < 0:
            raise InvalidArgs("an access of fewer than no bytes", asked=size)
        self._refuse_bad(address, size, access)  # before a buffer is made for it
        data = bytearray(size)
        self._move(address, memoryview(data), access)
        return bytes(data)

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        self._move(address, flat(buffer), _READ)

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        self._move(address, flat(data), _WRITE)

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        to, start, total = index(destination), index(source), index(size)
        if total < 0:
            raise InvalidArgs("an access of fewer than no bytes", asked=total)
        for at in range(0, total, _BURST):
            self.write(to + at, self._load(start + at, min(_BURST, total - at), _READ))

    def _refuse_bad(self, address: int, size: int, access: int) -> None:
        """Raise `DmaFault`, outside the map's lock, unless all of the access has memory behind."""
        with self._physical.lock:
            fault = self._check(address, size, access)
        if fault is not None:
            self._bus.faults.tell(fault)
            raise DmaFault(fault)

    def _move(self, where: SupportsIndex, buffer: memoryview, access: int) -> None:
        """One access, extent by extent, checked whole before its first byte moves."""
        address, fault = index(where), None
        try:
            with self._physical.lock:
                fault = self._check(address, len(buffer), access)
                if fault is None:
                    self._move_checked(address, buffer, access)
        finally:
            self._physical.ended_access()
        if fault is not None:
            self._bus.faults.tell(fault)
            raise DmaFault(fault)

    def _move_checked(self, address: int, buffer: memoryview, access: int) -> None:
        done = 0
        while done < len(buffer):
            pages, offset, span = self._physical.at(address + done)
            part = buffer[done : done + span]
            if access == _WRITE:
                pages.write_from(part, offset)
            else:
                pages.read_into(part, offset)
            done += len(part)

    def _check(self, address: int, size: int, access: int) -> Fault | None:
        """The record of the fault if a byte of the access has no memory behind it."""
        reason, detail = (
            FaultReason.OUT_OF_REACH,
            f"the device has {self._address_bits} address bits",
        )
        at = address
        if address >= 0 and address + size <= reach(self._address_bits):
            while at < address + size:
                found = self._physical.find(at)
                if found is None:
                    reason, detail = FaultReason.NOTHING_THERE, f"no memory at {at:#x}"
                    break
                at += found[2]
            else:
                return None
        return self._bus.faults.record(
            initiator=self._initiator,
            access=access,
            address=address,
            size=size,
            reason=reason,
            detail=detail,
        )


class StubBus:
    """A bus without translation or protection, over simulated physical memory."""

    def __init__(self, physical: PhysicalMap) -> None:
        self.physical = physical
        self._limits = BusLimits(
            page_size=PAGE_SIZE,
            minimum_contiguity=PAGE_SIZE,
            apertures=(ByteRange(0, UINT64_MAX + 1),),
            max_grant=None,
            max_grants=None,
            isolates=False,
            anchor=Anchor.NONE,
        )
        self._faults = FaultLog()

    @property
    def name(self) -> str:
        """``stub``."""
        return "stub"

    @property
    def limits(self) -> BusLimits:
        """What it promises, which is little."""
        return self._limits

    @property
    def faults(self) -> FaultLog:
        """Accesses to where no memory is."""
        return self._faults

    def attach(self, initiator: int, *, address_bits: int = 64) -> StubSpace:
        """See `pinfold.bus.Bus.attach`. Any number of devices may share an initiator."""
        if not 1 <= address_bits <= 64:
            raise InvalidArgs("a device has 1 to 64 address bits", asked=address_bits, limit=64)
        return StubSpace(self, initiator, address_bits)

    def close(self) -> None:
        """Nothing is held."""

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`. The physical map is lost with its kernel."""
        self.physical.lose()


def open_bus(physical: PhysicalMap, **options: Any) -> StubBus:
    """What `pinfold.open_bus("stub", ...)` calls."""
    return StubBus(physical, **options)
