# The io_uring bus: the kernel's own DMA. The device is the block layer, and a file is how to get at
# it.
#
# Each device has a ring of its own with a table of registered buffers. A grant registers its pages,
# for which Linux takes a long-term pin: they stay resident and in place until it is revoked. What a
# device moves are READ_FIXED and WRITE_FIXED requests between a file and a device address, and the
# kernel refuses those that leave the buffer they name.
#
# What it cannot promise:
#   direction   the kernel would let a granted buffer be read and written; pinfold checks that
#   read-only   Linux pins for writing, so memory that may not be written cannot be granted, nor can
#               a shared mapping of a file on most file systems
#   the limit   RLIMIT_MEMLOCK is counted over all processes of a user, without CAP_IPC_LOCK
#
# Locks: the bus's, which is for its books, comes last: whoever has it takes no other, neither a
# device's nor the kernel's. A thread that is inside a device may run a finaliser there, which has
# another device leave the bus.
#
# Source: io_uring_setup(2), io_uring_register(2), io_uring_enter(2).
from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from pinfold.bus import Anchor, BusLimits, FaultLog
from pinfold.buses import registering
from pinfold.buses.io_uring.file import OpenFile
from pinfold.buses.io_uring.grant import UringGrant
from pinfold.buses.io_uring.space import UringSpace
from pinfold.buses.io_uring.table import LONGEST_SHIFT, SLOTS
from pinfold.errors import InvalidArgs
from pinfold.host import probe
from pinfold.host.uring import Ring
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.memory.locks import refuse_inside
from pinfold.units import PAGE_SIZE, ByteRange, is_power_of_two

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pinfold.memory.physmap import PhysicalMap

__all__ = ["UringBus", "UringGrant", "UringSpace", "UringStatistics", "open_bus"]

_DEPTH: Final = 64
_DEEPEST: Final = 1 << 15  # IORING_MAX_ENTRIES of Linux
_FIRST_FILE: Final = 1 << 32
"""Files get numbers from here on; the ones below are the caller's to give."""


@dataclass(frozen=True, slots=True)
class UringStatistics:
    """The bus, and the limit that its pins count against, at one moment."""

    devices: int
    grants: int
    granted_bytes: int
    """Over all grants; a page granted twice counts twice, as the kernel counts it."""
    pinned: int
    """VmPin of this process: what the kernel counts as pinned for devices, by anybody's ring."""
    memlock_limit: int | None
    """RLIMIT_MEMLOCK, which is compared with the pins of all processes of the user."""
    may_exceed: bool
    """True with CAP_IPC_LOCK: the limit does not count."""
    largest_buffer: int
    """Bytes in one registered buffer; a larger grant is several."""
    buffers_per_device: int


class UringBus:
    """The kernel's block layer as a bus. Each device has a ring of its own.

    Args:
      depth: requests that a device may have under way, a power of two; a file can be opened with
        another.

    Raises:
      InvalidArgs: ``depth`` is none.
      NotSupported: this kernel has no such io_uring.
      AccessDenied: this process may not use it.
      LimitReached: a ring would pass RLIMIT_MEMLOCK.
    """

    def __init__(self, *, depth: int = _DEPTH) -> None:
        self._depth = _checked(depth)
        _probe()
        slot = 1 << LONGEST_SHIFT
        self._limits = BusLimits(
            page_size=PAGE_SIZE,
            minimum_contiguity=PAGE_SIZE,
            apertures=(ByteRange(PAGE_SIZE, SLOTS << LONGEST_SHIFT),),
            max_grant=(SLOTS - 1) * slot,
            max_grants=SLOTS // 2,
            isolates=True,
            anchor=Anchor.IO_URING,
        )
        self._faults = FaultLog()
        self._spaces: dict[int, UringSpace] = {}
        self.numbers = count(1)
        """Numbers for grants."""
        self._file_numbers = count(_FIRST_FILE)
        self._lock = threading.RLock()
        """For the devices and their users; see the top."""

    @property
    def name(self) -> str:
        """``io_uring``."""
        return "io_uring"

    @property
    def limits(self) -> BusLimits:
        """What it promises, to a device of 64 address bits."""
        return self._limits

    @property
    def faults(self) -> FaultLog:
        """What was stopped, by the kernel or by pinfold."""
        return self._faults

    def attach(self, initiator: int, *, address_bits: int = 64) -> UringSpace:
        """See `pinfold.bus.Bus.attach`. The same initiator twice is the same device."""
        with self._lock:
            space = self._spaces.get(initiator)
            if space is None:
                space = UringSpace(self, initiator, address_bits, depth=self._depth)
                self._spaces[initiator] = space
            elif space.address_bits != address_bits:
                raise InvalidArgs(
                    f"initiator {initiator:#x} is attached with {space.address_bits} address bits",
                    asked=address_bits,
                )
            space.users += 1
            return space

    def attach_file(
        self,
        path: str | os.PathLike[str] | int,
        *,
        writable: bool = False,
        direct: bool | None = None,
        depth: int | None = None,
    ) -> UringSpace:
        """A device that is a file; see `pinfold.Iommu.file`."""
        wanted = self._depth if depth is None else _checked(depth)
        opened = OpenFile(path, writable=writable, direct=direct)
        try:
            number = next(self._file_numbers)
            space = UringSpace(self, number, 64, depth=wanted, file=opened)
        except BaseException as error:
            with noted("close the file", error):
                opened.close()
            raise
        with self._lock:
            self._spaces[number] = space
            space.users += 1
        return space

    def detach(self, space: UringSpace) -> None:
        """One user of a device is done. Raises `Unavailable` in a finaliser inside `attach`."""
        refuse_inside(self._lock)
        with self._lock:
            space.users -= 1
            ends = not space.users and not space.has_grants
            if ends:
                self._spaces.pop(space.initiator, None)
        if ends:
            space.end()

    def statistics(self) -> UringStatistics:
        """The bus and its limit as a frozen record. Raises HostError."""
        with self._lock:
            spaces = list(self._spaces.values())
        grants = [grant for space in spaces for grant in space.live_grants()]
        with translated("look at the limits"):
            return UringStatistics(
                devices=len(spaces),
                grants=len(grants),
                granted_bytes=sum(grant.pinned.size for grant in grants),
                pinned=probe.process_memory().pinned,
                memlock_limit=probe.memlock_limit(),
                may_exceed=probe.may_exceed_memlock(),
                largest_buffer=1 << LONGEST_SHIFT,
                buffers_per_device=SLOTS,
            )

    def close(self) -> None:
        """Have every device stop, revoke what is live, and give the rings back."""
        for space in list(self._spaces.values()):
            space.refuse_inside()
        with self._lock:
            spaces, self._spaces = list(self._spaces.values()), {}
        steps: list[Callable[[], object]] = []
        for space in spaces:
            steps.append(space.quiesce)
            steps += [partial(space.revoke, grant) for grant in space.live_grants()]
            steps.append(space.end)
        each_tried(steps)

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`."""
        each_tried(space.abandon for space in self._spaces.values())


def _checked(depth: int) -> int:
    if not 1 <= depth <= _DEEPEST or not is_power_of_two(depth):
        raise InvalidArgs(
            "a queue depth is a power of two", asked=depth, limit=_DEEPEST, remedy="try 32"
        )
    return depth


def _probe() -> None:
    """Raise what `registering.of_ring` says where io_uring is not to be had."""
    try:
        ring = registering.patiently(partial(Ring, 1, 1))
    except OSError as error:
        raise registering.of_ring(error) from error
    registering.close(ring)


def open_bus(physical: PhysicalMap, **options: Any) -> UringBus:
    """What `pinfold.open_bus("io_uring", ...)` calls; device addresses are the bus's own."""
    del physical
    return UringBus(**options)
