"""A descriptor was adopted with dup(2), which shares the caller's position and O_APPEND with it.

Looking for data (lseek) moved the position under the caller's feet: its next write went over bytes
in the middle of its own file. And of a descriptor for appending every write, a device's too, went
to the end of the file, whatever its offset: the file grew, and the bytes asked for did not change.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000
RW = pf.Perm.READ | pf.Perm.WRITE

pytestmark = pytest.mark.usefixtures("process")

LOOKS: dict[str, Callable[[pf.Vmo], object]] = {
    "statistics": lambda vmo: vmo.statistics(),
    "committed_ranges": lambda vmo: vmo.committed_ranges(),
    "snapshot": lambda vmo: vmo.child(pf.VmoChild.SNAPSHOT, 0, vmo.size).close(),
    "zero a part": lambda vmo: vmo.zero(10, 20),
    "zero": lambda vmo: vmo.zero(),
    "commit": lambda vmo: vmo.commit(),
    "read": lambda vmo: vmo.read(),
    "write": lambda vmo: vmo.write(b"x", 5 * PAGE),
}


@pytest.fixture
def memory() -> Iterator[int]:
    """A memfd of the caller's, with data in the middle."""
    fd = os.memfd_create("outside", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8 * PAGE)
    os.pwrite(fd, b"data", 5 * PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("look", LOOKS)
def test_the_callers_position_stays(memory: int, look: str) -> None:
    """Source: dup(2): the copies share their offset. open(2): a new open file has its own."""
    os.lseek(memory, 100, os.SEEK_SET)
    with pf.Vmo.from_fd(memory) as vmo:
        LOOKS[look](vmo)
        assert os.lseek(memory, 0, os.SEEK_CUR) == 100


def test_the_position_stays_behind_a_device_window(memory: int) -> None:
    """Source: as above, for Resource(fd=...)."""
    os.lseek(memory, 100, os.SEEK_SET)
    with (
        pf.Resource(DEVICE, 8 * PAGE, fd=memory) as resource,
        pf.Vmo.physical(resource, DEVICE, 4 * PAGE) as vmo,
        pf.Vmo.physical(resource, DEVICE + 4 * PAGE, 4 * PAGE) as other,
    ):
        vmo.committed_ranges()
        other.committed_ranges()
        vmo.statistics()
        assert os.lseek(memory, 0, os.SEEK_CUR) == 100


def test_a_caller_that_goes_on_writing_its_file_loses_nothing(tmp_path: Path) -> None:
    """What could have happened: the new number of the header went to the end of the file."""
    path = tmp_path / "log"
    with path.open("w+b", buffering=0) as file:
        file.write(b"HDR-000." + b"A" * 2 * PAGE)
        file.seek(4)
        with pf.Vmo.from_fd(file.fileno()) as vmo:
            vmo.statistics()
            vmo.committed_ranges()
            file.write(b"001")
    assert path.read_bytes() == b"HDR-001." + b"A" * 2 * PAGE


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A file of two pages, open for appending."""
    path = tmp_path / "appended"
    path.write_bytes(b"a" * 2 * PAGE)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    yield fd, path
    os.close(fd)


def test_a_write_through_an_appending_descriptor_goes_where_it_was_meant(
    appending: tuple[int, Path],
) -> None:
    """Source: pwrite(2), BUGS: with O_APPEND Linux writes at the end, whatever the offset."""
    fd, path = appending
    with pf.Vmo.from_fd(fd) as vmo:
        assert vmo.write(b"HELLO", 3) == 5
        vmo.zero(PAGE, 4)
    assert path.read_bytes() == b"aaaHELLO" + b"a" * (PAGE - 8) + bytes(4) + b"a" * (PAGE - 4)


def test_a_device_write_through_an_appending_descriptor_goes_where_it_was_meant(
    appending: tuple[int, Path], book_bus: pf.Iommu
) -> None:
    fd, path = appending
    with (
        book_bus.initiator(1) as bti,
        pf.Vmo.from_fd(fd) as vmo,
        bti.pin(vmo, perms=RW) as pmt,
    ):
        master = bti.master()
        master.write(int(pmt.addrs[1]), b"DEVICE")
        assert master.read(int(pmt.addrs[1]), 8) == b"DEVICEaa"
    assert path.read_bytes() == b"a" * PAGE + b"DEVICE" + b"a" * (PAGE - 6)


def test_a_device_window_over_an_appending_descriptor_does_not_append(
    appending: tuple[int, Path], book_bus: pf.Iommu
) -> None:
    fd, path = appending
    with (
        book_bus.initiator(1) as bti,
        pf.Resource(DEVICE, 2 * PAGE, fd=fd) as resource,
        pf.Vmo.physical(resource, DEVICE, 2 * PAGE) as vmo,
        bti.pin(vmo, perms=RW) as pmt,
    ):
        bti.master().write(int(pmt.addrs[1]), b"DEVICE")
    assert path.read_bytes() == b"a" * PAGE + b"DEVICE" + b"a" * (PAGE - 6)
