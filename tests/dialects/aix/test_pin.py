"""pin and unpin: whole pages, counts, all or none, and where an unpin stops."""

from __future__ import annotations

import threading
import warnings

import pytest

import pinfold as pf
from pinfold import sites
from pinfold.dialects import aix
from pinfold.errors import BadState
from pinfold.objects.object import ObjectType
from pinfold.testing import check_books
from pinfold.units import ByteRange
from tests.memory.locking import locked

from .world import READ_WRITE, P, World


def test_a_pinned_page_is_locked_and_its_object_keeps_it(world: World) -> None:
    """Source: aix pin: while the count is not 0 the page cannot be paged out."""
    before = locked()
    assert aix.pin(world.a + 100, 2 * P) == 0
    assert locked() - before == 3 * P
    assert world.vmo.committed_ranges() == [ByteRange(0, 3 * P)]
    with pytest.raises(BadState):
        world.vmo.decommit(2 * P, P)
    world.vmo.decommit(3 * P, P)
    assert aix.unpin(world.a + 100, 2 * P) == 0
    assert locked() == before
    world.vmo.decommit()


def test_parts_of_a_pin_end_one_by_one(world: World) -> None:
    """What is left of it stays locked, counted and charged."""
    before = locked()
    assert aix.pin(world.a, 8 * P) == 0
    for page in (3, 0, 7, 5, 4):
        assert aix.unpin(world.a + page * P, 1) == 0
    assert world.short(world.a, 8) == [0, 1, 1, 0, 0, 0, 1, 0]
    assert world.held == 3
    assert locked() - before == 3 * P
    assert aix.pin(world.a + 2 * P, 3 * P) == 0
    assert world.short(world.a, 8) == [0, 1, 2, 1, 1, 0, 1, 0]
    assert world.held == 5
    assert aix.unpin(world.a + P, 4 * P) == 0
    assert aix.unpin(world.a + 2 * P, P) == 0
    assert aix.unpin(world.a + 6 * P, P) == 0


def test_an_unpin_that_stops_has_undone_what_lies_before(world: World) -> None:
    """Pages after the one that is not pinned keep theirs, in another mapping too."""
    assert aix.pin(world.a, 2 * P) == 0
    assert aix.pin(world.a + 3 * P, P) == 0
    assert aix.unpin(world.a, 16 * P) == aix.EINVAL
    assert world.short(world.a, 4) == [0, 0, 0, 1]
    assert aix.unpin(world.a + 3 * P, P) == 0


@pytest.mark.parametrize("length", [0, -1, -(1 << 31)])
def test_a_length_that_is_none(world: World, length: int) -> None:
    for service in (aix.pin, aix.unpin):
        assert service(world.a, length) == aix.EINVAL
    assert world.held == 0


@pytest.mark.parametrize(
    ("start", "length"),
    [(-P, P), (-1, 2), (15 * P, P + 1), (16 * P, 1), (0, 17 * P), (-(1 << 20), 1)],
)
def test_a_range_of_which_a_part_is_not_defined(world: World, start: int, length: int) -> None:
    """Before the buffer is a hole of the region, after it another, and then the region ends."""
    assert aix.pin(world.a, 16 * P) == 0
    for service in (aix.pin, aix.unpin):
        assert service(world.a + start, length) == aix.EINVAL
    assert world.short(world.a, 16) == [1] * 16
    assert aix.unpin(world.a, 16 * P) == 0


def test_a_process_without_a_region_has_no_system_space(world: World) -> None:
    """And none is reserved by asking."""
    with pf.Process(world.kernel) as empty:
        assert aix.pin(world.a, P) == aix.EINVAL
        assert empty.statistics().address_space == 0
        empty.exit()


def test_an_address_or_a_length_that_c_could_not_pass(world: World) -> None:
    for arguments in ((-1, P), (1 << 64, P), (world.a, 1 << 31), (world.a, -(1 << 31) - 1)):
        with pytest.raises(OverflowError):
            aix.pin(*arguments)
    for bad in (1.5, "a", None):
        with pytest.raises(TypeError):
            aix.pin(bad, P)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            aix.pin(world.a, bad)  # type: ignore[arg-type]
    assert aix.pin((1 << 64) - 1, P) == aix.EINVAL


def test_pins_belong_to_the_memory_and_not_to_the_mapping(world: World) -> None:
    """Source: shared segments: who else has the segment sees its pins, and a detach unpins not."""
    second = world.process.root.map(world.vmo, READ_WRITE)
    b = int(second.address)
    assert aix.pin(world.a, 2 * P) == 0
    assert world.short(b, 3) == [1, 1, 0]
    assert world.held == 2
    second.unmap()
    assert aix.unpin(b, P) == aix.EINVAL
    third = world.process.root.map(world.vmo, READ_WRITE, vmo_offset=P)
    assert aix.unpin(int(third.address), P) == 0
    assert world.short(world.a, 3) == [1, 0, 0]
    assert aix.unpin(world.a, P) == 0


def test_memory_stays_while_it_is_pinned_and_goes_with_its_last_pin(world: World) -> None:
    """Mapping and handle are gone; the object is not, and nobody can name it any more."""
    vmo = pf.Vmo(2 * P, name="gone")
    mapping = world.process.root.map(vmo, READ_WRITE)
    address = int(mapping.address)
    assert aix.pin(address, 2 * P) == 0
    mapping.unmap()
    vmo.close()
    assert aix.unpin(address, 2 * P) == aix.EINVAL
    assert [str(m.name) for m in world.kernel.objects(ObjectType.VMO)] == ["kernel buffer", "gone"]
    assert world.kernel.counted.release() == 2 * P
    assert [m.name for m in world.kernel.objects(ObjectType.VMO)] == ["kernel buffer"]


def test_a_range_over_several_objects(world: World) -> None:
    """All or none, across the borders of mappings."""
    region = world.process.root.allocate(
        8 * P, pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE | pf.VmOption.CAN_MAP_SPECIFIC
    )
    place = READ_WRITE | pf.VmOption.SPECIFIC
    with pf.Vmo(2 * P) as one, pf.Vmo(4 * P) as two:
        region.map(one, place)
        region.map(two, place, offset=2 * P, vmo_offset=P, size=3 * P)
        start = int(region.base)
        assert aix.pin(start + P, 4 * P) == 0
        assert [one.pin_count(page * P) for page in range(2)] == [0, 1]
        assert [two.pin_count(page * P) for page in range(4)] == [0, 1, 1, 1]
        assert aix.pin(start + P, 5 * P) == aix.EINVAL
        assert world.short(start, 5) == [0, 1, 1, 1, 1]
        assert aix.unpin(start, 5 * P) == aix.EINVAL
        assert aix.unpin(start + P, 4 * P) == 0
        region.destroy()
        region.close()


def test_the_same_page_twice_in_a_range_is_pinned_twice(world: World) -> None:
    """Two mappings of one object next to each other."""
    region = world.process.root.allocate(
        4 * P, pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE | pf.VmOption.CAN_MAP_SPECIFIC
    )
    place = READ_WRITE | pf.VmOption.SPECIFIC
    for offset in (0, 2 * P):
        region.map(world.vmo, place, offset=offset, size=2 * P)
    assert aix.pin(int(region.base), 4 * P) == 0
    assert world.short(world.a, 3) == [2, 2, 0]
    assert world.held == 2
    assert aix.unpin(int(region.base), 4 * P) == 0
    region.destroy()
    region.close()


def test_the_pins_of_devices_count_against_one_limit_with_these(tight: World) -> None:
    """A page that both have is charged once."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        token = bti.pin(tight.vmo, 0, 6 * P, perms=pf.Perm.READ)
        assert aix.pin(tight.a + 4 * P, 4 * P) == 0
        assert tight.kernel.ledger.pinned_bytes == 8 * P
        assert aix.pin(tight.a + 8 * P, P) == aix.ENOMEM
        token.unpin()
        assert tight.kernel.ledger.pinned_bytes == 4 * P
        check_books(tight.kernel)
        assert aix.pin(tight.a + 8 * P, P) == 0
        assert aix.unpin(tight.a + 4 * P, 5 * P) == 0


def test_more_pins_than_a_device_may_have(world: World) -> None:
    """Source: no upper limit of the count is documented."""
    for _ in range(100):
        assert aix.pin(world.a, P) == 0
    assert (world.short(world.a), world.held) == ([100], 1)
    for _ in range(100):
        assert aix.unpin(world.a, P) == 0
    assert aix.unpin(world.a, P) == aix.EINVAL


def test_unpin_is_for_any_environment(world: World) -> None:
    assert aix.pin(world.a, P) == 0
    with aix.interrupt_environment():
        assert aix.unpin(world.a, P) == 0
        with pytest.raises(aix.KernelAssertion, match="process environment"):
            aix.pin(world.a, P)
    assert aix.pin(world.a, P) == 0
    assert aix.unpin(world.a, P) == 0


def test_the_environment_is_a_thread_s_own(world: World) -> None:
    results: list[int] = []
    with aix.interrupt_environment():
        thread = threading.Thread(target=lambda: results.append(aix.pin(16, 1)))
        thread.start()
        thread.join()
    assert results == [aix.EINVAL]
    assert world.held == 0


def test_many_threads_agree_about_a_count(world: World) -> None:
    """Each pins and unpins the same pages, some of them more; none of it is lost."""

    def work(number: int) -> None:
        with world.process:
            for _ in range(30):
                assert aix.pin(world.a + number * P, 4 * P) == 0
                assert aix.unpin(world.a + number * P, 3 * P) == 0
                assert aix.unpin(world.a + (number + 3) * P, P) == 0

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.short(world.a, 8) == [0] * 8
    assert world.held == 0


def test_device_memory_is_always_there(world: World) -> None:
    """It is counted, and neither locked nor charged."""
    root = pf.Resource.root(pf.ResourceKind.MMIO)
    before = locked()
    with root, pf.Vmo.physical(root, 0xC000_0000, 2 * P) as registers:
        mapping = world.process.root.map(registers, READ_WRITE)
        assert aix.pin(int(mapping.address), 2 * P) == 0
        assert locked() == before
        assert world.kernel.ledger.pinned_bytes == 0
        assert world.short(int(mapping.address), 2) == [1, 1]
        assert aix.unpin(int(mapping.address), 2 * P) == 0
        mapping.unmap()


def test_unpinning_what_a_device_still_has_is_reported(world: World) -> None:
    """It is allowed, and wrong. The memory stays the device's for as long as it is mapped."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        handle = aix.d_map_init(bti, 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)
        out = aix.Out()
        assert aix.pin(world.a, P) == 0
        assert aix.d_map_page(handle, aix.DMA_READ, world.a, out, aix.xmem_global) == aix.DMA_SUCC
        with pytest.warns(aix.DriverBug, match="still has mapped"):
            assert aix.unpin(world.a, P) == 0
        assert world.vmo.pin_count(0) == 1
        bti.master().write(out.value, b"late")
        assert world.vmo.read(0, 4) == b"late"
        assert aix.d_unmap_page(handle, out.value) == aix.DMA_SUCC
        assert aix.pin(world.a, P) == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert aix.unpin(world.a, P) == 0


def test_release_lets_everything_go(world: World) -> None:
    """For the end of a program that has lost count."""
    assert aix.pin(world.a, 3 * P) == 0
    assert aix.ltpin(world.a + 2 * P, 3 * P) == 0
    assert world.kernel.counted.release() == 5 * P
    assert world.counts(world.a, 5) == [(0, 0)] * 5
    assert aix.unpin(world.a, P) == aix.EINVAL
    assert world.kernel.counted.release() == 0


def test_the_ledger_says_who_pinned_what(world: World) -> None:
    assert aix.pin(world.a + 4 * P, 2 * P) == 0
    (record,) = world.kernel.ledger.records()
    assert (record.offset, record.size) == (4 * P, 2 * P)
    assert "kernel buffer" in record.what
    assert "aix" in record.owner
    assert "test_pin" in sites.describe(record.site)
    assert aix.unpin(world.a + 4 * P, 2 * P) == 0
