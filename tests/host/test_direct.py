"""Direct I/O: what a file asks, and a descriptor that takes it."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from pinfold.host import direct
from pinfold.testing import FailNth, HostCalls
from pinfold.units import PAGE_SIZE, is_power_of_two

if TYPE_CHECKING:
    from pathlib import Path


def opened(path: Path) -> int:
    path.write_bytes(b"direct" + bytes(2 * PAGE_SIZE))
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def test_what_is_asked_is_what_the_kernel_then_accepts(tmp_path: Path) -> None:
    """Source: statx(2), STATX_DIOALIGN. Where it says so, a read so aligned is not refused."""
    fd = opened(tmp_path / "file")
    asked = direct.alignment(fd)
    past = direct.reopened(fd, os.O_RDONLY)
    if asked is None or not all(asked):
        asked = PAGE_SIZE, PAGE_SIZE
    memory, offset = asked
    assert is_power_of_two(memory)
    assert is_power_of_two(offset)
    if past is None:
        os.close(fd)
        pytest.skip(f"{tmp_path} is on a file system without direct I/O")
    with mmap.mmap(-1, 2 * PAGE_SIZE) as pages, memoryview(pages) as view:
        start = memory if memory < PAGE_SIZE else 0
        with view[start : start + offset] as buffer:
            assert os.preadv(past, [buffer], 0) == offset
            assert bytes(buffer[:6]) == b"direct"
    os.close(past)
    os.close(fd)


def test_reopened_is_the_same_file_and_another_descriptor(tmp_path: Path) -> None:
    """One that has no name any more, too."""
    path = tmp_path / "file"
    fd = opened(path)
    path.unlink()
    past = direct.reopened(fd, os.O_RDONLY)
    if past is None:
        os.close(fd)
        pytest.skip(f"{tmp_path} is on a file system without direct I/O")
    assert past != fd
    assert os.path.sameopenfile(past, fd)
    assert not os.get_inheritable(past)
    os.close(past)
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM])
def test_a_file_system_may_have_no_direct_io(tmp_path: Path, code: int) -> None:
    """Source: open(2): EINVAL is how O_DIRECT is refused."""
    fd = opened(tmp_path / "file")
    with FailNth(1, code) as plan:
        assert direct.reopened(fd, os.O_RDONLY) is None
    assert plan.names == ["open"]
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_other_refusals_are_passed_on(tmp_path: Path, code: int) -> None:
    """They say nothing about direct I/O."""
    fd = opened(tmp_path / "file")
    with FailNth(1, code), pytest.raises(OSError, match=os.strerror(code)):
        direct.reopened(fd, os.O_RDONLY)
    os.close(fd)


def test_a_closed_descriptor_is_refused() -> None:
    """The kernel's EBADF is passed on."""
    fd = os.memfd_create("closed")
    os.close(fd)
    for act in (direct.alignment, direct.set_blocking):
        with pytest.raises(OSError, match="Bad file descriptor"):
            act(fd)


def test_a_descriptor_is_made_to_wait(tmp_path: Path) -> None:
    """Source: fcntl(2). With O_NONBLOCK io_uring says EAGAIN on some file systems."""
    fd = opened(tmp_path / "file")
    assert not os.get_blocking(fd)
    with HostCalls() as plan:
        direct.set_blocking(fd)
    assert os.get_blocking(fd)
    assert plan.names == ["fcntl"]
    os.close(fd)
