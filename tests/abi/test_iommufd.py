"""Every number and layout in host/abi_iommufd.py and host/iommufd.py, against the headers.

Those of a newer Linux, where the machine's own are too old: ``make headers_install`` of its source,
and CPATH set to the folder when this is run.
"""

from __future__ import annotations

import struct
from typing import Final

import pytest

from pinfold.host import abi_iommufd, iommufd
from tests.abi.test_constants import COMPILER, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

INCLUDES: Final = """
#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif
#if __has_include(<linux/vfio.h>)
#include <linux/vfio.h>
#endif
"""

CONSTANTS: Final = {
    name: value
    for name, value in vars(abi_iommufd).items()
    if name.isupper() and isinstance(value, int)
}

ENUMERATED: Final = {
    "IOMMU_IOAS_MAP_FIXED_IOVA": "IOMMU_IOAS_MAP",
    "IOMMU_IOAS_MAP_WRITEABLE": "IOMMU_IOAS_MAP",
    "IOMMU_IOAS_MAP_READABLE": "IOMMU_IOAS_MAP",
    "IOMMU_HW_INFO_TYPE_INTEL_VTD": "IOMMU_GET_HW_INFO",
}
"""Those that no #ifdef can ask for, and what they came with."""

STRUCTS: Final = {
    "DESTROY": ("iommu_destroy", "IOMMU_DESTROY", "size id"),
    "ALLOC": ("iommu_ioas_alloc", "IOMMU_IOAS_ALLOC", "size flags out_ioas_id"),
    "RANGE": ("iommu_iova_range", "IOMMU_IOAS_IOVA_RANGES", "start last"),
    "RANGES": (
        "iommu_ioas_iova_ranges",
        "IOMMU_IOAS_IOVA_RANGES",
        "size ioas_id num_iovas __reserved allowed_iovas out_iova_alignment",
    ),
    "MAP": (
        "iommu_ioas_map",
        "IOMMU_IOAS_MAP",
        "size flags ioas_id __reserved user_va length iova",
    ),
    "MAP_FILE": (
        "iommu_ioas_map_file",
        "IOMMU_IOAS_MAP_FILE",
        "size flags ioas_id fd start length iova",
    ),
    "UNMAP": ("iommu_ioas_unmap", "IOMMU_IOAS_UNMAP", "size ioas_id iova length"),
    "HW_INFO": (
        "iommu_hw_info",
        "IOMMU_GET_HW_INFO",
        "size flags dev_id data_len data_uptr out_data_type",
    ),
    "VTD_INFO": ("iommu_hw_info_vtd", "IOMMU_GET_HW_INFO", "flags __reserved cap_reg ecap_reg"),
    "BIND": (
        "vfio_device_bind_iommufd",
        "VFIO_DEVICE_BIND_IOMMUFD",
        "argsz flags iommufd out_devid",
    ),
    "ATTACH": (
        "vfio_device_attach_iommufd_pt",
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "argsz flags pt_id",
    ),
    "DETACH": ("vfio_device_detach_iommufd_pt", "VFIO_DEVICE_DETACH_IOMMUFD_PT", "argsz flags"),
}
"""Our name, the header's, the macro that came with it, and the fields that we fill in."""

OURS: Final = {name: value for name, value in vars(iommufd).items() if type(value) is struct.Struct}


def offsets(layout: struct.Struct) -> list[int]:
    """Where each field of a packed structure begins, and where the last one ends."""
    codes = layout.format.removeprefix("=").partition("4x")[0]  # what the header calls reserved
    return [struct.calcsize("=" + codes[:count]) for count in range(len(codes) + 1)]


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the headers say of each constant and of the end of each field; ``-`` for nothing."""
    lines = []

    def ask(macro: str, name: str, value: str) -> None:
        lines.append(
            f"#ifdef {macro}\n"
            f'    printf("{name} %llu\\n", (unsigned long long)({value}));\n'
            f"#else\n"
            f'    puts("{name} -");\n'
            f"#endif"
        )

    for name in sorted(CONSTANTS):
        ask(ENUMERATED.get(name, name), name, name)
    for ours, (theirs, macro, fields) in STRUCTS.items():
        kind = f"struct {theirs}"
        for at, field in enumerate(fields.split()):
            ask(macro, f"{ours}.{at}", f"offsetof({kind}, {field})")
        end = f"offsetof({kind}, {field}) + sizeof((({kind} *)0)->{field})"
        ask(macro, f"{ours}.{at + 1}", end)
    body = "\n".join(lines)
    source = f"{INCLUDES}\nint main(void)\n{{\n{body}\n    return 0;\n}}\n"
    return compiled(source, tmp_path_factory.mktemp("abi"))


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_constant_is_what_the_header_says(name: str, headers: dict[str, str]) -> None:
    """Source: the header named above the constant."""
    if headers[name] == "-":
        pytest.skip(f"the headers of this machine are too old for {name}")
    assert int(headers[name]) == CONSTANTS[name]


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_structure_has_its_fields_where_the_header_has_them(
    name: str, headers: dict[str, str]
) -> None:
    """Source: the header, as far as we fill the structure in: the kernel takes shorter ones."""
    ours = offsets(OURS[name])
    found = [headers[f"{name}.{at}"] for at in range(len(ours))]
    if "-" in found:
        pytest.skip(f"the headers of this machine are too old for struct {STRUCTS[name][0]}")
    assert [int(value) for value in found] == ours


def test_no_structure_is_left_out() -> None:
    assert OURS.keys() == STRUCTS.keys()
    for name, (_, _, fields) in STRUCTS.items():
        assert len(offsets(OURS[name])) == len(fields.split()) + 1, name
