# What this machine and this process can do. Reads; changes nothing.
from __future__ import annotations

import os
import resource
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pinfold.host import calls
from pinfold.host.abi import CAP_FOWNER, CAP_IPC_LOCK, CAP_SYS_ADMIN
from pinfold.units import KIB

if TYPE_CHECKING:
    from collections.abc import Generator

_PROC_BYTES = 1 << 16
_HUGE_PAGES = "/sys/kernel/mm/hugepages"


def _proc_fields(path: str) -> dict[str, str]:
    """The ``name: value`` lines of a small file in /proc."""
    fd = calls.open_file(path, os.O_RDONLY)
    try:
        text = calls.pread(fd, _PROC_BYTES, 0).decode()
    finally:
        calls.close(fd)
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _kib(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0 kB").split()[0]) * KIB


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What the kernel charges this process with, in bytes."""

    locked: int
    """VmLck: the length of locked mappings, by mlock or VFIO."""
    pinned: int
    """VmPin: long-term device pins, by io_uring or iommufd."""
    size: int
    """VmSize: address space in use."""


def process_memory() -> ProcessMemory:
    """Read /proc/self/status."""
    fields = _proc_fields("/proc/self/status")
    return ProcessMemory(
        locked=_kib(fields, "VmLck"), pinned=_kib(fields, "VmPin"), size=_kib(fields, "VmSize")
    )


def available_memory() -> int:
    """Bytes the kernel thinks it can still give without swapping (MemAvailable)."""
    return _kib(_proc_fields("/proc/meminfo"), "MemAvailable")


def _has_capability(bit: int) -> bool:
    return bool(int(_proc_fields("/proc/self/status")["CapEff"], 16) >> bit & 1)


def may_exceed_memlock() -> bool:
    """True with CAP_IPC_LOCK, for which RLIMIT_MEMLOCK does not count."""
    return _has_capability(CAP_IPC_LOCK)


def may_act_as_owner() -> bool:
    """True with CAP_FOWNER, for which what the owner of a file may do is no limit."""
    return _has_capability(CAP_FOWNER)


def may_see_frames() -> bool:
    """True with CAP_SYS_ADMIN, to which pagemap shows frame numbers."""
    return _has_capability(CAP_SYS_ADMIN)


def memlock_limit() -> int | None:
    """RLIMIT_MEMLOCK in bytes, None for no limit."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def address_space_limit() -> int | None:
    """RLIMIT_AS in bytes, None for no limit."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, slots=True)
class HugePages:
    """The huge pages of one size that the machine has set aside."""

    size: int
    """Bytes in each."""
    total: int
    free: int
    count_file: str
    """Where root says how many there are to be."""


def huge_pages() -> list[HugePages]:
    """Each size of huge pages, ascending; none where the kernel has no hugetlbfs."""
    try:
        calls.intercept("listdir")
        names = os.listdir(_HUGE_PAGES)
    except FileNotFoundError:
        return []
    found = []
    for name in names:  # hugepages-2048kB
        folder = f"{_HUGE_PAGES}/{name}"
        size = int(name.removeprefix("hugepages-").removesuffix("kB")) * KIB
        total, free = _number(f"{folder}/nr_hugepages"), _number(f"{folder}/free_hugepages")
        found.append(HugePages(size, total, free, f"{folder}/nr_hugepages"))
    return sorted(found, key=lambda pages: pages.size)


def _number(path: str) -> int:
    fd = calls.open_file(path, os.O_RDONLY)
    try:
        return int(calls.pread(fd, KIB, 0))
    finally:
        calls.close(fd)


@dataclass(frozen=True, slots=True)
class MapsLine:
    """One mapping of this process, as /proc/self/maps has it."""

    start: int
    stop: int
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int
    """Where in the file ``start`` is."""
    inode: int
    """Of the file that is mapped; 0 for anonymous memory."""
    path: str
    """Of the file, or what it is called in brackets; empty for anonymous memory."""


def mappings(start: int = 0, stop: int = 1 << 64) -> list[MapsLine]:
    """The mappings of this process that have addresses in ``[start, stop)``, ascending, whole.

    Reading costs by mapping. The text is read piece by piece: who asks may have run out of
    mappings, and then there is no memory for the whole of it. Not atomic: another thread may map or
    unmap meanwhile.
    """
    found: list[MapsLine] = []
    with closing(_lines("/proc/self/maps")) as lines:
        for line in lines:
            low, high = _borders(line.split(maxsplit=1)[0])
            if low >= stop:  # ascending
                break
            if start < high:
                found.append(_maps_line(low, high, line.split(maxsplit=5)[1:]))
    return found


def _borders(text: bytes) -> tuple[int, int]:
    low, high = text.split(b"-")
    return int(low, 16), int(high, 16)


def _maps_line(low: int, high: int, fields: list[bytes]) -> MapsLine:
    """The line of a range: permissions, offset, device, inode, and mostly a path."""
    perms, offset, _device, inode, *path = fields
    return MapsLine(
        low,
        high,
        b"r" in perms,
        b"w" in perms,
        b"x" in perms,
        b"s" in perms,
        int(offset, 16),
        int(inode),
        path[0].decode(errors="surrogateescape") if path else "",
    )


def _lines(path: str) -> Generator[bytes, None, None]:
    """The lines of a file in /proc. Close it: it has a descriptor open until it is."""
    fd = calls.open_file(path, os.O_RDONLY)
    try:
        done, rest = 0, b""
        while chunk := calls.pread(fd, _PROC_BYTES, done):
            done += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    finally:
        calls.close(fd)


def mapped_ranges(start: int, stop: int) -> list[tuple[int, int]]:
    """The mapped parts of this process's ``[start, stop)``, ascending, neighbours merged.

    From /proc/self/maps; mincore(2) would cost by page, and says only that there is a hole, not
    where.
    """
    found: list[tuple[int, int]] = []
    for line in mappings(start, stop):
        low, high = max(line.start, start), min(line.stop, stop)
        if found and found[-1][1] == low:
            low = found.pop()[0]
        found.append((low, high))
    return found


def page_sizes(start: int, stop: int) -> list[int]:
    """Bytes of a page in each mapping that has addresses in ``[start, stop)``, ascending.

    From /proc/self/smaps, KernelPageSize: a transparent huge page counts as the small ones that it
    is made of.
    """
    found: list[int] = []
    inside = False
    with closing(_lines("/proc/self/smaps")) as lines:
        for line in lines:
            name = line.split(maxsplit=1)[0]
            if not name.endswith(b":"):
                low, high = _borders(name)
                if low >= stop:
                    break
                inside = start < high
            elif inside and name == b"KernelPageSize:":
                found.append(int(line.split()[1]) * KIB)
    return found


def max_map_count() -> int:
    """vm.max_map_count: how many mappings a process may have."""
    return _number("/proc/sys/vm/max_map_count")
