# What a copier's driver and its callers exchange: descriptors, reports, and the error of a stop.
#
# Source: the opening comment of `pinfold.devices.copier`. The numbers are written out again here;
# see `drivers/edu.py` for why.
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from pinfold.errors import PinfoldError, Status
from pinfold.units import MIB

CODES: Final = {
    1: "done",
    2: "its source was stopped by the bus",
    3: "its destination was stopped by the bus",
    4: "it is no valid descriptor",
    5: "the ring was stopped by the bus",
    6: "the ring is no valid ring",
    7: "the doorbell rang beyond the ring",
}
"""The engine's codes, in words."""

LONGEST: Final = 16 * MIB
"""Bytes in one descriptor at most."""

LARGEST_RING: Final = 1 << 16
"""Descriptors in a ring at most."""

DESCRIPTOR: Final = np.dtype(
    [
        ("source", "<u8"),
        ("destination", "<u8"),
        ("length", "<u4"),
        ("flags", "<u4"),
        ("status", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""One descriptor as the engine fetches it."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What an engine did with one list."""

    descriptors: int
    bytes_moved: int
    polls: int


@dataclass(frozen=True, slots=True)
class CopierDriverStatistics:
    """What a driver has done."""

    ring: int
    """Descriptors that fit the ring at once."""
    submitted: int
    completed: int
    bytes_moved: int
    """By completed descriptors."""
    failures: int
    polls: int


class CopyStopped(PinfoldError, RuntimeError):
    """The engine stopped at one descriptor; it has been reset and takes work again.

    Attributes:
      code: the engine's, see `CODES`.
      index: the descriptor, counted from the start of the list.
      source, destination, length: that descriptor; a part of it may have been moved.
      address: the device address that was stopped; 0 where the bus stopped nothing.
      bytes_moved: by the descriptors before it, all of which were done.
    """

    status: ClassVar[Status] = Status.IO

    def __init__(
        self, code: int, index: int, descriptor: np.void, address: int, bytes_moved: int
    ) -> None:
        self.code = code
        self.index = index
        self.source = int(descriptor["source"])
        self.destination = int(descriptor["destination"])
        self.length = int(descriptor["length"])
        self.address = address
        self.bytes_moved = bytes_moved
        where = f" at {address:#x}" if address else ""
        super().__init__(
            f"descriptor {index}, {self.length:#x} bytes from {self.source:#x} to "
            f"{self.destination:#x}: {CODES.get(code, 'unknown code')}{where}",
            asked=self.length,
            available=bytes_moved,
            remedy="see the bus's fault log for whose memory it was",
        )
