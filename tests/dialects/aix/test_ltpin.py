"""ltpin and ltunpin: the second counter, and the paging space behind it."""

from __future__ import annotations

import pytest

import pinfold as pf
from pinfold.dialects import aix
from tests.memory.locking import locked

from .world import P, World


def paging(world: World, pages: int | None = None) -> int:
    """Pages of paging space that are spoken for, of so many from now on."""
    if pages is not None:
        world.kernel.paging_space = pages * P
    return world.kernel.counted.statistics().paging_space_used // P


def test_either_counter_keeps_a_page(world: World) -> None:
    """Source: ltpin: a page is pinned while one of the two counts is not 0."""
    before = locked()
    assert (aix.pin(world.a, P), aix.ltpin(world.a, P)) == (0, 0)
    assert (world.counts(world.a), world.held) == ([(1, 1)], 1)
    assert aix.unpin(world.a, P) == 0
    assert (world.counts(world.a), locked() - before) == ([(0, 1)], P)
    assert aix.pin(world.a, P) == 0
    assert aix.ltunpin(world.a, P) == 0
    assert (world.counts(world.a), locked() - before) == ([(1, 0)], P)
    assert aix.unpin(world.a, P) == 0
    assert locked() == before


def test_long_term_pins_nest_and_take_whole_pages(world: World) -> None:
    assert aix.ltpin(world.a + P - 1, 2) == 0
    assert aix.ltpin(world.a + P, P) == 0
    assert world.counts(world.a, 3) == [(0, 1), (0, 2), (0, 0)]
    assert aix.ltunpin(world.a, 2 * P) == 0
    assert aix.ltunpin(world.a + P, 1) == 0
    assert world.held == 0


def test_a_length_of_0_is_nothing_and_a_negative_one_is_invalid(world: World) -> None:
    """Source: only negative lengths are named."""
    for service in (aix.ltpin, aix.ltunpin):
        assert service(world.a, 0) == 0
        assert service(16, 0) == 0
        assert service(world.a, -1) == aix.EINVAL
    assert world.held == 0


def test_a_range_that_is_not_defined(world: World) -> None:
    assert aix.ltpin(world.a, 16 * P) == 0
    for service in (aix.ltpin, aix.ltunpin):
        assert service(world.a, 16 * P + 1) == aix.EINVAL
        assert service(world.u, P) == aix.EINVAL
    assert world.counts(world.a, 16) == [(0, 1)] * 16
    assert aix.ltunpin(world.a, 16 * P) == 0


def test_all_of_a_range_or_none(tight: World) -> None:
    assert aix.ltpin(tight.a, 9 * P) == aix.ENOMEM
    assert tight.counts(tight.a, 9) == [(0, 0)] * 9
    assert aix.ltpin(tight.a, 8 * P) == 0
    assert aix.ltunpin(tight.a, 8 * P) == 0


def test_ltunpin_of_what_is_not_pinned_stops_the_system_and_changes_nothing(world: World) -> None:
    """Source: it asserts, where unpin returns EINVAL. A short-term pin is none of its own."""
    assert aix.ltpin(world.a, 2 * P) == 0
    assert aix.pin(world.a + 2 * P, P) == 0
    with pytest.raises(aix.KernelAssertion, match="ltunpin"):
        aix.ltunpin(world.a, 3 * P)
    assert world.counts(world.a, 3) == [(0, 1), (0, 1), (1, 0)]
    assert aix.ltunpin(world.a, 2 * P) == 0
    assert aix.unpin(world.a + 2 * P, P) == 0


@pytest.mark.parametrize("service", [aix.ltpin, aix.ltunpin])
def test_for_the_process_environment_only(world: World, service: object) -> None:
    with aix.interrupt_environment(), pytest.raises(aix.KernelAssertion):
        service(world.a, P)  # type: ignore[operator]


# Paging space -------------------------------------------------------------------------------------


def test_committed_memory_has_a_place_unless_it_is_pinned_for_long(world: World) -> None:
    assert paging(world, 8) == 0
    world.vmo.commit(0, 3 * P)
    assert paging(world) == 3
    assert aix.ltpin(world.a, 5 * P) == 0  # two of them have to be brought in
    assert paging(world) == 0
    assert aix.pin(world.a, P) == 0
    assert paging(world) == 0
    assert aix.ltunpin(world.a, 5 * P) == 0
    assert paging(world) == 5
    assert aix.unpin(world.a, P) == 0
    assert paging(world) == 5
    world.vmo.decommit()
    assert paging(world) == 0


def test_a_pin_that_finds_no_place_pins_nothing(world: World) -> None:
    """Source: ENOSPC: insufficient paging space. What is there already needs no more."""
    paging(world, 4)
    world.vmo.commit(0, 3 * P)
    assert aix.pin(world.a, 5 * P) == aix.ENOSPC
    assert world.held == 0
    assert aix.pin(world.a, 4 * P) == 0
    assert aix.pin(world.a + 4 * P, P) == aix.ENOSPC
    assert aix.ltpin(world.a + 4 * P, P) == aix.ENOSPC
    assert aix.pin(world.a, 4 * P) == 0
    assert (aix.unpin(world.a, 4 * P), aix.unpin(world.a, 4 * P)) == (0, 0)


def test_the_limit_of_pins_is_looked_at_first(tight: World) -> None:
    """Both are passed: which of the two errors comes is nowhere said; ours is ENOMEM."""
    paging(tight, 2)
    assert aix.pin(tight.a, 9 * P) == aix.ENOMEM
    assert aix.pin(tight.a, 8 * P) == aix.ENOSPC
    assert tight.held == 0


def test_ltunpin_waits_for_paging_space(world: World) -> None:
    """Source: it waits; here it raises, nothing has changed, and it can be called again."""
    paging(world, 2)
    assert aix.ltpin(world.a, 2 * P) == 0
    world.vmo.commit(4 * P, P)
    with pytest.raises(aix.WouldWait):
        aix.ltunpin(world.a, 2 * P)
    assert world.counts(world.a, 2) == [(0, 1)] * 2
    assert aix.ltunpin(world.a, P) == 0
    with pytest.raises(aix.WouldWait):
        aix.ltunpin(world.a + P, P)
    world.vmo.decommit(4 * P, P)
    assert aix.ltunpin(world.a + P, P) == 0
    assert paging(world) == 2


def test_a_nested_long_pin_wants_no_place_back(world: World) -> None:
    paging(world, 1)
    assert aix.ltpin(world.a, P) == 0
    assert aix.ltpin(world.a, P) == 0
    world.vmo.commit(4 * P, P)
    assert aix.ltunpin(world.a, P) == 0
    assert paging(world) == 1
    with pytest.raises(aix.WouldWait):
        aix.ltunpin(world.a, P)
    world.vmo.decommit(4 * P, P)
    assert aix.ltunpin(world.a, P) == 0


def test_user_memory_has_a_place_while_it_is_pinned(world: World) -> None:
    """What the process has beside is not ours to count."""
    paging(world, 3)
    dp = world.attached(world.u, 8 * P)
    assert aix.xmempin(world.u, 3 * P, dp) == 0
    assert paging(world) == 3
    assert aix.xmempin(world.u + 3 * P, P, dp) == aix.ENOSPC
    assert aix.xmemunpin(world.u, 3 * P, dp) == 0
    assert paging(world) == 0


def test_memory_of_a_file_has_no_place_in_the_paging_space(world: World, tmp_path: object) -> None:
    """It pages to its file."""
    path = f"{tmp_path}/backing"
    with open(path, "wb") as file:
        file.truncate(4 * P)
    paging(world, 0)
    with pf.Vmo.from_file(path, writable=True) as vmo:
        perms = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
        mapping = world.process.root.map(vmo, perms)
        assert aix.pin(int(mapping.address), 4 * P) == 0
        assert paging(world) == 0
        assert aix.ltpin(int(mapping.address), P) == 0
        assert aix.ltunpin(int(mapping.address), P) == 0
        assert aix.unpin(int(mapping.address), 4 * P) == 0
        mapping.unmap()


def test_a_kernel_without_an_amount_has_as_much_as_is_wanted(world: World) -> None:
    found = world.kernel.counted.statistics()
    assert (found.paging_space, found.paging_space_used) == (None, 0)
    assert aix.ltpin(world.a, 16 * P) == 0
    assert world.kernel.counted.statistics().long_term == 16 * P
    assert aix.ltunpin(world.a, 16 * P) == 0


def test_an_amount_is_not_negative() -> None:
    with pytest.raises(pf.errors.InvalidArgs):
        pf.Kernel(paging_space=-1)
