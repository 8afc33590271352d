"""The tree of host address ranges, against a model of single pages and against real memory."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.memory.reach import move_edge
from pinfold.memory.regions import Region
from pinfold.memory.reservation import AddressSpace
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import FILE_PAGES, PAGES, Counted, Model, check


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, PAGES - 1))
    return start, draw(st.integers(start + 1, PAGES))


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["map", "map", "find", "clear", "protect", "allocate", "destroy", "follow"]
        ),
        spans(),
        st.integers(0, 7),
        st.none() | st.integers(0, FILE_PAGES).map(PAGE_SIZE.__mul__),
        st.sampled_from([0, 1, 3]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(steps)
def test_the_tree_is_what_a_dict_of_pages_is(
    files: tuple[int, int],
    plan: list[tuple[str, tuple[int, int], int, int | None, int, bool]],
) -> None:
    space = AddressSpace(PAGES * PAGE_SIZE)
    model, every, regions = Model(), list[Counted](), [space.root]
    try:
        for kind, (low, high), choice, reach, prot, which in plan:
            regions = [region for region in regions if region.alive]
            region = regions[choice % len(regions)]
            first = (region.base - space.base) // PAGE_SIZE
            last = (region.stop - space.base) // PAGE_SIZE
            low, high = max(low, first), min(high, last)
            if low >= high:
                continue
            start, stop = space.base + low * PAGE_SIZE, space.base + high * PAGE_SIZE
            inner = [
                (a, b)
                for a, b, child in region.children.overlapping(start, stop)
                if isinstance(child, Region)
            ]
            if kind == "find":
                found = region.find_gap((high - low) * PAGE_SIZE, PAGE_SIZE, region.stop)
                assert found == lowest(region, (high - low) * PAGE_SIZE)
                if found is None:
                    continue
                start, stop, inner = found, found + stop - start, []
                low, high = ((at - space.base) // PAGE_SIZE for at in (start, stop))
            if kind in ("map", "find"):
                if inner or high - low > FILE_PAGES - choice:
                    continue
                mapped = Counted(files[which], 101 if which else 1, reach)
                every.append(mapped)
                region.map(start, stop, mapped, choice * PAGE_SIZE, prot)
                for page in range(low, high):
                    model.pages[page] = (mapped, choice + page - low, prot)
            elif kind == "clear":
                if any(a < start or b > stop for a, b in inner):
                    continue
                region.clear(start, stop)
                for page in range(low, high):
                    model.pages.pop(page, None)
            elif kind == "protect":
                if any(page not in model.pages for page in range(low, high)):
                    continue
                region.protect(start, stop, prot)
                for page in range(low, high):
                    model.pages[page] = (*model.pages[page][:2], prot)
            elif kind == "follow":
                for mapped in every[choice:]:
                    mapped.reach = reach
                for piece in space.root.pieces(start, stop):
                    move_edge(piece)
                for piece in space.root.pieces(space.base, space.stop):
                    move_edge(piece)  # those that have done so stay as they are
            elif kind == "allocate":
                if not region.children.overlapping(start, stop):
                    regions.append(region.allocate(start, stop, None, compact=False))
            elif region.parent is not None:
                region.destroy()
                for page in range(first, last):
                    model.pages.pop(page, None)
            check(space, model, every)
    finally:
        space.close()
    assert all(mapped.pieces == 0 for mapped in every)


def lowest(
    region: Region, size: int, align: int = PAGE_SIZE, limit: int | None = None
) -> int | None:
    """First fit, the slow way: try every page."""
    stop = region.stop if limit is None else limit
    for at in range(region.base, stop - size + 1, PAGE_SIZE):
        if at % align == 0 and not region.children.overlapping(at, at + size):
            return at
    return None


# The hint that makes first fit cheap must not change what it finds.
hinted = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 4),
        st.sampled_from([1, 1, 1, 2, 4]),
        st.integers(0, PAGES),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(hinted)
def test_a_gap_is_the_lowest_that_fits(plan: list[tuple[bool, int, int, int]]) -> None:
    """Source: zircon, placement without randomisation: the lowest candidate."""
    space = AddressSpace(PAGES * PAGE_SIZE)
    root = space.root
    try:
        for placing, pages, align, edge in plan:
            if placing:
                size, step = pages * PAGE_SIZE, align * PAGE_SIZE
                limit = root.base + edge * PAGE_SIZE if edge % 3 == 0 and edge else root.stop
                found = root.find_gap(size, step, limit)
                assert found == lowest(root, size, step, limit)
                if found is not None:
                    root.allocate(found, found + size, None, compact=False)
            elif root.children:
                entries = list(root.children)
                low, high, _ = entries[edge % len(entries)]
                root.clear(low, high)
    finally:
        space.close()


def test_random_placement_repeats_with_its_seed_and_uses_every_candidate() -> None:
    """Source: zircon, each of the first 2^entropy candidates may be picked."""
    picks: list[list[int | None]] = []
    for _ in range(2):
        space = AddressSpace(PAGES * PAGE_SIZE, seed=7)
        space.root.allocate(
            space.base + 4 * PAGE_SIZE, space.base + 6 * PAGE_SIZE, None, compact=False
        )
        found = [space.root.find_gap(2 * PAGE_SIZE, PAGE_SIZE, space.stop) for _ in range(400)]
        picks.append([None if at is None else (at - space.base) // PAGE_SIZE for at in found])
        space.close()
    assert picks[0] == picks[1]
    assert set(picks[0]) == {0, 1, 2, *range(6, PAGES - 1)}


def test_a_compact_region_is_filled_from_the_bottom_where_others_are_random() -> None:
    """Source: ZX_VM_COMPACT."""
    space = AddressSpace(PAGES * PAGE_SIZE, seed=1)
    inner = space.root.allocate(space.base, space.stop, None, compact=True)
    assert inner.find_gap(PAGE_SIZE, PAGE_SIZE, inner.stop) == inner.base
    space.close()


def test_placement_does_not_search_what_is_full(space: AddressSpace) -> None:
    """A row of equal requests looks at one gap each, whatever lies below."""
    looked: list[int] = []

    class Watched(Region):
        __slots__ = ()

        def gaps(self, at: int) -> Iterator[tuple[int, int]]:
            for gap in super().gaps(at):
                looked.append(gap[0])
                yield gap

    region = Watched(space, None, 0, 1 << 30)
    for index in range(0, 4000, 2):  # 2000 blocks with holes of a page between
        region.allocate(index * PAGE_SIZE, (index + 1) * PAGE_SIZE, None, compact=False)
    size = 2 * PAGE_SIZE
    for _ in range(100):
        found = region.find_gap(size, PAGE_SIZE, region.stop)
        assert found is not None
        region.allocate(found, found + size, None, compact=False)
    assert len(looked) <= 2000 + 100
