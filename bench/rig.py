# What several benchmarks start from: a kernel of their own with a sim bus, and C's side of a floor.
from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pinfold import Bti, Iommu, Kernel, Perm, Process, Vmo, open_bus

RW = Perm.READ | Perm.WRITE


class Rig:
    """A kernel, a process and a sim bus that share nothing with another benchmark's."""

    def __init__(self) -> None:
        self.process = Process(Kernel())
        self.iommu: Iommu = open_bus("sim", process=self.process)

    def bti(self, number: int) -> Bti:
        """A device's authority; closed with the process."""
        return self.iommu.initiator(number)

    def vmo(self, size: int, *, committed: bool = True) -> Vmo:
        """A memory object; closed with the process."""
        made = Vmo(size, process=self.process)
        if committed:
            made.commit()
        return made


@contextmanager
def rig() -> Iterator[Rig]:
    """A `Rig`, whose handles are closed at the end; unpin everything before that."""
    made = Rig()
    try:
        yield made
    finally:
        made.process.exit()


def address_of(view: memoryview) -> int:
    """Where the bytes of a writable view are, for the C library."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


_C_SOURCE = """
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

void copy_many(void *to, const void *from, unsigned long size, long count)
{
    for (long i = 0; i < count; i++) {
        memcpy(to, from, size);
        __asm__ volatile("" ::: "memory");
    }
}

int map_many(void *at, unsigned long size, int fd, long count)
{
    for (long i = 0; i < count; i++) {
        if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != at)
            return 1;
        if (mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                 -1, 0) != at)
            return 1;
    }
    return 0;
}
"""


@cache
def c_floors() -> ctypes.CDLL | None:
    """The floors in C, where there is a compiler; None where there is not."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "floors.c"), Path(folder, "floors.so")
        source.write_text(_C_SOURCE, encoding="utf-8")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        loaded = ctypes.CDLL(str(library))
    loaded.copy_many.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_long,
    )
    loaded.copy_many.restype = None
    loaded.map_many.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long)
    loaded.map_many.restype = ctypes.c_int
    return loaded
