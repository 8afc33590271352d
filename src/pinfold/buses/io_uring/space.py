# One device on the io_uring bus: a ring of its own, with a table of registered buffers.
#
#   grant    the kernel registers the buffers, and so pins their pages in place
#   revoke   the slots are emptied, so that no new request finds them; requests under way end; then
#            the kernel has let the pages go
#
# The kernel knows no direction: a registered buffer can be read and written. That a grant permits
# one of them only is kept by pinfold, which is the only way to the ring.
#
# Source: io_uring_register(2). Linux takes a long-term pin of each page, for writing.
from __future__ import annotations

import errno
import os
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from pinfold.buses import registering
from pinfold.buses.diagnosis import Diagnosis
from pinfold.buses.io_uring.grant import UringGrant
from pinfold.buses.io_uring.master import UringMaster, port_file
from pinfold.buses.io_uring.queue import Queue, nested
from pinfold.buses.io_uring.table import Table
from pinfold.buses.placing import no_room
from pinfold.errors import (
    BadState,
    InvalidArgs,
    LimitReached,
    NotSupported,
)
from pinfold.host.uring import Ring
from pinfold.memory.hosterrors import each_tried, from_host, translated
from pinfold.memory.locks import LostLock, held_by_this_thread, refuse_inside
from pinfold.rights import Perm
from pinfold.transfers import FileStatistics
from pinfold.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.bus import Grant, PinnedRange
    from pinfold.buses.io_uring import UringBus
    from pinfold.buses.io_uring.batch import Batch
    from pinfold.buses.io_uring.file import OpenFile
    from pinfold.transfers import Outcomes

_MOVES = int(Perm.READ | Perm.WRITE)


class Running:
    """Transfers of one device that are under way."""

    __slots__ = ("_batch", "_space")

    def __init__(self, space: UringSpace, batch: Batch) -> None:
        self._space = space
        self._batch = batch

    def __del__(self) -> None:
        if self._batch.left:
            self._space.queue.drop(self._batch)

    @property
    def left(self) -> int:
        """See `pinfold.bus.FileBatch.left`."""
        return self._batch.left

    def finish(self) -> Outcomes:
        """See `pinfold.bus.FileBatch.finish`."""
        try:
            self._space.queue.finish(self._batch)
        finally:
            if self._space.owed:
                self._space.ended_access()
        return self._batch.outcomes()


class UringSpace:
    """One device: its ring, its table, and the file that it is, if it is one.

    Raises:
      LimitReached: a ring would pass RLIMIT_MEMLOCK.
      NoMemory, HostError: the kernel made no ring.
    """

    def __init__(
        self,
        bus: UringBus,
        initiator: int,
        address_bits: int,
        *,
        depth: int,
        file: OpenFile | None = None,
    ) -> None:
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self.users = 0
        self.depth = depth
        self.file = file
        self._table = Table(address_bits)
        try:
            self._ring = registering.patiently(partial(Ring, depth, len(self._table.perms)))
        except OSError as error:
            raise registering.of_ring(error) from error
        self._lock = threading.RLock()
        self.owed: deque[Callable[[], None]] = deque()
        """What is to be done once a transfer is over: listeners, and what finalisers left."""
        space = self._table.space
        self.diagnosis = Diagnosis(
            initiator, address_bits, bus.faults, space, self._table.longest, self.owed
        )
        self.port_lock: threading.RLock | LostLock = threading.RLock()
        """Whoever has an access by a port under way. Before the queue's."""
        self.port_file: OpenFile | None = None
        """Where its bytes are on the way; None where there is no port, or none any more."""
        self.queue = Queue(self._ring, self._table, depth, self._lock, self.diagnosis)

    @property
    def initiator(self) -> int:
        """The device, as the bus knows it."""
        return self._initiator

    @property
    def address_bits(self) -> int:
        """How many address bits the device has."""
        return self._address_bits

    @property
    def largest_buffer(self) -> int:
        """Bytes in one registered buffer at most; a grant takes as many as it needs."""
        return self._table.longest

    # Grants -------------------------------------------------------------------------------------

    def grant(self, pinned: PinnedRange, perms: int) -> Grant:
        """See `pinfold.bus.DeviceSpace.grant`.

        Raises:
          NotSupported: EXECUTE, which no file does; memory that Linux does not pin for writing.
        """
        if perms & ~_MOVES:
            raise NotSupported("a file executes nothing", remedy="grant READ, WRITE or both")
        grant = UringGrant(pinned, perms, next(self._bus.numbers))
        self.refuse_nested()
        with self.queue.lock:
            if self.queue.closed:
                raise BadState("this device has left its bus")
            if not self._table.place(grant, pinned.size):
                raise self._no_slots(pinned.size)
            self._register(grant)
            self._table.enter(grant, pinned.host_address)
        return grant

    def _register(self, grant: UringGrant) -> None:
        """All of the grant's buffers, or none: then its slots are free again, and it raises.

        Only what the kernel refuses frees them. Any other exception may have come when it had
        registered all: they stay the grant's, which nothing reaches, and `Bus.close` revokes it.
        """
        pinned, longest = grant.pinned, self._table.longest
        try:
            done = registering.patiently(
                partial(self._ring.put, grant.slot, pinned.host_address, pinned.size, longest)
            )
        except OSError as error:
            if not registering.is_refusal(error):
                raise
            refused = registering.of_buffers(pinned, error)
            self._table.space.remove(grant.start)
            raise refused from error
        if done != grant.slots:
            self._undo(grant, done)

    def _undo(self, grant: UringGrant, done: int) -> NoReturn:
        """The kernel has registered only so many of the grant's buffers: none, then."""
        pinned = grant.pinned
        # The kernel says only how far it came. Asking for the next alone gives its reason.
        reason = OSError(errno.EAGAIN, "the kernel stopped half way, and then did not")
        at = done * self._table.longest
        rest = min(pinned.size - at, self._table.longest)
        try:
            done += self._ring.put(grant.slot + done, pinned.host_address + at, rest, rest)
        except OSError as error:
            if not registering.is_refusal(error):
                raise
            reason = error
        undone: OSError | None = None
        try:
            self._clear(grant.slot, done)
        except OSError as error:
            if not registering.is_refusal(error):
                raise
            undone = error
        # It tells what else is held, so after these have gone.
        failed = registering.of_buffers(pinned, reason)
        if undone is not None:
            failed.add_note(f"undoing it failed too, empty {done} slots: {undone}")
        self._table.space.remove(grant.start)
        raise failed from reason

    def _clear(self, slot: int, count: int) -> None:
        done = self._ring.clear(slot, count)
        if done != count:
            raise OSError(errno.EIO, f"{done} of {count} slots were emptied")

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`. Waits until requests that use it have ended."""
        if not isinstance(grant, UringGrant):
            raise InvalidArgs("a grant of another bus")
        self.refuse_inside()
        with self.queue.lock:
            if not grant.live:
                return
            if not self.queue.closed:  # else they went with the ring
                with translated("empty slots"):
                    self._clear(grant.slot, grant.slots)
            self._table.strike(grant)
            self.queue.stop_waiting(grant)
        self.queue.drain(grant)
        with self.queue.lock:
            if grant.live:
                grant.live = False
                self._table.space.remove(grant.start)
                self.diagnosis.forget(grant)

    @property
    def has_grants(self) -> bool:
        """True while there is one; for the bus, without the queue's lock."""
        return len(self._table.space.blocks) > 0

    def live_grants(self) -> list[Grant]:
        """The grants that are live, by address."""
        with self.queue.lock:
            return [grant for _, _, grant in self._table.space.blocks]

    def covering(self, address: int) -> UringGrant | None:
        """The grant that has a device address. With the queue's lock held."""
        found = self._table.space.blocks.find(address)
        return None if found is None else found[2]

    def _no_slots(self, size: int) -> LimitReached:
        table = self._table
        return no_room(
            f"device {self._initiator:#x} has no room in its table for {human_size(size)}, "
            f"{-(-size // table.longest)} buffer(s) of {human_size(table.longest)} at most",
            size,
            table.space,
            align=table.longest,
        )

    # Transfers ----------------------------------------------------------------------------------

    def start(self, wanted: NDArray[Any]) -> Running:
        """See `pinfold.bus.FileSpace.start`."""
        try:
            return Running(self, self.queue.start(wanted, self._opened()))
        finally:
            if self.owed:
                self.ended_access()

    def sync(self) -> None:
        """See `pinfold.bus.FileSpace.sync`."""
        try:
            result = self.queue.sync(self._opened())
        finally:
            if self.owed:
                self.ended_access()
        if result:
            error = OSError(-result, os.strerror(-result))
            raise from_host(f"sync {self._opened().path}", error) from error

    def file_statistics(self) -> FileStatistics:
        """See `pinfold.bus.FileSpace.file_statistics`."""
        file, queue = self._opened(), self.queue
        return FileStatistics(
            path=str(file.path),
            size=file.size(),
            direct=file.takes_direct,
            memory_alignment=file.memory_alignment,
            offset_alignment=file.offset_alignment,
            depth=self.depth,
            transfers=queue.transfers,
            bytes_moved=queue.bytes_moved,
            failed=queue.failed,
            stopped=queue.stopped,
        )

    def _opened(self) -> OpenFile:
        if self.file is None:
            raise NotSupported("this device is no file", remedy="use bus.file(path)")
        return self.file

    # The rest of the contract -------------------------------------------------------------------

    def master(self) -> UringMaster:
        """A port for a software device: the kernel moves its bytes.

        Raises:
          NoMemory, HostError: the host gives no memory file.
        """
        self.refuse_nested()
        with self.port_lock:
            if self.port_file is None and not self.queue.closed:
                self.port_file = port_file()
        return UringMaster(self)

    def device(self) -> NoReturn:
        """Refused: the device is the kernel's block layer, and a file is how to get at it."""
        raise NotSupported("the devices of the io_uring bus are files", remedy="use bus.file(path)")

    def refuse_inside(self) -> None:
        """Raise `Unavailable` in a finaliser that runs inside an access of its own thread."""
        refuse_inside(self.port_lock)
        self.queue.refuse_inside()

    def refuse_nested(self) -> None:
        """Raise `BadState` inside an access of the same thread."""
        if held_by_this_thread(self.port_lock):
            raise nested()
        self.queue.refuse_nested()

    def ended_access(self) -> None:
        """What a port calls after a transfer, outside the locks."""
        if held_by_this_thread(self._lock):
            return
        while self.owed:
            try:
                act = self.owed.popleft()
            except IndexError:
                return
            act()

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`."""
        self.owed.append(settle)

    def quiesce(self) -> None:
        """Nothing more is given to the kernel, and what is under way ends."""
        self.refuse_inside()
        self.queue.idle()

    def close(self) -> None:
        """Give the ring back, and close the file. Raises HostError: what was refused."""
        self.refuse_inside()
        self._bus.detach(self)

    def end(self) -> None:
        """The last user is gone: whatever the ring refuses, it goes, and so does the file."""
        each_tried((self.queue.idle, self._shut))

    def _shut(self) -> None:
        with self.port_lock:
            if self.queue.shut():
                each_tried((self._close_ring, self._close_file, self._close_port_file))

    def _close_ring(self) -> None:
        registering.close(self._ring)

    def _close_file(self) -> None:
        if self.file is not None:
            self.file.close()

    def _close_port_file(self) -> None:
        file, self.port_file = self.port_file, None
        if file is not None:
            file.close()

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`: the child's copies go, so that it keeps nothing pinned."""
        self.queue.lose()
        self.port_lock = LostLock()
        each_tried((self._close_ring, self._close_file, self._close_port_file))
