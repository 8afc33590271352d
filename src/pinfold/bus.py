# The contract between pinned memory and the devices that reach it.
#
# Written by its consumer, the Bti: a bus is whatever provides this. A bus sees ranges of committed,
# pinned memory and permissions, never handles or rights; those have been settled above. It says
# what it can promise (`BusLimits`) and is held to it by `pinfold.testing.check_bus`.
#
#   Bus            the thing that is opened: what it promises, its fault log
#   DeviceSpace    one initiator's view through it: grant and revoke
#   Grant          one granted range, and the device addresses it was given
#   BusMaster      the port by which a software device reaches memory, by device address alone
#
# Two orders carry the safety of everything: a range is filled before it is granted, and revoked
# before it is loosened (see memory/pinned.py). After `revoke` returns, no access through the grant
# is under way and none will begin.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, overload, runtime_checkable

import numpy as np

from pinfold.faults import Fault, FaultLog, FaultReason, GrantRecord
from pinfold.memory.pinned import Anchor, PinnedRange
from pinfold.units import PAGE_SIZE, ByteRange, DevVa, human_size

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from pinfold.transfers import FileStatistics, Outcomes


__all__ = [
    "Anchor",
    "Bus",
    "BusLimits",
    "BusMaster",
    "DeviceSpace",
    "Extent",
    "Extents",
    "Fault",
    "FaultLog",
    "FaultReason",
    "FileBatch",
    "FileBus",
    "FileSpace",
    "Grant",
    "GrantRecord",
    "PinnedRange",
]


@dataclass(frozen=True, slots=True)
class BusLimits:
    """What a bus promises."""

    page_size: int
    """Bytes; grants are multiples of it."""
    minimum_contiguity: int
    """Bytes; every grant comes in runs at least this long, aligned to it; its last may be short."""
    apertures: tuple[ByteRange, ...]
    """Where device addresses can lie, ascending."""
    max_grant: int | None
    """Bytes in one grant; None for no limit."""
    max_grants: int | None
    """Grants at once; None for no limit."""
    isolates: bool
    """True when a device cannot reach what was not granted to it."""
    anchor: Anchor
    """What holds the pages of a grant, beside pinfold's own counts."""
    real_frames: bool = False
    """True when device addresses are the frames that Linux has the memory in: what is to be
    contiguous for a device has to be contiguous there."""


@dataclass(frozen=True, slots=True)
class Extent:
    """One run of device addresses."""

    address: DevVa
    """Where the device finds it."""
    offset: int
    """Bytes from the start of the granted range."""
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return f"[{self.address:#x}, {self.address + self.size:#x}) at offset {self.offset:#x}"


class Extents(Sequence[Extent]):
    """The extents of one grant, ascending by offset, without a Python object for each.

    Either one run, or runs of equal length (but for the last) at any addresses.
    """

    __slots__ = ("_addresses", "_start", "chunk", "size")

    def __init__(
        self,
        size: int,
        *,
        start: int = 0,
        addresses: NDArray[np.uint64] | None = None,
        chunk: int = 0,
    ) -> None:
        self.size = size
        """Bytes in all."""
        self.chunk = chunk or size
        """Bytes in each extent but the last."""
        self._start = start
        self._addresses = addresses

    @classmethod
    def run(cls, start: int, size: int) -> Extents:
        """One extent."""
        return cls(size, start=start)

    @classmethod
    def scattered(cls, addresses: NDArray[np.uint64], chunk: int, size: int) -> Extents:
        """An extent of ``chunk`` bytes at each address; the last ends where ``size`` does."""
        return cls(size, addresses=addresses, chunk=chunk)

    def __len__(self) -> int:
        return 1 if self._addresses is None else len(self._addresses)

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Extent]: ...
    def __getitem__(self, index: int | slice) -> Extent | Sequence[Extent]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        count = len(self)
        at = index + count if index < 0 else index
        if not 0 <= at < count:
            raise IndexError("no such extent")
        start = self._start if self._addresses is None else int(self._addresses[at])
        offset = at * self.chunk
        return Extent(DevVa(start), offset, min(self.chunk, self.size - offset))

    def __iter__(self) -> Iterator[Extent]:
        return (self[at] for at in range(len(self)))

    def addresses(self, step: int) -> NDArray[np.uint64]:
        """The device address of every ``step`` bytes, ascending by offset.

        ``step`` divides the length of every extent but the last, or is that length.
        """
        if self._addresses is None:
            start = self._start
            return np.arange(start, start + self.size, step, dtype=np.uint64)
        if step == self.chunk:
            return self._addresses.copy()
        inside = np.arange(0, self.chunk, step, dtype=np.uint64)
        table: NDArray[np.uint64] = (self._addresses[:, np.newaxis] + inside).reshape(-1)
        return table[: -(-self.size // step)]

    @property
    def first(self) -> int:
        """The device address of the first byte."""
        return self._start if self._addresses is None else int(self._addresses[0])

    def highest(self) -> Extent:
        """The extent with the highest address."""
        return self[0] if self._addresses is None else self[int(np.argmax(self._addresses))]


class Grant:
    """One range that one initiator can reach.

    A bus makes it and may derive from it to keep its own notes. Attributes:
      pinned: what was granted.
      perms: bits of `Perm`.
    """

    __slots__ = ("_extents", "perms", "pinned")

    def __init__(self, pinned: PinnedRange, perms: int, extents: Extents) -> None:
        self.pinned = pinned
        self.perms = perms
        self._extents = extents

    @property
    def extents(self) -> Extents:
        """Where the device finds it, ascending by offset."""
        return self._extents

    @property
    def first(self) -> int:
        """The device address of its first byte."""
        return self.extents.first


class BusMaster(Protocol):
    """A software device's port: it reaches memory by device address and in no other way.

    Every access is checked whole before its first byte moves. What is stopped is recorded and
    raises `DmaFault`; a device model catches that and does what its hardware would. `HostError`
    means that the memory itself failed, which no device can handle: a file behind it was cut.
    """

    @property
    def initiator(self) -> int:
        """Who the bus thinks is calling."""

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """``size`` bytes from ``address``. Raises DmaFault."""

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """Fill a writable buffer from ``address``. Raises DmaFault."""

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` to ``address``. Raises DmaFault."""

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """Move ``size`` bytes between two device addresses. Raises DmaFault.

        Long copies are made in bursts, each checked whole; a grant that is revoked meanwhile ends
        the copy at the next burst. Where the two ranges overlap, what comes out is not promised.
        """

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """Read ``size`` bytes to execute them: needs EXECUTE. Raises DmaFault."""


class DeviceSpace(Protocol):
    """One initiator's addresses on a bus, to which pinned memory can be granted.

    It may assume a filled `PinnedRange` and a non-empty permission. Where grants are lines in a
    book, there is one call of grant, revoke or close at a time; where they hold the pages
    themselves (`Anchor.in_place`) the host works for each, so several may come at once, and the
    space has a lock of its own. Devices may be at work meanwhile.
    """

    @property
    def initiator(self) -> int:
        """The device, as the bus knows it."""

    @property
    def address_bits(self) -> int:
        """How many address bits the device can put on the bus."""

    def grant(self, pinned: PinnedRange, perms: int) -> Grant:
        """Let the device reach ``pinned``.

        Postconditions: `pinfold.testing.check_extents`. All or nothing: if this raises an error of
        pinfold's, the device can reach no byte of it. Any other exception is taken for an
        interruption that may have come too late, and the pages stay held.

        Raises:
          LimitReached: no address space, or no grant, is left; or a limit of the host's objects.
          OutOfReach: the device cannot put an address of the range on the bus.
          NotSupported: the bus cannot permit that, or cannot hold such memory.
          HostError: the host refused for another reason.
        """

    def revoke(self, grant: Grant) -> None:
        """Take back one earlier grant, whole. On return the device is shut out.

        If this raises, assume that the device still reaches it; calling again is allowed.

        Raises:
          Unavailable: called by a finaliser that the garbage collector runs inside an access of
            this very thread. `notify_idle` says when to call again.
        """

    def live_grants(self) -> Sequence[Grant]:
        """The grants that are live, in no particular order."""

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """Call ``settle`` once, as soon as no access of this thread is under way."""

    def master(self) -> BusMaster:
        """A port for a software device. Raises NotSupported where the devices are real."""

    def device(self) -> object:
        """The real device. Raises NotSupported where the devices are programs."""

    def quiesce(self) -> None:
        """Nobody has the device any more: have it stop, where the bus can do that.

        Called once, before the grants that are left are revoked. What it raises is logged.

        Raises:
          Unavailable: as `revoke`.
        """

    def close(self) -> None:
        """No more grants. The caller has revoked or leaked those there were."""


class FileSpace(DeviceSpace, Protocol):
    """The space of a device that is a file: transfers between it and device addresses."""

    def start(self, wanted: NDArray[Any]) -> FileBatch:
        """Hand over transfers, an array of `TRANSFER`; they go on by themselves.

        What cannot be is in their outcomes. Raises HostError: the host takes none any more.
        """

    def sync(self) -> None:
        """Have what was written reach the medium. Raises HostError, NoSpace."""

    def file_statistics(self) -> FileStatistics:
        """What was moved so far."""


class FileBatch(Protocol):
    """Transfers that were handed over together."""

    @property
    def left(self) -> int:
        """How many parts of them have not ended; 0 once all have."""

    def finish(self) -> Outcomes:
        """Wait until all have ended. Raises HostError: the host has ended their queue."""


@runtime_checkable
class FileBus(Protocol):
    """A bus whose devices are files."""

    def attach_file(
        self,
        path: str | os.PathLike[str] | int,
        *,
        writable: bool = False,
        direct: bool | None = None,
        depth: int | None = None,
    ) -> FileSpace:
        """The space of a file; see `pinfold.Iommu.file`."""


@runtime_checkable
class Bus(Protocol):
    """Something devices are attached to."""

    @property
    def name(self) -> str:
        """As `open_bus` knows it."""

    @property
    def limits(self) -> BusLimits:
        """What it promises; constant for the bus's life."""

    @property
    def faults(self) -> FaultLog:
        """What it stopped."""

    def attach(self, initiator: int, *, address_bits: int = 64) -> DeviceSpace:
        """The space of one device.

        Raises:
          InvalidArgs: the bus has no such initiator, or it is attached with other address bits.
        """

    def close(self) -> None:
        """Give back what the bus holds. Grants that are live are revoked first."""

    def abandon(self) -> None:
        """In a forked child: let no access through any more, and give nothing back.

        The memory is shared with the parent, whose bus this is; a port that was made before the
        fork raises `WrongProcess` from now on.
        """


def reach(address_bits: int) -> int:
    """One past the highest address that a device with so many address bits can use."""
    return 1 << address_bits


def out_of_reach_text(extent: Extent, address_bits: int) -> str:
    """The message for an extent that a device cannot reach."""
    return (
        f"a device with {address_bits} address bits reaches {human_size(reach(address_bits))}, "
        f"and the extent {extent} is beyond"
    )


def page_extents(addresses: NDArray[np.uint64], size: int) -> Extents:
    """An extent a page, or one run where the addresses follow one another."""
    if len(addresses) == 1 or bool((np.diff(addresses) == PAGE_SIZE).all()):
        return Extents.run(int(addresses[0]), size)
    return Extents.scattered(addresses, PAGE_SIZE, size)
