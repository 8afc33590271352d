"""Pins through a device window did not count for other objects over the same file.

Memory adopted with from_fd or from_file from a file that is also behind `Resource(fd=...)` could be
given away while a device was using it through the window: the device then wrote to an orphan page
that nobody saw, or read zeros in place of its data.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import BadState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000
RW = pf.Perm.READ | pf.Perm.WRITE

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture(params=["memfd", "file"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A file of the caller's of eight pages, each with its number in its first byte."""
    if request.param == "memfd":
        fd = os.memfd_create("outside", os.MFD_ALLOW_SEALING)
    else:
        fd = os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8 * PAGE)
    for page in range(8):
        os.pwrite(fd, bytes([page]), page * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture(params=[0, 3])
def skipped(request: pytest.FixtureRequest) -> int:
    """Pages of the file before the window."""
    found: int = request.param
    return found


@pytest.fixture
def window(memory: int, skipped: int) -> Iterator[pf.Vmo]:
    """Two pages of device memory: pages ``skipped`` + 1 and + 2 of the file."""
    with (
        pf.Resource(DEVICE, 4 * PAGE, fd=memory, fd_offset=skipped * PAGE) as resource,
        pf.Vmo.physical(resource, DEVICE + PAGE, 2 * PAGE) as made,
    ):
        yield made


@pytest.mark.parametrize("way", ["from_fd", "from_file"])
def test_what_a_device_uses_through_a_window_is_not_given_away(
    book_bus: pf.Iommu, memory: int, skipped: int, window: pf.Vmo, way: str
) -> None:
    """Source: zx_bti_pin: pinned pages keep their memory, by whatever name they are reached."""
    other = (
        pf.Vmo.from_fd(memory)
        if way == "from_fd"
        else pf.Vmo.from_file(f"/proc/self/fd/{memory}", writable=True)
    )
    with other, book_bus.initiator(1) as bti:
        master = bti.master()
        with bti.pin(window, PAGE, PAGE, perms=RW) as pmt:
            page, address = skipped + 2, int(pmt.addrs[0])
            assert master.read(address, 1) == bytes([page])
            with pytest.raises(BadState, match="a device may be using the page"):
                other.decommit(page * PAGE, PAGE)
            with pytest.raises(BadState):
                other.decommit()
            other.decommit((page - 1) * PAGE, PAGE)
            other.decommit((page + 1) * PAGE, PAGE)
            assert master.read(address, 1) == bytes([page])
            master.write(address, b"DMA")
            assert other.read(page * PAGE, 3) == b"DMA"
        other.decommit(page * PAGE, PAGE)


def test_zero_keeps_the_pages_of_a_window_in_place(
    book_bus: pf.Iommu, memory: int, skipped: int, window: pf.Vmo
) -> None:
    """The page reads as zeros, and it is still the page that the device writes to.

    Source: zx_vmo_op_range ZERO: pinned pages are cleared in place.
    """
    page = skipped + 1
    with (
        pf.Vmo.from_fd(memory) as other,
        book_bus.initiator(1) as bti,
        bti.pin(window, 0, PAGE, perms=RW) as pmt,
    ):
        master, address = bti.master(), int(pmt.addrs[0])
        shown = other.view(page * PAGE, PAGE) if other.object.pages.backing.sealed else None
        blocks = os.fstat(memory).st_blocks
        other.zero(page * PAGE, PAGE)
        assert os.fstat(memory).st_blocks == blocks
        assert master.read(address, 1) == bytes(1)
        master.write(address, b"DMA")
        assert os.pread(memory, 3, page * PAGE) == b"DMA"
        if shown is not None:
            assert bytes(shown[:3]) == b"DMA"
            shown.release()


def test_two_windows_over_one_file_know_of_each_other(book_bus: pf.Iommu, memory: int) -> None:
    """A pin through either counts, whatever the offsets at which they show the page."""
    with (
        pf.Resource(DEVICE, 4 * PAGE, fd=memory, fd_offset=PAGE) as first,
        pf.Resource(DEVICE + 4 * PAGE, 4 * PAGE, fd=memory, fd_offset=2 * PAGE) as second,
        pf.Vmo.physical(first, DEVICE, 4 * PAGE) as one,
        pf.Vmo.physical(second, DEVICE + 4 * PAGE, 4 * PAGE) as two,
        pf.Vmo.from_fd(memory) as other,
        book_bus.initiator(1) as bti,
    ):
        with bti.pin(one, 2 * PAGE, PAGE, perms=RW):  # page 3 of the file
            with bti.pin(two, PAGE, PAGE, perms=RW), pytest.raises(BadState) as caught:
                other.decommit(3 * PAGE, PAGE)
            assert caught.value.holder == "2 pin(s)"
            with pytest.raises(BadState) as caught:
                other.decommit(3 * PAGE, PAGE)
            assert caught.value.holder == "1 pin(s)"
        other.decommit(3 * PAGE, PAGE)
