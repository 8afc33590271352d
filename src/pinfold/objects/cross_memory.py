# Cross memory: a buffer of one space that others may use for as long as it is attached.
#
# Source: AIX xmattach, xmdetach, xmempin, xmemunpin, xmemin, xmemout, xmemdma.
#
# Attaching remembers whose pages they are, and keeps their objects: a *use* for each. When the
# mapping goes meanwhile, the buffer is deleted: it is not copied to or from any more, but its pages
# can still be unpinned, and stay until the last use of their object ends. Memory of the process
# itself has no object that could be kept: it is whoever attaches an address that keeps the memory
# behind it; a buffer that is attached as an object is kept.
from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from pinfold import sites
from pinfold.errors import BadHandle, BadState, NotFound, NotPinned, OutOfRange
from pinfold.memory.hosterrors import each_tried
from pinfold.memory.locks import KernelLock
from pinfold.memory.ranges import RangeCounts
from pinfold.objects.addresses import Stretch, pages_of
from pinfold.objects.spaces import Space
from pinfold.units import PAGE_MASK, PhysAddr

if TYPE_CHECKING:
    from pinfold.objects.holds import Unpinned
    from pinfold.objects.process import Process


def call_lock() -> KernelLock:
    """A lock for what one call at a time works on: a call from inside such a call is refused."""
    return KernelLock()


class Described:
    """Memory that a descriptor describes: a whole space.

    Attributes:
      space: which one.
    """

    __slots__ = ("space",)

    def __init__(self, space: Space) -> None:
        self.space = space

    @property
    def keep(self) -> memoryview | None:
        """The buffer itself, where it was given: what is pinned or granted of it keeps it."""
        return None

    def find(self, address: int, size: int) -> list[Stretch]:
        """What is there now; see `Space.find`. Called with the kernel's lock held."""
        return self.space.find(address, size)

    def remembered(self, address: int, size: int) -> list[Stretch]:
        """Whose pages they were when they were described; for undoing. As `find` otherwise."""
        return self.space.find(address, size)

    def check_buffer(self, address: int, size: int) -> list[Stretch]:
        """What is there, if bytes may be copied there.

        Raises:
          OutOfRange: the range leaves what is described.
          NotFound: a part of it is not defined, or not what it was.
          HostError: the mappings of the process cannot be read.
        """
        return self.space.look(address, size)

    def pin(self, address: int, size: int) -> None:
        """Count one more pin of every page of a range in the space; see `CountedPins.pin`."""
        process = self.space.process
        process.kernel.counted.pin(self.space.finder(address, size), owner=str(process))

    def unpin(self, address: int, size: int, done: Unpinned | None = None) -> None:
        """Undo that, as far as the pages are pinned; see `CountedPins.unpin`."""
        counted = self.space.process.kernel.counted
        counted.unpin(lambda: self.remembered(address, size), done=done)

    def frame(self, address: int, *, perms: int = 0) -> PhysAddr:
        """The physical address of a byte, which has to be pinned: a simulated one.

        Args:
          perms: what the page has to allow.

        Raises:
          OutOfRange, NotFound: as `Space.find`.
          NotPinned: the page is not pinned.
          AccessDenied: it does not allow ``perms``.
        """
        kernel = self.space.process.kernel
        with kernel.lock:
            (stretch,) = self.space.find(address, 1)
            if kernel.counted.first_unpinned(stretch) is not None:
                raise NotPinned("the page is not pinned", asked=address, remedy="pin it first")
            pages = stretch.vmo.pages
            found = int(pages.physical_addresses(stretch.first, stretch.last)[0])
        if perms:
            self.space.check_access(address, 1, perms)
        return PhysAddr(found + (address & PAGE_MASK))

    def hide(self, address: int, *, show: bool = False) -> None:
        """Count one more that wants the page hidden from processors; or one less, to ``show`` it.

        Nothing is hidden: caches and devices agree here.

        Raises:
          OutOfRange, NotFound: as `Space.find`.
          BadState: it is to be shown, and nobody has hidden it.
        """
        kernel = self.space.process.kernel
        with kernel.lock:
            (stretch,) = self.space.find(address, 1)
            hidden = kernel.counted.hidden.setdefault(stretch.vmo.pages, RangeCounts())
            if not show:
                hidden.raise_(stretch.first, stretch.last)
            elif hidden.count(stretch.first):
                hidden.lower(stretch.first, stretch.last)
            else:
                raise BadState("the page is not hidden", asked=address)


class CrossMemory(Described):
    """One attached buffer.

    Attributes:
      space: where it is.
      address, size: bytes.
    """

    __slots__ = ("_site", "_uses", "address", "size")

    def __init__(
        self,
        process: Process,
        address: int,
        size: int,
        *,
        system: bool,
        keep: memoryview | None = None,
    ) -> None:
        """Attach a range.

        Args:
          keep: the buffer itself, where there is one: it is lent until the end.

        Raises:
          InvalidArgs: ``size`` is not above 0.
          OutOfRange: the range leaves the space.
          NotFound: a part of it is not defined.
          HostError: the mappings of the process cannot be read.
        """
        super().__init__(Space(process, system=system))
        self.address = address
        self.size = size
        self._site = sites.caller()
        with process.kernel.lock:
            self._uses = _Uses(self.space.find(address, size), keep)

    @property
    def attached(self) -> bool:
        """False once it was detached."""
        return bool(self._uses.found)

    @property
    def keep(self) -> memoryview | None:
        """See `Described.keep`."""
        return self._uses.keep

    @property
    def uses(self) -> list[Stretch]:
        """Whose pages they were when it was attached; nobody's once it is detached."""
        return list(self._uses.found)

    def detach(self) -> bool:
        """Let the memory go; True when a part of it is still pinned, by whomever.

        Raises:
          BadHandle: it is detached.
          HostError: memory that nobody else has could not be closed; it is detached all the same.
        """
        kernel = self.space.process.kernel
        with kernel.lock:
            if not self.attached:
                raise BadHandle("this buffer is not attached any more")
            pinned = any(kernel.counted.has_pins(use) for use in self._uses.found)
            self._uses.settle()
        return pinned

    # Whose pages they are -----------------------------------------------------------------------

    def remembered(self, address: int, size: int) -> list[Stretch]:
        """Whose pages they were when the buffer was attached; of what lies outside it, are now.

        For undoing. Called with the kernel's lock held. Errors as `Space.find`.
        """
        if not self.attached:
            raise BadHandle("this buffer is not attached any more")
        span = pages_of(address, size)
        own = pages_of(self.address, self.size)
        if size <= 0 or not own.contains(span):
            return self.space.find(address, size)
        uses = self._uses.found
        return [u.part(*span) for u in uses if u.start < span.stop and span.start < u.stop]

    def check_buffer(self, address: int, size: int) -> list[Stretch]:
        """What is there, if it lies in the buffer and is what it was when it was attached."""
        if address < self.address or address + size > self.address + self.size:
            raise OutOfRange(
                "the range leaves the buffer that was attached",
                asked=address,
                limit=self.address + self.size,
            )
        with self.space.process.kernel.lock:
            return self.find_as_attached(address, size)

    def find_as_attached(self, address: int, size: int) -> list[Stretch]:
        """`find`, of what is still what it was when it was attached, where it lies in the buffer.

        Raises:
          NotFound: a part of the buffer was unmapped, or something else is mapped there now.
        """
        now = self.space.find(address, size)
        if now != self.remembered(address, size):
            raise NotFound("the memory that was attached is not there any more", asked=address)
        return now

    def pin(self, address: int, size: int) -> None:
        """See `Described.pin`; what is pinned is what can be unpinned."""
        process = self.space.process
        process.kernel.counted.pin(
            lambda: self.find_as_attached(address, size), owner=str(process), keep=self.keep
        )

    def __del__(self) -> None:
        uses = getattr(self, "_uses", None)  # absent when attaching failed
        if uses is None or not uses.found or sys.is_finalizing():
            return
        kernel = self.space.process.kernel
        if kernel.lost:  # a forked child: the descriptor is the parent's
            return
        try:
            warnings.warn(
                f"a cross-memory descriptor of {self.size} bytes was dropped while attached, "
                f"at {sites.describe(self._site)}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        finally:  # where warnings are errors, it ends all the same
            kernel.lock.post(uses)


class _Uses:
    """The uses of one attached buffer, which end once. Knows no `CrossMemory`."""

    __slots__ = ("found", "keep")

    def __init__(self, found: list[Stretch], keep: memoryview | None) -> None:
        for use in found:
            use.vmo.in_use += 1
        self.found = found
        self.keep = keep

    def settle(self) -> None:
        """End them. Called with the kernel's lock held."""
        found, self.found = self.found, []
        for use in found:
            use.vmo.in_use -= 1
        self.keep = None  # a pin or a grant of it may have it still
        each_tried(use.vmo.release_if_idle for use in found)


def copy(
    source: Described, start: int, target: Described, to: int, size: int, *, now: bool
) -> None:
    """Copy bytes from one description to another: all of them, or none.

    Args:
      now: only if every page is in memory, as at interrupt level, where nobody can wait.

    Raises:
      As `Described.check_buffer`, `Space.read` and `Space.write`. Nothing was copied.
      NotFound: ``now``, and a page is not in memory.
    """
    origin, there = source.check_buffer(start, size), target.check_buffer(to, size)
    if now:
        source.space.check_in_memory(start, size)
        target.space.check_in_memory(to, size)
    target.space.write(there, to, source.space.read(origin, start, size))
