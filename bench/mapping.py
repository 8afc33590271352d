# Claim: Vmar.map and unmap of one page take at most four times the raw system calls.
#
# The floor makes the two calls that a region needs: mmap(MAP_FIXED) of a memfd over reserved
# address space, and mmap(PROT_NONE, MAP_FIXED) to reserve it again, so that nothing else moves in
# between. Through ctypes, as Python would; and where there is a compiler, a loop of them in C.
# Nobody touches the page: the fault would be the same for both.
#
# The row with other mappings has a region that holds a thousand, apart from each other as Linux
# counts them: no two neighbours are the same memory object.
from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.measure import Row, Scale, Subject, against, interleave, time_text
from bench.rig import Rig, c_floors, rig
from pinfold import PAGE_SIZE, Vmo
from pinfold.host.abi import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from pinfold.objects.vmar import Vmar
from pinfold.objects.vmoption import VmOption

_FAILED = ctypes.c_void_p(-1).value
_SHOWN = PROT_READ | PROT_WRITE
_SHARING = MAP_SHARED | MAP_FIXED
_RESERVE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
_RESERVING = _RESERVE | MAP_FIXED
_OPTIONS = int(VmOption.PERM_READ | VmOption.PERM_WRITE)


def _libc() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """mmap and munmap, declared."""
    library = ctypes.CDLL(None, use_errno=True)
    mmap, munmap = library.mmap, library.munmap
    mmap.restype = ctypes.c_void_p
    mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    )
    munmap.restype = ctypes.c_int
    munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return mmap, munmap


def _raw(mmap: Callable[..., Any], address: int, fd: int) -> Subject:
    """The two calls, each result checked, as any caller would."""

    def subject(count: int) -> None:
        for _ in range(count):
            if mmap(address, PAGE_SIZE, _SHOWN, _SHARING, fd, 0) == _FAILED:
                raise OSError(ctypes.get_errno(), "mmap of a page")
            if mmap(address, PAGE_SIZE, PROT_NONE, _RESERVING, -1, 0) == _FAILED:
                raise OSError(ctypes.get_errno(), "mmap of a reservation")

    return subject


def _raw_c(map_many: Callable[..., int], address: int, fd: int) -> Subject:
    def subject(count: int) -> None:
        if map_many(address, PAGE_SIZE, fd, count):
            raise OSError("mmap in C failed")

    return subject


@contextmanager
def reserved_page() -> Iterator[tuple[Callable[..., Any], int]]:
    """mmap, and the address of a page in the middle of a reservation."""
    mmap, munmap = _libc()
    address = mmap(None, 3 * PAGE_SIZE, PROT_NONE, _RESERVE, -1, 0)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), "mmap of a reservation")
    try:
        yield mmap, address + PAGE_SIZE
    finally:
        munmap(address, 3 * PAGE_SIZE)


@contextmanager
def raw_pair(fd: int) -> Iterator[Subject]:
    """The floor of mapping a page of ``fd`` and unmapping it: the two calls, through ctypes."""
    with reserved_page() as (mmap, address):
        yield _raw(mmap, address, fd)


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    fd = os.memfd_create("bench")
    try:
        os.truncate(fd, PAGE_SIZE)
        with reserved_page() as (mmap, address):
            yield from _rows(scale, mmap, address, fd)
    finally:
        os.close(fd)


def _rows(scale: Scale, mmap: Callable[..., Any], address: int, fd: int) -> Iterator[Row]:
    crowd = scale.pick(1_000, 10)
    with rig() as made, rig() as other:
        subjects = {
            "map": _pinfold_pair(made.process.root, made.vmo(PAGE_SIZE)),
            "crowded": _crowded_pair(other, crowd),
            "raw": _raw(mmap, address, fd),
        }
        floors = c_floors()
        if floors is not None:
            subjects["C"] = _raw_c(floors.map_many, address, fd)
        timings = interleave(subjects, scale)
    mapped, floor = timings["map"], timings["raw"]
    what = "Vmar.map + unmap of a page"
    yield against(
        "map",
        what,
        mapped,
        "2 mmap, ctypes",
        floor,
        scale,
        at_most=4,
        why=f"{time_text(max(mapped.best - floor.best, 1e-9))} more than the system calls",
    )
    if "C" in timings:
        yield against("map", what, mapped, "2 mmap, C", timings["C"], scale)
    yield against(
        "map",
        f"{what}, beside {crowd:,} mappings",
        timings["crowded"],
        "2 mmap, ctypes",
        floor,
        scale,
    )


def _pinfold_pair(root: Vmar, vmo: Vmo) -> Subject:
    def subject(count: int) -> None:
        for _ in range(count):
            root.map(vmo, _OPTIONS).unmap()

    return subject


def _crowded_pair(made: Rig, crowd: int) -> Subject:
    objects = [made.vmo(PAGE_SIZE, committed=False) for _ in range(7)]
    for index in range(crowd):
        made.process.root.map(objects[index % 7], _OPTIONS)
    for vmo in objects:  # the mappings keep the memory
        vmo.close()
    return _pinfold_pair(made.process.root, made.vmo(PAGE_SIZE))
