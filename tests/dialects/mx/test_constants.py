"""The dialect's numbers and structures are Magenta's, and nothing of either is missing."""

from __future__ import annotations

import inspect
import json
import pydoc
from pathlib import Path
from typing import Any

import pytest

from pinfold.dialects import Out, mx, zx
from pinfold.dialects.mx import numbers
from pinfold.dialects.mx.records import TOPICS
from pinfold.dialects.mx.status import STATUSES
from pinfold.errors import BufferTooSmall, NotSupported, Status
from pinfold.memory.counts import MAX_PINS
from pinfold.objects.magenta import rights
from pinfold.objects.process import Process
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "magenta_constants.json").read_text()
)
SECTIONS = [
    name
    for name in DATA
    if not name.startswith(("_", "history_")) and name not in ("kernel_internal", "not_in_magenta")
]

STRUCTURES = {
    "mx_info_handle_basic_t": (32, {"rights": 8, "type": 12, "related_koid": 16, "props": 24}),
    "mx_info_vmar_t": (16, {"base": 0, "len": 8}),
    "mx_info_resource_t": (24, {"kind": 0, "low": 8, "high": 16}),
    "mx_info_maps_mapping_t": (24, {"mmu_flags": 0, "vmo_koid": 8, "committed_pages": 16}),
    "mx_info_maps_t": (88, {"name": 0, "base": 32, "size": 40, "depth": 48, "type": 56, "u": 64}),
    "mx_info_vmo_t": (
        104,
        {"name": 8, "size_bytes": 40, "share_count": 72, "flags": 80, "handle_rights": 96},
    ),
    "mx_iommu_desc_dummy_t": (1, {"reserved": 0}),
}
"""Bytes, and where some fields are: magenta/syscalls/object.h of August 2017, on LP64."""

CALLS = [
    "mx_handle_close",
    "mx_handle_duplicate",
    "mx_handle_replace",
    "mx_object_get_info",
    "mx_vmo_create",
    "mx_vmo_read",
    "mx_vmo_write",
    "mx_vmo_get_size",
    "mx_vmo_set_size",
    "mx_vmo_op_range",
    "mx_vmo_clone",
    "mx_vmo_create_contiguous",
    "mx_vmo_create_physical",
    "mx_vmo_set_cache_policy",
    "mx_vmar_allocate",
    "mx_vmar_destroy",
    "mx_vmar_map",
    "mx_vmar_protect",
    "mx_vmar_unmap",
    "mx_iommu_create",
    "mx_bti_create",
    "mx_bti_pin",
    "mx_bti_unpin",
]

LOADER = ["mx_process_self", "mx_vmar_root_self", "mx_status_get_string"]
HELPERS = ["handle_transfer", "iommu_from_bus", "root_resource", "unpack", *LOADER]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_its_name_and_value(section: str) -> None:
    """Source: the public headers of the snapshot."""
    assert DATA[section]
    for name, value in DATA[section].items():
        assert getattr(mx, name) == value, name
        assert name in mx.__all__


def test_there_is_no_number_that_no_header_has() -> None:
    """Beside those of the data: what the records of topics say, and the page of the machine."""
    known = {name for section in SECTIONS for name in DATA[section]}
    ours = {name for name in vars(numbers) if name.startswith("MX_")}
    told = ("MX_OBJ_PROP_", "MX_INFO_MAPS_TYPE_", "MX_INFO_VMO_")
    assert {name for name in ours - known if not name.startswith(told)} == {"MX_PAGE_SIZE"}


def test_what_came_later_is_not_there() -> None:
    """Source: the names that only Zircon has."""
    later = [name for name in DATA["not_in_magenta"] if not name.startswith("_")]
    assert len(later) > 5
    assert [name for name in later if hasattr(mx, name)] == []


def test_the_kernels_own_limits_are_ours() -> None:
    inner = DATA["kernel_internal"]
    assert inner["VM_PAGE_OBJECT_MAX_PIN_COUNT"] == MAX_PINS
    assert [inner[f"IOMMU_FLAG_PERM_{perm.name}"] for perm in Perm if perm] == [1, 2, 4]
    assert mx.PAGE_SIZE == mx.MX_PAGE_SIZE == PAGE_SIZE


def test_rights_of_new_handles() -> None:
    """The objects' masks are the headers'."""
    assert mx.MX_DEFAULT_VMO_RIGHTS == rights.VMO_RIGHTS
    assert mx.MX_DEFAULT_BTI_RIGHTS == rights.BTI_RIGHTS
    assert mx.MX_DEFAULT_VMAR_RIGHTS == rights.VMAR_RIGHTS
    assert mx.MX_DEFAULT_IOMMU_RIGHTS == rights.IOMMU_RIGHTS
    assert mx.MX_DEFAULT_RESOURCE_RIGHTS == rights.RESOURCE_RIGHTS
    every = [value for name, value in DATA["rights"].items() if name != "MX_RIGHT_SAME_RIGHTS"]
    assert sum(every) == rights.KNOWN


def test_every_call_is_there_and_nothing_else() -> None:
    """Source: the calls that this dialect promises."""
    public = {name for name in mx.__all__ if not name.startswith("MX_")}
    assert public == {*CALLS, *HELPERS, *STRUCTURES, "Out", "Process", "PAGE_SIZE"}
    assert len(mx.__all__) == len(set(mx.__all__))
    assert all(callable(getattr(mx, name)) for name in (*CALLS, *HELPERS))
    assert mx.Out is Out
    assert mx.Process is Process


SIGNATURES = {
    "mx_bti_pin": "bti vmo offset size perms addrs addrs_len actual_addrs_len",
    "mx_bti_unpin": "bti addrs addrs_len",
    "mx_vmar_map": "vmar vmar_offset vmo vmo_offset len map_flags mapped_addr",
    "mx_vmar_allocate": "parent_vmar offset size map_flags child_vmar child_addr",
    "mx_vmar_protect": "vmar addr len prot",
    "mx_vmar_unmap": "vmar addr len",
    "mx_vmo_read": "handle data offset len actual",
    "mx_vmo_clone": "handle options offset size out",
    "mx_bti_create": "iommu bti_id out",
    "mx_iommu_create": "rsrc type desc desc_len out",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_shows_its_parameters_and_returns_an_int(name: str) -> None:
    """What `help` says of it; it takes what its page says, and all of it."""
    call = getattr(mx, name)
    found = inspect.signature(call)
    assert found.return_annotation in ("int", int)
    assert all(p.default is p.empty for p in found.parameters.values())
    assert list(found.parameters) == list(inspect.signature(inspect.unwrap(call)).parameters)
    if name in SIGNATURES:
        assert " ".join(found.parameters) == SIGNATURES[name]
    shown = pydoc.plain(pydoc.render_doc(call)).replace("'", "")
    assert ") -> int" in shown
    assert f"``{name}(" in (call.__doc__ or "").replace("\n    ", " ")


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_laid_out_as_in_c(name: str) -> None:
    layout, (size, offsets) = getattr(mx, name), STRUCTURES[name]
    assert layout.size == size
    assert {field: layout.offsets[field] for field in offsets} == offsets


def test_what_has_no_record_cannot_be_unpacked() -> None:
    assert set(TOPICS) == {2, 7, 13, 14, 18}
    with pytest.raises(NotSupported):
        mx.unpack(mx.MX_INFO_HANDLE_VALID, b"")
    with pytest.raises(NotSupported):
        mx.unpack("zx_info_vmo_t", bytes(500))
    with pytest.raises(BufferTooSmall):
        mx.unpack(mx.MX_INFO_PROCESS_MAPS, bytes(87), 1)
    with pytest.raises(TypeError):
        mx.unpack(mx.MX_INFO_PROCESS_MAPS, None)
    assert mx.unpack("mx_iommu_desc_dummy_t", b"\7").reserved == 7


def test_every_reaction_has_a_status() -> None:
    """The table from pinfold's statuses is total, and what both dialects have is one number."""
    assert set(STATUSES) == set(Status)
    assert all(number < 0 for number in STATUSES.values())
    for name, value in DATA["errors"].items():
        assert mx.mx_status_get_string(value) == name
        assert getattr(zx, name.replace("MX_", "ZX_"), value) == value
    assert mx.mx_status_get_string(-7) == "(UNKNOWN)"
    with pytest.raises(OverflowError):
        mx.mx_status_get_string(1 << 31)
