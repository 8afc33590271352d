"""Huge pages, as the machine has set them aside, and files that are made of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pinfold.host import calls, mm, probe
from pinfold.testing import FailNth, HostCalls

FOLDER = Path("/sys/kernel/mm/hugepages")

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="this kernel has no huge pages")


def test_every_size_is_listed_with_its_counts() -> None:
    """Source: hugetlbpage.rst. Ascending, and the file is where root would set the number."""
    found = probe.huge_pages()
    assert {f"hugepages-{kind.size >> 10}kB" for kind in found} == set(os.listdir(FOLDER))
    assert [kind.size for kind in found] == sorted(kind.size for kind in found)
    for kind in found:
        folder = FOLDER / f"hugepages-{kind.size >> 10}kB"
        assert kind.count_file == str(folder / "nr_hugepages")
        assert kind.total == int((folder / "nr_hugepages").read_text())
        assert 0 <= kind.free <= kind.total


def test_a_kernel_without_them_has_none_and_another_refusal_is_raised() -> None:
    with FailNth(1, errno.ENOENT):
        assert probe.huge_pages() == []
    with FailNth(1, errno.EACCES), pytest.raises(PermissionError):
        probe.huge_pages()


def test_each_refused_read_closes_its_file() -> None:
    with HostCalls() as seen:
        probe.huge_pages()
    before = sorted(os.listdir("/proc/self/fd"))
    for n in range(2, len(seen.names) + 1):
        with FailNth(n, errno.EIO), pytest.raises(OSError, match="Input/output"):
            probe.huge_pages()
        assert sorted(os.listdir("/proc/self/fd")) == before, seen.names[n - 1]


def test_a_file_of_huge_pages_says_which_it_has() -> None:
    """Source: memfd_create(2). Whatever is free: making it takes none."""
    for kind in probe.huge_pages():
        fd = mm.create_memfd("huge", kind.size, huge=kind.size)
        assert os.fstat(fd).st_blksize == kind.size
        assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (kind.size, 0)
        calls.close(fd)


def test_a_size_that_the_machine_lacks_is_refused() -> None:
    lacking = 1 << 40
    with pytest.raises(OSError, match="No such device"):
        mm.create_memfd("huge", lacking, huge=lacking)


def test_more_than_there_is_cannot_be_allocated() -> None:
    """Source: fallocate(2). An error now, and no SIGBUS at a touch later."""
    kind = probe.huge_pages()[0]
    size = (kind.total + 1) * kind.size
    overcommit = FOLDER / f"hugepages-{kind.size >> 10}kB" / "nr_overcommit_hugepages"
    if int(overcommit.read_text()):
        pytest.skip("this machine makes huge pages when they are asked for")
    fd = mm.create_memfd("huge", size, huge=kind.size)
    with pytest.raises(OSError, match="No space") as caught:
        mm.allocate(fd, size)
    assert caught.value.errno == errno.ENOSPC
    calls.close(fd)


def test_an_allocated_file_is_all_there() -> None:
    """Of ordinary pages here, which every machine has."""
    fd = mm.create_memfd("ordinary", 1 << 20)
    mm.allocate(fd, 1 << 20)
    assert os.fstat(fd).st_blocks * 512 == 1 << 20
    calls.close(fd)
