# Why an access was stopped, in the words that a driver's author needs. For every bus that has
# grants at device addresses of its own.
#
# Everything here happens after the fact: an access that goes through never comes here. So it may be
# slow, and walk what it likes.
from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from pinfold import sites
from pinfold.errors import DmaFault
from pinfold.faults import FaultReason, GrantRecord
from pinfold.rights import describe_perms
from pinfold.units import ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import FaultLog
    from pinfold.memory.pinned import PinnedRange
    from pinfold.memory.space import Placement
    from pinfold.sites import Site

_KEPT_REVOKED: Final = 4096
"""Revoked grants that are remembered, to tell a late access from a stray one."""

Revoked = tuple[int, int, int, int, str, "Site", int, "Site"]
"""Number, start, stop, permissions, memory object, where granted, when and where revoked.

A tuple, made into a record only when a fault asks: one is made on every unpin.
"""


class Placed(Protocol):
    """A grant that is one run of device addresses."""

    number: int
    """Counts the grants of the bus, from 1."""
    start: int
    stop: int
    perms: int
    pinned: PinnedRange


class Diagnosis:
    """What one initiator's space knows about an access that it has stopped."""

    def __init__(
        self,
        initiator: int,
        address_bits: int,
        log: FaultLog,
        space: Placement[Any],
        guard: int,
        owed: deque[Callable[[], None]],
    ) -> None:
        self._initiator = initiator
        self._address_bits = address_bits
        self._log = log
        self._space = space
        self._guard = guard
        self._owed = owed
        self.revoked: deque[Revoked] = deque(maxlen=_KEPT_REVOKED)

    def forget(self, grant: Placed) -> None:
        """Remember a grant as revoked, by who called the caller's caller."""
        pinned = grant.pinned
        self.revoked.append(
            (
                grant.number,
                grant.start,
                grant.stop,
                grant.perms,
                pinned.what,
                pinned.site,
                monotonic_ns(),
                sites.caller(3),
            )
        )

    def _record(self, grant: Placed) -> GrantRecord:
        pinned = grant.pinned
        return GrantRecord(
            grant.number,
            self._initiator,
            ByteRange(grant.start, grant.stop),
            grant.perms,
            pinned.what,
            pinned.site,
        )

    def fault(self, address: int, size: int, access: int, grant: Placed | None) -> DmaFault:
        """Record the fault, and say why in the words a driver's author needs."""
        return self.told(address, size, access, *self.explain(address, size, access, grant))

    def explain(
        self, address: int, size: int, access: int, grant: Placed | None
    ) -> tuple[FaultReason, str, GrantRecord | None]:
        """Why an access was stopped: the reason, its facts, and the grant that was meant."""
        if grant is not None:
            nearest = self._record(grant)
            if address + size > grant.stop:
                past = address + size - grant.stop
                detail = f"{past} byte(s) beyond the end of grant {grant.number} at {grant.stop:#x}"
                return FaultReason.BEYOND_END, detail, nearest
            detail = (
                f"grant {grant.number} permits {describe_perms(grant.perms)}, "
                f"not {describe_perms(access)}"
            )
            return FaultReason.NOT_PERMITTED, detail, nearest
        if address >> self._address_bits or address < 0:
            detail = f"the device has {self._address_bits} address bits"
            return FaultReason.OUT_OF_REACH, detail, None
        return self._explain_absence(address, size)

    def told(
        self,
        address: int,
        size: int,
        access: int,
        reason: FaultReason,
        detail: str,
        nearest: GrantRecord | None = None,
    ) -> DmaFault:
        """Record a fault whose reason is known; the listeners hear of it after the access."""
        fault = self._log.record(
            initiator=self._initiator,
            access=access,
            address=address,
            size=size,
            reason=reason,
            detail=detail,
            nearest=nearest,
        )
        if self._log.heard:
            self._owed.append(partial(self._log.tell, fault))
        return DmaFault(fault)

    def _explain_absence(
        self, address: int, size: int
    ) -> tuple[FaultReason, str, GrantRecord | None]:
        for number, start, stop, perms, what, site, when, where in reversed(self.revoked):
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
        if below is not None and address < below[1] + self._guard:
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
