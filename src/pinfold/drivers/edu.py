# A driver for edu, QEMU's teaching device: for `pinfold.devices.edu` and for QEMU's own alike.
#
# Source: docs/specs/edu.rst of QEMU. The numbers below are written out here and again in the model,
# on purpose: a driver has no model to import on real hardware, and a number that is wrong in one of
# the two shows as a failing test.
#
# Two things keep it working on every version and behind every host:
#
#   length  QEMU 7.2 refuses a transfer of no bytes and one that ends at the very end of the
#           device's memory. So the last byte of that memory is never used, and a transfer is half
#           of it at most: a divisor of any page, so chunks of aligned memory stay aligned.
#   width   a value that fits in four bytes is written in one four-byte access. Some kernels split
#           an eight-byte write to a BAR in two, and edu ignores the half at an odd offset.
#
# The device is not told when the bus stops it: it reads zeros, and what it writes is lost. Where
# that matters look at the bus's fault log, or compare the bytes.
#
# One caller at a time: a transfer is several registers long.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.drivers.driver import Driver
from pinfold.drivers.mmio import POLLS, read_present
from pinfold.drivers.segments import Segments, pair
from pinfold.errors import InvalidArgs, NotSupported, OutOfRange
from pinfold.objects.pmt import Pmt
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.drivers.mmio import Mmio
    from pinfold.objects.bti import Bti

_IDENTIFICATION: Final = 0x00
_LIVENESS: Final = 0x04
_FACTORIAL: Final = 0x08
_STATUS: Final = 0x20
_IRQ_STATUS: Final = 0x24
_IRQ_RAISE: Final = 0x60
_IRQ_ACKNOWLEDGE: Final = 0x64
_DMA_SOURCE: Final = 0x80
_DMA_DESTINATION: Final = 0x88
_DMA_COUNT: Final = 0x90
_DMA_COMMAND: Final = 0x98

_COMPUTING: Final = 0x01
_INTERRUPT_AFTER: Final = 0x80
_RUN: Final = 0x1
_TO_RAM: Final = 0x2
_INTERRUPT: Final = 0x4

FACTORIAL_DONE: Final = 0x001
"""Interrupt status: a factorial is done."""
DMA_DONE: Final = 0x100
"""Interrupt status: a transfer is done."""

_BUFFER: Final = 0x40000
USABLE: Final = 0x1000 - 1
"""Bytes of the device's own memory that every version lets a transfer touch."""
CHUNK: Final = 0x800
"""Bytes in one transfer at most."""

_MASK32: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class EduDriverStatistics:
    """What a driver has done."""

    version: tuple[int, int]
    transfers: int
    bytes_moved: int
    """Over all transfers, in either direction."""
    polls: int


class EduDriver(Driver):
    """One edu device.

    Args:
      registers: its BAR 0.
      bti: its authority to reach memory; used for the one page behind `store` and `load`.
      address_bits: how many address bits the device keeps. It drops the others without a word, so
        an address beyond them is refused before a transfer is started.
      polls: how often to look for the end of a job.
      wait: called between two looks. On hardware a transfer takes 100 ms: pass a sleep.

    Raises:
      NotSupported: it is no edu device.
    """

    def __init__(
        self,
        registers: Mmio,
        bti: Bti,
        *,
        address_bits: int = 28,
        polls: int = POLLS,
        wait: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(registers, address_bits=address_bits, polls=polls, wait=wait)
        self._bti = bti
        self._transfers = self._bytes = 0
        self._page: tuple[Vmo, Pmt] | None = None
        self.version = self.identify()

    def identify(self) -> tuple[int, int]:
        """The device's version, as (major, minor). Raises NotSupported: it is no edu device."""
        found = self._registers.read32(_IDENTIFICATION)
        if found & 0xFFFF != 0x00ED:
            raise NotSupported(f"no edu device: its identification is {found:#x}", asked=found)
        return found >> 24, found >> 16 & 0xFF

    def alive(self, pattern: int = 0x5A0FF0A5) -> bool:
        """True when the device inverts ``pattern``."""
        self._registers.write32(_LIVENESS, pattern)
        return self._registers.read32(_LIVENESS) == ~pattern & _MASK32

    def factorial(self, number: int, *, interrupt: bool = False) -> int:
        """``number``! modulo 2**32. The device counts down from it: billions take seconds.

        Raises:
          InvalidArgs: ``number`` is no unsigned number of four bytes.
          DeviceTimeout: the device did not finish.
        """
        if number < 0 or number > _MASK32:
            raise InvalidArgs("a number of 32 bits, not negative", asked=number, limit=_MASK32)
        self._until_clear(_STATUS, _COMPUTING, "an earlier factorial")  # it would ignore ours
        self._registers.write32(_STATUS, _INTERRUPT_AFTER if interrupt else 0)
        self._registers.write32(_FACTORIAL, number)
        self._until_clear(_STATUS, _COMPUTING, f"the factorial of {number}")
        return self._registers.read32(_FACTORIAL)

    # Interrupts ---------------------------------------------------------------------------------

    def interrupt_status(self) -> int:
        """The interrupts that are not acknowledged."""
        return self._registers.read32(_IRQ_STATUS)

    def raise_interrupt(self, bits: int) -> None:
        """Have the device interrupt, with ``bits`` in its status."""
        self._registers.write32(_IRQ_RAISE, bits)

    def acknowledge(self, bits: int | None = None) -> int:
        """Clear ``bits`` of the interrupt status, all of it by default; what was cleared."""
        pending = self.interrupt_status()
        cleared = pending if bits is None else pending & bits
        self._registers.write32(_IRQ_ACKNOWLEDGE, cleared)
        return cleared

    # Transfers ----------------------------------------------------------------------------------

    def copy_to_device(
        self,
        source: Pmt | int,
        size: int,
        *,
        offset: int = 0,
        at: int = 0,
        interrupt: bool = False,
    ) -> None:
        """Have the device read ``size`` bytes into its own memory.

        Args:
          source: a pin that permits READ, or a device address.
          offset: bytes into ``source``.
          at: bytes into the device's memory.
          interrupt: have it raise `DMA_DONE` after each chunk.

        Raises:
          InvalidArgs: ``size`` is not > 0.
          OutOfRange: the range leaves the pin, or the `USABLE` bytes of the device.
          OutOfReach: an address has more bits than the device keeps; nothing was started.
          DeviceTimeout: the device did not finish; it may still be reading.
        """
        self._run(source, size, offset, at, _INTERRUPT if interrupt else 0)

    def copy_from_device(
        self,
        destination: Pmt | int,
        size: int,
        *,
        offset: int = 0,
        at: int = 0,
        interrupt: bool = False,
    ) -> None:
        """Have the device write ``size`` bytes of its own memory. See `copy_to_device`."""
        self._run(destination, size, offset, at, _TO_RAM | (_INTERRUPT if interrupt else 0))

    def transfer(
        self,
        source: Pmt,
        destination: Pmt,
        size: int | None = None,
        *,
        source_offset: int = 0,
        destination_offset: int = 0,
    ) -> int:
        """Move bytes from one pin to another by way of the device's memory; how many transfers.

        Args:
          source, destination: pins that permit READ and WRITE. Where they overlap the bytes are
            moved in ascending order, a chunk at a time.
          size: bytes; the rest of ``source`` by default.
          source_offset, destination_offset: bytes into each; any.

        Raises:
          InvalidArgs: ``size`` is not > 0.
          OutOfRange: a range leaves its pin.
          OutOfReach: an address has more bits than the device keeps (``.extent``); nothing was
            started.
          DeviceTimeout: the device did not finish; bytes before that chunk have been moved, and it
            may still be writing this one.
        """
        moves = self._moves(
            destination,
            source,
            size,
            destination_offset=destination_offset,
            source_offset=source_offset,
            longest=CHUNK,
        )
        for come, go, length in zip(
            moves.sources.tolist(),
            moves.destinations.tolist(),
            moves.lengths.tolist(),
            strict=True,
        ):
            self._move(come, _BUFFER, length, 0)
            self._move(_BUFFER, go, length, _TO_RAM)
        return 2 * len(moves)

    def store(self, data: bytes, *, at: int = 0) -> None:
        """Put ``data`` in the device's memory, through a page of the driver's own.

        Raises: as `copy_to_device`, and as `Bti.pin`.
        """
        _check_own(at, len(data))
        memory, pin = self._own_page()
        memory.write(data)
        self.copy_to_device(pin, len(data), at=at)

    def load(self, size: int, *, at: int = 0) -> bytes:
        """``size`` bytes of the device's memory, through a page of the driver's own.

        Raises: as `copy_from_device`, and as `Bti.pin`.
        """
        _check_own(at, size)
        memory, pin = self._own_page()
        self.copy_from_device(pin, size, at=at)
        return memory.read(0, size)

    def _run(self, where: Pmt | int, size: int, offset: int, at: int, command: int) -> None:
        _check_own(at, size)
        ram = (
            Segments.of(where.extents, offset, size)
            if isinstance(where, Pmt)
            else Segments.run(int(where) + offset, size)
        )
        ram.refuse_beyond(self._address_bits)
        moves = pair(ram, Segments.run(_BUFFER + at, size), CHUNK)
        for address, own, length in zip(
            moves.sources.tolist(),
            moves.destinations.tolist(),
            moves.lengths.tolist(),
            strict=True,
        ):
            if command & _TO_RAM:
                self._move(own, address, length, command)
            else:
                self._move(address, own, length, command)

    def _move(self, source: int, destination: int, count: int, command: int) -> None:
        """One transfer, from the first register to the busy bit."""
        self._refuse_if_closed()
        self._until_clear(
            _DMA_COMMAND, _RUN, "an earlier transfer"
        )  # registers are locked till then
        self._write(_DMA_SOURCE, source)
        self._write(_DMA_DESTINATION, destination)
        self._write(_DMA_COUNT, count)
        self._registers.write32(_DMA_COMMAND, command | _RUN)
        self._until_clear(
            _DMA_COMMAND, _RUN, f"a transfer of {count} bytes from {source:#x} to {destination:#x}"
        )
        self._transfers += 1
        self._bytes += count

    def _write(self, register: int, value: int) -> None:
        if value <= _MASK32:
            self._registers.write32(register, value)
        else:
            self._registers.write64(register, value)

    def _until_clear(self, register: int, bit: int, what: str) -> None:
        def clear() -> bool:
            return not read_present(self._registers, register) & bit

        self._until(clear, what)

    # The driver's own page ----------------------------------------------------------------------

    def _own_page(self) -> tuple[Vmo, Pmt]:
        self._refuse_if_closed()
        if self._page is None:
            memory = Vmo(PAGE_SIZE, name="edu-driver")
            try:
                pin = self._bti.pin(memory, perms=Perm.READ | Perm.WRITE)
            except BaseException:
                memory.close()
                raise
            self._page = memory, pin
        return self._page

    def statistics(self) -> EduDriverStatistics:
        """What was done so far, as a frozen record."""
        return EduDriverStatistics(self.version, self._transfers, self._bytes, self._polled)

    def close(self) -> None:
        """Wait until the device is quiet, then unpin the driver's own page. Twice is once.

        Raises:
          DeviceTimeout, DeviceFailed: it did not become quiet. The page is in the Bti's quarantine
            then: reset the device, then `Bti.release_quarantine`.
        """
        if self._closed:
            return
        self._closed = True
        page, self._page = self._page, None
        if page is None:
            return
        # Idle, THEN unpin: otherwise the page's next user would share it with the device.
        self._release(*page, lambda: self._until_clear(_DMA_COMMAND, _RUN, "becoming quiet"))


def _check_own(at: int, size: int) -> None:
    """Refuse a range of the device's memory that some version does not let a transfer touch."""
    if size <= 0 or at < 0:
        raise InvalidArgs(f"{size:#x} bytes at {at:#x} are no part of the device's memory")
    if at + size > USABLE:
        raise OutOfRange(
            "the range leaves what every edu lets a transfer touch", asked=at + size, limit=USABLE
        )
