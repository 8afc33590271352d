"""Slices: a part of another object's pages."""

from __future__ import annotations

import pytest

import pinfold as pf
from pinfold.errors import InvalidArgs, NotSupported, OutOfRange, Unavailable
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books
from tests.user_memory import load, store

from .pages import PAGE, RW, device_memory, number, numbered, numbers, page

C = VmoChild
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE

pytestmark = pytest.mark.usefixtures("process")


def test_what_is_written_to_either_is_in_both() -> None:
    """Source: zx_vmo_create_child, SLICE: an alias, at once."""
    with numbered([1, 2, 3, 4]) as vmo, vmo.child(C.SLICE, PAGE, 2 * PAGE) as part:
        number(part, [5])
        number(vmo, [6], 2)
        assert numbers(part) == [5, 6]
        assert numbers(vmo) == [1, 5, 6, 4]
        part.zero()
        assert numbers(vmo) == [1, 0, 0, 4]
        assert vmo.committed_ranges() == [(0, PAGE), (3 * PAGE, 4 * PAGE)]


def test_mappings_of_both_show_the_same_memory(process: pf.Process) -> None:
    """At the right place, and no page before or behind it."""
    with (
        numbered([1, 2, 3, 4]) as vmo,
        vmo.child(C.SLICE, PAGE, 2 * PAGE) as part,
        process.root.map(vmo, RW) as whole,
        process.root.map(part, RW, size=4 * PAGE) as piece,
    ):
        assert store(piece.address, page(5))
        assert load(whole.address + PAGE) == b"\5"
        assert store(whole.address + 2 * PAGE, page(6))
        assert load(piece.address + PAGE) == b"\6"
        assert load(piece.address + 2 * PAGE) is None, "the rest of the parent is not the slice's"
        assert numbers(part) == [5, 6]


def test_views_of_a_slice_are_of_its_part() -> None:
    """Writable and read-only ones."""
    with numbered([1, 2, 3]) as vmo, vmo.child(C.SLICE, PAGE, PAGE) as part:
        view = part.view()
        assert bytes(view) == page(2)
        view[0] = 9
        assert vmo.read(PAGE, 1) == b"\x09"
        with part.duplicate(pf.Right.READ | pf.Right.MAP) as less:
            assert bytes(less.view(1, 3)) == b"\2\2\2"
        assert part.array("u1", PAGE - 1, 1).tolist() == [2]


def test_a_slice_of_a_slice_is_relative_to_the_inner_one() -> None:
    """Source: zx_vmo_create_child in Zircon's kernel."""
    with (
        numbered([1, 2, 3, 4, 5]) as vmo,
        vmo.child(C.SLICE, PAGE, 3 * PAGE) as outer,
        outer.child(C.SLICE, PAGE, 2 * PAGE) as inner,
        inner.child(C.SLICE, PAGE, PAGE) as last,
    ):
        assert numbers(inner) == [3, 4]
        assert numbers(last) == [4]
        number(last, [9])
        assert numbers(vmo) == [1, 2, 3, 9, 5]
        with pytest.raises(InvalidArgs):
            outer.child(C.SLICE, PAGE, 3 * PAGE)
        outer.close()
        assert inner.parent_koid == vmo.koid
        assert numbers(inner) == [3, 9], "adopted, it shows what it showed"


@pytest.mark.parametrize(
    "act",
    [
        lambda part: part.read(0, 2 * PAGE),
        lambda part: part.write(b"xx", PAGE - 1),
        lambda part: part.commit(0, PAGE + 1),
        lambda part: part.decommit(0, 2 * PAGE),
        lambda part: part.zero(PAGE - 1, 2),
        lambda part: part.prefetch(PAGE, PAGE),
        lambda part: part.clean_cache(PAGE, 1),
        lambda part: part.view(0, PAGE + 1),
        lambda part: part.pin_count(PAGE),
        lambda part: part.set_stream_size(PAGE + 1),
    ],
)
def test_nothing_reaches_beyond_the_slice(act: object) -> None:
    """The parent goes on there; the slice does not."""
    assert callable(act)
    with numbered([1, 2, 3]) as vmo, vmo.child(C.SLICE, PAGE, PAGE) as part:
        with pytest.raises(OutOfRange) as caught:
            act(part)
        assert caught.value.limit == PAGE
        assert numbers(vmo) == [1, 2, 3]


def test_no_pin_reaches_beyond_the_slice(bti: pf.Bti) -> None:
    """Source: zx_bti_pin, OUT_OF_RANGE."""
    with numbered([1, 2, 3]) as vmo, vmo.child(C.SLICE, PAGE, PAGE) as part:
        with pytest.raises(OutOfRange):
            bti.pin(part, 0, 2 * PAGE, perms=READ)
        with bti.pin(part, perms=READ | WRITE) as pmt:
            assert pmt.size == PAGE
            assert pmt.statistics().offset == 0
            bti.master().write(int(pmt.addrs[0]), page(7))
        assert numbers(vmo) == [1, 7, 3]


def test_a_slice_has_one_size_and_so_has_its_parent() -> None:
    """Source: zx_vmo_set_size, UNAVAILABLE; zx_vmo_create_child, NOT_SUPPORTED."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(C.SLICE, 0, PAGE) as part,
        pytest.raises(Unavailable),
    ):
        part.resize(0)
    with numbered([1, 2], resizable=True) as loose, pytest.raises(NotSupported):
        loose.child(C.SLICE, 0, PAGE)


def test_the_stream_of_a_slice_ends_with_it() -> None:
    """Source: zx_vmo_set_stream_size: zeroed to the end of the slice, and not of the parent."""
    with numbered([1, 2, 3, 4]) as vmo, vmo.child(C.SLICE, PAGE, 2 * PAGE) as part:
        part.set_stream_size(PAGE)
        assert numbers(vmo) == [1, 2, 0, 4]
        assert (part.stream_size, vmo.stream_size) == (PAGE, 4 * PAGE)


def test_memory_is_charged_to_the_parent() -> None:
    """Source: zx_info_vmo_t, committed_bytes."""
    with numbered([1, 2, 0]) as vmo, vmo.child(C.SLICE, 0, 2 * PAGE) as part:
        assert part.committed_ranges() == [(0, 2 * PAGE)]
        assert part.statistics().attributed == 0
        assert vmo.statistics().attributed == 2 * PAGE
        assert part.statistics().committed == vmo.statistics().committed


def test_a_slice_keeps_the_pages_of_a_parent_that_is_gone(bti: pf.Bti) -> None:
    """All of them can still be pinned, at the addresses they had."""
    vmo = numbered([1, 2, 3])
    with bti.pin(vmo, perms=READ) as pmt:
        assert len(pmt.addrs) == 3
    with vmo.child(C.SLICE, PAGE, PAGE) as part:
        vmo.close()
        with bti.pin(part, perms=READ) as pmt:
            assert bti.master().read(int(pmt.addrs[0]), 1) == b"\2"
        check_books(part.kernel)


def test_a_slice_of_contiguous_memory_keeps_its_pages(bti: pf.Bti) -> None:
    """Source: zx_vmo_op_range: as its parent does."""
    with pf.Vmo.contiguous(bti, 4 * PAGE) as vmo, vmo.child(C.SLICE, PAGE, 2 * PAGE) as part:
        number(vmo, [1, 2, 3, 4])
        part.zero(0, PAGE)
        part.commit()
        with pytest.raises(NotSupported):
            part.decommit()
        assert numbers(vmo) == [1, 0, 3, 4]
        assert vmo.committed_ranges() == [(0, 4 * PAGE)]


def test_a_slice_keeps_device_memory_when_all_else_is_gone() -> None:
    """Its bytes are there for as long as the last window, and not longer."""
    vmo = device_memory()
    part = vmo.child(C.SLICE, PAGE, PAGE)
    vmo.view(PAGE, 4)[:] = b"kept"
    vmo.close()
    assert bytes(part.view(0, 4)) == b"kept"
    part.close()
    with device_memory() as again:
        assert bytes(again.view(PAGE, 4)) == bytes(4)


def test_a_slice_of_device_memory_is_at_its_address(process: pf.Process) -> None:
    """Source: zx_bti_pin: physical memory is reported as it is."""
    with (
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
        device_memory() as vmo,
        vmo.child(C.SLICE, PAGE, 2 * PAGE) as outer,
        outer.child(C.SLICE, PAGE, PAGE) as inner,
        process.root.map(inner, RW) as mapping,
        bti.pin(inner, perms=READ, form=pf.AddrForm.CONTIGUOUS) as pmt,
    ):
        with bti.pin(vmo, 2 * PAGE, PAGE, perms=READ) as whole:
            assert pmt.addrs.tolist() == whole.addrs.tolist()
        assert store(mapping.address, b"reg")
        assert bytes(vmo.view(2 * PAGE, 3)) == b"reg"
        assert bti.master().read(int(pmt.addrs[0]), 3) == b"reg"
