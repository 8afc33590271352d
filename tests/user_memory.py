"""Loads and stores as a program makes them, answered where a program would be ended.

They go through the kernel (process_vm_readv, process_vm_writev on this very process), which
honours the protection of a mapping and the end of its file as a load does, and answers a fault
with EFAULT.
"""

from __future__ import annotations

import errno
import os

from pinfold.host import process_vm


def load(address: int, size: int = 1) -> bytes | None:
    """The bytes at an address, up to the first that faults; None where that is the first of all."""
    try:
        return process_vm.read(os.getpid(), address, size)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return None


def poke(address: int, data: bytes) -> int:
    """Write at an address, up to the first byte that faults; how many bytes that is."""
    try:
        return process_vm.write(os.getpid(), address, data)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return 0


def store(address: int, data: bytes) -> bool:
    """Put bytes at an address; False where a store would end the process."""
    return poke(address, data) == len(data)
