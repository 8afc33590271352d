"""ZX_INFO_VMAR_MAPS, ZX_INFO_PROCESS_MAPS, ZX_INFO_PROCESS_VMOS: what is mapped where.

Source: zx_object_get_info; Zircon's kernel for names, depths and the order of the records.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx

from . import things
from .things import PAGE, info, ok

READ, WRITE = zx.ZX_VM_PERM_READ, zx.ZX_VM_PERM_WRITE
SPECIFIC = zx.ZX_VM_SPECIFIC
ASPACE, VMAR, MAPPING = (
    zx.ZX_INFO_MAPS_TYPE_ASPACE,
    zx.ZX_INFO_MAPS_TYPE_VMAR,
    zx.ZX_INFO_MAPS_TYPE_MAPPING,
)


def at(region: int) -> int:
    base: int = info(region, zx.ZX_INFO_VMAR).base
    return base


def mapped(region: int, offset: int, vmo: int, vmo_offset: int, size: int, perms: int) -> int:
    address = Out()
    found = zx.zx_vmar_map(region, SPECIFIC | perms, offset, vmo, vmo_offset, size, address)
    assert found == zx.ZX_OK
    assert isinstance(address.value, int)
    return address.value


class Layout(NamedTuple):
    """A region with a mapping, a region with another, and a mapping behind them."""

    region: int
    inner: int
    vmo: int
    koid: int


@pytest.fixture
def layout(process: pf.Process) -> Layout:
    """Of 16 pages: a mapping at 1 (4 pages, of which 1 is written), a region at 8, one at 12."""
    del process
    region = things.region(16 * PAGE)
    vmo = things.vmo(8 * PAGE)
    assert zx.zx_object_set_property(vmo, zx.ZX_PROP_NAME, b"rings", 5) == zx.ZX_OK
    assert zx.zx_vmo_write(vmo, b"x", 3 * PAGE, 1) == zx.ZX_OK
    mapped(region, PAGE, vmo, 2 * PAGE, 4 * PAGE, READ | WRITE)
    child, address = Out(), Out()
    options = zx.ZX_VM_CAN_MAP_READ | zx.ZX_VM_CAN_MAP_SPECIFIC | SPECIFIC
    call = zx.zx_vmar_allocate(region, options, 8 * PAGE, 4 * PAGE, child, address)
    assert call == zx.ZX_OK
    mapped(child.value, 0, vmo, 0, PAGE, READ)
    mapped(region, 12 * PAGE, vmo, 0, 2 * PAGE, 0)
    return Layout(region, child.value, vmo, info(vmo, zx.ZX_INFO_VMO).koid)


def lines(records: Any) -> list[tuple[Any, ...]]:
    """What tells where the records are."""
    return [(r.depth, r.type, r.name, r.base, r.size) for r in records]


def runs(records: Any) -> list[tuple[Any, ...]]:
    """What is said of mappings."""
    found = [r.u.mapping for r in records if r.type == MAPPING]
    return [(m.mmu_flags, m.vmo_koid, m.vmo_offset, m.committed_bytes) for m in found]


def test_a_region_lists_itself_and_what_is_in_it(layout: Layout) -> None:
    """Source: ZX_INFO_VMAR_MAPS: depth first, ascending; the region itself is at depth 0."""
    base, records = at(layout.region), info(layout.region, zx.ZX_INFO_VMAR_MAPS)
    assert lines(records) == [
        (0, VMAR, "useralloc", base, 16 * PAGE),
        (1, MAPPING, "rings", base + PAGE, 4 * PAGE),
        (1, VMAR, "useralloc", base + 8 * PAGE, 4 * PAGE),
        (2, MAPPING, "rings", base + 8 * PAGE, PAGE),
        (1, MAPPING, "rings", base + 12 * PAGE, 2 * PAGE),
    ]
    assert runs(records) == [
        (READ | WRITE, layout.koid, 2 * PAGE, PAGE),
        (READ, layout.koid, 0, 0),
        (0, layout.koid, 0, 0),
    ]
    inner = info(layout.inner, zx.ZX_INFO_VMAR_MAPS)
    assert lines(inner) == [
        (0, VMAR, "useralloc", base + 8 * PAGE, 4 * PAGE),
        (1, MAPPING, "rings", base + 8 * PAGE, PAGE),
    ]


def test_a_process_lists_its_space_and_its_root_first(process: pf.Process, layout: Layout) -> None:
    """Source: ZX_INFO_PROCESS_MAPS: one depth more than the root region's own list has."""
    me, root = zx.zx_process_self(), zx.zx_vmar_root_self()
    where = info(root, zx.ZX_INFO_VMAR)
    records = info(me, zx.ZX_INFO_PROCESS_MAPS)
    assert lines(records)[:2] == [
        (0, ASPACE, f"proc:{process.koid}", where.base, where.len),
        (1, VMAR, "root", where.base, where.len),
    ]
    below = info(root, zx.ZX_INFO_VMAR_MAPS)
    assert [(d - 1, *rest) for d, *rest in lines(records)[1:]] == lines(below)
    assert runs(records) == runs(below)
    assert len(runs(records)) == 3
    assert layout.koid == records[3].u.mapping.vmo_koid


def test_what_is_no_mapping_has_zeros_in_its_union(layout: Layout) -> None:
    records = info(zx.zx_process_self(), zx.ZX_INFO_PROCESS_MAPS)
    assert layout.koid
    others = [record for record in records if record.type != MAPPING]
    assert len(others) == 4
    for record in others:
        assert not any(zx.zx_info_maps_t.pack(record)[zx.zx_info_maps_t.offsets["u"] :])


def test_a_mapping_is_one_record_for_each_run_of_one_protection(layout: Layout) -> None:
    """With the offset and the memory of that run. Source: Zircon's kernel."""
    base = at(layout.region) + PAGE
    assert zx.zx_vmar_protect(layout.region, READ, base + PAGE, 2 * PAGE) == zx.ZX_OK
    records = info(layout.region, zx.ZX_INFO_VMAR_MAPS)[1:4]
    assert lines(records) == [
        (1, MAPPING, "rings", base, PAGE),
        (1, MAPPING, "rings", base + PAGE, 2 * PAGE),
        (1, MAPPING, "rings", base + 3 * PAGE, PAGE),
    ]
    assert runs(records) == [
        (READ | WRITE, layout.koid, 2 * PAGE, 0),
        (READ, layout.koid, 3 * PAGE, PAGE),
        (READ | WRITE, layout.koid, 5 * PAGE, 0),
    ]
    assert info(layout.vmo, zx.ZX_INFO_VMO).num_mappings == 3


def test_a_mapping_that_was_cut_is_two_and_what_is_unmapped_is_none(layout: Layout) -> None:
    base = at(layout.region) + PAGE
    assert zx.zx_vmar_unmap(layout.region, base + PAGE, PAGE) == zx.ZX_OK
    records = info(layout.region, zx.ZX_INFO_VMAR_MAPS)[1:3]
    assert [(r.base, r.size, r.u.mapping.vmo_offset) for r in records] == [
        (base, PAGE, 2 * PAGE),
        (base + 2 * PAGE, 2 * PAGE, 4 * PAGE),
    ]
    assert info(layout.vmo, zx.ZX_INFO_VMO).num_mappings == 4


def test_a_destroyed_region_lists_nothing(layout: Layout) -> None:
    """BAD_STATE, for it and for what was in it. Source: conformance list, 18."""
    assert zx.zx_vmar_destroy(layout.region) == zx.ZX_OK
    for region in (layout.region, layout.inner):
        counts = Out(), Out()
        found = zx.zx_object_get_info(region, zx.ZX_INFO_VMAR_MAPS, None, 0, *counts)
        assert found == zx.ZX_ERR_BAD_STATE
        assert [count.value for count in counts] == [None, None]


def test_the_newest_record_byte_for_byte(layout: Layout) -> None:
    """Source: zx_info_maps_t, 152 bytes."""
    buffer = bytearray(2 * 152)
    topic = zx.ZX_INFO_VMAR_MAPS
    assert zx.zx_object_get_info(layout.region, topic, buffer, 304, None, None) == zx.ZX_OK
    values = struct.unpack("=32sQQQI4xI4xQQQQQQQQQQ", buffer[152:])
    assert values == (
        b"rings".ljust(32, b"\0"),
        at(layout.region) + PAGE,
        4 * PAGE,
        1,
        MAPPING,
        READ | WRITE,
        layout.koid,
        2 * PAGE,
        *[PAGE] * 6,
        0,
        0,
    )


OLDER = [
    (zx.ZX_INFO_PROCESS_MAPS_V1, "=32sQQQI4xI4xQQQ", (1,)),
    (zx.ZX_INFO_PROCESS_MAPS_V2, "=32sQQQI4xI4xQQQQ", (1, 1)),
]


@pytest.mark.parametrize(("topic", "form", "pages"), OLDER)
def test_older_records_count_pages(
    layout: Layout, topic: int, form: str, pages: tuple[int, ...]
) -> None:
    """Source: zircon/syscalls/object.h: 96 and 104 bytes."""
    me, size = zx.zx_process_self(), struct.calcsize(form)
    newest = info(me, zx.ZX_INFO_PROCESS_MAPS)
    buffer = bytearray(size * len(newest))
    assert zx.zx_object_get_info(me, topic, buffer, len(buffer), None, None) == zx.ZX_OK
    records = list(struct.iter_unpack(form, buffer))
    assert [r[1:5] for r in records] == [(r.base, r.size, r.depth, r.type) for r in newest]
    where = at(layout.region) + PAGE
    assert records[3] == (
        b"rings".ljust(32, b"\0"),
        where,
        4 * PAGE,
        3,
        MAPPING,
        READ | WRITE,
        layout.koid,
        2 * PAGE,
        *pages,
    )


# PROCESS_VMOS -------------------------------------------------------------------------------------


def test_a_process_lists_its_memory_by_handle_and_then_by_mapping(layout: Layout) -> None:
    """Source: ZX_INFO_PROCESS_VMOS: what it has twice is there twice."""
    narrow = ok(zx.zx_handle_duplicate, layout.vmo, zx.ZX_RIGHT_WAIT)
    records = info(zx.zx_process_self(), zx.ZX_INFO_PROCESS_VMOS)
    via = [
        (r.koid, r.flags & ~zx.ZX_INFO_VMO_TYPE_PAGED, r.handle_rights, r.num_mappings)
        for r in records
    ]
    assert via == [
        (layout.koid, zx.ZX_INFO_VMO_VIA_HANDLE, zx.ZX_DEFAULT_VMO_RIGHTS, 3),
        (layout.koid, zx.ZX_INFO_VMO_VIA_HANDLE, zx.ZX_RIGHT_WAIT, 3),
        *[(layout.koid, zx.ZX_INFO_VMO_VIA_MAPPING, zx.ZX_RIGHT_NONE, 3)] * 3,
    ]
    for number in (narrow, layout.vmo):
        assert zx.zx_handle_close(number) == zx.ZX_OK
    left = info(zx.zx_process_self(), zx.ZX_INFO_PROCESS_VMOS)
    assert left == records[2:]


@pytest.mark.parametrize(
    ("topic", "size"),
    [
        (zx.ZX_INFO_PROCESS_VMOS_V1, 104),
        (zx.ZX_INFO_PROCESS_VMOS_V2, 120),
        (zx.ZX_INFO_PROCESS_VMOS_V3, 128),
    ],
)
def test_older_lists_have_the_beginning_of_each_record(
    layout: Layout, topic: int, size: int
) -> None:
    me = zx.zx_process_self()
    newest = [zx.zx_info_vmo_t.pack(record) for record in info(me, zx.ZX_INFO_PROCESS_VMOS)]
    assert len(newest) == 4
    assert layout.koid
    buffer = bytearray(size * 4)
    assert zx.zx_object_get_info(me, topic, buffer, len(buffer), None, None) == zx.ZX_OK
    assert [bytes(buffer[n * size :][:size]) for n in range(4)] == [raw[:size] for raw in newest]


def test_memory_is_shared_when_two_processes_map_it(process: pf.Process) -> None:
    """Source: zx_info_vmo_t, share_count: address spaces, where there are two mappings or more."""
    vmo = pf.Vmo(PAGE)
    other = pf.Process(process.kernel)
    counts = []
    for where in (process.root, process.root, other.root):
        where.map(vmo, READ)
        counts.append(info(vmo.value, zx.ZX_INFO_VMO).share_count)
    vmo.close()
    other.exit()
    assert counts == [1, 1, 2]


def test_asking_for_the_space_of_a_process_opens_no_handle(process: pf.Process) -> None:
    """A list is no change: a process that has mapped nothing has an empty space."""
    me = zx.zx_process_self()
    records = info(me, zx.ZX_INFO_PROCESS_MAPS)
    assert [record.type for record in records] == [ASPACE, VMAR]
    assert list(process.handles) == [me]
