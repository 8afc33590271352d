"""What Magenta's calls do with address regions, and where its pages and its kernel differ.

Source: mx_vmar_map and the pages beside it; the kernel of August 2017.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, mx, zx
from pinfold.dialects.calling import face, number_of

from . import things
from .things import PAGE, READ, WRITE, Strict, fine, named, ok

if TYPE_CHECKING:
    from collections.abc import Callable

RW = READ | WRITE
SPECIFIC, OVER = mx.MX_VM_FLAG_SPECIFIC, mx.MX_VM_FLAG_SPECIFIC_OVERWRITE


def map_(region: int, vmo: int, flags: int = RW, *, offset: int = 0, size: int = PAGE) -> int:
    return int(ok(mx.mx_vmar_map, region, offset, vmo, 0, size, flags))


def test_memory_is_shown(process: pf.Process) -> None:
    """The mapping keeps the object, the length is rounded up, and a second is another place."""
    root, vmo = mx.mx_vmar_root_self(), things.vmo(3 * PAGE)
    at = map_(root, vmo, size=2 * PAGE + 1)
    again = map_(root, vmo, size=2 * PAGE + 1)
    fine(mx.mx_vmo_write, vmo, b"hello", PAGE, 5, Out())
    fine(mx.mx_handle_close, vmo)
    assert ctypes.string_at(at + PAGE, 5) == ctypes.string_at(again + PAGE, 5) == b"hello"
    mapped = {(r.base, r.size) for r in process.root.maps() if r.kind == "mapping"}
    assert mapped == {(at, 3 * PAGE), (again, 3 * PAGE)}
    for address in (at, again):
        fine(mx.mx_vmar_unmap, root, address, 2 * PAGE + 1)
    assert [r for r in process.root.maps() if r.kind == "mapping"] == []


def test_what_is_taken_is_no_memory(strict: Strict) -> None:
    """Vector 15: SPECIFIC over anything is NO_MEMORY; SPECIFIC_OVERWRITE replaces mappings."""
    del strict
    region, vmo = things.region(), things.vmo(PAGE)
    at = map_(region, vmo, RW | SPECIFIC)
    out = Out()
    assert named(mx.mx_vmar_map(region, 0, vmo, 0, PAGE, RW | SPECIFIC, out)) == "NO_MEMORY"
    other = things.vmo(PAGE)
    fine(mx.mx_vmo_write, other, b"new", 0, 3, Out())
    assert map_(region, other, READ | OVER) == at
    assert ctypes.string_at(at, 3) == b"new"
    assert out.value is None


def test_permissions_of_a_mapping(strict: Strict) -> None:
    """Vectors 16 and 17: no WRITE without READ; never more than the handles allowed."""
    del strict
    region, vmo, out = things.region(), things.vmo(PAGE), Out()
    assert named(mx.mx_vmar_map(region, 0, vmo, 0, PAGE, WRITE, out)) == "INVALID_ARGS"
    reader = things.without(mx.MX_RIGHT_WRITE, vmo)
    at = map_(region, reader, READ)
    assert named(mx.mx_vmar_protect(region, at, PAGE, RW)) == "ACCESS_DENIED"
    fine(mx.mx_vmar_protect, region, at, PAGE, 0)
    fine(mx.mx_vmar_protect, region, at, PAGE, READ)


def test_a_hole_is_unmapped(strict: Strict) -> None:
    """Vector 18: NOT_FOUND on the page, OK in the kernel. A part that is mapped is enough."""
    region, vmo = things.region(), things.vmo(PAGE)
    base = things.info(region, mx.MX_INFO_VMAR).base
    hole = "OK" if strict == "kernel" else "NOT_FOUND"
    assert named(mx.mx_vmar_unmap(region, base, 4 * PAGE)) == hole
    map_(region, vmo, RW | SPECIFIC, offset=2 * PAGE)
    assert named(mx.mx_vmar_unmap(region, base, 4 * PAGE)) == "OK"
    assert named(mx.mx_vmar_unmap(region, base, 4 * PAGE)) == hole


def test_an_allocation_for_writing(strict: Strict) -> None:
    """The page: PERM_WRITE is invalid. The kernel takes it, and it means nothing."""
    root, child, at = mx.mx_vmar_root_self(), Out(), Out()
    found = named(mx.mx_vmar_allocate(root, 0, PAGE, WRITE, child, at))
    assert found == ("OK" if strict == "kernel" else "INVALID_ARGS")
    if child.value is not None:
        assert things.rights_of(child.value) == mx.MX_DEFAULT_VMAR_RIGHTS
        vmo, out = things.vmo(PAGE), Out()
        assert named(mx.mx_vmar_map(child.value, 0, vmo, 0, PAGE, 0, out)) == "OK"


def test_map_range_with_an_offset(strict: Strict) -> None:
    """The page: it works. The kernel: INVALID_ARGS, and the mapping is undone."""
    region, vmo, out = things.region(), things.vmo(4 * PAGE), Out()
    flags = RW | mx.MX_VM_FLAG_MAP_RANGE
    assert named(mx.mx_vmar_map(region, 0, vmo, 0, 4 * PAGE, flags, Out())) == "OK"
    found = named(mx.mx_vmar_map(region, 0, vmo, PAGE, 3 * PAGE, flags, out))
    assert found == ("INVALID_ARGS" if strict == "kernel" else "OK")
    mapped: Any = face(region)
    pieces = mapped.object.region.pieces(0, 1 << 63)
    assert len(pieces) == (1 if strict == "kernel" else 2)


def test_zircons_rule_of_faults_is_not_magentas() -> None:
    """Every object of Magenta's is resizable, and may be mapped beyond its end, whoever is
    followed; Zircon's page asks for ALLOW_FAULTS."""
    process = pf.Process(pf.Kernel(strict="docs"))
    with process:
        root, vmo = mx.mx_vmar_root_self(), things.vmo(PAGE)
        out = Out()
        options = zx.ZX_VM_PERM_READ
        assert zx.zx_vmar_map(root, options, 0, vmo, 0, PAGE, out) == zx.ZX_ERR_NOT_SUPPORTED
        map_(root, vmo, READ, size=4 * PAGE)
    process.exit()


def test_regions_in_regions(process: pf.Process) -> None:
    """Rights are for what may be mapped; unmapping a child as a whole ends it, a part does not."""
    del process
    can = mx.MX_VM_FLAG_CAN_MAP_READ | mx.MX_VM_FLAG_CAN_MAP_SPECIFIC
    parent = things.region()
    child = things.region(4 * PAGE, can | SPECIFIC, 4 * PAGE, parent=parent)
    assert things.rights_of(child) == mx.MX_DEFAULT_VMAR_RIGHTS | mx.MX_RIGHT_READ
    base = things.info(child, mx.MX_INFO_VMAR).base
    vmo = things.vmo(PAGE)
    map_(child, vmo, READ)
    assert named(mx.mx_vmar_unmap(parent, base, PAGE)) == "INVALID_ARGS"
    assert named(mx.mx_vmar_protect(parent, base, PAGE, READ)) == "INVALID_ARGS"
    fine(mx.mx_vmar_unmap, parent, base, 4 * PAGE)
    dead: dict[str, Callable[[], int]] = {
        "map": lambda: mx.mx_vmar_map(child, 0, vmo, 0, PAGE, READ, Out()),
        "unmap": lambda: mx.mx_vmar_unmap(child, base, PAGE),
        "protect": lambda: mx.mx_vmar_protect(child, base, PAGE, READ),
        "destroy": lambda: mx.mx_vmar_destroy(child),
        "allocate": lambda: mx.mx_vmar_allocate(child, 0, PAGE, 0, Out(), Out()),
    }
    assert {name: named(call()) for name, call in dead.items()} == dict.fromkeys(dead, "BAD_STATE")
    assert things.info(child, mx.MX_INFO_VMAR).base == base
    assert named(mx.mx_vmar_destroy(mx.mx_vmar_root_self())) == "NOT_SUPPORTED"


def test_pins_and_mappings_do_not_know_of_each_other(process: pf.Process) -> None:
    del process
    bti, vmo = things.bti(), things.vmo(PAGE)
    at = map_(mx.mx_vmar_root_self(), vmo)
    addrs = things.pin(bti, vmo)
    fine(mx.mx_vmar_unmap, mx.mx_vmar_root_self(), at, PAGE)
    assert things.counts(vmo, 1) == [1]
    assert things.unpin(bti, addrs) == "OK"


def test_a_live_view_is_in_the_way(process: pf.Process) -> None:
    """Only Python code has one."""
    mapping = process.root.map(face(things.vmo(PAGE)), pf.VmOption.PERM_READ)
    root, view = mx.mx_vmar_root_self(), mapping.view()
    number_of(process.root)
    assert named(mx.mx_vmar_unmap(root, mapping.address, PAGE)) == "BAD_STATE"
    del view
    assert named(mx.mx_vmar_unmap(root, mapping.address, PAGE)) == "OK"


@pytest.mark.parametrize("flags", [0, READ, RW])
def test_no_permission_is_a_mapping_too(process: pf.Process, flags: int) -> None:
    region, vmo = things.region(), things.vmo(PAGE)
    at = map_(region, vmo, flags)
    (record,) = [r for r in process.root.maps() if r.kind == "mapping"]
    assert (record.base, int(record.perms)) == (at, flags)


def test_executing(strict: Strict) -> None:
    """All three have to allow it: the region, its handle, and the handle to the memory."""
    del strict
    flags = READ | mx.MX_VM_FLAG_PERM_EXECUTE
    denied = []
    for lacking in ("nothing", "region", "vmar", "vmo"):
        can = things.CAN_ALL & ~(mx.MX_VM_FLAG_CAN_MAP_EXECUTE if lacking == "region" else 0)
        region, vmo, out = things.region(flags=can), things.vmo(PAGE), Out()
        if lacking == "vmar":
            region = things.without(mx.MX_RIGHT_EXECUTE, region)
        if lacking == "vmo":
            vmo = things.without(mx.MX_RIGHT_EXECUTE, vmo)
        denied.append(named(mx.mx_vmar_map(region, 0, vmo, 0, PAGE, flags, out)))
    assert denied == ["OK", "ACCESS_DENIED", "ACCESS_DENIED", "ACCESS_DENIED"]


def test_map_range_gives_no_memory(process: pf.Process) -> None:
    """What is backed is entered; what is not stays so, and cannot be pinned."""
    del process
    vmo = things.vmo(4 * PAGE)
    assert things.decommit(vmo, 2 * PAGE, 2 * PAGE) == "OK"
    map_(mx.mx_vmar_root_self(), vmo, RW | mx.MX_VM_FLAG_MAP_RANGE, size=4 * PAGE)
    target: Any = face(vmo).object
    assert target.attributed(0, 4 * PAGE) == 2 * PAGE
    assert things.attempt(things.bti(), vmo, 2 * PAGE)[0] == "NOT_FOUND"


def test_a_hole_before_a_region_and_a_region_after_a_hole(process: pf.Process) -> None:
    """Source: that kernel wants something at the start of the range, and then goes on from one
    thing to the next: a region is found before the hole in front of it."""
    del process
    region, vmo = things.region(), things.vmo(PAGE)
    base = things.info(region, mx.MX_INFO_VMAR).base
    map_(region, vmo, RW | SPECIFIC, offset=2 * PAGE)
    things.region(PAGE, mx.MX_VM_FLAG_CAN_MAP_READ | SPECIFIC, 4 * PAGE, parent=region)
    assert named(mx.mx_vmar_protect(region, base + 3 * PAGE, 2 * PAGE, READ)) == "NOT_FOUND"
    assert named(mx.mx_vmar_protect(region, base + 2 * PAGE, 3 * PAGE, READ)) == "INVALID_ARGS"
    assert named(mx.mx_vmar_protect(region, base + 2 * PAGE, 2 * PAGE, READ)) == "NOT_FOUND"
    map_(region, vmo, RW | SPECIFIC, offset=0)
    assert named(mx.mx_vmar_protect(region, base, 3 * PAGE, READ)) == "NOT_FOUND"
