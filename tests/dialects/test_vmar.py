"""What the zx_vmar calls do when they succeed, on real addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pinfold import Process, Right
from pinfold.dialects import Out, zx
from pinfold.testing import HostCalls
from tests.objects.vmar.world import P, World, agree, kernel_maps, shown
from tests.user_memory import load, store

RW = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE
CAN_RW = zx.ZX_VM_CAN_MAP_READ | zx.ZX_VM_CAN_MAP_WRITE
PLACED = CAN_RW | zx.ZX_VM_CAN_MAP_SPECIFIC


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.process:
        yield made
    made.end()


def ok(status: int) -> None:
    assert zx.zx_status_get_string(status) == "ZX_OK"


def mapped(world: World, options: int = RW, offset: int = 0, size: int = 4 * P) -> int:
    out = Out()
    ok(zx.zx_vmar_map(world.root.value, options, offset, world.vmo.value, 0, size, out))
    assert isinstance(out.value, int)
    return out.value


def allocated(vmar: int, options: int, offset: int, size: int) -> tuple[int, int]:
    child, address = Out(), Out()
    ok(zx.zx_vmar_allocate(vmar, options, offset, size, child, address))
    return child.value, address.value


def test_map_protect_unmap(world: World) -> None:
    """Source: zx_vmar_map, zx_vmar_protect, zx_vmar_unmap."""
    address = mapped(world)
    assert store(address + P, b"x")
    ok(zx.zx_vmar_protect(world.root.value, zx.ZX_VM_PERM_READ, address, P + 1))
    assert not store(address + P, b"y")
    assert store(address + 2 * P, b"z")
    ok(zx.zx_vmar_protect(world.root.value, 0, address, P))
    assert load(address) is None
    ok(zx.zx_vmar_unmap(world.root.value, address, 4 * P - 1))
    assert [load(address + page * P) for page in range(4)] == [None] * 4
    ok(zx.zx_vmar_unmap(world.root.value, address, P))  # a hole
    agree(world)


def test_a_region_has_its_documented_rights_and_its_own_numbers(world: World) -> None:
    """Source: zx_vmar_allocate: 0x208003, and READ, WRITE, EXECUTE as CAN_MAP says."""
    number, address = allocated(world.root.value, PLACED, 0, 8 * P)
    entry = world.process.handles[number]
    assert entry.rights == 0x20800F
    assert number & 3 == 3
    assert address == world.root.base
    inner, low = allocated(number, CAN_RW | zx.ZX_VM_SPECIFIC, 2 * P, 2 * P)
    assert low == address + 2 * P
    out = Out()
    ok(zx.zx_vmar_map(inner, RW, 0, world.vmo.value, P, P, out))
    assert out.value == low
    assert load(low) == b"\2"
    assert [record.name for record in world.root.maps()] == ["root", "useralloc", "useralloc", "m"]
    ok(zx.zx_handle_close(inner))  # frees nothing
    assert load(low) == b"\2"
    ok(zx.zx_vmar_destroy(number))
    assert load(low) is None
    assert zx.zx_vmar_destroy(number) == zx.ZX_ERR_BAD_STATE
    assert zx.zx_vmar_map(number, RW, 0, world.vmo.value, 0, P, Out()) == zx.ZX_ERR_BAD_STATE
    ok(zx.zx_handle_close(number))


def test_numbers_are_closed_with_their_process() -> None:
    """Source: dialects, section 3: a number needs nobody to hold on to it."""
    world = World()
    with world.process:
        number, _ = allocated(world.root.value, PLACED, 0, 8 * P)
        mapped(world, RW | zx.ZX_VM_SPECIFIC, 16 * P)
    world.end()
    assert number not in world.process.handles
    with Process(world.kernel) as other:
        assert zx.zx_vmar_destroy(number) == zx.ZX_ERR_BAD_HANDLE
        other.exit()


def test_a_mapping_nobody_can_be_told_of_is_undone(world: World) -> None:
    """Source: zircon: an output pointer is found unusable after the work, which is undone."""
    old = mapped(world)
    overwrite = RW | zx.ZX_VM_SPECIFIC_OVERWRITE
    with HostCalls() as made:
        status = zx.zx_vmar_map(world.root.value, overwrite, P, world.vmo.value, 0, P, None)
    assert status == zx.ZX_ERR_INVALID_ARGS
    assert made.names == ["mmap", "mmap"]  # mapped, and unmapped again
    assert [load(old + page * P) for page in range(4)] == [b"\1", None, b"\3", b"\4"]
    agree(world)


@pytest.mark.parametrize("which", [0, 1])
def test_a_region_nobody_can_be_told_of_is_undone(world: World, which: int) -> None:
    """Source: as above; neither the range nor a handle is left."""
    outs = [Out(), Out()]
    slots = [None if which == number else out for number, out in enumerate(outs)]
    handles, koids = set(world.process.handles), {o.koid for o in world.kernel.objects()}
    status = zx.zx_vmar_allocate(world.root.value, CAN_RW, 0, P, *slots)
    assert status == zx.ZX_ERR_INVALID_ARGS
    assert [out.value for out in outs] == [None, None]
    assert set(world.process.handles) == handles
    assert {o.koid for o in world.kernel.objects()} == koids
    assert len(world.root.maps()) == 1


def test_the_maximum_is_noted_from_the_handles_of_the_call(world: World) -> None:
    """Source: zx_vmar_map; conformance vmar-089."""
    out, address = Out(), Out()
    rights = zx.ZX_RIGHT_MAP | zx.ZX_RIGHT_READ
    ok(zx.zx_handle_duplicate(world.vmo.value, rights, out))
    ok(zx.zx_vmar_map(world.root.value, zx.ZX_VM_PERM_READ, 0, out.value, 0, P, address))
    protect = (world.root.value, RW, address.value, P)
    assert zx.zx_vmar_protect(*protect) == zx.ZX_ERR_ACCESS_DENIED
    ok(zx.zx_handle_close(out.value))
    assert zx.zx_vmar_protect(*protect) == zx.ZX_ERR_ACCESS_DENIED
    ok(zx.zx_vmar_unmap(world.root.value, address.value, P))


def test_the_range_of_memory_may_end_below_64_bits(world: World) -> None:
    """Source: zx_vmar_map; conformance vmar-064, vmar-065."""
    out, last = Out(), (1 << 64) - P
    args = (world.root.value, RW, 0, world.vmo.value)
    assert zx.zx_vmar_map(*args, last, P, out) == zx.ZX_ERR_OUT_OF_RANGE
    assert zx.zx_vmar_map(*args, 0, (1 << 64) - 1, out) == zx.ZX_ERR_OUT_OF_RANGE
    ok(zx.zx_vmar_map(*args, last - P, P, out))
    assert load(out.value) is None
    ok(zx.zx_vmar_unmap(world.root.value, out.value, P))


@pytest.mark.parametrize("bits", [*range(10, 14), 16])
def test_an_alignment_field(world: World, bits: int) -> None:
    """Source: zx_vmar_map, ZX_VM_ALIGN_*: 10 to 32; below a page it says nothing."""
    mapped(world, RW, size=P)
    address = mapped(world, RW | bits << zx.ZX_VM_ALIGN_BASE, size=P)
    assert address % max(1 << bits, P) == 0


def test_an_upper_limit(world: World) -> None:
    """Source: zx_vmar_map, ZX_VM_OFFSET_IS_UPPER_LIMIT; the memory offset is honoured."""
    out = Out()
    options = zx.ZX_VM_PERM_READ | zx.ZX_VM_OFFSET_IS_UPPER_LIMIT
    ok(zx.zx_vmar_map(world.root.value, options, 3 * P, world.vmo.value, 2 * P, 2 * P, out))
    assert out.value == world.root.base
    assert (load(out.value), load(out.value + P)) == (b"\3", b"\4")
    args = (world.root.value, options, 3 * P, world.vmo.value, 0, 2 * P, Out())
    assert zx.zx_vmar_map(*args) == zx.ZX_ERR_NO_RESOURCES


def test_execute_only_means_readable_here(world: World) -> None:
    """Source: ZX_VM_PERM_READ_IF_XOM_UNSUPPORTED, in every call that takes it."""
    vmo, out = world.executable(), Out()
    options = zx.ZX_VM_PERM_EXECUTE | zx.ZX_VM_PERM_READ_IF_XOM_UNSUPPORTED
    ok(zx.zx_vmar_map(world.root.value, options, 0, vmo.value, 0, P, out))
    assert kernel_maps(out.value, out.value + P)[0][2] == "r-xs"
    ok(zx.zx_vmar_protect(world.root.value, 0, out.value, P))
    ok(zx.zx_vmar_protect(world.root.value, options, out.value, P))
    assert kernel_maps(out.value, out.value + P)[0][2] == "r-xs"
    xom = zx.ZX_VM_PERM_READ_IF_XOM_UNSUPPORTED
    allocated(world.root.value, CAN_RW | xom, 0, P)  # ignored
    weak = world.without(world.root, Right.READ)  # it asks for the right that it adds
    status = zx.zx_vmar_protect(weak.value, xom, out.value, P)
    assert status == zx.ZX_ERR_ACCESS_DENIED


def test_a_mapping_ends_with_the_stream(world: World) -> None:
    """Source: ZX_VM_FAULT_BEYOND_STREAM_SIZE, zx_vmo_set_stream_size."""
    options = RW | zx.ZX_VM_ALLOW_FAULTS | zx.ZX_VM_FAULT_BEYOND_STREAM_SIZE
    address = mapped(world, options)
    for size, pages in ((P + 1, 2), (0, 0), (4 * P, 4)):
        ok(zx.zx_vmo_set_stream_size(world.vmo.value, size))
        seen = [load(address + page * P) is not None for page in range(4)]
        assert seen == [page < pages for page in range(4)]
        agree(world)
    ok(zx.zx_vmo_set_stream_size(world.vmo.value, P))
    commit = zx.ZX_VMAR_OP_COMMIT
    status = zx.zx_vmar_op_range(world.root.value, commit, address, 2 * P, None, 0)
    assert status == zx.ZX_ERR_OUT_OF_RANGE


def test_a_slice_shows_its_own_pages_only(world: World) -> None:
    """Source: zx_vmo_create_child, ZX_VMO_CHILD_SLICE."""
    out, address = Out(), Out()
    ok(zx.zx_vmo_create_child(world.vmo.value, zx.ZX_VMO_CHILD_SLICE, P, P, out))
    ok(zx.zx_vmar_map(world.root.value, RW, 0, out.value, 0, 3 * P, address))
    assert [load(address.value + page * P) for page in range(3)] == [b"\2", None, None]
    ok(zx.zx_handle_close(out.value))


def test_operations_on_pages(world: World) -> None:
    """Source: zx_vmar_op_range, each operation; conformance vmar-126 to vmar-136."""
    address = mapped(world)

    def op(number: int, offset: int, size: int) -> int:
        root = world.root.value
        return zx.zx_vmar_op_range(root, number, address + offset, size, None, 0)

    ok(op(zx.ZX_VMAR_OP_DECOMMIT, P, P))
    ok(op(zx.ZX_VMAR_OP_ZERO, 2 * P, 1))
    assert world.vmo.statistics().attributed == 2 * P
    ok(op(zx.ZX_VMAR_OP_COMMIT, P, P))
    assert world.vmo.statistics().attributed == 3 * P
    for hint in ("MAP_RANGE", "DONT_NEED", "ALWAYS_NEED", "PREFETCH"):
        ok(op(getattr(zx, f"ZX_VMAR_OP_{hint}"), 0, 4 * P))
    assert world.vmo.statistics().attributed == 3 * P
    assert [load(address + page * P) for page in range(4)] == [b"\1", b"\0", b"\0", b"\4"]
    assert op(zx.ZX_VMAR_OP_COMMIT, 0, 5 * P) == zx.ZX_ERR_BAD_STATE


def test_a_live_view_is_one_more_reason_for_a_bad_state(world: World) -> None:
    """Ours: only Python code can have made it."""
    made = world.root.map(world.vmo, RW)
    view = made.view(P, 1)
    status = zx.zx_vmar_unmap(world.root.value, made.address, 4 * P)
    assert status == zx.ZX_ERR_BAD_STATE
    assert shown(world, made) == [1, 2, 3, 4]
    del view
    ok(zx.zx_vmar_unmap(world.root.value, made.address, 4 * P))


def test_numpys_integers_are_integers(world: World) -> None:
    out, child, address = Out(), Out(), Out()
    u64: Any = np.uint64
    root, vmo = world.root.value, world.vmo.value
    ok(zx.zx_vmar_allocate(u64(root), u64(PLACED), u64(0), u64(8 * P), child, address))
    ok(zx.zx_vmar_map(child.value, u64(RW), u64(0), u64(vmo), u64(0), u64(P), out))
    assert type(out.value) is int
    assert type(address.value) is int
    ok(zx.zx_vmar_protect(child.value, u64(1), u64(out.value), u64(P)))
    commit: Any = np.uint32(zx.ZX_VMAR_OP_COMMIT)
    ok(zx.zx_vmar_op_range(child.value, commit, u64(out.value), u64(P), None, u64(0)))
    ok(zx.zx_vmar_unmap(child.value, u64(out.value), u64(P)))
    agree(world)
