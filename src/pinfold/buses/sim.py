# The sim bus: a translating IOMMU in software.
#
# Each initiator has an address space of its own. A grant is one run of device addresses in it,
# aligned to the minimum contiguity, with unmapped space after it; an address that was given back
# is not given out again until the space has been walked once. So a device that runs past the end,
# or comes back too late, meets nothing, and the fault record says whose grant it was after.
#
# What it cannot promise: time. A real IOMMU forgets a translation some time after it was told to;
# here revocation is immediate. It does not model caches, ordering or posted writes.
#
# Lock: one per space, held while an access checks and moves its bytes, and while grants change.
# That is what makes `revoke` mean "no access is under way". Long copies take it burst by burst.
from __future__ import annotations

import threading
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from pinfold import sites
from pinfold.bus import (
    Anchor,
    BusLimits,
    Extents,
    Fault,
    FaultLog,
    FaultReason,
    Grant,
    GrantRecord,
    PinnedRange,
    reach,
)
from pinfold.errors import DmaFault, InvalidArgs, LimitReached
from pinfold.host import calls
from pinfold.memory.locks import refuse_inside
from pinfold.memory.space import Placement
from pinfold.rights import Perm, describe_perms
from pinfold.units import (
    MIB,
    PAGE_SHIFT,
    PAGE_SIZE,
    ByteRange,
    human_size,
    is_power_of_two,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pinfold.memory.physmap import PhysicalMap
    from pinfold.sites import Site

_READ: Final = int(Perm.READ)
_WRITE: Final = int(Perm.WRITE)
_EXECUTE: Final = int(Perm.EXECUTE)

_BURST: Final = 4 * MIB
"""Bytes a copy moves before it looks at its grants again."""

_KEPT_REVOKED: Final = 4096
"""Revoked grants that a space remembers, to tell a late access from a stray one."""

_TLB_ENTRIES: Final = 4096

_ADDRESS_BITS: Final = 48


class SimGrant(Grant):
    """A grant with what an access needs at hand."""

    __slots__ = ("cached", "live", "number", "start", "stop", "view")

    def __init__(self, pinned: PinnedRange, perms: int, start: int, number: int) -> None:
        self.pinned = pinned
        self.perms = perms
        self.start = start
        self.stop = start + pinned.size
        self.number = number
        self.live = True
        self.extents = Extents(pinned.size, start=start)
        self.view = pinned.shared_view
        self.cached: list[int] | None = None
        """Pages of this grant that the lookaside buffer has; None for none."""


class SimSpace:
    """One initiator behind the software IOMMU."""

    def __init__(self, bus: SimBus, initiator: int, address_bits: int) -> None:
        top = reach(address_bits)
        apertures = [
            (low, min(high, top)) for low, high in bus.limits.apertures if low < min(high, top)
        ]
        if not apertures:
            raise InvalidArgs(
                f"a device with {address_bits} address bits reaches none of the bus's apertures",
                asked=address_bits,
                limit=bus.limits.apertures[0].start,
            )
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self.users = 0
        self._space: Placement[SimGrant] = Placement(apertures, guard=bus.guard)
        self._align = bus.limits.minimum_contiguity
        self._grants = 0
        self._lock = threading.RLock()
        self._settle: Callable[[], None] | None = None
        self._tlb: dict[int, SimGrant] = {}
        # A tuple each, made into a record only when a fault asks: this is on the path of every
        # unpin.
        self._revoked: deque[tuple[int, int, int, int, str, Site, int, Site]] = deque(
            maxlen=_KEPT_REVOKED
        )

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
        size = pinned.size
        grant = SimGrant(pinned, perms, 0, self._bus.next_number())
        with self._lock:
            start = self._space.place(size, self._align, grant)
            if start is None:
                raise self._no_space(size)
            grant.start = start
            grant.stop = start + size
            grant.extents = Extents(size, start=start)
            self._grants += 1
        return grant

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`."""
        if not isinstance(grant, SimGrant):
            raise InvalidArgs("a grant of another bus")
        refuse_inside(self._lock)
        with self._lock:
            if not grant.live:  # revoking again is allowed
                return
            self._space.remove(grant.start)
            grant.live = False
            if grant.cached is not None:
                for page in grant.cached:
                    self._tlb.pop(page, None)
            self._grants -= 1
            pinned = grant.pinned
            self._revoked.append(
                (
                    grant.number,
                    grant.start,
                    grant.stop,
                    grant.perms,
                    pinned.what,
                    pinned.site,
                    monotonic_ns(),
                    sites.caller(),
                )
            )
            grant.view = None

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`."""
        self._settle = settle

    def ended_access(self) -> None:
        """What a master calls after each access, outside the lock."""
        settle = self._settle
        if settle is not None:
            self._settle = None
            settle()

    def master(self) -> SimMaster:
        """A port for a software device."""
        return SimMaster(self)

    def close(self) -> None:
        """Nothing is held beyond the grants, which the caller has settled."""
        self._bus.detach(self)

    def live_grants(self) -> list[Grant]:
        """The grants that are live, by address."""
        with self._lock:
            return [grant for _, _, grant in self._space.blocks]

    # Accesses: called by the master with the lock held ------------------------------------------

    def translate(self, address: int, size: int, access: int) -> SimGrant:
        """The grant that covers the whole access and permits it, or a fault."""
        if size < 0:
            raise InvalidArgs("an access of fewer than no bytes", asked=size)
        grant = self._tlb.get(address >> PAGE_SHIFT)
        if grant is None:
            found = self._space.blocks.find(address)
            if found is None:
                raise self._fault(address, size, access, None)
            grant = found[2]
            self._remember(address >> PAGE_SHIFT, grant)
        if address < grant.start or address + size > grant.stop or not grant.perms & access:
            raise self._fault(address, size, access, grant)
        return grant

    def _remember(self, page: int, grant: SimGrant) -> None:
        if len(self._tlb) >= _TLB_ENTRIES:
            for cached in set(self._tlb.values()):
                cached.cached = None
            self._tlb.clear()
        self._tlb[page] = grant
        if grant.cached is None:
            grant.cached = [page]
        else:
            grant.cached.append(page)

    # Faults -------------------------------------------------------------------------------------

    def _record(self, grant: SimGrant) -> GrantRecord:
        pinned = grant.pinned
        return GrantRecord(
            grant.number,
            self._initiator,
            ByteRange(grant.start, grant.stop),
            grant.perms,
            pinned.what,
            pinned.site,
        )

    def _fault(self, address: int, size: int, access: int, grant: SimGrant | None) -> DmaFault:
        """Record the fault, and say why in the words a driver's author needs."""
        nearest: GrantRecord | None
        if grant is not None:
            nearest = self._record(grant)
            if address + size > grant.stop:
                past = address + size - grant.stop
                reason = FaultReason.BEYOND_END
                detail = f"{past} byte(s) beyond the end of grant {grant.number} at {grant.stop:#x}"
            else:
                reason = FaultReason.NOT_PERMITTED
                detail = (
                    f"grant {grant.number} permits {describe_perms(grant.perms)}, "
                    f"not {describe_perms(access)}"
                )
        elif address >> self._address_bits or address < 0:
            reason, nearest = FaultReason.OUT_OF_REACH, None
            detail = f"the device has {self._address_bits} address bits"
        else:
            reason, detail, nearest = self._explain_absence(address, size)
        fault = Fault(
            number=self._bus.faults.total + 1,
            initiator=self._initiator,
            access=access,
            address=address,
            size=size,
            when_ns=monotonic_ns(),
            reason=reason,
            detail=detail,
            nearest=nearest,
        )
        self._bus.faults.add(fault)
        return DmaFault(fault)

    def _explain_absence(
        self, address: int, size: int
    ) -> tuple[FaultReason, str, GrantRecord | None]:
        for number, start, stop, perms, what, site, when, where in reversed(self._revoked):
            if start <= address < stop:
                ago = (monotonic_ns() - when) / 1e6
                old = GrantRecord(
                    number, self._initiator, ByteRange(start, stop), perms, what, site, when, where
                )
                detail = (
                    f"was granted until {ago:.3f} ms ago (grant {number}), "
                    f"when it was revoked at {sites.describe(where)}"
                )
                return FaultReason.REVOKED, detail, old
        below = self._space.blocks.at_or_below(address)
        above = self._space.blocks.above(address)
        if below is not None and address < below[1] + self._bus.guard:
            past = address + size - below[1]
            detail = f"{past} byte(s) beyond the end of grant {below[2].number} at {below[1]:#x}"
            return FaultReason.BEYOND_END, detail, self._record(below[2])
        near = [entry for entry in (below, above) if entry is not None]
        if not near:
            return FaultReason.NOTHING_THERE, "nothing is granted to this device", None
        start, stop, grant = min(near, key=lambda e: max(e[0] - address, address - e[1]))
        distance = start - address if address < start else address - stop
        side = "before" if address < start else "after"
        detail = f"nothing there; {distance:#x} bytes {side} grant {grant.number}"
        return FaultReason.NOTHING_THERE, detail, self._record(grant)

    def _no_space(self, size: int) -> LimitReached:
        return LimitReached(
            f"device {self._initiator:#x} with {self._address_bits} address bits has no room for "
            f"the extent of {human_size(size)} aligned to {human_size(self._align)}",
            asked=size,
            available=self._space.largest_gap(),
            limit=self._space_size(),
            holder=f"{self._grants} live grant(s)",
            remedy="unpin something, or pin smaller ranges",
        )

    def _space_size(self) -> int:
        top = reach(self._address_bits)
        return sum(min(high, top) - low for low, high in self._bus.limits.apertures if low < top)


class SimMaster:
    """A software device's port on the sim bus."""

    __slots__ = ("_lock", "_space")

    def __init__(self, space: SimSpace) -> None:
        self._space = space
        self._lock = space._lock  # noqa: SLF001 - the port is part of the space

    @property
    def initiator(self) -> int:
        """Who the bus thinks is calling."""
        return self._space.initiator

    def read(self, address: int, size: int) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        return self._load(address, size, _READ)

    def fetch(self, address: int, size: int) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`."""
        return self._load(address, size, _EXECUTE)

    def _load(self, address: int, size: int, access: int) -> bytes:
        with self._lock:
            grant = self._space.translate(address, size, access)
            offset = address - grant.start
            view = grant.view
            if view is not None:
                data = view[offset : offset + size].tobytes()
            else:
                buffer = bytearray(size)
                grant.pinned.read_into(memoryview(buffer), offset)
                data = bytes(buffer)
        self._space.ended_access()
        return data

    def read_into(self, address: int, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        target = buffer.cast("B")
        size = len(target)
        with self._lock:
            grant = self._space.translate(address, size, _READ)
            offset = address - grant.start
            if grant.view is not None:
                target[:] = grant.view[offset : offset + size]
            else:
                grant.pinned.read_into(target, offset)
        self._space.ended_access()

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        source = memoryview(data).cast("B")
        size = len(source)
        with self._lock:
            grant = self._space.translate(address, size, _WRITE)
            offset = address - grant.start
            if grant.view is not None:
                grant.view[offset : offset + size] = source
            else:
                grant.pinned.write_from(source, offset)
        self._space.ended_access()

    def copy(self, destination: int, source: int, size: int) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        for at in range(0, size, _BURST):
            with self._lock:
                self._burst(destination + at, source + at, min(_BURST, size - at))
        self._space.ended_access()

    def _burst(self, destination: int, source: int, size: int) -> None:
        space = self._space
        reading = space.translate(source, size, _READ)
        writing = space.translate(destination, size, _WRITE)
        if reading.view is not None and writing.view is not None:
            calls.memmove(
                writing.pinned.host_address + destination - writing.start,
                reading.pinned.host_address + source - reading.start,
                size,
            )
            return
        data = memoryview(bytearray(size))
        reading.pinned.read_into(data, source - reading.start)
        writing.pinned.write_from(data, destination - writing.start)


class SimBus:
    """A translating software IOMMU with an address space per initiator.

    Args:
      minimum_contiguity: bytes, a power of two, at least a page: the alignment of every grant.
      aperture: the device addresses that can be given out; by default one page up to 2**48.
      guard: unmapped bytes after every grant; at least a page.
      anchor: what holds the pages of a grant: NONE (the devices are programs), or MLOCK to keep
        them resident as well.
    """

    def __init__(
        self,
        *,
        minimum_contiguity: int = PAGE_SIZE,
        aperture: ByteRange | Sequence[int] | None = None,
        guard: int = PAGE_SIZE,
        anchor: Anchor = Anchor.NONE,
    ) -> None:
        if not is_power_of_two(minimum_contiguity) or minimum_contiguity < PAGE_SIZE:
            raise InvalidArgs(
                "the minimum contiguity is a power of two and at least a page",
                asked=minimum_contiguity,
                limit=PAGE_SIZE,
            )
        if aperture is None:
            aperture = ByteRange(minimum_contiguity, 1 << _ADDRESS_BITS)
        window = ByteRange(*aperture)
        if not 0 <= window.start < window.stop <= 1 << 64:
            raise InvalidArgs("the aperture is empty or no range of 64-bit addresses")
        if guard < PAGE_SIZE:
            raise InvalidArgs("the guard is at least a page", asked=guard, limit=PAGE_SIZE)
        if anchor not in (Anchor.NONE, Anchor.MLOCK):
            raise InvalidArgs(f"the sim bus cannot hold pages by {anchor.value}")
        self.guard = guard
        self._limits = BusLimits(
            page_size=PAGE_SIZE,
            minimum_contiguity=minimum_contiguity,
            apertures=(window,),
            max_grant=None,
            max_grants=None,
            isolates=True,
            anchor=anchor,
        )
        self._faults = FaultLog()
        self._spaces: dict[int, SimSpace] = {}
        self._number = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """``sim``."""
        return "sim"

    @property
    def limits(self) -> BusLimits:
        """What it promises."""
        return self._limits

    @property
    def faults(self) -> FaultLog:
        """What it stopped."""
        return self._faults

    def next_number(self) -> int:
        """A number for a grant."""
        self._number += 1
        return self._number

    def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
        """See `pinfold.bus.Bus.attach`. The same initiator twice is the same device."""
        with self._lock:
            space = self._spaces.get(initiator)
            if space is None:
                space = self._spaces[initiator] = SimSpace(self, initiator, address_bits)
            elif space.address_bits != address_bits:
                raise InvalidArgs(
                    f"initiator {initiator:#x} is attached with {space.address_bits} address bits",
                    asked=address_bits,
                )
            space.users += 1
            return space

    def detach(self, space: SimSpace) -> None:
        """One user of a space is done."""
        with self._lock:
            space.users -= 1
            if not space.users and not space.live_grants():
                del self._spaces[space.initiator]

    def close(self) -> None:
        """Revoke what is live."""
        for space in list(self._spaces.values()):
            for grant in space.live_grants():
                space.revoke(grant)


def open_bus(physical: PhysicalMap, **options: Any) -> SimBus:
    """What `pinfold.open_bus("sim", ...)` calls; device addresses are the bus's own."""
    del physical
    return SimBus(**options)
