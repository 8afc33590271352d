"""What the tests of locked memory share: an area to lock, and what the kernel says of it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from pinfold.host import abi, calls, mm, probe
from pinfold.units import PAGE_SIZE, HostVa

Interceptor: TypeAlias = Callable[[str], None]
Intercept: TypeAlias = Callable[[Interceptor | None], None]

PAGES = 16
READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS


def locked() -> int:
    """VmLck: what the kernel says this process has locked, in bytes."""
    return probe.process_memory().locked


def make_area(pages: int = PAGES, prot: int = READ_WRITE) -> HostVa:
    """Private memory with a page on each side that can never be locked by mistake."""
    edge = mm.reserve((pages + 2) * PAGE_SIZE)
    start = HostVa(edge + PAGE_SIZE)
    calls.mmap(start, pages * PAGE_SIZE, prot, PRIVATE | abi.MAP_FIXED, -1, 0)
    return start


def give_back(start: HostVa, pages: int = PAGES) -> None:
    mm.unmap(HostVa(start - PAGE_SIZE), (pages + 2) * PAGE_SIZE)


def refuse(*names: str, number: int = errno.EPERM) -> Callable[[str], None]:
    """Refuses every call of these names."""

    def interceptor(name: str) -> None:
        if name in names:
            raise OSError(number, f"injected into {name}")

    return interceptor


@contextmanager
def intercepted(interceptor: Interceptor) -> Iterator[None]:
    """Lets a function see each host call of the block, and refuse it."""
    former = calls.set_interceptor(interceptor)
    try:
        yield
    finally:
        calls.set_interceptor(former)


def at(area: HostVa, page: int) -> HostVa:
    return HostVa(area + page * PAGE_SIZE)


def flagged_pages(area: HostVa) -> set[int]:
    """The pages of the area in mappings that the kernel has flagged as locked."""
    found: set[int] = set()
    low = high = 0
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first, *rest = line.split()
            if not first.endswith(":"):
                low, high = (int(border, 16) for border in first.split("-"))
            elif first == "VmFlags:" and "lo" in rest:
                low, high = max(low, area), min(high, at(area, PAGES))
                found |= set(range((low - area) // PAGE_SIZE, (high - area) // PAGE_SIZE))
    return found
