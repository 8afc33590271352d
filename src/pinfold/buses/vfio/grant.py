# A grant on the vfio bus: one run of device addresses, mapped by the kernel.
from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pinfold.bus import Extents, Grant

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange
    from pinfold.memory.locks import LostLock


class VfioGrant(Grant):
    """One mapping."""

    __slots__ = ("live", "lock", "number", "start", "stop", "unmapping")

    def __init__(self, pinned: PinnedRange, perms: int, number: int) -> None:
        self.pinned = pinned
        self.perms = perms
        self.number = number
        self.start = self.stop = 0
        self.live = False
        """True from when the kernel has mapped it until it has unmapped it."""
        self.unmapping = False
        """True from when the kernel was first asked to unmap it: it may have, and been broken off
        before that was written down."""
        self.lock: threading.RLock | LostLock = threading.RLock()
        """Held while the kernel unmaps it: whoever revokes as well waits until that is done."""

    @property
    def extents(self) -> Extents:
        """One run."""
        return Extents.run(self.start, self.stop - self.start)

    @property
    def first(self) -> int:
        """The device address of its first byte."""
        return self.start
