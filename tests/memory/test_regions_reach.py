"""Pieces that show nothing from some address on: what is there, and how they follow their reach.

Source: zircon, a mapping shows nothing that its memory object does not have, and with
FAULT_BEYOND_STREAM_SIZE nothing beyond the stream size.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from pinfold.errors import NoMemory
from pinfold.host import calls, mm
from pinfold.memory.mapped import RWX
from pinfold.memory.reach import move_edge
from pinfold.memory.regions import Region
from pinfold.memory.reservation import AddressSpace
from pinfold.testing import FailNth
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import Counted, Model, check, interrupting, lend, reads

P = PAGE_SIZE


def lines(space: AddressSpace) -> list[tuple[int, int, str, bool]]:
    """The kernel's list of what is in the space, in pages: start, stop, permissions, a file."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            where, perms, _, _, inode = line.split()[:5]
            low, high = (int(part, 16) for part in where.split("-"))
            if low < space.stop and space.base < high:
                pages = [
                    (min(max(at, space.base), space.stop) - space.base) // P for at in (low, high)
                ]
                found.append((pages[0], pages[1], perms, inode != "0"))
    return found


def of(mapped: Counted, pages: int, prot: int = 1) -> Model:
    return Model({page: (mapped, page, prot) for page in range(pages)})


def test_beyond_its_reach_a_piece_is_the_reservation(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root, base, mapped = space.root, space.base, Counted(files[0], 1, 2 * P)
    root.map(base, base + 4 * P, mapped, 0, 3)
    assert lines(space)[0] == (0, 2, "rw-s", True)
    assert lines(space)[1][2:] == ("---p", False)
    check(space, of(mapped, 4, 3), [mapped])
    for prot in (RWX, 0, 1, 3):  # mprotect of a reservation would show zeros
        root.protect(base, base + 4 * P, prot)
        assert lines(space)[-1][2:] == ("---p", False)
        assert lines(space)[-1][0] == 2
    root.protect(base + 2 * P, base + 3 * P, 1)
    assert [run[2] for run in root.pieces(base, base + P)[0].runs] == [3, 1, 3]
    assert [reads(base + page * P) for page in range(4)] == [1, 2, None, None]


@pytest.mark.parametrize("offset", [3 * P, 1 << 63, (1 << 64) - 2 * P])
def test_a_piece_that_lies_beyond_its_reach_costs_no_system_call(
    space: AddressSpace, files: tuple[int, int], offset: int
) -> None:
    """Source: zx_vmar_map, an offset into the memory object that no file can have is accepted."""
    root, base, mapped = space.root, space.base, Counted(files[0], 1, 3 * P)
    seen: list[str] = []
    calls.set_interceptor(seen.append)
    try:
        root.map(base, base + 2 * P, mapped, offset, 3)
        root.protect(base, base + 2 * P, 1)
        root.clear(base, base + P)
        root.clear(base + P, base + 2 * P)
    finally:
        calls.set_interceptor(None)
    assert seen == []
    assert mapped.pieces == 0
    assert not root.children


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 2), (1, 4), (2, 3), (0, 6), (4, 6)])
def test_cut_parts_keep_their_edges(
    space: AddressSpace, files: tuple[int, int], low: int, high: int
) -> None:
    root, base, mapped = space.root, space.base, Counted(files[0], 1, 3 * P)
    root.map(base, base + 6 * P, mapped, 0, 1)
    root.clear(base + low * P, base + high * P)
    model = of(mapped, 6)
    for page in range(low, high):
        del model.pages[page]
    check(space, model, [mapped])
    for reach in (6 * P, P, None):
        mapped.reach = reach
        for piece in root.pieces(base, base + 6 * P):
            move_edge(piece)
        check(space, model, [mapped])


def test_an_edge_is_where_the_kernel_has_it_until_it_is_moved(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """A part that took the new reach for what is shown would make the reservation accessible."""
    root, base, mapped = space.root, space.base, Counted(files[0], 1, 2 * P)
    root.map(base, base + 5 * P, mapped, 0, 1)
    mapped.reach = None
    root.clear(base, base + P)
    root.protect(base + P, base + 5 * P, 3)
    assert lines(space)[-1] == (2, lines(space)[-1][1], "---p", False)
    assert [reads(base + page * P) for page in range(5)] == [None, 2, None, None, None]


@pytest.mark.parametrize("reach", [0, 2, 5])
def test_a_mapping_in_place_of_others_hides_what_it_does_not_show(
    space: AddressSpace, files: tuple[int, int], reach: int
) -> None:
    root, base = space.root, space.base
    old = [Counted(files[0], 1), Counted(files[0], 1)]
    new = Counted(files[1], 101, reach * P)
    root.map(base, base + 3 * P, old[0], 0, 1)
    root.map(base + 4 * P, base + 8 * P, old[1], 4 * P, 3)
    root.map(base + P, base + 6 * P, new, 0, 1)
    model = Model({0: (old[0], 0, 1), 6: (old[1], 6, 3), 7: (old[1], 7, 3)})
    model.pages |= {page: (new, page - 1, 1) for page in range(1, 6)}
    check(space, model, [*old, new])


def test_what_grows_has_the_permissions_of_its_runs(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root, base, mapped = space.root, space.base, Counted(files[0], 1, 0)
    root.map(base, base + 5 * P, mapped, 0, 3)
    root.protect(base + P, base + 2 * P, 1)
    root.protect(base + 3 * P, base + 4 * P, 0)
    mapped.reach = 5 * P
    move_edge(root.pieces(base, base + P)[0])
    perms = [line[2] for line in lines(space)]
    assert perms[:5] == ["rw-s", "r--s", "rw-s", "---s", "rw-s"]


# Refusals -----------------------------------------------------------------------------------------


def world(space: AddressSpace, files: tuple[int, int]) -> tuple[Counted, Model]:
    """A piece of six pages, of which three are shown, with a run of its own across the edge."""
    mapped = Counted(files[0], 1, 3 * P)
    space.root.map(space.base, space.base + 6 * P, mapped, 0, 1)
    space.root.protect(space.base + 2 * P, space.base + 4 * P, 3)
    model = of(mapped, 6)
    model.pages |= {page: (mapped, page, 3) for page in (2, 3)}
    return mapped, model


@pytest.mark.parametrize("reach", [0, P, 2 * P, 4 * P, 6 * P])
def test_a_refused_follow_shows_what_the_books_say(
    space: AddressSpace, files: tuple[int, int], reach: int
) -> None:
    """mmap(2) ENOMEM. Nothing is shown that is beyond both what was and what is to be the end."""
    at = 0
    while True:
        at += 1
        mapped, model = world(space, files)
        piece = space.root.pieces(space.base, space.base + P)[0]
        mapped.reach = reach
        plan = FailNth(at, errno.ENOMEM)
        try:
            with plan:
                move_edge(piece)
        except NoMemory:
            mapped.reach = piece.offset + piece.edge - piece.start
            assert mapped.reach <= max(reach, 3 * P)
            check(space, model, [mapped])
            mapped.reach = reach
            move_edge(piece)
        check(space, model, [mapped])
        space.root.clear(space.base, space.base + 6 * P)
        if not plan.refused:
            break
    assert at > 1


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
@pytest.mark.parametrize("reach", [P, 6 * P])
def test_an_interrupted_follow_shows_what_the_books_say(
    space: AddressSpace, files: tuple[int, int], reach: int, *, done: bool
) -> None:
    mapped, model = world(space, files)
    piece = space.root.pieces(space.base, space.base + P)[0]
    mapped.reach = reach
    with interrupting(mm, "clear_to_reserved" if reach == P else "map_shared_at", done=done):
        move_edge(piece)
    mapped.reach = min(reach, 3 * P)
    check(space, model, [mapped])
    assert piece.edge == space.base + mapped.reach


def over(space: AddressSpace, files: tuple[int, int]) -> tuple[list[Counted], Model]:
    old = [Counted(files[0], 1), Counted(files[0], 1, 6 * P)]
    space.root.map(space.base, space.base + 2 * P, old[0], 0, 1)
    space.root.map(space.base + 2 * P, space.base + 8 * P, old[1], 2 * P, 3)
    model = of(old[0], 2)
    model.pages |= {page: (old[1], page, 3) for page in range(2, 8)}
    return old, model


def test_a_refused_replacement_in_two_steps_puts_back_what_was_there(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Whichever of its calls is refused, for once: as before, or done."""
    root, at = space.root, 0
    while True:
        at += 1
        old, model = over(space, files)
        new = Counted(files[1], 101, 3 * P)
        plan = FailNth(at, errno.ENOMEM)
        try:
            with plan:
                root.map(space.base + P, space.base + 7 * P, new, 0, 1)
        except NoMemory:
            pass
        else:
            model.pages |= {page: (new, page - 1, 1) for page in range(1, 7)}
        check(space, model, [*old, new])
        root.clear(space.base, space.base + 8 * P)
        if not plan.refused:
            break
    assert at >= 2


def test_where_putting_back_is_refused_too_the_range_is_unmapped(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root = space.root
    old, model = over(space, files)
    new = Counted(files[1], 101, 3 * P)
    left = [1, 0, 0]  # the reservation goes through, what is to be shown does not, nor what was

    def refuse(name: str) -> None:
        if name == "mmap" and left and not left.pop(0):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    former = calls.set_interceptor(refuse)
    try:
        with pytest.raises(NoMemory) as caught:
            root.map(space.base + P, space.base + 7 * P, new, 0, 1)
    finally:
        calls.set_interceptor(former)
    assert "put back" in "".join(caught.value.__notes__)
    for page in range(1, 7):
        del model.pages[page]
    check(space, model, [*old, new])


ACTS: dict[str, Callable[[Region, Counted], None]] = {
    "map": lambda root, new: root.map(root.base + P, root.base + 7 * P, new, 0, 1),
    "map what is not shown at all": lambda root, new: root.map(
        root.base + P, root.base + 7 * P, new, 8 * P, 1
    ),
}


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
@pytest.mark.parametrize(
    ("act", "call"),
    [
        ("map", "clear_to_reserved"),
        ("map", "map_shared_at"),
        ("map what is not shown at all", "clear_to_reserved"),
    ],
)
def test_an_interrupted_replacement_in_two_steps_leaves_the_range_unmapped(
    space: AddressSpace, files: tuple[int, int], act: str, call: str, *, done: bool
) -> None:
    old, model = over(space, files)
    new = Counted(files[1], 101, 3 * P)
    with interrupting(mm, call, done=done):
        ACTS[act](space.root, new)
    for page in range(1, 7):
        del model.pages[page]
    check(space, model, [*old, new])


def test_an_interrupted_protect_beyond_the_edge_is_finished(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    mapped, model = world(space, files)
    with interrupting(type(space.root.pieces(space.base, space.base + P)[0]), "set_protection"):
        space.root.protect(space.base + 4 * P, space.base + 6 * P, 3)
    model.pages |= {page: (mapped, page, 3) for page in (4, 5)}
    check(space, model, [mapped])
    assert lines(space)[-1][2:] == ("---p", False)


def test_unmapping_asks_for_what_is_shown_only(
    space: AddressSpace, files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A border inside the reservation is refused at the limit of mappings."""
    root, base = space.root, space.base
    root.map(base, base + 2 * P, Counted(files[0], 1, 0), 0, 1)
    root.map(base + 3 * P, base + 5 * P, Counted(files[0], 1, P), 0, 1)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(mm, "clear_to_reserved", lambda at, size: asked.append((at - base, size)))
    root.clear(base, base + 8 * P)
    assert asked == [(3 * P, P)]
    root.map(base, base + 3 * P, Counted(files[0], 1, 2 * P), 0, 1)
    root.clear(base, base + 3 * P)
    assert asked[1:] == [(0, 2 * P)]


def test_a_view_below_the_edge_stops_what_it_stops(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Source: ours; a view shows nothing beyond the edge, so nothing else is in its way."""
    mapped, _ = world(space, files)
    view = lend(space, mapped, 0, 2, 1)
    mapped.reach = 2 * P
    move_edge(space.root.pieces(space.base, space.base + P)[0])
    space.root.clear(space.base + 2 * P, space.base + 6 * P)
    assert bytes(view[:1]) == b"\x01"
    del view
    space.root.clear(space.base, space.base + 2 * P)
