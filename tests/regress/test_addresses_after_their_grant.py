"""What a list of translations gave out, kept and lost around a refusal or another's unpin."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, cast

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import mm
from pinfold.testing import check_books
from pinfold.units import HostVa
from tests.dialects.aix.world import READ_WRITE, P, World, dropped
from tests.memory.locking import intercepted, locked, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

FAIL = aix.XMEM_FAIL


@pytest.fixture
def world() -> Iterator[World]:
    made = World(pf.Kernel(seed=1))
    with made.process:
        yield made
    made.close()


def bound(bti: pf.Bti, memory: object, count: int) -> aix.Xmem:
    dp = aix.Xmem(bti=bti)
    assert aix.xmattach(memory, count, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
    return dp


def test_no_address_is_given_out_whose_grant_was_revoked(world: World) -> None:
    """The grant was taken back, then munlock was refused, and the list still had the address."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        dp = bound(bti, world.u, P)
        assert aix.xlate_pin(dp, world.u, P, aix.B_READ) == 0
        with intercepted(refuse("munlock")):
            assert aix.xlate_unpin(dp, world.u, P) == aix.EIO
        assert (aix.xmemdma(dp, world.u, 0), bti.statistics().pins) == (FAIL, 0)
        assert aix.xlate_unpin(dp, world.u, P) == 0
        assert aix.xmdetach(dp) == aix.XMEM_SUCC


def test_pages_that_were_unpinned_elsewhere_leave_the_list(world: World) -> None:
    """EINVAL, and everything was stuck: the list could be neither unpinned nor removed."""
    dp = world.attached(world.u, 2 * P)
    assert aix.xlate_pin(dp, world.u, 2 * P, aix.B_READ) == 0
    assert aix.xmemunpin(world.u, P, dp) == 0
    assert aix.xlate_unpin(dp, world.u, 2 * P) == aix.EINVAL
    assert (world.held, dp.aspace_id) == (0, aix.XMEM_PROC)


def test_a_list_remembers_one_memory_for_a_page(world: World) -> None:
    """Something else was mapped there and pinned as well; the second unpin could not find it."""
    dp = world.attached(world.a, P, aix.SYS_ADSPACE)
    assert aix.xlate_create(dp, world.a, P, aix.XLATE_ALLOC | aix.XLATE_SPARSE) == aix.XMEM_SUCC
    assert aix.xlate_pin(dp, world.a, P, aix.B_READ) == 0
    place = READ_WRITE | pf.VmOption.SPECIFIC_OVERWRITE
    offset = world.a - int(world.process.root.base)
    with pf.Vmo(P) as other:
        world.process.root.map(other, place, offset=offset)
        assert aix.xlate_pin(dp, world.a, P, aix.B_READ) == aix.EINVAL
        assert aix.xmempin(world.a, P, dp) == aix.EINVAL
        assert (other.pin_count(0), world.vmo.pin_count(0)) == (0, 1)
        assert aix.xlate_unpin(dp, world.a, P) == 0
        world.process.root.unmap(world.a, P)
    assert world.held == 0


def test_a_view_through_a_slice_names_an_object_that_has_the_pages(world: World) -> None:
    """The window shows all of the parent, and the first view of it was a slice's."""
    with world.vmo.child(pf.VmoChild.SLICE, 4 * P, 4 * P) as part, pf.open_bus("sim") as bus:
        views = [part.view(), world.vmo.view(0, 2 * P)]
        with bus.initiator(1) as bti:
            dp = bound(bti, views[1], 2 * P)
            assert aix.xlate_pin(dp, dp.vaddr, P, aix.B_READ) == 0
            assert min(record.offset for record in world.kernel.ledger.records()) == 0
            assert aix.xlate_unpin(dp, dp.vaddr, P) == 0
            assert aix.xmdetach(dp) == aix.XMEM_SUCC
        for view in views:
            view.release()


def test_a_device_of_another_kernel_is_refused_before_anything_is_entered(world: World) -> None:
    """The memory object was entered into the other kernel's registry, under its own number."""
    stranger = pf.Kernel()
    with pf.Process(stranger) as other, pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        before = stranger.objects()
        with world.process:
            dp = bound(bti, world.u, P)
            assert aix.xlate_pin(dp, world.u, P, aix.B_READ) == aix.EINVAL
            assert aix.xmdetach(dp) == aix.XMEM_SUCC
        assert stranger.objects() == before
        check_books(stranger)
    other.exit()


@pytest.mark.parametrize("flags", [aix.DMA_READ, aix.DMA_READ | aix.DMA_BYPASS])
def test_an_immutable_object_is_not_written_by_a_device_either(world: World, flags: int) -> None:
    """DMA_BYPASS leaves out the look at the mapping; it made a snapshot writable."""
    options = pf.VmoChild.SNAPSHOT | pf.VmoChild.NO_WRITE
    with world.vmo.child(options, 0, P) as fixed, pf.open_bus("sim") as bus:
        start = int(world.process.root.map(fixed, pf.VmOption.PERM_READ).address)
        with bus.initiator(1) as bti:
            handle, out = aix.d_map_init(bti, 0, 0, 0), aix.Out()
            assert isinstance(handle, aix.d_handle_t)
            assert aix.pin(start, P) == 0
            assert aix.d_map_page(handle, flags, start, out, aix.xmem_global) == aix.DMA_NOACC
            assert aix.d_map_page(handle, 0, start, out, aix.xmem_global) == aix.DMA_SUCC
            assert aix.d_unmap_page(handle, out.value) == aix.DMA_SUCC
            assert aix.unpin(start, P) == 0
        world.process.root.unmap(start, P)


def test_a_driver_s_process_may_end_before_the_memory_is_unpinned(world: World) -> None:
    """Its tokens were closed, and looking at them failed the unpin of somebody else."""
    driver = pf.Process(world.kernel, name="driver")
    with driver:
        bus = pf.open_bus("sim")
        bti = bus.initiator(1)
        ours = bti.duplicate().move_to(world.process)
        handle = aix.d_map_init(bti, 0, 0, 0)
    assert isinstance(handle, aix.d_handle_t)
    assert aix.pin(world.a, P) == 0
    assert aix.d_map_page(handle, 0, world.a, aix.Out(), aix.xmem_global) == aix.DMA_SUCC
    driver.exit()
    with pytest.warns(aix.DriverBug):
        assert aix.unpin(world.a, P) == 0
    assert world.short(world.a) == [0]
    with ours:
        assert ours.release_quarantine() == 1


def test_a_buffer_is_kept_while_a_device_has_it(world: World) -> None:
    """A dropped descriptor gave it back with the grant in quarantine, where stub stops nothing."""
    with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
        buffer = mmap.mmap(-1, P)
        kept = [bound(bti, buffer, P)]
        assert aix.xlate_pin(kept[0], kept[0].vaddr, P, aix.B_READ) == 0
        start = kept[0].vaddr
        with pytest.warns(ResourceWarning):
            dropped(kept)
        with pytest.raises(BufferError):
            buffer.close()
        assert bti.release_quarantine() == 1
        dp = world.attached(start, P)
        assert aix.xmemunpin(start, P, dp) == 0
        assert aix.xmdetach(dp) == aix.XMEM_SUCC
        buffer.close()


@pytest.mark.parametrize("how", ["pinned", "mapped for a device"])
def test_a_detached_buffer_is_kept_until_its_last_pin_or_grant(world: World, how: str) -> None:
    buffer, dp, out = mmap.mmap(-1, P), aix.Xmem(), aix.Out()
    assert aix.xmattach(buffer, P, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
    start = dp.vaddr
    assert aix.xmempin(start, P, dp) == 0
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        handle = aix.d_map_init(bti, 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)
        if how != "pinned":
            assert aix.d_map_page(handle, aix.DMA_READ, start, out, dp) == aix.DMA_SUCC
            with pytest.warns(aix.DriverBug):
                assert aix.xmemunpin(start, P, dp) == 0
            assert aix.xmdetach(dp) == aix.XMEM_SUCC
        else:
            with pytest.warns(aix.DriverBug):
                assert aix.xmdetach(dp) == aix.XMEM_SUCC
        with pytest.raises(BufferError):
            buffer.close()
        if how != "pinned":
            assert aix.d_unmap_page(handle, out.value) == aix.DMA_SUCC
        else:
            again = world.attached(start, P)
            assert aix.xmemunpin(start, P, again) == 0
            assert aix.xmdetach(again) == aix.XMEM_SUCC
    buffer.close()


def test_memory_that_took_the_place_of_pinned_memory_is_locked_when_it_is_pinned(
    world: World,
) -> None:
    """Somebody freed memory under a pin by its address. The next at that address is another's."""
    start = HostVa(world.u)
    dp, before = world.attached(world.u, 8 * P), locked()
    assert aix.xmempin(world.u, 8 * P, dp) == 0
    mm.unmap(start, 8 * P)
    mm.reserve_at(start, 8 * P)
    mm.protect(start, 8 * P, 3)
    assert locked() == before
    assert aix.xmempin(world.u, 8 * P, dp) == 0
    assert locked() - before == 8 * P
    for _ in range(2):
        assert aix.xmemunpin(world.u, 8 * P, dp) == 0


def test_detaching_and_unpinning_at_once(world: World) -> None:
    """What is detached is not unpinned, and says so; it returned 0 and did nothing."""
    dp = aix.Xmem()
    assert aix.xmattach(world.u, P, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
    memory = dp.described()
    assert aix.xmdetach(dp) == aix.XMEM_SUCC
    with pytest.raises(pf.errors.BadHandle):
        memory.unpin(world.u, P)


def test_lists_and_handles_want_what_they_are() -> None:
    """AttributeError came out of them."""
    with pf.Process(pf.Kernel()) as process, pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        for wrong in (None, "x", 3.5, object()):
            with pytest.raises(TypeError):
                aix.d_map_init(wrong, 0, 0, 0)  # type: ignore[arg-type]
        handle = aix.d_map_init(bti, 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)
        good = aix.Dio(total_iovecs=1)
        wrongs: list[Any] = [(None, good), (good, None), (aix.Dio(dvec=cast("Any", [3])), good)]
        for lists in wrongs:
            with pytest.raises(TypeError):
                aix.d_map_list(handle, 0, 1, *lists)
        with pytest.raises(TypeError):
            aix.d_unmap_list(handle, None)  # type: ignore[arg-type]
        for used in (-1, 1):
            counted = aix.Dio(used_iovecs=used)
            assert aix.d_map_list(handle, 0, 1, counted, good) == aix.DMA_NOACC
        process.exit()


def test_memory_that_may_not_be_touched_is_an_access_violation(world: World) -> None:
    """Source: xlate_pin: XMEM_FAIL, page access violation. It was not defined, EINVAL."""
    dp = world.attached(world.u, P)
    mm.protect(HostVa(world.u), P, 0)
    for direction in (aix.B_READ, aix.B_WRITE):
        assert aix.xlate_pin(dp, world.u, P, direction) == FAIL
    assert world.held == 0
    mm.protect(HostVa(world.u), P, 3)


def test_what_another_kernel_has_mapped_is_not_the_process_s_own(world: World) -> None:
    """Its books know nothing of our pins: it could map something else there."""
    other = pf.Process(pf.Kernel(), name="other")
    with other, pf.Vmo(P) as theirs:
        mapping = other.root.map(theirs, READ_WRITE)
        with world.process:
            dp = aix.Xmem()
            start = int(mapping.address)
            assert aix.xmattach(start, P, dp, aix.USER_ADSPACE) == FAIL
            assert aix.xmempin(start, P, world.attached(world.u, P)) == aix.EINVAL
            with pytest.raises(pf.errors.InvalidArgs, match="another kernel"):
                pf.pin(mapping.view())
        pf.pin(mapping.view()).unpin()
        mapping.unmap()
    other.exit()
