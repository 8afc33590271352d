"""The guest's devices, opened: what most tests of the vfio bus begin with."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import pinfold as pf
from pinfold.buses.vfio import VfioBus, VfioDevice
from pinfold.drivers.edu import EduDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.buses.vfio.open import Backend

READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
BOTH = READ | WRITE

WINDOW: Final = 5.2
"""Seconds in which the kernel's log keeps a few lines of the IOMMU's, and a little. Source:
DEFAULT_RATELIMIT_INTERVAL of <linux/ratelimit_types.h>."""

_logged: deque[float] = deque(maxlen=2)
"""When the last lines were logged, by any device: the limit is for all of them together."""


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
def opened(
    address: str, *, address_bits: int = 64, backend: Backend | None = None
) -> Iterator[Opened]:
    """The device at ``address``, with its authority."""
    with pf.open_bus(f"vfio:{address}", backend=backend) as iommu:
        bus = iommu.bus
        assert isinstance(bus, VfioBus)
        with iommu.initiator(bus.requester, address_bits=address_bits) as bti:
            yield Opened(iommu, bus, bti, bus.device)


@contextmanager
def edu(
    address: str, *, address_bits: int = 64, backend: Backend | None = None
) -> Iterator[tuple[Opened, EduDriver]]:
    """An edu with its driver."""
    with opened(address, address_bits=address_bits, backend=backend) as found:
        registers = found.device.bar(0)
        with EduDriver(registers, found.bti, address_bits=address_bits, wait=patience) as driver:
            yield found, driver


def faults_of(bus: VfioBus, access: Callable[[], object]) -> list[pf.Fault]:
    """What the kernel's log says of an access, which is of four bytes at most.

    edu makes a fault for each four bytes, and the log keeps about three lines in five seconds. So
    this waits first, when it has seen two. A line is there before the access has returned: the
    IOMMU interrupts as it stops it.
    """
    while len(_logged) == _logged.maxlen and time.monotonic() < _logged[0] + WINDOW:
        time.sleep(0.05)
    before = bus.faults.total
    access()
    new = bus.faults.total - before
    _logged.extend([time.monotonic()] * new)
    return [bus.faults[number] for number in range(-new, 0)]
