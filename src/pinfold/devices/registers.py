# What every device model shares: a window of registers, and an interrupt line.
#
# It has the shape of `pinfold.drivers.mmio.Mmio` and does not import it: drivers lie above. An
# access outside the window raises, as there is no such address; what any other access does is the
# device's, and hardware does not raise.
#
# One caller at a time: a driver with several threads brings its own lock, as it does for hardware,
# where a sequence of register accesses is not atomic either.
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pinfold.errors import InvalidArgs, OutOfRange

if TYPE_CHECKING:
    from collections.abc import Callable


class Registers(ABC):
    """A window of ``size`` bytes, read and written four or eight bytes at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._listeners: list[Callable[[int], None]] = []
        self._interrupts = 0

    @property
    def size(self) -> int:
        """Bytes in the window."""
        return self._size

    def read32(self, offset: int) -> int:
        """See `pinfold.drivers.mmio.Mmio.read32`."""
        return self._read(offset, 4)

    def read64(self, offset: int) -> int:
        """See `pinfold.drivers.mmio.Mmio.read64`."""
        return self._read(offset, 8)

    def write32(self, offset: int, value: int) -> None:
        """See `pinfold.drivers.mmio.Mmio.write32`."""
        self._write(offset, value, 4)

    def write64(self, offset: int, value: int) -> None:
        """See `pinfold.drivers.mmio.Mmio.write64`."""
        self._write(offset, value, 8)

    def on_interrupt(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call ``listener`` with the interrupt status at each interrupt; the result ends that.

        It is called in the middle of the register access that caused the interrupt, after the
        device's state has changed, and may access registers itself.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _interrupt(self, status: int) -> None:
        self._interrupts += 1
        for listener in tuple(self._listeners):
            listener(status)

    def _read(self, offset: int, width: int) -> int:
        self._check(offset, width)
        return self._load(offset, width) & ((1 << 8 * width) - 1)

    def _write(self, offset: int, value: int, width: int) -> None:
        self._check(offset, width)
        value = int(value)  # a numpy number cuts itself off where we look for what is too much
        if value < 0 or value >> 8 * width:
            raise InvalidArgs(f"{value:#x} is no unsigned number of {width} bytes", asked=value)
        self._store(offset, value, width)

    def _check(self, offset: int, width: int) -> None:
        if offset < 0 or offset + width > self._size:
            raise OutOfRange(
                f"an access of {width} bytes outside the registers",
                asked=offset + width,
                limit=self._size,
            )

    @abstractmethod
    def _load(self, offset: int, width: int) -> int:
        """The value of a read; what is wider than the access is cut off."""

    @abstractmethod
    def _store(self, offset: int, value: int, width: int) -> None:
        """A write; ``value`` fits the width."""
