"""Snapshots: what either side writes afterwards, the other does not see."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import BadState, NotSupported
from pinfold.memory.backing import Backing
from pinfold.objects.vmo import VmoChild
from pinfold.testing import HostCalls, check_books
from tests.user_memory import load, store

from .pages import PAGE, RW, SNAPSHOTS, holes, number, numbered, numbers, page

if TYPE_CHECKING:
    from pathlib import Path

C = VmoChild
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("process")


# What it holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_either_side_is_its_own(kind: C) -> None:
    """Source: zx_vmo_create_child: without a pager all three kinds are full snapshots."""
    with numbered([1, 2, 0, 4]) as vmo, vmo.child(kind, 0, 4 * PAGE) as made:
        number(vmo, [5, 0, 6], 1)
        number(made, [7, 8], 2)
        assert numbers(vmo) == [1, 5, 0, 6]
        assert numbers(made) == [1, 2, 7, 8]
        vmo.zero(0, PAGE)
        made.zero(PAGE, PAGE)
        assert numbers(vmo) == [0, 5, 0, 6]
        assert numbers(made) == [1, 0, 7, 8]


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_a_store_through_a_mapping_is_seen_on_its_own_side_only(
    process: pf.Process, kind: C
) -> None:
    """A mapping of the parent that was there before, and one of each that is made afterwards."""
    with (
        numbered([1, 2]) as vmo,
        process.root.map(vmo, RW) as before,
        vmo.child(kind, 0, 2 * PAGE) as made,
        process.root.map(vmo, RW) as after,
        process.root.map(made, RW) as other,
    ):
        assert store(before.address, page(3))
        assert numbers(made) == [1, 2]
        assert load(other.address) == b"\1"
        assert load(after.address) == b"\3"
        assert store(other.address + PAGE, page(4))
        assert load(before.address + PAGE) == load(after.address + PAGE) == b"\2"
        assert numbers(vmo) == [3, 2]
        assert numbers(made) == [1, 4]


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_a_device_writes_to_its_own_side_only(bti: pf.Bti, kind: C) -> None:
    """Pinned after the snapshot: each has pages of its own by then."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(kind, 0, 2 * PAGE) as made,
        bti.pin(vmo, perms=READ | WRITE) as parents,
        bti.pin(made, perms=READ | WRITE) as childs,
    ):
        master = bti.master()
        master.write(int(parents.addrs[0]), page(3))
        master.write(int(childs.addrs[1]), page(4))
        assert numbers(vmo) == [3, 2]
        assert numbers(made) == [1, 4]


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [
        (0, 2, [1, 2]),
        (1, 2, [2, 3]),
        (2, 4, [3, 4, 0, 0]),
        (3, 1, [4]),
        (4, 2, [0, 0]),
        (1 << 30, 1, [0]),
        (0, 0, []),
    ],
)
def test_beyond_the_parent_there_are_zeros(offset: int, size: int, expected: list[int]) -> None:
    """Source: zx_vmo_create_child: a part, or all, may lie beyond the parent's end."""
    with (
        numbered([1, 2, 3, 4], resizable=True) as vmo,
        vmo.child(C.SNAPSHOT, offset * PAGE, size * PAGE) as made,
    ):
        assert numbers(made) == expected
        assert holes(made) == [at for at, value in enumerate(expected) if not value]
        vmo.resize(64 * PAGE)
        number(vmo, [9] * 64)
        assert numbers(made) == expected
        number(made, [8] * size)
        assert numbers(made) == [8] * size


def test_a_size_within_a_page_takes_all_of_the_page() -> None:
    """Source: Zircon's VM: pages are shared, and only the stream ends within one."""
    with numbered([1, 2, 3]) as vmo, vmo.child(C.SNAPSHOT, 0, PAGE + 5) as made:
        assert made.stream_size == PAGE + 5
        assert numbers(made) == [1, 2]


def test_a_chain_of_snapshots_holds_what_was_there_at_each_moment() -> None:
    """And whichever goes, the others stay as they are."""
    line = [numbered([1, 1, 1])]
    for n in range(1, 5):
        line.append(line[-1].child(C.SNAPSHOT, 0, 3 * PAGE))
        number(line[-1], [n + 1], n % 3)
        number(line[-2], [10 + n], (n + 1) % 3)
    expected = [numbers(vmo) for vmo in line]
    assert len(set(map(tuple, expected))) == 5
    for gone in (2, 0, 4, 1):
        line[gone].close()
        for n, vmo in enumerate(line):
            assert vmo.closed or numbers(vmo) == expected[n]
    line[3].close()


def test_many_snapshots_of_one_parent() -> None:
    """Each of another moment."""
    with numbered([0, 0]) as vmo:
        made = []
        for n in range(1, 20):
            number(vmo, [n], n % 2)
            made.append(vmo.child(C.SNAPSHOT, 0, 2 * PAGE))
        for n, child in enumerate(made, 1):
            assert numbers(child) == ([n - 1, n] if n % 2 else [n, n - 1])
            child.close()


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_whatever_becomes_of_the_size_of_either_side(kind: C) -> None:
    """Source: zx_vmo_set_size: shrinking the parent never changes a full snapshot."""
    with (
        numbered([1, 2, 3, 4], resizable=True) as vmo,
        vmo.child(kind | C.RESIZABLE, 0, 4 * PAGE) as made,
    ):
        vmo.resize(PAGE)
        assert numbers(made) == [1, 2, 3, 4]
        vmo.resize(4 * PAGE)
        assert numbers(vmo) == [1, 0, 0, 0]
        assert numbers(made) == [1, 2, 3, 4]
        made.resize(2 * PAGE)
        made.resize(6 * PAGE)
        assert numbers(made) == [1, 2, 0, 0, 0, 0]
        assert vmo.size == 4 * PAGE


# Memory -------------------------------------------------------------------------------------------


def test_holes_stay_holes() -> None:
    """Only what is committed is copied; asking commits nothing on either side."""
    wanted = [0, 1, 0, 0, 2, 3, 0, 4]
    with numbered(wanted) as vmo, vmo.child(C.SNAPSHOT, PAGE, 6 * PAGE) as made:
        assert holes(vmo) == [0, 2, 3, 6]
        assert holes(made) == [1, 2, 5]
        assert made.statistics().attributed == 3 * PAGE
        assert made.committed_ranges() == [(0, PAGE), (3 * PAGE, 5 * PAGE)]


def test_a_page_of_zeros_that_is_committed_is_a_page() -> None:
    """It has memory, and so has its copy."""
    with pf.Vmo(3 * PAGE) as vmo:
        vmo.commit(PAGE, PAGE)
        with vmo.child(C.SNAPSHOT, 0, 3 * PAGE) as made:
            assert made.committed_ranges() == [(PAGE, 2 * PAGE)]


def test_no_python_bytes_of_the_size_are_made() -> None:
    """64 MiB go from page to page inside the kernel."""
    size = 64 * MIB
    with pf.Vmo(size) as vmo:
        vmo.commit()
        vmo.view()[size - 1] = 7
        tracemalloc.start()
        try:
            with vmo.child(C.SNAPSHOT, 0, size) as made:
                _, peak = tracemalloc.get_traced_memory()
                assert made.read(size - 1, 1) == b"\7"
                assert made.statistics().committed == size
        finally:
            tracemalloc.stop()
        assert peak < MIB // 4


@pytest.mark.parametrize("pages", [1, 64, 4096])
def test_a_copy_makes_as_many_calls_as_there_are_runs(pages: int) -> None:
    """One page and four thousand are one run."""
    counts = set()
    for size in (PAGE, pages * PAGE):
        with pf.Vmo(2 * size) as vmo:
            vmo.commit(0, size)
            with HostCalls() as calls, vmo.child(C.SNAPSHOT, 0, 2 * size):
                pass
            counts.add(tuple(calls.names))
    assert len(counts) == 1


def test_a_child_s_pages_are_pinned_without_another_system_call(bti: pf.Bti) -> None:
    """What was copied is known to be there."""
    with numbered([1, 2]) as vmo, vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as made:
        made.view()[0] = 1  # its window
        with HostCalls() as calls, bti.pin(made, perms=READ):
            pass
        assert calls.names == []


# Pins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SNAPSHOTS)
@pytest.mark.parametrize("way", ["itself", "a slice", "a reference"])
def test_no_snapshot_while_any_page_is_pinned(bti: pf.Bti, kind: C, way: str) -> None:
    """Source: zx_vmo_create_child, BAD_STATE: not only in the range, by whatever way to it."""
    with (
        numbered([1, 2, 3, 4]) as vmo,
        vmo.child(C.REFERENCE) as other,
        vmo.child(C.SLICE, 3 * PAGE, PAGE) as part,
    ):
        pinned = {"itself": vmo, "a slice": part, "a reference": other}[way]
        pmt = bti.pin(pinned, pinned.size - PAGE, PAGE, perms=READ)
        for parent in (vmo, other):
            with pytest.raises(BadState) as caught:
                parent.child(kind, 0, PAGE)
            assert caught.value.holder == "1 pin(s)"
        assert vmo.statistics().children == 2
        pmt.unpin()
        for parent in (vmo, other):
            with parent.child(kind, 0, PAGE) as made:
                assert numbers(made) == [1]


def test_quarantine_keeps_snapshots_from_being_taken(bti: pf.Bti) -> None:
    """Source: zx_bti_release_quarantine: the device may still write."""
    with numbered([1]) as vmo:
        bti.pin(vmo, perms=READ).close()
        with pytest.raises(BadState):
            vmo.child(C.SNAPSHOT, 0, PAGE)
        bti.release_quarantine()
        vmo.child(C.SNAPSHOT, 0, PAGE).close()


def test_a_pinned_snapshot_stops_no_further_snapshot_of_its_parent(bti: pf.Bti) -> None:
    """Source: Zircon's VM: a pin gives the child its own copy first, and counts for it alone."""
    with numbered([1, 2]) as vmo, vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as made:
        with bti.pin(made, perms=READ):
            assert made.pin_count() == 1
            assert vmo.pin_count() == 0
            with vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as second:
                assert numbers(second) == [1, 2]
            with pytest.raises(BadState):
                made.child(C.SNAPSHOT, 0, PAGE)
        made.child(C.SNAPSHOT, 0, PAGE).close()


def test_a_pin_that_comes_while_pages_are_copied_waits(
    bti: pf.Bti, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a page would be copied before, and half after the device has written."""
    pending: list[Future[pf.Pmt]] = []
    pinned = threading.Event()
    real = Backing.write_from

    def pin_and_write() -> pf.Pmt:
        pmt = bti.pin(vmo, perms=READ | WRITE)
        pinned.set()
        bti.master().write(int(pmt.addrs[1]), page(9))
        return pmt

    def slowly(self: Backing, buffer: memoryview, offset: int) -> None:
        if not pending:
            pending.append(pool.submit(pin_and_write))
            pinned.wait(0.2)  # kept out, as it should be, it lets this moment pass
        real(self, buffer, offset)

    with numbered([1, 2]) as vmo, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Backing, "write_from", slowly)
        with vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as made:
            pmt = pending[0].result()
            assert numbers(made) == [1, 2]
        assert numbers(vmo) == [1, 9]
        pmt.unpin()


def test_both_sides_have_physical_pages_of_their_own(process: pf.Process) -> None:
    """What a device was told of one is not an address of the other, before and after."""
    with (
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
        numbered([1, 2, 3]) as vmo,
    ):
        with bti.pin(vmo, perms=READ) as pmt:
            before = pmt.addrs.tolist()
        with vmo.child(C.SNAPSHOT, 0, 3 * PAGE) as made:
            with bti.pin(made, perms=READ) as pmt:
                assert not set(before) & set(pmt.addrs.tolist())
            with bti.pin(vmo, perms=READ) as pmt:
                assert pmt.addrs.tolist() == before


# Giving memory back -------------------------------------------------------------------------------


def test_neither_side_gives_memory_back_while_both_are_there() -> None:
    """Source: zx_vmo_op_range, DECOMMIT: Zircon's would share pages. Zeroing is always possible."""
    with numbered([1, 2]) as vmo:
        made = vmo.child(C.SNAPSHOT, 0, 2 * PAGE)
        for each in (vmo, made):
            with pytest.raises(NotSupported):
                each.decommit(0, PAGE)
            each.decommit(0, 0)
            each.zero(0, PAGE)
        assert (numbers(vmo), numbers(made)) == ([0, 2], [0, 2])
        made.close()
        vmo.decommit()
        assert vmo.statistics().committed == 0


@pytest.mark.parametrize("gone", list(itertools.permutations(range(4), 3)))
def test_the_last_of_a_family_may_give_its_memory_back(gone: tuple[int, ...]) -> None:
    """In whatever order the others go, as soon as no relative is left."""
    root = numbered([1, 2])
    first = root.child(C.SNAPSHOT, 0, 2 * PAGE)
    second = root.child(C.SNAPSHOT, 0, 2 * PAGE)
    inner = first.child(C.SNAPSHOT, 0, 2 * PAGE)
    family = [root, first, second, inner]
    for n in gone:
        for vmo in family:
            if not vmo.closed:
                with pytest.raises(NotSupported):
                    vmo.decommit()
        family[n].close()
        check_books(family[n].kernel)
    (last,) = (vmo for vmo in family if not vmo.closed)
    last.decommit()
    assert numbers(last) == [0, 0]
    last.close()


def test_a_slice_of_what_has_a_snapshot_gives_nothing_back_either() -> None:
    """Source: zx_vmo_op_range, DECOMMIT in Zircon's kernel: on a slice as on its parent."""
    with numbered([1, 2]) as vmo, vmo.child(C.SLICE, 0, PAGE) as part:
        with vmo.child(C.SNAPSHOT, 0, PAGE), pytest.raises(NotSupported):
            part.decommit()
        part.decommit()
        assert numbers(vmo) == [0, 2]


def test_commit_gives_a_snapshot_pages_with_what_it_had() -> None:
    """Source: Zircon's VM: equal content, on both sides."""
    with numbered([1, 0]) as vmo, vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as made:
        made.commit()
        assert made.statistics().committed == 2 * PAGE
        assert (numbers(vmo), numbers(made)) == ([1, 0], [1, 0])
        assert holes(vmo) == [1]


# Of files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [PAGE, 2 * PAGE + 7])
def test_a_snapshot_of_a_file_can_be_written_and_the_file_stays_as_it_is(
    tmp_path: Path, length: int
) -> None:
    """Copied from wherever the bytes are; what lies beyond the file's last byte is zero."""
    path = tmp_path / "data"
    content = bytes(n % 251 for n in range(length))
    path.write_bytes(content)
    with pf.Vmo.from_file(path) as vmo, vmo.child(C.SNAPSHOT, 0, vmo.size + PAGE) as made:
        assert made.read(0, length) == content
        assert made.read(length) == bytes(made.size - length)
        made.write(b"mine", length - 2)
        path.write_bytes(b"theirs" * 2000)
        assert made.read(0, length - 2) == content[:-2]
    assert path.read_bytes() == b"theirs" * 2000
