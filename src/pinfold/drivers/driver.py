# What every driver here has: registers, patience, work that lies in two pins, and an end.
#
# The end is the same for all, and its order is its safety: the device is quiet, THEN its memory is
# unpinned, THEN closed. A device that does not become quiet keeps the memory: the pin is closed
# without unpin and so goes to the Bti's quarantine.
from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from pinfold.drivers.mmio import DeviceTimeout, poll
from pinfold.drivers.segments import Moves, Segments, pair
from pinfold.errors import BadState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pinfold.drivers.mmio import Mmio
    from pinfold.objects.pmt import Pmt
    from pinfold.objects.vmo import Vmo


class Driver(ABC):
    """One device's registers, and how its driver waits and ends.

    Args:
      registers: the device's BAR 0.
      address_bits: how many address bits the device has; what is beyond is refused before work
        starts.
      polls: how often to look for the end of a job.
      wait: called between two looks.
    """

    def __init__(
        self, registers: Mmio, *, address_bits: int, polls: int, wait: Callable[[], None] | None
    ) -> None:
        self._registers = registers
        self._address_bits = address_bits
        self._polls = polls
        self._wait = wait
        self._polled = 0
        self._closed = False

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BadState("this driver is closed")

    def _until(self, ready: Callable[[], bool], what: str) -> int:
        """`poll` as this driver does; its looks are counted once ``ready`` is true."""
        polls = poll(ready, what, polls=self._polls, wait=self._wait)
        self._polled += polls
        return polls

    def _moves(
        self,
        destination: Pmt,
        source: Pmt,
        size: int | None,
        *,
        destination_offset: int,
        source_offset: int,
        longest: int,
    ) -> Moves:
        """The moves from one pin to another, each of ``longest`` bytes at most.

        Raises:
          InvalidArgs: ``size`` is not > 0.
          OutOfRange: a range leaves its pin.
          OutOfReach: an address has more bits than the device (``.extent``).
        """
        if size is None:
            size = source.size - source_offset
        taken = Segments.of(source.extents, source_offset, size)
        given = Segments.of(destination.extents, destination_offset, size)
        taken.refuse_beyond(self._address_bits)
        given.refuse_beyond(self._address_bits)
        return pair(taken, given, longest)

    # The end ------------------------------------------------------------------------------------

    def _release(self, memory: Vmo, pin: Pmt, quieten: Callable[[], object]) -> None:
        """Give back memory of the driver's own: see the top.

        Args:
          quieten: returns when the device is quiet; raises what is raised here when it is not.
        """
        with memory:
            try:
                quieten()
            except BaseException:
                pin.close()
                raise
            pin.unpin()

    @abstractmethod
    def close(self) -> None:
        """Make the device quiet and give back what the driver has pinned. Twice is once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, DeviceTimeout):
            # The block has failed for what close() may be about to find again: once is enough.
            with suppress(DeviceTimeout):
                self.close()
        else:
            self.close()
