"""NVMe controllers to drive: in software on the simulated buses, the guest's own behind VFIO."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.devices.nvme import FileMedium, MemoryMedium, Nvme
from pinfold.drivers.nvme import NvmeDriver
from tests.vfio import guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pinfold.drivers.mmio import Mmio

CAP_HIGH, CC, CSTS, ASQ, ACQ = 0x04, 0x14, 0x1C, 0x28, 0x30
DOORBELLS = 0x1000
READY, FATAL, SHUTDOWN = 1, 2, 0xC
SHUT_DOWN = 0x8
ENABLE, NOTIFY = 1, 1 << 14

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

    @property
    def clean(self) -> bool:
        """True when nothing is pinned, and nothing in quarantine."""
        found = self.bti.statistics()
        return found.pins == found.quarantined == 0

    @contextmanager
    def pinned(
        self, size: int, contents: bytes | bytearray = b""
    ) -> Iterator[tuple[pf.Vmo, pf.Pmt]]:
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


class Switched(Watched):
    """A controller that can be made fatal, mute or gone, and whose doorbells can be held."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.registers, reading=self.changed, writing=self.kept)
        self.fatal = self.gone = self.stuck = self.mute = self.held = False
        self.late: list[tuple[int, int]] = []

    def changed(self, offset: int, value: int) -> int:
        if self.gone:
            return 0xFFFFFFFF
        if offset == CSTS:
            value |= FATAL * self.fatal | READY * self.stuck
            value &= ~(SHUTDOWN * self.mute)
        return value

    def kept(self, offset: int, value: int) -> bool:
        if self.held and offset >= DOORBELLS:
            self.late.append((offset, value))
            return False
        return True

    def release(self) -> None:
        self.held = False
        for offset, value in self.late:
            self.write32(offset, value)


class Bad(MemoryMedium):
    """A medium that has lost some of its blocks."""

    lost: range = range(0)

    def read(self, offset: int, size: int) -> bytes:
        self._check(offset, size)
        return super().read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        super().write(offset, data)

    def flush(self) -> None:
        self._check(0, self.size)
        super().flush()

    def _check(self, offset: int, size: int) -> None:
        if any(offset <= block * BLOCK < offset + size for block in self.lost):
            raise OSError(errno.EIO, "lost")
