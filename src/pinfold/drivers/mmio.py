# A driver's view of a device's registers, and how it waits for one.
#
# `Mmio` lives with the drivers because they are its consumer, and a consumer writes the interface:
# it asks for what a driver needs and for nothing else. Whatever provides it fits by its shape and
# imports nothing: the device models in `pinfold.devices`, which may not import this room, and a
# real BAR, which must not depend on a room of models. mypy checks the fit where the two meet.
#
# Nothing in here sleeps or looks at a clock. A driver polls a bounded number of times and lets its
# caller say what happens in between: nothing for a model, whose time is counted in reads, and a
# sleep or an eventfd for hardware.
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from pinfold.errors import PinfoldError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

POLLS: Final = 100_000
"""How often a driver looks before it gives up, unless told otherwise. An emulated register takes
microseconds to read, so this is most of a second without any wait in between."""

_ALL_ONES: Final = (1 << 32) - 1


class Mmio(Protocol):
    """The registers of one device: a memory BAR, real or modelled. Values are little-endian.

    An offset is in bytes and a multiple of the access. What an unaligned access does is the
    device's affair; it is a mistake of the driver in any case.
    """

    @property
    def size(self) -> int:
        """Bytes in the window; constant."""

    def read32(self, offset: int) -> int:
        """Four bytes in one access. Raises OutOfRange: it leaves the window."""

    def read64(self, offset: int) -> int:
        """Eight bytes in one access. Raises OutOfRange: it leaves the window."""

    def write32(self, offset: int, value: int) -> None:
        """Four bytes in one access.

        Raises:
          OutOfRange: it leaves the window.
          InvalidArgs: ``value`` is no unsigned number of four bytes.
        """

    def write64(self, offset: int, value: int) -> None:
        """Eight bytes in one access. Raises as `write32` does."""


class DeviceTimeout(PinfoldError, TimeoutError):
    """A device did not do in time what it was asked to do; it may still do it.

    Memory that was handed to it is still its own: reset or stop the device before unpinning, or
    close the pin without unpinning, which puts it in quarantine.
    """

    status: ClassVar[Status] = Status.UNAVAILABLE


class DeviceFailed(PinfoldError, RuntimeError):
    """A device answered with something that its documentation does not allow."""

    status: ClassVar[Status] = Status.IO


def read_present(registers: Mmio, offset: int) -> int:
    """A four-byte status register, which is never all ones while its device is there.

    Raises:
      DeviceFailed: it is, so the device has left the bus or has its memory decoding off.
    """
    value = registers.read32(offset)
    if value == _ALL_ONES:
        raise DeviceFailed(
            f"the register at {offset:#x} reads all ones: the device does not answer",
            asked=offset,
            remedy="see whether the device was removed, reset or unbound",
        )
    return value


def poll(
    ready: Callable[[], bool], what: str, *, polls: int, wait: Callable[[], None] | None
) -> int:
    """Call ``ready`` until it is true; how often that was.

    Args:
      what: for the message: what the device was to do.
      polls: how often to look at most.
      wait: called between two looks; None for nothing.

    Raises:
      DeviceTimeout: it was false ``polls`` times.
    """
    for count in range(1, polls + 1):
        if ready():
            return count
        if wait is not None and count < polls:
            wait()
    raise DeviceTimeout(
        f"{what}: not done after {polls} polls",
        remedy="poll more often or wait in between; reset the device before its memory is unpinned",
    )
