"""What a refusal in the middle of an unpin, or a lowered limit, left of counters and holds."""

from __future__ import annotations

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.testing import check_books
from tests.dialects.aix.world import READ_WRITE, P, World
from tests.memory.locking import intercepted, refuse


@pytest.fixture
def world() -> World:
    return World(pf.Kernel(seed=1))


def test_a_window_that_cannot_be_unmapped_keeps_no_counter(world: World) -> None:
    """The object has grown since, so that its last pin takes the window with it.

    The books were struck, the counter was not, and every later unpin succeeded and did nothing.
    """
    with world.process, pf.Vmo(2 * P, resizable=True) as vmo:
        start = int(world.process.root.map(vmo, READ_WRITE).address)
        assert aix.pin(start, 2 * P) == 0
        vmo.resize(4 * P)
        vmo.view(3 * P, P).release()
        with intercepted(refuse("munmap")):
            assert aix.unpin(start, 2 * P) in (0, aix.EIO)
        check_books(world.kernel)
        assert world.short(start, 2) == [0, 0]
        assert aix.unpin(start, 2 * P) == aix.EINVAL
    world.close()


def test_a_limit_that_was_lowered_is_no_obstacle_to_an_unpin(world: World) -> None:
    """What is left of a hold is charged already; it was charged again, and refused."""
    with world.process:
        assert aix.pin(world.a, 8 * P) == 0
        world.kernel.ledger.limit = 2 * P
        assert aix.unpin(world.a + 3 * P, P) == 0
        assert world.short(world.a, 8) == [1, 1, 1, 0, 1, 1, 1, 1]
        assert world.held == 7
        assert aix.pin(world.a + 3 * P, P) == aix.ENOMEM
        assert aix.unpin(world.a, 3 * P) == 0
        assert aix.unpin(world.a + 4 * P, 4 * P) == 0
    world.close()


def test_one_page_twice_in_a_range_has_to_be_pinned_twice(world: World) -> None:
    """ltunpin took the one pin that there was, and then stopped the system."""
    options = pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE | pf.VmOption.CAN_MAP_SPECIFIC
    with world.process:
        region = world.process.root.allocate(2 * P, options)
        for offset in (0, P):
            place = READ_WRITE | pf.VmOption.SPECIFIC
            region.map(world.vmo, place, offset=offset, size=P)
        start = int(region.base)
        assert aix.ltpin(start, P) == 0
        with pytest.raises(aix.KernelAssertion):
            aix.ltunpin(start, 2 * P)
        assert world.counts(start) == [(0, 1)]
        assert aix.ltunpin(start + P, P) == 0
        region.destroy()
        region.close()
    world.close()


def test_no_memory_for_the_last_step_is_no_pin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything was locked, one counter was raised, and then there was no memory."""
    with world.process, pf.Vmo(P) as vmo:
        options = pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE
        region = world.process.root.allocate(2 * P, options | pf.VmOption.CAN_MAP_SPECIFIC)
        place = READ_WRITE | pf.VmOption.SPECIFIC
        region.map(world.vmo, place, size=P)
        region.map(vmo, place, offset=P)
        book = type(world.kernel.counted)._counts  # noqa: SLF001 - the step that is to fail
        calls = []

        def second_fails(self: object, stretch: object, *, long: bool) -> object:
            calls.append(stretch)
            if len(calls) == 2:
                raise MemoryError
            return book(self, stretch, long=long)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(type(world.kernel.counted), "_counts", second_fails)
            assert aix.pin(int(region.base), 2 * P) == aix.ENOMEM
        assert (world.short(int(region.base), 2), world.held) == ([0, 0], 0)
        region.destroy()
        region.close()
    world.close()


def test_paging_space_of_a_slice_whose_parent_is_closed(world: World) -> None:
    """The slice has the parent's pages; a pin of them made the sum negative."""
    world.kernel.paging_space = 64 * P
    with world.process:
        parent = pf.Vmo(8 * P)
        parent.commit()
        part = parent.child(pf.VmoChild.SLICE, 2 * P, 4 * P)
        parent.close()
        assert world.kernel.counted.statistics().paging_space_used == 8 * P
        start = int(world.process.root.map(part, READ_WRITE).address)
        assert aix.ltpin(start, 4 * P) == 0
        assert world.kernel.counted.statistics().paging_space_used == 4 * P
        assert aix.ltunpin(start, 4 * P) == 0
        part.close()
    world.close()


def test_what_is_in_memory_needs_no_room_in_a_full_paging_space(world: World) -> None:
    world.kernel.paging_space = P
    with world.process:
        world.vmo.commit(0, 2 * P)  # Linux asks nobody
        assert aix.pin(world.a, 2 * P) == 0
        assert aix.pin(world.a + 2 * P, P) == aix.ENOSPC
        assert aix.unpin(world.a, 2 * P) == 0
    world.close()
