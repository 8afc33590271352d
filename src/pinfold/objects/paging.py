# Paging space: how much there is, and who has spoken for it.
#
# Linux does not promise a place in swap to a page of anonymous memory. AIX does, when the page is
# touched first, and takes the promise back while the page is pinned for the long term. So a kernel
# may be given an amount (`Kernel.paging_space`), and these are its books. They are not kept: they
# are what the memory itself says when somebody asks.
#
#   anonymous memory objects    each committed page has a place, unless it is pinned long-term
#   the process's own memory    each page has one that is pinned, unless for the long term
#   files and device memory     have none: they page to themselves, or not at all
#
# Source: AIX ltpin, ltunpin, and the ENOSPC of pin.
#
# Lock: the kernel's is held by the caller.
from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pinfold.errors import NoSpace, Unavailable
from pinfold.memory.ranges import RangeCounts
from pinfold.objects.object import ObjectType
from pinfold.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pinfold.memory.pages import Pages
    from pinfold.memory.ranges import Interval
    from pinfold.objects.addresses import Stretch
    from pinfold.objects.holds import Book, Hold
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.memory_object import VmoObject

_EVERYWHERE = 1 << 64


def spans(counts: RangeCounts) -> Iterator[Interval]:
    """The pages with a count above 0."""
    for first, last, _ in counts.runs(0, _EVERYWHERE):
        yield first, last


def used(kernel: Kernel, books: Mapping[Pages, Book]) -> int:
    """Pages that have a place in the paging space, or will want one."""
    total = sum(vmo.pages.backing.committed_bytes() >> PAGE_SHIFT for vmo in _anonymous(kernel))
    for pages, book in books.items():
        kind = pages.backing.kind
        if kind == "process":
            total += _length((low, high) for low, high, _ in book.holds)
        if kind in ("memfd", "process"):
            total -= _length(spans(book.long))
    return total


def refuse_without_room(kernel: Kernel, taken: Iterable[Hold]) -> None:
    """Raise `NoSpace` if what has to be brought in finds no place.

    Args:
      taken: the holds, which are in the books, and whose pages are not there yet.
    """
    limit = kernel.paging_space
    if limit is None:
        return
    wanted = sum(_absent(hold) for hold in taken)
    before = used(kernel, kernel.counted.books)
    if before + wanted > limit >> PAGE_SHIFT and taken:
        raise NoSpace(
            "there is no paging space for pages that have to be brought in",
            asked=wanted << PAGE_SHIFT,
            available=max(limit - (before << PAGE_SHIFT), 0),
            limit=limit,
            remedy="free memory objects, or make the kernel with more paging_space",
        )


def refuse_to_page(kernel: Kernel, books: Mapping[Pages, Book], found: Iterable[Stretch]) -> None:
    """Raise `Unavailable` if what loses its last long-term pin finds no place."""
    limit = kernel.paging_space
    if limit is None:
        return
    wanted = sum(_coming_back(books, stretch) for stretch in found)
    before = used(kernel, books)
    if wanted and before + wanted > limit >> PAGE_SHIFT:
        raise Unavailable(
            "there is no paging space for pages that had none while they were pinned long-term",
            asked=wanted << PAGE_SHIFT,
            available=max(limit - (before << PAGE_SHIFT), 0),
            limit=limit,
            remedy="free memory, and unpin it then",
        )


def _anonymous(kernel: Kernel) -> Iterator[VmoObject]:
    for member in kernel.objects(ObjectType.VMO):
        vmo = cast("VmoObject", member)
        if vmo.pages.backing.kind == "memfd" and not (vmo.shares_pages or vmo.physical):
            yield vmo


def _absent(hold: Hold) -> int:
    """Pages of a hold that have no memory yet; those of the process count as used already."""
    stretch = hold.stretch
    backing = stretch.vmo.pages.backing
    if backing.kind != "memfd":
        return 0
    runs = backing.data_runs(stretch.first << PAGE_SHIFT, hold.size)
    return (hold.size >> PAGE_SHIFT) - (_length(runs) >> PAGE_SHIFT)


def _coming_back(books: Mapping[Pages, Book], stretch: Stretch) -> int:
    """Pages that lose their last long-term pin and want a place again."""
    book = books.get(stretch.vmo.pages)
    kind = stretch.vmo.pages.backing.kind
    if book is None or kind not in ("memfd", "process"):
        return 0
    ending = [(a, b) for a, b, n in book.long.runs(stretch.first, stretch.last) if n == 1]
    if kind == "memfd":
        return _length(ending)
    return sum(_length((a, b) for a, b, _ in book.short.runs(*span)) for span in ending)


def _length(intervals: Iterable[Interval]) -> int:
    return sum(stop - start for start, stop in intervals)
