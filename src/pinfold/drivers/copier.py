# A driver for copier, the scatter-gather engine of `pinfold.devices.copier`, whose opening comment
# is the register map.
#
# Three orders carry its safety:
#
#   submit  descriptors are in the ring, THEN the doorbell rings
#   close   the engine has stopped, THEN its ring is unpinned, THEN the memory is closed
#   failure an engine that does not stop keeps its ring: the pin goes to the Bti's quarantine
#
# Descriptors are made and checked in bulk, by numpy: a scattered pin of a gigabyte is a quarter of
# a million of them. They go to the engine a ring at a time. One caller at a time, too.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.drivers.copies import (
    CODES,
    DESCRIPTOR,
    LARGEST_RING,
    LONGEST,
    CopierDriverStatistics,
    CopyReport,
    CopyStopped,
)
from pinfold.drivers.driver import Driver
from pinfold.drivers.mmio import POLLS, DeviceFailed, read_present
from pinfold.drivers.segments import Segments
from pinfold.errors import BadState, InvalidArgs, LimitReached, NotSupported, WrongType
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE, is_power_of_two

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.drivers.mmio import Mmio
    from pinfold.objects.bti import Bti
    from pinfold.objects.pmt import Pmt

_IDENTIFICATION: Final = 0x00
_CONTROL: Final = 0x04
_STATUS: Final = 0x08
_ERROR_CODE: Final = 0x0C
_RING_BASE: Final = 0x10
_RING_SIZE: Final = 0x18
_TAIL: Final = 0x1C
_ERROR_SLOT: Final = 0x24
_ERROR_ADDRESS: Final = 0x28

_COPIER: Final = 0x43504631
_RUN, _RESET = 0x1, 0x4
_RUNNING, _BUSY, _ERROR = 0x1, 0x2, 0x4
_DONE: Final = 1


class CopierDriver(Driver):
    """One engine, and the ring in pinned memory through which it is driven.

    Args:
      registers: the engine's BAR 0.
      bti: its authority to reach memory; the ring is pinned through it.
      ring_bytes: bytes of the ring, a power of two and whole pages.
      address_bits: how many address bits the engine has; what is beyond is refused before work
        starts.
      polls: how often to look for the end of a list.
      wait: called between two looks.

    Raises:
      NotSupported: it is no such engine.
      InvalidArgs: ``ring_bytes`` is not as above.
      What `Vmo.contiguous` and `Bti.pin` raise; OutOfReach, of the ring.
    """

    def __init__(
        self,
        registers: Mmio,
        bti: Bti,
        *,
        ring_bytes: int = PAGE_SIZE,
        address_bits: int = 64,
        polls: int = POLLS,
        wait: Callable[[], None] | None = None,
    ) -> None:
        slots = ring_bytes // DESCRIPTOR.itemsize
        if ring_bytes < PAGE_SIZE or not is_power_of_two(ring_bytes) or slots > LARGEST_RING:
            raise InvalidArgs(
                "a ring is a power of two of bytes, at least a page",
                asked=ring_bytes,
                limit=LARGEST_RING * DESCRIPTOR.itemsize,
            )
        found = registers.read32(_IDENTIFICATION)
        if found != _COPIER:
            raise NotSupported(f"no copier: its identification is {found:#x}", asked=found)
        super().__init__(registers, address_bits=address_bits, polls=polls, wait=wait)
        self._slots = slots
        self._tail = 0
        self._pending: list[NDArray[np.void]] = []
        self._submitted = self._completed = self._bytes = self._failures = 0
        # Contiguous: the engine takes one base address, and a bus may scatter anything else.
        self._memory = Vmo.contiguous(bti, ring_bytes, name="copier-ring")
        try:
            self._pin = bti.pin(self._memory, perms=Perm.READ | Perm.WRITE)
        except BaseException:
            self._memory.close()
            raise
        try:
            ring = Segments.of(self._pin.extents, 0, ring_bytes)
            ring.refuse_beyond(address_bits)
            if len(ring) != 1:
                raise DeviceFailed(f"the ring lies in {len(ring)} pieces, and the engine takes one")
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        """Descriptors that can be with the engine at once; one slot tells full from empty."""
        return self._slots - 1

    def describe(
        self,
        destination: Pmt,
        source: Pmt,
        size: int | None = None,
        *,
        destination_offset: int = 0,
        source_offset: int = 0,
    ) -> NDArray[np.void]:
        """The descriptors of a copy from one pin to another; see `copy`. Nothing is started.

        Returns:
          An array of `DESCRIPTOR`, as short as the extents of the two pins and the engine allow.
        """
        moves = self._moves(
            destination,
            source,
            size,
            destination_offset=destination_offset,
            source_offset=source_offset,
            longest=LONGEST,
        )
        work = np.zeros(len(moves), dtype=DESCRIPTOR)
        work["source"] = moves.sources
        work["destination"] = moves.destinations
        work["length"] = moves.lengths
        return work

    def copy(
        self,
        destination: Pmt,
        source: Pmt,
        size: int | None = None,
        *,
        destination_offset: int = 0,
        source_offset: int = 0,
    ) -> CopyReport:
        """Have the engine copy bytes from one pin to another, and wait for it.

        Args:
          destination, source: pins that permit WRITE and READ. Where they overlap, what comes out
            is not promised.
          size: bytes; the rest of ``source`` by default.
          destination_offset, source_offset: bytes into each; any.

        Raises:
          InvalidArgs: ``size`` is not > 0.
          OutOfRange: a range leaves its pin.
          OutOfReach: an address has more bits than the engine (``.extent``); nothing was started.
          BadState: submitted work was not waited for, or this driver is closed.
          CopyStopped: the bus stopped the engine; what came before has been copied.
          DeviceTimeout: the engine did not finish; it may still be writing.
        """
        work = self.describe(
            destination,
            source,
            size,
            destination_offset=destination_offset,
            source_offset=source_offset,
        )
        if self._pending:
            raise BadState("submitted work was not waited for", remedy="wait() first")
        moved = polls = 0
        for first in range(0, len(work), self.capacity):
            self.submit(work[first : first + self.capacity])
            report = self._finish(first, moved)
            moved += report.bytes_moved
            polls += report.polls
        return CopyReport(len(work), moved, polls)

    def submit(self, work: NDArray[np.void]) -> None:
        """Hand descriptors to the engine and return at once.

        Args:
          work: an array of `DESCRIPTOR`; it is copied.

        Raises:
          WrongType: ``work`` has other elements.
          LimitReached: they do not fit the ring beside what was not waited for.
          BadState: this driver is closed.
        """
        self._refuse_if_closed()
        if work.dtype != DESCRIPTOR:
            raise WrongType(f"the elements are {work.dtype}, not descriptors")
        room = self.capacity - sum(map(len, self._pending))
        if len(work) > room:
            raise LimitReached(
                "the ring has no room for the descriptors",
                asked=len(work),
                available=room,
                limit=self.capacity,
                remedy="wait() for earlier ones, or give the driver a larger ring",
            )
        if not len(work):
            return
        work = work.copy()
        work["status"] = 0  # what was done before is not done again
        until_end = self._slots - self._tail
        self._put(self._tail, work[:until_end])
        self._put(0, work[until_end:])
        self._tail = (self._tail + len(work)) % self._slots
        self._pending.append(work)
        self._submitted += len(work)
        self._registers.write32(_TAIL, self._tail)  # after the descriptors: see the top

    def wait(self) -> CopyReport:
        """Wait for everything that was submitted. Raises CopyStopped, DeviceTimeout: see `copy`."""
        return self._finish(0, 0)

    def _finish(self, before: int, moved: int) -> CopyReport:
        """Wait; ``before`` descriptors of ``moved`` bytes came earlier in the caller's list."""
        self._refuse_if_closed()
        if not self._pending:
            return CopyReport(0, 0, 0)
        status = _BUSY

        def idle() -> bool:
            nonlocal status
            status = read_present(self._registers, _STATUS)
            return not status & _BUSY

        polls = self._until(idle, "a list of copies")
        work = np.concatenate(self._pending)
        self._pending.clear()
        codes = self._written_back(len(work))
        failed = np.flatnonzero(codes != _DONE)
        done = int(failed[0]) if len(failed) else len(work)
        bytes_moved = int(work["length"][:done].sum(dtype=np.int64))
        self._completed += done
        self._bytes += bytes_moved
        if done == len(work) and not status & _ERROR:
            return CopyReport(done, bytes_moved, polls)
        self._failures += 1
        code = self._registers.read32(_ERROR_CODE)
        address = self._registers.read64(_ERROR_ADDRESS)
        self._start()
        if done == len(work) or code not in CODES:
            raise DeviceFailed(
                f"the engine reports code {code} and wrote back {done} of {len(work)} descriptors"
            )
        raise CopyStopped(code, before + done, work[done], address, moved + bytes_moved)

    def _put(self, slot: int, work: NDArray[np.void]) -> None:
        if len(work):
            self._memory.write(work.view(np.uint8), slot * DESCRIPTOR.itemsize)

    def _written_back(self, count: int) -> NDArray[np.uint32]:
        """The codes of the last ``count`` slots before the tail, oldest first."""
        ring = np.frombuffer(self._memory.read(), dtype=DESCRIPTOR)
        slots = (self._tail - count + np.arange(count)) % self._slots
        codes: NDArray[Any] = ring["status"][slots]
        return codes

    def _start(self) -> None:
        """Reset the engine and give it the ring, empty."""
        registers = self._registers
        registers.write32(_CONTROL, _RESET)
        self._tail = 0
        registers.write64(_RING_BASE, self._pin.extents.first)
        registers.write32(_RING_SIZE, self._slots)
        registers.write32(_CONTROL, _RUN)

    # The end ------------------------------------------------------------------------------------

    def statistics(self) -> CopierDriverStatistics:
        """What was done so far, as a frozen record."""
        return CopierDriverStatistics(
            ring=self.capacity,
            submitted=self._submitted,
            completed=self._completed,
            bytes_moved=self._bytes,
            failures=self._failures,
            polls=self._polled,
        )

    def close(self) -> None:
        """Stop the engine, unpin the ring, close its memory. Work not waited for is dropped.

        Twice is once.

        Raises:
          DeviceTimeout, DeviceFailed: the engine did not stop, or is gone. The ring is in the Bti's
            quarantine then: reset the device, then `Bti.release_quarantine`.
        """
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        self._release(self._memory, self._pin, self._stop)

    def _stop(self) -> None:
        self._registers.write32(_CONTROL, 0)
        self._until(
            lambda: not read_present(self._registers, _STATUS) & _RUNNING, "stopping the engine"
        )
        self._registers.write32(_CONTROL, _RESET)  # it forgets the ring's address
