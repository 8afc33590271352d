# The device's address space on the vfio bus: placing grants, and having the kernel map them.
#
#   grant   an address is taken, THEN the kernel maps
#   revoke  the kernel unmaps, THEN the address is given back
#
# Swapped, two grants could meet at one address. The address itself is not given out again until the
# space has been walked once, and a page stays free after every grant: a device that comes too late
# or runs too far meets nothing, as on `sim`.
#
# Locks: `VfioSpace.lock` for the table of grants, never held while the kernel maps or unmaps, which
# takes long; each grant's own while it is being unmapped. Order: the kernel object's (if the caller
# has it), then the bus's, a grant's, the table's.
#
# A call can be broken off at any point, by a Ctrl-C or by what a signal handler raises. Then nobody
# knows whether the kernel had mapped: the address stays taken. Nothing that was put off runs before
# the outcome of a call is certain, or its exception would be taken for the outcome.
from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from pinfold.bus import Extent, out_of_reach_text, reach
from pinfold.buses.diagnosis import Diagnosis
from pinfold.buses.placing import no_room, within
from pinfold.buses.vfio.grant import VfioGrant
from pinfold.errors import InvalidArgs, LimitReached, NotSupported, OutOfReach, PinfoldError
from pinfold.faults import FaultReason
from pinfold.memory.locks import LostLock, Reentered, held_by_this_thread, refuse_inside
from pinfold.memory.space import Placement
from pinfold.rights import describe_perms
from pinfold.units import ByteRange, DevVa, human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import BusMaster, Grant, PinnedRange
    from pinfold.buses.vfio import VfioBus
    from pinfold.buses.vfio.device import VfioDevice
    from pinfold.faults import GrantRecord

_SMALLEST_HUGE: Final = 1 << 21
"""Bytes from which an alignment to the IOMMU's larger pages is tried: two levels of its tables."""


class VfioSpace:
    """The one device of a vfio bus, with so many address bits."""

    def __init__(self, bus: VfioBus, initiator: int, address_bits: int) -> None:
        apertures = within(bus.limits.apertures, address_bits)
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self.users = 0
        """Authorities that have not left."""
        self.driving = 0
        """Those of them that somebody has a handle to."""
        page = bus.limits.page_size
        self._space: Placement[VfioGrant] = Placement(apertures, guard=page)
        self._aligns = [
            *(size for size in sorted(bus.page_sizes, reverse=True) if size >= _SMALLEST_HUGE),
            page,
        ]
        self.lock: threading.RLock | LostLock = threading.RLock()
        self._owed: deque[Callable[[], None]] = deque()
        self._diagnosis = Diagnosis(
            initiator, address_bits, bus.faults, self._space, page, self._owed
        )

    @property
    def initiator(self) -> int:
        """The device's requester id."""
        return self._initiator

    @property
    def address_bits(self) -> int:
        """How many address bits the device has, as the caller said."""
        return self._address_bits

    @property
    def idle(self) -> bool:
        """True while nobody has an authority for the device, and no address is taken.

        It takes no lock: it is asked under the bus's, for which a finaliser may wait that has ours.
        """
        return not self.users and not self._space.blocks

    # Granting -----------------------------------------------------------------------------------

    def grant(self, pinned: PinnedRange, perms: int) -> Grant:
        """See `pinfold.bus.DeviceSpace.grant`.

        Raises: as there, and as `Container.map`. After any other exception it may be granted, and
        the address stays taken until the bus is closed.
        """
        grant = VfioGrant(pinned, perms, next(self._bus.numbers))
        with self.lock:
            self._place(grant, pinned.size)
        try:
            self._bus.container.map(pinned, grant.start, perms)
        except Reentered:  # a signal handler's, which may have come when it was mapped
            raise
        except PinfoldError:
            with self.lock:
                self._space.remove(grant.start)
            raise
        grant.live = True
        return grant

    def _place(self, grant: VfioGrant, size: int) -> None:
        """Take an address, on a border of the IOMMU's larger pages where that can be."""
        for align in self._aligns:
            if size < align and align != self._aligns[-1]:
                continue
            start = self._space.place(size, align, grant)
            if start is not None:
                grant.start, grant.stop = start, start + size
                return
        raise self._no_room(size)

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`. Raises as `Container.unmap`.

        What was broken off is finished by revoking again: what is no longer mapped then, is gone.
        """
        if not isinstance(grant, VfioGrant):
            raise InvalidArgs("a grant of another bus")
        refuse_inside(self.lock)
        refuse_inside(grant.lock)
        with self.lock:  # in a forked child this raises
            pass
        with grant.lock:
            if grant.live:
                again, grant.unmapping = grant.unmapping, True
                size = grant.stop - grant.start
                self._bus.container.unmap(grant.start, size, again=again)
                grant.live = False
            with self.lock:
                found = self._space.blocks.find(grant.start)
                if found is not None and found[2] is grant:  # revoking again is allowed
                    self._space.remove(grant.start)
                    self._diagnosis.forget(grant)
        self._settle()

    def live_grants(self) -> list[Grant]:
        """The grants that are live, by address."""
        with self.lock:
            found: list[Grant] = [grant for _, _, grant in self._space.blocks if grant.live]
        self._settle()
        return found

    def explain(self, page: int, access: int) -> tuple[FaultReason, str, GrantRecord | None]:
        """Why the IOMMU stopped an access to a page: as it looks now, which is later.

        So what was stopped while a grant lived is REVOKED once the grant is. Where the grant never
        permitted it, the detail says so: then it may have come before.
        """
        with self.lock:
            found = self._space.blocks.find(page)
            grant = None if found is None else found[2]
            if grant is not None and grant.perms & access:
                detail = f"nothing was granted there then; grant {grant.number} is now"
                return FaultReason.NOTHING_THERE, detail, None
            reason, detail, nearest = self._diagnosis.explain(page, 1, access, grant)
        if reason is FaultReason.REVOKED and nearest is not None and not nearest.perms & access:
            allowed, wanted = describe_perms(nearest.perms), describe_perms(access)
            detail += f"; it permitted {allowed}, not {wanted}, so this may have been before that"
        return reason, detail, nearest

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`."""
        self._owed.append(settle)

    def _settle(self) -> None:
        """What finalisers left while this thread had a lock of ours."""
        while self._owed and not held_by_this_thread(self.lock):
            try:
                act = self._owed.popleft()
            except IndexError:  # another thread was quicker
                return
            act()

    # The device ---------------------------------------------------------------------------------

    def master(self) -> BusMaster:
        """Raises NotSupported: the device is real."""
        raise NotSupported(
            "the device behind this authority is real, and no program", remedy="use device()"
        )

    def device(self) -> VfioDevice:
        """The device: its registers, configuration space and interrupts."""
        return self._bus.device

    def quiesce(self) -> None:
        """One handle is gone. After the last: bus mastering off, then reset."""
        refuse_inside(self.lock)
        self._bus.quiesce(self)

    def close(self) -> None:
        """One user is done. Raises as `VfioBus.detach`."""
        refuse_inside(self.lock)
        self._bus.detach(self)

    def abandon(self) -> None:
        """In a forked child: every use raises."""
        self.lock = LostLock()

    # Refusals -----------------------------------------------------------------------------------

    def _no_room(self, size: int) -> LimitReached:
        """There is no room for the device; perhaps there would be for one that reaches further."""
        top = reach(self._address_bits)
        beyond = next(
            (
                ByteRange(max(low, top), high)
                for low, high in self._bus.limits.apertures
                if high - max(low, top) >= size
            ),
            None,
        )
        if beyond is not None:
            extent = Extent(DevVa(beyond.start), 0, size)
            return OutOfReach(
                f"{out_of_reach_text(extent, self._address_bits)}; below, "
                f"{len(self._space.blocks)} live grant(s) leave "
                f"{human_size(self._space.largest_gap())} in one piece",
                extent=extent,
                limit=top,
                remedy="unpin something, or pin smaller ranges",
            )
        return no_room(
            f"the IOMMU has no room for the extent of {human_size(size)}", size, self._space
        )
