"""The dialect's numbers and structures are Zircon's, and nothing of either is missing."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from pinfold.dialects import Out, zx
from pinfold.dialects.zx import numbers
from pinfold.dialects.zx.records import TOPICS
from pinfold.dialects.zx.status import STATUSES
from pinfold.errors import Status
from pinfold.objects.process import Process
from pinfold.units import PAGE_SIZE

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "zircon_constants.json").read_text()
)
STRUCTURES: dict[str, Any] = DATA["structs"]
SECTIONS = [
    name
    for name, section in DATA.items()
    if name not in ("_about", "kernel_internal", "structs", "struct_for_topic")
    and isinstance(section, dict)
]

CALLS = [
    "zx_handle_close",
    "zx_handle_close_many",
    "zx_handle_duplicate",
    "zx_handle_replace",
    "zx_handle_check_valid",
    "zx_object_get_info",
    "zx_object_get_property",
    "zx_object_set_property",
    "zx_object_wait_one",
    "zx_resource_create",
    "zx_vmo_create",
    "zx_vmo_create_child",
    "zx_vmo_create_contiguous",
    "zx_vmo_create_physical",
    "zx_vmo_read",
    "zx_vmo_write",
    "zx_vmo_get_size",
    "zx_vmo_set_size",
    "zx_vmo_get_stream_size",
    "zx_vmo_set_stream_size",
    "zx_vmo_op_range",
    "zx_vmo_set_cache_policy",
    "zx_vmo_replace_as_executable",
    "zx_vmo_transfer_data",
    "zx_vmar_allocate",
    "zx_vmar_destroy",
    "zx_vmar_map",
    "zx_vmar_unmap",
    "zx_vmar_protect",
    "zx_vmar_op_range",
    "zx_iommu_create",
    "zx_bti_create",
    "zx_bti_pin",
    "zx_bti_release_quarantine",
    "zx_pmt_unpin",
]

HELPERS = [
    "handle_transfer",
    "iommu_from_bus",
    "root_resource",
    "unpack",
    "zx_process_self",
    "zx_status_get_string",
    "zx_vmar_root_self",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_its_name_and_value(section: str) -> None:
    """Source: the public headers."""
    assert DATA[section]
    for name, value in DATA[section].items():
        assert getattr(zx, name) == value, name
        assert name in zx.__all__


def test_there_is_no_number_that_no_header_has() -> None:
    """Beside those of the data: what a program has from its machine and its clock."""
    known = {name for section in SECTIONS for name in DATA[section]}
    known |= {name.removesuffix("__x86_64_only") for name in known}
    ours = {name for name in vars(numbers) if name.startswith("ZX_")}
    assert ours - known == {"ZX_PAGE_SIZE", "ZX_TIME_INFINITE", "ZX_TIME_INFINITE_PAST"}


def test_the_page_is_the_machines_and_time_has_64_bits() -> None:
    assert zx.ZX_PAGE_SIZE == PAGE_SIZE
    assert zx.ZX_TIME_INFINITE == 2**63 - 1
    assert zx.ZX_TIME_INFINITE_PAST == -(2**63)
    assert zx.ZX_HANDLE_INVALID == 0


def test_every_call_is_there_and_nothing_else() -> None:
    """Source: the calls that this dialect promises."""
    public = {name for name in zx.__all__ if not name.startswith("ZX_")}
    assert public == {*CALLS, *HELPERS, *STRUCTURES, "Out", "Process"}
    assert len(zx.__all__) == len(set(zx.__all__))
    assert all(callable(getattr(zx, name)) for name in (*CALLS, *HELPERS))
    assert zx.Out is Out
    assert zx.Process is Process


def test_no_parameter_has_a_default() -> None:
    """A call takes what its page says, and all of it."""
    for name in CALLS:
        parameters = inspect.signature(getattr(zx, name)).parameters.values()
        assert all(p.default is p.empty for p in parameters), name


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_laid_out_as_in_c(name: str) -> None:
    """Source: the headers' structures, with the offsets that a C compiler for LP64 gives them."""
    layout = getattr(zx, name)
    fields = {
        # The one union is written as a field of its own in the data.
        field["name"].replace("u_mapping", "u"): field["offset"]
        for field in STRUCTURES[name]["fields"]
        if not field["name"].startswith("padding")
    }
    assert layout.size == STRUCTURES[name]["size"]
    assert layout.offsets == fields


@pytest.mark.parametrize("topic", DATA["struct_for_topic"])
def test_a_topic_has_the_structure_that_the_headers_say(topic: str) -> None:
    assert TOPICS[getattr(zx, topic)].layout.name == DATA["struct_for_topic"][topic]


def test_every_reaction_has_a_status() -> None:
    """The table from pinfold's statuses is total, and no error is turned into success."""
    assert set(STATUSES) == set(Status)
    assert all(number < 0 for number in STATUSES.values())


def test_a_status_has_its_name() -> None:
    """Source: zx_status_get_string."""
    for name, value in DATA["status"].items():
        assert zx.zx_status_get_string(value) == name
    assert zx.zx_status_get_string(-5) == "(UNKNOWN)"
    assert zx.zx_status_get_string(1) == "(UNKNOWN)"
    with pytest.raises(OverflowError):
        zx.zx_status_get_string(1 << 31)
    with pytest.raises(TypeError):
        zx.zx_status_get_string("OK")  # type: ignore[arg-type]  # what is tried here
