"""Eventfds and the kernel's log, as interrupts and faults use them."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from pinfold.host import eventfd, kmsg
from pinfold.host.kmsg import KernelLog
from pinfold.testing.faults import FailNth

if TYPE_CHECKING:
    from pathlib import Path


def test_an_eventfd_counts_until_it_is_taken() -> None:
    fd = eventfd.create()
    try:
        assert eventfd.take(fd) == 0
        assert not eventfd.wait(fd, 0)
        os.eventfd_write(fd, 2)
        os.eventfd_write(fd, 3)
        assert eventfd.wait(fd, None)
        assert eventfd.take(fd) == 5
        assert eventfd.take(fd) == 0
    finally:
        os.close(fd)


def test_a_wait_ends_no_earlier_than_asked() -> None:
    """A timeout in fractions of a millisecond is rounded up: nobody spins on 0."""
    fd = eventfd.create()
    try:
        begun = time.monotonic()
        assert not eventfd.wait(fd, 0.0101)
        assert time.monotonic() - begun >= 0.0101
    finally:
        os.close(fd)


class Records:
    """A log of the test's own: each read gives one record, as /dev/kmsg does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "kmsg"
        os.mkfifo(self.path)
        monkeypatch.setattr(kmsg, "PATH", str(self.path))
        monkeypatch.setattr(os, "lseek", lambda fd, offset, whence: 0)  # a pipe cannot


def test_each_record_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix and what follows in further lines are not the message."""
    records = Records(tmp_path, monkeypatch)
    log = KernelLog()
    writer = os.open(records.path, os.O_WRONLY)
    assert list(log.lines()) == []
    os.write(writer, b"3,577,61543,-;DMAR: a; b\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:05.0\n")
    assert list(log.lines()) == ["DMAR: a; b"]
    assert list(log.lines()) == []
    with FailNth(1, errno.EPIPE):  # overwritten before it was read: go on
        os.write(writer, b"6,578,61544,-;later\n")
        assert list(log.lines()) == ["later"]
    with FailNth(1, errno.EIO), pytest.raises(OSError, match="Input/output"):
        list(log.lines())
    log.close()
    log.close()
    assert list(log.lines()) == []
    os.close(writer)


def test_a_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kmsg, "PATH", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        KernelLog()
