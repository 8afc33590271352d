# The table of registered buffers of one device: which slot holds what, and what is in flight there.
#
# A device address is (slot, offset): the slot in the high bits, bytes into its buffer in the low
# ones. So a run of slots is a run of addresses, a grant longer than a buffer is still one extent,
# and whatever address a transfer names, the kernel is asked about one buffer and one place in it.
# It is the kernel that refuses a slot that is empty and a place beyond the end of its buffer.
#
# The slot after each grant stays empty: a run past the end of a buffer that fills its slot meets
# nothing. Slot 0 stays empty, so that address 0 is never granted.
#
# Source: io_uring_register(2): 16384 buffers, 1 GiB each.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pinfold.errors import InvalidArgs
from pinfold.host.abi_uring import IORING_MAX_REG_BUFFERS, MAX_BUFFER
from pinfold.memory.space import Placement
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pinfold.buses.io_uring.grant import UringGrant

SLOTS: Final = IORING_MAX_REG_BUFFERS
_SLOT_BITS: Final = SLOTS.bit_length() - 1
LONGEST_SHIFT: Final = MAX_BUFFER.bit_length() - 1
_BEYOND: Final = 0x80
"""Not a bit of `Perm`: what is there permits nothing, and is not empty."""


class Table:
    """What the slots of one device's table hold. With so few ``address_bits`` that there is none,
    it raises InvalidArgs.

    Attributes:
      shift: a slot stands for ``1 << shift`` device addresses: a buffer of the largest size, or
        less where the device has few address bits.
      space: the grants, by device address.
      bases: the host address of each slot's buffer; 0 where the slot is empty.
      perms: bits of `Perm` of each slot's grant; 0 where the slot is empty.
      version: a number that changes with any of these.
    """

    __slots__ = ("_perms", "bases", "perms", "shift", "space", "version")

    def __init__(self, address_bits: int) -> None:
        self.shift = max(PAGE_SHIFT, min(LONGEST_SHIFT, address_bits - _SLOT_BITS))
        slot = 1 << self.shift
        top = min(SLOTS << self.shift, 1 << address_bits)
        if top <= slot:
            raise InvalidArgs(
                f"a device with {address_bits} address bits reaches no slot of the table",
                asked=address_bits,
                limit=PAGE_SHIFT + 1,
            )
        self.space: Placement[UringGrant] = Placement([(slot, top)], guard=slot)
        self.bases: NDArray[np.uint64] = np.zeros(SLOTS, dtype=np.uint64)
        self._perms: NDArray[np.uint8] = np.zeros(SLOTS + 1, dtype=np.uint8)
        self._perms[SLOTS] = _BEYOND
        self.perms = self._perms[:SLOTS]
        self.version = 0

    @property
    def longest(self) -> int:
        """Bytes in one buffer at most."""
        return 1 << self.shift

    def place(self, grant: UringGrant, size: int) -> bool:
        """Find addresses for a grant; False where no gap is left."""
        start = self.space.place(size, self.longest, grant)
        if start is None:
            return False
        grant.start, grant.stop = start, start + size
        grant.slot = start >> self.shift
        grant.slots = -(-size >> self.shift)
        return True

    def enter(self, grant: UringGrant, address: int) -> None:
        """The kernel has the grant's buffers, from ``address`` on."""
        self.version += 1
        if grant.slots == 1:
            self.bases[grant.slot], self.perms[grant.slot] = address, grant.perms
            return
        slots = slice(grant.slot, grant.slot + grant.slots)
        starts = np.arange(grant.slots, dtype=np.uint64) << np.uint64(self.shift)
        self.bases[slots] = np.uint64(address) + starts
        self.perms[slots] = grant.perms

    def strike(self, grant: UringGrant) -> None:
        """The kernel has them no more, or is about to have them no more."""
        slots = slice(grant.slot, grant.slot + grant.slots)
        self.bases[slots] = 0
        self.perms[slots] = 0
        self.version += 1

    def perms_of(self, slots: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """What each slot permits; 0 where it is empty. Beyond the table: something, to nobody."""
        found: NDArray[np.uint8] = self._perms[np.minimum(slots, np.uint64(SLOTS))]
        return found

    def slots_of(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The slot that each device address names; those beyond the table name none."""
        return addresses >> np.uint64(self.shift)

    def host_addresses(
        self, addresses: NDArray[np.uint64], slots: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """What the kernel is asked for: that place of the slot's buffer."""
        inside: Any = addresses & np.uint64(self.longest - 1)
        found: NDArray[np.uint64] = self.bases[slots] + inside
        return found
