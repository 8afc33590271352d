# Loads and stores as a program makes them, and what the host's kernel says is mapped.
#
# They go through the kernel (process_vm_readv, process_vm_writev on this very process), which
# honours the protection of a mapping and the end of its file as a load does, and answers a fault
# with EFAULT where a load would end the process.
from __future__ import annotations

import errno
import os
from pathlib import Path

from pinfold.host import calls
from pinfold.units import PAGE_SIZE


def peek(address: int, length: int) -> bytes:
    """The bytes there, up to the first that faults."""
    try:
        return calls.process_vm_read(os.getpid(), address, length)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return b""


def poke(address: int, data: bytes) -> int:
    """Write there, up to the first byte that faults; how many bytes that is."""
    try:
        return calls.process_vm_write(os.getpid(), address, data)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return 0


def host_protections(base: int, pages: int) -> list[list[str]]:
    """What the host allows on each page from ``base`` on; an empty list where it allows nothing."""
    stop = base + pages * PAGE_SIZE
    found: list[list[str]] = [[] for _ in range(pages)]
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, perms = line.split(maxsplit=2)[:2]
        low, high = (int(border, 16) for border in where.split("-"))
        allowed = [
            word
            for word, letter in (("READ", "r"), ("WRITE", "w"), ("EXECUTE", "x"))
            if letter in perms
        ]
        for page in range(max(low, base), min(high, stop), PAGE_SIZE):
            found[(page - base) // PAGE_SIZE] = [f"PERM_{word}" for word in allowed]
    return found
