"""NVMe controllers to drive: in software on the simulated buses, the guest's own behind VFIO."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.devices.nvme import FileMedium, Nvme
from pinfold.drivers.nvme import NvmeDriver
from tests.vfio import guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pinfold.drivers.mmio import Mmio

REQUESTER = 0x30
DISK = 64 << 20
BLOCK = 512

STAGES = ["sim", "stub", pytest.param("vfio", marks=pytest.mark.vfio("nvme"))]
"""Where the driver's tests run."""


def patience() -> None:
    """What a caller does between two looks at real hardware."""
    time.sleep(0.001)


@dataclass
class Stage:
    """A controller, and the authority by which it reaches memory."""

    name: str
    iommu: pf.Iommu
    bti: pf.Bti
    registers: Mmio
    wait: Callable[[], None] | None = None

    @property
    def real(self) -> bool:
        """True where no one here wrote the controller."""
        return self.name == "vfio"

    def driver(self, registers: Mmio | None = None, **options: Any) -> NvmeDriver:
        """A driver of it."""
        return NvmeDriver(registers or self.registers, self.bti, wait=self.wait, **options)

    @contextmanager
    def pinned(self, size: int, contents: bytes = b"") -> Iterator[tuple[pf.Vmo, pf.Pmt]]:
        """Memory of ``size`` bytes that the device may read and write."""
        with (
            pf.Vmo(size, name="data") as memory,
            self.bti.pin(memory, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
        ):
            memory.write(contents)
            yield memory, pmt


@contextmanager
def software(name: str, folder: Path, **options: Any) -> Iterator[Stage]:
    """The controller in software, on a sparse file."""
    path = folder / "disk.img"
    if not path.exists():
        path.touch()
    with path.open("r+b") as file:
        file.truncate(DISK)
    with (
        FileMedium(path) as medium,
        pf.open_bus(name) as iommu,
        iommu.initiator(REQUESTER) as bti,
    ):
        yield Stage(name, iommu, bti, Nvme(bti.master(), medium, **options))


@contextmanager
def hardware() -> Iterator[Stage]:
    """The guest's controller. What is on its disk may be overwritten."""
    address = guest.address("nvme")
    assert address is not None, "the mark vfio has seen to it"
    with pf.open_bus(f"vfio:{address}") as iommu, iommu.initiator(REQUESTER) as bti:
        device = bti.device()
        yield Stage("vfio", iommu, bti, device.bar(0), patience)


class Watched:
    """Registers whose accesses a test sees, and may change, before they go on.

    Args:
      registers: whose they are.
      reading: given offset and value read, gives the value that is read.
      writing: given offset and value; False keeps the write from going on.
    """

    def __init__(
        self,
        registers: Mmio,
        *,
        reading: Callable[[int, int], int] = lambda _, value: value,
        writing: Callable[[int, int], object] = lambda _, __: True,
    ) -> None:
        self._registers = registers
        self._reading = reading
        self._writing = writing

    @property
    def size(self) -> int:
        return self._registers.size

    def read32(self, offset: int) -> int:
        return self._reading(offset, self._registers.read32(offset))

    def write32(self, offset: int, value: int) -> None:
        if self._writing(offset, value) is not False:
            self._registers.write32(offset, value)

    def read64(self, offset: int) -> int:
        raise AssertionError(f"an access of eight bytes at {offset:#x}: not everybody takes that")

    def write64(self, offset: int, value: int) -> None:
        raise AssertionError(f"a write of {value:#x} to eight bytes at {offset:#x}")
