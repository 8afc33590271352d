# The memory of this very process, as something that has pages: a page's offset is its address.
#
# A pin of an array, of an mmap, of a stack is a pin of memory that no object of ours owns. Counted
# by address it has the same books as everything else: one count a page, one charge a page, one
# simulated physical address a page, and it can be granted to a device.
#
# What it cannot have is our protection. Nobody asks us before the memory behind an address is given
# away, so nothing is remembered as committed, nothing is given back, and bytes go through
# process_vm_readv, which answers EFAULT where a load would end the process.
#
# Source: process_vm_readv(2): a process may always read itself; transfers are cut at the first page
# that is not there.
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from pinfold.errors import NotSupported
from pinfold.host import calls, mm, probe, process_vm, procmap
from pinfold.host.abi import PROT_READ, PROT_WRITE
from pinfold.memory.backing import Backing
from pinfold.memory.hosterrors import translated
from pinfold.memory.window import Window
from pinfold.units import FILE_LIMIT, PAGE_SIZE, ByteRange, HostVa, page_up

if TYPE_CHECKING:
    from pinfold.memory.ranges import Interval
    from pinfold.memory.window import Export

_NAMELESS: Final = ("/memfd:", "/dev/zero", "/SYSV", "[")
"""What shared memory without a file is called in /proc/self/maps."""

_NO_FILE: Final = -1
_MOST: Final = (1 << 31) - PAGE_SIZE
"""Bytes that one call moves. Source: MAX_RW_COUNT of Linux."""


class ProcessMemory(Backing):
    """All addresses of this process as bytes; there is no descriptor behind it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("process", _NO_FILE, FILE_LIMIT)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from an address.

        Raises:
          HostError: a part cannot be read (EFAULT).
        """
        done = 0
        while done < len(buffer):
            part = buffer[done : done + _MOST]
            with translated("read memory of this process"):
                done += process_vm.read_into(os.getpid(), offset + done, part)

    def write_from(self, buffer: memoryview, offset: int) -> None:
        """Write ``buffer`` to an address.

        Raises:
          HostError: a part cannot be written (EFAULT); what lies before it has been.
        """
        done = 0
        while done < len(buffer):
            part = buffer[done : done + _MOST]
            with translated("write memory of this process"):
                done += process_vm.write(os.getpid(), offset + done, part)

    def commit(self, offset: int, size: int) -> None:
        """Have every page there, and not the shared page of zeros where it can be written.

        Raises:
          NoMemory: the host has none, or a part is not mapped.
          HostError: a page cannot be had.
        """
        try:
            mm.populate_write(HostVa(offset), size)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a part of it may not be written
                with translated("bring in memory of this process", asked=size):
                    mm.populate_read(HostVa(offset), size)
                return
            with translated("bring in memory of this process", asked=size):
                raise

    def data_runs(self, offset: int, size: int) -> list[Interval]:
        """All of it: what is there is not ours to know."""
        return [(offset, offset + size)]

    def committed_bytes(self) -> int:
        """None that is ours to count."""
        return 0

    def punch(self, offset: int, size: int) -> None:
        """Refused: the memory is somebody's."""
        raise _not_ours()

    def resize(self, size: int) -> None:
        """Refused."""
        raise _not_ours()

    def export(self, offset: int, size: int, *, writable: bool) -> tuple[Export, Window | None]:
        """Refused: whoever has the memory has a view of it."""
        raise _not_ours()

    def borrow(self, offset: int, size: int) -> Window:
        """The addresses themselves."""
        return _Addresses(self, offset, size)

    def close(self) -> None:
        """Nothing is open."""


class _Addresses(Window):
    """A window that is there already: the address of a byte is its offset."""

    __slots__ = ()

    def __init__(self, backing: Backing, offset: int, size: int) -> None:
        self._backing = backing
        self.address = HostVa(offset)
        self.offset = offset
        self.size = size
        self.users = 1

    def share(self) -> None:
        """Nobody counts."""

    def release(self) -> None:
        """Nothing is mapped for it."""


def first_without(start: int, stop: int, *, perms: int = 0) -> int | None:
    """The first address of ``[start, stop)`` where there is no memory that may be used so.

    Args:
      perms: bits of `Perm` that are needed, which are those of PROT_*; 0 where it is enough that
        something is mapped, if nobody may touch it.

    Raises:
      HostError: the mappings of the process cannot be read.
    """
    at = start
    with translated("look at the mappings of this process"):
        found = procmap.mappings(start, stop)
    for low, high, has in found:
        if at < low or perms & ~has:
            return at
        at = high
    return at if at < stop else None


def enter(start: int, stop: int) -> None:
    """Have touching what is mapped in a range cause no page fault: pages that are there are entered
    in the page tables, for writing where that is allowed.

    Raises:
      NoMemory, HostError: a page cannot be entered.
    """
    with translated("enter pages", asked=stop - start):
        for low, high, prot in procmap.mappings(start, stop):
            low, high = max(low, start), min(high, stop)
            if prot & PROT_WRITE:
                mm.populate_write(HostVa(low), high - low)
            elif prot & PROT_READ:
                mm.populate_read(HostVa(low), high - low)


def no_room_behind(start: int, stop: int) -> bool:
    """True where a file is mapped that has bytes for a range, and no block of its file system is
    left to hold them: why else a page of it could not be had.

    Raises:
      HostError: the mappings of the process, or the file, cannot be looked at.
    """
    with translated("look at the files that are mapped"):
        return any(
            line.inode and _is_full(line, min(line.stop, stop))
            for line in probe.mappings(start, stop)
            if not line.path.startswith(_NAMELESS)
        )


def _is_full(line: probe.MapsLine, stop: int) -> bool:
    try:
        fd = calls.open_file(line.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # deleted, somebody's, or something else by now: the first error is told
        return False
    try:
        size, free = calls.fstat(fd).st_size, calls.fstatvfs(fd).f_bavail
    finally:
        calls.close(fd)
    return not free and page_up(size) >= line.offset + stop - line.start


def shows_a_file(start: int, stop: int) -> bool:
    """True when a part of the range shows a file that has a name.

    Raises:
      HostError: as `first_without`.
    """
    with translated("look at the mappings of this process"):
        lines = probe.mappings(start, stop)
    return any(line.inode and not line.path.startswith(_NAMELESS) for line in lines)


def smallest_page(start: int, stop: int) -> int:
    """Bytes in the smallest page of a mapped range: huge pages are larger than others.

    Raises:
      HostError: as `first_without`.
    """
    with translated("look at the mappings of this process"):
        return min(probe.page_sizes(start, stop), default=PAGE_SIZE)


def in_memory(start: int, stop: int) -> bool:
    """True when touching no page of a mapped range would have to wait.

    Raises:
      NoMemory: a part of it is not mapped.
    """
    with translated("ask what is in memory"):
        return all(mm.resident(HostVa(start), stop - start))


def module_at(address: int) -> list[ByteRange]:
    """The mappings of the program or library whose code is at an address; none if none is.

    Code and data: what lies next to each other of the same file.

    Raises:
      HostError: as `first_without`.
    """
    with translated("look at the mappings of this process"):
        lines = probe.mappings()
    code = next((line for line in lines if line.start <= address < line.stop), None)
    if code is None or not code.executable or not code.inode:
        return []
    return [
        ByteRange(line.start, line.stop)
        for line in lines
        if (line.inode, line.path) == (code.inode, code.path) and (line.readable or line.writable)
    ]


def _not_ours() -> NotSupported:
    return NotSupported("this is memory of the process, and not an object's")
