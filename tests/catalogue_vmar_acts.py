# What the rows of zx_vmar_map arrange on their stages; see catalogue_vmar.py.
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from pinfold import Right, Vmo
from pinfold.objects.vmoption import VmOption
from pinfold.testing.faults import FailNth
from pinfold.units import PAGE_SIZE
from tests.stage import ANYTHING, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    Act = Callable[[], object]

READ: Final = VmOption.PERM_READ
READ_WRITE: Final = VmOption.PERM_READ | VmOption.PERM_WRITE
SPECIFIC: Final = VmOption.SPECIFIC
OVERWRITE: Final = VmOption.SPECIFIC_OVERWRITE
UPPER: Final = VmOption.OFFSET_IS_UPPER_LIMIT

UNKNOWN_OPTION: Final = VmOption(1 << 16)
"""A bit that is no option."""

NO_SUCH_ALIGNMENT: Final = VmOption(40 << 24)
"""2**40 bytes: more than the largest alignment there is."""

PAGES: Final = 16
"""Pages in the region."""


def plain_map(
    options: VmOption = READ,
    *,
    region: VmOption = ANYTHING,
    offset: int = 0,
    vmo_offset: int = 0,
    size: int | None = None,
    vmo_lacks: Right = Right.NONE,
    vmar_lacks: Right = Right.NONE,
    resizable: bool = False,
) -> Callable[[Stage], Act]:
    """Map an object of two pages; what is wrong with the call is in the arguments."""

    def arrange(stage: Stage) -> Act:
        vmar = stage.weaker(stage.region(region, pages=PAGES), without=vmar_lacks)
        vmo = stage.weaker(stage.vmo(resizable=resizable), without=vmo_lacks)
        return lambda: vmar.map(vmo, options, offset=offset, vmo_offset=vmo_offset, size=size)

    return arrange


def strictly(arrange: Callable[[Stage], Act]) -> Callable[[Stage], Act]:
    """On a kernel that follows the page where Zircon's kernel does not."""

    def arrange_strictly(stage: Stage) -> Act:
        stage.kernel.strict = "docs"
        return arrange(stage)

    return arrange_strictly


def contiguous_stream(stage: Stage) -> Act:
    vmar = stage.region()
    vmo = stage.keep(Vmo.contiguous(stage.bti("stub"), PAGE_SIZE, process=stage.process))
    options = READ | VmOption.ALLOW_FAULTS | VmOption.FAULT_BEYOND_STREAM_SIZE
    return lambda: vmar.map(vmo, options)


def discardable(stage: Stage) -> Act:
    vmar = stage.region()
    vmo = stage.keep(Vmo(PAGE_SIZE, discardable=True, process=stage.process))
    return lambda: vmar.map(vmo, READ)


def closed_region(stage: Stage) -> Act:
    vmar, vmo = stage.region(), stage.vmo()
    vmar.close()
    return lambda: vmar.map(vmo, READ)


def closed_vmo(stage: Stage) -> Act:
    vmar, vmo = stage.region(), stage.vmo()
    vmo.close()
    return lambda: vmar.map(vmo, READ)


def not_a_vmo(stage: Stage) -> Act:
    vmar, bti = stage.region(), stage.bti()
    return lambda: vmar.map(cast("Any", bti), READ)


def destroyed(stage: Stage) -> Act:
    vmar, vmo = stage.region(), stage.vmo()
    vmar.destroy()
    return lambda: vmar.map(vmo, READ)


def over_a_mapping(stage: Stage) -> Act:
    vmar, vmo = stage.region(), stage.vmo()
    vmar.map(vmo, READ, size=2 * PAGE_SIZE)
    return lambda: vmar.map(vmo, READ | SPECIFIC, offset=PAGE_SIZE)


def over_a_region(stage: Stage) -> Act:
    """The region in the way lies between two mappings, which must both survive."""
    vmar, vmo = stage.region(), stage.vmo()
    vmar.map(vmo, READ | SPECIFIC, size=PAGE_SIZE)
    stage.keep(vmar.allocate(PAGE_SIZE, SPECIFIC, offset=PAGE_SIZE))
    vmar.map(vmo, READ | SPECIFIC, offset=2 * PAGE_SIZE, size=PAGE_SIZE)
    return lambda: vmar.map(vmo, READ | OVERWRITE, size=3 * PAGE_SIZE)


def over_a_view(stage: Stage) -> Act:
    vmar, vmo = stage.region(), stage.vmo()
    view = vmar.map(vmo, READ).view()
    stage.keep(view)
    return lambda: vmar.map(vmo, READ | OVERWRITE)


def no_gap(stage: Stage) -> Act:
    """Every other page is taken: half of the region is free, and no two pages of it adjoin."""
    vmar, vmo = stage.region(pages=PAGES), stage.vmo()
    for page in range(0, PAGES, 2):
        vmar.map(vmo, READ | SPECIFIC, offset=page * PAGE_SIZE, size=PAGE_SIZE)
    return lambda: vmar.map(vmo, READ, size=2 * PAGE_SIZE)


def host_refuses(stage: Stage) -> Act:
    """The kernel is out of mappings: what mmap says then is said for it, the limit being too high
    to be reached in a test."""
    vmar, vmo = stage.region(), stage.vmo()

    def act() -> None:
        with FailNth(1):
            vmar.map(vmo, READ)

    return act
