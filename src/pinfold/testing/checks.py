# Postconditions as code. A contract that no test runs drifts from what it describes.
from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from pinfold.bus import PinnedRange, reach
from pinfold.objects.addresses import HeldByAddress
from pinfold.objects.initiator import BtiObject
from pinfold.objects.memory_object import VmoObject
from pinfold.objects.object import ObjectType
from pinfold.objects.pmt import PmtObject, PmtState
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from pinfold.bus import BusLimits, Extents
    from pinfold.memory.pages import Pages
    from pinfold.objects.kernel import Kernel


def check_extents(
    extents: Extents, size: int, limits: BusLimits, *, address_bits: int = 64
) -> None:
    """Raise `AssertionError` unless the extents are what a bus owes for a grant of ``size`` bytes.

    They cover the range once and in order; each but the last is a multiple of the minimum
    contiguity and aligned to it; all lie in an aperture and within the device's reach; no two
    overlap.
    """
    contiguity = limits.minimum_contiguity
    at = 0
    spans: list[tuple[int, int]] = []
    for number, extent in enumerate(extents):
        require(
            extent.offset == at, f"extent {number} begins at offset {extent.offset:#x}, not {at:#x}"
        )
        require(extent.size > 0, f"extent {number} is empty")
        require(extent.address % contiguity == 0, f"{extent} is not aligned to {contiguity:#x}")
        last = number == len(extents) - 1
        require(
            last or extent.size % contiguity == 0, f"{extent} is no multiple of {contiguity:#x}"
        )
        stop = extent.address + extent.size
        require(stop <= reach(address_bits), f"{extent} is beyond {address_bits} address bits")
        require(
            any(low <= extent.address and stop <= high for low, high in limits.apertures),
            f"{extent} lies in no aperture",
        )
        spans.append((extent.address, stop))
        at += extent.size
    require(at == size, f"the extents cover {at:#x} of {size:#x} bytes")
    spans.sort()
    for (_, stop), (start, _) in pairwise(spans):
        require(stop <= start, f"two extents overlap at {start:#x}")


def check_books(kernel: Kernel) -> None:
    """Raise `AssertionError` unless every total of a kernel agrees with a recount from its tokens.

    Recounts pin counts page by page, totals and the ledger from the live tokens alone, and makes
    sure that whatever a bus has granted is held: never reachable and unpinned.
    """
    with kernel.lock:
        btis = [m for m in kernel.objects(ObjectType.BTI) if isinstance(m, BtiObject)]
        tokens = [token for bti in btis for token in bti.pins.values()]
        live = [record for record in kernel.ledger.records() if isinstance(record, PinnedRange)]
        for token in tokens:
            require(token.pinned in live, f"{token} is live and not in the ledger")
            require(token.state is not PmtState.RELEASED, f"{token} is released and listed")
        require(
            len(live) == len(tokens) + len(kernel.leaks) - _leaked_tokens(tokens),
            "the ledger has a pin that no token answers for",
        )
        counts: dict[Pages, Counter[int]] = {}
        for pinned in live:
            require(pinned.held, f"the ledger lists a dropped pin of {pinned.what}")
            first = pinned.start >> PAGE_SHIFT
            pages = range(first, (pinned.start + pinned.size) >> PAGE_SHIFT)
            counts.setdefault(pinned.pages, Counter()).update(pages)
        for record in kernel.ledger.records():
            for stretch in record.held if isinstance(record, HeldByAddress) else ():
                held_pages = range(stretch.first, stretch.last)
                counts.setdefault(stretch.vmo.pages, Counter()).update(held_pages)
        vmos = [m for m in kernel.objects(ObjectType.VMO) if isinstance(m, VmoObject)]
        for vmo in vmos:
            counts.setdefault(vmo.pages, Counter())
            mine = sum(token.vmo is vmo for token in tokens)
            require(vmo.pins >= mine, f"{vmo} counts {vmo.pins} pins, {mine} tokens hold it")
            _check_family(vmo, vmos)
        for book, counted in counts.items():
            require(book.pinned_pages == len(counted), "pinned pages are counted wrong")
            for page, count in counted.items():
                have = book.pin_count(page)
                require(have == count, f"page {page}: count {have}, {count} live pins")
        _check_counted(kernel)
        for member in kernel.objects():
            require(member.kernel is kernel, f"{member} is another kernel's")
        for bti in btis:
            held = {id(token.pinned) for token in bti.pins.values()}
            for grant in bti.space.live_grants():
                known = id(grant.pinned) in held or grant.pinned.held
                require(known, f"{bti} can reach {grant.pinned.what}, which nobody holds")
            require(
                set(bti.quarantined) <= set(bti.pins), f"{bti} quarantines what it has not pinned"
            )
            require(set(bti.listed) <= set(bti.pins), f"{bti} lists what it has not pinned")


def _check_counted(kernel: Kernel) -> None:
    """A page that is counted is held, and a hold is in the ledger."""
    records = kernel.ledger.records()
    for pages, book in kernel.counted.books.items():
        for counts in (book.short, book.long):
            for first, last, _ in counts.runs(0, 1 << 64):
                gap = next(book.holds.gaps(first, last), None)
                require(gap is None, f"a counted page of {pages.backing.kind} memory is not held")
        for _, _, hold in book.holds:
            require(hold in records, f"a hold of {hold.what} is not in the ledger")


def _check_family(vmo: VmoObject, alive: list[VmoObject]) -> None:
    """A parent has its children as they have it, and pages have those who show them."""
    require(vmo.parent is None or vmo in vmo.parent.children, f"{vmo.parent} has lost {vmo}")
    for child in vmo.children:
        require(child.parent is vmo, f"{child} is listed with {vmo} and has another parent")
        require(child in alive, f"{vmo} lists {child}, which is gone")
    require(vmo in vmo.body.members, f"{vmo} shows pages that do not know of it")
    require(vmo.body in vmo.body.relatives, f"the pages of {vmo} are not among their relatives")
    require(vmo.body.pages is vmo.pages, f"{vmo} has pages of another body")
    require(vmo.base + vmo.size <= vmo.pages.backing.size, f"{vmo} shows more than its pages have")


def _leaked_tokens(tokens: list[PmtObject]) -> int:
    """Tokens that nobody can release any more; each is on record as a leak as well."""
    return sum(
        not token.bti.handle_count and token.koid in token.bti.quarantined for token in tokens
    )


def require(holds: bool, what: str) -> None:  # noqa: FBT001 - an assertion that -O keeps
    """Raise `AssertionError` with ``what`` unless it holds."""
    if not holds:
        raise AssertionError(what)
