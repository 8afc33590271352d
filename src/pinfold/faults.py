# What a bus keeps of the accesses that it stopped.
from __future__ import annotations

import enum
import logging
from collections import deque
from dataclasses import dataclass
from itertools import count
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

from pinfold import sites
from pinfold.rights import describe_perms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.sites import Site
    from pinfold.units import ByteRange


class FaultReason(enum.Enum):
    """Why an access was stopped."""

    NOTHING_THERE = "nothing there"
    BEYOND_END = "beyond the end of a grant"
    NOT_PERMITTED = "not permitted"
    REVOKED = "no longer granted"
    OUT_OF_REACH = "wider than the device's addresses"


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """A grant as a fault record names it; it outlives the grant."""

    number: int
    """Counts the grants of a bus, from 1."""
    initiator: int
    range: ByteRange
    """Device addresses."""
    perms: int
    what: str
    """The memory object."""
    granted_at: Site
    """Where in the driver's code."""
    revoked_ns: int | None = None
    """`time.monotonic_ns()` of the revocation; None while it is live."""
    revoked_at: Site | None = None

    def __str__(self) -> str:
        return (
            f"grant {self.number} of {self.what} {self.range} for {describe_perms(self.perms)}, "
            f"pinned at {sites.describe(self.granted_at)}"
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """One access that a bus stopped. No byte of it was moved."""

    number: int
    """Counts the faults of a bus, from 1."""
    initiator: int
    access: int
    """One bit of `Perm`: what the device tried."""
    address: int
    """Where, on the bus."""
    size: int
    """Bytes it tried to move."""
    when_ns: int
    """`time.monotonic_ns()`."""
    reason: FaultReason
    detail: str
    """The reason with its facts, for people."""
    nearest: GrantRecord | None = None
    """The grant that was meant, or the closest one."""

    def __str__(self) -> str:
        text = (
            f"device {self.initiator:#x}: {describe_perms(self.access).lower()} of {self.size} "
            f"bytes at {self.address:#x} stopped: {self.detail}"
        )
        return f"{text}; nearest is {self.nearest}" if self.nearest is not None else text


_KEPT_FAULTS: Final = 1024

log = logging.getLogger("pinfold")


class FaultLog:
    """The faults of one bus: the most recent in full, all of them counted."""

    __slots__ = ("_cleared", "_listeners", "_numbers", "_records")

    def __init__(self) -> None:
        # No lock: several devices may go astray at once, each inside a lock of its own, and a
        # finaliser that ran inside one of ours could wait for theirs. Counting and appending are
        # single steps of the interpreter.
        self._numbers = count(1)
        self._records: deque[Fault] = deque(maxlen=_KEPT_FAULTS)
        self._cleared = 0
        self._listeners: list[Callable[[Fault], None]] = []

    @property
    def total(self) -> int:
        """Faults so far, those no longer kept included."""
        return max((fault.number for fault in tuple(self._records)), default=self._cleared)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Fault]:
        return iter(tuple(self._records))

    def __getitem__(self, index: int) -> Fault:
        return self._records[index]

    def record(
        self,
        *,
        initiator: int,
        access: int,
        address: int,
        size: int,
        reason: FaultReason,
        detail: str,
        nearest: GrantRecord | None = None,
    ) -> Fault:
        """Keep a record of a stopped access. For buses; `tell` follows, outside their locks."""
        fault = Fault(
            number=next(self._numbers),
            initiator=initiator,
            access=access,
            address=address,
            size=size,
            when_ns=monotonic_ns(),
            reason=reason,
            detail=detail,
            nearest=nearest,
        )
        self._records.append(fault)
        return fault

    @property
    def heard(self) -> bool:
        """True when somebody listens."""
        return bool(self._listeners)

    def tell(self, fault: Fault) -> None:
        """Call the listeners. What one raises is logged: the access has its own error to raise."""
        for listener in tuple(self._listeners):
            try:
                listener(fault)
            except Exception:
                log.exception("a fault listener failed")

    def clear(self) -> None:
        """Forget the records; the total goes on."""
        self._cleared = self.total
        self._records.clear()

    def subscribe(self, listener: Callable[[Fault], None]) -> Callable[[], None]:
        """Call ``listener`` with every fault from now on; the result ends that.

        It runs after an access is over, on the thread of one, outside every lock, so it may use
        pinfold. What it raises is logged.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
