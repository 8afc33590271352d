# A device's memory, mapped into this process, in accesses of exactly one width.
#
# A register is not memory: reading it may change it, and a read of four bytes is not four reads of
# one. memoryview and struct copy by memcpy or by bytes, whichever their build likes. A ctypes array
# of a fixed-width integer does a load or store of that width for each item, aligned; the width is
# tested against a device that answers only to the right one (tests/vfio/test_device.py).
#
# The mapping is never unmapped while somebody may be inside an access: `close` puts ordinary memory
# in its place, in one step, which lets go of the device, and the addresses go when the object does.
# So an access that races with `close` reads or writes nothing, and does not end the process.
#
# A forked child inherits a mapping of a device, and would keep its group busy: MADV_DONTFORK.
from __future__ import annotations

import ctypes
from typing import Any, Final

from pinfold.host import calls
from pinfold.host.abi import (
    MADV_DONTFORK,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)

_TYPES: Final[dict[int, Any]] = {
    1: ctypes.c_uint8,
    2: ctypes.c_uint16,
    4: ctypes.c_uint32,
    8: ctypes.c_uint64,
}


class MappedRegisters:
    """``size`` bytes of a device's file from ``offset``, mapped; both whole pages.

    Raises:
      OSError: the kernel refused; nothing is mapped.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.size = size
        address = calls.mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset)
        self._address: int | None = address
        try:
            calls.madvise(address, size, MADV_DONTFORK)
        except BaseException:
            self._address = None
            calls.munmap(address, size)
            raise
        self._items = {
            width: (kind * (size // width)).from_address(address) for width, kind in _TYPES.items()
        }

    def read(self, offset: int, width: int) -> int:
        """One load. ``offset`` is aligned and inside; the caller has checked."""
        value: int = self._items[width][offset // width]
        return value

    def write(self, offset: int, width: int, value: int) -> None:
        """One store. As `read`; and ``value`` fits."""
        self._items[width][offset // width] = value

    def close(self) -> None:
        """Let go of the device. What comes too late reads and writes ordinary memory."""
        if self._address is not None:
            flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED
            calls.mmap(self._address, self.size, PROT_READ | PROT_WRITE, flags, -1, 0)

    def abandon(self) -> None:
        """In a forked child: nothing is mapped here, and something else may be later."""
        self._address = None
        self._items = {}

    def __del__(self) -> None:
        address = getattr(self, "_address", None)
        if address is not None:
            calls.munmap(address, self.size)
