# One initiator's address space behind the software IOMMU: granting, revoking, translating.
#
# Two look-ups stand before the sorted map of grants, as in a real IOMMU: the pages that were
# touched last, and every grant of one page (rings and descriptors have thousands of them, and no
# order).
#
# Lock: `SimSpace.lock`, held while an access checks and moves its bytes and while grants change.
from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NoReturn

from pinfold.buses.diagnosis import Diagnosis
from pinfold.buses.placing import no_room, within
from pinfold.buses.sim.grant import SimGrant
from pinfold.buses.sim.master import SimMaster
from pinfold.errors import InvalidArgs, LimitReached, NotSupported
from pinfold.memory.locks import LostLock, held_by_this_thread, refuse_inside
from pinfold.memory.space import Placement
from pinfold.units import PAGE_SHIFT, PAGE_SIZE, human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import Grant, PinnedRange
    from pinfold.buses.sim import SimBus

_TLB_ENTRIES: Final = 4096


class SimSpace:
    """One initiator behind the software IOMMU."""

    def __init__(self, bus: SimBus, initiator: int, address_bits: int) -> None:
        apertures = within(bus.limits.apertures, address_bits)
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self.users = 0
        self._space: Placement[SimGrant] = Placement(apertures, guard=bus.guard)
        self._align = bus.limits.minimum_contiguity
        self.lock: threading.RLock | LostLock = threading.RLock()
        self.owed: deque[Callable[[], None]] = deque()
        """What is to be done once an access is over: listeners, and what finalisers left."""
        self._tlb: dict[int, SimGrant] = {}
        self._single: dict[int, SimGrant] = {}  # grants of one page, by page: rings have thousands
        self._diagnosis = Diagnosis(
            initiator, address_bits, bus.faults, self._space, bus.guard, self.owed
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
        grant = SimGrant(pinned, perms, next(self._bus.numbers))
        with self.lock:
            start = self._space.place(size, self._align, grant)
            if start is None:
                raise self._no_space(size)
            grant.start = start
            grant.stop = start + size
            if size == PAGE_SIZE:
                self._single[start >> PAGE_SHIFT] = grant
        return grant

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`."""
        if not isinstance(grant, SimGrant):
            raise InvalidArgs("a grant of another bus")
        refuse_inside(self.lock)
        with self.lock:
            if not grant.live:  # revoking again is allowed
                return
            self._space.remove(grant.start)
            grant.live = False
            if grant.stop - grant.start == PAGE_SIZE:
                del self._single[grant.start >> PAGE_SHIFT]
            if grant.cached is not None:
                for page in grant.cached:
                    self._tlb.pop(page, None)
            grant.view = None
            self._diagnosis.forget(grant)

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`."""
        self.owed.append(settle)

    def ended_access(self) -> None:
        """What a master calls after an access, outside the lock, when something is owed."""
        if held_by_this_thread(self.lock):  # an access inside an access: the outer one's end
            return
        while self.owed:
            try:
                act = self.owed.popleft()  # one step: several threads end accesses at once
            except IndexError:
                return
            act()

    def master(self) -> SimMaster:
        """A port for a software device."""
        return SimMaster(self)

    def device(self) -> NoReturn:
        """See `pinfold.bus.DeviceSpace.device`."""
        raise NotSupported("the devices of the sim bus are programs", remedy="use master()")

    def quiesce(self) -> None:
        """A program stops when its own program has it stop."""

    def close(self) -> None:
        """Nothing is held beyond the grants, which the caller has settled.

        Raises:
          Unavailable: a finaliser inside an access of its own thread; see `notify_idle`.
        """
        refuse_inside(self.lock)
        self._bus.detach(self)

    def live_grants(self) -> list[Grant]:
        """The grants that are live, by address."""
        with self.lock:
            return [grant for _, _, grant in self._space.blocks]

    # Accesses: called by the master with the lock held ------------------------------------------

    def translate(self, address: int, size: int, access: int) -> SimGrant:
        """The grant that covers the whole access and permits it, or a fault."""
        if size < 0:
            raise InvalidArgs("an access of fewer than no bytes", asked=size)
        page = address >> PAGE_SHIFT
        grant = self._tlb.get(page) or self._single.get(page)
        if grant is None:
            found = self._space.blocks.find(address)
            if found is None:
                raise self._diagnosis.fault(address, size, access, None)
            grant = found[2]
            self._remember(page, grant)
        if address < grant.start or address + size > grant.stop or not grant.perms & access:
            raise self._diagnosis.fault(address, size, access, grant)
        if not grant.reached:
            grant.reached = True
            grant.view = grant.pinned.shared_view
        return grant

    def _remember(self, page: int, grant: SimGrant) -> None:
        if len(self._tlb) >= _TLB_ENTRIES:
            for cached in self._tlb.values():
                cached.cached = None
            self._tlb.clear()
        self._tlb[page] = grant
        if grant.cached is None:
            grant.cached = [page]
        else:
            grant.cached.append(page)

    def _no_space(self, size: int) -> LimitReached:
        return no_room(
            f"device {self._initiator:#x} with {self._address_bits} address bits has no room for "
            f"the extent of {human_size(size)} aligned to {human_size(self._align)}",
            size,
            self._space,
        )
