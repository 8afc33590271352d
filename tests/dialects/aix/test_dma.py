"""d_map_*: memory of either space for a device on a bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.errors import DmaFault
from pinfold.host import mm
from pinfold.testing import check_books
from pinfold.units import HostVa

from .world import P, World, dropped

if TYPE_CHECKING:
    from collections.abc import Iterator

SUCC, FAIL = aix.DMA_SUCC, aix.DMA_FAIL
NORES, NOACC, FULL = aix.DMA_NORES, aix.DMA_NOACC, aix.DMA_DIOFULL
READ = aix.DMA_READ


@pytest.fixture
def handle(bti: pf.Bti) -> Iterator[aix.d_handle_t]:
    made = begun(bti)
    yield made
    assert made.live == 0


@pytest.fixture
def dp(world: World) -> Iterator[aix.Xmem]:
    """All of user memory, of which the first four pages are pinned."""
    made = world.attached(world.u, 8 * P)
    assert aix.xmempin(world.u, 4 * P, made) == 0
    yield made
    assert aix.xmemunpin(world.u, 4 * P, made) == 0


def begun(bti: pf.Bti) -> aix.d_handle_t:
    made = aix.d_map_init(bti, 0, 0, 0)
    assert isinstance(made, aix.d_handle_t)
    return made


def vectors(dp: aix.Xmem, *runs: tuple[int, int]) -> aix.Dio:
    """A list of buffers: addresses and sizes."""
    return aix.Dio(
        total_iovecs=len(runs),
        used_iovecs=len(runs),
        dvec=[aix.Iovec(start, size, dp) for start, size in runs],
    )


# Handles ------------------------------------------------------------------------------------------


def test_who_can_be_mapped_for(world: World, bti: pf.Bti) -> None:
    assert isinstance(aix.d_map_init(bti, 0, 0, 0), aix.d_handle_t)
    with aix.interrupt_environment(), pytest.raises(aix.KernelAssertion):
        aix.d_map_init(bti, 0, 0, 0)
    closed = bti.duplicate()
    closed.close()
    assert aix.d_map_init(closed, 0, 0, 0) == FAIL
    assert aix.d_map_init(12345, 0, 0, 0) == FAIL
    assert world.held == 0
    for service in (aix.d_map_clear, aix.d_map_enable, aix.d_map_disable):
        with pytest.raises(TypeError):
            service(3)  # type: ignore[arg-type]


def test_a_disabled_handle_maps_nothing_more(
    world: World, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    out = aix.Out()
    assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
    assert aix.d_map_disable(handle) == SUCC
    second = aix.Out()
    assert aix.d_map_page(handle, READ, world.u, second, dp) == NORES
    assert second.value is None
    assert aix.d_unmap_page(handle, out.value) == SUCC
    assert aix.d_map_enable(handle) == SUCC
    assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
    assert aix.d_map_clear(handle) == SUCC
    assert aix.d_map_page(handle, READ, world.u, second, dp) == NORES


# Pages --------------------------------------------------------------------------------------------


def test_a_page_is_mapped_from_an_address_on(
    world: World, bti: pf.Bti, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    out, port = aix.Out(), bti.master()
    assert aix.d_map_page(handle, READ, world.u + P + 10, out, dp) == SUCC
    port.write(out.value, b"by device")
    assert world.user[P + 10 : P + 19] == b"by device"
    check_books(world.kernel)
    assert aix.d_unmap_page(handle, out.value) == SUCC
    assert aix.d_unmap_page(handle, out.value) == FAIL


def test_kernel_memory(world: World, bti: pf.Bti, handle: aix.d_handle_t) -> None:
    """Source: the ready-made descriptor is for kernel buffers."""
    out = aix.Out()
    assert aix.d_map_page(handle, 0, world.a, out, aix.xmem_global) == NOACC
    assert aix.ltpin(world.a, P) == 0
    assert aix.d_map_page(handle, 0, world.a, out, aix.xmem_global) == SUCC
    world.vmo.write(b"kernel", 0)
    assert bti.master().read(out.value, 6) == b"kernel"
    assert aix.d_unmap_page(handle, out.value) == SUCC
    assert aix.ltunpin(world.a, P) == 0


def test_what_is_not_mapped(world: World, handle: aix.d_handle_t, dp: aix.Xmem) -> None:
    """Source: DMA_NOACC: no access, fail the I/O."""
    out = aix.Out()
    for start, memory in (
        (world.u + 4 * P, dp),
        (16, dp),
        (world.a, dp),
        (world.u, aix.xmem_global),
        (world.u, aix.Xmem()),
        (world.u, None),
    ):
        assert aix.d_map_page(handle, READ, start, out, memory) == NOACC
    assert aix.d_map_page(handle, 16, world.u, out, dp) == NOACC
    assert aix.d_map_page(handle, READ, world.u, None, dp) == NOACC
    assert out.value is None
    with pytest.raises(TypeError):
        aix.d_map_page(handle, READ, world.u, 5, dp)  # type: ignore[arg-type]


def test_access_is_the_memory_s_own_unless_it_is_bypassed(
    world: World, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    out = aix.Out()
    mm.protect(HostVa(world.u), P, 1)
    assert aix.d_map_page(handle, READ, world.u, out, dp) == NOACC
    assert aix.d_map_page(handle, 0, world.u, out, dp) == SUCC
    assert aix.d_unmap_page(handle, out.value) == SUCC
    bypassed = READ | aix.DMA_BYPASS | aix.BUS_DMA | aix.DMA_STMAP
    assert aix.d_map_page(handle, bypassed, world.u, out, dp) == SUCC
    assert aix.d_unmap_page(handle, out.value) == SUCC
    mm.protect(HostVa(world.u), P, 3)


def test_a_device_may_do_what_the_flag_says(world: World, dp: aix.Xmem) -> None:
    """Source: DMA_READ is from the device to memory."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        handle, out, port = begun(bti), aix.Out(), bti.master()
        assert aix.d_map_page(handle, 0, world.u, out, dp) == SUCC
        assert port.read(out.value, 4) == bytes(4)
        with pytest.raises(DmaFault):
            port.write(out.value, b"no")
        assert aix.d_unmap_page(handle, out.value) == SUCC
        with pytest.raises(DmaFault):
            port.read(out.value, 4)
        assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
        with pytest.raises(DmaFault):
            port.read(out.value, 4)
        assert aix.d_unmap_page(handle, out.value) == SUCC


def test_no_address_space_is_for_later(world: World, dp: aix.Xmem) -> None:
    """Source: DMA_NORES: no resources now."""
    with pf.open_bus("stub") as bus, bus.initiator(1, address_bits=20) as bti:
        out = aix.Out()
        assert aix.d_map_page(begun(bti), READ, world.u, out, dp) == NORES
        assert out.value is None
        assert bti.statistics().pins == 0


def test_mapping_adds_nothing_to_the_pin_counts(
    world: World, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    """Source: nothing says that mapping pins; that is the driver's business."""
    out = aix.Out()
    assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
    assert world.short(world.u) == [1]
    assert aix.d_unmap_page(handle, out.value) == SUCC
    assert world.short(world.u) == [1]


def test_a_device_has_a_page_more_than_once(
    world: World, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    outs = [aix.Out() for _ in range(3)]
    for out in outs:
        assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
    assert handle.live == 3
    assert [aix.d_unmap_page(handle, out.value) for out in outs] == [SUCC] * 3


# Lists --------------------------------------------------------------------------------------------


def test_a_list_of_buffers(world: World, bti: pf.Bti, handle: aix.d_handle_t, dp: aix.Xmem) -> None:
    """The device finds every byte of it, in order, and no other."""
    virtual = vectors(dp, (world.u + 10, 100), (world.u + P, 2 * P + 5))
    bus = aix.Dio(total_iovecs=8)
    assert aix.d_map_list(handle, READ, 1, virtual, bus) == SUCC
    size = 2 * P + 105
    assert (virtual.bytes_done, virtual.resid_iov, bus.bytes_done) == (size, 2, size)
    assert bus.used_iovecs == len(bus.dvec)
    data, at = bytes(index % 251 for index in range(size)), 0
    for run in bus.dvec[: bus.used_iovecs]:
        bti.master().write(run.iov_base, data[at : at + run.iov_len])
        at += run.iov_len
    assert at == size
    assert world.user[10:110] == data[:100]
    assert world.user[P : 3 * P + 5] == data[100:]
    assert world.user[:10] == bytes(10)
    assert world.user[110:P] == bytes(P - 110)
    check_books(world.kernel)
    assert aix.d_unmap_list(handle, bus) == SUCC
    assert aix.d_unmap_list(handle, bus) == FAIL


def test_an_empty_list(handle: aix.d_handle_t, dp: aix.Xmem) -> None:
    bus = aix.Dio(total_iovecs=1)
    assert aix.d_map_list(handle, READ, 1, vectors(dp), bus) == SUCC
    assert (bus.used_iovecs, bus.bytes_done) == (0, 0)
    assert aix.d_unmap_list(handle, bus) == FAIL


def test_a_bad_buffer_maps_nothing(world: World, handle: aix.d_handle_t, dp: aix.Xmem) -> None:
    """Source: DMA_NOACC: nothing is mapped, bytes_done is what lies before the bad element."""
    for bad in (
        (world.u + 4 * P, 8),
        (16, 8),
        (world.u, 0),
        (world.u, -1),
        (world.u + 3 * P, 2 * P),
    ):
        virtual = vectors(dp, (world.u, 100), (world.u + P, 8), bad, (world.u, 1))
        bus = aix.Dio(total_iovecs=8)
        assert aix.d_map_list(handle, READ, 1, virtual, bus) == NOACC
        assert (virtual.bytes_done, virtual.resid_iov) == (108, 2)
        assert handle.live == 0
    good = vectors(dp, (world.u, 8))
    for minxfer, flags in ((0, READ), (-1, READ), (1, 64)):
        assert aix.d_map_list(handle, flags, minxfer, good, aix.Dio(total_iovecs=1)) == NOACC
    assert handle.live == 0


def test_a_bus_list_that_is_too_small(
    world: World, bti: pf.Bti, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    """Source: DMA_DIOFULL is partial; the list says how far it got."""
    virtual = vectors(dp, (world.u, 100), (world.u + P, 200), (world.u + 2 * P, 50))
    bus = aix.Dio(total_iovecs=2)
    assert aix.d_map_list(handle, READ, 1, virtual, bus) == FULL
    assert (virtual.bytes_done, virtual.resid_iov, bus.used_iovecs) == (300, 2, 2)
    assert handle.live == 2
    assert aix.d_unmap_list(handle, bus) == SUCC
    assert bti.statistics().pins == 0


@pytest.mark.parametrize(
    ("minxfer", "done", "resumes", "runs"),
    [(1, 300, 2, 2), (64, 256, 1, 2), (128, 256, 1, 2), (200, 200, 1, 2), (512, 0, 0, 0)],
)
def test_a_part_is_a_multiple_of_the_smallest_transfer(
    world: World,
    handle: aix.d_handle_t,
    dp: aix.Xmem,
    minxfer: int,
    done: int,
    resumes: int,
    runs: int,
) -> None:
    virtual = vectors(dp, (world.u, 100), (world.u + P, 200), (world.u + 2 * P, 50))
    bus = aix.Dio(total_iovecs=2)
    assert aix.d_map_list(handle, READ, minxfer, virtual, bus) == FULL
    assert (virtual.bytes_done, virtual.resid_iov) == (done, resumes)
    assert (bus.used_iovecs, sum(run.iov_len for run in bus.dvec[:runs])) == (runs, done)
    assert aix.d_unmap_list(handle, bus) == (SUCC if done else FAIL)


def test_a_list_that_no_address_space_is_left_for(world: World, dp: aix.Xmem) -> None:
    with pf.open_bus("stub") as bus, bus.initiator(1, address_bits=20) as bti:
        handle, virtual = begun(bti), vectors(dp, (world.u, 100))
        found = aix.Dio(total_iovecs=4)
        assert aix.d_map_list(handle, READ, 1, virtual, found) == NORES
        assert (virtual.bytes_done, virtual.resid_iov, found.used_iovecs) == (0, 0, 0)


def test_a_cleared_handle_takes_everything_back(
    world: World, bti: pf.Bti, handle: aix.d_handle_t, dp: aix.Xmem
) -> None:
    out, found = aix.Out(), aix.Dio(total_iovecs=4)
    assert aix.d_map_page(handle, READ, world.u, out, dp) == SUCC
    assert aix.d_map_list(handle, READ, 1, vectors(dp, (world.u, 9)), found) == SUCC
    assert bti.statistics().pins == 2
    assert aix.d_map_clear(handle) == SUCC
    assert bti.statistics().pins == 0
    assert aix.d_unmap_page(handle, out.value) == FAIL


def test_a_dropped_handle_puts_its_grants_into_quarantine(world: World, dp: aix.Xmem) -> None:
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        kept = [begun(bti)]
        assert aix.d_map_page(kept[0], READ, world.u, aix.Out(), dp) == SUCC
        with pytest.warns(ResourceWarning):
            dropped(kept)
        assert bti.statistics().quarantined == 1
        assert bti.release_quarantine() == 1
