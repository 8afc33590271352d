"""The guest's devices, opened: what most tests of the vfio bus begin with."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pinfold as pf
from pinfold.buses.vfio import VfioBus, VfioDevice
from pinfold.drivers.edu import EduDriver

if TYPE_CHECKING:
    from collections.abc import Iterator

READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
BOTH = READ | WRITE


def patience() -> None:
    """What a caller of a driver does between two looks; edu takes 100 ms for a transfer."""
    time.sleep(0.005)


class Opened(NamedTuple):
    """One device on a bus of its own."""

    iommu: pf.Iommu
    bus: VfioBus
    bti: pf.Bti
    device: VfioDevice


@contextmanager
def opened(address: str, *, address_bits: int = 64) -> Iterator[Opened]:
    """The device at ``address``, with its authority."""
    with pf.open_bus(f"vfio:{address}") as iommu:
        bus = iommu.bus
        assert isinstance(bus, VfioBus)
        with iommu.initiator(bus.requester, address_bits=address_bits) as bti:
            yield Opened(iommu, bus, bti, bus.device)


@contextmanager
def edu(address: str, *, address_bits: int = 64) -> Iterator[tuple[Opened, EduDriver]]:
    """An edu with its driver."""
    with opened(address, address_bits=address_bits) as found:
        registers = found.device.bar(0)
        with EduDriver(registers, found.bti, address_bits=address_bits, wait=patience) as driver:
            yield found, driver
