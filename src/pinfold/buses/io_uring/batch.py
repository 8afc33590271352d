# A batch of transfers, and the requests that the kernel is given for it.
#
# A transfer is one request, or several where it runs over slots of the table: then all of it has to
# be in one grant, which pinfold checks before the first is given to the kernel.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.errors import InvalidArgs
from pinfold.host.abi_uring import IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, SQE
from pinfold.rights import Perm
from pinfold.transfers import Outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.buses.io_uring.file import OpenFile
    from pinfold.buses.io_uring.table import Table
    from pinfold.faults import Fault

PENDING: Final = np.iinfo(np.int32).min
"""The result of a request that has not ended."""

_READ, _WRITE = int(Perm.READ), int(Perm.WRITE)
_LONGEST: Final = 1 << 30
"""Bytes in one request: a slot's, which is less than what Linux moves in one."""


class Batch:
    """Transfers that were handed over together.

    Attributes:
      wanted: the transfers, an array of `TRANSFER`.
      first: the sequence number of its first request, which stands in `user_data`.
      addresses, sizes: of each request.
      slots: of the table, of each request.
      owners: which transfer each request is of; None where each is one.
      results: of each request: bytes, or a negative errno, or `PENDING`.
      given: how many requests the kernel was given, those that were not needed included.
      left: how many have not ended.
      faults: the records of those that were stopped, by transfer.
    """

    __slots__ = (
        "addresses",
        "faults",
        "file",
        "first",
        "given",
        "left",
        "offsets",
        "owners",
        "results",
        "sizes",
        "slots",
        "wanted",
        "writes",
    )

    def __init__(self, wanted: NDArray[Any], file: OpenFile, table: Table, first: int) -> None:
        self.wanted = wanted
        self.file = file
        self.first = first
        self.owners: NDArray[np.int64] | None = None
        self.writes: NDArray[np.bool_] = wanted["write"]
        self.addresses: NDArray[np.uint64] = wanted["address"]
        self.offsets: NDArray[np.uint64] = wanted["at"]
        self.sizes: NDArray[np.uint64] = wanted["size"]
        self.slots = table.slots_of(self.addresses)
        last = table.slots_of(self.addresses + np.maximum(self.sizes, 1) - np.uint64(1))
        if (last < self.slots).any():
            raise InvalidArgs("a transfer runs over the end of the device addresses")
        if (last != self.slots).any():
            self._split(table, (last - self.slots).astype(np.int64) + 1)
        self.results: NDArray[np.int32] = np.full(len(self.slots), PENDING, dtype=np.int32)
        self.given = 0
        self.left = len(self.slots)
        self.faults: dict[int, Fault] = {}

    def _split(self, table: Table, counts: NDArray[np.int64]) -> None:
        """Cut transfers at the borders of slots."""
        owners = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        shift = np.uint64(table.shift)
        starts = (self.slots[owners] + within.astype(np.uint64)) << shift
        stops = starts + np.uint64(table.longest)
        ends = self.addresses + self.sizes
        low = np.maximum(starts, self.addresses[owners])
        high = np.minimum(stops, ends[owners])
        self.offsets = self.offsets[owners] + (low - self.addresses[owners])
        self.writes = self.writes[owners]
        self.addresses, self.sizes = low, high - low
        self.slots = low >> shift
        self.owners = owners

    def owner(self, request: int) -> int:
        """Which transfer a request is of."""
        return request if self.owners is None else int(self.owners[request])

    def requests_of(self, transfer: int) -> slice:
        """The requests of a transfer."""
        if self.owners is None:
            return slice(transfer, transfer + 1)
        low = int(np.searchsorted(self.owners, transfer, side="left"))
        return slice(low, int(np.searchsorted(self.owners, transfer, side="right")))

    def several(self) -> NDArray[np.int64]:
        """The transfers that are several requests."""
        if self.owners is None:
            return np.empty(0, dtype=np.int64)
        counts = np.bincount(self.owners, minlength=len(self.wanted))
        found: NDArray[np.int64] = np.flatnonzero(counts > 1)
        return found

    def needed(self) -> NDArray[np.uint8]:
        """The permission that each request needs, bits of `Perm`."""
        return np.where(self.writes, _READ, _WRITE).astype(np.uint8)

    def entries(self, table: Table, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """Entries of the ring for some of the requests."""
        made = np.zeros(len(chosen), dtype=SQE)
        slots = self.slots[chosen]
        addresses = self.addresses[chosen]
        sizes, offsets = self.sizes[chosen], self.offsets[chosen]
        made["opcode"] = np.where(self.writes[chosen], IORING_OP_WRITE_FIXED, IORING_OP_READ_FIXED)
        hosts = table.host_addresses(addresses, slots)
        made["addr"] = hosts
        made["fd"] = self.file.descriptors(hosts, sizes, offsets)
        made["off"] = offsets
        made["len"] = sizes
        made["buf_index"] = slots
        made["user_data"] = chosen.astype(np.uint64) + np.uint64(self.first)
        return made

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
        short = moved < self.sizes.astype(np.int64)
        before: NDArray[np.int64] = np.cumsum(short) - short
        counted: NDArray[np.bool_] = before == np.repeat(
            before[starts], np.diff(starts, append=len(short))
        )
        total = np.add.reduceat(np.where(counted, moved, 0), starts)
        first = np.where(counted & short, errors, 0)
        return Outcomes(total, np.maximum.reduceat(first, starts).astype(np.int32), self.faults)
