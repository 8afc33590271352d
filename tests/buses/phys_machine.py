"""What the tests of the phys bus need of the machine, and an eye on memory that is not the bus's.

Frames are checked through another mapping of the same memory file: what pinfold registered and
looked up is not asked for the answer.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import pytest

import pinfold as pf
from pinfold.buses.phys import PhysBus
from pinfold.errors import NotFound, PinfoldError
from pinfold.host import abi, calls, mm, pagemap, probe
from pinfold.testing import HostCalls
from pinfold.units import HostVa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PAGE: Final = pf.PAGE_SIZE
RW: Final = pf.Perm.READ | pf.Perm.WRITE
HUGE: Final = 2 << 20
POOLS: Final = Path("/sys/kernel/mm/hugepages")


def why_not() -> str:
    """Why this machine, or this process, has no phys bus; empty where it has."""
    try:
        PhysBus(slots=1).close()
    except PinfoldError as error:
        return str(error)
    return ""


WHY_NOT: Final = why_not()

needs_phys: Final = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it is there")


def pinned() -> int:
    """VmPin: bytes that the kernel counts as pinned for this process."""
    return probe.process_memory().pinned


def settles_at(before: int) -> bool:
    """True once the kernel counts as much as before: a closed ring is let go a moment later."""
    for _ in range(100_000):
        if pinned() == before:
            return True
        os.sched_yield()
    return False


class OtherMapping:
    """A memory object mapped once more, aligned to huge pages, for looking and for disturbing."""

    def __init__(self, vmo: pf.Vmo) -> None:
        backing = vmo.object.pages.backing
        self.size = vmo.size + -vmo.size % backing.grain
        align = max(HUGE, backing.grain)
        self._whole = self.size + align
        self._reserved = mm.reserve(self._whole)
        self.address = HostVa(self._reserved + -self._reserved % align)
        mm.map_shared_at(self.address, backing.fd, 0, self.size, abi.PROT_READ | abi.PROT_WRITE)
        self._pages = vmo.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        mm.unmap(self._reserved, self._whole)

    def frames(self) -> NDArray[np.uint64]:
        """Where each page is, as this mapping has it.

        Looked at until all are there: the kernel takes a page out of the table for the moment that
        it tries to move it.
        """
        while True:
            mm.populate_read(self.address, self._pages)
            try:
                return pagemap.frames(self.address, self._pages)
            except NotFound:
                continue

    def advise(self, advice: int) -> str:
        """madvise(2) over all of it; what the kernel said to it."""
        try:
            calls.madvise(self.address, self.size, advice)
        except OSError as error:
            return str(error.strerror)
        return "done"


def changed(before: NDArray[np.uint64], after: NDArray[np.uint64]) -> int:
    """How many pages have another frame."""
    return int((before != after).sum())


class FailCall(HostCalls):
    """Refuses the n-th call of one name in the block."""

    def __init__(self, name: str, error: int, n: int = 1) -> None:
        super().__init__()
        self.name = name
        self.n = n
        self._errno = error

    def _refuses(self, number: int) -> bool:
        mine = [at for at, name in enumerate(self.names, 1) if name == self.name]
        return len(mine) >= self.n and mine[self.n - 1] == number


@contextmanager
def huge_pages_to_ourselves() -> Iterator[None]:
    """No other run of the tests counts huge pages, or changes how many there are, meanwhile."""
    if not POOLS.exists():
        pytest.skip("this kernel has no huge pages")
    fd = os.open(POOLS, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def huge_pages(count: int, size: int = HUGE) -> Iterator[None]:
    """So many huge pages free at least, for the length of the block; skips where they are not had.

    The machine's own number is put back.
    """
    with huge_pages_to_ourselves():
        yield from _set_aside(count, size)


def _set_aside(count: int, size: int) -> Iterator[None]:
    folder = POOLS / f"hugepages-{size >> 10}kB"
    setting = folder / "nr_hugepages"
    if not setting.exists() or not os.access(setting, os.W_OK):
        pytest.skip(f"this process cannot have huge pages of {size >> 20} MiB set aside")

    def free() -> int:
        return int((folder / "free_hugepages").read_text())

    former = setting.read_text()
    wanted = int(former) - free() + count
    try:
        setting.write_text(str(max(wanted, int(former))))
        if free() < count:
            pytest.skip(f"the machine sets aside only {free()} huge pages of {size >> 20} MiB")
        yield
    finally:
        setting.write_text(former)
        assert setting.read_text() == former, "a huge page of the test's is still in use"
