# One device's addresses on the phys bus: frames of pages that are held in place.
#
# The order is the safety:
#
#   grant    the pages are held in place, THEN their frames are read
#   revoke   the frames are forgotten, THEN the pages are let go
#
# Read first, a frame is where the page was a moment ago: holding a page may itself move it, out of
# memory that the kernel wants to be able to empty. What was read after is true for as long as the
# pages are held.
#
# Lock: the bus's, which is that of its table. It is held while the kernel works: Linux has one lock
# for the table as well.
from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from pinfold.bus import Extents, Grant, out_of_reach_text, reach
from pinfold.errors import InvalidArgs, NotFound, NotSupported, OutOfReach, Unavailable
from pinfold.host import mm, pagemap
from pinfold.memory.hosterrors import translated
from pinfold.memory.locks import refuse_inside
from pinfold.units import PAGE_SHIFT, PAGE_SIZE, HostVa, page_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pinfold.bus import PinnedRange
    from pinfold.buses.phys import PhysBus
    from pinfold.buses.phys.table import Hold

_LOOKS: Final = 16
"""How often one absent page is fetched back into the table that the pagemap reads."""


class PhysGrant(Grant):
    """Pages that are held in place, and their frames.

    Attributes:
      held: the slots that hold them; None once they were let go.
    """

    __slots__ = ("held",)

    def __init__(self, pinned: PinnedRange, perms: int, extents: Extents, held: Hold) -> None:
        super().__init__(pinned, perms, extents)
        self.held: Hold | None = held


class PhysSpace:
    """One device, whatever it is: the bus never hears of it."""

    def __init__(self, bus: PhysBus, initiator: int, address_bits: int) -> None:
        self._bus = bus
        self._initiator = initiator
        self._address_bits = address_bits
        self._live: dict[int, PhysGrant] = {}

    @property
    def initiator(self) -> int:
        """The device, as the caller numbers it."""
        return self._initiator

    @property
    def address_bits(self) -> int:
        """How many address bits the device has, as the caller said."""
        return self._address_bits

    def grant(self, pinned: PinnedRange, perms: int) -> Grant:
        """See `pinfold.bus.DeviceSpace.grant`. No permission is enforced.

        Raises: as there, and
          LimitReached: no slot is left, or RLIMIT_MEMLOCK would be passed.
          NotSupported: memory that Linux does not pin for long; memory that is one run of simulated
            addresses, and not of frames.
          AccessDenied: the kernel hides the frames.
          Unavailable: the kernel kept taking the pages out of the table; try again.
        """
        _refuse_device_memory(pinned)
        bus = self._bus
        with bus.locked():
            bus.refuse_if_closed()
            held = bus.table.hold(pinned)
            try:
                extents = extents_of(_frames_of(pinned), pinned.size)
                self._check(pinned, extents)
                grant = PhysGrant(pinned, perms, extents, held)
            except BaseException as error:
                bus.table.undo(held, error)
                raise
            self._live[id(grant)] = grant
            return grant

    def _check(self, pinned: PinnedRange, extents: Extents) -> None:
        highest = extents.highest()
        if highest.address + highest.size > reach(self._address_bits):
            raise OutOfReach(
                out_of_reach_text(highest, self._address_bits),
                extent=highest,
                limit=reach(self._address_bits),
                remedy="use a device with more address bits, or one behind an IOMMU",
            )
        if pinned.contiguous and len(extents) > 1:
            raise NotSupported(
                f"{pinned.what} is one run of addresses elsewhere, and of {len(extents)} extents "
                "in real memory",
                asked=pinned.size,
                remedy="make it with Vmo.contiguous and a device of this bus",
            )

    def revoke(self, grant: Grant) -> None:
        """See `pinfold.bus.DeviceSpace.revoke`. Nothing shuts the device out: it is quiet already.

        Raises:
          HostError: the pages are held yet.
        """
        if not isinstance(grant, PhysGrant):
            raise InvalidArgs("a grant of another bus")
        bus = self._bus
        refuse_inside(bus.lock)
        with bus.locked():
            if grant.held is None:  # revoking again is allowed
                return
            bus.table.release(grant.held)
            grant.held = None
            del self._live[id(grant)]

    def live_grants(self) -> list[Grant]:
        """The grants that are live, oldest first."""
        with self._bus.locked():
            return list(self._live.values())

    def notify_idle(self, settle: Callable[[], None]) -> None:
        """See `pinfold.bus.DeviceSpace.notify_idle`."""
        self._bus.owed.append(settle)

    def master(self) -> NoReturn:
        """See `pinfold.bus.DeviceSpace.master`."""
        raise NotSupported(
            "the devices of the phys bus are real", remedy="program the device with the addresses"
        )

    def device(self) -> NoReturn:
        """See `pinfold.bus.DeviceSpace.device`."""
        raise NotSupported(
            "the phys bus does not know its devices: it only says where memory is",
            remedy="reach the device in your own way, or use a vfio bus",
        )

    def quiesce(self) -> None:
        """Whoever drives the device has stopped it: this bus does not know how to."""

    def close(self) -> None:
        """No more grants. Raises `Unavailable` in a finaliser inside a call of its own thread."""
        refuse_inside(self._bus.lock)
        self._bus.detach(self)


def _refuse_device_memory(pinned: PinnedRange) -> None:
    if pinned.pages.backing.kind == "physical":
        raise NotSupported(
            f"{pinned.what} is device memory, which has an address already",
            remedy="give the device the address that Vmo.physical was made with",
        )


def _frames_of(pinned: PinnedRange) -> NDArray[np.uint64]:
    """The physical address of each page, which the caller holds in place.

    The kernel may take a page that it cannot move out of our page table (reclaim, MADV_PAGEOUT), or
    try for an instant to move it. Then the pagemap does not say where it is, and looking at the
    page brings the same one back. Where the kernel compacts all the time, one page of very many is
    always absent: so a range with an absent page is looked at in halves. What was found of a page
    stays true.
    """
    found = _look(pinned.host_address, pinned.size)
    if found is None:
        raise Unavailable(
            f"the frames of {pinned.what} cannot be read: its pages leave the page table all the "
            "time",
            remedy="try again",
        )
    return found


def _look(address: HostVa, size: int) -> NDArray[np.uint64] | None:
    for _ in range(_LOOKS):
        try:
            with translated("read the pagemap"):
                return pagemap.frames(address, size)
        except NotFound:
            with translated("look at the pages"):
                mm.populate_read(address, size)
        if size > PAGE_SIZE:
            break
    else:
        return None
    half = page_up(size // 2)
    low = _look(address, half)
    high = None if low is None else _look(HostVa(address + half), size - half)
    return None if low is None or high is None else np.concatenate((low, high))


def extents_of(frames: NDArray[np.uint64], size: int) -> Extents:
    """One run, or the longest equal runs that it can be cut into: a huge page stays whole.

    Args:
      frames: the physical address of each page.
      size: bytes of them all.
    """
    starts = np.flatnonzero(frames[1:] - frames[:-1] != PAGE_SIZE) + 1
    if not len(starts):
        return Extents.run(int(frames[0]), size)
    pages = int(np.gcd.reduce(starts))
    return Extents.scattered(frames[::pages].copy(), pages << PAGE_SHIFT, size)
