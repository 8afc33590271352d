# A grant on the sim bus, with what an access needs at hand.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.bus import Extents, Grant

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange


class SimGrant(Grant):
    """A grant with what an access needs at hand."""

    __slots__ = ("cached", "live", "number", "reached", "start", "stop", "view")

    def __init__(self, pinned: PinnedRange, perms: int, number: int) -> None:
        self.pinned = pinned
        self.perms = perms
        self.start = self.stop = 0
        self.number = number
        self.live = True
        self.reached = False
        """True once a device has; then `view` is made."""
        self.view: memoryview | None = None
        """The bytes; None where a device has to go through the file."""
        self.cached: list[int] | None = None
        """Pages of this grant that the lookaside buffer has; None for none."""

    @property
    def extents(self) -> Extents:
        """One run, made when it is asked for: most grants are only granted and revoked."""
        return Extents(self.stop - self.start, start=self.start)

    @property
    def first(self) -> int:
        """The device address of its first byte: all there is to say of most grants."""
        return self.start
