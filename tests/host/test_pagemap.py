"""Page frames: real ones for those who may see them, an error for everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pinfold.errors import NotFound
from pinfold.host import abi, calls, mm, pagemap, probe
from pinfold.testing import FailNth, HostCalls
from pinfold.units import PAGE_SIZE, HostVa
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

PAGES = 64
SIZE = PAGES * PAGE_SIZE

sees_frames = pytest.mark.skipif(
    not probe.may_see_frames(), reason="page frame numbers take CAP_SYS_ADMIN"
)


@pytest.fixture
def memory() -> Iterator[HostVa]:
    """Shared memory, mapped twice as long as its file is committed."""
    fd = mm.create_memfd("frames", SIZE)
    address = mm.map_shared(fd, 0, SIZE, abi.PROT_READ | abi.PROT_WRITE)
    calls.close(fd)
    yield address
    mm.unmap(address, SIZE)


@sees_frames
def test_each_page_has_a_frame_of_its_own(memory: HostVa) -> None:
    """Source: pagemap.rst. Never address 0, always whole pages."""
    calls.memset(memory, 1, SIZE)
    frames = pagemap.frames(memory, SIZE)
    assert frames.dtype == np.uint64
    assert len(np.unique(frames)) == PAGES
    assert frames.all()
    assert not (frames % np.uint64(PAGE_SIZE)).any()


@sees_frames
def test_two_mappings_of_a_page_show_one_frame() -> None:
    fd = mm.create_memfd("twice", SIZE)
    one, two = (mm.map_shared(fd, 0, SIZE, 3) for _ in range(2))
    calls.close(fd)
    calls.memset(one, 1, SIZE)
    mm.populate_read(two, SIZE)
    assert (pagemap.frames(one, SIZE) == pagemap.frames(two, SIZE)).all()
    part = pagemap.frames(HostVa(two + 3 * PAGE_SIZE), 2 * PAGE_SIZE)
    assert (part == pagemap.frames(one, SIZE)[3:5]).all()
    for address in (one, two):
        mm.unmap(address, SIZE)


@sees_frames
def test_a_page_that_is_not_there_is_named(memory: HostVa) -> None:
    calls.memset(memory, 1, 3 * PAGE_SIZE)
    with pytest.raises(NotFound) as caught:
        pagemap.frames(memory, SIZE)
    assert caught.value.asked == memory + 3 * PAGE_SIZE


def test_the_present_bit_is_set_where_memory_was_touched(memory: HostVa) -> None:
    """Source: pagemap.rst, bit 63. Needs no privilege."""
    calls.memset(HostVa(memory + PAGE_SIZE), 1, 1)
    words = pagemap.entries(memory, 3 * PAGE_SIZE)
    assert [(int(word) & abi.PM_PRESENT) != 0 for word in words] == [False, True, False]
    assert not any(int(word) & abi.PM_SWAPPED for word in words)


def test_addresses_above_those_of_processes_have_no_entries() -> None:
    with pytest.raises(NotFound):
        pagemap.entries(HostVa(1 << 63), PAGE_SIZE)


@pytest.mark.parametrize("ask", [pagemap.entries, pagemap.frames])
def test_no_pages_have_no_entries_and_no_frames(
    ask: Callable[[HostVa, int], NDArray[np.uint64]], memory: HostVa
) -> None:
    """Nor is the kernel asked, to which the question would need privileges."""
    with HostCalls() as seen:
        found = ask(memory, 0)
    assert found.dtype == np.uint64
    assert (len(found), seen.names) == (0, [])


def test_a_hidden_frame_is_an_error_and_not_address_0() -> None:
    """Without CAP_SYS_ADMIN the frame bits read as 0 with the present bit set."""
    found = run(
        """
        give_up_privileges()
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a program of nobody's own is
        start = area(4)
        calls.memset(start, 1, 4 * PAGE_SIZE)
        words = pagemap.entries(start, 4 * PAGE_SIZE)
        try:
            pagemap.frames(start, 4 * PAGE_SIZE)
        except AccessDenied as error:
            present = all(int(word) & abi.PM_PRESENT for word in words)
            print(json.dumps([present, int(max(words & abi.PM_PFN_MASK)), str(error)]))
        """
    )
    assert found[:2] == [True, 0]
    assert "CAP_SYS_ADMIN" in found[2]


@pytest.mark.skipif(not probe.may_see_frames(), reason="it takes privileges to give them up")
def test_a_process_that_gave_up_privileges_may_not_open_its_pagemap() -> None:
    """Source: proc(5): after setuid a process is not dumpable; its files in /proc are root's."""
    found = run(
        """
        give_up_privileges()
        try:
            pagemap.entries(area(1), PAGE_SIZE)
        except AccessDenied as error:
            print(json.dumps([type(error.__cause__).__name__, probe.may_see_frames()]))
        """
    )
    assert found == ["PermissionError", False]


def test_a_refused_read_closes_the_file(memory: HostVa) -> None:
    """open, then the read fails, then close."""
    with FailNth(2) as seen, pytest.raises(OSError, match="Cannot allocate"):
        pagemap.entries(memory, SIZE)
    assert seen.names == ["open", "pread", "close"]
