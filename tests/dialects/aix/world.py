"""Memory of both spaces, and what the books say of it."""

from __future__ import annotations

import gc
import mmap
from typing import TYPE_CHECKING, Any

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import calls
from pinfold.objects.addresses import stretches
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Callable

P = pf.PAGE_SIZE
READ_WRITE = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE


class World:
    """Sixteen pages of system space at ``a``, eight of user space at ``u``; a hole after both.

    Attributes:
      vmo: what is mapped in system space.
      mapping: where.
      user: the user memory, an anonymous mapping.
      dp, second: descriptors, free at first.
    """

    def __init__(self, kernel: pf.Kernel) -> None:
        self.kernel = kernel
        self.process = pf.Process(kernel, name="aix")
        with self.process:
            root = self.process.reserve_root(size=1 << 30)
            self.vmo = pf.Vmo(16 * P, name="kernel buffer")
            place = READ_WRITE | pf.VmOption.SPECIFIC
            self.mapping = root.map(self.vmo, place, offset=1 << 20)
        self.a = int(self.mapping.address)
        self.user = mmap.mmap(-1, 8 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.u = address(self.user)
        self.dp, self.second = aix.Xmem(), aix.Xmem()
        self._more: list[Callable[[], object]] = []
        self._kept: list[mmap.mmap] = []

    # What the books say -------------------------------------------------------------------------

    def counts(self, start: int, pages: int = 1) -> list[tuple[int, int]]:
        """(short-term, long-term) pins of each page, wherever it is."""
        found = []
        with self.kernel.lock:
            for at in range(start - start % P, start + pages * P - start % P, P):
                (stretch,) = stretches(self.kernel, at, at + P)
                found.append(self.kernel.counted.counts(stretch))
        return found

    def short(self, start: int, pages: int = 1) -> list[int]:
        """The short-term pins of each page."""
        return [short for short, _ in self.counts(start, pages)]

    @property
    def held(self) -> int:
        """Pages that either counter holds, after the books were found to agree."""
        check_books(self.kernel)
        held = self.kernel.counted.statistics().held // P
        assert held == self.kernel.ledger.pinned_bytes // P
        return held

    # More memory --------------------------------------------------------------------------------

    def attached(self, start: int, count: int, flag: int = aix.USER_ADSPACE) -> aix.Xmem:
        """A descriptor of a range."""
        dp = aix.Xmem()
        assert aix.xmattach(start, count, dp, flag) == aix.XMEM_SUCC
        self._more.append(lambda: aix.xmdetach(dp))
        return dp

    def map_user(self, pages: int, **options: Any) -> int:
        """Anonymous user memory of its own; where it is. Given back at the end."""
        made = mmap.mmap(-1, pages * P, **options)
        self._kept.append(made)
        return address(made)

    def close(self) -> None:
        """The end: nothing may be pinned any more."""
        with self.process:
            for undo in reversed(self._more):
                undo()
        assert self.held == 0
        for each in self._kept:
            each.close()
        self.vmo.close()
        self.process.exit()


def address(buffer: Any) -> int:
    """Where a buffer is."""
    return calls.address_of(memoryview(buffer))


def dropped(kept: list[Any]) -> None:
    """Forget what is in a list, and have it collected."""
    kept.clear()
    gc.collect()
