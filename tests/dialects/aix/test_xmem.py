"""Cross memory: attaching, pinning through a descriptor, copying, real addresses."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import mm
from pinfold.objects.object import ObjectType
from pinfold.units import HostVa
from tests.memory.locking import intercepted, locked, refuse
from tests.programs import run

from .world import READ_WRITE, P, World, address, dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUCC, FAIL = aix.XMEM_SUCC, aix.XMEM_FAIL
MAP_HUGETLB = 0x40000
USER, SYSTEM = aix.USER_ADSPACE, aix.SYS_ADSPACE

ALL_FLAGS = {
    aix.USER_ADSPACE: aix.XMEM_PROC,
    aix.UIO_USERSPACE: aix.XMEM_PROC,
    aix.SYS_ADSPACE: aix.XMEM_GLOBAL,
    aix.SYS_ADSPACE_ASSIGN_KEYSET: aix.XMEM_GLOBAL,
    aix.UIO_SYSSPACE: aix.XMEM_GLOBAL,
}


def objects(world: World) -> list[str]:
    """The memory objects that are there."""
    gc.collect()
    return [member.name for member in world.kernel.objects(ObjectType.VMO)]


# Attaching ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attach", [aix.xmattach, aix.xmattach64])
@pytest.mark.parametrize("flag", ALL_FLAGS)
def test_a_descriptor_says_what_it_describes(
    world: World, attach: Callable[..., int], flag: int
) -> None:
    start = world.a if ALL_FLAGS[flag] == aix.XMEM_GLOBAL else world.u
    dp = aix.Xmem()
    assert (dp.aspace_id, dp.prexflags) == (aix.XMEM_INVAL, 0)
    assert attach(start + 3, P, dp, flag) == SUCC
    assert (dp.aspace_id, dp.vaddr, dp.count) == (ALL_FLAGS[flag], start + 3, P)
    (segment,) = dp.segments
    assert ("kernel buffer" if start == world.a else "process memory") in segment
    assert aix.xmdetach(dp) == SUCC
    assert dp.aspace_id == aix.XMEM_INVAL
    assert aix.xmdetach(dp) == FAIL
    assert attach(start, 1, dp, flag) == SUCC
    assert aix.xmdetach(dp) == SUCC


def test_what_cannot_be_attached(world: World) -> None:
    """The descriptor is as it was, and nothing is kept."""
    dp = aix.Xmem()
    for start, count, flag in (
        (world.u, 0, USER),
        (world.u, -1, USER),
        (world.u, P, 0),
        (world.u, P, 99),
        (world.u, P, SYSTEM),
        (world.a, P, USER),
        (world.a, 17 * P, SYSTEM),
        (world.a - P, 2 * P, SYSTEM),
        (16, 1, USER),
        ((1 << 64) - 1, 1, USER),
    ):
        assert aix.xmattach(start, count, dp, flag) == FAIL
        assert (dp.aspace_id, dp.vaddr, dp.count) == (aix.XMEM_INVAL, 0, 0)
    assert aix.xmattach(world.u, P, None, USER) == FAIL
    assert aix.xmattach(world.a, P, aix.xmem_global, SYSTEM) == FAIL
    for other in (3, "dp", object()):
        with pytest.raises(TypeError):
            aix.xmattach(world.u, P, other, USER)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        aix.xmattach("text", P, dp, USER)
    assert aix.xmdetach(None) == FAIL
    assert aix.xmdetach(aix.xmem_global) == FAIL


def test_a_used_descriptor_is_left_alone(world: World) -> None:
    dp = world.attached(world.u, P)
    assert aix.xmattach(world.u + P, 5, dp, USER) == FAIL
    assert (dp.aspace_id, dp.vaddr, dp.count) == (aix.XMEM_PROC, world.u, P)


def test_a_buffer_itself_is_lent_while_it_is_attached(world: World) -> None:
    """A C program gives an address; Python can give what is there, and it stays there."""
    array = bytearray(3 * P)
    dp = aix.Xmem()
    assert aix.xmattach(array, 3 * P + 1, dp, USER) == FAIL
    assert aix.xmattach(array, 2 * P, dp, USER) == SUCC
    assert dp.vaddr == address(array)
    with pytest.raises(BufferError):
        array.extend(b"x")
    assert aix.xmempin(dp.vaddr, P, dp) == 0
    assert aix.xmemunpin(dp.vaddr, P, dp) == 0
    assert aix.xmdetach(dp) == SUCC
    array.extend(b"x")
    numbers = np.arange(8)
    assert aix.xmattach(numbers, 8, dp, USER) == SUCC
    assert dp.vaddr == numbers.ctypes.data
    assert aix.xmdetach(dp) == SUCC
    assert world.held == 0


def test_each_attach_is_a_use_and_the_memory_stays_until_the_last(world: World) -> None:
    vmo = pf.Vmo(2 * P, name="segment")
    mapping = world.process.root.map(vmo, READ_WRITE)
    start = int(mapping.address)
    first, second = aix.Xmem(), aix.Xmem()
    assert aix.xmattach(start, P, first, SYSTEM) == SUCC
    assert aix.xmattach(start + P, P, second, SYSTEM) == SUCC
    vmo.close()
    mapping.unmap()
    assert objects(world) == ["kernel buffer", "segment"]
    third = aix.Xmem()
    assert aix.xmattach(start, P, third, SYSTEM) == FAIL
    assert aix.xmdetach(first) == SUCC
    assert objects(world) == ["kernel buffer", "segment"]
    assert aix.xmdetach(second) == SUCC
    assert objects(world) == ["kernel buffer"]


def test_a_deleted_segment_is_not_copied_and_can_be_unpinned(world: World) -> None:
    """Source: xmemin fails where the segment was deleted; frames and pins survive the mapping."""
    vmo = pf.Vmo(2 * P, name="segment")
    mapping = world.process.root.map(vmo, READ_WRITE)
    start = int(mapping.address)
    dp = aix.Xmem()
    assert aix.xmattach(start, 2 * P, dp, SYSTEM) == SUCC
    assert aix.xmempin(start, 2 * P, dp) == 0
    assert aix.xmemin(start, world.a, 8, dp) == SUCC
    mapping.unmap()
    vmo.close()
    assert aix.xmemin(start, world.a, 8, dp) == FAIL
    assert aix.xmempin(start, P, dp) == aix.EINVAL
    assert aix.xmemdma(dp, start, 0) == FAIL
    assert world.held == 2
    assert aix.xmemunpin(start, P, dp) == 0
    assert world.held == 1
    assert aix.xmemunpin(start + P, P, dp) == 0
    assert aix.xmdetach(dp) == SUCC
    assert objects(world) == ["kernel buffer"]


def test_something_else_at_the_address_is_not_what_was_attached(world: World) -> None:
    """A mapping of another object, or of another part of the same, in the same place."""
    dp = world.attached(world.a, 2 * P, SYSTEM)
    assert aix.xmemin(world.a, world.a + 4 * P, 8, dp) == SUCC
    offset = world.a - int(world.process.root.base)
    place = READ_WRITE | pf.VmOption.SPECIFIC_OVERWRITE
    world.process.root.map(world.vmo, place, offset=offset, vmo_offset=8 * P, size=P)
    assert aix.xmemin(world.a, world.a + 4 * P, 8, dp) == FAIL
    assert aix.xmemin(world.a + P, world.a + 4 * P, 8, dp) == SUCC
    world.process.root.map(world.vmo, place, offset=offset, size=P)
    assert aix.xmemin(world.a, world.a + 4 * P, 8, dp) == SUCC


def test_detaching_leaves_pins_and_says_so(world: World) -> None:
    """Source: nothing says that xmdetach unpins; a new descriptor can."""
    dp = aix.Xmem()
    assert aix.xmattach(world.u, P, dp, USER) == SUCC
    assert aix.xmempin(world.u, P, dp) == 0
    with pytest.warns(aix.DriverBug, match="detached while"):
        assert aix.xmdetach(dp) == SUCC
    assert world.short(world.u) == [1]
    again = world.attached(world.u, P)
    assert aix.xmemunpin(world.u, P, again) == 0


def test_detaching_is_for_any_environment_and_attaching_is_not(world: World) -> None:
    dp = aix.Xmem()
    with aix.interrupt_environment(), pytest.raises(aix.KernelAssertion):
        aix.xmattach(world.u, P, dp, USER)
    assert aix.xmattach(world.u, P, dp, USER) == SUCC
    with aix.interrupt_environment():
        assert aix.xmdetach(dp) == SUCC


def test_a_descriptor_that_its_driver_marks_as_free(world: World) -> None:
    """Drivers write the field before they attach; what it described goes, with a warning."""
    dp = aix.Xmem()
    assert aix.xmattach(world.a, P, dp, SYSTEM) == SUCC
    dp.aspace_id = aix.XMEM_INVAL
    assert aix.xmempin(world.a, P, dp) == aix.EFAULT
    assert aix.xmdetach(dp) == FAIL
    with pytest.warns(ResourceWarning, match="dropped while attached"):
        assert aix.xmattach(world.u, P, dp, USER) == SUCC
    assert dp.vaddr == world.u
    assert aix.xmdetach(dp) == SUCC
    dp.aspace_id = aix.XMEM_PROC
    assert aix.xmempin(world.u, P, dp) == aix.EFAULT


def test_a_dropped_descriptor_lets_its_memory_go(world: World) -> None:
    vmo = pf.Vmo(P, name="segment")
    mapping = world.process.root.map(vmo, READ_WRITE)
    kept = [aix.Xmem()]
    assert aix.xmattach(int(mapping.address), P, kept[0], SYSTEM) == SUCC
    vmo.close()
    mapping.unmap()
    with pytest.warns(ResourceWarning, match="dropped while attached, at .*test_xmem"):
        dropped(kept)
    assert objects(world) == ["kernel buffer"]


FORK = """
import json, os, warnings
import pinfold as pf
from pinfold.dialects import aix
P = aix.PAGE_SIZE
kernel = pf.Kernel()
with aix.Process(kernel) as process:
    vmo = pf.Vmo(P)
    start = int(process.root.map(vmo, 3).address)
    buffer = bytearray(P)
    dp = aix.Xmem()
    assert aix.xmattach(buffer, P, dp, aix.USER_ADSPACE) == 0
    assert aix.xmempin(dp.vaddr, P, dp) == 0
    child = os.fork()
    if not child:
        results = [aix.xmemin(dp.vaddr, start, 8, dp), aix.xmdetach(dp), aix.pin(start, P),
                   aix.xmempin(dp.vaddr, P, dp), aix.xmemdma(dp, dp.vaddr, 0)]
        os._exit(0 if results == [-1, -1, 22, 22, -1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert aix.xmemin(dp.vaddr, start, 8, dp) == 0
    assert aix.xmemunpin(dp.vaddr, P, dp) == 0
    assert aix.xmdetach(dp) == 0
    vmo.close()
    process.exit()
print(json.dumps("ok"))
"""


def test_a_forked_child_does_not_have_the_descriptor() -> None:
    """Source: xmattach: descriptors are not inherited by a child."""
    assert run(FORK) == "ok"


# Pinning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [USER, SYSTEM])
def test_pins_through_a_descriptor(world: World, flag: int) -> None:
    """The whole space can be pinned through it, and counts are those of the memory."""
    start = world.a if flag == SYSTEM else world.u
    dp, before = world.attached(start + P, P, flag), locked()
    assert aix.xmempin(start + P + 10, P, dp) == 0
    assert (world.short(start, 4), locked() - before) == ([0, 1, 1, 0], 2 * P)
    assert aix.xmempin(start, 2 * P, dp) == 0
    assert world.short(start, 4) == [1, 2, 1, 0]
    assert aix.xmemunpin(start, 4 * P, dp) == aix.EINVAL
    assert world.short(start, 4) == [0, 1, 0, 0]
    assert aix.xmemunpin(start + P, P, dp) == 0
    assert locked() == before


def test_the_errors_of_xmempin_in_their_order(world: World) -> None:
    dp = world.attached(world.u, P)
    for service in (aix.xmempin, aix.xmemunpin):
        for free in (aix.Xmem(), None):
            assert service(world.u, 0, free) == aix.EFAULT
        for length in (0, -1):
            assert service(world.a, length, dp) == aix.EINVAL
        assert service(world.a, P, dp) == aix.EFAULT
        assert service(world.a - P, P, dp) == aix.EFAULT
        assert service(16, 1, dp) == aix.EINVAL
        assert service((1 << 63) - 1, 1, dp) == aix.EFAULT
        assert service(world.a + 16 * P, 1, aix.xmem_global) == aix.EINVAL
        assert service(world.u, 1, aix.xmem_global) == aix.EFAULT
        with pytest.raises(TypeError):
            service(world.u, P, object())  # type: ignore[arg-type]
    assert world.held == 0


def test_the_limit_is_one_for_both_spaces(tight: World) -> None:
    dp = tight.attached(tight.u, 8 * P)
    assert aix.pin(tight.a, 4 * P) == 0
    assert aix.xmempin(tight.u, 5 * P, dp) == aix.ENOMEM
    assert aix.xmempin(tight.u, 4 * P, dp) == 0
    assert tight.held == 8
    assert aix.xmemunpin(tight.u, 4 * P, dp) == 0
    assert aix.unpin(tight.a, 4 * P) == 0


def test_environments_of_pinning(world: World) -> None:
    """Source: xmemunpin is for interrupt level where the memory is the kernel's."""
    user, system = world.attached(world.u, P), world.attached(world.a, P, SYSTEM)
    assert (aix.xmempin(world.u, P, user), aix.xmempin(world.a, P, system)) == (0, 0)
    with aix.interrupt_environment():
        for dp, start in ((user, world.u), (system, world.a)):
            with pytest.raises(aix.KernelAssertion):
                aix.xmempin(start, P, dp)
        with pytest.raises(aix.KernelAssertion):
            aix.xmemunpin(world.u, P, user)
        assert aix.xmemunpin(world.a, P, system) == 0
    assert aix.xmemunpin(world.u, P, user) == 0


@pytest.mark.parametrize("kind", ["bytes", "array", "shared", "file", "stack"])
def test_any_memory_of_the_process_can_be_pinned(
    world: World, kind: str, tmp_path: os.PathLike[str]
) -> None:
    path = f"{os.fspath(tmp_path)}/file"
    with open(path, "wb") as file:
        file.write(bytes(2 * P))
    with open(path, "r+b") as file:
        shown = mmap.mmap(file.fileno(), 2 * P)
    memory: object = {
        "bytes": bytes(2 * P),
        "array": np.zeros(2 * P, np.uint8),
        "shared": mmap.mmap(-1, 2 * P),
        "file": shown,
        "stack": (mmap.mmap(-1, 2 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)),
    }[kind]
    start = address(memory)
    dp = world.attached(start, 2 * P)
    assert aix.xmempin(start, 2 * P, dp) == 0
    assert all(mm.resident(HostVa(start - start % P), 2 * P))
    assert aix.xmemunpin(start, 2 * P, dp) == 0
    shown.close()


def test_a_view_of_a_memory_object_is_the_object_s(world: World) -> None:
    """It is user space, for it is not mapped in the region, and its pins are the object's."""
    view = world.vmo.view(0, 2 * P)
    start = address(view)
    dp = world.attached(start, 2 * P)
    assert aix.xmempin(start, 2 * P, dp) == 0
    assert world.short(world.a, 3) == [1, 1, 0]
    assert world.held == 2
    with pytest.raises(pf.errors.BadState):
        world.vmo.decommit(P, P)
    assert aix.unpin(world.a, P) == 0
    assert aix.xmemunpin(start + P, P, dp) == 0


def test_memory_that_is_unmapped_while_it_is_pinned(world: World) -> None:
    """Its pins are undone through the descriptor; nothing is locked by then."""
    memory = mmap.mmap(-1, 2 * P)
    start = address(memory)
    dp = aix.Xmem()
    assert aix.xmattach(start, 2 * P, dp, USER) == SUCC
    assert aix.xmempin(start, 2 * P, dp) == 0
    memory.close()
    assert aix.xmemin(start, world.a, 1, dp) == FAIL
    assert aix.xmemunpin(start, 2 * P, dp) == 0
    assert world.held == 0
    assert aix.xmdetach(dp) == SUCC


# Copying ------------------------------------------------------------------------------------------


def test_bytes_go_both_ways(world: World) -> None:
    dp = world.attached(world.u, 8 * P)
    data = bytes(range(256)) * 64
    world.user[100 : 100 + len(data)] = data
    assert aix.xmemin(world.u + 100, world.a + 7, len(data), dp) == SUCC
    assert world.vmo.read(7, len(data)) == data
    world.vmo.write(data[::-1], 8 * P)
    assert aix.xmemout(world.a + 8 * P, world.u + 3, len(data), dp) == SUCC
    assert world.user[3 : 3 + len(data)] == data[::-1]
    assert aix.xmemin(world.u, world.a, 0, dp) == SUCC
    assert world.held == 0


def test_kernel_memory_is_described_ready_made(world: World) -> None:
    world.vmo.write(b"kernel", 0)
    assert aix.xmemin(world.a, world.a + P, 6, aix.xmem_global) == SUCC
    assert world.vmo.read(P, 6) == b"kernel"


def test_what_is_not_copied(world: World) -> None:
    """And nothing has changed: all of it is copied, or none."""
    dp = world.attached(world.u, 2 * P)
    world.vmo.write(b"kept" * P, 0)
    user = world.user[: 8 * P] = b"user" * 2 * P
    for count, uaddr, kaddr in (
        (-1, world.u, world.a),
        (P, world.u + P + 1, world.a),
        (P, world.u - 1, world.a),
        (P, world.u, world.a + 15 * P + 1),
        (P, world.u, world.u),
        (P, world.u, 16),
    ):
        assert aix.xmemin(uaddr, kaddr, count, dp) == FAIL
        assert aix.xmemout(kaddr, uaddr, count, dp) == FAIL
    for free in (None, aix.Xmem()):
        assert aix.xmemin(world.u, world.a, 1, free) == FAIL
        assert aix.xmemout(world.a, world.u, 1, free) == FAIL
    assert world.vmo.read(0, 4 * P) == b"kept" * P
    assert world.user[:] == user


def test_protection_is_that_of_the_mapping(world: World) -> None:
    """Read-only user memory is copied from, and not to; nor is kernel memory that is mapped so."""
    dp = world.attached(world.u, 2 * P)
    mm.protect(HostVa(world.u + P), P, 1)
    assert aix.xmemout(world.a, world.u, 2 * P, dp) == FAIL
    assert aix.xmemin(world.u, world.a, 2 * P, dp) == SUCC
    mm.protect(HostVa(world.u + P), P, 0)
    assert aix.xmemin(world.u, world.a, P + 1, dp) == FAIL
    assert aix.xmemin(world.u, world.a, P, dp) == SUCC
    mm.protect(HostVa(world.u + P), P, 3)
    shown = world.process.root.map(world.vmo, pf.VmOption.PERM_READ)
    assert aix.xmemin(world.u, int(shown.address), 8, dp) == FAIL
    assert aix.xmemout(int(shown.address), world.u, 8, dp) == SUCC


def test_a_page_that_cannot_be_read_is_a_failure(world: World) -> None:
    """Source: paging I/O error."""
    dp = world.attached(world.u, P)
    with intercepted(refuse("process_vm_readv", "pread")):
        assert aix.xmemin(world.u, world.a, 8, dp) == FAIL
    assert aix.xmemin(world.u, world.a, 8, dp) == SUCC


def test_a_truncated_file_is_a_failure_and_no_signal(
    world: World, tmp_path: os.PathLike[str]
) -> None:
    path = f"{os.fspath(tmp_path)}/file"
    with open(path, "wb") as file:
        file.write(b"x" * 4 * P)
    with open(path, "r+b") as file:
        shown = mmap.mmap(file.fileno(), 4 * P)
        start = address(shown)
        dp = world.attached(start, 4 * P)
        assert aix.xmemin(start, world.a, 4 * P, dp) == SUCC
        file.truncate(P)
        assert aix.xmemin(start, world.a, 4 * P, dp) == FAIL
        assert aix.xmemout(world.a, start, 4 * P, dp) == FAIL
        assert aix.xmemin(start, world.a, P, dp) == SUCC
        assert aix.xmdetach(dp) == SUCC
    shown.close()


def test_at_interrupt_level_everything_has_to_be_in_memory(world: World) -> None:
    """Source: a page that is not is XMEM_FAIL instead of a page fault, on either side."""
    dp = world.attached(world.u, 2 * P)
    world.user[: 2 * P] = bytes(2 * P)
    with aix.interrupt_environment():
        assert aix.xmemin(world.u, world.a, 8, dp) == FAIL  # system space was never touched
    world.vmo.commit(0, P)
    with aix.interrupt_environment():
        assert aix.xmemin(world.u, world.a, 8, dp) == SUCC
        assert aix.xmemout(world.a, world.u, 8, dp) == SUCC
        assert aix.xmemout(world.a, world.u, P + 1, dp) == FAIL
    assert aix.xmemout(world.a, world.u, P + 1, dp) == SUCC


# Real addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("translate", [aix.xmemdma, aix.xmemdma64])
def test_a_real_address_is_that_of_the_memory(world: World, translate: Callable[..., int]) -> None:
    """A device without an IOMMU reaches the byte there, and its neighbours in the page."""
    dp = world.attached(world.u, 2 * P)
    assert translate(dp, world.u + 9, 0) == FAIL
    assert aix.xmempin(world.u, 2 * P, dp) == 0
    assert aix.pin(world.a, P) == 0
    found = [translate(dp, world.u + 9, 0), translate(dp, world.u + P, 0)]
    assert [each % P for each in found] == [9, 0]
    assert found[0] // P != found[1] // P
    with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
        port = bti.master()
        port.write(found[0], b"by device")
        assert world.user[9:18] == b"by device"
        world.vmo.write(b"kernel", 0)
        assert port.read(translate(aix.xmem_global, world.a, 0), 6) == b"kernel"
    assert aix.unpin(world.a, P) == 0
    assert translate(aix.xmem_global, world.a, 0) == FAIL
    assert aix.xmemunpin(world.u, 2 * P, dp) == 0


def test_a_page_keeps_its_real_address(world: World) -> None:
    dp = world.attached(world.u, P)
    found = set()
    for _ in range(3):
        assert aix.xmempin(world.u, P, dp) == 0
        found.add(aix.xmemdma(dp, world.u, 0))
        assert aix.xmemunpin(world.u, P, dp) == 0
    assert len(found) == 1


def test_access_is_checked_where_it_is_asked_for(world: World) -> None:
    """Source: XMEM_ACC_CHK; a read-only page passes only with XMEM_WRITE_ONLY."""
    dp = world.attached(world.u, P)
    assert aix.xmempin(world.u, P, dp) == 0
    assert aix.xmemdma(dp, world.u, aix.XMEM_ACC_CHK) != FAIL
    mm.protect(HostVa(world.u), P, 1)
    assert aix.xmemdma(dp, world.u, aix.XMEM_ACC_CHK) == FAIL
    assert aix.xmemdma(dp, world.u, aix.XMEM_ACC_CHK | aix.XMEM_WRITE_ONLY) != FAIL
    assert aix.xmemdma(dp, world.u, aix.XMEM_DR_SAFE) != FAIL
    mm.protect(HostVa(world.u), P, 3)
    assert aix.xmemunpin(world.u, P, dp) == 0


def test_hiding_is_counted(world: World) -> None:
    dp = world.attached(world.u, P)
    assert aix.xmempin(world.u, P, dp) == 0
    assert aix.xmemdma(dp, world.u, aix.XMEM_UNHIDE) == FAIL
    assert aix.xmemdma(dp, world.u, aix.XMEM_HIDE) != FAIL
    assert aix.xmemdma(dp, world.u + 5, aix.XMEM_HIDE) != FAIL
    assert aix.xmemdma64(dp, world.u, aix.XMEM_UNHIDE) != FAIL  # translates, and no more
    for _ in range(2):
        assert aix.xmemdma(dp, world.u, aix.XMEM_UNHIDE) != FAIL
    assert aix.xmemdma(dp, world.u, aix.XMEM_UNHIDE) == FAIL
    for flag in (aix.XMEM_HIDE | aix.XMEM_UNHIDE, 1 << 20):
        assert aix.xmemdma(dp, world.u, flag) == FAIL
    assert aix.xmemunpin(world.u, P, dp) == 0


def test_what_has_no_real_address(world: World) -> None:
    dp = world.attached(world.u, P)
    assert aix.xmempin(world.u, P, dp) == 0
    for free in (None, aix.Xmem()):
        assert aix.xmemdma(free, world.u, 0) == FAIL
    for outside in (16, world.a, (1 << 63) + 5):
        assert aix.xmemdma(dp, outside, 0) == FAIL
    with aix.interrupt_environment():
        assert aix.xmemdma(dp, world.u, 0) != FAIL
    assert aix.xmemunpin(world.u, P, dp) == 0


def test_the_size_of_pages(world: World) -> None:
    dp = world.attached(world.u, 2 * P)
    assert aix.xmempsize(dp, world.u + 1, 2 * P) == P
    assert aix.xmempsize(aix.xmem_global, world.a, 1) == P
    assert aix.xmempsize(dp, world.u, 0) == FAIL
    assert aix.xmempsize(dp, 16, 1) == FAIL
    assert aix.xmempsize(dp, world.a, 1) == FAIL
    assert aix.xmempsize(None, world.u, 1) == FAIL


@pytest.fixture
def one_huge_page() -> Iterator[None]:
    """A huge page of the machine's; set aside for the test where there is none, and allowed."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = int(pool.read_text())
    if before < 1:
        try:
            pool.write_text("1")
        except OSError as error:
            pytest.skip(f"no huge page is set aside, and none can be: {error}")
    try:
        if int(pool.read_text()) < 1:
            pytest.skip("no huge page is set aside, and the machine has none to give")
        yield
    finally:
        if before < 1:
            pool.write_text(str(before))


def test_the_size_of_huge_pages(world: World, one_huge_page: None) -> None:
    """Source: xmempsize: the smallest of the range."""
    del one_huge_page
    huge = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    start = address(huge)
    dp = world.attached(start, P)
    assert aix.xmempsize(dp, start, P) == 2 << 20
    assert aix.xmempin(start, P, dp) == 0
    assert aix.xmemunpin(start, P, dp) == 0
    assert aix.xmdetach(dp) == SUCC
    huge.close()
