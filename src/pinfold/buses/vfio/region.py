# One region of a device (a BAR, the configuration space), through the device's descriptor.
#
# An access is aligned and of exactly its width: one pread or pwrite, which the kernel makes one
# access of. Some kernels split eight bytes in two.
#
# Looking whether the descriptor is still ours and using it are one step, under a lock: a number
# that is closed in between is soon another file's, and a register's value would be written to that.
from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from pinfold.errors import BadState, HostError, InvalidArgs, OutOfRange, WrongProcess
from pinfold.host import vfio
from pinfold.memory.hosterrors import translated

if TYPE_CHECKING:
    from pinfold.host.vfio import RegionInfo

_EIO: Final = 5


class Region:
    """Accesses to one region; after `close` they raise `BadState`, in a child `WrongProcess`.

    Args:
      what: the region, for people.
      device: the device's descriptor, which stays the caller's.
    """

    def __init__(self, what: str, device: int, info: RegionInfo) -> None:
        self._what = what
        self._fd = device
        self._start = info.offset
        self._refusal: type[BadState] | None = None
        self.lock = threading.RLock()
        """Held over each access, and by `close`; hold it over several that belong together."""
        self.size = info.size
        """Bytes."""

    def check(self, offset: int, width: int) -> None:
        """Refuse an access that must not reach the device.

        Raises:
          BadState, WrongProcess: see the class.
          OutOfRange: it leaves the region.
          InvalidArgs: it is not aligned.
        """
        if self._refusal is not None:
            raise self._refusal(f"{self._what} was given back with its bus")
        if not 0 <= offset <= self.size - width:
            raise OutOfRange(f"{width} byte(s) leave {self._what}", asked=offset, limit=self.size)
        if offset % width:
            raise InvalidArgs(
                f"an access of {width} bytes is aligned to them", asked=offset, limit=width
            )

    def check_value(self, value: int, width: int) -> None:
        """Raise `InvalidArgs` unless ``value`` is an unsigned number of ``width`` bytes."""
        if not 0 <= value < 1 << 8 * width:
            raise InvalidArgs(f"a value of {width} byte(s), not negative", asked=value)

    def read(self, offset: int, width: int) -> int:
        """Check and read. Raises as `check`, and HostError."""
        with self.lock, translated(f"read {self._what} at {offset:#x}", asked=width):
            self.check(offset, width)
            data = vfio.read_region(self._fd, self._start + offset, width)
        self._refuse_short(len(data), offset, width)
        return int.from_bytes(data, "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Check and write. Raises as `check` and `check_value`, and HostError."""
        with self.lock, translated(f"write {self._what} at {offset:#x}", asked=width):
            self.check(offset, width)
            self.check_value(value, width)
            data = value.to_bytes(width, "little")
            done = vfio.write_region(self._fd, self._start + offset, data)
        self._refuse_short(done, offset, width)

    def _refuse_short(self, done: int, offset: int, width: int) -> None:
        if done != width:
            error = OSError(_EIO, f"{done} of {width} bytes were moved")
            raise HostError(f"{self._what} at {offset:#x}", error)

    def close(self) -> None:
        """The descriptor is about to be closed. Waits for the access that is under way."""
        with self.lock:
            self._refusal = self._refusal or BadState

    def abandon(self) -> None:
        """In a forked child."""
        self._refusal = WrongProcess
        self.lock = threading.RLock()  # a thread that is not in the child may have had the other
