# Which addresses of each kind a resource may stand for, and which are spoken for.
#
# Shared resources may overlap one another. An exclusive one overlaps nothing of its kind, whichever
# of the two was first, until it is gone. What is denied is denied to every resource: RAM, and the
# registers of IOMMUs.
#
# Source: zx_resource_create; Zircon's dispatcher for what is looked at, and in which order.
from __future__ import annotations

import enum
from typing import Final

from pinfold.errors import AccessDenied, InvalidArgs, NotFound
from pinfold.memory.device_memory import DEVICE_LIMIT
from pinfold.memory.physmap import RAM
from pinfold.memory.ranges import RangeCounts, RangeSet
from pinfold.units import ByteRange, page_down, page_up

EXCLUSIVE: Final = 0x10000
"""The flag of a resource that no other overlaps. Source: ZX_RSRC_FLAG_EXCLUSIVE."""


class ResourceKind(enum.IntEnum):
    """What the addresses of a resource are addresses of. The numbers are Zircon's."""

    MMIO = 0
    """Physical memory that is not RAM."""
    IRQ = 1
    """Interrupt vectors."""
    IOPORT = 2
    """The I/O ports of a PC."""
    ROOT = 3
    """No addresses: the authority to make a resource of any kind. Newer Zircons have none."""
    SMC = 4
    """Secure monitor calls."""
    SYSTEM = 5
    """Privileges, one an address; see `SystemBase`."""


class SystemBase(enum.IntEnum):
    """The privileges that a call of ours asks for. The numbers are Zircon's."""

    VMEX = 1
    """Making memory executable."""
    IOMMU = 8
    """Making an IOMMU."""


_SIZES: Final = {
    ResourceKind.MMIO: DEVICE_LIMIT,
    ResourceKind.IRQ: 256,
    ResourceKind.IOPORT: (1 << 16) - 1,
    ResourceKind.SMC: 64,
    ResourceKind.SYSTEM: 16,
}
"""How many addresses of each kind there are, from 0. Source: Zircon's platforms: vectors and ports
of a PC, services of an ARM; MMIO ends where we cannot simulate it any more."""


_FILTERED: Final = (ResourceKind.MMIO, ResourceKind.IOPORT)
"""The kinds that a root resource is not asked for unseen. Of the ports, we deny none."""


class _Space:
    """The addresses of one kind."""

    __slots__ = ("exclusive", "taken")

    def __init__(self) -> None:
        self.taken = RangeCounts()
        self.exclusive = RangeSet()


class ResourceSpaces:
    """The addresses of every kind, of one kernel. Used with the kernel's lock held."""

    __slots__ = ("_denied", "_spaces")

    def __init__(self) -> None:
        self._spaces = {kind: _Space() for kind in _SIZES}
        self._denied = RangeSet()  # of MMIO
        for ram in RAM:
            self._denied.add(*ram)

    def deny(self, where: ByteRange) -> None:
        """Deny the pages of device memory that a range touches, from now on."""
        self._denied.add(page_down(where.start), page_up(where.stop))

    def refuse_denied(self, kind: ResourceKind, where: ByteRange) -> None:
        """Raise `AccessDenied` for what not even a root resource may name.

        Source: Zircon's filter of root resources. It calls an empty range denied.
        """
        if kind not in _FILTERED:
            return
        if where.size and (kind is not ResourceKind.MMIO or not self._meets_denied(where)):
            return
        raise AccessDenied(
            f"{kind.name} {where} is denied to every resource",
            remedy="name addresses of a device; for RAM make a Vmo",
        )

    def _meets_denied(self, where: ByteRange) -> bool:
        return next(self._denied.gaps(*where), None) != tuple(where)

    def take(self, kind: ResourceKind, where: ByteRange, *, exclusive: bool) -> None:
        """Enter a resource.

        Raises:
          InvalidArgs: it has no addresses.
          NotFound: some of them are none of this kind, or are another's exclusively, or it is to
            be exclusive and some are another's (``.asked``, ``.limit``).
        """
        if not where.size:
            raise InvalidArgs("a resource has at least one address", asked=0)
        if where.stop > _SIZES[kind]:
            raise NotFound(
                f"there are no such {kind.name} addresses", asked=where.stop, limit=_SIZES[kind]
            )
        space = self._spaces[kind]
        kept = next(space.exclusive.gaps(*where), None) != tuple(where)
        if kept or (exclusive and space.taken.highest(*where)):
            raise NotFound(
                f"the {kind.name} addresses {where} are spoken for",
                asked=where.start,
                holder=f"{'an exclusive' if kept else 'another'} resource",
                remedy="close that resource first, or ask for other addresses",
            )
        space.taken.raise_(*where)
        if exclusive:
            space.exclusive.add(*where)

    def give_back(self, kind: ResourceKind, where: ByteRange, *, exclusive: bool) -> None:
        """Strike out what `take` entered."""
        space = self._spaces[kind]
        space.taken.lower(*where)
        if exclusive:
            space.exclusive.discard(*where)
