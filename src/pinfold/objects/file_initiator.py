# A file as a device: the authority to reach memory, and the transfers that use it.
#
# The device is the kernel's block layer. What it reads and writes are device addresses that were
# granted to this very file, by pins that were made through it.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

from pinfold.bus import Bus, FileBus
from pinfold.errors import NotSupported
from pinfold.objects.bti import Bti
from pinfold.transfers import transfers

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pinfold.bus import DeviceSpace, FileBatch, FileSpace
    from pinfold.objects.iommu import Iommu
    from pinfold.transfers import FileStatistics, Outcomes


class FileInitiator(Bti):
    """A `Bti` whose device is a file. `Iommu.file` makes one.

    Device addresses are those of pins that were made through it, by `pin`. A transfer may name any
    address; what was not granted is refused by the kernel, or by pinfold where the kernel would not
    know (a direction that the pin does not permit), and is on record in the bus's fault log.
    """

    __slots__ = ()

    def __init__(
        self,
        iommu: Iommu,
        path: str | os.PathLike[str] | int,
        *,
        writable: bool = False,
        direct: bool | None = None,
        depth: int | None = None,
        name: str = "",
    ) -> None:
        def attach(bus: Bus) -> DeviceSpace:
            if not isinstance(bus, FileBus):
                raise NotSupported(
                    f"the devices of the {bus.name} bus are no files",
                    remedy='open_bus("io_uring") has files',
                )
            return bus.attach_file(path, writable=writable, direct=direct, depth=depth)

        self._attach(iommu, attach, name or str(path))

    @property
    def _space(self) -> FileSpace:
        return cast("FileSpace", self.object.space)

    def read(self, address: SupportsIndex, size: SupportsIndex, *, at: SupportsIndex) -> int:
        """Have the device read from the file into memory, and wait for it; how many bytes.

        Args:
          address: a device address; needs WRITE of its pin.
          size: bytes.
          at: bytes into the file.

        Fewer than ``size`` at the end of the file only.

        Raises:
          DmaFault: not granted, or not for writing; nothing was moved.
          HostError: the kernel's (``errno``): EIO; EBADF.
          InvalidArgs: no file has such an offset.
          BadHandle: this handle is closed.
        """
        return self._whole(write=False, address=index(address), size=index(size), at=index(at))

    def write(self, address: SupportsIndex, size: SupportsIndex, *, at: SupportsIndex) -> int:
        """Have the device write to the file from memory, and wait for it; ``size``.

        Args:
          address: a device address; needs READ of its pin.
          size: bytes.
          at: bytes into the file, which becomes longer where it must.

        Raises:
          DmaFault: not granted, or not for reading; nothing was moved.
          NoSpace: the file system is full; a part may be written.
          HostError: the kernel's (``errno``): EIO; EBADF where it was not opened for writing.
          InvalidArgs: no file has such an offset.
          BadHandle: this handle is closed.
        """
        return self._whole(write=True, address=index(address), size=index(size), at=index(at))

    def readv(
        self, segments: Iterable[tuple[SupportsIndex, SupportsIndex]], *, at: SupportsIndex
    ) -> int:
        """`read` what lies together in the file to several places in memory; how many bytes.

        Args:
          segments: (device address, bytes) of each place, in the order of the file.
          at: bytes into the file, of the first.

        The places are filled at once and in no order. What is counted are the bytes before the
        first that was not moved. Raises as `read`, of the first that fails: then any of the others,
        before it and after it, may have been moved. `transfer` tells which.
        """
        return self._vector(segments, index(at), write=False)

    def writev(
        self, segments: Iterable[tuple[SupportsIndex, SupportsIndex]], *, at: SupportsIndex
    ) -> int:
        """`write` several places in memory to where they lie together in the file; see `readv`."""
        return self._vector(segments, index(at), write=True)

    def transfer(self, wanted: NDArray[Any] | Iterable[tuple[bool, int, int, int]]) -> Outcomes:
        """Have the device make many transfers, in any order, and wait for all of them.

        Args:
          wanted: an array of `pinfold.transfers.TRANSFER`, or tuples (write, address, size, at).

        As many are under way at once as the device's depth. None of them is made twice: one that
        ended short is told as such.

        Raises:
          InvalidArgs: an element is no transfer.
          HostError, NoMemory: the host takes none any more. What is under way goes on, and an unpin
            waits for it.
          BadState: called inside a transfer, by a finaliser or a signal handler.
          BadHandle: this handle is closed.
        """
        return self.submit(wanted).finish()

    def submit(self, wanted: NDArray[Any] | Iterable[tuple[bool, int, int, int]]) -> FileBatch:
        """Hand transfers over and return at once; see `transfer`.

        What exceeds the depth is handed over as others end, in `FileBatch.finish`; of a batch that
        is dropped it is not made, and of a device that is closed it ends with ECANCELED. A pin that
        is unpinned meanwhile waits for those that use it and are under way, and stops the others.
        """
        return self._space.start(transfers(wanted))

    def sync(self) -> None:
        """Have what was written reach the medium. Raises HostError, NoSpace."""
        self._space.sync()

    def file_statistics(self) -> FileStatistics:
        """The file, and what was moved, as a frozen record."""
        return self._space.file_statistics()

    def _whole(self, *, write: bool, address: int, size: int, at: int) -> int:
        """One transfer, gone on with where the kernel stopped short."""
        done = 0
        while True:
            outcomes = self.transfer([(write, address + done, size - done, at + done)])
            moved = int(outcomes.moved[0])
            done += moved
            outcomes.raise_first()
            if done == size or not moved:
                return done

    def _vector(
        self,
        segments: Iterable[tuple[SupportsIndex, SupportsIndex]],
        at: int,
        *,
        write: bool,
    ) -> int:
        wanted, total = [], 0
        for address, count in segments:
            size = index(count)
            wanted.append((write, index(address), size, at + total))
            total += size
        outcomes = self.transfer(wanted)
        outcomes.raise_first()
        done = 0
        for moved, (_, _, size, _) in zip(outcomes.moved.tolist(), wanted, strict=True):
            done += moved
            if moved < size:
                break
        return done
