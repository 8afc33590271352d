# edu: QEMU's teaching device, register for register.
#
# Source: docs/specs/edu.rst of QEMU for what is promised, hw/misc/edu.c for the rest: what a write
# to a busy or read-only register does, what an access of the wrong width reads.
#
#   BAR0, 1 MiB; below 0x80 only four-byte accesses, from 0x80 on four or eight
#   0x00 RO  identification      0x010000ed: version 1.0
#   0x04 RW  liveness            reads the bitwise inverse of what was written
#   0x08 RW  factorial           write n, wait for COMPUTING to clear, read n! modulo 2**32
#   0x20 RW  status              0x01 COMPUTING (RO), 0x80 interrupt after a factorial
#   0x24 RO  interrupt status    0x001 factorial, 0x100 DMA, and whatever was raised
#   0x60 WO  interrupt raise     ORed into the interrupt status
#   0x64 WO  interrupt ack       cleared from the interrupt status
#   0x80 RW  DMA source
#   0x88 RW  DMA destination
#   0x90 RW  DMA count           bytes
#   0x98 RW  DMA command         0x1 start, busy; 0x2 from the device to RAM; 0x4 interrupt 0x100
#   The device's own memory is 4096 bytes at device address 0x40000, for DMA only.
#
# A RAM address is cut to the DMA mask, 28 bits by default, and nobody is told. A transfer that the
# bus stops goes on as if nothing had happened: what could not be read is zeros, what could not be
# written is lost. Real IOMMUs translate page by page, so the pages of one transfer fare separately.
#
# Where the model differs, on purpose: a transfer outside the device's own memory ends QEMU 7.2 and
# overruns a buffer of newer ones. Here it raises `DeviceAbort` with the registers named.
#
# Time is counted in register reads: a job is done `latency` reads after it was started. A driver
# that does not poll therefore fails here as it would on hardware, always and not now and then.
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.devices.registers import Registers
from pinfold.errors import DmaFault, InvalidArgs
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.bus import BusMaster

VENDOR_ID: Final = 0x1234
DEVICE_ID: Final = 0x11E8
BAR0_SIZE: Final = 1 << 20

IDENTIFICATION: Final = 0x010000ED
BUFFER_START: Final = 0x40000
BUFFER_SIZE: Final = 0x1000
DMA_MASK: Final = (1 << 28) - 1

_COMPUTING: Final = 0x01
_STATUS_INTERRUPT: Final = 0x80
_FACTORIAL_DONE: Final = 0x001
_DMA_DONE: Final = 0x100
_RUN: Final = 0x1
_TO_RAM: Final = 0x2
_DMA_INTERRUPT: Final = 0x4

_WIDE: Final = 0x80
"""From here on registers take eight-byte accesses too."""

_ALL_ONES: Final = (1 << 64) - 1
_MASK32: Final = (1 << 32) - 1


class DeviceAbort(InvalidArgs):
    """The registers ask for what stops the machine: the driver is wrong, not the memory.

    ``registers`` has the values that say so, by name. Nothing was started.
    """

    def __init__(self, message: str, *, registers: dict[str, int], remedy: str) -> None:
        self.registers = registers
        values = ", ".join(f"{name} {value:#x}" for name, value in registers.items())
        super().__init__(f"{message}: {values}", remedy=remedy)


@dataclass(frozen=True, slots=True)
class EduStatistics:
    """What a device has seen and done since it was made; a reset does not clear it."""

    reads: int
    writes: int
    refused: int
    """Accesses of a width or at an offset that no register has."""
    ignored: int
    """Writes that a busy device, or a register that cannot be written, did not take."""
    factorials: int
    transfers: int
    """Those that came to their end, stopped or not."""
    bytes_read: int
    """Moved from RAM to the device."""
    bytes_written: int
    """Moved from the device to RAM."""
    truncated: int
    """Transfers whose RAM address lost bits to the DMA mask."""
    stopped: int
    """Accesses that the bus stopped; a transfer makes one for each page it touches."""
    interrupts: int


class Edu(Registers):
    """The device.

    Args:
      master: its port on the bus.
      dma_mask: the bits of a RAM address that the device keeps.
      latency: how many register reads a job takes; 0 for none.
      strict_end: refuse a transfer of no bytes, or up to the very end of the device's memory, as
        QEMU 7.2 does.
    """

    def __init__(
        self,
        master: BusMaster,
        *,
        dma_mask: int = DMA_MASK,
        latency: int = 1,
        strict_end: bool = False,
    ) -> None:
        if latency < 0:
            raise InvalidArgs("a latency is a number of reads, not negative", asked=latency)
        super().__init__(BAR0_SIZE)
        self._master = master
        self._mask = dma_mask
        self._latency = latency
        self._strict_end = strict_end
        self._reads = self._writes = self._refused = self._ignored = 0
        self._factorials = self._transfers = self._truncated = self._stopped = 0
        self._bytes_read = self._bytes_written = 0
        self.reset()

    def reset(self) -> None:
        """As after power-on: registers and memory are zero, and a job under way is dropped."""
        self._liveness = 0
        self._factorial = 0
        self._status = 0
        self._irq = 0
        self._dma = {0x80: 0, 0x88: 0, 0x90: 0, 0x98: 0}
        self._buffer = bytearray(BUFFER_SIZE)
        self._computing_left = 0
        self._dma_left = 0

    def contents(self) -> bytes:
        """The device's own memory, which on hardware only DMA shows."""
        return bytes(self._buffer)

    def statistics(self) -> EduStatistics:
        """What happened so far, as a frozen record."""
        return EduStatistics(
            reads=self._reads,
            writes=self._writes,
            refused=self._refused,
            ignored=self._ignored,
            factorials=self._factorials,
            transfers=self._transfers,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
            truncated=self._truncated,
            stopped=self._stopped,
            interrupts=self._interrupts,
        )

    # Registers ----------------------------------------------------------------------------------

    def _load(self, offset: int, width: int) -> int:
        self._reads += 1
        value = _ALL_ONES
        if self._accepts(offset, width):
            match offset:
                case 0x00:
                    value = IDENTIFICATION
                case 0x04:
                    value = self._liveness
                case 0x08:
                    value = self._factorial
                case 0x20:
                    value = self._status
                case 0x24:
                    value = self._irq
                case 0x80 | 0x88 | 0x90 | 0x98:
                    value = self._dma[offset]
        self._tick()  # after the value is taken: the read that starts the clock still sees busy
        return value

    def _store(self, offset: int, value: int, width: int) -> None:
        self._writes += 1
        if not self._accepts(offset, width):
            return
        match offset:
            case 0x04:
                self._liveness = ~value & _MASK32
            case 0x08:
                self._start_factorial(value)
            case 0x20:
                self._status = (self._status & _COMPUTING) | (value & _STATUS_INTERRUPT)
            case 0x60:
                self._raise(value)
            case 0x64:
                self._irq &= ~value
            case 0x80 | 0x88 | 0x90 if not self._dma[0x98] & _RUN:
                self._dma[offset] = value
            case 0x98 if value & _RUN and not self._dma[0x98] & _RUN:
                self._start_dma(value)
            case _:
                self._ignored += 1

    def _accepts(self, offset: int, width: int) -> bool:
        if offset % width == 0 and (width == 4 or offset >= _WIDE):
            return True
        self._refused += 1
        return False

    def _raise(self, bits: int) -> None:
        self._irq |= bits
        if self._irq:  # a message for each, as with MSI: whoever has not acknowledged hears again
            self._interrupt(self._irq)

    def _tick(self) -> None:
        if self._computing_left:
            self._computing_left -= 1
            if not self._computing_left:
                self._finish_factorial()
        if self._dma_left:
            self._dma_left -= 1
            if not self._dma_left:
                self._finish_dma()

    # Factorial ----------------------------------------------------------------------------------

    def _start_factorial(self, number: int) -> None:
        if self._status & _COMPUTING:
            self._ignored += 1
            return
        self._factorial = number
        self._status |= _COMPUTING
        self._computing_left = self._latency
        if not self._latency:
            self._finish_factorial()

    def _finish_factorial(self) -> None:
        # 34! is the first to have 32 factors of two; from there on nothing of it is left.
        number = self._factorial
        self._factorial = math.factorial(number) & _MASK32 if number < 34 else 0
        self._factorials += 1
        self._status &= ~_COMPUTING
        if self._status & _STATUS_INTERRUPT:
            self._raise(_FACTORIAL_DONE)

    # DMA ----------------------------------------------------------------------------------------

    def _start_dma(self, command: int) -> None:
        name = "source" if command & _TO_RAM else "destination"
        inside = self._dma[0x80 if command & _TO_RAM else 0x88]
        count = self._dma[0x90]
        room = BUFFER_SIZE - 1 if self._strict_end else BUFFER_SIZE
        fits = inside >= BUFFER_START and inside + count <= BUFFER_START + room
        if not fits or (self._strict_end and not count):
            raise DeviceAbort(
                "the transfer leaves the device's own memory "
                f"[{BUFFER_START:#x}, {BUFFER_START + BUFFER_SIZE:#x})",
                registers={f"DMA {name}": inside, "DMA count": count, "DMA command": command},
                remedy=f"give a {name} and a count within it",
            )
        self._dma[0x98] = command
        self._dma_left = self._latency
        if not self._latency:
            self._finish_dma()

    def _finish_dma(self) -> None:
        command, count = self._dma[0x98], self._dma[0x90]
        ram, own = self._dma[0x80], self._dma[0x88]
        if command & _TO_RAM:
            ram, own = own, ram
        address = ram & self._mask
        self._truncated += address != ram
        memory = memoryview(self._buffer)[own - BUFFER_START :][:count]
        for at, size in _by_page(address, count):
            part = memory[:size]
            memory = memory[size:]
            if command & _TO_RAM:
                self._write_ram(at, part)
            else:
                self._read_ram(at, part)
        self._transfers += 1
        self._dma[0x98] = command & ~_RUN
        if command & _DMA_INTERRUPT:
            self._raise(_DMA_DONE)

    def _read_ram(self, address: int, part: memoryview) -> None:
        try:
            self._master.read_into(address, part)
        except DmaFault:  # on record in bus.faults; the device itself is not told
            self._stopped += 1
            part[:] = bytes(len(part))
        else:
            self._bytes_read += len(part)

    def _write_ram(self, address: int, part: memoryview) -> None:
        try:
            self._master.write(address, part)
        except DmaFault:  # as above
            self._stopped += 1
        else:
            self._bytes_written += len(part)


def _by_page(address: int, size: int) -> Iterator[tuple[int, int]]:
    """The range in the parts that an IOMMU translates one by one."""
    while size:
        part = min(size, PAGE_SIZE - address % PAGE_SIZE)
        yield address, part
        address += part
        size -= part
