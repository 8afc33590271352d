# A BAR of a real device, in the shape that drivers ask for (`pinfold.drivers.mmio.Mmio`).
#
# Where the kernel lets a part of it be mapped, an access is one load or store. Where it does not
# (an MSI-X table, a BAR smaller than a page) it goes through the region.
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pinfold.buses.vfio.region import Region
from pinfold.host.registers import MappedRegisters
from pinfold.memory.hosterrors import each_tried, noted, translated

if TYPE_CHECKING:
    from pinfold.host.vfio import RegionInfo


class VfioBar:
    """One memory BAR. Values are little-endian; an access is aligned and of exactly its width.

    After the bus is closed every access raises `BadState`; in a forked child, `WrongProcess`.

    Where it is mapped, an access is a SIGBUS, which ends the process, while the device does not
    answer to memory accesses. Two writes to its configuration space bring that about: bit 1 of the
    command register cleared, which is refused while a BAR is mapped; and a power state other than
    D0 in the power management capability, which is yours to undo before the next access.
    """

    def __init__(self, device: int, index: int, region: RegionInfo) -> None:
        self.index = index
        """Which BAR, 0 to 5."""
        self._region = Region(f"BAR {index}", device, region)
        self._mapped: list[tuple[int, int, MappedRegisters]] = []
        try:
            for start, stop in region.mappable:
                with translated(f"map BAR {index}", asked=stop - start):
                    registers = MappedRegisters(device, region.offset + start, stop - start)
                self._mapped.append((start, stop, registers))
        except BaseException as error:
            with noted("unmapping it", error):
                self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes in the window."""
        return self._region.size

    @property
    def mapped(self) -> bool:
        """True while any of it is mapped into this process."""
        return bool(self._mapped)

    def read8(self, offset: int) -> int:
        """One byte. Raises OutOfRange: it leaves the window."""
        return self._read(offset, 1)

    def read16(self, offset: int) -> int:
        """Two bytes in one access.

        Raises:
          OutOfRange: it leaves the window.
          InvalidArgs: ``offset`` is no multiple of two.
        """
        return self._read(offset, 2)

    def read32(self, offset: int) -> int:
        """Four bytes in one access. Raises as `read16` does."""
        return self._read(offset, 4)

    def read64(self, offset: int) -> int:
        """Eight bytes in one access. Raises as `read16` does."""
        return self._read(offset, 8)

    def write8(self, offset: int, value: int) -> None:
        """One byte.

        Raises:
          OutOfRange: it leaves the window.
          InvalidArgs: ``value`` is no unsigned number of one byte.
        """
        self._write(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        """Two bytes in one access.

        Raises:
          OutOfRange: it leaves the window.
          InvalidArgs: ``offset`` is no multiple of two, or ``value`` no unsigned number of two
            bytes.
        """
        self._write(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        """Four bytes in one access. Raises as `write16` does."""
        self._write(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        """Eight bytes in one access. Raises as `write16` does."""
        self._write(offset, 8, value)

    def _read(self, offset: int, width: int) -> int:
        self._region.check(offset, width)
        for start, stop, registers in self._mapped:
            if start <= offset and offset + width <= stop:
                return registers.read(offset - start, width)
        return self._region.read(offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        self._region.check(offset, width)  # no lock: `MappedRegisters` is safe against its end
        self._region.check_value(value, width)
        for start, stop, registers in self._mapped:
            if start <= offset and offset + width <= stop:
                registers.write(offset - start, width, value)
                return
        self._region.write(offset, width, value)

    def close(self) -> None:
        """Let go of the device's memory. Twice is once.

        Raises HostError: the kernel refused; the mapping goes as soon as nobody has this object.
        """
        self._region.close()
        mapped, self._mapped = self._mapped, []
        each_tried([partial(self._unmap, registers) for _, _, registers in mapped])

    def _unmap(self, registers: MappedRegisters) -> None:
        with translated(f"unmap BAR {self.index}"):
            registers.close()

    def abandon(self) -> None:
        """In a forked child: the mappings were not inherited."""
        self._region.abandon()
        for _, _, registers in self._mapped:
            registers.abandon()
        self._mapped = []
