# What is under way on one ring: requests go in a batch at a time, and come back in any order.
#
# Locks: `lock`, the space's, while requests are handed over and while the table changes, so that
# what a request names is what the table held when the kernel took it; and `_reaping`, by whoever
# takes completions off the ring, also while it waits for them. Whoever holds `_reaping` may take
# `lock` for the books, never the other way round.
#
# A request counts as under way from before the kernel is given it until its completion was seen,
# and the ring's queue is empty whenever the lock is free: what the kernel would not take is taken
# off it again, so that nothing moves after somebody was told that it did not.
#
# Linux makes a request in the name of the thread that gave it. Of what is still to be done when
# that thread ends, Linux makes nothing and says ECANCELED, or EFAULT of good memory (6.18 does of
# reads by the page cache). Such a request is made once more, by the thread that waits for it.
from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.buses.io_uring.batch import GIVEN, Batch, Sync
from pinfold.buses.io_uring.judge import Judge
from pinfold.errors import BadState, HostError
from pinfold.memory.hosterrors import from_host
from pinfold.memory.locks import LostLock, held_by_this_thread, refuse_inside

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.buses.diagnosis import Diagnosis
    from pinfold.buses.io_uring.file import OpenFile
    from pinfold.buses.io_uring.grant import UringGrant
    from pinfold.buses.io_uring.table import Table
    from pinfold.host.uring import Ring

_AGAIN: Final = (errno.EINTR, errno.EAGAIN, errno.EBUSY)
"""Try again: a signal came; the kernel has no memory for a request now; completions are waiting."""
_REFUSALS: Final = 100
"""How often the kernel may say so in turn, with nothing under way whose end could change it."""


def nested() -> BadState:
    """What is raised where the books may be half written by this very thread."""
    return BadState(
        "this thread is inside a transfer already: called from a __del__ or a signal handler",
        remedy="have the handler note what is to be done, and do it outside",
    )


class Queue:
    """The requests of one ring.

    Args:
      depth: how many the kernel is given at once; at most the ring's entries.

    Attributes:
      closed: True once the ring is about to go; then whatever is asked for is stopped.
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
        self._judge = Judge(table, diagnosis)
        self._next = 1
        self._under_way = 0
        self._refused = 0
        self._waiters = 0
        """Threads that want completions."""
        self._live: list[Batch] = []
        """Those with requests left, ascending by their first sequence number."""
        self._dropped: deque[Batch] = deque()
        self.closed = False
        self.transfers = self.bytes_moved = self.failed = 0

    @property
    def stopped(self) -> int:
        """Transfers that were stopped because of their device address."""
        return self._judge.stopped

    def start(self, wanted: NDArray[Any], file: OpenFile) -> Batch:
        """Hand transfers over; as many go to the kernel at once as the depth allows.

        Raises:
          HostError, NoMemory: the kernel took none of them.
          BadState: called from inside, by a finaliser or a signal handler.
        """
        self.refuse_nested()
        with self.lock:
            batch = Batch(wanted, file, self._table, self._next)
            self._next += batch.left
            self.transfers += len(wanted)
            self._forget_dropped()
            self._begin(batch)
        return batch

    def _begin(self, batch: Batch) -> None:
        if not batch.left:
            return
        self._live.append(batch)
        try:
            if self.closed:
                self._stop(batch, batch.waiting())
            else:
                self._give(batch)
        except BaseException:
            self._cancel(batch)
            raise
        finally:
            self._keep_live()

    def finish(self, batch: Batch) -> None:
        """Wait until every request of a batch has ended.

        Raises:
          HostError, NoMemory: the kernel takes none any more; what is under way goes on.
          BadState: the ring has gone.
        """
        self.refuse_nested()
        while batch.left:
            with self.lock:
                if self.closed:
                    raise BadState("the device has left its bus")
                self._give(batch)
                self._keep_live()
                enough = self._enough(batch)
            if batch.left:
                self._take(lambda: not batch.left, enough)

    def sync(self, file: OpenFile) -> int:
        """Have what was written reach the disk; 0, or a negative errno. Raises as `finish`."""
        self.refuse_nested()
        with self.lock:
            if self.closed:
                raise BadState("the device has left its bus")
            batch = Sync(file, self._next)
            self._next += 1
            self._begin(batch)
        self.finish(batch)
        return int(batch.results[0])

    def stop_waiting(self, grant: UringGrant) -> None:
        """End what names the grant and was not given to the kernel: its address is about to be free
        for another grant. Called with the lock held."""
        for batch in self._live:
            chosen = batch.waiting_for(grant.slot, grant.slots)
            if len(chosen):
                self._stop(batch, chosen)
        self._keep_live()

    def drain(self, grant: UringGrant) -> None:
        """Wait until no request that names the grant is under way. Raises HostError."""
        while self._used(grant):
            if self.closed:  # the kernel ends them, and tells nobody when
                error = OSError(errno.EBUSY, "the ring has gone, and they had not ended")
                raise HostError("wait for requests", error)
            self._take(lambda: not self._used(grant))

    def _used(self, grant: UringGrant) -> bool:
        with self.lock:
            return any(batch.uses(grant.slot, grant.slots) for batch in self._live)

    def idle(self) -> None:
        """Wait until nothing is under way; what the kernel was not given yet is cancelled."""
        with self.lock:
            for batch in self._live:
                self._cancel(batch)
            self._keep_live()
        while self._under_way and not self.closed:
            self._take(lambda: not self._under_way)

    def shut(self) -> bool:
        """From now on nobody touches the ring; False if that was so already."""
        with self._reaping, self.lock:
            first, self.closed = not self.closed, True
            return first

    def drop(self, batch: Batch) -> None:
        """Nobody waits for a batch any more: what the kernel was not given is not made. For
        finalisers; it waits for nothing."""
        self._dropped.append(batch)

    def refuse_inside(self) -> None:
        """Raise `Unavailable` in a finaliser that runs inside the queue, on its own thread."""
        refuse_inside(self.lock)
        refuse_inside(self._reaping)

    def refuse_nested(self) -> None:
        """Raise `BadState` where the books may be half written by this very thread."""
        if held_by_this_thread(self.lock) or held_by_this_thread(self._reaping):
            raise nested()

    def lose(self) -> None:
        """In a forked child: every use raises."""
        self.lock = self._reaping = LostLock()

    # With the space's lock held -----------------------------------------------------------------

    def _give(self, batch: Batch) -> None:
        """Give the kernel as many more requests of a batch as there is room for."""
        while batch.held and (room := self._depth - self._under_way) > 0:
            if batch.stale(self._table):
                stopped = batch.prepare(self._table)
                if len(stopped):
                    self._stop(batch, stopped)
                    continue  # the last of them may have been among those
            part = batch.entries[batch.taken : batch.taken + room]
            if self._submit(batch, part) < len(part):
                return

    def _submit(self, batch: Batch, entries: NDArray[Any]) -> int:
        """Give the kernel entries of a batch; how many it has taken."""
        batch.give(len(entries))
        self._under_way += len(entries)
        self._ring.queue(entries)
        refusal: OSError | None = None
        try:
            self._ring.submit()
        except OSError as error:
            refusal = error
        finally:  # a signal handler may have raised, too
            left = self._ring.unqueue()
            batch.take_back(left)
            self._under_way -= left
        if refusal is None or not left:
            self._refused = 0
            return len(entries) - left
        self._refused += 1
        hopeless = not self._under_way and self._refused > _REFUSALS
        if hopeless or refusal.errno not in _AGAIN:
            self._refused = 0
            raise from_host("submit to io_uring", refusal) from refusal
        return len(entries) - left

    def _enough(self, batch: Batch) -> int:
        """How many completions are worth waking for.

        For the last of a batch all that is left. Before, a quarter of the depth: fewer, and the
        interpreter is what the disk waits for; more, and the disk has too little to do. One where
        somebody else waits, too.
        """
        if self._waiters:
            return 1
        whole = batch.left <= self._under_way
        return max(1, min(self._under_way, batch.left if whole else self._depth // 4))

    def _cancel(self, batch: Batch) -> None:
        """End what the kernel was not given."""
        waiting = batch.waiting()
        batch.end_held(waiting, -errno.ECANCELED)
        batch.left -= len(waiting)
        if not isinstance(batch, Sync):
            self.failed += len(waiting)

    def _stop(self, batch: Batch, chosen: NDArray[np.int64]) -> None:
        """End what the kernel is not given: because of its address, or because of its file."""
        batch.end_held(chosen, -errno.EFAULT)
        self.failed += len(chosen)
        try:
            for request in chosen.tolist():
                transfer = batch.owner(request)
                if self._judge.not_writable(batch, transfer):
                    batch.results[request] = -errno.EBADF
                else:
                    self._judge.fault(batch, transfer)
        finally:
            batch.left -= len(chosen)

    def _forget_dropped(self) -> None:
        while self._dropped:
            self._cancel(self._dropped.popleft())
            self._keep_live()

    def _keep_live(self) -> None:
        if not all(batch.left for batch in self._live):
            self._live = [batch for batch in self._live if batch.left]

    # With the reaping lock held -----------------------------------------------------------------

    def _take(self, done: Callable[[], bool], enough: int = 1) -> None:
        """Take what has ended off the ring; wait for ``enough`` if there is nothing."""
        with self.lock:
            self._waiters += 1
        try:
            with self._reaping:
                if self.closed or done():  # another thread has taken it meanwhile
                    return
                found = self._ring.completed()
                if not len(found):
                    self._wait(enough)
                    found = self._ring.completed()
                if len(found):
                    with self.lock:
                        self._account(found)
                    # Not before: what is counted twice, because this was broken off, counts once.
                    self._ring.seen(len(found))
        finally:
            with self.lock:
                self._waiters -= 1

    def _wait(self, enough: int) -> None:
        with self.lock:  # while we may take completions nobody else does: it only grows
            enough = min(enough, self._under_way)
        if not enough:
            return
        try:
            self._ring.wait(enough)
        except OSError as error:
            if error.errno not in _AGAIN:
                raise from_host("wait for io_uring", error) from error

    # With both ----------------------------------------------------------------------------------

    def _account(self, found: NDArray[Any]) -> None:
        sequence, results = found["user_data"].astype(np.int64), found["res"]
        if len(self._live) == 1:
            self._came_back(self._live[0], sequence - self._live[0].first, results)
        else:
            for batch in self._live:
                requests = sequence - batch.first
                here = (requests >= 0) & (requests < len(batch.results))
                if here.any():
                    self._came_back(batch, requests[here], results[here])
        self._keep_live()

    def _came_back(
        self, batch: Batch, chosen: NDArray[np.int64], results: NDArray[np.int32]
    ) -> None:
        """The kernel has ended requests so."""
        news = batch.results[chosen] == GIVEN
        if not news.all():
            chosen, results = chosen[news], results[news]
            if not len(chosen):
                return
        self._under_way -= len(chosen)
        if results.min() < 0 and not isinstance(batch, Sync):
            lost = [
                at
                for at in np.flatnonzero((results == -errno.EFAULT) | (results == -errno.ECANCELED))
                if self._was_lost(batch, int(chosen[at]))
            ]
            for at in lost:
                batch.give_again(int(chosen[at]))
            chosen, results = np.delete(chosen, lost), np.delete(results, lost)
        self._end(batch, chosen, results)

    def _was_lost(self, batch: Batch, request: int) -> bool:
        """True of a request that should have gone well, the first time."""
        if request in batch.again or self.closed:
            return False
        return self._judge.good(batch, batch.owner(request))

    def _end(self, batch: Batch, chosen: NDArray[np.int64], results: NDArray[np.int32]) -> None:
        """The kernel has ended requests so, for good.

        They are counted off at last: who waits for a batch looks at nothing else, and has no lock.
        """
        batch.results[chosen] = results
        try:
            bad = results < 0
            if not bad.any():
                self.bytes_moved += int(results.sum(dtype=np.int64))
            else:
                self._failed(batch, chosen, results, bad)
        finally:
            batch.left -= len(chosen)

    def _failed(
        self,
        batch: Batch,
        chosen: NDArray[np.int64],
        results: NDArray[np.int32],
        bad: NDArray[np.bool_],
    ) -> None:
        self.bytes_moved += int(results[~bad].sum(dtype=np.int64))
        if isinstance(batch, Sync):
            return
        self.failed += int(bad.sum())
        for request in chosen[results == -errno.EFAULT].tolist():
            self._judge.fault(batch, batch.owner(request))
