"""Memory objects of anonymous memory: every call, against real memory."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    InvalidArgs,
    NoMemory,
    OutOfRange,
    Unavailable,
    WrongType,
)
from pinfold.objects.memory_object import MAX_SIZE

PAGE = pf.PAGE_SIZE
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


@pytest.mark.parametrize(
    ("size", "rounded"), [(0, 0), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (1 << 40, 1 << 40)]
)
def test_sizes_are_whole_pages_and_nothing_more(size: int, rounded: int) -> None:
    """Source: zx_vmo_create. Nothing is committed, whatever the size."""
    with pf.Vmo(size) as vmo:
        assert vmo.size == len(vmo) == rounded
        assert vmo.statistics().committed == 0


def test_sizes_that_cannot_be() -> None:
    """Source: zx_vmo_create OUT_OF_RANGE."""
    with pytest.raises(InvalidArgs):
        pf.Vmo(-1)
    with pytest.raises(OutOfRange) as caught:
        pf.Vmo(MAX_SIZE + 1)
    assert caught.value.limit == MAX_SIZE


def test_rights_of_a_fresh_handle() -> None:
    """Source: Zircon, RESIZE only where the object is resizable; never EXECUTE."""
    with pf.Vmo(PAGE) as fixed, pf.Vmo(PAGE, resizable=True) as loose:
        assert int(fixed.rights) == 0xD0EF
        assert int(loose.rights) == 0x40D0EF


def test_reading_an_absent_page_commits_nothing(vmo: pf.Vmo) -> None:
    """Source: zx_vmo_read. A read through a mapping would commit, so reads do not use one."""
    assert vmo.read() == bytes(4 * PAGE)
    assert vmo.committed_ranges() == []
    vmo.write(b"x", 2 * PAGE + 5)
    assert vmo.committed_ranges() == [(2 * PAGE, 3 * PAGE)]
    assert vmo.read(2 * PAGE, 8) == b"\0\0\0\0\0x\0\0"
    assert vmo.statistics().committed == PAGE


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 4 * PAGE + 1), (4 * PAGE, 1), (4 * PAGE + 1, 0), (1 << 64, 1)]
)
def test_reads_and_writes_past_the_end(vmo: pf.Vmo, offset: int, size: int) -> None:
    """Source: zx_vmo_read OUT_OF_RANGE, for an empty range beyond the end too."""
    if size < 1 << 20:
        with pytest.raises(OutOfRange) as caught:
            vmo.write(bytes(size), offset)
        assert caught.value.limit == 4 * PAGE
    with pytest.raises(OutOfRange):
        vmo.read(offset, size)
    assert vmo.read(4 * PAGE, 0) == b""


def test_numpy_integers_do_not_wrap(vmo: pf.Vmo, bti: pf.Bti) -> None:
    """np.int64 overflows without a word: past every check, if it were let in."""
    near: Any = np.int64(2**63 - PAGE)
    big: Any = np.int64(2 * PAGE)
    page: Any = np.uint64(PAGE)
    half: Any = 1.5
    for act in (vmo.read, vmo.commit, vmo.decommit, vmo.zero, vmo.view):
        with pytest.raises(OutOfRange):
            act(near, big)
    with pytest.raises(OutOfRange):
        bti.pin(vmo, near, big, perms=pf.Perm.READ)
    assert vmo.read(page, 2) == b"\0\0"
    for act in (vmo.read, vmo.commit, vmo.zero, vmo.view):
        with pytest.raises(TypeError):
            act(half)
    assert vmo.statistics().pinned == 0


def test_sizes_are_checked_before_they_are_made(vmo: pf.Vmo) -> None:
    """A read of an exabyte is out of range, not out of memory."""
    with pytest.raises(OutOfRange):
        vmo.read(0, 1 << 60)
    with pytest.raises(InvalidArgs):
        vmo.read(0, -1)


def test_bytes_come_from_anything_with_a_buffer(vmo: pf.Vmo) -> None:
    """numpy arrays, bytearrays, memoryviews; what has none, or is not contiguous, is told so."""
    vmo.write(np.arange(4, dtype="<u4"), 8)
    assert vmo.read(8, 8) == bytes([0, 0, 0, 0, 1, 0, 0, 0])
    target = np.zeros(4, dtype="<u4")
    assert vmo.read_into(target, 8) == 16
    assert target.tolist() == [0, 1, 2, 3]
    assert vmo.write(b"") == 0
    assert vmo.write(np.zeros((0, 3))) == 0
    with pytest.raises(InvalidArgs, match="next to each other"):
        vmo.write(np.zeros(8, dtype="u1")[::2])
    with pytest.raises(InvalidArgs, match="next to each other"):
        vmo.write(np.zeros((2, 3), order="F"))  # in one piece, but not in order
    with pytest.raises(WrongType):
        vmo.write("text")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("rights", "act"),
    [
        (R.WRITE, "read"),
        (R.READ, "write"),
        (R.READ, "commit"),
        (R.READ, "decommit"),
        (R.READ, "zero"),
        (R.READ, "resize"),
        (R.READ, "view"),
    ],
)
def test_each_call_needs_its_right(vmo: pf.Vmo, rights: pf.Right, act: str) -> None:
    """Source: the rights of each zx_vmo_ page."""
    arguments = {"write": (b"x",), "resize": (PAGE,)}.get(act, ())
    with vmo.duplicate(rights) as less, pytest.raises(AccessDenied) as caught:
        getattr(less, act)(*arguments)
    assert caught.value.missing


def test_commit_and_decommit(vmo: pf.Vmo) -> None:
    """Source: zx_vmo_op_range COMMIT (rounds out) and DECOMMIT (whole pages only)."""
    vmo.commit(PAGE + 1, 1)
    assert vmo.committed_ranges() == [(PAGE, 2 * PAGE)]
    vmo.commit()
    assert vmo.statistics().committed == 4 * PAGE
    vmo.write(b"x" * 4 * PAGE)
    vmo.decommit(PAGE, 2 * PAGE)
    assert vmo.committed_ranges() == [(0, PAGE), (3 * PAGE, 4 * PAGE)]
    assert vmo.read() == b"x" * PAGE + bytes(2 * PAGE) + b"x" * PAGE
    with pytest.raises(InvalidArgs):
        vmo.decommit(1, PAGE)
    with pytest.raises(OutOfRange):
        vmo.decommit(0, 5 * PAGE)
    vmo.decommit(4 * PAGE, 0)


def test_committing_more_than_the_host_has_is_refused_before_anything_dies() -> None:
    """Past its memory Linux ends a process; the error says what was asked and what there is."""
    with pf.Vmo(1 << 50) as vmo:
        with pytest.raises(NoMemory) as caught:
            vmo.commit()
        assert caught.value.asked == 1 << 50
        assert isinstance(caught.value.available, int)
        assert vmo.statistics().committed == 0


def test_zero_keeps_what_it_must(vmo: pf.Vmo) -> None:
    """Source: zx_vmo_op_range ZERO. Whole pages are given back, parts are written."""
    vmo.write(b"x" * 4 * PAGE)
    vmo.zero(PAGE - 3, 2 * PAGE)
    expected = b"x" * (PAGE - 3) + bytes(2 * PAGE) + b"x" * (PAGE + 3)
    assert vmo.read() == expected
    assert (PAGE, 2 * PAGE) not in vmo.committed_ranges()
    vmo.zero(5, 2)
    assert vmo.read(0, 8) == b"xxxxx\0\0x"


def test_zero_gives_no_memory_to_what_has_none(vmo: pf.Vmo, bti: pf.Bti) -> None:
    """Source: zx_vmo_op_range ZERO: what reads as zeros already is left as it is."""
    vmo.zero(5, 2)
    vmo.zero(PAGE - 1, 2 * PAGE)
    assert vmo.committed_ranges() == []
    with bti.pin(vmo, PAGE, PAGE, perms=pf.Perm.READ):
        vmo.zero()
        assert vmo.committed_ranges() == [(PAGE, 2 * PAGE)], "pinned memory stays"
    vmo.zero(PAGE + 1, PAGE)
    assert vmo.committed_ranges() == [(PAGE, 2 * PAGE)]
    vmo.zero(PAGE, PAGE)
    assert vmo.committed_ranges() == []


def test_resize(kernel: pf.Kernel) -> None:
    """Source: zx_vmo_set_size: rounded up, the tail is zeroed, new pages are zeros."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        vmo.write(b"x" * 4 * PAGE)
        vmo.resize(PAGE + 3)
        assert vmo.size == 2 * PAGE
        assert vmo.read(PAGE, 8) == b"xxx\0\0\0\0\0"
        vmo.resize(8 * PAGE)
        assert vmo.read(2 * PAGE) == bytes(6 * PAGE)
        with vmo.duplicate(R.WRITE | R.READ) as less, pytest.raises(AccessDenied) as caught:
            less.resize(0)
        assert caught.value.missing == R.RESIZE
        with pytest.raises(OutOfRange):
            vmo.resize(1 << 64)
    with pf.Vmo(PAGE) as fixed:
        with pytest.raises(Unavailable):
            fixed.resize(0)
        with pytest.raises(OutOfRange):  # the overflow is noticed first
            fixed.resize(1 << 64)


def test_nobody_else_can_cut_sized_memory(vmo: pf.Vmo) -> None:
    """Sealed: not even somebody who has the descriptor."""
    fd = vmo.object.pages.backing.fd
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 64 * PAGE)
