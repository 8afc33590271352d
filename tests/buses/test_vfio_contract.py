"""The bus contract on a real device behind a real IOMMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pinfold.buses.vfio import VfioBus
from pinfold.testing import check_bus
from tests.vfio import guest
from tests.vfio.edu_master import EduMaster, reads_what_is_write_only

if TYPE_CHECKING:
    import pinfold as pf


@pytest.mark.timeout(300)
@pytest.mark.vfio("edu1")
def test_the_bus_contract(process: pf.Process) -> None:
    """Every promise, kept by the kernel; edu moves the bytes.

    Two are made smaller by what is real: the IOMMU translates page by page, so what comes before a
    border moves; and the kernel's driver may let a device read what it was to write.
    """
    address = guest.address("edu1")
    assert address is not None
    bus = VfioBus(address)
    requester = bus.requester
    bus.close()
    leaky = reads_what_is_write_only(address)
    tried = check_bus(
        lambda _: VfioBus(address),
        master=EduMaster,
        initiators=[requester],
        whole=False,
        write_only=not leaky,
    )
    assert "isolation" in tried
    assert len(tried) == 8
