# A BAR of a real device, in the shape that drivers ask for (`pinfold.drivers.mmio.Mmio`).
#
# Where the kernel lets a part of it be mapped, an access is one load or store. Where it does not
# (an MSI-X table, a BAR smaller than a page) it is one pread or pwrite of the region, which the
# kernel makes one access of, except that some split eight bytes in two.
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pinfold.errors import BadState, HostError, InvalidArgs, OutOfRange, WrongProcess
from pinfold.host import vfio
from pinfold.host.registers import MappedRegisters
from pinfold.memory.hosterrors import each_tried, noted, translated

if TYPE_CHECKING:
    from pinfold.host.vfio import RegionInfo


class VfioBar:
    """One memory BAR. Values are little-endian; an access is aligned and of exactly its width.

    After the bus is closed every access raises `BadState`; in a forked child, `WrongProcess`.
    """

    def __init__(self, device: int, index: int, region: RegionInfo) -> None:
        self.index = index
        """Which BAR, 0 to 5."""
        self._fd = device
        self._region = region
        self._refusal: type[BadState] | None = None
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
        registers, at = self._find(offset, width)
        if registers is not None:
            return registers.read(at, width)
        with translated(f"read BAR {self.index} at {offset:#x}", asked=width):
            data = vfio.read_region(self._fd, self._region.offset + offset, width)
        if len(data) != width:
            raise _short(self.index, offset)
        return int.from_bytes(data, "little")

    def _write(self, offset: int, width: int, value: int) -> None:
        registers, at = self._find(offset, width)
        if not 0 <= value < 1 << 8 * width:
            raise InvalidArgs(f"a value of {width} byte(s), not negative", asked=value)
        if registers is not None:
            registers.write(at, width, value)
            return
        with translated(f"write BAR {self.index} at {offset:#x}", asked=width):
            data = value.to_bytes(width, "little")
            done = vfio.write_region(self._fd, self._region.offset + offset, data)
        if done != width:
            raise _short(self.index, offset)

    def _find(self, offset: int, width: int) -> tuple[MappedRegisters | None, int]:
        """The mapping that has the whole access, and where in it; None for no mapping."""
        if self._refusal is not None:
            raise self._refusal(f"BAR {self.index} was given back with its bus")
        if not 0 <= offset <= self._region.size - width:
            raise OutOfRange(
                f"{width} byte(s) leave BAR {self.index}", asked=offset, limit=self._region.size
            )
        if offset % width:
            raise InvalidArgs(
                f"an access of {width} bytes is aligned to them", asked=offset, limit=width
            )
        for start, stop, registers in self._mapped:
            if start <= offset and offset + width <= stop:
                return registers, offset - start
        return None, offset

    def close(self) -> None:
        """Let go of the device's memory. Twice is once.

        Raises HostError: the kernel refused; the mapping goes as soon as nobody has this object.
        """
        self._refusal = self._refusal or BadState
        mapped, self._mapped = self._mapped, []
        each_tried([partial(self._unmap, registers) for _, _, registers in mapped])

    def _unmap(self, registers: MappedRegisters) -> None:
        with translated(f"unmap BAR {self.index}"):
            registers.close()

    def abandon(self) -> None:
        """In a forked child: the mappings were not inherited."""
        self._refusal = WrongProcess
        for _, _, registers in self._mapped:
            registers.abandon()
        self._mapped = []


def _short(index: int, offset: int) -> HostError:
    error = OSError(5, "the kernel moved fewer bytes than asked")
    return HostError(f"BAR {index} at {offset:#x}", error)
