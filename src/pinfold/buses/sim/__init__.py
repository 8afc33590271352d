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
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from pinfold.bus import Anchor, BusLimits, FaultLog
from pinfold.buses.sim.grant import SimGrant
from pinfold.buses.sim.master import SimMaster
from pinfold.buses.sim.space import SimSpace
from pinfold.errors import InvalidArgs
from pinfold.memory.locks import LostLock, refuse_inside
from pinfold.units import PAGE_SIZE, ByteRange, is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pinfold.memory.physmap import PhysicalMap

__all__ = ["SimBus", "SimGrant", "SimMaster", "SimSpace", "open_bus"]

_ADDRESS_BITS: Final = 48


class SimBus:
    """A translating software IOMMU with an address space per initiator.

    Args:
      minimum_contiguity: bytes, a power of two, at least a page: the alignment of every grant.
      aperture: the device addresses that can be given out; by default one page up to 2**48.
      guard: unmapped bytes after every grant; at least a page.
      anchor: what holds the pages of a grant: NONE (the devices are programs), or MLOCK to keep
        them resident as well.
      serves: says of a number whether a device of that number is on the bus; by default all are.
    """

    def __init__(
        self,
        *,
        minimum_contiguity: int = PAGE_SIZE,
        aperture: ByteRange | Sequence[int] | None = None,
        guard: int = PAGE_SIZE,
        anchor: Anchor = Anchor.NONE,
        serves: Callable[[int], bool] | None = None,
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
            raise InvalidArgs(f"the sim bus holds pages by NONE or MLOCK, not by {anchor}")
        self.guard = guard
        self._serves = serves
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
        self.numbers = count(1)
        """Numbers for grants."""
        self._lock = threading.RLock()

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

    def attach(self, initiator: int, *, address_bits: int = 64) -> SimSpace:
        """See `pinfold.bus.Bus.attach`. The same initiator twice is the same device."""
        if self._serves is not None and not self._serves(initiator):
            raise InvalidArgs("no device of that number is on the bus", asked=initiator)
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
        """One user of a space is done. Raises `Unavailable` in a finaliser inside `attach`."""
        refuse_inside(self._lock)
        with self._lock:
            space.users -= 1
            if not space.users and not space.live_grants():
                del self._spaces[space.initiator]

    def close(self) -> None:
        """Revoke what is live."""
        for space in list(self._spaces.values()):
            for grant in space.live_grants():
                space.revoke(grant)

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`."""
        for space in self._spaces.values():
            space.lock = LostLock()


def open_bus(physical: PhysicalMap, **options: Any) -> SimBus:
    """What `pinfold.open_bus("sim", ...)` calls; device addresses are the bus's own."""
    del physical
    return SimBus(**options)
