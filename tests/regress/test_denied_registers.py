"""The registers of an IOMMU were denied to everybody before there was an IOMMU.

If it could not be made after that, its addresses stayed denied for good: no resource could be had
for them any more, and the next attempt had nothing to show for it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.buses import sim
from pinfold.errors import AccessDenied, NoMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
REGISTERS = 0xFED9_0000
INTEL = 1
DESCRIPTOR = struct.pack("<QHBBHH", REGISTERS, 0, 1, 0, 0, 0)


@pytest.fixture
def root(process: pf.Process) -> Iterator[pf.Resource]:
    """The authority to make an IOMMU."""
    with pf.Resource.root(process=process) as made:
        yield made


@pytest.mark.parametrize(
    "refusal", [NoMemory("no memory for a bus"), MemoryError(), KeyboardInterrupt()], ids=repr
)
def test_registers_are_denied_when_there_is_an_iommu_and_not_before(
    root: pf.Resource, monkeypatch: pytest.MonkeyPatch, refusal: BaseException
) -> None:
    """Source: zx_iommu_create; Zircon denies the registers of an IOMMU that it drives."""

    def refuse(*_: Any, **__: Any) -> None:
        raise refusal

    with monkeypatch.context() as patch:
        patch.setattr(sim, "open_bus", refuse)
        with pytest.raises(type(refusal)):
            pf.Iommu.create(root, INTEL, DESCRIPTOR)
    with pf.Resource(REGISTERS, PAGE):
        pass
    with pf.Iommu.create(root, INTEL, DESCRIPTOR), pytest.raises(AccessDenied):
        pf.Resource(REGISTERS, PAGE)
