"""zx_object_get_info: what the records say, byte for byte where C has it.

Source: zx_object_get_info, zircon/syscalls/object.h; Zircon's kernel for what the pages leave out.
"""

from __future__ import annotations

import json
from pathlib import Path
from sys import byteorder
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.dialects.zx.records import TOPICS

from . import things
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("process")

STRUCTURES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "zircon_constants.json").read_text()
)["structs"]


def raw(number: int, topic: int) -> bytes:
    """The bytes that a topic with one record gives."""
    buffer = bytearray(TOPICS[topic].layout.size)
    assert zx.zx_object_get_info(number, topic, buffer, len(buffer), None, None) == zx.ZX_OK
    return bytes(buffer)


def in_c(structure: str, record: bytes) -> dict[str, Any]:
    """The fields of a record as the header has them: read by offset and size alone."""
    found = {}
    for field in STRUCTURES[structure]["fields"]:
        part = record[field["offset"] : field["offset"] + field["size"]]
        is_name = field["type"].startswith("char[")
        found[field["name"]] = part if is_name else int.from_bytes(part, byteorder)
    return found


def padded(name: bytes) -> bytes:
    return name.ljust(32, b"\0")


# Handles ------------------------------------------------------------------------------------------

DEFAULTS = {
    "vmo": (zx.ZX_OBJ_TYPE_VMO, zx.ZX_DEFAULT_VMO_RIGHTS),
    "region": (zx.ZX_OBJ_TYPE_VMAR, zx.ZX_DEFAULT_VMAR_RIGHTS | 0x1C),
    "iommu": (zx.ZX_OBJ_TYPE_IOMMU, zx.ZX_DEFAULT_IOMMU_RIGHTS),
    "bti": (zx.ZX_OBJ_TYPE_BTI, zx.ZX_DEFAULT_BTI_RIGHTS),
    "pmt": (zx.ZX_OBJ_TYPE_PMT, zx.ZX_DEFAULT_PMT_RIGHTS),
    "resource": (zx.ZX_OBJ_TYPE_RESOURCE, zx.ZX_DEFAULT_RESOURCE_RIGHTS),
    "process": (zx.ZX_OBJ_TYPE_PROCESS, zx.ZX_DEFAULT_PROCESS_RIGHTS),
}


@pytest.mark.parametrize("kind", things.ALL)
def test_handle_basic(process: pf.Process, kind: str) -> None:
    """Source: ZX_INFO_HANDLE_BASIC; the rights are those of a first handle."""
    number = things.ALL[kind]()
    target = process.handles[number].object
    assert target is not None
    type_, rights = DEFAULTS[kind]
    assert target.koid >= zx.ZX_KOID_FIRST
    assert in_c("zx_info_handle_basic_t", raw(number, zx.ZX_INFO_HANDLE_BASIC)) == {
        "koid": target.koid,
        "rights": rights,
        "type": type_,
        "related_koid": zx.ZX_KOID_INVALID,
        "reserved": 0,
        "padding1": 0,
    }


def test_handle_count_counts_handles_and_nothing_else() -> None:
    """Source: ZX_INFO_HANDLE_COUNT; neither mappings nor pins."""
    number, address = things.vmo(), Out()

    def count() -> dict[str, Any]:
        return in_c("zx_info_handle_count_t", raw(number, zx.ZX_INFO_HANDLE_COUNT))

    assert count() == {"handle_count": 1}
    other = ok(zx.zx_handle_duplicate, number, zx.ZX_RIGHT_NONE)
    assert count() == {"handle_count": 2}
    assert zx.zx_vmar_map(zx.zx_vmar_root_self(), 0, 0, number, 0, PAGE, address) == zx.ZX_OK
    assert count() == {"handle_count": 2}
    assert zx.zx_handle_close(other) == zx.ZX_OK
    assert count() == {"handle_count": 1}


def test_process_handle_stats_count_by_type(process: pf.Process) -> None:
    me = zx.zx_process_self()
    made = [things.vmo(), things.vmo(), things.bti()]  # a Bti comes with its IOMMU
    counts = info(me, zx.ZX_INFO_PROCESS_HANDLE_STATS).handle_count
    assert len(counts) == zx.ZX_OBJ_TYPE_UPPER_BOUND
    assert {at: count for at, count in enumerate(counts) if count} == {
        zx.ZX_OBJ_TYPE_PROCESS: 1,
        zx.ZX_OBJ_TYPE_VMO: 2,
        zx.ZX_OBJ_TYPE_IOMMU: 1,
        zx.ZX_OBJ_TYPE_BTI: 1,
    }
    assert sum(counts) == len(process.handles)
    assert all(number in process.handles for number in made)


def test_handle_table_lists_every_handle(process: pf.Process) -> None:
    """Source: ZX_INFO_HANDLE_TABLE."""
    me = zx.zx_process_self()
    number = things.vmo()
    narrow = ok(zx.zx_handle_duplicate, number, zx.ZX_RIGHT_WAIT)
    rows = info(me, zx.ZX_INFO_HANDLE_TABLE)
    assert {row.handle_value for row in rows} == set(process.handles)
    for row in rows:
        basic = info(row.handle_value, zx.ZX_INFO_HANDLE_BASIC)
        assert (row.type, row.rights, row.koid) == (basic.type, basic.rights, basic.koid)
        assert (row.reserved, row.related_koid, row.peer_owner_koid) == (0, 0, 0)
    assert next(row.rights for row in rows if row.handle_value == narrow) == zx.ZX_RIGHT_WAIT


# Regions, devices, resources ----------------------------------------------------------------------


def test_vmar_says_where_it_is_and_goes_on_saying_so() -> None:
    """Source: ZX_INFO_VMAR; a destroyed region answers; conformance list, 18."""
    root = zx.zx_vmar_root_self()
    child, address = Out(), Out()
    assert zx.zx_vmar_allocate(root, 0, 0, 3 * PAGE, child, address) == zx.ZX_OK
    expected = {"base": address.value, "len": 3 * PAGE}
    assert in_c("zx_info_vmar_t", raw(child.value, zx.ZX_INFO_VMAR)) == expected
    assert zx.zx_vmar_destroy(child.value) == zx.ZX_OK
    assert in_c("zx_info_vmar_t", raw(child.value, zx.ZX_INFO_VMAR)) == expected


def test_bti_follows_its_pins_through_quarantine() -> None:
    """Source: ZX_INFO_BTI; Zircon's own test of it."""
    bti, vmo, addrs = things.bti(), things.vmo(), bytearray(8)

    def now() -> dict[str, Any]:
        return in_c("zx_info_bti_t", raw(bti, zx.ZX_INFO_BTI))

    fresh = {
        "minimum_contiguity": PAGE,
        "aspace_size": 2**64 - 1,
        "pmo_count": 0,
        "quarantine_count": 0,
    }
    assert now() == fresh
    pmt = ok(zx.zx_bti_pin, bti, zx.ZX_BTI_PERM_READ, vmo, 0, PAGE, addrs, 1)
    assert now() == fresh | {"pmo_count": 1}
    assert zx.zx_handle_close(pmt) == zx.ZX_OK
    assert now() == fresh | {"pmo_count": 1, "quarantine_count": 1}
    assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK
    assert now() == fresh
    pmt = ok(zx.zx_bti_pin, bti, zx.ZX_BTI_PERM_READ, vmo, 0, PAGE, addrs, 1)
    assert zx.zx_pmt_unpin(pmt) == zx.ZX_OK
    assert now() == fresh


SPACES = [
    ("stub", 64, {}, PAGE, 2**64 - 1),
    ("stub", 32, {}, PAGE, 2**32),
    ("sim", 64, {}, None, 2**48),
    ("sim", 32, {}, None, 2**32),
    ("sim", 64, {"minimum_contiguity": 1 << 20}, 1 << 20, 2**48),
]


@pytest.mark.parametrize(("bus", "bits", "options", "contiguity", "size"), SPACES)
def test_bti_says_what_its_device_can_address(
    bus: str, bits: int, options: dict[str, Any], contiguity: int | None, size: int
) -> None:
    """Source: ZX_INFO_BTI: 2**64 - 1 stands for 2**64; Intel's unit has 48 bits."""
    with pf.open_bus(bus, **options) as iommu:
        made = number_of(iommu.initiator(1, address_bits=bits))
        expected = iommu.limits.minimum_contiguity if contiguity is None else contiguity
    found = info(made, zx.ZX_INFO_BTI)
    assert (found.minimum_contiguity, found.aspace_size) == (expected, size)


def test_resource_says_what_it_stands_for() -> None:
    base = 0xE010_0000
    made = number_of(pf.Resource(base, 4 * PAGE, name="uart", exclusive=True))
    assert in_c("zx_info_resource_t", raw(made, zx.ZX_INFO_RESOURCE)) == {
        "kind": zx.ZX_RSRC_KIND_MMIO,
        "flags": zx.ZX_RSRC_FLAG_EXCLUSIVE,
        "base": base,
        "size": 4 * PAGE,
        "name": padded(b"uart"),
    }
    shared = info(things.resource(), zx.ZX_INFO_RESOURCE)
    assert (shared.flags, shared.name) == (0, "registers")


# Memory objects -----------------------------------------------------------------------------------


def child(options: int, parent: Callable[[], int] = things.vmo, size: int = PAGE) -> int:
    made: int = ok(zx.zx_vmo_create_child, parent(), options, 0, size)
    return made


def physical() -> int:
    made: int = ok(zx.zx_vmo_create_physical, things.resource(), 0xE000_0000, PAGE)
    return made


PAGED, HANDLE = zx.ZX_INFO_VMO_TYPE_PAGED, zx.ZX_INFO_VMO_VIA_HANDLE
RESIZABLE, CONTIGUOUS = zx.ZX_INFO_VMO_RESIZABLE, zx.ZX_INFO_VMO_CONTIGUOUS
COW, IMMUTABLE = zx.ZX_INFO_VMO_IS_COW_CLONE, zx.ZX_INFO_VMO_IMMUTABLE

FLAGS: dict[str, tuple[Callable[[], int], int]] = {
    "plain": (things.vmo, PAGED),
    "resizable": (lambda: things.vmo(PAGE, zx.ZX_VMO_RESIZABLE), PAGED | RESIZABLE),
    "discardable": (
        lambda: things.vmo(PAGE, zx.ZX_VMO_DISCARDABLE),
        PAGED | zx.ZX_INFO_VMO_DISCARDABLE,
    ),
    "unbounded": (lambda: things.vmo(PAGE, zx.ZX_VMO_UNBOUNDED), PAGED),
    "contiguous": (things.contiguous, PAGED | CONTIGUOUS),
    "physical": (physical, CONTIGUOUS),
    "slice": (lambda: child(zx.ZX_VMO_CHILD_SLICE), PAGED),
    "slice of contiguous": (
        lambda: child(zx.ZX_VMO_CHILD_SLICE, things.contiguous),
        PAGED | CONTIGUOUS,
    ),
    "slice of physical": (lambda: child(zx.ZX_VMO_CHILD_SLICE, physical), CONTIGUOUS),
    "reference": (lambda: child(zx.ZX_VMO_CHILD_REFERENCE, size=0), PAGED),
    "snapshot": (lambda: child(zx.ZX_VMO_CHILD_SNAPSHOT), PAGED | COW),
    "on write": (lambda: child(zx.ZX_VMO_CHILD_SNAPSHOT_AT_LEAST_ON_WRITE), PAGED | COW),
    "modified": (lambda: child(zx.ZX_VMO_CHILD_SNAPSHOT_MODIFIED), PAGED | COW),
    "resizable snapshot": (
        lambda: child(zx.ZX_VMO_CHILD_SNAPSHOT | zx.ZX_VMO_CHILD_RESIZABLE),
        PAGED | COW | RESIZABLE,
    ),
    "immutable": (
        lambda: child(zx.ZX_VMO_CHILD_SNAPSHOT | zx.ZX_VMO_CHILD_NO_WRITE),
        PAGED | COW | IMMUTABLE,
    ),
    "slice nobody writes": (
        lambda: child(zx.ZX_VMO_CHILD_SLICE | zx.ZX_VMO_CHILD_NO_WRITE),
        PAGED,
    ),
}


@pytest.mark.parametrize(("make", "flags"), FLAGS.values(), ids=FLAGS)
def test_vmo_flags_are_those_of_its_kind(make: Callable[[], int], flags: int) -> None:
    """Source: ZX_INFO_VMO. Exactly these; IMMUTABLE is said here and in no list."""
    number = make()
    assert info(number, zx.ZX_INFO_VMO).flags == flags | HANDLE
    listed = info(zx.zx_process_self(), zx.ZX_INFO_PROCESS_VMOS)
    koid = info(number, zx.ZX_INFO_VMO).koid
    assert [row.flags for row in listed if row.koid == koid] == [flags & ~IMMUTABLE | HANDLE]


def test_vmo_every_field() -> None:
    """Source: ZX_INFO_VMO, zx_info_vmo_t."""
    number = things.vmo(4 * PAGE - 5, zx.ZX_VMO_RESIZABLE)
    assert zx.zx_object_set_property(number, zx.ZX_PROP_NAME, b"ring", 4) == zx.ZX_OK
    assert zx.zx_vmo_write(number, b"x", PAGE, 1) == zx.ZX_OK
    ok(zx.zx_vmo_create_child, number, zx.ZX_VMO_CHILD_REFERENCE, 0, 0)
    address = Out()
    assert zx.zx_vmar_map(zx.zx_vmar_root_self(), 0, 0, number, 0, PAGE, address) == zx.ZX_OK
    narrow = ok(
        zx.zx_handle_duplicate, number, zx.ZX_RIGHT_WAIT
    )  # and no INSPECT: the topic asks for no right
    found = in_c("zx_info_vmo_t", raw(narrow, zx.ZX_INFO_VMO))
    assert found == {
        "koid": info(number, zx.ZX_INFO_HANDLE_BASIC).koid,
        "name": padded(b"ring"),
        "size_bytes": 4 * PAGE,
        "parent_koid": 0,
        "num_children": 1,
        "num_mappings": 1,
        "share_count": 1,
        "flags": PAGED | RESIZABLE | HANDLE,
        "padding1": 0,
        "committed_bytes": PAGE,
        "handle_rights": zx.ZX_RIGHT_WAIT,
        "cache_policy": zx.ZX_CACHE_POLICY_CACHED,
        "metadata_bytes": 0,
        "committed_change_events": 0,
        "populated_bytes": PAGE,
        "committed_private_bytes": PAGE,
        "populated_private_bytes": PAGE,
        "committed_scaled_bytes": PAGE,
        "populated_scaled_bytes": PAGE,
        "committed_fractional_scaled_bytes": 0,
        "populated_fractional_scaled_bytes": 0,
    }


OLDER = [zx.ZX_INFO_VMO_V1, zx.ZX_INFO_VMO_V2, zx.ZX_INFO_VMO_V3]


@pytest.mark.parametrize("make", [made for made, _ in FLAGS.values()], ids=FLAGS)
def test_vmo_older_versions_are_the_beginning_of_the_newest(make: Callable[[], int]) -> None:
    """Source: zircon/syscalls/object.h: 104, 120, 128 and 176 bytes."""
    number = make()
    newest = raw(number, zx.ZX_INFO_VMO)
    for topic, size in zip(OLDER, (104, 120, 128), strict=True):
        assert raw(number, topic) == newest[:size]


def test_vmo_names_its_parent_while_it_is_there() -> None:
    """A middle object's child is its grandparent's then. Source: zx_vmo_create_child."""
    top = things.vmo()
    middle = ok(zx.zx_vmo_create_child, top, zx.ZX_VMO_CHILD_SNAPSHOT, 0, PAGE)
    low = ok(zx.zx_vmo_create_child, middle, zx.ZX_VMO_CHILD_SNAPSHOT, 0, PAGE)
    koid = {each: info(each, zx.ZX_INFO_VMO).koid for each in (top, middle, low)}

    def parent(number: int) -> int:
        found: int = info(number, zx.ZX_INFO_VMO).parent_koid
        return found

    assert [parent(each) for each in (top, middle, low)] == [0, koid[top], koid[middle]]
    assert zx.zx_handle_close(middle) == zx.ZX_OK
    assert parent(low) == koid[top]
    assert info(top, zx.ZX_INFO_VMO).num_children == 1
    assert zx.zx_handle_close(top) == zx.ZX_OK
    orphan = info(low, zx.ZX_INFO_VMO)
    assert (orphan.parent_koid, orphan.flags & COW) == (0, 0)


def test_vmo_memory_is_charged_to_its_owner() -> None:
    """Neither to a slice nor to a reference, not even when the owner's handle is gone."""
    owner = things.vmo(2 * PAGE)
    assert zx.zx_vmo_write(owner, b"x", 0, 1) == zx.ZX_OK
    slice_ = ok(zx.zx_vmo_create_child, owner, zx.ZX_VMO_CHILD_SLICE, 0, PAGE)
    reference = ok(zx.zx_vmo_create_child, owner, zx.ZX_VMO_CHILD_REFERENCE, 0, 0)
    assert info(owner, zx.ZX_INFO_VMO).committed_bytes == PAGE
    assert zx.zx_handle_close(owner) == zx.ZX_OK
    for sharer in (slice_, reference):
        assert info(sharer, zx.ZX_INFO_VMO).committed_bytes == 0
        assert info(sharer, zx.ZX_INFO_VMO).populated_bytes == 0


def test_vmo_counts_how_often_it_was_reclaimed(kernel: pf.Kernel) -> None:
    """Source: zx_info_vmo_t, committed_change_events."""
    number = things.vmo(PAGE, zx.ZX_VMO_DISCARDABLE)
    state = bytearray(32)
    lock, unlock = zx.ZX_VMO_OP_LOCK, zx.ZX_VMO_OP_UNLOCK
    assert zx.zx_vmo_op_range(number, lock, 0, PAGE, state, 32) == zx.ZX_OK
    assert zx.zx_vmo_write(number, b"x", 0, 1) == zx.ZX_OK
    assert zx.zx_vmo_op_range(number, unlock, 0, PAGE, None, 0) == zx.ZX_OK
    assert info(number, zx.ZX_INFO_VMO).committed_change_events == 0
    assert kernel.reclaim() == PAGE
    after = info(number, zx.ZX_INFO_VMO)
    assert (after.committed_change_events, after.committed_bytes) == (1, 0)


def test_vmo_cache_policy_is_what_was_set() -> None:
    number = things.vmo()
    assert zx.zx_vmo_set_cache_policy(number, zx.ZX_CACHE_POLICY_WRITE_COMBINING) == zx.ZX_OK
    assert info(number, zx.ZX_INFO_VMO).cache_policy == zx.ZX_CACHE_POLICY_WRITE_COMBINING
    assert info(physical(), zx.ZX_INFO_VMO).cache_policy == zx.ZX_CACHE_POLICY_UNCACHED
