# A grant on the io_uring bus: a run of slots of one device's table of registered buffers.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.bus import Extents, Grant

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange


class UringGrant(Grant):
    """A grant, and where in the table it is.

    Attributes:
      number: counts the grants of the bus, from 1.
      start, stop: its device addresses.
      slot, slots: the first slot of the table that it takes, and how many.
      live: False once it is revoked.
    """

    __slots__ = ("live", "number", "slot", "slots", "start", "stop")

    def __init__(self, pinned: PinnedRange, perms: int, number: int) -> None:
        self.pinned = pinned
        self.perms = perms
        self.number = number
        self.start = self.stop = self.slot = self.slots = 0
        self.live = True

    @property
    def extents(self) -> Extents:
        """One run, made when it is asked for."""
        return Extents.run(self.start, self.stop - self.start)

    @property
    def first(self) -> int:
        """The device address of its first byte."""
        return self.start
