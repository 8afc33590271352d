"""Memory objects: every kind, every call, against real memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadHandle,
    BadState,
    HostError,
    InvalidArgs,
    NoMemory,
    NotSupported,
    OutOfRange,
    Unavailable,
    WrongType,
)
from pinfold.objects.memory_object import MAX_SIZE

if TYPE_CHECKING:
    from pathlib import Path

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
    with pytest.raises(WrongType):
        vmo.write("text")  # type: ignore[arg-type]


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


# Views ------------------------------------------------------------------------------------------


def test_a_view_is_the_memory_itself(vmo: pf.Vmo) -> None:
    """Written through one, read through the other."""
    view = vmo.view(PAGE, 16)
    view[:5] = b"hello"
    assert vmo.read(PAGE, 5) == b"hello"
    vmo.write(b"J", PAGE)
    assert bytes(view[:5]) == b"Jello"
    array = vmo.array("<u2", PAGE, 16)
    assert array.shape == (8,)
    assert array[0] == int.from_bytes(b"Je", "little")


def test_a_view_without_write_is_read_only(vmo: pf.Vmo) -> None:
    """The rights of the handle are those of the view."""
    with vmo.duplicate(R.READ | R.MAP) as less:
        view = less.view()
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        assert not less.array().flags.writeable


def test_a_view_keeps_the_memory_after_every_handle_is_closed(kernel: pf.Kernel) -> None:
    """And the memory goes with the last slice."""
    vmo = pf.Vmo(PAGE)
    vmo.write(b"kept")
    part = vmo.view()[1:3]
    before = kernel.statistics().objects
    vmo.close()
    assert bytes(part) == b"ep"
    assert kernel.statistics().objects == before
    del part
    assert kernel.statistics().objects == before - 1


def test_memory_cannot_shrink_under_a_view() -> None:
    """The process would die at the next touch; instead the error says where the view was made."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        view = vmo.view(2 * PAGE, PAGE)
        with pytest.raises(BadState) as caught:
            vmo.resize(2 * PAGE)
        assert __file__ in str(caught.value.holder)
        vmo.resize(3 * PAGE)
        vmo.resize(64 * PAGE)
        assert view[0] == 0
        del view
        vmo.resize(0)


def test_views_that_cannot_be(vmo: pf.Vmo) -> None:
    """Empty, past the end, of a closed handle."""
    with pytest.raises(InvalidArgs):
        vmo.view(0, 0)
    with pytest.raises(OutOfRange):
        vmo.view(PAGE, 4 * PAGE)
    other = vmo.duplicate()
    other.close()
    with pytest.raises(BadHandle):
        other.view()


# Other kinds ------------------------------------------------------------------------------------


def test_contiguous_memory_is_committed_and_in_one_run(any_bus: pf.Iommu) -> None:
    """Source: zx_vmo_create_contiguous."""
    alignment = 64 * PAGE
    with (
        any_bus.initiator(1) as bti,
        pf.Vmo.contiguous(bti, 5 * PAGE, alignment=alignment) as vmo,
    ):
        assert vmo.statistics().committed == 5 * PAGE
        assert vmo.statistics().contiguous
        with bti.pin(vmo, perms=pf.Perm.READ) as pmt:
            assert np.diff(pmt.addrs).tolist() == [PAGE] * 4
            if any_bus.bus.name == "stub":
                assert pmt.addrs[0] % alignment == 0
        vmo.write(b"x" * 5 * PAGE)
        vmo.zero()
        assert vmo.statistics().committed == 5 * PAGE
        with pytest.raises(NotSupported):
            vmo.decommit()
        with pytest.raises(Unavailable):
            vmo.resize(PAGE)


@pytest.mark.parametrize(
    ("size", "alignment"), [(0, PAGE), (PAGE + 1, PAGE), (PAGE, 3 * PAGE), (PAGE, 1)]
)
def test_contiguous_arguments(bti: pf.Bti, size: int, alignment: int) -> None:
    """Source: zx_vmo_create_contiguous INVALID_ARGS."""
    with pytest.raises(InvalidArgs):
        pf.Vmo.contiguous(bti, size, alignment=alignment)


def test_contiguous_needs_map_on_the_bti(bti: pf.Bti) -> None:
    """Source: zx_vmo_create_contiguous ACCESS_DENIED."""
    with bti.duplicate(R.READ) as less, pytest.raises(AccessDenied):
        pf.Vmo.contiguous(less, PAGE)


def test_device_memory_is_shared_by_every_window(process: pf.Process) -> None:
    """Source: zx_vmo_create_physical. Two windows on the same addresses show the same bytes."""
    base = 0xFE00_0000
    with (
        pf.Resource(base, 4 * PAGE, name="bar") as resource,
        pf.Vmo.physical(resource, base, 4 * PAGE) as whole,
        pf.Vmo.physical(resource, base + 2 * PAGE, PAGE) as part,
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
    ):
        whole.view()[2 * PAGE : 2 * PAGE + 3] = b"reg"
        assert bytes(part.view()[:3]) == b"reg"
        with pytest.raises(NotSupported):
            part.read()
        with pytest.raises(NotSupported):
            part.commit()
        with bti.pin(part, perms=pf.Perm.READ, form=pf.AddrForm.CONTIGUOUS) as pmt:
            assert pmt.addrs.tolist() == [base + 2 * PAGE]
            assert bti.master().read(base + 2 * PAGE, 3) == b"reg"


def test_device_memory_outlives_the_resource_handle() -> None:
    """The window keeps what it shows; when the last is gone, so is the memory."""
    resource = pf.Resource(0xFE00_0000, PAGE)
    vmo = pf.Vmo.physical(resource, 0xFE00_0000, PAGE)
    resource.close()
    assert vmo.view()[0] == 0
    vmo.close()
    with pf.Resource(0xFE00_0000, PAGE) as again, pf.Vmo.physical(again, 0xFE00_0000, PAGE):
        pass


@pytest.mark.parametrize(
    ("address", "size", "error"),
    [
        (0xFE00_0000, 0, InvalidArgs),
        (0xFE00_0000, PAGE - 1, InvalidArgs),
        (0xFE00_0001, PAGE, OutOfRange),
        (0xFE00_0000, 5 * PAGE, OutOfRange),
        (0xFDFF_F000, PAGE, OutOfRange),
    ],
)
def test_device_memory_arguments(address: int, size: int, error: type[Exception]) -> None:
    """Source: zx_vmo_create_physical; the range is checked before the alignment of the address."""
    if address & (PAGE - 1):
        error = InvalidArgs
    with pf.Resource(0xFE00_0000, 4 * PAGE) as resource, pytest.raises(error):
        pf.Vmo.physical(resource, address, size)


def test_resources_of_another_kind_and_taken_ranges(bti: pf.Bti) -> None:
    """Source: zx_vmo_create_physical WRONG_TYPE."""
    with pf.Resource(0, PAGE, kind=5) as system, pytest.raises(WrongType):
        pf.Vmo.physical(system, 0, PAGE)
    with (
        pf.Resource(0xFE00_0000, 2 * PAGE) as one,
        pf.Resource(0xFE00_1000, 2 * PAGE) as two,
        pf.Vmo.physical(one, 0xFE00_0000, PAGE),
        pytest.raises(AlreadyExists),
    ):
        pf.Vmo.physical(two, 0xFE00_1000, PAGE)


def test_a_real_window(tmp_path: Path) -> None:
    """A resource over a descriptor: a BAR or /dev/mem in earnest, a file here."""
    path = tmp_path / "bar"
    path.write_bytes(b"-" * PAGE + b"window" + b"-" * (PAGE - 6))
    with path.open("r+b") as file:
        with (
            pf.Resource(0x8000_0000, 2 * PAGE, fd=file.fileno()) as resource,
            pf.Vmo.physical(resource, 0x8000_0000 + PAGE, PAGE) as vmo,
            pf.open_bus("sim") as bus,
            bus.initiator(1) as bti,
            bti.pin(vmo, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
        ):
            master = bti.master()
            assert master.read(int(pmt.addrs[0]), 6) == b"window"
            master.write(int(pmt.addrs[0]), b"WINDOW")
        with pf.Resource(0x8000_0000, 4 * PAGE, fd=file.fileno()) as long:
            with pytest.raises(OutOfRange) as caught:
                pf.Vmo.physical(long, 0x8000_0000, 4 * PAGE)
            assert caught.value.limit == 2 * PAGE
    assert path.read_bytes()[PAGE : PAGE + 6] == b"WINDOW"


def test_a_window_on_a_file_that_shrinks_is_an_error_and_not_a_signal(
    tmp_path: Path, bti: pf.Bti
) -> None:
    """A real window is safe to map only where nobody can cut what is behind it."""
    path = tmp_path / "bar"
    path.write_bytes(bytes(2 * PAGE))
    with (
        path.open("r+b") as file,
        pf.Resource(0x8000_0000, 2 * PAGE, fd=file.fileno()) as resource,
        pf.Vmo.physical(resource, 0x8000_0000, 2 * PAGE) as vmo,
        bti.pin(vmo, perms=pf.Perm.READ) as pmt,
    ):
        os.truncate(path, PAGE)
        with pytest.raises(HostError):
            bti.master().read(int(pmt.addrs[1]), 1)


def test_an_adopted_memfd_is_shared_and_sealed() -> None:
    """Memory that a device writes to must not be cut by whoever else holds the file."""
    fd = os.memfd_create("theirs", os.MFD_ALLOW_SEALING)
    os.write(fd, b"theirs")
    os.ftruncate(fd, 2 * PAGE)
    with pf.Vmo.from_fd(fd) as vmo:
        assert vmo.read(0, 6) == b"theirs"
        vmo.write(b"ours", 8)
        assert os.pread(fd, 4, 8) == b"ours"
        assert vmo.view()[0] == ord("t")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, PAGE)
    os.close(fd)


def test_a_descriptor_that_cannot_hold_memory() -> None:
    """Pipes have no pages, an empty file has none yet, a closed number is nothing."""
    reading, writing = os.pipe()
    with pytest.raises(NotSupported):
        pf.Vmo.from_fd(reading)
    os.close(reading)
    os.close(writing)
    with pytest.raises(HostError) as caught:
        pf.Vmo.from_fd(reading)
    assert caught.value.errno == 9
    fd = os.memfd_create("empty")
    with pytest.raises(InvalidArgs):
        pf.Vmo.from_fd(fd)
    os.close(fd)


def test_a_file_is_read_only_unless_asked(tmp_path: Path, bti: pf.Bti) -> None:
    """Its last page reads as zeros beyond the file, and cannot be written there."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * (PAGE + 10))
    with pf.Vmo.from_file(path) as vmo:
        assert vmo.size == 2 * PAGE
        assert vmo.read(PAGE, 16) == b"a" * 10 + bytes(6)
        assert R.WRITE not in vmo.rights
        with pytest.raises(AccessDenied):
            vmo.write(b"x")
        with pytest.raises(NotSupported):
            vmo.view()  # a file that others can cut
        with bti.pin(vmo, perms=pf.Perm.READ) as pmt:
            assert bti.master().read(int(pmt.addrs[1]), 12) == b"a" * 10 + bytes(2)
    with pf.Vmo.from_file(path, writable=True) as vmo:
        vmo.write(b"B", PAGE)
        with pytest.raises(OutOfRange) as caught:
            vmo.write(b"xx", PAGE + 9)
        assert caught.value.limit == PAGE + 10
        with bti.pin(vmo, perms=pf.Perm.WRITE) as pmt:
            bti.master().write(int(pmt.addrs[0]), b"D")
    assert path.read_bytes() == b"D" + b"a" * (PAGE - 1) + b"B" + b"a" * 9


def test_a_file_that_shrinks_is_an_error_and_not_a_signal(tmp_path: Path, bti: pf.Bti) -> None:
    """Through a mapping this would be SIGBUS; for a device as for a reader it is an EIO."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * 3 * PAGE)
    with pf.Vmo.from_file(path) as vmo, bti.pin(vmo, perms=pf.Perm.READ) as pmt:
        os.truncate(path, PAGE)
        with pytest.raises(HostError) as caught:
            vmo.read()
        assert caught.value.errno == 5
        with pytest.raises(HostError):
            bti.master().read(int(pmt.addrs[2]), 1)


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    """HostError carries the kernel's errno."""
    with pytest.raises(HostError, match="nowhere") as caught:
        pf.Vmo.from_file(tmp_path / "nowhere")
    assert caught.value.errno == 2
    assert isinstance(caught.value, OSError)
