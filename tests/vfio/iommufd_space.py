"""What the tests of iommufd in a guest begin with."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pinfold.buses.vfio.iommufd import IommufdContainer
from pinfold.buses.vfio.open import find_device
from pinfold.host import calls, iommufd, probe
from tests.vfio.guest import NO_IOMMUFD

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS: Final = [
    pytest.mark.vfio("edu1"),
    pytest.mark.skipif(not Path(iommufd.IOMMU).exists(), reason=NO_IOMMUFD),
]

IOVA: Final = 1 << 40


def takes_files() -> bool:
    """Linux 6.13 and later."""
    iommu = iommufd.open_iommu()
    try:
        return iommufd.has_map_file(iommu)
    finally:
        calls.close(iommu)


@contextmanager
def container(address: str) -> Iterator[IommufdContainer]:
    made = IommufdContainer(find_device(address))
    try:
        yield made
    finally:
        made.close()


def pinned_bytes() -> int:
    return probe.process_memory().pinned
