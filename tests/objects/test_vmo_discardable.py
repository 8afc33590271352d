"""Discardable memory: locks, and what `Kernel.reclaim` may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadState,
    NotFound,
    NotSupported,
    OutOfRange,
    Unavailable,
)
from pinfold.memory.pages import Pages
from pinfold.objects.vmo import CachePolicy
from pinfold.testing import FailNth, check_books

from .pages import PAGE, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

R = pf.Right
READ = pf.Perm.READ
SIZE = 4 * PAGE

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def cache(process: pf.Process) -> Iterator[pf.Vmo]:
    """A discardable object that is full and may be discarded."""
    del process
    with pf.Vmo(SIZE, discardable=True, name="cache") as made:
        made.lock_memory()
        made.write(b"x" * SIZE)
        made.unlock_memory()
        yield made


def test_what_was_never_locked_is_never_discarded(kernel: pf.Kernel) -> None:
    """Source: zx_vmo_create, DISCARDABLE: it starts unlocked, and is nobody's to take yet."""
    with pf.Vmo(SIZE, discardable=True) as vmo:
        vmo.write(b"x" * SIZE)
        assert kernel.reclaim() == 0
        assert vmo.read(0, 1) == b"x"


def test_what_was_unlocked_is_discarded(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_vmo_op_range, UNLOCK: the memory is given back to the host, and counted."""
    assert kernel.reclaim() == SIZE
    assert cache.statistics().committed == 0
    assert cache.statistics().discards == 1
    assert kernel.reclaim() == 0, "it is discarded once"


def test_the_lock_says_what_was_lost_and_once(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_vmo_lock_state_t. Then it reads as zeros, and can be filled."""
    kernel.reclaim()
    found = cache.lock_memory()
    assert (found.offset, found.size) == (0, SIZE)
    assert (found.discarded_offset, found.discarded_size) == (0, SIZE)
    assert cache.lock_memory().discarded_size == 0
    assert numbers(cache) == [0] * 4
    cache.write(b"y" * SIZE)
    assert kernel.reclaim() == 0
    for _ in range(2):
        cache.unlock_memory()
    assert kernel.reclaim() == SIZE


def test_locks_nest(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_vmo_op_range, LOCK: as often unlocked as locked, by whatever handle."""
    with cache.duplicate(R.READ) as reading, cache.duplicate(R.WRITE) as writing:
        cache.lock_memory()
        reading.try_lock_memory()
        writing.lock_memory(0, SIZE)
        for handle in (writing, cache):
            handle.unlock_memory()
            assert kernel.reclaim() == 0
        reading.unlock_memory(0, SIZE)
        with pytest.raises(BadState):
            reading.unlock_memory()
        assert kernel.reclaim() == SIZE


@pytest.mark.parametrize(
    "act",
    [
        lambda vmo, bti: vmo.read(0, 1),
        lambda vmo, bti: vmo.read(),
        lambda vmo, bti: vmo.write(b"x"),
        lambda vmo, bti: vmo.commit(),
        lambda vmo, bti: bti.pin(vmo, perms=READ).unpin(),
        lambda vmo, bti: vmo.view(),
        lambda vmo, bti: vmo.array(),
    ],
)
def test_what_needs_the_memory_does_not_find_it(
    cache: pf.Vmo, bti: pf.Bti, kernel: pf.Kernel, act: Callable[[pf.Vmo, pf.Bti], object]
) -> None:
    """Source: zx_vmo_read, zx_vmo_op_range, zx_bti_pin: NOT_FOUND. Nothing is made anew."""
    kernel.reclaim()
    with pytest.raises(NotFound):
        act(cache, bti)
    assert cache.statistics().committed == 0
    assert cache.pin_count() == 0
    assert cache.statistics().views == 0
    check_books(kernel)
    cache.lock_memory()
    act(cache, bti)


@pytest.mark.parametrize(
    "act",
    [
        lambda vmo: vmo.read(SIZE, 0),
        lambda vmo: vmo.write(b"", 4),
        lambda vmo: vmo.commit(PAGE, 0),
        lambda vmo: vmo.decommit(),
        lambda vmo: vmo.zero(),
        lambda vmo: vmo.prefetch(),
        lambda vmo: vmo.clean_cache(0, SIZE),
        lambda vmo: vmo.set_stream_size(PAGE),
    ],
)
def test_what_needs_none_of_the_memory_works(
    cache: pf.Vmo, kernel: pf.Kernel, act: Callable[[pf.Vmo], object]
) -> None:
    """Source: zx_vmo_read, length 0; zx_vmo_op_range."""
    kernel.reclaim()
    act(cache)
    assert cache.lock_memory().discarded_size == SIZE


def test_try_lock_takes_nothing_that_was_lost(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_vmo_op_range, TRY_LOCK, UNAVAILABLE: and it is not locked by that."""
    cache.try_lock_memory()
    cache.unlock_memory()
    kernel.reclaim()
    with pytest.raises(Unavailable):
        cache.try_lock_memory()
    with pytest.raises(BadState):
        cache.unlock_memory()


# What is in use -----------------------------------------------------------------------------------


def test_pinned_memory_is_not_taken(cache: pf.Vmo, bti: pf.Bti, kernel: pf.Kernel) -> None:
    """A device may be at it, quarantined pins too."""
    pmt = bti.pin(cache, 3 * PAGE, PAGE, perms=READ)
    assert kernel.reclaim() == 0
    pmt.close()
    assert kernel.reclaim() == 0
    bti.release_quarantine()
    assert cache.read(0, 1) == b"x"
    assert kernel.reclaim() == SIZE


def test_mapped_memory_is_not_taken(cache: pf.Vmo, process: pf.Process, kernel: pf.Kernel) -> None:
    """On Linux a mapping of what was taken would read zeros and tell nobody."""
    options = pf.VmOption.PERM_READ | pf.VmOption.ALLOW_FAULTS
    with process.root.map(cache, options):
        assert kernel.reclaim() == 0
    assert kernel.reclaim() == SIZE


def test_viewed_memory_is_not_taken(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Nor what a slice of a view shows."""
    part = cache.view()[3:4]
    assert kernel.reclaim() == 0
    assert part[0] == ord("x")
    del part
    assert kernel.reclaim() == SIZE


def test_only_what_may_be_taken_is(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Several objects: locked, plain, discardable, in the order they were made."""
    with (
        pf.Vmo(SIZE) as plain,
        pf.Vmo(SIZE, discardable=True) as locked,
        pf.Vmo(2 * PAGE, discardable=True, resizable=True) as small,
    ):
        for vmo in (plain, locked, small):
            vmo.write(b"y" * PAGE)
        locked.lock_memory()
        small.lock_memory()
        small.unlock_memory()
        assert kernel.reclaim() == SIZE + PAGE, "what was committed, and not the sizes"
        assert plain.read(0, 1) == locked.read(0, 1) == b"y"
        small.resize(PAGE)
        assert small.lock_memory().discarded_size == PAGE, "all of it, as it is now"
        locked.unlock_memory()


def test_a_write_that_is_under_way_keeps_its_memory(
    cache: pf.Vmo, kernel: pf.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long one goes without the kernel's lock: what it writes is not taken before it ends."""
    assert cache.size == SIZE
    taken: list[int] = []
    former = Pages.write_from

    def write_and_reclaim(self: Pages, buffer: memoryview, offset: int) -> None:
        former(self, buffer, offset)
        taken.append(kernel.reclaim())

    size = 1 << 20
    with pf.Vmo(size, discardable=True) as big:
        big.lock_memory()
        big.unlock_memory()
        monkeypatch.setattr(Pages, "write_from", write_and_reclaim)
        big.write(b"z" * size)
        monkeypatch.undo()
        assert taken == [SIZE], "of the other one"
        assert big.read(0, 1) == b"z"
        assert kernel.reclaim() == size


def test_a_refusal_of_the_host_leaves_it_as_it_was(cache: pf.Vmo, kernel: pf.Kernel) -> None:
    """Nothing is said to be discarded that may be there; the next reclaim takes it."""
    with FailNth(1) as plan, pytest.raises(pf.PinfoldError):
        kernel.reclaim()
    assert plan.refused
    assert cache.statistics().discards == 0
    assert cache.read(0, 1) == b"x"
    with FailNth(2), pytest.raises(pf.PinfoldError):
        kernel.reclaim()
    assert cache.statistics().discards in (0, 1)
    check_books(kernel)
    kernel.reclaim()
    assert cache.lock_memory().discarded_size == SIZE


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lock_memory", "try_lock_memory", "unlock_memory"])
def test_locks_are_checked(cache: pf.Vmo, vmo: pf.Vmo, name: str) -> None:
    """Source: zx_vmo_op_range, LOCK: READ or WRITE; a discardable object, all of it."""
    with cache.duplicate(R.READ | R.WRITE) as both:
        both.lock_memory()
    with cache.duplicate(R.MAP) as neither, pytest.raises(AccessDenied):
        getattr(neither, name)()
    with pytest.raises(NotSupported):
        getattr(vmo, name)()
    for offset, size in ((PAGE, SIZE), (0, SIZE - PAGE), (0, SIZE + 1), (0, 0)):
        with pytest.raises(OutOfRange):
            getattr(cache, name)(offset, size)
    cache.unlock_memory()
    with pytest.raises(BadState):
        cache.unlock_memory()


def test_the_cache_policy_of_discardable_memory(cache: pf.Vmo) -> None:
    """Source: zx_vmo_set_cache_policy in Zircon's kernel: CACHED, and no other."""
    cache.set_cache_policy(CachePolicy.CACHED)
    for policy in (CachePolicy.UNCACHED, CachePolicy.UNCACHED_DEVICE, CachePolicy.WRITE_COMBINING):
        with pytest.raises(BadState):
            cache.set_cache_policy(policy)


def test_a_discarded_object_that_is_closed_leaves_nothing(kernel: pf.Kernel) -> None:
    """Its registry entry and its descriptor go."""
    before = kernel.statistics().objects
    with pf.Vmo(SIZE, discardable=True) as vmo:
        vmo.commit()
        vmo.lock_memory()
        vmo.unlock_memory()
        kernel.reclaim()
    assert kernel.statistics().objects == before
    assert kernel.reclaim() == 0
