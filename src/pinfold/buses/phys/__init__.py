# The phys bus: real physical addresses, for a device that no IOMMU stands before.
#
# IT PROTECTS NOTHING. A device that is told one wrong address writes to whatever is there: another
# process, the kernel. Revoking takes nothing back. Permissions are on record and are not enforced,
# and no access is ever seen or stopped. Who drives the device stops it before every unpin, and
# before the program ends: when the process is gone, so are its pins, and the device does not know.
# Where there is an IOMMU, use `vfio`.
#
# What it promises: an address is that of the page and stays so until the pin ends, with nothing
# turned off for the machine as a whole. The pages are held in place by a registration with
# io_uring (table.py), and only then their frames are read. A frame that the kernel hides is an
# error.
#
# A pin that was dropped without unpin stays held in place: revoking it would shut nobody out. What
# it needs is CAP_SYS_ADMIN, without which the kernel hides frames, and io_uring.
#
# Source: Documentation/admin-guide/mm/pagemap.rst, io_uring_register(2).
from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pinfold.bus import Anchor, BusLimits, FaultLog
from pinfold.buses.phys.space import PhysGrant, PhysSpace
from pinfold.buses.phys.table import PinTable
from pinfold.errors import AccessDenied, BadState, InvalidArgs
from pinfold.host import calls, pagemap, probe
from pinfold.host.abi_uring import IORING_MAX_REG_BUFFERS
from pinfold.memory.hosterrors import each_tried, translated
from pinfold.memory.locks import LostLock, held_by_this_thread, refuse_inside
from pinfold.units import PAGE_SIZE, UINT64_MAX, ByteRange, HostVa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.memory.physmap import PhysicalMap

__all__ = ["PhysBus", "PhysGrant", "PhysSpace", "open_bus"]


class PhysBus:
    """Physical addresses of real memory. It isolates nothing: a device reaches all there is.

    Args:
      slots: grants at once, up to 16384; one longer than 1 GiB takes one for each GiB.

    Raises:
      InvalidArgs: ``slots`` is not as above.
      AccessDenied: the process lacks CAP_SYS_ADMIN, or may not use io_uring.
      NotSupported: the kernel has no io_uring, or one without sparse tables.
      NoMemory, HostError: the table could not be made.
    """

    def __init__(self, *, slots: int = IORING_MAX_REG_BUFFERS) -> None:
        if not 1 <= slots <= IORING_MAX_REG_BUFFERS:
            raise InvalidArgs(
                "a table has so many slots", asked=slots, limit=IORING_MAX_REG_BUFFERS
            )
        _refuse_hidden_frames()
        self.table = PinTable(slots)
        """What holds the pages. With `lock`."""
        self._limits = BusLimits(
            page_size=PAGE_SIZE,
            minimum_contiguity=PAGE_SIZE,
            apertures=(ByteRange(PAGE_SIZE, UINT64_MAX + 1),),
            max_grant=None,
            max_grants=slots,
            isolates=False,
            anchor=Anchor.IO_URING,
            real_frames=True,
        )
        self._faults = FaultLog()
        self._spaces: list[PhysSpace] = []
        self._closed = False
        self.lock: threading.RLock | LostLock = threading.RLock()
        self.owed: deque[Callable[[], None]] = deque()
        """What finalisers left to be done while their thread had the lock."""

    @property
    def name(self) -> str:
        """``phys``."""
        return "phys"

    @property
    def limits(self) -> BusLimits:
        """What it promises: frames that stay, and no isolation."""
        return self._limits

    @property
    def faults(self) -> FaultLog:
        """Always empty: nothing stops an access, and nothing sees one."""
        return self._faults

    def attach(self, initiator: int, *, address_bits: int = 64) -> PhysSpace:
        """See `pinfold.bus.Bus.attach`. The number is the caller's: any device, any number."""
        if not 1 <= address_bits <= 64:
            raise InvalidArgs("a device has 1 to 64 address bits", asked=address_bits, limit=64)
        with self.locked():
            self.refuse_if_closed()
            space = PhysSpace(self, initiator, address_bits)
            self._spaces.append(space)
            return space

    def detach(self, space: PhysSpace) -> None:
        """A device has left; what it leaked stays held until the bus is closed."""
        with self.locked():
            if space in self._spaces and not space.live_grants():
                self._spaces.remove(space)

    def refuse_if_closed(self) -> None:
        """Raise `BadState` once the bus is closed. With the lock."""
        if self._closed:
            raise BadState("the bus is closed", remedy="open another")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The lock, and after it what finalisers have left."""
        try:
            with self.lock:
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        while self.owed and not held_by_this_thread(self.lock):
            try:
                act = self.owed.popleft()
            except IndexError:  # another thread was quicker
                return
            act()

    def close(self) -> None:
        """Let every page go. The devices are quiet: whoever closes it says so. Twice is once.

        Raises:
          HostError: the first refusal. What could not be let go ends with the ring.
          Unavailable: a finaliser inside a call of its own thread.
        """
        refuse_inside(self.lock)
        with self.locked():
            if self._closed:
                return
            self._closed = True
            grants = [(space, grant) for space in self._spaces for grant in space.live_grants()]
        revokes = [partial(space.revoke, grant) for space, grant in grants]
        each_tried([*revokes, self._close_table])

    def _close_table(self) -> None:
        with self.locked():
            self.table.close()

    def abandon(self) -> None:
        """See `pinfold.bus.Bus.abandon`: a child that kept the ring would keep the pages held."""
        if isinstance(self.lock, LostLock):
            return
        self.lock = LostLock()
        if not self._closed:
            self._closed = True
            self.table.close()


def _refuse_hidden_frames() -> None:
    """Raise `AccessDenied` unless this process is shown frames: a capability is not all it takes.

    In a user namespace a process has every capability, and the kernel hides frames all the same.
    """
    remedy = "run with CAP_SYS_ADMIN in the machine's own user namespace, as root has it"
    with translated("look at this process"):
        if not probe.may_see_frames():
            raise AccessDenied(
                "the phys bus needs CAP_SYS_ADMIN, which this process lacks: the kernel hides "
                "frames from it",
                remedy=remedy,
            )
        page = memoryview(bytearray(2 * PAGE_SIZE))
        start = calls.address_of(page) + PAGE_SIZE - 1 & -PAGE_SIZE
        calls.memset(start, 1, 1)
        try:
            pagemap.frames(HostVa(start), PAGE_SIZE)
        except AccessDenied as error:
            raise AccessDenied(
                "the phys bus needs page frames, and the kernel hides them although the process "
                "has CAP_SYS_ADMIN",
                remedy=remedy,
            ) from error


def open_bus(physical: PhysicalMap, **options: Any) -> PhysBus:
    """What `pinfold.open_bus("phys", ...)` calls; nothing here is simulated."""
    del physical
    return PhysBus(**options)
