"""MAP_RANGE: entering pages, beside other threads, and where it fails. And interrupted calls."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pinfold.errors import BadState, HostError, NoMemory
from pinfold.host import calls
from pinfold.objects.vmar import VmOption
from tests.memory.host_ranges import interrupting
from tests.objects.vmar.world import READ, RW, SPECIFIC, P, World, agree, at_each, elsewhere, refuse
from tests.user_memory import load

RANGE = READ | VmOption.MAP_RANGE


def test_pages_are_entered_without_the_lock(world: World) -> None:
    """Waiting for a disk must not keep the rest of the kernel, every unpin, waiting."""
    held: list[bool] = []
    with at_each("madvise", lambda: held.append(world.kernel.lock.held_here)):
        world.root.map(world.vmo, RANGE)
    assert held == [False]


OTHERS: dict[str, Callable[[World], object]] = {
    "unmaps it": lambda w: w.root.unmap(w.root.base, 4 * P),
    "unmaps a part": lambda w: w.root.unmap(w.root.base + 2 * P, P),
    "takes all access away": lambda w: w.root.protect(w.root.base, 4 * P, 0),
    "destroys its region": lambda w: w.root.unmap(w.root.base, w.root.size),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_thread_may_have_its_way_meanwhile(world: World, what: str) -> None:
    """The call has mapped; what the other thread did came after it."""
    with at_each("madvise", elsewhere(lambda: OTHERS[what](world))):
        made = world.root.map(world.vmo, RANGE | SPECIFIC)
    assert made.address == world.root.base
    assert load(made.address + 2 * P) is None
    agree(world)


def test_memory_that_another_thread_cuts_meanwhile_is_left_out(world: World) -> None:
    vmo = world.new_vmo(4, resizable=True)
    vmo.write(b"x" * 4 * P)
    with at_each("madvise", elsewhere(lambda: vmo.resize(P))):
        made = world.root.map(vmo, RANGE)
    assert made.mapped_size == 4 * P
    assert load(made.address) == b"x"


def test_memory_whose_last_mapping_goes_meanwhile(world: World) -> None:
    """Its descriptor is closed by then, and its number may be somebody else's."""
    vmo = world.new_vmo(2)
    vmo.write(b"x" * 2 * P)

    def unmap_and_close() -> None:
        vmo.close()
        world.root.unmap(world.root.base, 2 * P)

    with at_each("madvise", elsewhere(unmap_and_close)):
        made = world.root.map(vmo, RANGE | SPECIFIC)
    assert made.pieces == 0
    agree(world)


def test_pages_that_cannot_be_entered_leave_nothing_mapped(world: World) -> None:
    with at_each("madvise", refuse(errno.EFAULT)), pytest.raises(HostError):
        world.root.map(world.vmo, RANGE)
    assert world.root.statistics().mappings == 0
    agree(world)


def test_where_undoing_fails_too_the_first_error_is_raised_and_says_so(world: World) -> None:
    """What stays is listed, and can be unmapped by its address."""

    def see(name: str) -> None:
        if name == "madvise":
            calls.set_interceptor(lambda _: refuse(errno.ENOMEM)())
            refuse(errno.EFAULT)()

    former = calls.set_interceptor(see)
    try:
        with pytest.raises(HostError) as caught:
            world.root.map(world.vmo, RANGE)
    finally:
        calls.set_interceptor(former)
    assert caught.value.errno == errno.EFAULT
    assert "stays mapped" in "".join(caught.value.__notes__)
    left = world.root.maps()[1]
    assert (left.base, left.size) == (world.root.base, 4 * P)
    world.root.unmap(left.base, left.size)
    agree(world)


def test_an_interruption_unmaps_it_again(world: World) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with at_each("madvise", stop), pytest.raises(KeyboardInterrupt):
        world.root.map(world.vmo, RANGE)
    assert world.root.statistics().mappings == 0
    agree(world)


# Interrupted calls --------------------------------------------------------------------------------


def test_an_interrupted_view_is_no_view(world: World) -> None:
    made = world.root.map(world.vmo, RW)
    with interrupting(calls, "buffer_at"):
        made.view()
    assert world.vmo.statistics().views == 0
    made.unmap()
    assert world.root.statistics().mappings == 0


def test_an_interrupted_allocate_takes_no_addresses(world: World) -> None:
    koids = {found.koid for found in world.kernel.objects()}
    with interrupting(type(world.process), "add", done=False):
        world.root.allocate(4 * P)
    assert world.root.statistics().regions == 0
    assert {found.koid for found in world.kernel.objects()} == koids


def test_overwriting_what_cannot_be_let_go_leaves_nothing_without_a_name(world: World) -> None:
    """The memory that was there is closed by the call; the mapping that nobody got is not left."""
    old = world.new_vmo(4)
    made = world.root.map(old, READ)
    old.close()
    with at_each("close", refuse(errno.EIO)), pytest.raises(HostError):
        world.root.map(world.vmo, READ | VmOption.SPECIFIC_OVERWRITE)
    assert made.pieces == 0
    assert world.root.statistics().mappings == 0
    agree(world)


def test_a_dead_region_is_reported_before_a_limit_of_files(world: World) -> None:
    """Source: zx_vmar_map: of the offsets only the overflow of 64 bits comes before the region."""
    child = world.allocate(4 * P, VmOption.CAN_MAP_READ)
    child.destroy()
    with pytest.raises(BadState):
        child.map(world.vmo, READ, vmo_offset=1 << 63, size=P)


def test_populating_that_runs_out_of_memory_is_no_memory(world: World) -> None:
    with at_each("madvise", refuse(errno.ENOMEM)), pytest.raises(NoMemory) as caught:
        world.root.map(world.vmo, RANGE)
    assert caught.value.remedy
