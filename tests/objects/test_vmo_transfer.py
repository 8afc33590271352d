"""Moving pages from one memory object to another."""

from __future__ import annotations

import errno
import tracemalloc
from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    NotSupported,
    OutOfRange,
    PinfoldError,
    WrongType,
)
from pinfold.objects.vmo import VmoChild
from pinfold.testing import FailNth, HostCalls, check_books
from tests.user_memory import load

from .pages import PAGE, RW, device_memory, holes, numbered, numbers

C = VmoChild
R = pf.Right
READ = pf.Perm.READ
MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("process")


# What is moved ------------------------------------------------------------------------------------


def test_pages_are_here_and_no_longer_there() -> None:
    """Source: zx_vmo_transfer_data: the source reads as zeros, and has no memory there."""
    with numbered([1, 2, 3, 4]) as source, numbered([5, 6, 7, 8]) as target:
        target.transfer(source, offset=PAGE, size=2 * PAGE, source_offset=2 * PAGE)
        assert numbers(target) == [5, 3, 4, 8]
        assert numbers(source) == [1, 2, 0, 0]
        assert holes(source) == [2, 3]


def test_what_has_no_memory_takes_it_away_from_the_target() -> None:
    """A hole is moved as one."""
    with numbered([0, 2, 0]) as source, numbered([5, 6, 7]) as target:
        target.transfer(source, size=3 * PAGE)
        assert numbers(target) == [0, 2, 0]
        assert holes(target) == [0, 2]
        assert holes(source) == [0, 1, 2]


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("to", range(4))
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_moving_within_one_object(first: int, to: int, count: int) -> None:
    """Source: zx_vmo_transfer_data: taken out first and put in then, so that ranges may overlap."""
    wanted = [1, 0, 3, 4, 5, 6, 7]
    with numbered(wanted) as vmo:
        vmo.transfer(vmo, offset=to * PAGE, size=count * PAGE, source_offset=first * PAGE)
        if first != to:
            taken = wanted[first : first + count]
            wanted[first : first + count] = [0] * count
            wanted[to : to + count] = taken
        assert numbers(vmo) == wanted
        assert holes(vmo) == [at for at, value in enumerate(wanted) if not value]


@pytest.mark.parametrize(("first", "to"), [(0, 0), (0, 1), (1, 0), (0, 3)])
def test_moving_through_two_names_of_the_same_pages(first: int, to: int) -> None:
    """A reference is another object: the kernel takes the pages out and puts them in again."""
    wanted = [1, 2, 3, 4, 5]
    with numbered(wanted) as vmo, vmo.child(C.REFERENCE) as other:
        other.transfer(vmo, offset=to * PAGE, size=2 * PAGE, source_offset=first * PAGE)
        taken = wanted[first : first + 2]
        wanted[first : first + 2] = [0, 0]
        wanted[to : to + 2] = taken
        assert numbers(vmo) == numbers(other) == wanted


def test_offsets_of_slices_are_their_own() -> None:
    """On either side, and between two slices of one object that overlap."""
    with (
        numbered([1, 2, 3, 4, 5, 6]) as vmo,
        vmo.child(C.SLICE, PAGE, 3 * PAGE) as low,
        vmo.child(C.SLICE, 3 * PAGE, 3 * PAGE) as high,
        numbered([7, 8]) as other,
    ):
        high.transfer(low, offset=PAGE, size=PAGE, source_offset=0)
        assert numbers(vmo) == [1, 0, 3, 4, 2, 6]
        other.transfer(high, offset=PAGE, size=PAGE, source_offset=PAGE)
        assert numbers(other) == [7, 2]
        low.transfer(other, size=2 * PAGE)
        assert numbers(vmo) == [1, 7, 2, 4, 0, 6]
        low.transfer(high, offset=PAGE, size=2 * PAGE)
        assert numbers(vmo) == [1, 7, 4, 0, 0, 6], "they share a page"


def test_snapshots_give_and_take_and_their_relatives_see_nothing() -> None:
    """Source: zx_vmo_transfer_data: no copy-on-write relative is an obstacle."""
    with numbered([1, 2]) as vmo, vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as copy:
        copy.transfer(vmo, offset=PAGE, size=PAGE, source_offset=0)
        assert numbers(vmo) == [0, 2]
        assert numbers(copy) == [1, 1]
        with copy.child(C.SNAPSHOT, 0, 2 * PAGE) as inner:
            vmo.transfer(copy, size=2 * PAGE)
            assert numbers(vmo) == [1, 1]
            assert numbers(copy) == [0, 0]
            assert numbers(inner) == [1, 1]


def test_mappings_see_it_at_once(process: pf.Process) -> None:
    """On either side."""
    with (
        numbered([1, 2]) as source,
        numbered([3, 4]) as target,
        process.root.map(source, RW) as theirs,
        process.root.map(target, RW) as ours,
    ):
        target.transfer(source, size=PAGE)
        assert load(theirs.address) == b"\0"
        assert load(ours.address) == b"\1"


def test_pages_outside_the_range_may_be_pinned(bti: pf.Bti) -> None:
    """And keep their bytes and their addresses."""
    with (
        numbered([1, 2, 3]) as source,
        numbered([4, 5, 6]) as target,
        bti.pin(source, 0, PAGE, perms=READ) as before,
        bti.pin(target, 2 * PAGE, PAGE, perms=READ) as behind,
    ):
        target.transfer(source, size=2 * PAGE, source_offset=PAGE)
        assert numbers(target) == [2, 3, 6]
        assert bti.master().read(int(before.addrs[0]), 1) == b"\1"
        assert bti.master().read(int(behind.addrs[0]), 1) == b"\6"


def test_no_python_bytes_of_the_size_are_made() -> None:
    """Whether or not the ranges overlap."""
    size = 16 * MIB
    with pf.Vmo(2 * size) as vmo:
        vmo.commit(0, size)
        vmo.view()[size - 1] = 7
        tracemalloc.start()
        try:
            vmo.transfer(vmo, offset=size // 2, size=size)
            vmo.transfer(vmo, offset=0, size=PAGE, source_offset=size)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert vmo.read(size // 2 + size - 1, 1) == b"\7"
        assert peak < MIB // 4


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_pinned_pages_are_not_moved(bti: pf.Bti, side: str) -> None:
    """Source: zx_vmo_transfer_data, BAD_STATE; by whatever name they are pinned. Nothing moves."""
    with (
        numbered([1, 2, 3]) as source,
        numbered([4, 5, 6]) as target,
        (source if side == "source" else target).child(C.SLICE, PAGE, PAGE) as part,
        bti.pin(part, perms=READ),
    ):
        for offset in (0, PAGE):
            with pytest.raises(BadState):
                target.transfer(source, offset=offset, size=2 * PAGE, source_offset=offset)
        assert numbers(source) == [1, 2, 3]
        assert numbers(target) == [4, 5, 6]


def test_files_keep_their_pages(tmp_path: Any) -> None:
    """Others have the file too: its pages are not ours to take out."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * PAGE)
    with pf.Vmo.from_file(path, writable=True) as file, numbered([1]) as vmo:
        for to, origin in ((file, vmo), (vmo, file)):
            with pytest.raises(NotSupported):
                to.transfer(origin, size=PAGE)
        assert numbers(vmo) == [1]
    assert path.read_bytes() == b"x" * PAGE


def test_contiguous_and_device_memory_keep_their_pages(bti: pf.Bti) -> None:
    """Source: zx_vmo_transfer_data, NOT_SUPPORTED."""
    with (
        pf.Vmo.contiguous(bti, 2 * PAGE) as run,
        run.child(C.SLICE, 0, PAGE) as part,
        device_memory() as device,
        numbered([1, 2]) as vmo,
    ):
        for kept in (run, part, device):
            for to, origin in ((kept, vmo), (vmo, kept)):
                with pytest.raises(NotSupported):
                    to.transfer(origin, size=PAGE)
        assert numbers(vmo) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"offset": 1, "size": PAGE}, InvalidArgs),
        ({"size": 1}, InvalidArgs),
        ({"size": PAGE, "source_offset": -PAGE}, InvalidArgs),
        ({"size": 5 * PAGE}, OutOfRange),
        ({"offset": 4 * PAGE, "size": PAGE}, OutOfRange),
        ({"size": PAGE, "source_offset": 1 << 70}, OutOfRange),
    ],
)
def test_ranges_are_checked(arguments: dict[str, int], error: type[Exception]) -> None:
    """Source: zx_vmo_transfer_data."""
    with numbered([1, 2, 3, 4]) as source, numbered([5, 6, 7, 8]) as target:
        with pytest.raises(error):
            target.transfer(source, **arguments)
        assert numbers(source) == [1, 2, 3, 4]
        assert numbers(target) == [5, 6, 7, 8]


def test_rights_and_handles_are_checked(bti: pf.Bti) -> None:
    """Source: zx_vmo_transfer_data: WRITE here, READ and WRITE there."""
    with numbered([1]) as source, numbered([2]) as target:
        for to, origin in (
            (target.duplicate(R.READ), source.duplicate()),
            (target.duplicate(), source.duplicate(R.READ)),
            (target.duplicate(), source.duplicate(R.WRITE)),
        ):
            with to, origin, pytest.raises(AccessDenied):
                to.transfer(origin, size=PAGE)
        with pytest.raises(WrongType):
            target.transfer(bti, size=PAGE)
        gone = source.duplicate()
        gone.close()
        with pytest.raises(BadHandle):
            target.transfer(gone, size=PAGE)
        other = pf.Process(pf.Kernel())
        with other, numbered([3]) as foreign, pytest.raises(InvalidArgs, match="another kernel"):
            target.transfer(foreign, size=PAGE)
        other.exit()


# What a failure leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overlapping", [pytest.param(0, id="two objects"), pytest.param(1, id="overlapping")]
)
def test_no_page_of_the_source_is_lost_when_the_host_refuses(overlapping: int) -> None:
    """Every host call fails once: the source has its pages, or the target has; then it works.

    Of ranges that overlap it may be closing the memory in between that fails, when all is done.
    """
    names = _moved(HostCalls(), overlapping)
    assert len(names) > 4
    for n in range(1, len(names) + 1):
        for code in (errno.ENOMEM, errno.EIO):
            _moved(FailNth(n, code), overlapping)


def _moved(plan: HostCalls, overlapping: int) -> list[str]:
    before = [1, 2, 3, 0, 0, 0]
    with numbered(before) as source, numbered([0] * 6) as other:
        target = source if overlapping else other
        try:
            with plan:
                target.transfer(source, offset=PAGE, size=3 * PAGE)
        except PinfoldError:
            check_books(source.kernel)
            if not overlapping:
                assert numbers(source) == before
            if numbers(source)[:3] == before[:3]:
                target.transfer(source, offset=PAGE, size=3 * PAGE)
            else:
                assert plan.refused[0] in ("munmap", "close")
        if overlapping:
            assert numbers(source) == [0, 1, 2, 3, 0, 0]
        else:
            assert numbers(source) == [0] * 6
            assert numbers(target) == [0, 1, 2, 3, 0, 0]
    return plan.names
