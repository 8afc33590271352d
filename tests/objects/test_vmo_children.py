"""Children of memory objects: kinds, rights, names, sizes, and who is whose parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadState,
    InvalidArgs,
    NotSupported,
    OutOfRange,
    Unavailable,
)
from pinfold.objects.memory_object import MAX_SIZE
from pinfold.objects.signals import Signal
from pinfold.objects.vmo import CachePolicy, VmoChild
from pinfold.testing import check_books

from .pages import PAGE, SNAPSHOTS, device_memory, numbered, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

R = pf.Right
C = VmoChild
KINDS = (C.SLICE, C.REFERENCE, *SNAPSHOTS)

pytestmark = pytest.mark.usefixtures("process")


def child(vmo: pf.Vmo, options: C, pages: int = 4) -> pf.Vmo:
    """A child of all of an object."""
    return vmo.child(options, 0, 0 if options & C.REFERENCE else pages * PAGE)


# Rights -------------------------------------------------------------------------------------------

_LEAST = R.DUPLICATE | R.READ


@pytest.mark.parametrize(
    "given", [_LEAST, _LEAST | R.WRITE, _LEAST | R.EXECUTE, 0xD0EF | R.EXECUTE]
)
@pytest.mark.parametrize("modifier", [C(0), C.NO_WRITE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_child_has_the_rights_of_the_handle_it_was_made_through(
    vmo: pf.Vmo, kind: C, modifier: C, given: int
) -> None:
    """Source: zx_vmo_create_child, RIGHTS; Zircon's kernel for NO_WRITE and EXECUTE."""
    vmo._entry.rights |= R.EXECUTE
    with vmo.duplicate(given) as parent, child(parent, kind | modifier) as made:
        expected = given | R.GET_PROPERTY | R.SET_PROPERTY
        if modifier:
            expected &= ~R.WRITE
        elif kind in SNAPSHOTS:
            expected = expected & ~R.EXECUTE | R.WRITE
        assert made.rights == expected


@pytest.mark.parametrize("kind", [C.REFERENCE, *SNAPSHOTS])
def test_the_right_to_resize_goes_with_the_option(kind: C) -> None:
    """Source: zx_vmo_create_child, RESIZABLE. The parent's own right is not handed on."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        with child(vmo, kind) as plain, child(vmo, kind | C.RESIZABLE) as loose:
            assert R.RESIZE not in plain.rights
            assert R.RESIZE in loose.rights
            loose.resize(PAGE)
            assert loose.size == PAGE
            with pytest.raises(AccessDenied if kind is C.REFERENCE else Unavailable):
                plain.resize(PAGE)
        assert vmo.size == (PAGE if kind is C.REFERENCE else 4 * PAGE)


def test_a_resizable_reference_asks_for_the_right_to_resize() -> None:
    """Source: Zircon's newest kernel. Who could not resize could not have it done by a child."""
    with pf.Vmo(PAGE, resizable=True) as vmo, vmo.duplicate(vmo.rights & ~R.RESIZE) as less:
        with pytest.raises(AccessDenied) as caught:
            less.child(C.REFERENCE | C.RESIZABLE)
        assert caught.value.missing == R.RESIZE
        with less.child(C.REFERENCE) as made:
            assert R.RESIZE not in made.rights


def test_a_resizable_reference_to_what_is_not(vmo: pf.Vmo) -> None:
    """No handle to such an object has RESIZE, and the kernel would refuse it all the same."""
    vmo._entry.rights |= R.RESIZE
    with pytest.raises(NotSupported):
        vmo.child(C.REFERENCE | C.RESIZABLE)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_snapshot_without_write_is_immutable(vmo: pf.Vmo, kind: C) -> None:
    """Source: ZX_INFO_VMO_IMMUTABLE: SNAPSHOT and NO_WRITE, and no other kind."""
    with child(vmo, kind) as loose, child(vmo, kind | C.NO_WRITE) as fixed:
        assert not loose.statistics().immutable
        assert fixed.statistics().immutable == (kind is C.SNAPSHOT)
        for each in (loose, fixed):
            assert each.statistics().cow_clone == (kind in SNAPSHOTS)


def test_a_child_that_nobody_may_write(vmo: pf.Vmo) -> None:
    """Source: zx_vmo_create_child, NO_WRITE. It is the handle that cannot."""
    vmo.write(b"kept")
    for kind in KINDS:
        with child(vmo, kind | C.NO_WRITE) as made:
            with pytest.raises(AccessDenied):
                made.write(b"x")
            assert made.read(0, 4) == b"kept"
            assert made.view().readonly


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_has_the_name_of_its_parent_if_it_may_be_known(vmo: pf.Vmo, kind: C) -> None:
    """Source: zx_vmo_create_child in Zircon's kernel: GET_PROPERTY decides. It is a copy."""
    with child(vmo, kind) as made, vmo.duplicate(_LEAST) as less, child(less, kind) as nameless:
        assert made.name == "buffer"
        assert nameless.name == ""
        nameless.rename("mine")
        made.rename("other")
        assert (vmo.name, made.name, nameless.name) == ("buffer", "other", "mine")


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [C.SLICE, *SNAPSHOTS])
@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE])
def test_the_size_of_a_child_is_rounded_and_its_stream_is_not(
    vmo: pf.Vmo, kind: C, size: int
) -> None:
    """Source: zx_vmo_create_child."""
    with vmo.child(kind, 0, size) as made:
        assert made.size == -(-size // PAGE) * PAGE
        assert made.stream_size == size


def test_a_reference_has_the_size_and_the_stream_of_its_parent() -> None:
    """Source: zx_vmo_create_child, REFERENCE."""
    with pf.Vmo(PAGE + 5, resizable=True) as vmo, vmo.child(C.REFERENCE) as made:
        assert (made.size, made.stream_size) == (2 * PAGE, PAGE + 5)
        vmo.resize(7 * PAGE + 1)
        assert (made.size, made.stream_size) == (8 * PAGE, 7 * PAGE + 1)
        made.set_stream_size(3)
        assert vmo.stream_size == 3


@pytest.mark.parametrize("kind", KINDS)
def test_children_of_an_unbounded_object(kind: C) -> None:
    """Source: zx_vmo_create, UNBOUNDED: as large as can be, and nothing of it is there."""
    with pf.Vmo(3, unbounded=True) as vmo:
        assert (vmo.size, vmo.stream_size) == (MAX_SIZE, 3)
        with pytest.raises(Unavailable):
            vmo.resize(PAGE)
        vmo.write(b"far", MAX_SIZE - PAGE)
        with vmo.child(kind, 0, 0 if kind is C.REFERENCE else MAX_SIZE) as made:
            assert made.size == MAX_SIZE
            assert made.read(MAX_SIZE - PAGE, 3) == b"far"
            assert made.committed_ranges() == [(MAX_SIZE - PAGE, MAX_SIZE)]


# Parents that are more than anonymous memory ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error"),
    [(C.REFERENCE, NotSupported), *((kind, InvalidArgs) for kind in SNAPSHOTS)],
)
def test_contiguous_memory_has_slices_only(bti: pf.Bti, kind: C, error: type[Exception]) -> None:
    """Source: zx_vmo_create_child in Zircon's kernel. Of a slice of it as well."""
    with pf.Vmo.contiguous(bti, 4 * PAGE) as vmo, vmo.child(C.SLICE, PAGE, 2 * PAGE) as part:
        with pytest.raises(error):
            child(vmo, kind)
        with pytest.raises(NotSupported if kind is C.REFERENCE else InvalidArgs):
            child(part, kind, 1)
        assert part.statistics().contiguous
        assert part.stream_size == 0
        with bti.pin(part, perms=pf.Perm.READ, form=pf.AddrForm.CONTIGUOUS) as pmt:
            assert len(pmt.addrs) == 1


@pytest.mark.parametrize("kind", [C.REFERENCE, *SNAPSHOTS])
def test_device_memory_has_slices_only(kind: C) -> None:
    """Source: zx_vmo_create_child in Zircon's kernel."""
    with device_memory() as vmo, vmo.child(C.SLICE, 2 * PAGE, PAGE) as part:
        for each in (vmo, part):
            with pytest.raises(NotSupported):
                child(each, kind, 1)
        vmo.view(2 * PAGE, 3)[:] = b"reg"
        assert bytes(part.view(0, 3)) == b"reg"
        found = part.statistics()
        assert (found.physical, found.contiguous) == (True, True)
        assert found.cache_policy is CachePolicy.UNCACHED
        with pytest.raises(NotSupported):
            part.read()


def test_a_discardable_object_has_no_children() -> None:
    """Source: zx_vmo_create_child, NOT_SUPPORTED."""
    with pf.Vmo(4 * PAGE, discardable=True) as vmo:
        for kind in KINDS:
            with pytest.raises(NotSupported):
                child(vmo, kind)


def test_a_snapshot_of_a_slice_is_refused_after_its_range(vmo: pf.Vmo) -> None:
    """Source: Zircon's kernel: a slice of anonymous memory cannot be copied both ways."""
    with vmo.child(C.SLICE, 0, 2 * PAGE) as part:
        for kind in SNAPSHOTS:
            with pytest.raises(NotSupported):
                part.child(kind, 0, 2 * PAGE)
            with pytest.raises(OutOfRange):
                part.child(kind, PAGE, 2 * PAGE)


def test_a_far_snapshot_cannot_end_beyond_64_bits_of_its_ancestor() -> None:
    """Source: Zircon's kernel: a range is projected on the root before it is used."""
    far = (1 << 64) - 16 * PAGE
    with (
        pf.Vmo(PAGE) as root,
        root.child(C.SNAPSHOT | C.RESIZABLE, far, 4 * PAGE) as vmo,
        vmo.child(C.SNAPSHOT, 8 * PAGE, 4 * PAGE) as deeper,
    ):
        for parent, offset in ((vmo, 12 * PAGE), (deeper, 4 * PAGE)):
            with pytest.raises(InvalidArgs):
                parent.child(C.SNAPSHOT, offset, 4 * PAGE)
        with pytest.raises(InvalidArgs):
            vmo.resize(16 * PAGE)
        assert vmo.size == 4 * PAGE
        vmo.resize(15 * PAGE)
        assert numbers(vmo) == [0] * 15


# Families -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parents_and_children_are_counted(vmo: pf.Vmo, kind: C) -> None:
    """Source: zx_info_vmo_t: parent_koid, num_children of every kind, direct ones only."""
    inner = C.SLICE if kind is C.SLICE else C.SNAPSHOT
    assert (vmo.parent_koid, vmo.statistics().children) == (0, 0)
    with child(vmo, kind) as first, child(vmo, kind) as second, child(first, inner) as third:
        assert vmo.statistics().children == 2
        assert first.statistics().children == 1
        assert first.parent_koid == second.parent_koid == vmo.koid
        assert third.parent_koid == first.koid
        assert third.statistics().parent_koid == first.koid
    assert vmo.statistics().children == 0


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_middle_object_goes_its_children_are_its_parent_s(vmo: pf.Vmo, kind: C) -> None:
    """Source: Zircon's VM: adoption. The grandparent's signal stays clear."""
    inner = C.SLICE if kind is C.SLICE else C.SNAPSHOT
    vmo.write(b"root")
    middle = child(vmo, kind)
    with child(middle, inner) as first, child(middle, inner) as second:
        middle.close()
        check_books(vmo.kernel)
        assert first.parent_koid == second.parent_koid == vmo.koid
        assert vmo.statistics().children == 2
        assert not vmo.signals
        assert first.read(0, 4) == b"root"
        assert first.statistics().cow_clone == (inner is not C.SLICE)
    assert vmo.signals == Signal.ZERO_CHILDREN


@pytest.mark.parametrize("kind", KINDS)
def test_when_the_root_goes_its_children_have_no_parent(kernel: pf.Kernel, kind: C) -> None:
    """Source: Zircon's VM. What they show is there for as long as one of them is."""
    vmo = numbered([1, 2, 3, 4])
    with child(vmo, kind) as first, child(vmo, kind) as second:
        vmo.close()
        check_books(kernel)
        for each in (first, second):
            assert each.parent_koid == 0
            assert not each.statistics().cow_clone
            assert numbers(each) == [1, 2, 3, 4]
        if kind not in SNAPSHOTS:
            first.write(b"\5" * PAGE)
            assert numbers(second) == [5, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_parent_without_handles_stays_a_parent_while_it_is_mapped(
    process: pf.Process, kind: C
) -> None:
    """An object is there while it has a handle, a mapping, a pin or a view."""
    vmo = numbered([1, 2, 3, 4])
    koid = vmo.koid
    mapping = process.root.map(vmo, pf.VmOption.PERM_READ)
    with child(vmo, kind) as made:
        vmo.close()
        assert made.parent_koid == koid
        mapping.unmap()
        assert made.parent_koid == 0


def test_a_long_line_of_descendants_goes_in_any_order(kernel: pf.Kernel) -> None:
    """Each closed in the middle hands its child on; nothing is left at the end."""
    line = [numbered([1])]
    for n in range(12):
        kind = (C.REFERENCE, C.SNAPSHOT, C.SNAPSHOT | C.NO_WRITE)[n % 3]
        line.append(child(line[-1], kind, 1))
    order = [5, 0, 11, 3, 4, 12, 1, 10, 2, 9, 6, 8, 7]
    alive = set(range(13))
    for gone in order:
        line[gone].close()
        alive.discard(gone)
        check_books(kernel)
        for n in alive:
            before = max((m for m in alive if m < n), default=None)
            parent = 0 if before is None else line[before].koid
            assert line[n].parent_koid == parent
            assert line[n].read(0, 1) == b"\1"


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda vmo: vmo.child(C.SNAPSHOT | C.SLICE, 0, PAGE), InvalidArgs),
        (lambda vmo: vmo.child(C.RESIZABLE, 0, PAGE), InvalidArgs),
        (lambda vmo: vmo.child(C.SLICE, 0, 8 * PAGE), InvalidArgs),
        (lambda vmo: vmo.child(C.SLICE, -PAGE, PAGE), InvalidArgs),
        (lambda vmo: vmo.child(C.SNAPSHOT, -PAGE, PAGE), OutOfRange),
        (lambda vmo: vmo.child(C.SNAPSHOT, 0, -1), OutOfRange),
        (lambda vmo: vmo.child(C.SNAPSHOT, 0, MAX_SIZE + 1), OutOfRange),
        (lambda vmo: vmo.child(C.REFERENCE, PAGE), InvalidArgs),
        (lambda vmo: vmo.set_cache_policy(4), InvalidArgs),
    ],
)
def test_a_refused_child_is_no_child(
    vmo: pf.Vmo, kernel: pf.Kernel, act: Callable[[pf.Vmo], object], error: type[Exception]
) -> None:
    """Nothing is left of it: no object, no count, no signal."""
    before = kernel.statistics()
    with pytest.raises(error):
        act(vmo)
    assert kernel.statistics() == before
    assert vmo.statistics().children == 0
    assert vmo.signals == Signal.ZERO_CHILDREN
    check_books(kernel)


def test_a_child_for_a_process_that_has_ended(kernel: pf.Kernel) -> None:
    """There is no table for its handle: the child goes, and the parent signals again."""
    ended = pf.Process(kernel)
    keeper = pf.Vmo(PAGE)
    theirs = pf.Vmo.wrap(ended.add(keeper.object, int(keeper.rights)))
    ended.alive = False
    with pytest.raises(BadState, match="ended"):
        theirs.child(C.SNAPSHOT, 0, PAGE)
    ended.alive = True
    assert keeper.statistics().children == 0
    assert keeper.signals == Signal.ZERO_CHILDREN
    ended.exit()
    keeper.close()
    check_books(kernel)
