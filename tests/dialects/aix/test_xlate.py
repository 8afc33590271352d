"""Pretranslation: the lists, their states, and what a device finds in them."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import aix, zx
from pinfold.errors import DmaFault
from pinfold.host import mm
from pinfold.testing import check_books
from pinfold.units import HostVa
from tests.memory.locking import intercepted, refuse

from .world import P, World, address, dropped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUCC, FAIL = aix.XMEM_SUCC, aix.XMEM_FAIL
ALLOC, LASTING, SPARSE = aix.XLATE_ALLOC, aix.XLATE_PERSISTENT, aix.XLATE_SPARSE
READ, WRITE = aix.B_READ, aix.B_WRITE


@pytest.fixture
def dp(world: World) -> aix.Xmem:
    """A descriptor of four pages of user memory."""
    return world.attached(world.u, 4 * P)


def state(dp: aix.Xmem) -> str:
    """Which of the states of a descriptor it is in."""
    if dp.aspace_id != aix.XMEM_XLATE:
        return "no list"
    assert dp.xlate is not None
    return "pinned" if dp.xlate.pinned else "empty list"


# The states ---------------------------------------------------------------------------------------


def pinned_list(world: World, dp: aix.Xmem) -> None:
    """A list of the whole buffer, of which the first page is pinned."""
    assert aix.xlate_create(dp, world.u, 4 * P, ALLOC | LASTING) == SUCC
    assert aix.xlate_pin(dp, world.u, P, READ) == 0


STATES = {
    "no list": lambda world, dp: None,
    "empty list": lambda world, dp: aix.xlate_create(dp, world.u, 4 * P, ALLOC),
    "pinned": pinned_list,
}

CALLS: dict[str, Callable[[World, aix.Xmem], int]] = {
    "create": lambda world, dp: aix.xlate_create(dp, world.u, 4 * P, ALLOC),
    "pin": lambda world, dp: aix.xlate_pin(dp, world.u + P, P, READ),
    "pin the same": lambda world, dp: aix.xlate_pin(dp, world.u, P, READ),
    "pin more than fits": lambda world, dp: aix.xlate_pin(dp, world.u + P, 4 * P, READ),
    "unpin": lambda world, dp: aix.xlate_unpin(dp, world.u, P),
    "unpin another": lambda world, dp: aix.xlate_unpin(dp, world.u + P, P),
    "remove": lambda world, dp: aix.xlate_remove(dp),
}

TABLE: dict[str, dict[str, tuple[int | str, str]]] = {
    "no list": {
        "create": (SUCC, "empty list"),
        "pin": (0, "pinned"),
        "pin the same": (0, "pinned"),
        "pin more than fits": (0, "pinned"),
        "unpin": (aix.EINVAL, "no list"),
        "unpin another": (aix.EINVAL, "no list"),
        "remove": (FAIL, "no list"),
    },
    "empty list": {
        "create": (FAIL, "empty list"),
        "pin": (0, "pinned"),
        "pin the same": (0, "pinned"),
        "pin more than fits": (aix.EINVAL, "empty list"),
        "unpin": (aix.EINVAL, "empty list"),
        "unpin another": (aix.EINVAL, "empty list"),
        "remove": (SUCC, "no list"),
    },
    "pinned": {
        "create": (FAIL, "pinned"),
        "pin": (0, "pinned"),
        "pin the same": (aix.EINVAL, "pinned"),
        "pin more than fits": (aix.EINVAL, "pinned"),
        "unpin": (0, "empty list"),
        "unpin another": (aix.EINVAL, "pinned"),
        "remove": ("stops", "pinned"),
    },
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", STATES)
def test_what_each_call_does_in_each_state(
    world: World, dp: aix.Xmem, before: str, call: str
) -> None:
    STATES[before](world, dp)
    assert state(dp) == before
    held = world.held
    expected, after = TABLE[before][call]
    try:
        found: int | str = CALLS[call](world, dp)
    except aix.KernelAssertion:
        found = "stops"
    assert (found, state(dp)) == (expected, after)
    if found not in (0, SUCC):
        assert world.held == held
    world.kernel.counted.release()  # what is left of it is not what this test is about


# xlate_create -------------------------------------------------------------------------------------


def test_a_list_has_room_for_every_page_that_is_touched(world: World, dp: aix.Xmem) -> None:
    """Source: count is in bytes; an unaligned buffer may need one more."""
    assert aix.xlate_create(dp, world.u + P - 1, P + 2, ALLOC) == SUCC
    assert dp.xlate is not None
    assert dp.xlate.pages == (world.u, world.u + 3 * P)
    assert len(dp.xlate.addresses) == 3
    assert not dp.xlate.valid.any()
    assert (dp.aspace_id, dp.prexflags) == (aix.XMEM_XLATE, ALLOC)
    assert aix.xlate_remove(dp) == SUCC
    assert (state(dp), dp.aspace_id, dp.prexflags) == ("no list", aix.XMEM_PROC, 0)


def test_without_alloc_the_pages_are_translated(world: World, dp: aix.Xmem) -> None:
    """Source: it also translates every page, and checks for reading and writing."""
    assert aix.xlate_create(dp, world.u, 4 * P, 0) == FAIL
    assert aix.xmempin(world.u, 3 * P, dp) == 0
    assert aix.xlate_create(dp, world.u, 4 * P, 0) == FAIL
    assert state(dp) == "no list"
    assert aix.xlate_create(dp, world.u, 3 * P, 0) == SUCC
    assert dp.xlate is not None
    assert dp.xlate.valid.all()
    assert [int(each) for each in dp.xlate.addresses] == [
        aix.xmemdma(dp, world.u + page * P, 0) for page in range(3)
    ]
    assert aix.xlate_unpin(dp, world.u, 3 * P) == aix.EINVAL  # the pins are the caller's
    assert aix.xlate_remove(dp) == SUCC
    assert aix.xmemunpin(world.u, 3 * P, dp) == 0


def test_without_alloc_a_page_that_is_read_only_is_refused(world: World, dp: aix.Xmem) -> None:
    assert aix.xmempin(world.u, 2 * P, dp) == 0
    mm.protect(HostVa(world.u + P), P, 1)
    assert aix.xlate_create(dp, world.u, 2 * P, 0) == FAIL
    mm.protect(HostVa(world.u + P), P, 3)
    assert aix.xlate_create(dp, world.u, 2 * P, 0) == SUCC
    assert aix.xlate_remove(dp) == SUCC
    assert aix.xmemunpin(world.u, 2 * P, dp) == 0


def test_what_cannot_have_a_list(world: World, dp: aix.Xmem) -> None:
    for free in (None, aix.Xmem(), aix.xmem_global):
        assert aix.xlate_create(free, world.u, P, ALLOC) == FAIL
        assert aix.xlate_remove(free) == FAIL
    for start, count, flags in (
        (world.u, 0, ALLOC),
        (world.u, -1, ALLOC),
        (world.u, P, 8),
        (16, P, ALLOC),
        (world.a, P, ALLOC),
    ):
        assert aix.xlate_create(dp, start, count, flags) == FAIL
    assert state(dp) == "no list"


def test_no_memory_for_a_list(world: World, dp: aix.Xmem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: ENOMEM: unable to allocate the structures."""

    def none_left(*_: object) -> object:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(np, "zeros", none_left)
        assert aix.xlate_create(dp, world.u, P, ALLOC) == aix.ENOMEM
        assert aix.xlate_pin(dp, world.u, P, READ) == aix.ENOMEM
    assert (state(dp), world.held) == ("no list", 0)


# xlate_pin ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [aix.USER_ADSPACE, aix.SYS_ADSPACE])
def test_a_buffer_is_pinned_and_translated(world: World, flag: int) -> None:
    start = world.u if flag == aix.USER_ADSPACE else world.a
    dp = world.attached(start, 4 * P, flag)
    assert aix.xlate_pin(dp, start + 100, 2 * P, READ) == 0
    assert world.short(start, 4) == [1, 1, 1, 0]
    assert dp.xlate is not None
    assert [int(each) for each in dp.xlate.addresses] == [
        aix.xmemdma(dp, start + page * P, 0) for page in range(3)
    ]
    assert aix.xlate_unpin(dp, start + 100, 2 * P) == 0
    assert (world.held, state(dp)) == (0, "no list")


@pytest.mark.parametrize("kind", ["mmap", "shared", "file"])
def test_mmap_and_shared_memory(world: World, kind: str, tmp_path: Path) -> None:
    """Source: it supports mmap and shmat allocated buffers."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * P))
    with open(path, "r+b") as file:
        memory = {
            "mmap": lambda: mmap.mmap(-1, 2 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
            "shared": lambda: mmap.mmap(-1, 2 * P),
            "file": lambda: mmap.mmap(file.fileno(), 2 * P),
        }[kind]()
    start = address(memory)
    dp = aix.Xmem()
    assert aix.xmattach(start, 2 * P, dp, aix.USER_ADSPACE) == SUCC
    for direction in (READ, WRITE):
        assert aix.xlate_pin(dp, start, 2 * P, direction) == 0
        assert world.held == 2
        assert aix.xlate_unpin(dp, start, 2 * P) == 0
    assert aix.xmdetach(dp) == SUCC
    memory.close()


def test_parameters_and_descriptors_that_are_invalid(world: World, dp: aix.Xmem) -> None:
    for free in (None, aix.Xmem(), aix.xmem_global):
        assert aix.xlate_pin(free, world.u, P, READ) == aix.EINVAL
        assert aix.xlate_unpin(free, world.u, P) == aix.EINVAL
    for start, count, rw in (
        (world.u, 0, READ),
        (world.u, -1, READ),
        (world.u, P, 2),
        (world.u, P, -1),
        (16, P, READ),
        (world.a, P, READ),
        ((1 << 63) - 1, 1, READ),
    ):
        assert aix.xlate_pin(dp, start, count, rw) == aix.EINVAL
    assert aix.xlate_create(dp, world.u, P, ALLOC) == SUCC
    assert aix.xlate_unpin(dp, world.u, 0) == aix.EINVAL
    assert (state(dp), world.held) == ("empty list", 0)


def test_access_is_that_of_every_page(world: World, dp: aix.Xmem) -> None:
    """Source: B_READ wants write access, B_WRITE only read access; XMEM_FAIL otherwise."""
    mm.protect(HostVa(world.u + 3 * P), P, 1)
    assert aix.xlate_pin(dp, world.u, 4 * P, READ) == FAIL
    assert (world.held, state(dp)) == (0, "no list")
    assert aix.xlate_pin(dp, world.u, 4 * P, WRITE) == 0
    assert aix.xlate_unpin(dp, world.u, 4 * P) == 0
    mm.protect(HostVa(world.u + 3 * P), P, 2)
    assert aix.xlate_pin(dp, world.u, 4 * P, WRITE) == FAIL
    mm.protect(HostVa(world.u + 3 * P), P, 3)
    assert aix.xlate_pin(dp, world.u, 4 * P, READ) == 0
    assert aix.xlate_unpin(dp, world.u, 4 * P) == 0


def test_access_in_system_space_is_that_of_the_mapping(world: World) -> None:
    shown = world.process.root.map(world.vmo, pf.VmOption.PERM_READ)
    start = int(shown.address)
    dp = world.attached(start, P, aix.SYS_ADSPACE)
    assert aix.xlate_pin(dp, start, P, READ) == FAIL
    assert aix.xlate_pin(dp, start, P, WRITE) == 0
    assert aix.xlate_unpin(dp, start, P) == 0
    assert aix.xmdetach(dp) == SUCC


def test_limits(tight: World) -> None:
    """Source: ENOMEM, all or none."""
    dp = tight.attached(tight.u, 8 * P)
    assert aix.pin(tight.a, 4 * P) == 0
    assert aix.xlate_pin(dp, tight.u, 5 * P, READ) == aix.ENOMEM
    assert (tight.held, state(dp)) == (4, "no list")
    assert aix.xlate_pin(dp, tight.u, 4 * P, READ) == 0
    assert aix.xlate_unpin(dp, tight.u, 4 * P) == 0
    assert aix.unpin(tight.a, 4 * P) == 0


def test_a_sparse_list_is_pinned_in_parts_that_overlap(world: World, dp: aix.Xmem) -> None:
    assert aix.xlate_create(dp, world.u, 4 * P, ALLOC | SPARSE) == SUCC
    assert aix.xlate_pin(dp, world.u, 2 * P, READ) == 0
    assert aix.xlate_pin(dp, world.u + P, 2 * P, READ) == 0
    assert world.short(world.u, 4) == [1, 2, 1, 0]
    assert dp.xlate is not None
    assert list(dp.xlate.valid) == [True, True, True, False]
    assert aix.xlate_unpin(dp, world.u, 3 * P) == 0
    assert (world.short(world.u, 4), list(dp.xlate.valid)) == (
        [0, 1, 0, 0],
        [False, True, False, False],
    )
    assert aix.xlate_unpin(dp, world.u + P, P) == 0
    assert state(dp) == "no list"


def test_a_list_that_is_not_sparse_takes_other_pages(world: World, dp: aix.Xmem) -> None:
    assert aix.xlate_create(dp, world.u, 4 * P, ALLOC) == SUCC
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    assert aix.xlate_pin(dp, world.u, 2 * P, READ) == aix.EINVAL
    assert aix.xlate_pin(dp, world.u + 2 * P, 2 * P, READ) == 0
    assert world.short(world.u, 4) == [1, 0, 1, 1]
    assert aix.xlate_unpin(dp, world.u, 4 * P) == aix.EINVAL
    assert world.short(world.u, 4) == [1, 0, 1, 1]
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert aix.xlate_unpin(dp, world.u + 2 * P, 2 * P) == 0


def test_persistence_is_a_flag_of_the_descriptor(world: World, dp: aix.Xmem) -> None:
    """Source: the list is freed unless XLATE_PERSISTENT is in prexflags."""
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    dp.prexflags |= LASTING
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert state(dp) == "empty list"
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    dp.prexflags = 0
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert state(dp) == "no list"


def test_pins_of_a_list_are_short_term_pins_like_others(world: World, dp: aix.Xmem) -> None:
    assert aix.xmempin(world.u, P, dp) == 0
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    assert world.short(world.u) == [2]
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert world.short(world.u) == [1]
    assert aix.xmemunpin(world.u, P, dp) == 0


def test_what_was_pinned_is_unpinned_whatever_is_mapped_there_now(world: World) -> None:
    """Source: it unpins by the recorded page numbers."""
    dp = world.attached(world.a, 2 * P, aix.SYS_ADSPACE)
    assert aix.xlate_pin(dp, world.a, 2 * P, READ) == 0
    world.mapping.unmap()
    assert world.vmo.pin_count(0) == 1
    assert aix.xlate_unpin(dp, world.a, 2 * P) == 0
    assert world.vmo.pin_count(0) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda dp, u: aix.xlate_create(dp, u, P, ALLOC),
        lambda dp, u: aix.xlate_pin(dp, u, P, READ),
        lambda dp, u: aix.xlate_unpin(dp, u, P),
        lambda dp, u: aix.xlate_remove(dp),
    ],
)
def test_for_the_process_environment_only(
    world: World, dp: aix.Xmem, call: Callable[[aix.Xmem, int], int]
) -> None:
    with aix.interrupt_environment(), pytest.raises(aix.KernelAssertion):
        call(dp, world.u)


def test_a_refused_unlock_can_be_tried_again(world: World, dp: aix.Xmem) -> None:
    assert aix.xlate_pin(dp, world.u, 2 * P, READ) == 0
    with intercepted(refuse("munlock")):
        assert aix.xlate_unpin(dp, world.u, 2 * P) == aix.EIO
    assert (world.short(world.u, 2), state(dp)) == ([1, 1], "pinned")
    assert aix.xlate_unpin(dp, world.u, 2 * P) == 0
    assert (world.held, state(dp)) == (0, "no list")


def test_a_forgotten_list_leaves_its_pins(world: World) -> None:
    dp = aix.Xmem()
    assert aix.xmattach(world.u, P, dp, aix.USER_ADSPACE) == SUCC
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    with pytest.warns(aix.DriverBug):
        assert aix.xmdetach(dp) == SUCC
    assert state(dp) == "no list"
    again = world.attached(world.u, P)
    assert aix.xmemunpin(world.u, P, again) == 0


# For a device -------------------------------------------------------------------------------------


def bound(bti: pf.Bti, start: int, count: int, flag: int = aix.USER_ADSPACE) -> aix.Xmem:
    dp = aix.Xmem(bti=bti)
    assert aix.xmattach(start, count, dp, flag) == SUCC
    return dp


def test_the_device_finds_the_bytes_at_the_translations(world: World, bti: pf.Bti) -> None:
    dp = bound(bti, world.u, 4 * P)
    world.user[2 * P : 2 * P + 5] = b"bytes"
    assert aix.xlate_pin(dp, world.u + P + 50, 2 * P, READ) == 0
    assert dp.xlate is not None
    port = bti.master()
    for page in range(3):
        at = int(dp.xlate.addresses[page])
        port.write(at, b"page %d" % page)
        assert world.user[(page + 1) * P : (page + 1) * P + 6] == b"page %d" % page
        assert aix.xmemdma(dp, world.u + (page + 1) * P + 7, 0) == at + 7
    assert aix.xmemdma(dp, world.u, 0) == FAIL
    check_books(world.kernel)
    assert aix.xlate_unpin(dp, world.u + P + 50, 2 * P) == 0
    assert aix.xmemdma(dp, world.u + P, 0) == FAIL
    assert aix.xmdetach(dp) == SUCC


def test_the_device_may_do_what_the_direction_says(world: World) -> None:
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        dp, port = bound(bti, world.a, P, aix.SYS_ADSPACE), bti.master()
        assert aix.xlate_pin(dp, world.a, P, WRITE) == 0
        at = aix.xmemdma(dp, world.a, 0)
        assert port.read(at, 4) == bytes(4)
        with pytest.raises(DmaFault):
            port.write(at, b"no")
        assert aix.xlate_unpin(dp, world.a, P) == 0
        with pytest.raises(DmaFault):
            port.read(at, 4)
        assert aix.xlate_pin(dp, world.a, P, READ) == 0
        with pytest.raises(DmaFault):
            port.read(aix.xmemdma(dp, world.a, 0), 4)
        assert aix.xlate_unpin(dp, world.a, P) == 0
        assert aix.xmdetach(dp) == SUCC


def test_the_device_by_its_number(world: World, bti: pf.Bti) -> None:
    """A handle is a number in a dialect."""
    iommu, out = aix.Out(), aix.Out()
    assert zx.zx_iommu_create(zx.root_resource(), zx.ZX_IOMMU_TYPE_STUB, b"\0", 1, iommu) == 0
    assert zx.zx_bti_create(iommu.value, 0, 5, out) == 0
    dp = aix.Xmem(bti=out.value)
    assert aix.xmattach(world.u, P, dp, aix.USER_ADSPACE) == SUCC
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    assert aix.xmemdma(dp, world.u, 0) > 0
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert aix.xmdetach(dp) == SUCC
    with pytest.raises(pf.errors.BadHandle):
        aix.Xmem(bti=3)
    with pytest.raises(pf.errors.WrongType):
        aix.Xmem(bti=iommu.value)
    for number in (out.value, iommu.value, zx.root_resource()):
        assert zx.zx_handle_close(number) == 0
    del bti


def test_a_list_for_a_device_is_not_filled_without_a_grant(world: World, bti: pf.Bti) -> None:
    dp = bound(bti, world.u, P)
    assert aix.xmempin(world.u, P, dp) == 0
    assert aix.xlate_create(dp, world.u, P, 0) == FAIL
    assert aix.xlate_create(dp, world.u, P, ALLOC) == SUCC
    assert aix.xlate_remove(dp) == SUCC
    assert aix.xmemunpin(world.u, P, dp) == 0
    assert aix.xmdetach(dp) == SUCC


def test_what_one_call_grants_one_call_takes_back(world: World, bti: pf.Bti) -> None:
    dp = bound(bti, world.u, 4 * P)
    assert aix.xlate_create(dp, world.u, 4 * P, ALLOC | SPARSE) == SUCC
    assert aix.xlate_pin(dp, world.u, 2 * P, READ) == 0
    assert aix.xlate_pin(dp, world.u + P, 2 * P, READ) == 0
    for wrong in ((world.u, P), (world.u, 3 * P)):
        assert aix.xlate_unpin(dp, *wrong) == aix.EINVAL
    assert world.short(world.u, 4) == [1, 2, 1, 0]
    assert aix.xlate_unpin(dp, world.u, 2 * P) == 0
    assert aix.xlate_unpin(dp, world.u + P, 2 * P) == 0
    assert (world.held, state(dp)) == (0, "no list")
    assert aix.xmdetach(dp) == SUCC


def test_a_page_that_was_granted_twice_is_found_where_it_is_granted_still(world: World) -> None:
    """Whichever of the two calls is undone first."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        dp, port = bound(bti, world.u, 4 * P), bti.master()
        assert aix.xlate_create(dp, world.u, 4 * P, ALLOC | SPARSE) == SUCC
        calls = [(world.u, 2 * P), (world.u, 2 * P), (world.u + P, 2 * P)]
        for call in calls:
            assert aix.xlate_pin(dp, *call, READ) == 0
        for call in (calls[0], calls[2], calls[1]):
            for page in range(4):
                found = aix.xmemdma(dp, world.u + page * P, 0)
                assert (found == FAIL) == (world.short(world.u + page * P) == [0])
                if found != FAIL:
                    port.write(found, b"page %d" % page)
                    assert world.user[page * P : page * P + 6] == b"page %d" % page
            assert aix.xlate_unpin(dp, *call) == 0
        assert state(dp) == "no list"
        assert aix.xmdetach(dp) == SUCC


def test_a_descriptor_whose_device_reaches_the_memory_is_not_detached(
    world: World, bti: pf.Bti
) -> None:
    dp = bound(bti, world.u, P)
    assert aix.xlate_pin(dp, world.u, P, READ) == 0
    assert aix.xmdetach(dp) == FAIL
    assert state(dp) == "pinned"
    assert aix.xlate_unpin(dp, world.u, P) == 0
    assert aix.xmdetach(dp) == SUCC


def test_a_device_that_cannot_be_granted_the_pages(world: World) -> None:
    """What was pinned for it is unpinned: nothing is left. Source: ENOMEM."""
    with pf.open_bus("stub") as bus, bus.initiator(1, address_bits=20) as bti:
        dp = bound(bti, world.u, P)
        assert aix.xlate_pin(dp, world.u, P, READ) == aix.ENOMEM
        assert (world.held, state(dp)) == (0, "no list")
        assert aix.xmdetach(dp) == SUCC
    closed = aix.Xmem(bti=bti)
    assert aix.xmattach(world.u, P, closed, aix.USER_ADSPACE) == SUCC
    assert aix.xlate_pin(closed, world.u, P, READ) == aix.EINVAL
    assert world.held == 0
    assert aix.xmdetach(closed) == SUCC


def test_a_dropped_descriptor_puts_the_grant_into_quarantine(world: World) -> None:
    """Nobody has said that the device is quiet."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as bti:
        kept = [bound(bti, world.u, P)]
        assert aix.xlate_pin(kept[0], world.u, P, READ) == 0
        with pytest.warns(ResourceWarning):
            dropped(kept)
        assert bti.statistics().quarantined == 1
        assert world.short(world.u) == [1]
        assert bti.release_quarantine() == 1
        again = world.attached(world.u, P)
        assert aix.xmemunpin(world.u, P, again) == 0
