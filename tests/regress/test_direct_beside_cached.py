"""Writes past the page cache met writes through it in one page of a file, and bytes were lost.

Each request went by the alignment that the file system asks (512 bytes) and not by the page. The
cached write read the page, the direct one landed, and the page was written back with the old bytes:
every transfer reported success, and a later sync said EIO.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("process")
PAGE = pf.PAGE_SIZE
PAGES = 512
ROUNDS = 8


def emptied(path: Path) -> None:
    """A file of 0xEE that the page cache does not have."""
    path.write_bytes(b"\xee" * (PAGES * PAGE))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_neighbours_in_a_page_keep_their_bytes(tmp_path: Path) -> None:
    """One vectored write; its segments meet inside pages. Lost pages in most rounds before."""
    path = tmp_path / "file"
    want = (b"D" * 512 + b"B" * 488 + b"D" * (PAGE - 1000)) * PAGES
    for _ in range(ROUNDS):
        emptied(path)
        with (
            pf.open_bus("io_uring") as bus,
            bus.file(path, writable=True) as disk,
            pf.Vmo(2 * PAGE) as vmo,
            disk.pin(vmo, perms=pf.Perm.READ) as pmt,
        ):
            vmo.write(b"D" * PAGE + b"B" * PAGE)
            one, other = (int(address) for address in pmt.addrs)
            parts = [(one, 512), (other, 488), (one, PAGE - 1000)]
            assert disk.writev(parts * PAGES, at=0) == len(want)
            disk.sync()
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read() == want
