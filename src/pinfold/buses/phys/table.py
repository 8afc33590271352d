# Pages held in place: an io_uring that is nothing but a table of registered buffers.
#
# For a registered buffer Linux takes a long-term pin of each page. Neither reclaim, compaction nor
# MADV_COLLAPSE moves a page that has one; mlock stops only the first of the three. The ring is
# never asked to move a byte, so an emptied slot has nothing to wait for.
#
# One caller at a time: the space's lock. Linux has one lock for a table, too.
#
# Source: io_uring_register(2); measured on 6.18 for what moves a page and what does not.
from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pinfold.buses import registering
from pinfold.buses.placing import no_room
from pinfold.errors import HostError, LimitReached
from pinfold.host.abi_uring import MAX_BUFFER
from pinfold.host.uring import Ring
from pinfold.memory.hosterrors import noted, translated
from pinfold.memory.space import Placement
from pinfold.units import HostVa, human_size

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange


class Hold(NamedTuple):
    """Slots that hold one range."""

    first: int
    slots: int


class PinTable:
    """Registered buffers, each a range of pages held in place.

    Args:
      slots: how many there are.

    Raises:
      NotSupported: this kernel has no io_uring, or one without sparse tables.
      AccessDenied: it has one, and does not let this process have it.
      NoMemory, HostError: it could not be made.
    """

    __slots__ = ("_ring", "_slots", "_unsettled")

    def __init__(self, slots: int) -> None:
        try:
            self._ring = Ring(1, slots)
        except OSError as error:
            raise registering.of_ring(error) from error
        self._slots: Placement[None] = Placement([(0, slots)], lowest=True)
        self._unsettled: list[Hold] = []
        """What the kernel refused to let go after a failure: no address of it was given out."""

    def hold(self, pinned: PinnedRange) -> Hold:
        """Hold every page of a filled range in place.

        Raises:
          NotSupported: memory that Linux does not pin for long.
          LimitReached: no slot is left, or RLIMIT_MEMLOCK would be passed.
          NoMemory, HostError: the kernel refused for another reason.

        After a failure nothing of it is held.
        """
        self._settle()
        count = -(-pinned.size // MAX_BUFFER)
        slot = self._slots.place(count, 1, None)
        if slot is None:
            raise self._no_slot(count, pinned.size)
        address, done = pinned.host_address, 0
        try:
            while done < count:  # the kernel may stop on the way; the next call says why
                left = done * MAX_BUFFER
                done += self._ring.put(
                    slot + done, HostVa(address + left), pinned.size - left, MAX_BUFFER
                )
        except BaseException as error:
            self.undo(Hold(slot, count), error)
            if isinstance(error, OSError):
                raise registering.of_buffers(pinned, error) from error
            raise
        return Hold(slot, count)

    def release(self, held: Hold) -> None:
        """Let the pages of a range go. Raises HostError; they are held, and it may be retried."""
        with translated("unregister a buffer"):
            cleared = self._ring.clear(held.first, held.slots)
        if cleared != held.slots:
            error = OSError(errno.EIO, f"{cleared} of {held.slots} slots were emptied")
            raise HostError("unregister a buffer", error)
        self._slots.remove(held.first)

    def undo(self, held: Hold, error: BaseException) -> None:
        """Let go after ``error``, which gets a note if the kernel refuses; then the next `hold`
        tries again. Nobody has been told an address of it."""
        self._unsettled.append(held)
        with noted("unregister a buffer", error):
            self._settle()

    def _settle(self) -> None:
        while self._unsettled:
            self.release(self._unsettled[-1])
            self._unsettled.pop()

    def close(self) -> None:
        """Let everything go. Raises HostError."""
        with translated("close the io_uring"):
            self._ring.close()

    def _no_slot(self, count: int, size: int) -> LimitReached:
        return no_room(
            f"the table of registered buffers has no room for {human_size(size)}, "
            f"{count} buffer(s)",
            count,
            self._slots,
            remedy="unpin something, or pin larger ranges at once",
        )
