# What this machine and this process can do. Reads; changes nothing.
from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from pinfold.host import calls
from pinfold.host.abi import CAP_IPC_LOCK, CAP_SYS_ADMIN
from pinfold.units import KIB

_PROC_BYTES = 1 << 16


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


def mapped_ranges(start: int, stop: int) -> list[tuple[int, int]]:
    """The mapped parts of this process's ``[start, stop)``, ascending, neighbours merged.

    From /proc/self/maps, which costs by mapping; mincore(2) would cost by page, and says only that
    there is a hole, not where. Read piece by piece: who asks may have run out of mappings, and then
    there is no memory for the whole of it. Not atomic: another thread may map or unmap meanwhile.
    """
    found: list[tuple[int, int]] = []
    fd = calls.open_file("/proc/self/maps", os.O_RDONLY)
    try:
        done, rest = 0, b""
        while chunk := calls.pread(fd, _PROC_BYTES, done):
            done += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                low, high = (int(border, 16) for border in line.split(maxsplit=1)[0].split(b"-"))
                if low >= stop:  # ascending
                    return found
                low, high = max(low, start), min(high, stop)
                if low >= high:
                    continue
                if found and found[-1][1] == low:
                    low = found.pop()[0]
                found.append((low, high))
    finally:
        calls.close(fd)
    return found


def max_map_count() -> int:
    """vm.max_map_count: how many mappings a process may have."""
    fd = calls.open_file("/proc/sys/vm/max_map_count", os.O_RDONLY)
    try:
        return int(calls.pread(fd, KIB, 0))
    finally:
        calls.close(fd)
