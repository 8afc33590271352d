"""What is done with the pages behind addresses: every error, which comes first, and the work."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pinfold import Right, Vmo
from pinfold.errors import (
    AccessDenied,
    BadState,
    HostError,
    InvalidArgs,
    NoMemory,
    OutOfRange,
    PinfoldError,
)
from pinfold.host import calls
from pinfold.objects import page_ops
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import VmarOp
from pinfold.objects.vmo_child import VmoChild
from tests.objects.vmar.op_table import OP_RANGES, pinned, put
from tests.objects.vmar.slips import Slip, expect
from tests.objects.vmar.world import (
    CAN_ALL,
    FAULTS,
    READ,
    RW,
    SPECIFIC,
    STREAM,
    P,
    World,
    agree,
    at_each,
    elsewhere,
    refuse,
    resident_in_tables,
    shown,
)
from tests.user_memory import load

COMMIT, DECOMMIT, MAP_RANGE = VmarOp.COMMIT, VmarOp.DECOMMIT, VmarOp.MAP_RANGE
ZERO, DONT_NEED = VmarOp.ZERO, VmarOp.DONT_NEED
ALWAYS_NEED, PREFETCH = VmarOp.ALWAYS_NEED, VmarOp.PREFETCH


@pytest.mark.parametrize("slip", OP_RANGES.slips, ids=str)
def test_op_range_refuses(world: World, slip: Slip) -> None:
    """Source: zx_vmar_op_range ERRORS, and zx_vmo_op_range's of the same operations."""
    expect(OP_RANGES, world, (slip,))


@pytest.mark.parametrize(("first", "second"), OP_RANGES.pairs, ids=str)
def test_op_range_checks_in_the_documented_order(world: World, first: Slip, second: Slip) -> None:
    """Source: zircon, zx_vmar_op_range: the first failing check decides the status."""
    expect(OP_RANGES, world, (first, second))


def test_a_mapping_is_checked_in_the_documented_order(world: World) -> None:
    """What may be wrong with one mapping all at once. Source: as above."""
    region = world.allocate(8 * P, CAN_ALL | SPECIFIC, offset=8 * P)
    vmo = world.new_vmo(2)
    vmo.set_stream_size(P)
    made = region.map(world.without(vmo, Right.WRITE), READ | STREAM | FAULTS, size=4 * P)
    with pytest.raises(InvalidArgs):  # a child's mapping
        world.root.op_range(COMMIT, made.address, 4 * P)
    with pytest.raises(OutOfRange) as stream:  # beyond the stream
        region.op_range(COMMIT, made.address, 4 * P)
    assert stream.value.limit == P
    with pytest.raises(AccessDenied):  # never writable
        region.op_range(COMMIT, made.address, P)
    made.unmap()
    made = region.map(world.without(vmo, Right.WRITE), READ, size=4 * P)
    with pytest.raises(AccessDenied):  # before the end of the memory
        region.op_range(ZERO, made.address, 4 * P)


# What it does -------------------------------------------------------------------------------------


def entered(made: Mapping) -> list[bool]:
    return [resident_in_tables(made.address + page * P) for page in range(made.size // P)]


def test_commit_gives_memory_and_enters_it(world: World) -> None:
    """Source: zx_vmar_op_range, COMMIT; without the kernel's lock while the host works."""
    vmo = world.new_vmo(4)
    made = world.root.map(vmo, RW)
    held: list[bool] = []
    with at_each("madvise", lambda: held.append(world.kernel.lock.held_here)):
        world.root.op_range(COMMIT, made.address + P, P + 1)
    assert vmo.statistics().attributed == 2 * P
    assert entered(made) == [False, True, True, False]
    assert held
    assert not any(held)


def test_commit_of_what_has_no_access_gives_memory_all_the_same(world: World) -> None:
    """Source: zircon: what the mapping may allow at most decides, not what it allows now."""
    vmo = world.new_vmo(3)
    made = world.root.map(vmo, 0)
    world.root.protect(made.address + P, P, READ)
    world.root.op_range(COMMIT, made.address, 3 * P)
    assert vmo.statistics().attributed == 3 * P
    assert entered(made) == [False, True, False]


def test_decommit_shows_zeros_through_every_mapping(world: World) -> None:
    """Source: zx_vmar_op_range, DECOMMIT, across two mappings; conformance vmar-127."""
    vmo = world.new_vmo(5)
    vmo.write(b"x" * 5 * P)
    first = put(world, vmo, 0, RW, 2)
    second = world.root.map(vmo, RW | SPECIFIC, offset=2 * P, vmo_offset=3 * P, size=P)
    alias = world.root.map(vmo, READ, vmo_offset=P, size=P)
    world.root.op_range(DECOMMIT, first.address + P, 2 * P)
    assert vmo.statistics().attributed == 3 * P
    assert [load(m.address) for m in (first, second, alias)] == [b"x", b"\0", b"\0"]
    assert vmo.statistics().attributed == 5 * P  # reading through a mapping commits, on Linux
    world.root.op_range(DECOMMIT, alias.address, P)  # mapped to be read, by a handle with WRITE
    assert vmo.statistics().attributed == 4 * P


def test_zero_clears_what_is_pinned_in_place(world: World) -> None:
    """Source: zx_vmar_op_range, ZERO; a pinned page keeps its memory."""
    vmo = pinned(world)
    vmo.write(b"x" * P)
    made = world.root.map(vmo, READ)
    world.root.op_range(ZERO, made.address, P)
    assert load(made.address, P) == bytes(P)
    assert vmo.statistics().committed == P


@pytest.mark.parametrize("op", [MAP_RANGE, ALWAYS_NEED, PREFETCH])
def test_pages_that_have_memory_are_entered_and_no_other(world: World, op: VmarOp) -> None:
    """Source: zx_vmar_op_range; for anonymous memory nothing is committed."""
    vmo = world.new_vmo(5)
    vmo.write(b"x", P)
    vmo.write(b"x", 3 * P)
    made = world.root.map(vmo, READ)
    world.root.op_range(op, made.address, 3 * P)
    assert entered(made)[:3] == [False, True, False]  # Linux enters neighbours that have memory
    world.root.op_range(op, made.address, 5 * P)
    assert entered(made) == [False, True, False, True, False]
    assert vmo.statistics().attributed == 2 * P


@pytest.mark.parametrize("op", [MAP_RANGE, ALWAYS_NEED, DONT_NEED])
def test_hints_do_not_ask_where_the_memory_ends(world: World, op: VmarOp) -> None:
    """Source: zx_vmo_op_range: ALWAYS_NEED and DONT_NEED test no range; MAP_RANGE skips."""
    vmo = world.new_vmo(2)
    vmo.write(b"x" * 2 * P)
    made = world.root.map(vmo, READ, size=4 * P)
    world.root.op_range(op, made.address, 4 * P)
    assert entered(made) == [op != DONT_NEED] * 2 + [False] * 2
    far = world.root.map(vmo, READ, vmo_offset=1 << 63, size=P)
    world.root.op_range(op, far.address, P)
    agree(world)


def test_what_was_done_before_an_error_stays_done(world: World) -> None:
    """Source: zx_vmar_op_range: the mappings are worked through in ascending order."""
    first, second = world.new_vmo(2), world.new_vmo(2)
    put(world, first, 0)
    put(world, world.without(second, Right.WRITE), 2, READ)
    with pytest.raises(AccessDenied):
        world.root.op_range(COMMIT, world.root.base, 4 * P)
    assert first.statistics().attributed == 2 * P
    assert second.statistics().attributed == 0
    with pytest.raises(BadState) as hole:
        world.root.op_range(MAP_RANGE, world.root.base, 5 * P)
    assert hole.value.asked == world.root.base + 4 * P


def test_a_slice_is_worked_on_at_its_own_offsets(world: World) -> None:
    piece = world.keep(world.vmo.child(VmoChild.SLICE, 2 * P, 2 * P))
    made = world.root.map(piece, RW, vmo_offset=P, size=P)
    world.root.op_range(ZERO, made.address, P)
    assert [world.vmo.read(page * P, 1)[0] for page in range(4)] == [1, 2, 3, 0]
    world.root.op_range(COMMIT, made.address, P)
    assert entered(made) == [True]
    longer = world.root.map(piece, RW, size=3 * P)
    with pytest.raises(OutOfRange):
        world.root.op_range(ZERO, longer.address, 3 * P)
    world.root.op_range(MAP_RANGE, longer.address, 3 * P)
    assert entered(longer) == [True, True, False]


@pytest.mark.parametrize("op", [MAP_RANGE, ALWAYS_NEED, PREFETCH])
def test_of_a_slice_its_own_pages_are_entered(world: World, op: VmarOp) -> None:
    """Those that have memory, wherever in the parent they are."""
    parent = world.new_vmo(40)  # more than Linux enters around a page
    parent.write(b"x", 36 * P)
    piece = world.keep(parent.child(VmoChild.SLICE, 35 * P, 5 * P))
    made = world.root.map(piece, READ)
    world.root.op_range(op, made.address, 5 * P)
    assert entered(made) == [False, True, False, False, False]
    assert parent.statistics().attributed == P


def test_a_cut_mapping_is_worked_on_in_its_parts(world: World) -> None:
    made = world.root.map(world.vmo, RW)
    world.root.unmap(made.address + P, P)
    world.root.op_range(ZERO, made.address + 2 * P, P)
    assert shown(world, made) == [1, None, 0, 4]
    with pytest.raises(BadState):
        world.root.op_range(ZERO, made.address, 4 * P)
    assert shown(world, made) == [0, None, 0, 4]


@pytest.mark.parametrize("op", ["COMMIT", 1.0, None])
def test_an_operation_is_a_number(world: World, op: Any) -> None:
    with pytest.raises(TypeError):
        world.root.op_range(op, world.root.base, P)


# Beside other threads, and where the host refuses -------------------------------------------------


def close_and_unmap(world: World, vmo: Vmo) -> None:
    vmo.close()
    world.root.unmap(world.root.base, 8 * P)


OTHERS: dict[str, tuple[Callable[[World, Vmo], object], type[PinfoldError] | None]] = {
    "unmaps all": (lambda w, _: w.root.unmap(w.root.base, 8 * P), BadState),
    "unmaps what comes next": (lambda w, _: w.root.unmap(w.root.base + 4 * P, 4 * P), BadState),
    "unmaps what is worked on": (lambda w, _: w.root.unmap(w.root.base + P, P), None),
    "takes all access away": (lambda w, _: w.root.protect(w.root.base, 8 * P, 0), None),
    "closes the handle and unmaps": (close_and_unmap, BadState),
    "ends the process": (lambda w, _: w.process.exit(), BadState),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("op", [COMMIT, MAP_RANGE])
def test_another_thread_may_change_the_range_meanwhile(op: VmarOp, what: str) -> None:
    """What is worked on is kept until that is done; what comes next is looked at when it does."""
    world = World()
    vmo, after = world.new_vmo(4), world.new_vmo(4)
    vmo.write(b"x" * 4 * P)
    put(world, vmo, 0)
    put(world, after, 4)
    act, error = OTHERS[what]
    with at_each("madvise", elsewhere(lambda: act(world, vmo))):
        if error is None:
            world.root.op_range(op, world.root.base, 8 * P)
        else:
            root = world.root
            with pytest.raises(error):
                root.op_range(op, root.base, 8 * P)
    if world.process.alive:
        agree(world)
        world.process.exit()
    assert world.kernel.objects() == []


def test_memory_that_loses_its_last_mapping_is_given_memory_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the host is asked. The call has the object, as a system call has it."""
    vmo = world.new_vmo(2)
    put(world, vmo, 0)
    act, commit = elsewhere(lambda: close_and_unmap(world, vmo)), page_ops.commit

    def later(*arguments: Any) -> None:
        act()
        commit(*arguments)

    monkeypatch.setattr(page_ops, "commit", later)
    world.root.op_range(COMMIT, world.root.base, 2 * P)
    assert vmo.closed
    assert world.root.statistics().mappings == 0


def test_two_threads_may_work_at_once(world: World) -> None:
    """One waits for the host, the other is not kept waiting."""
    vmo = world.new_vmo(4)
    made = world.root.map(vmo, RW)
    done = threading.Event()

    def other() -> None:
        world.root.op_range(ZERO, made.address + 2 * P, P)
        done.set()

    with at_each("madvise", elsewhere(other)):
        world.root.op_range(COMMIT, made.address, 2 * P)
    assert done.is_set()


@pytest.mark.parametrize(
    ("op", "name"), [(COMMIT, "madvise"), (DECOMMIT, "fallocate"), (MAP_RANGE, "madvise")]
)
def test_the_hosts_refusal_is_the_calls_and_changes_nothing(
    world: World, op: VmarOp, name: str
) -> None:
    made = world.root.map(world.vmo, RW)
    with at_each(name, refuse(errno.EFAULT)), pytest.raises(HostError) as caught:
        world.root.op_range(op, made.address, 4 * P)
    assert caught.value.errno == errno.EFAULT
    assert shown(world, made) == [1, 2, 3, 4]
    assert world.vmo.statistics().mappings == 1
    agree(world)


@pytest.mark.parametrize("op", VmarOp)
def test_whatever_call_fails_nothing_is_kept(op: VmarOp) -> None:
    """Every host call of every operation fails once. What is in use afterwards is nothing."""
    at = 0
    while True:
        at += 1
        world = World()
        made = put(world, world.vmo, 0)
        put(world, world.new_vmo(2), 4)
        seen = [0]

        def fail(name: str, seen: list[int] = seen, at: int = at) -> None:
            if name.startswith("process_vm"):
                return
            seen[0] += 1
            if seen[0] == at:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        former = calls.set_interceptor(fail)
        try:
            world.root.op_range(op, made.address, 6 * P)
        except NoMemory:
            assert seen[0] >= at
        finally:
            calls.set_interceptor(former)
        agree(world)
        assert world.vmo.object.in_use == 0
        world.process.exit()
        assert world.kernel.objects() == []
        if seen[0] < at:
            break
