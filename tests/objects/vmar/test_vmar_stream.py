"""Mappings that end with the stream of their memory object, and follow it.

Source: zx_vmar_map, ZX_VM_FAULT_BEYOND_STREAM_SIZE; zx_vmo_set_stream_size, zx_vmo_set_size.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pinfold import Process, Vmo
from pinfold.errors import BadState, NoMemory, OutOfRange
from pinfold.host import calls, mm
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import VmarOp
from pinfold.objects.vmo_child import VmoChild
from pinfold.testing import FailNth
from tests.memory.host_ranges import interrupting
from tests.objects.vmar.world import (
    FAULTS,
    OVERWRITE,
    RANGE,
    READ,
    RW,
    SPECIFIC,
    STREAM,
    P,
    World,
    agree,
    resident_in_tables,
    shown,
)
from tests.user_memory import load, store

FOLLOWS = STREAM | FAULTS


def part(world: World, of: Vmo, first: int, pages: int) -> Vmo:
    return world.keep(of.child(VmoChild.SLICE, first * P, pages * P))


def stream(world: World, pages: int = 4, *, resizable: bool = False) -> tuple[Vmo, Mapping]:
    """Four pages, of which the stream has so many, and a mapping that ends with it."""
    vmo = world.new_vmo(4, resizable=resizable)
    vmo.set_stream_size(pages * P)
    made = world.root.map(vmo, RW | FOLLOWS)
    return vmo, made


def test_a_mapping_ends_with_its_stream_and_follows_it(world: World) -> None:
    """Source: zx_vmar_map, FAULT_BEYOND_STREAM_SIZE; zx_vmo_set_stream_size."""
    vmo, made = stream(world, 2)
    assert shown(world, made) == [0, 0, None, None]
    plain = world.root.map(vmo, READ)
    world.root.protect(made.address + 2 * P, P, READ)
    vmo.set_stream_size(3 * P + 1)  # a part of a page shows the page
    assert shown(world, made) == [0, 0, 0, 0]
    assert store(made.address + 3 * P, b"x")
    assert not store(made.address + 2 * P, b"x")
    agree(world)
    vmo.set_stream_size(P + 1)
    assert shown(world, made) == [0, 0, None, None]
    assert shown(world, plain) == [0, 0, 0, 0]
    assert not store(made.address + 3 * P, b"x")
    agree(world)
    vmo.set_stream_size(0)
    assert shown(world, made) == [None] * 4
    world.root.protect(made.address, 4 * P, RW)
    assert shown(world, made) == [None] * 4
    agree(world)
    vmo.set_stream_size(4 * P)
    assert shown(world, made) == [0] * 4
    assert store(made.address + 2 * P, b"x")


def test_parts_of_a_mapping_follow_each_for_itself(world: World) -> None:
    vmo, made = stream(world)
    vmo.write(b"".join(bytes([page + 1]) * P for page in range(4)))
    world.root.unmap(made.address + P, P)
    assert made.pieces == 2
    vmo.set_stream_size(3 * P)
    assert shown(world, made) == [1, None, 3, None]
    vmo.set_stream_size(P)
    assert shown(world, made) == [1, None, None, None]
    vmo.set_stream_size(4 * P)
    assert shown(world, made) == [1, None, 0, 0]
    agree(world)


def test_a_mapping_of_no_pieces_follows_nothing(world: World) -> None:
    """It does not keep the object, and nothing is mapped at addresses that are another's now."""
    vmo, made = stream(world, 2)
    world.root.unmap(made.address, 4 * P)
    other = world.root.map(world.vmo, READ | SPECIFIC)
    assert other.address == made.address
    vmo.set_stream_size(4 * P)
    assert shown(world, other) == [1, 2, 3, 4]
    assert not vmo.object.stream.shown


def test_resizing_moves_the_stream_and_what_is_shown(world: World) -> None:
    """Source: zx_vmo_set_size: the stream size is the new size, exactly."""
    vmo, made = stream(world, resizable=True)
    vmo.resize(P + 1)
    assert shown(world, made) == [0, 0, None, None]
    agree(world)
    vmo.resize(4 * P)
    assert shown(world, made) == [0, 0, 0, 0]
    agree(world)


def test_references_share_the_stream(world: World) -> None:
    """Source: zx_vmo_create_child, REFERENCE."""
    vmo, made = stream(world, 2)
    alias = world.keep(vmo.child(VmoChild.REFERENCE))
    also = world.root.map(alias, READ | FOLLOWS)
    alias.set_stream_size(3 * P)
    assert shown(world, made) == shown(world, also) == [0, 0, 0, None]


def test_a_slice_has_a_stream_of_its_own(world: World) -> None:
    piece = part(world, world.vmo, 1, 2)
    made = world.root.map(piece, READ | FOLLOWS, size=4 * P)
    assert shown(world, made) == [2, 3, None, None]
    piece.set_stream_size(P)
    assert shown(world, made) == [2, None, None, None]
    piece.set_stream_size(2 * P)
    assert shown(world, made) == [2, 0, None, None]
    agree(world)


def test_a_view_keeps_the_stream_from_ending_under_it(world: World) -> None:
    vmo, made = stream(world, resizable=True)
    vmo.write(b"x" * 4 * P)
    view = made.view(2 * P, 1)
    acts: tuple[Callable[[], Any], ...] = (
        lambda: vmo.set_stream_size(2 * P),
        lambda: vmo.resize(P),
    )
    for act in acts:
        with pytest.raises(BadState) as caught:
            act()
        assert __file__ in str(caught.value.holder)
        assert caught.value.remedy
    assert bytes(view) == b"x"
    assert vmo.stream_size == vmo.size == 4 * P
    vmo.set_stream_size(2 * P + 1)  # its page stays
    with pytest.raises(OutOfRange) as beyond:
        made.view(2 * P, 2 * P)
    assert beyond.value.limit == 3 * P
    del view
    vmo.set_stream_size(0)
    assert shown(world, made) == [None] * 4


def test_pages_beyond_the_stream_are_not_entered(world: World) -> None:
    """Source: zx_vmar_map, MAP_RANGE: what cannot be shown is skipped."""
    vmo = world.new_vmo(4)
    vmo.write(b"x" * 4 * P)
    vmo.set_stream_size(2 * P)
    vmo.write(b"x" * 4 * P)
    made = world.root.map(vmo, READ | FOLLOWS | RANGE)
    assert [resident_in_tables(made.address + page * P) for page in range(4)] == [
        True,
        True,
        False,
        False,
    ]


def test_another_process_ends_beside_a_stream(world: World) -> None:
    """Its mappings follow nothing afterwards."""
    vmo = world.new_vmo(4)
    with Process(world.kernel) as other:
        root = other.reserve_root(size=8 * P)
        root.map(vmo, READ | FOLLOWS)
        assert len(vmo.object.stream.shown) == 1
        other.exit()
    assert not vmo.object.stream.shown
    vmo.set_stream_size(0)


# Refusals -----------------------------------------------------------------------------------------


def cut_world(world: World) -> tuple[Vmo, Mapping]:
    """Two pieces, one with runs of its own; the stream ends in the middle of the second."""
    vmo = world.new_vmo(8)
    vmo.set_stream_size(5 * P)
    made = world.root.map(vmo, RW | FOLLOWS)
    world.root.unmap(made.address + 3 * P, P)
    world.root.protect(made.address + 5 * P, P, READ)
    return vmo, made


@pytest.mark.parametrize("pages", [0, 1, 4, 6, 8])
def test_a_refused_follow_leaves_books_and_kernel_as_they_were(pages: int) -> None:
    """mmap(2) ENOMEM, for once: what was done for one piece is undone, and nothing is lost."""
    at = 0
    while True:
        at += 1
        world = World()
        vmo, made = cut_world(world)
        target, before = vmo.object, shown(world, made)
        with world.kernel.lock:
            target.stream.size = pages * P
            plan = FailNth(at, errno.ENOMEM)
            refused = False
            try:
                with plan:
                    made.follow()
            except NoMemory:
                refused = True
                target.stream.size = 5 * P
        assert not refused or shown(world, made) == before
        agree(world)
        with world.kernel.lock:
            target.stream.size = pages * P
            made.follow()
        assert shown(world, made) == [
            0 if page < pages and page != 3 else None for page in range(8)
        ]
        agree(world)
        world.end()
        if not plan.refused:
            break
    assert at > 1


@pytest.mark.parametrize("pages", [1, 8])
def test_a_refused_stream_size_leaves_every_mapping_as_it_was(pages: int) -> None:
    """Source: zx_vmo_set_stream_size; NO_MEMORY changes nothing that is shown."""
    at = 0
    while True:
        at += 1
        world = World()
        vmo, made = cut_world(world)
        also = world.root.map(vmo, READ | FOLLOWS)
        before = shown(world, made), shown(world, also)
        plan = FailNth(at, errno.ENOMEM)
        try:
            with plan:
                vmo.set_stream_size(pages * P)
        except NoMemory:
            assert vmo.stream_size == 5 * P
            assert (shown(world, made), shown(world, also)) == before
        else:
            assert vmo.stream_size == pages * P
        agree(world)
        world.end()
        if not plan.refused:
            break
    assert at > 2


@pytest.mark.parametrize("done", [True, False], ids=["after the call", "before it"])
@pytest.mark.parametrize(("pages", "call"), [(1, "clear_to_reserved"), (8, "map_shared_at")])
def test_an_interrupted_follow_is_undone(
    world: World, pages: int, call: str, *, done: bool
) -> None:
    vmo, made = cut_world(world)
    before = shown(world, made)
    with world.kernel.lock:
        vmo.object.stream.size = pages * P
        with interrupting(mm, call, done=done):
            made.follow()
        vmo.object.stream.size = 5 * P
    assert shown(world, made) == before
    agree(world)


def test_where_showing_again_is_refused_too_less_is_shown(world: World) -> None:
    """Nothing is ever shown beyond the end; the error says that less is."""
    vmo, made = cut_world(world)
    seen: list[str] = []

    def refuse(name: str) -> None:
        seen.append(name)
        if len(seen) > 1:  # the second piece is hidden; the rest is refused
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with world.kernel.lock:
        vmo.object.stream.size = 0
        former = calls.set_interceptor(refuse)
        try:
            with pytest.raises(NoMemory) as caught:
                made.follow()
        finally:
            calls.set_interceptor(former)
            vmo.object.stream.size = 5 * P
    assert "shown before" in "".join(caught.value.__notes__)
    agree(world)
    with world.kernel.lock:
        made.follow()
    assert shown(world, made) == [0, 0, 0, None, 0, None, None, None]
    agree(world)


def life(world: World) -> list[Callable[[], Any]]:
    """Each act that has to do with an end, on whatever the acts before it have left."""
    root, base = world.root, world.root.base
    piece = part(world, world.vmo, 1, 2)
    vmo = world.new_vmo(4)
    return [
        lambda: root.map(piece, RW | SPECIFIC | RANGE, size=4 * P),
        lambda: root.map(vmo, RW | SPECIFIC | FOLLOWS, offset=4 * P, size=6 * P),
        lambda: root.map(piece, READ | OVERWRITE, offset=2 * P, size=4 * P),
        lambda: vmo.set_stream_size(P),
        lambda: root.protect(base, 10 * P, READ),
        lambda: vmo.set_stream_size(3 * P),
        lambda: root.unmap(base + P, 7 * P),
        lambda: root.op_range(VmarOp.MAP_RANGE, base + 8 * P, P),
        lambda: vmo.set_stream_size(4 * P),
    ]


@pytest.mark.parametrize("lasting", [False, True])
def test_whatever_call_fails_books_and_kernel_agree(*, lasting: bool) -> None:
    """Source: DESIGN: after any refusal the books say what the processor sees."""
    at, refused = 0, 0
    while True:
        at += 1
        world = World()
        seen = [0]

        def fail(name: str, seen: list[int] = seen, at: int = at) -> None:
            if not name.startswith("process_vm"):
                seen[0] += 1
                if seen[0] == at or (lasting and seen[0] > at):
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        for act in life(world):
            former = calls.set_interceptor(fail)
            try:
                act()
            except (NoMemory, OSError, LookupError, BadState):
                refused += 1
            finally:
                calls.set_interceptor(former)
            agree(world)
        world.end()
        if seen[0] < at:
            break
    assert at > 8
    assert refused > 5


def test_a_thread_that_reads_sees_the_stream_or_a_fault(world: World) -> None:
    """Neither the reservation made accessible nor bytes of anybody else."""
    vmo, made = stream(world)
    vmo.write(b"\7" * 4 * P)
    seen: set[bytes | None] = set()
    started, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(load(made.address + 3 * P))
            started.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    started.wait()
    try:
        for _ in range(300):
            with world.kernel.lock:
                vmo.object.set_stream(3 * P)
                vmo.object.set_stream(4 * P)
            world.root.protect(made.address, 4 * P, READ)
            world.root.protect(made.address, 4 * P, RW)
    finally:
        done.set()
        watcher.join()
    assert seen <= {b"\7", None}
    assert shown(world, made) == [7] * 4
