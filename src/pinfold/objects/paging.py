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

from typing import TYPE_CHECKING, Final, cast

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

_EVERYWHERE: Final = 1 << 64
_PAGED: Final = ("memfd", "process")


def spans(counts: RangeCounts) -> Iterator[Interval]:
    """The pages with a count above 0."""
    for first, last, _ in counts.runs(0, _EVERYWHERE):
        yield first, last


def per_page(found: Iterable[Stretch]) -> dict[Pages, RangeCounts]:
    """How often each page is in ``found``: a range may show one page more than once."""
    times: dict[Pages, RangeCounts] = {}
    for stretch in found:
        counts = times.setdefault(stretch.vmo.pages, RangeCounts())
        counts.raise_(stretch.first, stretch.last)
    return times


def used(kernel: Kernel, books: Mapping[Pages, Book]) -> int:
    """Pages that have a place in the paging space, or will want one."""
    total = sum(p.backing.committed_bytes() >> PAGE_SHIFT for p in _anonymous(kernel))
    for pages, book in books.items():
        kind = pages.backing.kind
        if kind == "process":
            total += _length((low, high) for low, high, _ in book.holds)
        if kind in _PAGED:
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
    own = sum(hold.size for hold in taken if hold.stretch.own) >> PAGE_SHIFT
    wanted = own + sum(_absent(hold) for hold in taken)
    before = used(kernel, kernel.counted.books) - own  # which the books have by now
    if wanted and before + wanted > limit >> PAGE_SHIFT:
        text = "there is no paging space for pages that have to be brought in"
        remedy = "free memory objects, or make the kernel with more paging_space"
        raise NoSpace(text, remedy=remedy, **_facts(wanted, before, limit))


def refuse_to_page(
    kernel: Kernel, books: Mapping[Pages, Book], wanted: Mapping[Pages, RangeCounts]
) -> None:
    """Raise `Unavailable` if what loses its last long-term pin finds no place.

    Args:
      wanted: how many long-term pins each page is to lose; see `per_page`.
    """
    limit = kernel.paging_space
    if limit is None:
        return
    back = sum(_coming_back(books.get(pages), pages, times) for pages, times in wanted.items())
    before = used(kernel, books)
    if back and before + back > limit >> PAGE_SHIFT:
        text = "there is no paging space for pages that had none while they were pinned long-term"
        remedy = "free memory, and unpin it then"
        raise Unavailable(text, remedy=remedy, **_facts(back, before, limit))


def _facts(wanted: int, before: int, limit: int) -> dict[str, int]:
    available = max(limit - (before << PAGE_SHIFT), 0)
    return {"asked": wanted << PAGE_SHIFT, "available": available, "limit": limit}


def _anonymous(kernel: Kernel) -> set[Pages]:
    """The pages of anonymous memory objects, each once: several may show the same."""
    members = [cast("VmoObject", member) for member in kernel.objects(ObjectType.VMO)]
    return {m.pages for m in members if m.pages.backing.kind == "memfd" and not m.physical}


def _absent(hold: Hold) -> int:
    """Pages of a hold of an anonymous object that have no memory yet."""
    stretch = hold.stretch
    backing = stretch.vmo.pages.backing
    if backing.kind != "memfd":
        return 0
    runs = backing.data_runs(stretch.first << PAGE_SHIFT, hold.size)
    return (hold.size - _length(runs)) >> PAGE_SHIFT


def _coming_back(book: Book | None, pages: Pages, times: RangeCounts) -> int:
    """Pages that lose their last long-term pin and want a place again."""
    kind = pages.backing.kind
    if book is None or kind not in _PAGED:
        return 0
    back = 0
    for low, high, count in times.runs(0, _EVERYWHERE):
        ending = [(a, b) for a, b, n in book.long.runs(low, high) if n <= count]
        if kind == "process":  # once nothing pins it, its place is not ours to count
            ending = [(a, b) for span in ending for a, b, _ in book.short.runs(*span)]
        back += _length(ending)
    return back


def _length(intervals: Iterable[Interval]) -> int:
    return sum(stop - start for start, stop in intervals)
