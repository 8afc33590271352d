# What is at the physical addresses that are not RAM: the device memory of one kernel.
#
# It is found by address and by nothing else, as on the CPU's bus: two objects over one address show
# the same bytes, whatever authority each was made with. Where a real window was put, a BAR or a
# file, an address is a place in that file. Everywhere else it is a place in one sparse memfd, whose
# offsets are the physical addresses: it is made when something is first shown, and costs the pages
# that somebody has written to, however large the ranges are that resources speak of.
#
# What was shown once stays on the bus, for devices to find, until its last user is gone; then the
# bytes are gone too. A user is whoever holds authority over device memory, or shows some.
#
# Locks: the kernel's, for whoever changes something; the physical map's beside it, because `find`
# has only that one.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pinfold.errors import AlreadyExists, OutOfRange
from pinfold.memory.backing import Backing
from pinfold.memory.files import part_of, window_of
from pinfold.memory.hosterrors import noted
from pinfold.memory.pages import Pages
from pinfold.memory.ranges import RangeMap, RangeSet
from pinfold.units import FILE_LIMIT, ByteRange

if TYPE_CHECKING:
    from pinfold.memory.physmap import PhysicalMap

DEVICE_LIMIT: Final = FILE_LIMIT
"""Where simulated device memory ends: a file is behind it."""


class DeviceWindow:
    """A range of physical addresses, and the file that is behind it.

    Attributes:
      range: the addresses.
      users: how many keep it.
    """

    __slots__ = ("_memory", "_pages", "_shown", "range", "users")

    def __init__(self, memory: DeviceMemory, where: ByteRange, pages: Pages | None) -> None:
        self._memory = memory
        self.range = where
        self.users = 0
        self._pages = pages
        """The bytes of the range; None for simulated memory of which nothing was shown yet."""
        self._shown = RangeSet()

    def show(self, where: ByteRange) -> Backing:
        """The bytes of a page-aligned part of it, through a descriptor of their own.

        Raises:
          OutOfRange: the file behind it ends before the part does.
          NoMemory, HostError: the host has no descriptor, or the file cannot be used.
        """
        pages = self._pages
        first = pages is None
        if pages is None:
            pages = self._memory.made_up(self.range.size)
        file = pages.backing
        try:
            made = part_of(file, file.base + where.start - self.range.start, where.size)
        except BaseException as error:
            if first:
                with noted("close the simulated memory", error):
                    pages.close()
            raise
        with self._memory.physmap.lock:
            self._pages = pages
            self._shown.add(where.start, where.stop)
        return made

    def shows(self, where: ByteRange) -> bool:
        """True when a part of the range was shown."""
        with self._memory.physmap.lock:
            return next(self._shown.gaps(*where), None) != tuple(where)

    def find(self, address: int) -> tuple[Pages, int, int] | None:
        """See `PhysicalMap.find`."""
        run = self._shown.find(address)
        pages = self._pages
        if run is None or pages is None:
            return None
        return pages, address - self.range.start, run[1] - address

    def close_if_unused(self) -> None:
        """Give the memory back when nobody keeps it any more.

        Raises:
          Unavailable: a finaliser, inside an access of its own thread; nothing was done.
        """
        pages = self._pages
        if self.users or pages is None:
            return
        pages.refuse_inside_access()
        with self._memory.physmap.lock:  # no device looks for it meanwhile
            self._pages = None
            self._shown = RangeSet()
            self._memory.forget(self)
        pages.close()


class DeviceMemory:
    """The physical addresses that are not RAM, of one kernel."""

    __slots__ = ("_real", "_simulated", "physmap")

    def __init__(self, physmap: PhysicalMap) -> None:
        self.physmap = physmap
        self._real: RangeMap[DeviceWindow] = RangeMap()
        self._simulated = DeviceWindow(self, ByteRange(0, DEVICE_LIMIT), None)

    @property
    def simulated(self) -> DeviceWindow:
        """The memory that is behind every address where no real window is."""
        return self._simulated

    def put(self, where: ByteRange, fd: int, offset: int) -> DeviceWindow:
        """Put a real window at a page-aligned range, for as long as it is used.

        Args:
          fd: the caller's own, and stays so.
          offset: bytes into the file, page-aligned: what is at the first address.

        Raises:
          AlreadyExists: other device memory is at a part of it.
          OutOfRange: the file ends before ``offset``.
          HostError, NoMemory: the descriptor cannot be used, or the host has none left.
        """
        with self.physmap.lock:
            taken = bool(self._real.overlapping(*where))
        if taken or self._simulated.shows(where):
            raise AlreadyExists(
                "other device memory is at a part of that range",
                asked=where.start,
                remedy="choose other addresses, or close what shows them first",
            )
        # How much of the file is there is asked when a part is shown: a BAR does not know its size.
        file = window_of(fd, offset, 0)
        try:
            file.size = file.length = where.size
            made = DeviceWindow(self, where, Pages(file, self.physmap))
            with self.physmap.lock:
                self._real.insert(where.start, where.stop, made)
        except BaseException as error:
            with noted("close the window's descriptor", error):
                file.close()
            raise
        return made

    def at(self, where: ByteRange) -> DeviceWindow:
        """The window that a range lies in.

        Raises:
          OutOfRange: a part of it is in a real window, and a part is not; or it is beyond the
            addresses that can be simulated.
        """
        with self.physmap.lock:  # a device's look-up sorts what is there: so does ours
            found = self._real.overlapping(*where)
        window = found[0][2] if found else self._simulated
        if not window.range.contains(where):
            raise OutOfRange(
                "the range leaves the device memory that it begins or ends in",
                asked=where.stop,
                limit=window.range.stop,
                remedy="ask for what lies in one window",
            )
        return window

    def find(self, address: int) -> tuple[Pages, int, int] | None:
        """See `PhysicalMap.find`: what was shown at an address that is not RAM."""
        found = self._real.find(address)
        return (found[2] if found is not None else self._simulated).find(address)

    def made_up(self, size: int) -> Pages:
        """Simulated memory of ``size`` bytes, none of them committed."""
        file = Backing.memfd(size, name="device memory", resizable=False)
        return Pages(file, self.physmap)

    def forget(self, window: DeviceWindow) -> None:
        """Nobody keeps a window any more: its addresses are simulated again.

        Called with the physical map's lock held.
        """
        if window is not self._simulated:
            self._real.pop(window.range.start)
