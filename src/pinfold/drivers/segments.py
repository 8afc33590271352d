# Parts of pins as a device takes them: runs of device addresses, in numpy arrays.
#
# A pin of a gigabyte on a bus without translation has a quarter of a million extents. Everything
# here is a fixed number of numpy operations on them; no Python loop sees an extent.
#
# Addresses are uint64 and may end at 2**64, so the last byte of a run is what is compared, never
# the byte after it. Lengths and offsets are int64: numpy makes floating point of the two mixed.
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pinfold.bus import Extent
from pinfold.errors import InvalidArgs, OutOfRange, OutOfReach
from pinfold.units import DevVa, human_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.bus import Extents


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Runs of device addresses that stand for consecutive bytes of memory."""

    addresses: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    """Bytes; each > 0."""

    @classmethod
    def run(cls, address: int, size: int) -> Segments:
        """One run. Raises InvalidArgs: ``size`` is not > 0, or it is no range of addresses."""
        if size <= 0 or not 0 <= address <= address + size - 1 < 1 << 64:
            raise InvalidArgs(f"{size:#x} bytes at {address:#x} are no range of device addresses")
        return cls(np.array([address], dtype=np.uint64), np.array([size], dtype=np.int64))

    @classmethod
    def of(cls, extents: Extents, offset: int, size: int) -> Segments:
        """The runs behind ``size`` bytes from ``offset``; neighbours in one piece.

        Raises:
          InvalidArgs: ``size`` is not > 0, or ``offset`` is negative.
          OutOfRange: the range leaves the pin (``.limit``).
        """
        if size <= 0 or offset < 0:
            raise InvalidArgs(f"{size:#x} bytes at offset {offset:#x} are no part of a pin")
        if offset + size > extents.size:
            raise OutOfRange("the range leaves the pin", asked=offset + size, limit=extents.size)
        chunk = extents.chunk
        first, last = offset // chunk, -(-(offset + size) // chunk)
        addresses = extents.addresses(chunk)[first:last].copy()
        lengths = np.full(last - first, chunk, dtype=np.int64)
        addresses[0] += np.uint64(offset - first * chunk)
        lengths[0] -= offset - first * chunk
        lengths[-1] -= last * chunk - (offset + size)
        # A device asks for as many descriptors as there are runs: join what happens to follow on.
        ends = addresses[:-1] + lengths[:-1].astype(np.uint64)
        starts = np.flatnonzero(np.concatenate(([True], addresses[1:] != ends)))
        return cls(addresses[starts], np.add.reduceat(lengths, starts))

    def __len__(self) -> int:
        return len(self.addresses)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return int(self.lengths.sum())

    def refuse_beyond(self, address_bits: int) -> None:
        """Raise `OutOfReach`, naming the run, when one needs more address bits than that."""
        last = self.addresses + (self.lengths - 1).astype(np.uint64)
        worst = int(np.argmax(last))
        if int(last[worst]) >> address_bits:
            extent = Extent(
                DevVa(int(self.addresses[worst])),
                int(self.lengths[:worst].sum()),
                int(self.lengths[worst]),
            )
            raise OutOfReach(
                f"the device has {address_bits} address bits and reaches "
                f"{human_size(1 << address_bits)}; the extent {extent} is beyond",
                extent=extent,
                limit=1 << address_bits,
                remedy="make the initiator with these address_bits, so that pins fit or fail",
            )

    def _at(self, offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The device address of each byte offset."""
        ends = np.cumsum(self.lengths)
        run = np.searchsorted(ends, offsets, side="right")
        inside = offsets - (ends - self.lengths)[run]
        found: NDArray[np.uint64] = self.addresses[run] + inside.astype(np.uint64)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Copies from one list of runs to another, none of which crosses a border of either."""

    sources: NDArray[np.uint64]
    destinations: NDArray[np.uint64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)


def pair(source: Segments, destination: Segments, longest: int) -> Moves:
    """The moves that take ``source`` to ``destination``, each of ``longest`` bytes at most.

    Raises:
      InvalidArgs: the two are not of one size.
    """
    total = source.size
    if destination.size != total:
        raise InvalidArgs(
            "source and destination differ in size", asked=total, available=destination.size
        )
    borders = np.unique(
        np.concatenate(
            (
                np.cumsum(source.lengths),
                np.cumsum(destination.lengths),
                np.arange(longest, total, longest, dtype=np.int64),
            )
        )
    )
    starts = np.concatenate((np.zeros(1, dtype=np.int64), borders[:-1]))
    return Moves(source._at(starts), destination._at(starts), borders - starts)  # noqa: SLF001 - one class
