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

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

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
from pinfold.errors import DmaFault, InvalidArgs, OutOfReach
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE, UINT64_MAX, ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.memory.physmap import PhysicalMap

_READ = int(Perm.READ)
_WRITE = int(Perm.WRITE)
_EXECUTE = int(Perm.EXECUTE)


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

    def read(self, address: int, size: int) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        data = bytearray(size)
        self._move(address, memoryview(data), _READ)
        return bytes(data)

    def fetch(self, address: int, size: int) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`."""
        data = bytearray(size)
        self._move(address, memoryview(data), _EXECUTE)
        return bytes(data)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        self._move(address, buffer.cast("B"), _READ)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        self._move(address, memoryview(data).cast("B"), _WRITE)

    def copy(self, destination: int, source: int, size: int) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        data = bytearray(size)
        self._check(destination, size, _WRITE)
        self._move(source, memoryview(data), _READ)
        self._move(destination, memoryview(data), _WRITE)

    def _move(self, address: int, buffer: memoryview, access: int) -> None:
        """One access, extent by extent, checked whole before its first byte moves."""
        with self._physical.lock:
            self._check(address, len(buffer), access)
            done = 0
            while done < len(buffer):
                found = self._physical.find(address + done)
                if found is None:  # the map's lock is held, and _check has just walked it
                    raise self._fault(address, len(buffer), access)
                pages, offset, span = found
                part = buffer[done : done + span]
                if access == _WRITE:
                    pages.write_from(part, offset)
                else:
                    pages.read_into(part, offset)
                done += len(part)

    def _check(self, address: int, size: int, access: int) -> None:
        with self._physical.lock:
            if address < 0 or address + size > reach(self._address_bits):
                raise self._fault(address, size, access)
            at = address
            while at < address + size:
                found = self._physical.find(at)
                if found is None:
                    raise self._fault(address, size, access, missing=at)
                at += found[2]

    def _fault(
        self, address: int, size: int, access: int, *, missing: int | None = None
    ) -> DmaFault:
        if missing is None:
            reason = FaultReason.OUT_OF_REACH
            detail = f"the device has {self._address_bits} address bits"
        else:
            reason = FaultReason.NOTHING_THERE
            detail = f"no memory at {missing:#x}"
        fault = Fault(
            number=self._bus.faults.total + 1,
            initiator=self._initiator,
            access=access,
            address=address,
            size=size,
            when_ns=monotonic_ns(),
            reason=reason,
            detail=detail,
        )
        self._bus.faults.add(fault)
        return DmaFault(fault)


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


def open_bus(physical: PhysicalMap, **options: Any) -> StubBus:
    """What `pinfold.open_bus("stub", ...)` calls."""
    return StubBus(physical, **options)
