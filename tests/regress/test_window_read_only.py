"""A device window over a file that may only be read gave handles with WRITE.

A device could be granted write access to it. The write then failed in the middle of an access, or
the pin that was asked for failed when the memory was mapped, long after the right was given.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def window() -> Iterator[pf.Vmo]:
    """A page of device memory behind a descriptor that is for reading."""
    fd = os.memfd_create("rom", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    os.pwrite(fd, b"firmware", 0)
    reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with (
        pf.Resource(DEVICE, PAGE, fd=reading) as resource,
        pf.Vmo.physical(resource, DEVICE, PAGE) as made,
    ):
        yield made
    os.close(reading)
    os.close(fd)


def test_the_handle_has_no_write(window: pf.Vmo) -> None:
    """As Vmo.from_fd has it."""
    assert not window.rights & pf.Right.WRITE
    assert window.rights & pf.Right.READ


def test_it_can_be_pinned_for_reading_and_for_nothing_else(
    window: pf.Vmo, book_bus: pf.Iommu
) -> None:
    with book_bus.initiator(1) as bti:
        with bti.pin(window, perms=READ) as pmt:
            assert bti.master().read(int(pmt.addrs[0]), 8) == b"firmware"
        with pytest.raises(AccessDenied):
            bti.pin(window, perms=READ | WRITE)


def test_it_can_be_mapped_for_reading_and_for_nothing_else(
    window: pf.Vmo, process: pf.Process
) -> None:
    readable = pf.VmOption.PERM_READ
    with process.root.map(window, readable) as mapping:
        view = mapping.view(0, 8)
        assert bytes(view) == b"firmware"
        view.release()
    with pytest.raises(AccessDenied):
        process.root.map(window, readable | pf.VmOption.PERM_WRITE)
