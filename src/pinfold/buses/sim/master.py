# A software device's port on the sim bus.
#
# Every access holds the space's lock from its check to its last byte, so that `revoke` can promise
# that none is under way. What a finaliser could not do meanwhile is done after it.
from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final, SupportsIndex

from pinfold.buffers import flat
from pinfold.host import calls
from pinfold.rights import Perm
from pinfold.units import KIB, MIB

if TYPE_CHECKING:
    from pinfold.buses.sim.space import SimSpace

_READ: Final = int(Perm.READ)
_WRITE: Final = int(Perm.WRITE)
_EXECUTE: Final = int(Perm.EXECUTE)

_BURST: Final = 4 * MIB
"""Bytes a copy moves before it looks at its grants again."""

_SHORT: Final = 256 * KIB
"""Bytes up to which a copy keeps the interpreter: letting go of it costs more than the copy."""


class SimMaster:
    """A software device's port on the sim bus."""

    __slots__ = ("_space",)

    def __init__(self, space: SimSpace) -> None:
        self._space = space

    @property
    def initiator(self) -> int:
        """Who the bus thinks is calling."""
        return self._space.initiator

    def read(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.read`."""
        return self._load(address, size, _READ)

    def fetch(self, address: SupportsIndex, size: SupportsIndex) -> bytes:
        """See `pinfold.bus.BusMaster.fetch`."""
        return self._load(address, size, _EXECUTE)

    def _load(self, where: SupportsIndex, count: SupportsIndex, access: int) -> bytes:
        address, size = index(where), index(count)
        try:
            with self._space.lock:
                grant = self._space.translate(address, size, access)
                offset = address - grant.start
                view = grant.view
                if view is not None:
                    return view[offset : offset + size].tobytes()
                buffer = bytearray(size)
                grant.pinned.read_into(memoryview(buffer), offset)
                return bytes(buffer)
        finally:
            if self._space.owed:
                self._space.ended_access()

    def read_into(self, address: SupportsIndex, buffer: memoryview) -> None:
        """See `pinfold.bus.BusMaster.read_into`."""
        at, target = index(address), flat(buffer)
        size = len(target)
        try:
            with self._space.lock:
                grant = self._space.translate(at, size, _READ)
                offset = at - grant.start
                if grant.view is not None:
                    target[:] = grant.view[offset : offset + size]
                else:
                    grant.pinned.read_into(target, offset)
        finally:
            if self._space.owed:
                self._space.ended_access()

    def write(self, address: SupportsIndex, data: bytes | bytearray | memoryview) -> None:
        """See `pinfold.bus.BusMaster.write`."""
        at, source = index(address), flat(data)
        size = len(source)
        try:
            with self._space.lock:
                grant = self._space.translate(at, size, _WRITE)
                offset = at - grant.start
                if grant.view is not None:
                    grant.view[offset : offset + size] = source
                else:
                    grant.pinned.write_from(source, offset)
        finally:
            if self._space.owed:
                self._space.ended_access()

    def copy(self, destination: SupportsIndex, source: SupportsIndex, size: SupportsIndex) -> None:
        """See `pinfold.bus.BusMaster.copy`."""
        to, at, left = index(destination), index(source), index(size)
        space = self._space
        try:
            if left <= _SHORT:  # written out: the calls would cost as much as the bytes
                with space.lock:
                    reading = space.translate(at, left, _READ)
                    writing = space.translate(to, left, _WRITE)
                    target, start = writing.view, to - writing.start
                    if target is not None and reading.view is not None:
                        offset = at - reading.start
                        target[start : start + left] = reading.view[offset : offset + left]
                        return
            while left > _BURST:
                self._burst(to, at, _BURST)
                to, at, left = to + _BURST, at + _BURST, left - _BURST
            self._burst(to, at, left)
        finally:
            if space.owed:
                space.ended_access()

    def _burst(self, destination: int, source: int, size: int) -> None:
        translate = self._space.translate
        with self._space.lock:
            reading = translate(source, size, _READ)
            writing = translate(destination, size, _WRITE)
            source -= reading.start
            destination -= writing.start
            source_view, view = reading.view, writing.view
            if source_view is None or view is None:
                data = memoryview(bytearray(size))
                reading.pinned.read_into(data, source)
                writing.pinned.write_from(data, destination)
            else:
                calls.memmove(
                    writing.pinned.host_address + destination,
                    reading.pinned.host_address + source,
                    size,
                )
