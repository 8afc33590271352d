# Physical region pages: where a command's data lies.
#
# Source: NVM Express Base Specification 1.4, section 4.3. PRP1 may begin inside its page. PRP2 is
# the second page, or, where there are more than two, the address of a list of all but the first,
# which may begin inside a page too. Where a list is longer than the rest of its page, that page's
# last entry is the address of the next one.
#
# Each page is an access of its own: an IOMMU translates them one by one, and neighbours in a list
# need not belong to one grant.
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pinfold.devices.nvme.commands import Refused, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.bus import BusMaster
    from pinfold.devices.nvme.commands import Command

_ENTRY: Final = struct.Struct("<Q")


class DataPort:
    """The memory that commands name, through the controller's port.

    Args:
      page: bytes in a page, as CC.MPS says.
    """

    def __init__(self, master: BusMaster, page: int) -> None:
        self._master = master
        self.page = page

    def read(self, command: Command, size: int) -> bytes:
        """The ``size`` bytes that a command names.

        Raises:
          Refused: an entry has an offset that it must not have; nothing was read.
          DmaFault: the bus stopped the controller.
        """
        parts = [self._master.read(at, length) for at, length in self._parts(command, size)]
        return b"".join(parts)

    def write(self, command: Command, data: bytes) -> None:
        """Move ``data`` to where a command names. Raises as `read`; a part may have been moved."""
        view = memoryview(data)
        for at, length in self._parts(command, len(data)):
            self._master.write(at, view[:length])
            view = view[length:]

    def _parts(self, command: Command, size: int) -> list[tuple[int, int]]:
        """Address and length of each piece. All of the list is read before any data moves."""
        page = self.page
        first = command.prp1
        if first % 4:
            raise Refused(Status.INVALID_PRP_OFFSET)
        parts = [(first, min(size, page - first % page))]
        size -= parts[0][1]
        for address in self._others(command.prp2, -(-size // page)):
            if address % page:
                raise Refused(Status.INVALID_PRP_OFFSET)
            parts.append((address, min(size, page)))
            size -= page
        return parts

    def _others(self, second: int, count: int) -> Iterator[int]:
        """The ``count`` entries after the first."""
        if count < 2:
            yield from [second] * count
            return
        if second % _ENTRY.size:
            raise Refused(Status.INVALID_PRP_OFFSET)
        while True:
            room = (self.page - second % self.page) // _ENTRY.size
            raw = self._master.read(second, min(count, room) * _ENTRY.size)
            found = [entry for (entry,) in _ENTRY.iter_unpack(raw)]
            if count <= room:
                yield from found
                return
            second = found.pop()
            if second % self.page:  # only the first list may begin inside a page
                raise Refused(Status.INVALID_PRP_OFFSET)
            yield from found
            count -= len(found)
