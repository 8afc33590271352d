# nvme: an NVMe controller in software.
#
# Source: NVM Express Base Specification 1.4, sections 3.1 (registers), 7.6 (start and shutdown) and
# 9.5 (fatal status). The commands are in `admin` and `namespace`, which say what is left out.
#
#   BAR0, 16 KiB; four-byte accesses, and eight-byte ones of the registers of eight bytes
#   0x00 RO 8  CAP      0x0c RW INTMS (bits are set)     0x24 RW   AQA   admin queue sizes
#   0x08 RO 4  VS       0x10 RW INTMC (bits are cleared) 0x28 RW 8 ASQ   admin queue addresses
#   0x14 RW 4  CC       0x1c RO CSTS                     0x30 RW 8 ACQ
#   0x1000     doorbells: tail of submission queue 0, head of completion queue 0, tail of 1, ...
#
# Time is counted in register reads, as in `edu`: work begins `latency` reads after a doorbell, and
# from then on each read is worth `step` commands. Enabling takes `latency` reads too. Everything
# else happens in the access that asks for it.
#
# Queues that the bus does not let it read or write are the end: fatal status, until it is disabled.
# Data that the bus stops is a Data Transfer Error of that one command. (QEMU's controller reports
# success there. Ours is kinder, so that a driver's mistake is seen by the driver's own tests.)
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.devices.nvme.admin import VERSION, Admin
from pinfold.devices.nvme.commands import Command, Refused, Status
from pinfold.devices.nvme.namespace import Namespace
from pinfold.devices.nvme.prps import DataPort
from pinfold.devices.nvme.queues import Queues, SubmissionQueue
from pinfold.devices.registers import Registers
from pinfold.errors import DmaFault, InvalidArgs
from pinfold.units import KIB, is_power_of_two

if TYPE_CHECKING:
    import random

    from pinfold.bus import BusMaster
    from pinfold.devices.nvme.medium import Medium

BAR0_SIZE: Final = 16 * KIB
_DOORBELLS: Final = 0x1000

_ENABLE: Final = 1 << 0
_UNSUPPORTED: Final = 0x7 << 4 | 0x7 << 11
"""Of CC: other command sets (CSS) and arbitrations (AMS) than 0."""
_SHUTDOWN: Final = 0x3 << 14
_ENTRY_SIZES: Final = 0xFF << 16

_READY, _FATAL, _SHUTDOWN_COMPLETE = 1 << 0, 1 << 1, 2 << 2

_SMALLEST_SHIFT, _LARGEST_SHIFT = 12, 16
_QUEUES: Final = 8
_ALL_ONES: Final = (1 << 64) - 1
_MASK32: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class NvmeStatistics:
    """What a controller has seen and done since it was made; a reset does not clear it."""

    reads: int
    writes: int
    refused: int
    """Accesses of a width or at an offset that no register has."""
    ignored: int
    """Writes that were not taken: to a read-only register, to a queue's address while enabled, to
    the doorbell of no queue."""
    doorbells: int
    commands: int
    """Completed; those with an error included."""
    errors: int
    bytes_read: int
    bytes_written: int
    """From and to the medium."""
    stopped: int
    """Accesses that the bus stopped."""
    interrupts: int


class Nvme(Registers):
    """The controller, with one namespace.

    Args:
      master: its port on the bus.
      medium: what its blocks are on; stays the caller's to close.
      block_size: bytes; a power of two, at least 512.
      max_transfer: bytes in one command at most, a power of two, at least 8 KiB; None for no limit.
      entries: in a queue at most, 2 to 65536.
      stride: bytes from one doorbell to the next; a power of two, 4 to 256.
      latency: register reads from a doorbell to the first command; 0 for none.
      step: commands a register read is worth after that; None for all there are.
      shuffle: picks which of the commands that are there comes next; None: as they came.
      serial: up to 20 ASCII characters.

    Raises:
      InvalidArgs: one of them is not as above, or the medium holds no block.
    """

    def __init__(
        self,
        master: BusMaster,
        medium: Medium,
        *,
        block_size: int = 512,
        max_transfer: int | None = 512 * KIB,
        entries: int = 256,
        stride: int = 4,
        latency: int = 1,
        step: int | None = None,
        shuffle: random.Random | None = None,
        serial: str = "0",
    ) -> None:
        if latency < 0 or (step is not None and step <= 0):
            raise InvalidArgs("a latency is not negative, and a step is at least one command")
        if step is not None and not latency:
            raise InvalidArgs("work in steps takes reads: give a latency of at least 1")
        if not 2 <= entries <= 1 << 16:
            raise InvalidArgs("a queue has 2 to 65536 entries", asked=entries)
        if not is_power_of_two(stride) or not 4 <= stride <= 256:
            raise InvalidArgs("no such stride of doorbells", asked=stride, limit=256)
        mdts = 0
        if max_transfer is not None:
            mdts = max_transfer.bit_length() - 1 - _SMALLEST_SHIFT
            if not is_power_of_two(max_transfer) or mdts < 1:
                raise InvalidArgs("a limit is a power of two, 8 KiB or more", asked=max_transfer)
        super().__init__(BAR0_SIZE)
        self._master = master
        self._namespace = Namespace(medium, block_size, max_transfer)
        self._admin = Admin(self._namespace, serial=serial, mdts=mdts)
        self._entries = entries
        self._stride = stride
        self._latency = latency
        self._step = step
        self._shuffle = shuffle
        self._reads = self._writes = self._refused = self._ignored = 0
        self._doorbells = self._commands = self._errors = self._stopped = 0
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self._admin_sizes = 0
        self._admin_bases = {0x28: 0, 0x30: 0}
        self._disable()

    def _disable(self) -> None:
        """A controller reset: the admin queues' registers stay, nothing else (section 7.3.2)."""
        self._configuration = self._status = self._masked = 0
        self._queues = Queues(_QUEUES, self._entries)
        self._pending: list[tuple[SubmissionQueue, Command]] = []
        self._left = self._starting_left = 0

    def statistics(self) -> NvmeStatistics:
        """What happened so far, as a frozen record."""
        return NvmeStatistics(
            reads=self._reads,
            writes=self._writes,
            refused=self._refused,
            ignored=self._ignored,
            doorbells=self._doorbells,
            commands=self._commands,
            errors=self._errors,
            bytes_read=self._namespace.bytes_read,
            bytes_written=self._namespace.bytes_written,
            stopped=self._stopped,
            interrupts=self._interrupts,
        )

    # Registers ----------------------------------------------------------------------------------

    @property
    def _capabilities(self) -> int:
        """CAP, section 3.1.1."""
        return (
            self._entries - 1
            | 1 << 16  # CQR: queues lie in one piece
            | 1 << 24  # TO: half a second
            | (self._stride.bit_length() - 3) << 32  # DSTRD
            | 1 << 37  # CSS: the NVM command set
            | (_SMALLEST_SHIFT - 12) << 48  # MPSMIN
            | (_LARGEST_SHIFT - 12) << 52  # MPSMAX
        )

    def _load(self, offset: int, width: int) -> int:
        self._reads += 1
        value = self._value(offset, width)
        self._tick()  # after the value is taken: the read that starts the clock still sees busy
        return value

    def _value(self, offset: int, width: int) -> int:
        register = self._locate(offset, width)
        shift = 0 if register is None else 8 * (offset - register)
        match register:
            case 0x00:
                return self._capabilities >> shift
            case 0x08:
                return VERSION
            case 0x0C | 0x10:
                return self._masked
            case 0x14:
                return self._configuration
            case 0x1C:
                return self._status
            case 0x24:
                return self._admin_sizes
            case 0x28 | 0x30:
                return self._admin_bases[register] >> shift
            case None:
                return _ALL_ONES
        return 0  # reserved, or a doorbell

    def _store(self, offset: int, value: int, width: int) -> None:
        self._writes += 1
        enabled = self._configuration & _ENABLE
        register = self._locate(offset, width)
        match register:
            case 0x0C:
                self._masked |= value
            case 0x10:
                self._masked &= ~value
            case 0x14:
                self._configure(value)
            case 0x24 if not enabled:
                self._admin_sizes = value
            case 0x28 | 0x30 if not enabled:
                shift, mask = (0, _ALL_ONES) if width == 8 else (8 * (offset - register), _MASK32)
                kept = self._admin_bases[register] & ~(mask << shift)
                self._admin_bases[register] = kept | value << shift
            case None:
                pass  # counted by _locate
            case _ if register >= _DOORBELLS and enabled:
                self._ring(register - _DOORBELLS, value)
            case _:
                self._ignored += 1

    def _locate(self, offset: int, width: int) -> int | None:
        """The register that an access means; None, counted, for one that means none."""
        wide = offset & ~7 in (0x00, 0x28, 0x30)
        if offset % width or (width == 8 and not wide):
            self._refused += 1
            return None
        return offset & ~7 if wide else offset

    def _configure(self, value: int) -> None:
        """A write to CC, section 3.1.5."""
        was, self._configuration = self._configuration, value
        if value & _SHUTDOWN and not was & _SHUTDOWN:
            self._shut_down()
        if value & _ENABLE and not was & _ENABLE:
            self._starting_left = self._latency
            if not self._latency:
                self._start()
        elif was & _ENABLE and not value & _ENABLE:
            self._disable()

    def _start(self) -> None:
        """Section 7.6.1."""
        page_shift = _SMALLEST_SHIFT + (self._configuration >> 7 & 0xF)
        page = 1 << page_shift
        submission, completion = self._admin_bases[0x28], self._admin_bases[0x30]
        sizes = (self._admin_sizes & 0xFFF) + 1, (self._admin_sizes >> 16 & 0xFFF) + 1
        if (
            self._configuration & _UNSUPPORTED
            or page_shift > _LARGEST_SHIFT
            or submission % page
            or completion % page
            or min(sizes) < 2
        ):
            self._fail()
            return
        self._port = DataPort(self._master, page)
        self._queues.add_admin(submission, sizes[0], completion, sizes[1])
        self._status |= _READY

    def _shut_down(self) -> None:
        """Section 7.6.2. What was not begun is not done any more: see `_works`."""
        try:
            self._namespace.flush()
        except Refused:
            self._fail()
        else:
            self._status |= _SHUTDOWN_COMPLETE

    def _fail(self) -> None:
        """Section 9.5: no more work until it is disabled."""
        self._status |= _FATAL

    # Work ---------------------------------------------------------------------------------------

    @property
    def _works(self) -> bool:
        return self._status == _READY

    def _ring(self, offset: int, value: int) -> None:
        self._doorbells += 1
        doorbell, between = divmod(offset, self._stride)
        if between or not self._works or not self._queues.ring(doorbell, value):
            self._ignored += 1  # one that reports events would report this one (section 5.2)
            return
        if not self._latency:
            self._work(None)
        elif not self._left:
            self._left = self._latency

    def _tick(self) -> None:
        if self._starting_left:
            self._starting_left -= 1
            if not self._starting_left:
                self._start()
        if self._left:
            self._left -= 1
            if not self._left:
                self._work(self._step)
                if self._works and self._next() is not None:
                    self._left = 1

    def _work(self, most: int | None) -> None:
        """Carry out up to ``most`` commands. An interrupt's listener may reset us between."""
        while self._works and most != 0:
            try:
                self._fetch()
            except DmaFault:
                self._stopped += 1
                self._fail()
                return
            chosen = self._next()
            if chosen is None:
                return
            queue, command = self._pending.pop(chosen)
            self._complete(queue, command, *self._execute(queue, command))
            if most is not None:
                most -= 1

    def _fetch(self) -> None:
        """Take in all commands that there are. Raises DmaFault."""
        for queue in self._queues.submissions.values():
            while (command := queue.fetch(self._master)) is not None:
                self._pending.append((queue, command))

    def _next(self) -> int | None:
        """Which of the commands is next; None where each would find its completion queue full."""
        able = [at for at, (queue, _) in enumerate(self._pending) if not queue.completions.full]
        if not able:
            return None
        return able[0] if self._shuffle is None else self._shuffle.choice(able)

    def _execute(self, queue: SubmissionQueue, command: Command) -> tuple[int, int]:
        """Carry it out: the status, and dword 0 of the completion."""
        try:
            if command.flags:  # fused, or with SGLs
                raise Refused(Status.INVALID_FIELD)
            if queue.number:
                self._namespace.execute(command, self._port)
                return 0, 0
            sizes = self._configuration & _ENTRY_SIZES
            result = self._admin.execute(command, self._port, self._queues, sizes)
        except Refused as refused:
            return refused.status.field, 0
        except DmaFault:  # on record in bus.faults
            self._stopped += 1
            return Status.DATA_TRANSFER_ERROR.field, 0
        self._drop_deleted()
        return 0, result

    def _drop_deleted(self) -> None:
        """Complete what came from a queue that is gone, before its deletion completes (5.6)."""
        there = self._queues.submissions
        pending, self._pending = self._pending, []
        for queue, command in pending:
            if there.get(queue.number) is queue:
                self._pending.append((queue, command))
            elif not queue.completions.full:
                self._complete(queue, command, Status.SUBMISSION_QUEUE_DELETED.field, 0)

    def _complete(self, queue: SubmissionQueue, command: Command, status: int, result: int) -> None:
        completions = queue.completions
        try:
            completions.post(self._master, queue, command.identifier, status, result)
        except DmaFault:
            self._stopped += 1
            self._fail()
            return
        self._commands += 1
        self._errors += bool(status)
        vector = completions.vector
        if vector is not None and not self._masked >> vector & 1:
            self._interrupt(1 << vector)
