# A software device's port on the io_uring bus: the kernel moves its bytes.
#
# A read of memory is a WRITE_FIXED from the device address to a memory file, a write the reverse.
# So every access is checked by the kernel against the table, as a disk's is.
#
# One access at a time for each device: its memory file is where the bytes are on the way.
from __future__ import annotations

import errno
from contextlib import contextmanager
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Final, SupportsIndex

import numpy as np

from pinfold.buffers import flat
from pinfold.buses.io_uring.file import OpenFile
from pinfold.errors import DmaFault, HostError, InvalidArgs
from pinfold.host import calls, mm
from pinfold.memory.hosterrors import noted, translated
from pinfold.rights import Perm
from pinfold.transfers import TRANSFER
from pinfold.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.buses.io_uring.space import UringSpace

_BURST: Final = 4 * MIB
_LARGEST: Final = 1 << 62


class UringMaster:
    """A software device's port on the io_uring bus."""

    __slots__ = ("_space",)

    def __init__(self, space: UringSpace) -> None:
        self._space = space

    @property
    def initiator(self) -> int:
        """Who the bus thinks is calling."""
        return self._space.initiator

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        at, count = index(address), _size(size)
        with self._access(at, count, Perm.READ) as file:
            self._move(file, at, count, out=True)  # first: it may be a size that nobody has
            buffer = bytearray(count)
            _whole(partial(calls.preadv, file.plain), memoryview(buffer))
        return bytes(buffer)

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        at, target = index(address), flat(buffer)
        with self._access(at, len(target), Perm.READ) as file:
            self._move(file, at, len(target), out=True)
            _whole(partial(calls.preadv, file.plain), target)

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        at, source = index(address), flat(data)
        with self._access(at, len(source), Perm.WRITE) as file:
            _whole(partial(calls.pwrite, file.plain), source)
            self._move(file, at, len(source), out=False)

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        to, at, total = index(destination), index(source), _size(size)
        for done in range(0, max(total, 1), _BURST):
            count = min(_BURST, total - done)
            with self._access(at + done, count, Perm.READ) as file:
                self._move(file, at + done, count, out=True)
                self._refuse_nonsense(to + done, count, Perm.WRITE)
                self._move(file, to + done, count, out=False)

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`: nothing on this bus permits it."""
        at, count = index(address), _size(size)
        space = self._space
        with self._access(at, count, Perm.EXECUTE), space.queue.lock:
            raise space.diagnosis.fault(at, count, int(Perm.EXECUTE), space.covering(at))

    @contextmanager
    def _access(self, address: int, size: int, access: Perm) -> Iterator[OpenFile]:
        """One access at a time; the file for its bytes.

        Raises:
          DmaFault: no device has such an address, or this one has left its bus.
          BadState: called from inside an access of this thread.
          WrongProcess: in a forked child.
        """
        space = self._space
        space.refuse_nested()
        try:
            with space.port_lock:
                self._refuse_nonsense(address, size, access)
                if space.port_file is None:
                    with space.queue.lock:
                        raise space.diagnosis.fault(address, size, int(access), None)
                yield space.port_file
        finally:
            if space.owed:
                space.ended_access()

    def _refuse_nonsense(self, address: int, size: int, access: Perm) -> None:
        if not 0 <= address < 1 << 64 or size > _LARGEST:
            space = self._space
            with space.queue.lock:
                raise space.diagnosis.fault(address, size, int(access), None)

    def _move(self, file: OpenFile, address: int, size: int, *, out: bool) -> None:
        """One transfer: ``out`` of memory, or into it."""
        queue = self._space.queue
        batch = queue.start(np.array([(out, address, size, 0)], dtype=TRANSFER), file)
        queue.finish(batch)
        outcomes = batch.outcomes()
        if outcomes.faults:
            raise DmaFault(outcomes.faults[0])
        outcomes.raise_first()
        if outcomes.moved[0] != size:
            error = OSError(errno.EIO, f"{outcomes.moved[0]} of {size} bytes were moved")
            raise HostError("move the bytes of a port", error)


def port_file() -> OpenFile:
    """A memory file for the bytes of a device's ports."""
    with translated("make a memory file"):
        fd = mm.create_memfd("pinfold:port", 0)
    try:
        made = OpenFile(fd, writable=True, direct=False)
    except BaseException as error:
        with noted("close it", error):
            calls.close(fd)
        raise
    try:
        with translated("close a memory file"):
            calls.close(fd)
    except BaseException as error:
        with noted("close the other", error):
            made.close()
        raise
    return made


def _whole(step: Callable[[memoryview, int], int], buffer: memoryview) -> None:
    """Read or write all of a buffer, from the start of the file."""
    done = 0
    while done < len(buffer):
        with translated("move bytes by a memory file"):
            moved = step(buffer[done:], done)
            if not moved:
                raise OSError(errno.EIO, "a memory file ended")
            done += moved


def _size(size: SupportsIndex) -> int:
    found = index(size)
    if found < 0:
        raise InvalidArgs("an access of fewer than no bytes", asked=found)
    return found
