# Who pinned what, where in the code, when, and against which limit.
#
# The limit counts bytes of memory held, not pins: a page that two devices share is charged once,
# to whoever pinned it first, as it is given back once. Callers hold the kernel's lock.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pinfold import sites
from pinfold.errors import LimitReached
from pinfold.units import PAGE_SHIFT, human_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pinfold.sites import Site


class Record(Protocol):
    """One live pin, as the ledger keeps it."""

    @property
    def owner(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def site(self) -> Site: ...
    @property
    def when(self) -> int: ...


@dataclass(frozen=True, slots=True)
class OwnerTotals:
    """What one owner has pinned."""

    owner: str
    pins: int
    size: int
    """Bytes over all pins; a page pinned twice counts twice."""


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """The ledger at one moment."""

    pins: int
    pinned_bytes: int
    """Bytes of memory that at least one pin holds."""
    requested_bytes: int
    """Bytes over all pins; a page pinned twice counts twice."""
    limit: int | None
    peak_bytes: int


def describe(record: Record) -> str:
    """``bti 0x10 holds 'rx-ring' [0x0, 0x1000), pinned at file.py:12 in main``."""
    return (
        f"{record.owner} holds {record.what} [{record.offset:#x}, "
        f"{record.offset + record.size:#x}), pinned at {sites.describe(record.site)}"
    )


class Ledger:
    """Every live pin of one kernel, with totals."""

    __slots__ = ("_peak", "_records", "_requested", "limit", "pinned_bytes")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        """Bytes that may be pinned at once; None for no limit of ours."""
        self.pinned_bytes = 0
        self._requested = 0
        self._peak = 0
        self._records: dict[int, Record] = {}

    def charge(self, record: Record, fresh_pages: int) -> None:
        """Enter a pin that holds ``fresh_pages`` pages which nobody held before.

        Raises:
          LimitReached: it would pass the limit; nothing was entered.
        """
        held = self.pinned_bytes + (fresh_pages << PAGE_SHIFT)
        if self.limit is not None and held > self.limit:
            raise self._refusal(fresh_pages << PAGE_SHIFT)
        self.pinned_bytes = held
        if held > self._peak:
            self._peak = held
        self._requested += record.size
        self._records[id(record)] = record

    def discharge(self, record: Record, freed_pages: int) -> None:
        """Strike a pin out; ``freed_pages`` pages are now held by nobody."""
        del self._records[id(record)]
        self._requested -= record.size
        self.pinned_bytes -= freed_pages << PAGE_SHIFT

    def replace(self, record: Record, rests: Iterable[Record], freed_pages: int) -> None:
        """Strike a pin out, and enter what is left of it, which is charged already. Cannot fail."""
        self.discharge(record, freed_pages)
        for rest in rests:
            self._requested += rest.size
            self._records[id(rest)] = rest

    def records(self) -> list[Record]:
        """The live pins, oldest first."""
        return list(self._records.values())

    def owners(self) -> list[OwnerTotals]:
        """Totals by owner, the largest first."""
        totals: dict[str, tuple[int, int]] = {}
        for record in self._records.values():
            pins, size = totals.get(record.owner, (0, 0))
            totals[record.owner] = (pins + 1, size + record.size)
        rows = [OwnerTotals(owner, pins, size) for owner, (pins, size) in totals.items()]
        return sorted(rows, key=lambda row: (-row.size, row.owner))

    def statistics(self) -> LedgerStatistics:
        """Totals as a frozen record."""
        return LedgerStatistics(
            pins=len(self._records),
            pinned_bytes=self.pinned_bytes,
            requested_bytes=self._requested,
            limit=self.limit,
            peak_bytes=self._peak,
        )

    def _refusal(self, asked: int) -> LimitReached:
        limit = self.limit or 0
        top: Iterable[OwnerTotals] = self.owners()[:3]
        held = ", ".join(f"{row.owner} {human_size(row.size)}" for row in top)
        return LimitReached(
            "the pin limit would be passed",
            asked=asked,
            available=limit - self.pinned_bytes,
            limit=limit,
            holder=held or None,
            remedy="unpin something, or make the kernel with a larger max_pinned",
        )
