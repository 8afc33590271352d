# What is under way on one ring: requests go in a batch at a time, and come back in any order.
#
# Locks: `lock`, the space's, while requests are handed over and while the table changes, so that
# what a request names is what the table held when the kernel took it; and `_reaping`, by whoever
# takes completions off the ring, also while it waits for them. Whoever holds `_reaping` may take
# `lock` for the books, never the other way round.
#
# A request counts as in flight from before the kernel is given it until its completion was seen.
from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from pinfold.buses.io_uring.batch import PENDING, Batch
from pinfold.host.abi_uring import IORING_OP_FSYNC, SQE
from pinfold.memory.hosterrors import from_host
from pinfold.memory.locks import LostLock, refuse_inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.buses.diagnosis import Diagnosis
    from pinfold.buses.io_uring.file import OpenFile
    from pinfold.buses.io_uring.grant import UringGrant
    from pinfold.buses.io_uring.table import Table
    from pinfold.host.uring import Ring

_AGAIN = (errno.EINTR, errno.EAGAIN, errno.EBUSY)
_TRANSFER_FAULT = -errno.EFAULT


class Queue:
    """The requests of one ring.

    Args:
      depth: how many the kernel is given at once; at most the ring's entries.
    """

    def __init__(
        self,
        ring: Ring,
        table: Table,
        depth: int,
        lock: threading.RLock,
        diagnosis: Diagnosis,
    ) -> None:
        self._ring = ring
        self._table = table
        self._depth = depth
        self.lock: threading.RLock | LostLock = lock
        self._reaping: threading.RLock | LostLock = threading.RLock()
        self._diagnosis = diagnosis
        self._next = 1
        self._under_way = 0
        self._live: list[Batch] = []
        """Those with requests left, ascending by their first sequence number."""
        self.transfers = self.bytes_moved = self.stopped = self.failed = 0

    def start(self, wanted: NDArray[Any], file: OpenFile) -> Batch:
        """Hand transfers over; as many go to the kernel at once as the depth allows."""
        with self.lock:
            batch = Batch(wanted, file, self._table, self._next)
            self._next += len(batch.slots)
            self.transfers += len(wanted)
            if not batch.left:
                return batch
            self._stop_unfit(batch)
            if batch.left:
                self._live.append(batch)
                self._give(batch)
        return batch

    def finish(self, batch: Batch) -> None:
        """Wait until every request of a batch has ended.

        Raises:
          HostError: the ring takes no requests any more.
        """
        while batch.left:
            with self.lock:
                self._give(batch)
            self._take(batch)

    def drain(self, grant: UringGrant) -> None:
        """Wait until no request that names the grant is under way."""
        while self._table.busy(grant):
            self._take(None)

    def idle(self) -> None:
        """Wait until nothing is under way; what the kernel was not given yet is cancelled."""
        with self.lock:
            for batch in self._live:
                rest = np.flatnonzero(batch.results[batch.given :] == PENDING) + batch.given
                self._end(batch, rest, np.full(len(rest), -errno.ECANCELED))
                batch.given = len(batch.results)
            self._live = [batch for batch in self._live if batch.left]
        while self._under_way:
            self._take(None)

    def sync(self, file: OpenFile) -> int:
        """Have what was written reach the disk; 0, or a negative errno."""
        wanted = np.zeros(1, dtype=SQE)
        while not self._ring.room():
            self._take(None)
        with self.lock:
            batch = _Sync(self._next)
            self._next += 1
            wanted["opcode"], wanted["fd"], wanted["user_data"] = (
                IORING_OP_FSYNC,
                file.plain,
                batch.first,
            )
            self._live.append(batch)
            self._submit(wanted)
        while batch.left:
            self._take(batch)
        return int(batch.results[0])

    def refuse_inside(self) -> None:
        """Raise `Unavailable` in a finaliser that runs inside the queue, on its own thread."""
        refuse_inside(self.lock)
        refuse_inside(self._reaping)

    def lose(self) -> None:
        """In a forked child: every use raises."""
        self.lock = self._reaping = LostLock()

    # With the space's lock held -----------------------------------------------------------------

    def _stop_unfit(self, batch: Batch) -> None:
        """End what the kernel is not asked: it would not know that it must refuse."""
        slots = batch.slots
        unfit = slots >= np.uint64(len(self._table.perms))
        allowed = self._table.perms[np.where(unfit, 0, slots)]
        # An empty slot permits nothing, and is the kernel's to refuse.
        unfit |= (allowed != 0) & (allowed & batch.needed() == 0)
        for transfer in batch.several().tolist():
            requests = batch.requests_of(transfer)
            if not self._in_one_grant(batch, transfer):
                unfit[requests] = True
        if unfit.any():
            chosen = np.flatnonzero(unfit)
            self._end(batch, chosen, np.full(len(chosen), _TRANSFER_FAULT))

    def _in_one_grant(self, batch: Batch, transfer: int) -> bool:
        address, size = _range(batch, transfer)
        found = self._table.space.blocks.find(address)
        return found is not None and address + size <= found[1]

    def _give(self, batch: Batch) -> None:
        """Give the kernel as many more requests of a batch as there is room for."""
        room = min(self._depth - self._under_way, self._ring.room())
        if room <= 0 or batch.given == len(batch.slots):
            return
        rest = np.flatnonzero(batch.results[batch.given :] == PENDING)[:room] + batch.given
        if not len(rest):
            batch.given = len(batch.slots)
            return
        entries = batch.entries(self._table, rest)
        np.add.at(self._table.in_flight, batch.slots[rest].astype(np.int64), 1)
        batch.given = int(rest[-1]) + 1
        self._submit(entries)

    def _submit(self, entries: NDArray[Any]) -> None:
        self._under_way += len(entries)
        self._ring.queue(entries)
        self._push()

    def _push(self) -> None:
        try:
            self._ring.submit()
        except OSError as error:
            if error.errno not in _AGAIN:  # what is queued stays so, and counts as under way
                raise from_host("submit to io_uring", error) from error

    # With the reaping lock held -----------------------------------------------------------------

    def _take(self, batch: Batch | None) -> None:
        """Take what has ended off the ring; wait for something if there is nothing."""
        with self._reaping:
            if batch is not None and not batch.left:
                return  # another thread has taken it meanwhile
            found = self._ring.reap()
            if not len(found):
                self._wait()
                found = self._ring.reap()
            if len(found):
                with self.lock:
                    self._account(found)

    def _wait(self) -> None:
        if not self._under_way:
            return
        try:
            if self._ring.queued():
                with self.lock:
                    self._push()
            self._ring.wait()
        except OSError as error:
            if error.errno not in _AGAIN:
                raise from_host("wait for io_uring", error) from error

    def _account(self, found: NDArray[Any]) -> None:
        sequence = found["user_data"]
        self._under_way -= len(found)
        for batch in self._live:
            here = (sequence >= batch.first) & (sequence < batch.first + len(batch.results))
            if here.any():
                chosen = (sequence[here] - np.uint64(batch.first)).astype(np.int64)
                if not isinstance(batch, _Sync):
                    slots = batch.slots[chosen].astype(np.int64)
                    np.subtract.at(self._table.in_flight, slots, 1)
                self._end(batch, chosen, found["res"][here])
        self._live = [batch for batch in self._live if batch.left]

    def _end(self, batch: Batch, chosen: NDArray[np.int64], results: NDArray[Any]) -> None:
        """Requests have ended so."""
        batch.results[chosen] = results
        batch.left -= len(chosen)
        bad = results < 0
        self.bytes_moved += int(results[~bad].sum(dtype=np.int64))
        if isinstance(batch, _Sync) or not bad.any():
            return
        self.failed += int(bad.sum())
        for request in chosen[results == _TRANSFER_FAULT].tolist():
            self._fault(batch, batch.owner(request))

    def _fault(self, batch: Batch, transfer: int) -> None:
        """Record a transfer that was stopped, unless its address is good and its memory bad."""
        if transfer in batch.faults:
            return
        address, size = _range(batch, transfer)
        needed = int(batch.needed()[batch.requests_of(transfer).start])
        found = self._table.space.blocks.find(address)
        grant = None if found is None else found[2]
        if grant is not None and grant.perms & needed and address + size <= grant.stop:
            return
        self.stopped += 1
        fault = self._diagnosis.fault(address, size, needed, grant).fault
        batch.faults[transfer] = fault  # type: ignore[assignment]  # an object to those above


class _Sync(Batch):
    """A request that moves nothing."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.results = np.full(1, PENDING, dtype=np.int32)
        self.left = 1
        self.given = 1


def _range(batch: Batch, transfer: int) -> tuple[int, int]:
    wanted = batch.wanted[transfer]
    return int(wanted["address"]), int(wanted["size"])
