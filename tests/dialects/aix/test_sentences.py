"""Sentences of the pages of pin and xlate_pin that no other test is about: see docs/fidelity.md."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import pagemap
from pinfold.host.abi import PM_PRESENT
from pinfold.units import HostVa
from tests.memory.locking import intercepted, refuse

from .world import READ_WRITE, P, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def entered(start: int, pages: int) -> int:
    """How many pages the page tables have: touching them is no page fault."""
    words = pagemap.entries(HostVa(start), pages * P)
    return int(((words & np.uint64(PM_PRESENT)) != 0).sum())


# pin ----------------------------------------------------------------------------------------------


def test_pin_takes_the_address_of_a_byte_and_a_number_of_bytes(world: World) -> None:
    """Source: aix pin, parameters."""
    for start, length, pages in (
        (0, 1, [1, 0, 0]),
        (0, P, [1, 0, 0]),
        (0, P + 1, [1, 1, 0]),
        (P - 1, 1, [1, 0, 0]),
        (P - 1, 2, [1, 1, 0]),
        (P, 2 * P, [0, 1, 1]),
    ):
        assert aix.pin(world.a + start, length) == 0
        assert world.short(world.a, 3) == pages
        assert aix.unpin(world.a + start, length) == 0


def test_references_to_pinned_memory_wait_for_nothing(world: World) -> None:
    """Source: aix pin: page faults do not occur for references in the range that was pinned.

    The page tables have every page before anybody has touched one, where it was pinned.
    """
    other = int(world.process.root.map(world.vmo, READ_WRITE).address)
    assert aix.pin(world.a, 16 * P) == 0
    assert entered(world.a, 16) == 16
    assert entered(other, 16) == 0
    assert aix.unpin(world.a, 16 * P) == 0
    start = world.map_user(8)
    assert entered(start, 8) == 0
    dp = world.attached(start, 8 * P)
    assert aix.xmempin(start, 8 * P, dp) == 0
    assert entered(start, 8) == 8
    assert aix.xmemunpin(start, 8 * P, dp) == 0


def test_a_pin_of_a_file_that_has_become_shorter(world: World, tmp_path: Path) -> None:
    """Source: aix pin EIO, and all of the range or none of it, for real."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * P))
    with pf.Vmo.from_file(path, writable=True) as file:
        mapping = world.process.root.map(file, READ_WRITE)
        start = int(mapping.address)
        os.truncate(path, 2 * P)
        assert aix.pin(start, 4 * P) == aix.EIO
        assert (world.short(start, 4), world.held) == ([0] * 4, 0)
        assert aix.pin(start, 2 * P) == 0
        assert aix.unpin(start, 2 * P) == 0
        mapping.unmap()


@pytest.mark.parametrize(
    ("number", "found"),
    [(errno.EIO, aix.EIO), (errno.ENOMEM, aix.ENOMEM), (errno.ENOSPC, aix.ENOSPC)],
    ids=["EIO", "ENOMEM", "ENOSPC"],
)
def test_what_bringing_pages_in_may_run_into(world: World, number: int, found: int) -> None:
    """Source: aix pin EIO, ENOMEM, ENOSPC (the file system). The same pin works afterwards."""
    assert aix.pin(world.a, P) == 0
    with intercepted(refuse("madvise", "fallocate", number=number)):
        assert aix.pin(world.a, 4 * P) == found
    assert (world.short(world.a, 4), world.held) == ([1, 0, 0, 0], 1)
    assert aix.pin(world.a, 4 * P) == 0
    assert aix.unpin(world.a, 4 * P) == 0
    assert aix.unpin(world.a, P) == 0


def test_what_pin_does_not_take_xmempin_takes(world: World) -> None:
    """Source: aix pin: for system space only; xmempin is for either."""
    assert aix.pin(world.u, P) == aix.EINVAL
    for start, flag in ((world.u, aix.USER_ADSPACE), (world.a, aix.SYS_ADSPACE)):
        dp = world.attached(start, P, flag)
        assert aix.xmempin(start, P, dp) == 0
        assert world.short(start) == [1]
        assert aix.xmemunpin(start, P, dp) == 0


# xlate_pin ----------------------------------------------------------------------------------------


def test_the_parameters_of_xlate_pin_are_c_s(world: World) -> None:
    """Source: aix xlate_pin, syntax: a descriptor, an address, and two ints."""
    dp = world.attached(world.u, P)
    for start, count, rw in (
        (-1, P, aix.B_READ),
        (1 << 64, P, aix.B_READ),
        (world.u, 1 << 31, aix.B_READ),
        (world.u, P, 1 << 31),
    ):
        with pytest.raises(OverflowError):
            aix.xlate_pin(dp, start, count, rw)
    with pytest.raises(TypeError):
        aix.xlate_pin(world.u, world.u, P, aix.B_READ)  # type: ignore[arg-type]
    assert world.held == 0


def test_a_list_that_is_there_is_the_one_that_is_filled(world: World) -> None:
    """Source: aix xlate_pin: of a descriptor that is XMEM_XLATE the structures are there."""
    dp = world.attached(world.u, 4 * P)
    assert aix.xlate_create(dp, world.u, 4 * P, aix.XLATE_ALLOC) == aix.XMEM_SUCC
    assert dp.aspace_id == aix.XMEM_XLATE
    listed = dp.xlate
    assert listed is not None
    assert aix.xlate_pin(dp, world.u + P, 2 * P, aix.B_READ) == 0
    assert dp.xlate is listed
    assert listed.valid.tolist() == [False, True, True, False]
    assert aix.xlate_unpin(dp, world.u + P, 2 * P) == 0
    assert dp.xlate is None


@pytest.fixture
def segment() -> Iterator[int]:
    """Where two pages of a segment of System V shared memory are attached."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    libc.shmdt.argtypes = [ctypes.c_void_p]
    number = libc.shmget(0, 2 * P, 0o600)  # IPC_PRIVATE
    if number < 0:
        pytest.skip(f"no shared memory: {os.strerror(ctypes.get_errno())}")
    start = libc.shmat(number, None, 0)
    assert libc.shmctl(number, 0, None) == 0  # IPC_RMID: it goes when it is detached
    yield start
    assert libc.shmdt(start) == 0


def test_what_shmat_has_attached_is_pinned(world: World, segment: int) -> None:
    """Source: aix xlate_pin: it supports buffers of mmap and of shmat."""
    dp = world.attached(segment, 2 * P)
    assert aix.xlate_pin(dp, segment, 2 * P, aix.B_READ) == 0
    assert world.short(segment, 2) == [1, 1]
    assert aix.xmemdma(dp, segment + P, 0) == int(dp.xlate.addresses[1])  # type: ignore[union-attr]
    assert aix.xlate_unpin(dp, segment, 2 * P) == 0
    assert world.held == 0


def test_a_buffer_of_bytes_is_pinned_by_the_page(world: World) -> None:
    """Source: aix xlate_pin: all pages of a buffer that begins and ends anywhere."""
    dp = world.attached(world.u, 8 * P)
    assert aix.xlate_pin(dp, world.u + P - 1, P + 2, aix.B_WRITE) == 0
    assert world.short(world.u, 4) == [1, 1, 1, 0]
    assert dp.xlate is not None
    assert len(dp.xlate.addresses) == 3
    assert aix.xlate_unpin(dp, world.u + P - 1, P + 2) == 0
