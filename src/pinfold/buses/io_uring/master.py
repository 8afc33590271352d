# A software device's port on the io_uring bus: the kernel moves its bytes.
#
# A read of memory is a WRITE_FIXED from the device address to a memory file of the port's own, a
# write the reverse. So every access is checked by the kernel against the table, as a disk's is.
#
# One access at a time for each port: its file is where the bytes are on the way.
from __future__ import annotations

import threading
from operator import index
from typing import TYPE_CHECKING, Final, SupportsIndex

import numpy as np

from pinfold.buffers import flat
from pinfold.buses.io_uring.file import OpenFile
from pinfold.errors import DmaFault, InvalidArgs
from pinfold.host import calls, mm
from pinfold.memory.hosterrors import translated
from pinfold.rights import Perm
from pinfold.transfers import TRANSFER
from pinfold.units import MIB

if TYPE_CHECKING:
    from pinfold.buses.io_uring.space import UringSpace

_BURST: Final = 4 * MIB
_LARGEST: Final = 1 << 62


class UringMaster:
    """A software device's port on the io_uring bus."""

    def __init__(self, space: UringSpace) -> None:
        self._space = space
        self._lock = threading.Lock()
        with translated("make a memory file"):
            fd = mm.create_memfd("pinfold:port", 0)
        try:
            self._file = OpenFile(fd, writable=True, direct=False)
        finally:
            calls.close(fd)

    @property
    def initiator(self) -> int:
        """Who the bus thinks is calling."""
        return self._space.initiator

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        buffer = bytearray(_size(size))
        self._load(index(address), memoryview(buffer))
        return bytes(buffer)

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        self._load(index(address), flat(buffer))

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        self._store(index(address), flat(data))

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        to, at, total = index(destination), index(source), _size(size)
        for done in range(0, total, _BURST):
            count = min(_BURST, total - done)
            with self._lock:
                self._move(at + done, count, out=True)
                self._move(to + done, count, out=False)

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`: nothing on this bus permits it."""
        at, count = index(address), _size(size)
        space = self._space
        with space.queue.lock:
            raise space.diagnosis.fault(at, count, int(Perm.EXECUTE), space.covering(at))

    def _load(self, address: int, buffer: memoryview) -> None:
        with self._lock:
            self._move(address, len(buffer), out=True)
            done = 0
            while done < len(buffer):
                with translated("read a memory file"):
                    done += calls.preadv(self._file.plain, buffer[done:], done)

    def _store(self, address: int, data: memoryview) -> None:
        with self._lock:
            done = 0
            while done < len(data):
                with translated("write a memory file"):
                    done += calls.pwrite(self._file.plain, data[done:], done)
            self._move(address, len(data), out=False)

    def _move(self, address: int, size: int, *, out: bool) -> None:
        """One access: ``out`` of memory, or into it."""
        space = self._space
        if not 0 <= address < 1 << 64 or size > _LARGEST:
            with space.queue.lock:
                access = int(Perm.READ if out else Perm.WRITE)
                raise space.diagnosis.fault(address, size, access, None)
        wanted = np.array([(out, address, size, 0)], dtype=TRANSFER)
        try:
            batch = space.queue.start(wanted, self._file)
            space.queue.finish(batch)
        finally:
            if space.owed:
                space.ended_access()
        outcomes = batch.outcomes()
        if outcomes.faults:
            raise DmaFault(outcomes.faults[0])
        outcomes.raise_first()

    def __del__(self) -> None:
        self._file.close()


def _size(size: SupportsIndex) -> int:
    found = index(size)
    if found < 0:
        raise InvalidArgs("an access of fewer than no bytes", asked=found)
    return found
