"""References: another name for all of an object's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, BadState, InvalidArgs, NotSupported, Unavailable
from pinfold.objects.vmo import VmoChild
from tests.user_memory import load, store

from .pages import PAGE, RW, number, numbered, numbers, page

if TYPE_CHECKING:
    from pathlib import Path

C = VmoChild
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


def test_what_is_written_to_either_is_in_both(process: pf.Process) -> None:
    """Source: zx_vmo_create_child, REFERENCE: bytes, mappings and views are of one memory."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(C.REFERENCE) as other,
        other.child(C.REFERENCE) as third,
        process.root.map(third, RW) as mapping,
    ):
        number(other, [3])
        assert store(mapping.address + PAGE, page(4))
        for each in (vmo, other, third):
            assert numbers(each) == [3, 4]
        vmo.view()[0] = 9
        assert load(mapping.address) == b"\x09"


def test_a_reference_is_another_object() -> None:
    """Its koid, its name and its handles are its own."""
    with numbered([1], name="one") as vmo, vmo.child(C.REFERENCE) as other:
        assert other.koid != vmo.koid
        other.rename("two")
        assert (vmo.name, other.name) == ("one", "two")
        assert (vmo.statistics().handles, other.statistics().handles) == (1, 1)


def test_resizing_through_it_resizes_the_memory() -> None:
    """Source: zx_vmo_create_child: the handle may, if it was made with RESIZABLE."""
    with (
        numbered([1, 2, 3, 4], resizable=True) as vmo,
        vmo.child(C.REFERENCE | C.RESIZABLE) as other,
        vmo.child(C.REFERENCE) as third,
    ):
        other.resize(PAGE + 1)
        for each in (vmo, other, third):
            assert each.size == 2 * PAGE
            assert each.stream_size == PAGE + 1
            assert each.read(PAGE, 2) == b"\2\0"
        with pytest.raises(AccessDenied) as caught:
            third.resize(0)
        assert caught.value.missing == R.RESIZE
        vmo.resize(3 * PAGE)
        assert other.size == third.size == 3 * PAGE


def test_a_view_through_one_name_keeps_its_page_by_every_name() -> None:
    """Source: the memory cannot shrink under a view, whoever made it."""
    with numbered([1, 2, 3], resizable=True) as vmo, vmo.child(C.REFERENCE) as other:
        view = other.view(PAGE, PAGE)
        with pytest.raises(BadState) as caught:
            vmo.resize(PAGE)
        assert __file__ in str(caught.value.holder)
        vmo.resize(2 * PAGE)
        assert view[0] == 2
        del view
        vmo.resize(PAGE)


def test_a_reference_to_what_has_one_size() -> None:
    """Source: zx_vmo_set_size, UNAVAILABLE."""
    with numbered([1]) as vmo, vmo.child(C.REFERENCE) as other:
        with pytest.raises(Unavailable):
            other.resize(0)
        assert not other.statistics().resizable


def test_the_stream_is_shared() -> None:
    """Source: zx_vmo_create_child, REFERENCE. Of all of the references, whoever sets it."""
    with numbered([1, 2]) as vmo, vmo.child(C.REFERENCE) as other, vmo.child(C.REFERENCE) as third:
        other.set_stream_size(PAGE)
        assert vmo.stream_size == third.stream_size == PAGE
        assert numbers(third) == [1, 0]
        vmo.close()
        third.set_stream_size(7)
        assert other.stream_size == 7


def test_a_reference_does_not_keep_memory_from_being_given_back() -> None:
    """Source: zx_vmo_op_range, DECOMMIT: it is no copy-on-write relative."""
    with numbered([1, 2, 3]) as vmo, vmo.child(C.REFERENCE) as other:
        other.decommit(0, PAGE)
        vmo.decommit(PAGE, PAGE)
        assert numbers(vmo) == numbers(other) == [0, 0, 3]
        assert other.committed_ranges() == [(2 * PAGE, 3 * PAGE)]
        assert other.statistics().attributed == 0


def test_slices_and_snapshots_of_a_reference() -> None:
    """Source: zx_vmo_create_child: as of what it refers to."""
    with numbered([1, 2, 3]) as vmo, vmo.child(C.REFERENCE) as other:
        with other.child(C.SLICE, PAGE, PAGE) as part, other.child(C.SNAPSHOT, 0, 3 * PAGE) as copy:
            number(vmo, [9], 1)
            assert numbers(part) == [9]
            assert numbers(copy) == [1, 2, 3]
            assert part.parent_koid == copy.parent_koid == other.koid
        with pytest.raises(InvalidArgs):
            other.child(C.REFERENCE, 0, PAGE)
    with (
        numbered([1], resizable=True) as vmo,
        vmo.child(C.REFERENCE) as other,
        pytest.raises(NotSupported),
    ):
        other.child(C.SLICE, 0, PAGE)


def test_a_reference_to_a_slice() -> None:
    """Source: zx_vmo_create_child in Zircon's kernel, NOT_SUPPORTED."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(C.SLICE, 0, PAGE) as part,
        pytest.raises(NotSupported),
    ):
        part.child(C.REFERENCE)


def test_a_reference_to_a_snapshot_is_of_the_snapshot() -> None:
    """And the parent of the snapshot has nothing to do with it."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(C.SNAPSHOT, 0, 2 * PAGE) as copy,
        copy.child(C.REFERENCE) as other,
    ):
        number(other, [5])
        assert (numbers(vmo), numbers(copy)) == ([1, 2], [5, 2])
        assert not other.statistics().cow_clone
        with pytest.raises(NotSupported):
            other.decommit()
        copy.close()
        assert other.parent_koid == vmo.koid
        assert numbers(other) == [5, 2]


def test_the_memory_is_there_for_as_long_as_one_of_them(kernel: pf.Kernel) -> None:
    """And its descriptor is closed with the last, and not before."""
    vmo = numbered([1])
    backing: Any = vmo.object.pages.backing
    with vmo.child(C.REFERENCE) as other, vmo.child(C.SLICE, 0, PAGE) as part:
        vmo.close()
        other.close()
        assert not backing.closed
        assert numbers(part) == [1]
    assert backing.closed
    assert kernel.families == {}


def test_a_reference_to_a_file(tmp_path: Path, bti: pf.Bti) -> None:
    """It is found by the pins of every object over the file, once."""
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * PAGE))
    with (
        pf.Vmo.from_file(path, writable=True) as vmo,
        vmo.child(C.REFERENCE) as other,
        pf.Vmo.from_file(path, writable=True) as again,
    ):
        with bti.pin(other, 0, PAGE, perms=pf.Perm.READ):
            for each in (vmo, other, again):
                with pytest.raises(BadState) as caught:
                    each.decommit(0, PAGE)
                assert caught.value.holder == "1 pin(s)"
        vmo.close()
        other.write(b"here")
        assert again.read(0, 4) == b"here"
