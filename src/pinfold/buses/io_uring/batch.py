# A batch of transfers, and the requests that the kernel is given for it.
#
# A transfer is one request, or several where it runs over slots of the table: then all of it has to
# be in one grant, or none of it is for the kernel.
#
# Entries of the ring are made a piece of the batch at a time. They have host addresses and were
# checked against what the table held, so they are made again when the table has changed.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.host.abi_uring import IORING_OP_FSYNC, IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, SQE
from pinfold.rights import Perm
from pinfold.transfers import Outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.buses.io_uring.file import OpenFile
    from pinfold.buses.io_uring.table import Table
    from pinfold.faults import Fault

WAITING: Final = np.iinfo(np.int32).min
"""The result of a request that the kernel was not given yet. No errno is so large."""
GIVEN: Final = WAITING + 1
"""The result of one that is under way."""

_READ, _WRITE = np.uint8(Perm.READ), np.uint8(Perm.WRITE)
_NOWHERE: Final = np.uint64(np.iinfo(np.uint64).max)
"""The slot of a transfer that is in no grant, or in more than one."""
_AT_ONCE: Final = 1024
"""Requests that entries are made for at a time."""
_NEVER: Final = -1
"""The version of no table."""


class Batch:
    """Transfers that were handed over together. Made with the space's lock held.

    Attributes:
      wanted: the transfers, an array of `TRANSFER` that nobody else has.
      first: the sequence number of its first request, which stands in `user_data`.
      addresses, sizes, offsets, writes: of each request.
      slots: of the table, of each request.
      owners: which transfer each request is of; None where each is one.
      results: of each request: bytes, or a negative errno, or `WAITING`, or `GIVEN`.
      left: how many have not ended.
      held: how many of those the kernel was not given.
      faults: the records of those that were stopped, by transfer.
      chosen, entries: requests that may be given to the kernel, and their entries.
      taken: how many of those it was given.
      again: requests that are made a second time; see `Queue`.
    """

    __slots__ = (
        "_low",
        "_version",
        "addresses",
        "again",
        "chosen",
        "entries",
        "faults",
        "file",
        "first",
        "held",
        "left",
        "offsets",
        "owners",
        "results",
        "sizes",
        "slots",
        "taken",
        "wanted",
        "writes",
    )

    def __init__(self, wanted: NDArray[Any], file: OpenFile, table: Table, first: int) -> None:
        self.wanted = wanted
        self.file = file
        self.owners: NDArray[np.int64] | None = None
        self.writes: NDArray[np.bool_] = wanted["write"]
        self.addresses: NDArray[np.uint64] = wanted["address"]
        self.offsets: NDArray[np.uint64] = wanted["at"]
        self.sizes: NDArray[np.uint64] = wanted["size"]
        self.slots = table.slots_of(self.addresses)
        last = table.slots_of(self.addresses + np.maximum(self.sizes, 1) - np.uint64(1))
        if (last != self.slots).any():
            self._split(table, last)
        self._begin(first, len(self.slots))

    def _begin(self, first: int, count: int) -> None:
        self.first = first
        self.results: NDArray[np.int32] = np.full(count, WAITING, dtype=np.int32)
        self.left = self.held = count
        self.faults: dict[int, Fault] = {}
        self.again: set[int] = set()
        self.chosen: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.entries: NDArray[Any] = np.empty(0, dtype=SQE)
        self.taken = self._low = 0
        self._version = _NEVER

    def _split(self, table: Table, last: NDArray[np.uint64]) -> None:
        """Cut transfers at the borders of slots. Those that are not granted whole stay as they are:
        they may be as long as a file can be."""
        counts = np.ones(len(last), dtype=np.int64)
        for transfer in np.flatnonzero(last != self.slots).tolist():
            address, size = self.range_of(transfer)
            found = table.space.blocks.find(address)
            if found is not None and address + size <= found[1]:
                counts[transfer] += int(last[transfer] - self.slots[transfer])
            else:
                self.slots[transfer] = _NOWHERE
        if counts.max() == 1:
            return
        owners = np.repeat(np.arange(len(counts)), counts)
        firsts = np.repeat(np.cumsum(counts) - counts, counts)
        within = (np.arange(len(owners)) - firsts).astype(np.uint64)
        slots: NDArray[np.uint64] = self.slots[owners] + within
        starts, stops = self.addresses[owners], (self.addresses + self.sizes)[owners]
        shift = np.uint64(table.shift)
        low: NDArray[np.uint64] = np.where(within == 0, starts, slots << shift)
        more = within + np.uint64(1) < counts[owners].astype(np.uint64)
        high: NDArray[np.uint64] = np.where(more, (slots + np.uint64(1)) << shift, stops)
        self.offsets = self.offsets[owners] + (low - starts)
        self.writes = self.writes[owners]
        self.addresses, self.slots = low, slots
        self.sizes = high - low
        self.owners = owners

    def owner(self, request: int) -> int:
        """Which transfer a request is of."""
        return request if self.owners is None else int(self.owners[request])

    def range_of(self, transfer: int) -> tuple[int, int]:
        """The device address of a transfer, and its size."""
        wanted = self.wanted[transfer]
        return int(wanted["address"]), int(wanted["size"])

    def access(self, transfer: int) -> int:
        """What a transfer does with memory, a bit of `Perm`."""
        return int(_READ if self.wanted[transfer]["write"] else _WRITE)

    # On the way to the kernel -------------------------------------------------------------------

    def stale(self, table: Table) -> bool:
        """True when `prepare` has to be called before more is given."""
        return self._version != table.version or self.taken >= len(self.entries)

    def prepare(self, table: Table) -> NDArray[np.int64]:
        """Make entries for the next requests that wait, if there are any.

        Returns: those among them that the kernel would not know to refuse; they have no entries.
        """
        # Broken off anywhere, it is as if it had not been: the old entries must not be given again.
        self._version = _NEVER
        chosen: NDArray[np.int64]
        while True:
            chosen = (self.results[self._low : self._low + _AT_ONCE] == WAITING).nonzero()[0]
            if len(chosen) or self._low >= len(self.results):
                break
            self._low += _AT_ONCE
        chosen += self._low
        unfit = self._unfit(table, chosen)
        stopped = chosen[:0]
        if unfit.any():
            chosen, stopped = chosen[~unfit], chosen[unfit]
        self._prepared(table, chosen, self._entries(table, chosen))
        return stopped

    def _prepared(self, table: Table, chosen: NDArray[np.int64], entries: NDArray[Any]) -> None:
        self.chosen, self.entries, self.taken = chosen, entries, 0
        self._version = table.version  # last: see `prepare`

    def _unfit(self, table: Table, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed = table.perms_of(self.slots[chosen])
        needed = np.where(self.writes[chosen], _READ, _WRITE)
        # An empty slot permits nothing, and is the kernel's to refuse.
        found: NDArray[np.bool_] = (allowed != 0) & (allowed & needed == 0)
        if not self.file.writable:  # a descriptor of the caller's may be good for it
            found |= self.writes[chosen]
        empty = self.sizes[chosen] == 0
        if empty.any():  # the kernel lets no bytes be moved at the very end of a buffer
            addresses = self.addresses[chosen]
            for at in empty.nonzero()[0].tolist():
                found[at] |= table.space.blocks.find(int(addresses[at])) is None
        return found

    def _entries(self, table: Table, chosen: NDArray[np.int64]) -> NDArray[Any]:
        made = np.zeros(len(chosen), dtype=SQE)
        if not len(chosen):
            return made
        slots = self.slots[chosen]
        sizes, offsets = self.sizes[chosen], self.offsets[chosen]
        made["opcode"] = np.where(self.writes[chosen], IORING_OP_WRITE_FIXED, IORING_OP_READ_FIXED)
        hosts = table.host_addresses(self.addresses[chosen], slots)
        made["addr"] = hosts
        made["fd"] = self.file.descriptors(hosts, sizes, offsets)
        made["off"] = offsets
        made["len"] = sizes
        made["buf_index"] = slots
        made["user_data"] = chosen + self.first
        return made

    def give(self, count: int) -> None:
        """So many more of the entries are about to be given to the kernel."""
        self.results[self.chosen[self.taken : self.taken + count]] = GIVEN
        self.taken += count
        self.held -= count

    def take_back(self, count: int) -> None:
        """The kernel has not taken the last so many."""
        if not count:
            return
        self.taken -= count
        self.held += count
        self.results[self.chosen[self.taken : self.taken + count]] = WAITING

    def give_again(self, request: int) -> None:
        """Have a request wait once more."""
        self.again.add(request)
        self.held += 1
        self.results[request] = WAITING
        self._low = min(self._low, request)
        self._version = _NEVER

    def end_held(self, chosen: NDArray[np.int64], result: int) -> None:
        """Requests that wait are not for the kernel: that is their result. They still count."""
        self.results[chosen] = result
        self.held -= len(chosen)

    def waiting(self) -> NDArray[np.int64]:
        """The requests that the kernel was not given."""
        found: NDArray[np.int64] = np.flatnonzero(self.results == WAITING)
        return found

    def uses(self, slot: int, slots: int) -> bool:
        """True while a request to one of these slots is under way."""
        return bool((self._to(slot, slots) & (self.results == GIVEN)).any())

    def waiting_for(self, slot: int, slots: int) -> NDArray[np.int64]:
        """The requests to these slots that the kernel was not given."""
        found: NDArray[np.int64] = np.flatnonzero(self._to(slot, slots) & (self.results == WAITING))
        return found

    def _to(self, slot: int, slots: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self.slots >= slot) & (self.slots < slot + slots)
        return found

    # Afterwards ---------------------------------------------------------------------------------

    def outcomes(self) -> Outcomes:
        """What became of it, once nothing is left."""
        moved = np.maximum(self.results, 0).astype(np.int64)
        errors = np.maximum(-self.results.astype(np.int64), 0).astype(np.int32)
        if self.owners is not None:
            return self._joined(moved, errors)
        return Outcomes(moved, errors, self.faults)

    def _joined(self, moved: NDArray[np.int64], errors: NDArray[np.int32]) -> Outcomes:
        """Of each transfer what was moved before its first request that stopped short."""
        assert self.owners is not None  # noqa: S101 - narrows a type; the caller has looked
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        short = moved.astype(np.uint64) < self.sizes
        before: NDArray[np.int64] = np.cumsum(short) - short
        counted: NDArray[np.bool_] = before == np.repeat(
            before[starts], np.diff(starts, append=len(short))
        )
        total = np.add.reduceat(np.where(counted, moved, 0), starts)
        first = np.where(counted & short, errors, 0)
        return Outcomes(total, np.maximum.reduceat(first, starts).astype(np.int32), self.faults)


class Sync(Batch):
    """A request that moves nothing: what was written is to reach the medium."""

    __slots__ = ()

    def __init__(self, file: OpenFile, first: int) -> None:
        self.file = file
        self.slots = np.full(1, _NOWHERE)
        self._begin(first, 1)

    def prepare(self, table: Table) -> NDArray[np.int64]:
        """See `Batch.prepare`; it has nothing to do with the table."""
        self._version = _NEVER
        chosen = self.waiting()
        entries = np.zeros(len(chosen), dtype=SQE)
        entries["opcode"] = IORING_OP_FSYNC
        entries["fd"] = self.file.plain
        entries["user_data"] = self.first
        self._prepared(table, chosen, entries)
        return chosen[:0]
