"""Memory objects whose pages are told apart by a number, and looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pinfold as pf
from pinfold.objects.vmo import VmoChild

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = pf.PAGE_SIZE
DEVICE = 0xC000_0000
"""A physical address at which there is no RAM."""

SNAPSHOTS = (
    VmoChild.SNAPSHOT,
    VmoChild.SNAPSHOT_AT_LEAST_ON_WRITE,
    VmoChild.SNAPSHOT_MODIFIED,
)
RW = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE


def page(number: int) -> bytes:
    """A page full of one number."""
    return bytes([number]) * PAGE


def numbered(numbers: Iterable[int], *, resizable: bool = False, name: str = "") -> pf.Vmo:
    """A memory object of full pages; a 0 is a page without memory."""
    wanted = list(numbers)
    made = pf.Vmo(len(wanted) * PAGE, resizable=resizable, name=name)
    number(made, wanted)
    return made


def number(vmo: pf.Vmo, numbers: Iterable[int], first: int = 0) -> None:
    """Fill pages from ``first`` on; a 0 leaves one as it is."""
    for at, value in enumerate(numbers, first):
        if value:
            vmo.write(page(value), at * PAGE)


def numbers(vmo: pf.Vmo) -> list[int]:
    """What each page is full of."""
    data = vmo.read()
    found = [data[at] for at in range(0, len(data), PAGE)]
    assert data == b"".join(map(page, found)), "a page is full of several numbers"
    return found


def holes(vmo: pf.Vmo) -> list[int]:
    """The pages without memory."""
    committed = {at for low, high in vmo.committed_ranges() for at in range(low, high, PAGE)}
    return [at // PAGE for at in range(0, vmo.size, PAGE) if at not in committed]


def device_memory(pages: int = 4) -> pf.Vmo:
    """Simulated device memory."""
    with pf.Resource(DEVICE, pages * PAGE) as bar:
        return pf.Vmo.physical(bar, DEVICE, pages * PAGE)
