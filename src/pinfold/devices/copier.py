# copier: a scatter-gather copy engine. Ours; no hardware has these registers.
#
# It takes its work from a ring of descriptors that lies in pinned memory and that it fetches
# itself, as NICs and NVMe controllers do. So a ring that was unpinned too early, or granted without
# WRITE, shows here, and not on the day the driver meets hardware.
#
#   BAR0, 64 bytes. Four-byte accesses; a register of eight bytes takes one of eight or two of four.
#   0x00 RO 4  identification    0x43504631
#   0x04 RW 4  control           0x1 RUN; 0x2 INTERRUPTS; 0x4 RESET (reads 0: registers as after
#                                power-on)
#   0x08 RO 4  status            0x1 RUNNING, 0x2 BUSY (descriptors are left), 0x4 ERROR
#   0x0c RO 4  error code        see `Code`; 0 for none
#   0x10 RW 8  ring base         device address of descriptor 0, a multiple of 32
#   0x18 RW 4  ring size         descriptors; a power of two, 2 to 65536
#   0x1c RW 4  tail, doorbell    the slot after the last descriptor there is
#   0x20 RO 4  head              the slot taken next; the ring is empty where head is tail
#   0x24 RO 4  error slot        the slot at which it stopped
#   0x28 RO 8  error address     the device address that was stopped
#   0x30 RW 4  interrupt status  0x1 a descriptor that asked for it, 0x2 error; written ones clear
#   0x38 RO 8  bytes moved
#
#   Descriptor, 32 bytes, little-endian
#   0x00 8  source       device address
#   0x08 8  destination  device address
#   0x10 4  length       bytes, 1 to 16 MiB
#   0x14 4  flags        0x1 interrupt when done; the others are 0
#   0x18 4  status       0 from the driver; the engine writes a `Code`
#   0x1c 4  reserved, 0; the engine writes 0
#
# Ring base and size are taken only while RUN is clear; control RUN starts the engine at head and
# tail 0 only after a RESET, and goes on where it was otherwise. Descriptors are worked on one by
# one, in order, and each is written back before the next is begun. The engine stops at the first
# access that the bus stops: RUN clears, ERROR is set, head stays at the failing slot, and only
# RESET gets it going again. What a failed descriptor had moved until then is not told.
#
# Time is counted in register reads, as in `edu`: work begins `latency` reads after a doorbell, and
# from then on each read is worth `step` descriptors. Clearing RUN acts at once, since between two
# register accesses no descriptor is half done.
from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.bus import Fault
from pinfold.devices.registers import Registers
from pinfold.errors import DmaFault, InvalidArgs
from pinfold.rights import Perm
from pinfold.units import MIB, is_power_of_two

if TYPE_CHECKING:
    from pinfold.bus import BusMaster

IDENTIFICATION: Final = 0x43504631
BAR0_SIZE: Final = 64
DESCRIPTOR: Final = struct.Struct("<QQIIII")
LONGEST: Final = 16 * MIB
LARGEST_RING: Final = 1 << 16

_RUN, _INTERRUPTS, _RESET = 0x1, 0x2, 0x4
_RUNNING, _BUSY, _ERROR = 0x1, 0x2, 0x4
_ASKED_INTERRUPT, _ERROR_INTERRUPT = 0x1, 0x2
_FLAG_INTERRUPT: Final = 0x1

_PREFETCH: Final = 64
"""Descriptors fetched in one access."""
_STATUS_AT: Final = 0x18
_ALL_ONES: Final = (1 << 64) - 1
_MASK32: Final = (1 << 32) - 1


class Code(enum.IntEnum):
    """What became of a descriptor, or why the engine stopped."""

    PENDING = 0
    DONE = 1
    SOURCE_FAULT = 2
    """The bus stopped the read."""
    DESTINATION_FAULT = 3
    """The bus stopped the write."""
    BAD_DESCRIPTOR = 4
    """A length of 0 or over the longest, or an unknown flag."""
    RING_FAULT = 5
    """A descriptor could not be fetched or written back."""
    BAD_RING = 6
    """RUN with a ring base or size that cannot be one."""
    BAD_DOORBELL = 7
    """A tail beyond the ring."""


@dataclass(frozen=True, slots=True)
class CopierStatistics:
    """What an engine has seen and done since it was made; a reset does not clear it."""

    reads: int
    writes: int
    refused: int
    """Accesses of a width or at an offset that no register has."""
    ignored: int
    """Writes that a running engine, or a register that cannot be written, did not take."""
    doorbells: int
    descriptors: int
    """Done and written back."""
    bytes_moved: int
    stopped: int
    """Accesses that the bus stopped."""
    interrupts: int


class Copier(Registers):
    """The engine.

    Args:
      master: its port on the bus.
      latency: register reads from a doorbell to the first descriptor; 0 for none.
      step: descriptors a register read is worth after that; None for all there are.
    """

    def __init__(self, master: BusMaster, *, latency: int = 1, step: int | None = None) -> None:
        if latency < 0 or (step is not None and step <= 0):
            raise InvalidArgs("a latency is not negative, and a step is at least one descriptor")
        if step is not None and not latency:
            raise InvalidArgs("work in steps takes reads: give a latency of at least 1")
        super().__init__(BAR0_SIZE)
        self._master = master
        self._latency = latency
        self._step = step
        self._epoch = 0
        self._reads = self._writes = self._refused = self._ignored = 0
        self._doorbells = self._descriptors = self._bytes_moved = self._stopped = 0
        self.reset()

    def reset(self) -> None:
        """As after power-on: stopped, with no ring and no error."""
        self._epoch += 1
        self._control = 0
        self._base = self._ring_size = self._tail = self._head = 0
        self._code = Code.PENDING
        self._error_slot = self._error_address = 0
        self._irq = 0
        self._moved = 0
        self._left = 0

    def statistics(self) -> CopierStatistics:
        """What happened so far, as a frozen record."""
        return CopierStatistics(
            reads=self._reads,
            writes=self._writes,
            refused=self._refused,
            ignored=self._ignored,
            doorbells=self._doorbells,
            descriptors=self._descriptors,
            bytes_moved=self._bytes_moved,
            stopped=self._stopped,
            interrupts=self._interrupts,
        )

    # Registers ----------------------------------------------------------------------------------

    def _load(self, offset: int, width: int) -> int:
        self._reads += 1
        value = self._value(offset, width)
        self._tick()  # after the value is taken: the read that starts the clock still sees busy
        return value

    def _value(self, offset: int, width: int) -> int:
        register = self._locate(offset, width)
        match register:
            case 0x00:
                return IDENTIFICATION
            case 0x04:
                return self._control
            case 0x08:
                return self._status()
            case 0x0C:
                return self._code
            case 0x10:
                return self._base >> 8 * (offset - register)
            case 0x18:
                return self._ring_size
            case 0x1C:
                return self._tail
            case 0x20:
                return self._head
            case 0x24:
                return self._error_slot
            case 0x28:
                return self._error_address >> 8 * (offset - register)
            case 0x30:
                return self._irq
            case 0x38:
                return self._moved >> 8 * (offset - register)
        return _ALL_ONES

    def _store(self, offset: int, value: int, width: int) -> None:
        self._writes += 1
        running = self._control & _RUN
        register = self._locate(offset, width)
        match register:
            case 0x04:
                self._set_control(value)
            case 0x10 if not running:
                if width == 8:
                    self._base = value
                else:
                    shift = 8 * (offset - register)
                    self._base = self._base & ~(_MASK32 << shift) | value << shift
            case 0x18 if not running:
                self._ring_size = value
            case 0x1C:
                self._ring_doorbell(value)
            case 0x30:
                self._irq &= ~value
            case None:
                pass  # counted by _locate
            case _:
                self._ignored += 1

    def _locate(self, offset: int, width: int) -> int | None:
        """The register that an access means; None, counted, for one that means none."""
        register = offset & ~7 if offset & ~7 in (0x10, 0x28, 0x38) else offset
        wide = register in (0x10, 0x28, 0x38)
        if offset % width or (width == 8 and not wide) or register == 0x34:
            self._refused += 1
            return None
        return register

    def _status(self) -> int:
        status = 0
        if self._control & _RUN:
            status |= _RUNNING
            if self._head != self._tail:
                status |= _BUSY
        return status | (_ERROR if self._code else 0)

    def _set_control(self, value: int) -> None:
        if value & _RESET:
            self.reset()
            return
        if self._code:
            value &= ~_RUN  # only a reset gets it going again
        starting = value & _RUN and not self._control & _RUN
        self._control = value & (_RUN | _INTERRUPTS)
        if not starting:
            return
        size = self._ring_size
        if (
            self._base % DESCRIPTOR.size
            or not 2 <= size <= LARGEST_RING
            or not is_power_of_two(size)
            or self._head >= size  # the ring has been made smaller under it
        ):
            self._stop(Code.BAD_RING, 0)
        elif self._tail >= size:
            self._stop(Code.BAD_DOORBELL, 0)
        else:
            self._begin()

    def _ring_doorbell(self, tail: int) -> None:
        self._doorbells += 1
        self._tail = tail
        if not self._control & _RUN:
            return
        if tail >= self._ring_size:
            self._stop(Code.BAD_DOORBELL, 0)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._head == self._tail:
            return
        if not self._latency:
            self._work(None)
        elif not self._left:
            self._left = self._latency

    def _tick(self) -> None:
        if not self._left or not self._control & _RUN:
            return
        self._left -= 1
        if not self._left:
            self._work(self._step)
            if self._control & _RUN and self._head != self._tail:
                self._left = 1

    # Work ---------------------------------------------------------------------------------------

    def _work(self, most: int | None) -> None:
        """Take up to ``most`` descriptors. An interrupt's listener may stop or reset us between."""
        epoch = self._epoch
        while self._control & _RUN and self._head != self._tail and most != 0:
            first = self._head
            there = (self._tail - first) % self._ring_size
            count = min(there, self._ring_size - first, _PREFETCH)
            if most is not None:
                count = min(count, most)
                most -= count
            try:
                raw = self._master.read(self._address(first), count * DESCRIPTOR.size)
            except DmaFault as error:
                self._stop(Code.RING_FAULT, self._faulted(error).address)
                return
            for slot, fields in enumerate(DESCRIPTOR.iter_unpack(raw), first):
                if slot != self._head or epoch != self._epoch or not self._control & _RUN:
                    return
                self._take(*fields)

    def _take(
        self, source: int, destination: int, length: int, flags: int, _status: int, _reserved: int
    ) -> None:
        slot = self._head
        if not 0 < length <= LONGEST or flags & ~_FLAG_INTERRUPT:
            self._finish(slot, Code.BAD_DESCRIPTOR, 0)
            return
        try:
            self._master.copy(destination, source, length)
        except DmaFault as error:
            fault = self._faulted(error)
            reading = fault.access & Perm.READ
            code = Code.SOURCE_FAULT if reading else Code.DESTINATION_FAULT
            self._finish(slot, code, fault.address)
            return
        self._moved += length
        self._bytes_moved += length
        if self._finish(slot, Code.DONE, 0) and flags & _FLAG_INTERRUPT:
            self._raise(_ASKED_INTERRUPT)

    def _finish(self, slot: int, code: Code, address: int) -> bool:
        """Write a descriptor back, then move on or stop; True when the engine goes on."""
        written = True
        try:
            self._master.write(self._address(slot) + _STATUS_AT, struct.pack("<II", code, 0))
        except DmaFault as error:
            fault = self._faulted(error)
            written = False
            if code is Code.DONE:  # the first thing that went wrong is the one to report
                code, address = Code.RING_FAULT, fault.address
        if code is not Code.DONE:
            self._stop(code, address)
            return False
        self._descriptors += written
        self._head = (slot + 1) % self._ring_size
        return True

    def _stop(self, code: Code, address: int) -> None:
        self._control &= ~_RUN
        self._left = 0
        self._code = code
        self._error_slot = self._head
        self._error_address = address
        self._raise(_ERROR_INTERRUPT)

    def _raise(self, bit: int) -> None:
        self._irq |= bit
        if self._control & _INTERRUPTS:
            self._interrupt(self._irq)

    def _faulted(self, error: DmaFault) -> Fault:
        self._stopped += 1
        if not isinstance(error.fault, Fault):  # a bus that breaks the contract; not ours to hide
            raise error
        return error.fault

    def _address(self, slot: int) -> int:
        return self._base + slot * DESCRIPTOR.size
