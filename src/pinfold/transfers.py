# Transfers between device addresses and a file, and what became of each: records, in batches.
#
# A batch is a numpy array, because a queue of a disk has thousands of them; one transfer, or one
# outcome, is a record that is made when somebody looks at it.
from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from pinfold.errors import DmaFault, HostError, InvalidArgs, NoSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.faults import Fault

TRANSFER: Final = np.dtype([("write", "?"), ("address", "u8"), ("size", "u8"), ("at", "u8")])
"""One transfer. ``write``: from memory to the file. ``address``: in memory, as the device has it.
``size``: bytes. ``at``: bytes into the file."""

_FILE_END: Final = np.uint64(1 << 63)
"""Where the offsets of files end; the largest file has a byte less."""


def transfers(found: NDArray[Any] | Iterable[tuple[bool, int, int, int]]) -> NDArray[Any]:
    """An array of `TRANSFER` of what a caller passes: such an array, or tuples in its order.

    It is a copy: what was checked stays so, whatever the caller does with his own.

    Raises:
      InvalidArgs: a number is negative or has more than 64 bits, a transfer has not four of them,
        or the array has other elements.
    """
    if not isinstance(found, np.ndarray):
        try:
            rows = [(bool(w), index(a), index(s), index(at)) for w, a, s, at in found]
            copied = np.array(rows, dtype=TRANSFER)
        except (OverflowError, ValueError, TypeError) as error:
            raise InvalidArgs(
                "a transfer is (write, address, size, at), unsigned numbers of 64 bits"
            ) from error
    elif found.dtype != TRANSFER or found.ndim != 1:
        raise InvalidArgs(
            f"transfers are an array of TRANSFER, not of {found.dtype} in {found.ndim} dimensions"
        )
    else:
        copied = found.copy()
    beyond = copied["at"] >= _FILE_END
    beyond |= copied["size"] >= _FILE_END - copied["at"]
    if beyond.any():
        first = copied[beyond][0]
        raise InvalidArgs(
            "no file has so many bytes",
            asked=int(first["at"]) + int(first["size"]),
            limit=int(_FILE_END) - 1,
        )
    return copied


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transfer."""

    moved: int
    """Bytes from its start that were moved: fewer than asked for at the end of a file, after an
    error, or where the kernel chose to stop."""
    errno: int
    """The kernel's, for what came after those bytes; 0 for none."""
    fault: Fault | None
    """The record, where it was stopped because of its device address."""


class Outcomes(Sequence[Outcome]):
    """What became of a batch, in the order of its transfers.

    Attributes:
      moved: bytes of each, ``int64``.
      errors: errno of each, ``int32``; 0 for none.
      faults: the records of those that were stopped, by index.
    """

    __slots__ = ("errors", "faults", "moved")

    def __init__(
        self, moved: NDArray[np.int64], errors: NDArray[np.int32], faults: dict[int, Fault]
    ) -> None:
        self.moved = moved
        self.errors = errors
        self.faults = faults

    def __len__(self) -> int:
        return len(self.moved)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError("no such transfer")
        return Outcome(int(self.moved[at]), int(self.errors[at]), self.faults.get(at))

    def __iter__(self) -> Iterator[Outcome]:
        return (self[at] for at in range(len(self)))

    @property
    def bytes_moved(self) -> int:
        """Over all transfers."""
        return int(self.moved.sum())

    @property
    def ok(self) -> bool:
        """True when none was stopped and none met an error; some may be short."""
        return not self.errors.any()

    def raise_first(self) -> None:
        """Raise what the first transfer met that met something.

        Raises:
          DmaFault: it was stopped because of its device address.
          NoSpace: the file system is full.
          HostError: the kernel's refusal.
        """
        failed = np.flatnonzero(self.errors)
        if not len(failed):
            return
        first = int(failed[0])
        if first in self.faults:
            raise DmaFault(self.faults[first])
        number = int(self.errors[first])
        error = OSError(number, os.strerror(number))
        what = f"transfer {first} of {len(self)}"
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{what}: {error.strerror}", remedy="free space in the file system"
            ) from error
        raise HostError(what, error)


@dataclass(frozen=True, slots=True)
class FileStatistics:
    """A file as a device, at one moment."""

    path: str
    size: int
    """Bytes in it."""
    direct: bool
    """True where transfers can go past the page cache."""
    memory_alignment: int
    """Bytes that a transfer's device address is a multiple of, to go past it; 0 for never."""
    offset_alignment: int
    """The same for its offset and its size."""
    depth: int
    """Transfers under way at once."""
    transfers: int
    bytes_moved: int
    failed: int
    """Parts of transfers that ended with an error."""
    stopped: int
    """Transfers that were stopped because of their device address."""
