"""Memory that somebody else's file or memfd holds: its length, its seals, its kind."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, HostError, NotSupported
from pinfold.host import abi

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


def test_a_device_write_past_the_last_byte_of_a_file_is_dropped(
    tmp_path: Path, book_bus: pf.Iommu
) -> None:
    """As a write through a mapping is: to fill a page must not make the file longer."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * (PAGE + 10))
    with (
        book_bus.initiator(1) as bti,
        pf.Vmo.from_file(path, writable=True) as vmo,
        bti.pin(vmo, perms=READ | WRITE) as pmt,
    ):
        first, last = (int(address) for address in pmt.addrs)
        master = bti.master()
        master.write(last + 5, b"0123456789")
        master.write(last + 10, b"beyond")
        master.copy(last + 64, first, 64)
        assert master.read(last, 16) == b"a" * 5 + b"01234" + bytes(6)
    assert path.read_bytes() == b"a" * (PAGE + 5) + b"01234"


@pytest.mark.parametrize("left", [0, 10, PAGE, PAGE + 10])
def test_a_file_that_was_cut_is_never_made_longer(
    tmp_path: Path, book_bus: pf.Iommu, left: int
) -> None:
    """Whatever would write beyond its new end is an error, on every way there."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * 3 * PAGE)
    with (
        book_bus.initiator(1) as bti,
        pf.Vmo.from_file(path, writable=True) as vmo,
        pf.Vmo(PAGE) as other,
        bti.pin(other, perms=READ) as source,
        bti.pin(vmo, perms=READ | WRITE) as pmt,
    ):
        os.truncate(path, left)
        at, master = int(pmt.addrs[2]), bti.master()
        acts: dict[str, Callable[[], object]] = {
            "device write": lambda: master.write(at, b"x"),
            "device copy": lambda: master.copy(at, int(source.addrs[0]), 8),
            "write": lambda: vmo.write(b"x", 2 * PAGE),
            "commit": vmo.commit,
            "pin": lambda: bti.pin(vmo, perms=WRITE),
        }
        for name, act in acts.items():
            with pytest.raises(HostError) as caught:
                act()
            assert (name, caught.value.errno) == (name, errno.EIO)
            assert path.stat().st_size == left, name
        assert vmo.pin_count(2 * PAGE) == 1
    assert path.read_bytes() == b"a" * left


def test_huge_pages_are_refused_by_name() -> None:
    """None may be left when one is touched, and that ends the process: SIGBUS."""
    try:
        fd = os.memfd_create("huge", os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"this kernel has no huge pages: {error}")
    size = os.fstat(fd).st_blksize
    os.ftruncate(fd, size)
    with pytest.raises(NotSupported) as caught:
        pf.Vmo.from_fd(fd)
    assert (caught.value.asked, caught.value.limit) == (size, PAGE)
    os.close(fd)


@pytest.mark.parametrize("seal", [abi.F_SEAL_WRITE, abi.F_SEAL_FUTURE_WRITE])
def test_a_memfd_sealed_against_writing_is_read_only(book_bus: pf.Iommu, seal: int) -> None:
    """Source: fcntl(2). The descriptor is open for writing, and yet nothing can be written."""
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"sealed" + bytes(2 * PAGE - 6))
    fcntl.fcntl(fd, abi.F_ADD_SEALS, seal)
    try:
        mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ).close()
    except PermissionError:
        os.close(fd)
        pytest.skip("kernels before 6.7 map what is sealed against writing to nobody")
    with book_bus.initiator(1) as bti, pf.Vmo.from_fd(fd) as vmo:
        assert R.WRITE not in vmo.rights
        assert R.READ | R.MAP in vmo.rights
        view = vmo.view()
        assert view.readonly
        assert bytes(view[:6]) == vmo.read(0, 6) == b"sealed"
        with bti.pin(vmo, perms=READ) as pmt:
            assert bti.master().read(int(pmt.addrs[0]), 6) == b"sealed"
        with pytest.raises(AccessDenied) as caught:
            bti.pin(vmo, perms=WRITE)
        assert caught.value.missing == R.WRITE
        with pytest.raises(AccessDenied):
            vmo.write(b"x")
        del view
    os.close(fd)
