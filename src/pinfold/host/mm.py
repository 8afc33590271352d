# Host memory: files that hold it, addresses that show it, locks that keep it.
#
# Each function is one or two system calls with the flags that pinfold needs. Source of the
# behaviour named in the comments: mmap(2), madvise(2), memfd_create(2), and measurements on 6.18.
from __future__ import annotations

import errno
import os

from pinfold.host import abi, calls
from pinfold.host.abi import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    MADV_PAGEOUT,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    SEEK_DATA,
    SEEK_HOLE,
)
from pinfold.units import PAGE_SHIFT, PAGE_SIZE, HostVa

_RESERVE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE


def create_memfd(name: str, size: int, *, huge: int | None = None) -> int:
    """A new memfd of ``size`` bytes with nothing committed; its descriptor.

    The name is for /proc and is cut to what the kernel takes (249 bytes). With ``huge`` it is made
    of huge pages of so many bytes, a power of two: ENODEV where the machine has none of that size.
    """
    printable = name.encode("utf-8", "backslashreplace").replace(b"\0", b"?")
    short = printable[:249].decode(errors="ignore")
    flags = abi.MFD_CLOEXEC | abi.MFD_ALLOW_SEALING
    if huge is not None:
        flags |= abi.MFD_HUGETLB | (huge.bit_length() - 1) << abi.MFD_HUGE_SHIFT
    try:
        fd = calls.memfd_create(short, flags | abi.MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.3 do not know the flag
            raise
        fd = calls.memfd_create(short, flags)
    try:
        calls.ftruncate(fd, size)
    except BaseException as error:
        try:
            calls.close(fd)
        except OSError as second:
            error.add_note(f"closing the memfd failed too: {second}")
        raise
    return fd


def seal(fd: int, seals: int) -> None:
    """Add seals to a memfd; EPERM where it cannot be sealed, EINVAL where it is no memfd."""
    calls.fcntl(fd, abi.F_ADD_SEALS, seals)


def seals_of(fd: int) -> int | None:
    """The seals of a memfd; None for a file that is no memfd."""
    try:
        return calls.fcntl(fd, abi.F_GET_SEALS)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def reserve(size: int) -> HostVa:
    """``size`` bytes of address space that nothing can be read from or written to."""
    return HostVa(calls.mmap(0, size, PROT_NONE, _RESERVE, -1, 0))


def reserve_at(address: HostVa, size: int) -> None:
    """Reserve exactly ``[address, address + size)``; EEXIST where something is there."""
    got = calls.mmap(address, size, PROT_NONE, _RESERVE | MAP_FIXED_NOREPLACE, -1, 0)
    if got != address:  # kernels before 4.17 take the flag for a hint
        calls.munmap(got, size)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def clear_to_reserved(address: HostVa, size: int) -> None:
    """Put a reservation over ``[address, address + size)``, whatever is there, in one step.

    Never munmap and then mmap: another thread's allocation may take the hole in between.
    """
    calls.mmap(address, size, PROT_NONE, _RESERVE | MAP_FIXED, -1, 0)


def map_shared(fd: int, offset: int, size: int, prot: int) -> HostVa:
    """Map part of a file where the kernel likes."""
    return HostVa(calls.mmap(0, size, prot, MAP_SHARED | MAP_NORESERVE, fd, offset))


def map_shared_at(address: HostVa, fd: int, offset: int, size: int, prot: int) -> None:
    """Map part of a file over ``[address, address + size)``, in one step.

    A refusal leaves the old mapping as it was (seen for EACCES, EPERM, EINVAL, ENODEV, ENOMEM).
    """
    calls.mmap(address, size, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, offset)


def unmap(address: HostVa, size: int) -> None:
    """Give an address range back to the kernel."""
    calls.munmap(address, size)


def protect(address: HostVa, size: int, prot: int) -> None:
    """Change what the CPU may do with a mapped range."""
    calls.mprotect(address, size, prot)


def populate_write(address: HostVa, size: int) -> None:
    """Commit every page of a writable mapped range.

    EFAULT: beyond the end of the file. EINVAL: not writable. ENOMEM: not mapped, or out of memory.
    """
    calls.madvise(address, size, MADV_POPULATE_WRITE)


def populate_read(address: HostVa, size: int) -> None:
    """Make every page of a mapped range present for reading; commits pages of a shared memfd."""
    calls.madvise(address, size, MADV_POPULATE_READ)


def page_out(address: HostVa, size: int) -> None:
    """Ask the kernel to reclaim a range; EINVAL where it is locked."""
    calls.madvise(address, size, MADV_PAGEOUT)


def remove(address: HostVa, size: int) -> None:
    """Free the pages and the backing store of a shared mapped range; EINVAL where it is locked."""
    calls.madvise(address, size, abi.MADV_REMOVE)


def allocate(fd: int, size: int) -> None:
    """Commit ``[0, size)`` of a file. In huge pages: ENOSPC where too few are free."""
    calls.fallocate(fd, 0, 0, size)


def punch(fd: int, offset: int, size: int) -> None:
    """Free the pages of a file range. Takes no notice of locks or of device pins: ours must."""
    calls.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size)


def data_runs(fd: int, start: int, stop: int) -> list[tuple[int, int]]:
    """The ranges of a file that hold data, ascending, within ``[start, stop)``."""
    runs: list[tuple[int, int]] = []
    at = start
    while at < stop:
        try:
            data = calls.lseek(fd, at, SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here to the end
                break
            raise
        if data >= stop:
            break
        at = calls.lseek(fd, data, SEEK_HOLE)
        runs.append((data, min(at, stop)))
    return runs


def lock(address: HostVa, size: int) -> None:
    """mlock(2)."""
    calls.mlock(address, size)


def unlock(address: HostVa, size: int) -> None:
    """munlock(2)."""
    calls.munlock(address, size)


def resident(address: HostVa, size: int) -> bytearray:
    """One byte a page, 1 where the page is in memory; ENOMEM where part is not mapped."""
    pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
    return calls.mincore(address, size, pages).translate(_LOW_BIT)


_LOW_BIT = bytes(value & 1 for value in range(256))
