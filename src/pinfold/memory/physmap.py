# The simulated physical address map of one kernel.
#
# Without an IOMMU a device uses physical addresses. Here they are made up, but they behave: a page
# keeps its address for as long as its object lives, address 0 is never given out, and the pages of
# an ordinary object are scattered by a seeded policy, so that code which assumes that the next page
# is the next address fails in its first test. Contiguous objects get one run. Device memory lies
# where there is no RAM: see memory/device_memory.py.
#
# Scattering is arithmetic: within a block of 2**k frames, page i sits in slot (i * odd + c) mod
# 2**k. A million addresses are a few numpy operations, and the way back is the same with the
# inverse of the odd number. Since odd is neither 1 nor -1 and c is not 0, no two neighbours in an
# object are neighbours in memory.
#
# Lock: `PhysicalMap.lock` is held while a device goes through the map and while pages leave it.
from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pinfold.errors import NoMemory, NotFound
from pinfold.memory.locks import LostLock, held_by_this_thread
from pinfold.memory.space import Placement
from pinfold.units import GIB, MIB, PAGE_MASK, PAGE_SHIFT, ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.memory.pages import Pages

RAM: Final = (ByteRange(16 * MIB, 2 * GIB), ByteRange(4 * GIB, 1 << 46))
"""Simulated RAM. It begins low, so that a 28-bit device reaches the first of it, and leaves the
hole below 4 GiB that PCs have for the registers of devices."""

_MAX_BLOCK: Final = 512  # frames
_MIN_BLOCK: Final = 16


@dataclass(slots=True, eq=False)
class FrameRun:
    """Frames for the pages ``[first, first + count)`` of one object."""

    pages: Pages
    first: int
    count: int
    address: int
    block: int
    """Frames in a block; 0 for a run in which page follows page."""
    odd: int = 1
    shift: int = 0

    def addresses(self, first: int, last: int) -> NDArray[np.uint64]:
        """The physical address of each page of ``[first, last)``, which lies in the run."""
        index = np.arange(first - self.first, last - self.first, dtype=np.uint64)
        if self.block:
            mask = np.uint64(self.block - 1)
            slot = (index * np.uint64(self.odd) + np.uint64(self.shift)) & mask
            index = (index & ~mask) | slot
        index <<= np.uint64(PAGE_SHIFT)
        index += np.uint64(self.address)
        return index

    def page_at(self, address: int) -> int:
        """The page at a physical address of the run; it may be past the last one in use."""
        index = (address - self.address) >> PAGE_SHIFT
        if self.block:
            mask = self.block - 1
            slot = ((index & mask) - self.shift) * pow(self.odd, -1, self.block) & mask
            index = (index & ~mask) | slot
        return self.first + index


class PhysicalMap:
    """Which page of which object is at a simulated physical address."""

    def __init__(self, *, seed: int = 0) -> None:
        self.lock: threading.RLock | LostLock = threading.RLock()
        self._owing = False
        self.settle: Callable[[], None] = lambda: None
        """What to call when an access has ended that kept somebody from closing; the kernel's."""
        self.elsewhere: Callable[[int], tuple[Pages, int, int] | None] = lambda _: None
        """What is at an address that is not RAM; the kernel's device memory."""
        self._space: Placement[FrameRun] = Placement(RAM, lowest=True)
        self._random = random.Random(seed)  # noqa: S311 - a policy to be repeated, not a secret

    def notify_idle(self) -> None:
        """Somebody could not close what is in the map: an access is under way."""
        self._owing = True

    def ended_access(self) -> None:
        """What a device's port calls after each access, outside `lock`."""
        if self._owing and not held_by_this_thread(self.lock):
            self._owing = False
            self.settle()

    def lose(self) -> None:
        """In a forked child: from now on every use raises."""
        self.lock = LostLock()

    def scatter(self, pages: Pages, first: int, count: int) -> FrameRun:
        """Frames for ``count`` pages, no two neighbours of them adjacent."""
        block = _MIN_BLOCK
        while block < min(count, _MAX_BLOCK):
            block *= 2
        with self.lock:
            # 1 and -1 would keep neighbours together, and so would a shift of 0 at a block's end.
            odd = self._random.randrange(3, block - 2, 2)
            shift = self._random.randrange(1, block)
            return self._place(FrameRun(pages, first, count, 0, block, odd, shift), block)

    def contiguous(self, pages: Pages, count: int, alignment: int) -> FrameRun:
        """One run of frames in order; its address is a multiple of ``alignment``."""
        with self.lock:
            return self._place(FrameRun(pages, 0, count, 0, 0), 1, alignment)

    def _place(self, run: FrameRun, block: int, alignment: int = 0) -> FrameRun:
        size = -(-run.count // block) * block << PAGE_SHIFT
        address = self._space.place(size, max(alignment, block << PAGE_SHIFT), run)
        if address is None:
            raise NoMemory(
                "no run of simulated physical memory is left",
                asked=size,
                available=self._space.largest_gap(),
                remedy="close memory objects, or ask for a smaller run or alignment",
            )
        run.address = address
        return run

    def release(self, run: FrameRun) -> None:
        """Take a run out; no device finds its pages afterwards."""
        with self.lock:
            found = self._space.blocks.find(run.address)
            if found is not None and found[2] is run:
                self._space.remove(run.address)

    def at(self, address: int) -> tuple[Pages, int, int]:
        """`find`, of an address that has memory behind it."""
        found = self.find(address)
        if found is None:
            raise NotFound("no memory is at that physical address", asked=address)
        return found

    def find(self, address: int) -> tuple[Pages, int, int] | None:
        """What is at a physical address: (object, offset in it, bytes that follow on in both).

        The caller holds `lock` for as long as it uses the answer.
        """
        found = self._space.blocks.find(address)
        if found is None:
            return self.elsewhere(address)
        run = found[2]
        page = run.page_at(address)
        limit = min(run.first + run.count, run.pages.page_count)
        if not run.first <= page < limit:
            return None
        inside = address & PAGE_MASK
        span = 1 if run.block else limit - page
        return run.pages, (page << PAGE_SHIFT) + inside, (span << PAGE_SHIFT) - inside
