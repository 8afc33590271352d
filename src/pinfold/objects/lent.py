# Where the views of memory objects are: the mappings of ours that they lie in.
#
# Many views share one mapping, so it is the mappings that are kept, by address. That of a dead
# read-only view may be gone before its end is settled, and something else be at its addresses: a
# mapping counts for as long as one of its leases is alive.
#
# Lock: the kernel's is held by the caller.
from __future__ import annotations

from typing import TYPE_CHECKING

from pinfold.units import PAGE_SHIFT, ByteRange

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.memory_object import VmoObject
    from pinfold.objects.vmo_parts import ViewLease


class Lent:
    """A mapping of ours that views of a memory object lie in.

    Attributes:
      first: the page of the object where it begins.
      leases: the views, dead ones until they are settled.
    """

    __slots__ = ("first", "leases")

    def __init__(self, first: int) -> None:
        self.first = first
        self.leases: list[ViewLease] = []

    def owner(self, first: int, last: int) -> VmoObject | None:
        """The object that is shown at some of the pages; None where no view is alive.

        Several objects may show the same pages: it is one that has all of those, if any has.
        """
        live = next((lease for lease in self.leases if lease.live), None)
        if live is None:
            return None
        members = [live.vmo, *live.vmo.body.members]
        start, stop = first << PAGE_SHIFT, last << PAGE_SHIFT
        return next((m for m in members if m.base <= start and stop <= m.base + m.size), live.vmo)

    @property
    def alive(self) -> bool:
        """True while somebody has a view of it."""
        return any(lease.live for lease in self.leases)


def view_made(kernel: Kernel, lease: ViewLease, span: ByteRange, offset: int) -> None:
    """A view lies in our mapping at ``span``, which begins with ``offset`` bytes of the pages."""
    lent = kernel.lent
    known = lent.get(span.start)
    if known is None or not known[1].alive:
        for low, _, _ in lent.overlapping(*span):  # of the dead: see the head of this file
            lent.pop(low)
        known = span.stop, Lent(offset >> PAGE_SHIFT)
        lent.insert(span.start, span.stop, known[1])
    known[1].leases.append(lease)
    lease.shown_at = span.start


def view_ended(kernel: Kernel, lease: ViewLease) -> None:
    """It is gone, and with the last view its mapping is of no interest."""
    known = kernel.lent.get(lease.shown_at)
    if known is not None and lease in known[1].leases:
        known[1].leases.remove(lease)
        if not known[1].leases:
            kernel.lent.pop(lease.shown_at)
