# A mapping of a backing for our own use: to commit pages, to lock them, and to be what a software
# device reads and writes. It is counted, and is unmapped only when nobody uses it.
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pinfold.host import calls, mm
from pinfold.host.abi import PROT_READ, PROT_WRITE
from pinfold.memory.hosterrors import translated
from pinfold.units import HostVa

if TYPE_CHECKING:
    from pinfold.memory.backing import Backing


class Export(NamedTuple):
    """Bytes that were lent out."""

    owner: object
    """What every view of them, and every slice of a view, keeps alive."""
    view: memoryview


class Window:
    """A counted mapping of ``[offset, offset + size)`` of a backing."""

    __slots__ = ("_backing", "_mapped", "address", "offset", "size", "users", "view")

    def __init__(self, backing: Backing, offset: int, size: int) -> None:
        prot = PROT_READ | PROT_WRITE if backing.writable else PROT_READ
        with translated("map a window", asked=size):
            self.address = mm.map_shared(backing.fd, backing.base + offset, size, prot)
        # Of huge pages Linux maps whole ones whatever it was asked, and unmaps nothing but those.
        self._mapped = size + -size % backing.grain
        self._backing = backing
        self.offset = offset
        self.size = size
        self.users = 0
        view = memoryview(calls.buffer_at(self.address, size)).cast("B")
        self.view = view if backing.writable else view.toreadonly()
        """The bytes of the window, by offset from its start; read-only where the backing is."""

    def address_of(self, offset: int) -> HostVa:
        """Where the byte at ``offset`` of the backing is in this process."""
        return HostVa(self.address + offset - self.offset)

    def export(self, offset: int, size: int) -> calls.ByteArray:
        """The bytes of a part as an object of their own, which can be weakly referenced."""
        return calls.buffer_at(self.address_of(offset), size)

    def share(self) -> None:
        """Say that there is one user more."""
        self._backing.lend_again(self)

    def release(self) -> None:
        """Say that one user is done with it."""
        self._backing.give_back(self)

    def unmap(self) -> None:
        """Give the address range back. Only the backing calls this, when no user is left."""
        with translated("unmap a window", asked=self.size):
            mm.unmap(self.address, self._mapped)
