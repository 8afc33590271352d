"""Live views of mapped memory: what they stop, and what becomes of their addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pinfold.errors import BadState
from pinfold.memory.mapped import RWX, Lease, Mapped
from pinfold.memory.reservation import AddressSpace
from pinfold.sites import caller
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import lend, reads


def test_a_view_stops_what_would_take_its_bytes(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root, base, mapped = space.root, space.base, Mapped(files[0])
    root.map(base, base + 4 * PAGE_SIZE, mapped, 0, 3)
    view = lend(space, mapped, 1, 2, 3)
    shown = base + PAGE_SIZE
    acts: tuple[Callable[[], None], ...] = (
        lambda: root.clear(base, shown + PAGE_SIZE),
        lambda: root.clear(shown, shown + PAGE_SIZE),
        lambda: root.map(shown, shown + PAGE_SIZE, Mapped(files[1]), 0, 1),
        lambda: root.protect(shown, shown + PAGE_SIZE, 1),
        lambda: root.protect(base, base + 4 * PAGE_SIZE, 0),
    )
    for act in acts:
        with pytest.raises(BadState) as caught:
            act()
        assert __file__ in str(caught.value.holder)
        assert caught.value.remedy
    root.protect(shown, shown + PAGE_SIZE, RWX)  # takes nothing away
    root.clear(shown + PAGE_SIZE, base + 4 * PAGE_SIZE)  # beside it
    part = view[5:9]
    del view
    with pytest.raises(BadState):
        root.clear(base, shown + PAGE_SIZE)
    del part
    root.clear(base, shown + PAGE_SIZE)
    assert mapped.pieces == 0


def test_a_view_that_is_gone_stops_nothing_before_anybody_is_told(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """The word of its end waits for the lock, which another thread may hold."""
    mapped = Mapped(files[0])
    space.root.map(space.base, space.base + PAGE_SIZE, mapped, 0, 1)
    lease = Lease(space.base, space.base + 8, 1, caller())
    view = mapped.lend(lease, lambda _: None)
    assert lease.live
    del view
    space.root.clear(space.base, space.base + PAGE_SIZE)
    assert mapped.leases == {lease}


def test_addresses_of_a_stale_view_are_given_to_nobody(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """A late access faults; it never reads somebody else's bytes."""
    root, base, mapped = space.root, space.base, Mapped(files[0])
    root.map(base, base + 2 * PAGE_SIZE, mapped, 0, 1)
    view = lend(space, mapped, 0, 1, 1)
    root.clear(base, base + 2 * PAGE_SIZE, force=True)
    assert reads(base) is None
    assert root.find_gap(PAGE_SIZE, PAGE_SIZE, root.stop) == base + PAGE_SIZE
    with pytest.raises(BadState):
        root.map(base, base + PAGE_SIZE, Mapped(files[1]), 0, 1)
    del view
    assert root.find_gap(PAGE_SIZE, PAGE_SIZE, root.stop) == base
