"""Every number in host/abi_vfio.py, and every structure in host/vfio.py, against the headers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import pytest

from pinfold.host import abi_vfio
from tests.abi.test_constants import COMPILER, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

CONSTANTS: Final = {
    name: value
    for name, value in vars(abi_vfio).items()
    if isinstance(value, int) and name.startswith(("VFIO_", "PCI_"))
}

STRUCTURES: Final = {
    "struct vfio_group_status": "=II",
    "struct vfio_device_info": "=5I",
    "struct vfio_region_info": "=IIIIQQ",
    "struct vfio_irq_info": "=4I",
    "struct vfio_irq_set": "=5I",
    "struct vfio_iommu_type1_info": "=IIQI4x",
    "struct vfio_iommu_type1_dma_map": "=IIQQQ",
    "struct vfio_iommu_type1_dma_unmap": "=IIQQ",
    "struct vfio_info_cap_header": "=HHI",
    "struct vfio_iommu_type1_info_cap_iova_range": "=HHIII",
    "struct vfio_iova_range": "=QQ",
    "struct vfio_iommu_type1_info_dma_avail": "=HHII",
    "struct vfio_region_info_cap_sparse_mmap": "=HHIII",
    "struct vfio_region_sparse_mmap_area": "=QQ",
}
"""As host/vfio.py packs and unpacks them. Newer headers have fields behind these: what a caller
says it has room for decides."""

GROWN: Final = {"struct vfio_device_info"}

OTHER_NAMES: Final = {"VFIO_TYPE1v2_IOMMU": "VFIO_TYPE1v2_IOMMU"}


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the headers say: constants, which may be enumerators, and sizes of structures."""
    if not Path("/usr/include/linux/vfio.h").exists():
        pytest.skip("the kernel's headers are not installed")
    lines = [f'    printf("{name} %llu\\n", (unsigned long long)({name}));' for name in CONSTANTS]
    lines += [
        f'    printf("{name.removeprefix("struct ")} %zu\\n", sizeof({name}));'
        for name in STRUCTURES
    ]
    body = "\n".join(lines)
    source = (
        "#include <stdio.h>\n#include <linux/pci_regs.h>\n#include <linux/vfio.h>\n"
        f"int main(void)\n{{\n{body}\n    return 0;\n}}\n"
    )
    return compiled(source, tmp_path_factory.mktemp("abi"))


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_constant_is_what_the_header_says(name: str, headers: dict[str, str]) -> None:
    """Source: the header named above the constant."""
    assert int(headers[name]) == CONSTANTS[name]


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_a_structure_is_as_long_as_it_is_packed(name: str, headers: dict[str, str]) -> None:
    """Tail padding may be missing from ours, and new fields: both are behind what we use."""
    size, ours = int(headers[name.removeprefix("struct ")]), struct.calcsize(STRUCTURES[name])
    assert ours == size or (name in GROWN and ours < size) or size - ours in (0, 4)
