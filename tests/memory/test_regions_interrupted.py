"""A Ctrl-C beside a kernel call: the books never list a mapping that is not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pinfold.host import mm
from pinfold.memory.mapped import Mapped
from pinfold.memory.ranges import RangeMap
from pinfold.memory.regions import Region
from pinfold.memory.reservation import AddressSpace
from pinfold.testing import FailFrom
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import Counted, Model, check, interrupting, lend, reads

P = PAGE_SIZE


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
def test_an_interrupted_map_leaves_the_range_unmapped(
    space: AddressSpace,
    files: tuple[int, int],
    *,
    done: bool,
) -> None:
    """What nobody has the name of is not left behind, and what was cut is counted."""
    root, base = space.root, space.base
    old, new = Counted(files[0], 1), Counted(files[1], 101)
    root.map(base, base + 3 * P, old, 0, 1)
    with interrupting(mm, "map_shared_at", done=done):
        root.map(base + P, base + 2 * P, new, 0, 1)
    check(space, Model({0: (old, 0, 1), 2: (old, 2, 1)}), [old, new])
    root.map(base + P, base + 2 * P, new, 0, 1)
    check(space, Model({0: (old, 0, 1), 1: (new, 0, 1), 2: (old, 2, 1)}), [old, new])


CLEARS: dict[str, tuple[Callable[[Region, int], None], set[int]]] = {
    "just what was mapped": (lambda root, base: root.clear(base, base + 3 * P), {4, 5}),
    "the middle": (lambda root, base: root.clear(base + P, base + 2 * P), {0, 2, 4, 5}),
    "two mappings and a hole": (lambda root, base: root.clear(base, base + 5 * P), {5}),
}


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
@pytest.mark.parametrize("way", CLEARS)
def test_an_interrupted_unmap_is_finished(
    space: AddressSpace,
    files: tuple[int, int],
    way: str,
    *,
    done: bool,
) -> None:
    """A view made from books that list what is gone would end the process."""
    act, left = CLEARS[way]
    root, base, mapped = (
        space.root,
        space.base,
        [Counted(f, 1 + 100 * i) for i, f in enumerate(files)],
    )
    root.map(base, base + 3 * P, mapped[0], 0, 1)
    root.map(base + 4 * P, base + 6 * P, mapped[1], 0, 1)
    pages = {page: (mapped[page // 4], page % 4, 1) for page in (0, 1, 2, 4, 5)}
    with interrupting(mm, "clear_to_reserved", done=done):
        act(root, base)
    check(space, Model({page: pages[page] for page in left}), mapped)


def test_an_interruption_among_the_books_is_made_good(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Between taking a mapping out and counting it."""
    root, base, mapped = space.root, space.base, Counted(files[0], 1)
    root.map(base, base + 2 * P, mapped, 0, 1)
    with interrupting(RangeMap, "pop"):
        root.clear(base, base + 2 * P)
    check(space, Model(), [mapped])
    with interrupting(RangeMap, "append"):
        root.map(base, base + 2 * P, mapped, 0, 1)
    check(space, Model(), [mapped])


def test_an_interrupted_destroy_is_finished(space: AddressSpace, files: tuple[int, int]) -> None:
    root, base, mapped = space.root, space.base, Counted(files[0], 1)
    child = root.allocate(base, base + 8 * P, None, compact=False)
    inner = child.allocate(base, base + 4 * P, None, compact=False)
    inner.map(base, base + 2 * P, mapped, 0, 1)
    with interrupting(Region, "end", done=False):
        child.destroy()
    assert (child.alive, inner.alive) == (False, False)
    check(space, Model(), [mapped])
    assert not root.children


def test_an_interrupted_unmap_by_force_keeps_the_addresses_of_a_view(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root, base, mapped = space.root, space.base, Mapped(files[0])
    root.map(base, base + 2 * P, mapped, 0, 1)
    view = lend(space, mapped, 0, 1, 1)
    with interrupting(mm, "clear_to_reserved"):
        root.clear(base, base + 2 * P, force=True)
    assert reads(base) is None
    assert root.find_gap(P, P, root.stop) == base + P
    del view


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
@pytest.mark.parametrize(("former", "prot"), [(3, 0), (0, 3), (3, 1)])
def test_an_interrupted_protect_is_finished(
    space: AddressSpace,
    files: tuple[int, int],
    former: int,
    prot: int,
    *,
    done: bool,
) -> None:
    root, base, mapped = space.root, space.base, Counted(files[0], 1)
    root.map(base, base + 3 * P, mapped, 0, former)
    with interrupting(mm, "protect", done=done):
        root.protect(base + P, base + 2 * P, prot)
    pages = {page: (mapped, page, prot if page == 1 else former) for page in range(3)}
    check(space, Model(pages), [mapped])


def test_where_the_kernel_refuses_as_well_the_books_have_less_than_it_has(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """The mapping that nobody knows of is replaced by the next; the error says that it is there."""
    root, base, mapped = space.root, space.base, Counted(files[0], 1)
    root.map(base, base + P, mapped, 0, 1)
    with FailFrom(1), interrupting(mm, "protect", done=False) as caught:
        root.protect(base, base + P, 3)
    assert "change the protection again" in "".join(caught.value.__notes__)
    check(space, Model({0: (mapped, 0, 1)}), [mapped])
    with FailFrom(1), interrupting(mm, "clear_to_reserved", done=False) as caught:
        root.clear(base, base + P)
    assert "unmap the range" in "".join(caught.value.__notes__)
    assert not root.children
    assert mapped.pieces == 0
    assert reads(base) == 1
    other = Counted(files[1], 101)
    root.map(base, base + P, other, 0, 1)
    check(space, Model({0: (other, 0, 1)}), [mapped, other])
