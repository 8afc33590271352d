"""Ranges as a bus is given them, without a kernel, a process or a device authority."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pinfold import sites
from pinfold.bus import Anchor, PinnedRange
from pinfold.memory.backing import Backing
from pinfold.memory.ledger import Ledger
from pinfold.memory.pages import Pages
from pinfold.memory.physmap import PhysicalMap
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def filled(
    pages: int = 4, *, anchor: Anchor = Anchor.IOMMUFD, backing: Backing | None = None
) -> Iterator[PinnedRange]:
    """The first ``pages`` of ``backing``, which is closed in the end; of a new memfd by default."""
    backing = backing or Backing.memfd(pages * PAGE_SIZE, name="buffer", resizable=False)
    pinned = PinnedRange(
        Pages(backing, PhysicalMap()),
        0,
        pages * PAGE_SIZE,
        owner="a test",
        what="a buffer",
        site=sites.caller(3),
        ledger=Ledger(),
        anchor=anchor,
    )
    try:
        pinned.fill()
        yield pinned
    finally:
        pinned.loosen()
        pinned.drop()
        backing.close()
