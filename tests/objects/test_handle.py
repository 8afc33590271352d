"""Handles, processes, kernels and buses by name."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.buses.sim import SimBus
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadHandle,
    BadState,
    InvalidArgs,
    NotFound,
    WrongType,
)
from pinfold.objects.object import ObjectType

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


def test_duplicate_narrows_and_never_widens(vmo: pf.Vmo) -> None:
    """Source: zx_handle_duplicate."""
    with vmo.duplicate() as same, vmo.duplicate(R.READ | R.DUPLICATE) as less:
        assert same.rights == vmo.rights
        assert same.koid == less.koid == vmo.koid
        assert less.rights == R.READ | R.DUPLICATE
        with pytest.raises(InvalidArgs):
            less.duplicate(R.READ | R.WRITE)
        with less.duplicate(R.NONE) as none, pytest.raises(AccessDenied) as caught:
            none.duplicate()
        assert caught.value.missing == R.DUPLICATE
        with pytest.raises(InvalidArgs):
            vmo.duplicate(R.SAME_RIGHTS | R.READ)


def test_replace_closes_the_old_handle_even_when_it_fails(vmo: pf.Vmo) -> None:
    """Source: zx_handle_replace."""
    one = vmo.duplicate(R.READ)
    two = one.replace(R.READ)  # DUPLICATE is not needed
    assert one.closed
    with pytest.raises(InvalidArgs):
        two.replace(R.WRITE)
    assert two.closed
    with pytest.raises(BadHandle):
        two.replace()


def test_closing_twice_does_nothing(vmo: pf.Vmo) -> None:
    """Source: the habit of Python's files."""
    other = vmo.duplicate()
    other.close()
    other.close()
    assert repr(other) == "<Vmo (closed)>"
    with pytest.raises(BadHandle):
        other.read()


def test_handle_values_are_zircons(kernel: pf.Kernel) -> None:
    """Source: Zircon, the two lowest bits are 1 and values are not reused at once."""
    seen = set()
    for _ in range(1000):
        with pf.Vmo(0) as vmo:
            assert vmo.value & 3 == 3
            assert 0 < vmo.value < 1 << 32
            seen.add(vmo.value)
    assert len(seen) == 1000


def test_a_dropped_handle_says_where_it_was_made(kernel: pf.Kernel) -> None:
    """And is closed all the same."""
    before = kernel.statistics().objects
    vmo = pf.Vmo(PAGE, name="forgotten")
    with pytest.warns(ResourceWarning, match=r"forgotten.*test_handle\.py:\d+ in test_a_dropped"):
        del vmo
    assert kernel.statistics().objects == before


def test_koids_are_never_reused(kernel: pf.Kernel) -> None:
    """Source: Zircon; user objects start at 1024."""
    koids = []
    for _ in range(3):
        with pf.Vmo(0) as vmo:
            koids.append(vmo.koid)
    assert koids == sorted(set(koids))
    assert koids[0] >= 1024


def test_a_process_closes_its_handles_newest_first(kernel: pf.Kernel) -> None:
    """Source: process death in Zircon. What it made is gone; what others hold is not."""
    with pf.Process(kernel, name="short") as short:
        assert pf.current_process() is short
        mine, shared = pf.Vmo(PAGE), pf.Vmo(PAGE)
    kept = pf.Vmo.wrap(pf.current_process().add(shared.object, int(R.READ)))
    short.exit()
    short.exit()
    assert mine.closed
    assert shared.closed
    assert kept.read(0, 1) == b"\0"
    with pytest.raises(BadState), short:
        pf.Vmo(PAGE)
    kept.close()


def test_an_exception_still_leaves_the_process(kernel: pf.Kernel) -> None:
    """The current process is that of the innermost block."""
    outer = pf.current_process()
    with pytest.raises(RuntimeError, match="inside"), pf.Process(kernel) as inner:
        raise RuntimeError("inside")
    assert pf.current_process() is outer
    inner.exit()


def test_objects_are_listed_while_they_live(kernel: pf.Kernel, vmo: pf.Vmo) -> None:
    """The registry is by kind, oldest first."""
    with pf.Vmo(0) as second:
        listed = [member.koid for member in kernel.objects(ObjectType.VMO)]
        assert listed == [vmo.koid, second.koid]
    assert str(vmo.object) == f"vmo {vmo.koid} 'buffer'"


def test_kernels_share_nothing(kernel: pf.Kernel) -> None:
    """Limits, ledgers and physical maps are a kernel's own."""
    other = pf.Kernel(max_pinned=PAGE)
    with pf.Process(other) as process, pf.Vmo(PAGE):
        assert other.statistics().objects == 2
    process.exit()
    assert other.statistics().objects == 0
    with pytest.raises(InvalidArgs):
        pf.Kernel(max_pinned=1)


def test_there_is_a_default_kernel_and_process() -> None:
    """What a script gets that names neither."""
    import contextvars

    def outside() -> pf.Kernel:
        return pf.current_process().kernel

    assert contextvars.Context().run(outside) is pf.default_kernel()


@pytest.mark.parametrize("copy_of", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_handle_is_neither_copied_nor_pickled(
    copy_of: Callable[[object], object], vmo: pf.Vmo, sim: pf.Iommu, bti: pf.Bti
) -> None:
    """A copy would be a second owner of one row of the table: it would close what is not its own.

    Nor inside something else. The original stays as it was.
    """
    with pf.Resource(0, PAGE) as resource, bti.pin(vmo, perms=pf.Perm.READ) as pmt:
        handles: list[Any] = [vmo, sim, bti, pmt, resource]
        for handle in handles:
            with pytest.raises(WrongType) as caught:
                copy_of(handle)
            assert isinstance(caught.value, TypeError)
            assert caught.value.remedy is not None
            assert not handle.closed
    if copy_of is not copy.copy:  # which copies a list, and no element
        with pytest.raises(WrongType):
            copy_of([vmo])
    assert vmo.read(0, 1) == b"\0"
    assert vmo.object.handle_count == 1


def test_a_handle_is_true_while_it_is_open() -> None:
    """Memory of no bytes has length 0 and is no less there: `if vmo:` asks for the handle."""
    vmo = pf.Vmo(0)
    assert len(vmo) == 0
    assert vmo
    vmo.close()
    assert not vmo


def test_one_process_may_be_current_in_two_threads(kernel: pf.Kernel) -> None:
    """Each thread leaves its own block, whichever ends first."""
    shared, other = pf.Process(kernel), pf.Process(kernel)
    both = threading.Barrier(2)
    seen: dict[str, list[bool]] = {"first": [], "last": []}

    def work(name: str) -> None:
        with other, shared:
            both.wait()
            seen[name].append(pf.current_process() is shared)
            if name == "last":
                both.wait()  # the other thread has left its block
            seen[name].append(pf.current_process() is shared)
        seen[name].append(pf.current_process() is not shared)
        if name == "first":
            both.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": [True, True, True], "last": [True, True, True]}
    for process in (shared, other):
        process.exit()


def test_one_process_may_be_current_in_two_tasks(kernel: pf.Kernel) -> None:
    """Blocks of two tasks overlap without nesting; what each makes belongs to its own process."""
    shared, other = pf.Process(kernel), pf.Process(kernel)
    outside = pf.current_process()

    async def work(mine: pf.Process, entered: asyncio.Event, go_on: asyncio.Event) -> bool:
        with shared, mine:
            entered.set()
            await go_on.wait()
            with pf.Vmo(0) as made:
                right = made.value in mine.handles and pf.current_process() is mine
        return right and pf.current_process() is outside

    async def main() -> list[bool]:
        one, two, three = asyncio.Event(), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(work(shared, one, two))  # leaves once the second has entered
        second = asyncio.create_task(work(other, two, three))
        found = [await first]
        three.set()
        return [*found, await second]

    assert asyncio.run(main()) == [True, True]
    assert pf.current_process() is outside
    for process in (shared, other):
        process.exit()


@pytest.mark.parametrize("name", ["a\0b", "\udc80", "\0", "x" * 1000, "\N{SNOWMAN}" * 300, "%s"])
def test_any_text_is_a_name(name: str, sim: pf.Iommu, kernel: pf.Kernel) -> None:
    """The kernel's names are cut and cleaned; ours are what was given."""
    with (
        pf.Vmo(PAGE, name=name) as vmo,
        pf.Resource(0, PAGE, name=name) as resource,
        sim.initiator(3, name=name) as bti,
        bti.pin(vmo, perms=pf.Perm.READ) as pmt,
        pf.Process(kernel, name=name) as process,
    ):
        for named in (vmo, resource, bti, process):
            assert named.name == name
            assert repr(named)
        assert str(pmt.object)
    process.exit()


def test_what_belongs_to_another_kernel_is_refused(bti: pf.Bti) -> None:
    """Its books and its lock are not these."""
    foreign = pf.Process(pf.Kernel())
    with pf.Resource(0, PAGE) as resource:
        before = foreign.kernel.statistics()
        with pytest.raises(InvalidArgs, match="another kernel"):
            pf.Vmo.physical(resource, 0, PAGE, process=foreign)
        with pytest.raises(InvalidArgs, match="another kernel"):
            pf.Vmo.contiguous(bti, PAGE, process=foreign)
        with pf.Vmo(PAGE, process=foreign) as vmo, pytest.raises(InvalidArgs, match="another"):
            bti.pin(vmo, perms=pf.Perm.READ)
        assert foreign.kernel.statistics() == before
    foreign.exit()


# Buses by name ----------------------------------------------------------------------------------


def test_unknown_buses_are_told_the_known(kernel: pf.Kernel) -> None:
    """The error lists what there is."""
    with pytest.raises(NotFound) as caught:
        pf.open_bus("isa")
    assert caught.value.available == "io_uring, phys, sim, stub, vfio"
    with pytest.raises(InvalidArgs, match="sim bus"):
        pf.open_bus("sim", colour="red")
    with pytest.raises(InvalidArgs, match="has no address"):
        pf.open_bus("sim:1")
    with pytest.raises(WrongType):
        pf.Iommu(object())  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    "options",
    [
        {"minimum_contiguity": 3 * PAGE},
        {"minimum_contiguity": PAGE // 2},
        {"aperture": (5, 5)},
        {"aperture": (0, 1 << 65)},
        {"guard": 0},
        {"anchor": pf.Anchor.VFIO},
    ],
)
def test_options_of_the_sim_bus(options: dict[str, Any]) -> None:
    """Each is checked when the bus is opened."""
    with pytest.raises(InvalidArgs):
        pf.open_bus("sim", **options)


@pytest.mark.parametrize(("number", "bits"), [(-1, 64), (1 << 64, 64), (0, 0), (0, 65)])
def test_initiators_that_cannot_be(any_bus: pf.Iommu, number: int, bits: int) -> None:
    """Source: zx_bti_create INVALID_ARGS."""
    with pytest.raises(InvalidArgs):
        any_bus.initiator(number, address_bits=bits)


def test_one_device_has_one_number_of_address_bits(sim: pf.Iommu) -> None:
    """Two authorities over the same initiator are over the same device."""
    with sim.initiator(7, address_bits=32), pytest.raises(InvalidArgs):
        sim.initiator(7, address_bits=64)
    with sim.initiator(7, address_bits=64):
        pass


def test_a_bus_has_one_iommu(process: pf.Process) -> None:
    """Two would close it twice, and each under the other's devices."""
    bus = SimBus()
    with pf.Iommu(bus) as iommu:
        with pytest.raises(AlreadyExists) as caught:
            pf.Iommu(bus)
        assert "duplicate" in str(caught.value.remedy)
        foreign = pf.Process(pf.Kernel())
        with pytest.raises(AlreadyExists):
            pf.Iommu(bus, process=foreign)
        foreign.exit()
        with iommu.duplicate() as same:
            assert same.bus is bus


def test_an_aperture_out_of_a_devices_reach() -> None:
    """Nothing could ever be granted to it."""
    with pf.open_bus("sim", aperture=(1 << 32, 1 << 33)) as bus, pytest.raises(InvalidArgs):
        bus.initiator(1, address_bits=32)


def test_the_bus_outlives_its_handle(vmo: pf.Vmo) -> None:
    """Source: Zircon, closing the IOMMU handle does not affect its BTIs."""
    bus = pf.open_bus("sim")
    bti = bus.initiator(1)
    bus.close()
    with bti.pin(vmo, perms=pf.Perm.READ) as pmt:
        assert bti.master().read(int(pmt.addrs[0]), 1) == b"\0"
    bti.close()
