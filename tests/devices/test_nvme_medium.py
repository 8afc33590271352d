"""What the software disk keeps its blocks on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.nvme import FileMedium, MemoryMedium, Nvme
from pinfold.errors import InvalidArgs
from tests.devices import nvme_host as host_of
from tests.devices.nvme_host import CC, CONFIGURATION, CSTS, DATA, FATAL, hosting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pinfold.devices.nvme import Medium

BLOCK = 512
SIZE = 64 * BLOCK


def in_memory(folder: Path) -> Medium:
    del folder
    return MemoryMedium(SIZE)


def by_path(folder: Path) -> Medium:
    path = folder / "disk"
    path.write_bytes(bytes(SIZE))
    return FileMedium(path)


@pytest.mark.parametrize("make", [in_memory, by_path])
def test_a_medium_keeps_what_is_written(tmp_path: Path, make: Callable[[Path], Medium]) -> None:
    medium = make(tmp_path)
    assert medium.size == SIZE
    medium.write(3, b"data")
    medium.write(SIZE - 1, b"z")
    medium.flush()
    assert medium.read(2, 6) == b"\0data\0"
    assert medium.read(SIZE - 2, 2) == b"\0z"
    if isinstance(medium, FileMedium):
        medium.close()
        assert (tmp_path / "disk").read_bytes()[:7] == b"\0\0\0data"
        assert (tmp_path / "disk").stat().st_size == SIZE


def test_a_file_that_is_open_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        with FileMedium(file) as medium:
            medium.write(0, b"x")
            assert file.tell() == 0
        assert file.read(1) == b"x"


def test_what_is_opened_by_path_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    before = len(os.listdir("/proc/self/fd"))
    medium = FileMedium(str(path))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    medium.close()
    medium.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        medium.read(0, 1)


def test_files_that_are_no_medium(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with pytest.raises(FileNotFoundError):
        FileMedium(path)
    path.touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgs, match="empty"):
        FileMedium(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_was_cut_is_a_media_error(device_bti: pf.Bti, tmp_path: Path) -> None:
    """Somebody else's truncate: what is beyond is lost, and the disk says so."""
    path = tmp_path / "disk"
    path.write_bytes(b"a" * SIZE)
    with FileMedium(path) as medium:
        nvme = Nvme(device_bti.master(), medium)
        with hosting(nvme, device_bti) as host:
            host.start()
            os.truncate(path, 3 * BLOCK + 7)
            assert host.io(host_of.READ, prp1=host.at(DATA), d10=2).status == 0
            done = host.io(host_of.READ, prp1=host.at(DATA), d10=3)
            assert (done.status, done.retry) == (0x281, True)


def test_a_file_that_cannot_be_written_is_a_write_fault(device_bti: pf.Bti, tmp_path: Path) -> None:
    """It is open for reading only. A shutdown that cannot flush is no shutdown."""
    path = tmp_path / "disk"
    path.write_bytes(b"a" * SIZE)
    with path.open("rb") as file, FileMedium(file) as medium:
        nvme = Nvme(device_bti.master(), medium)
        with hosting(nvme, device_bti) as host:
            host.start()
            assert host.io(host_of.READ, prp1=host.at(DATA)).status == 0
            assert host.io(host_of.WRITE, prp1=host.at(DATA)).status == 0x280
            assert host.io(host_of.WRITE_ZEROES).status == 0x280
            medium.close()
            assert host.io(host_of.FLUSH).status == 0x280
            nvme.write32(CC, CONFIGURATION | 1 << 14)
            assert nvme.read32(CSTS) & FATAL
