"""Resources from Python: what may be named, and what is at the addresses.

Source: zx_resource_create, zx_vmo_create_physical. The order of checks is in tests/dialects.
"""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    DmaFault,
    HostError,
    InvalidArgs,
    NotFound,
    OutOfRange,
    WrongType,
)
from pinfold.objects.object import ObjectType
from pinfold.objects.resource import ResourceKind
from pinfold.testing import FailNth, HostState
from pinfold.units import GIB, MIB

PAGE = pf.PAGE_SIZE
BASE = 0xE000_0000
END = (1 << 63) - PAGE
"""Where simulated device memory ends."""

pytestmark = pytest.mark.usefixtures("process")


def bytes_at(resource: pf.Resource, address: int, size: int = 4) -> bytes:
    """What is at an address of device memory."""
    start = address & -PAGE
    with pf.Vmo.physical(resource, start, PAGE) as vmo:
        return bytes(vmo.view(address - start, size))


def put_at(resource: pf.Resource, address: int, data: bytes) -> None:
    """Write to device memory."""
    start = address & -PAGE
    with pf.Vmo.physical(resource, start, PAGE) as vmo:
        vmo.view(address - start, len(data))[:] = data


# Making one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "more", "error"),
    [
        ((BASE, 0), {}, InvalidArgs),
        ((BASE, -1), {}, InvalidArgs),
        ((-1, PAGE), {}, InvalidArgs),
        (((1 << 64) - 1, 2), {}, InvalidArgs),
        ((BASE, PAGE), {"kind": 3}, InvalidArgs),
        ((BASE, PAGE), {"kind": 6}, InvalidArgs),
        ((BASE, PAGE), {"kind": 1, "fd": 0}, InvalidArgs),
        ((BASE + 1, PAGE), {"fd": 0}, InvalidArgs),
        ((BASE, PAGE + 1), {"fd": 0}, InvalidArgs),
        ((BASE, PAGE), {"fd": 0, "fd_offset": 1}, InvalidArgs),
        ((GIB, PAGE), {}, AccessDenied),
        ((GIB, PAGE), {"fd": 0}, AccessDenied),
        ((END, PAGE), {}, NotFound),
        ((16, 1), {"kind": 5}, NotFound),
        ((BASE, PAGE), {"fd": 1 << 20}, HostError),
    ],
)
def test_what_cannot_be_named(
    args: tuple[int, int], more: dict[str, Any], error: type[Exception], kernel: pf.Kernel
) -> None:
    """Nothing is left of the attempt: the addresses are free."""
    with pytest.raises(error):
        pf.Resource(*args, **more)
    assert kernel.objects(ObjectType.RESOURCE) == []
    with pf.Resource(BASE, PAGE, exclusive=True):
        pass


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in ResourceKind if kind is not ResourceKind.ROOT])
def test_a_resource_says_what_it_is(kind: ResourceKind, exclusive: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Source: zx_info_resource_t. Addresses of device memory are bytes, and need no whole page."""
    with pf.Resource(3, 5, kind=kind, exclusive=exclusive, name="x" * 40) as made:
        found = made.statistics()
        assert (found.kind, found.base, found.size) == (kind, 3, 5)
        assert (found.exclusive, found.handles, found.koid) == (exclusive, 1, made.koid)
        assert found.name == "x" * 40
        assert (made.kind, made.range) == (kind, (3, 8))
        assert made.object.flags == (0x10000 if exclusive else 0)


def test_what_is_taken_says_so() -> None:
    """The error has the facts and the remedy."""
    with pf.Resource(BASE, 2 * PAGE, exclusive=True):
        with pytest.raises(NotFound) as caught:
            pf.Resource(BASE + PAGE, 2 * PAGE)
        assert caught.value.asked == BASE + PAGE
        assert caught.value.holder == "an exclusive resource"
        assert caught.value.remedy is not None
    with pf.Resource(BASE, PAGE), pytest.raises(NotFound) as caught:
        pf.Resource(BASE, PAGE, exclusive=True)
    assert caught.value.holder == "another resource"


@pytest.mark.parametrize("kind", ResourceKind)
def test_a_root_stands_for_everything(kind: ResourceKind) -> None:
    """A range that is not empty is not what it has; what it gives, it gives to itself as well."""
    with pf.Resource.root(kind) as root:
        assert (root.kind, root.range.size) == (kind, 0)
        wanted = ResourceKind.SYSTEM if kind is ResourceKind.ROOT else kind
        with root.child(wanted, 1, 2) as part, part.child(wanted, 2, 1) as less:
            assert less.range == (2, 3)
        with pytest.raises(InvalidArgs):
            root.child(ResourceKind.ROOT, 0, 0)


def test_a_childs_refusal_keeps_its_cause() -> None:
    """Zircon says ACCESS_DENIED for whatever is wrong with the parent; the cause says what."""
    with pf.Resource(BASE, PAGE) as parent:
        with pytest.raises(AccessDenied) as caught:
            parent.child(ResourceKind.IRQ, 1, 1)
        assert isinstance(caught.value.__cause__, WrongType)
        with pytest.raises(AccessDenied) as caught:
            parent.child(ResourceKind.MMIO, BASE, PAGE + 1)
        assert isinstance(caught.value.__cause__, OutOfRange)
        assert caught.value.__cause__.limit == BASE + PAGE
    with pytest.raises(BadHandle):
        parent.child(ResourceKind.MMIO, BASE, PAGE)


def test_a_resource_of_a_process_that_has_ended(kernel: pf.Kernel) -> None:
    """It is not made, and its addresses are free."""
    ended = pf.Process(kernel)
    ended.exit()
    with pytest.raises(BadState):
        pf.Resource(BASE, PAGE, exclusive=True, process=ended)
    with pytest.raises(BadState):
        pf.Resource.root(process=ended)
    with pf.Resource(BASE, PAGE, exclusive=True):
        assert len(kernel.objects(ObjectType.RESOURCE)) == 1


# Privileges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "size", "kind", "error"),
    [
        (1, 1, 5, None),
        (0, 16, 5, None),
        (2, 1, 5, OutOfRange),
        (0, 1, 5, OutOfRange),
        (1, 1, 1, WrongType),
        (1, PAGE, 0, WrongType),
    ],
)
def test_who_may_make_memory_executable(
    base: int, size: int, kind: int, error: type[Exception] | None
) -> None:
    """Source: zx_vmo_replace_as_executable: SYSTEM, and it covers VMEX."""
    with pf.Resource(base, size, kind=kind) as made, pf.Vmo(PAGE) as vmo:
        copy = vmo.duplicate()
        if error is None:
            with copy.replace_as_executable(made) as executable:
                assert executable.rights & pf.Right.EXECUTE
        else:
            with pytest.raises(error):
                copy.replace_as_executable(made)
        assert copy.closed


@pytest.mark.parametrize("kind", ResourceKind)
def test_which_root_may_make_memory_executable(kind: ResourceKind) -> None:
    """Source: Zircon's kernel: the one of SYSTEM. ROOT is of no kind that a call asks for."""
    with pf.Resource.root(kind) as made, pf.Vmo(PAGE) as vmo:
        if kind is ResourceKind.SYSTEM:
            vmo.duplicate().replace_as_executable(made).close()
        else:
            with pytest.raises(WrongType):
                vmo.duplicate().replace_as_executable(made)


# Device memory ------------------------------------------------------------------------------------


def test_a_huge_range_costs_what_is_touched() -> None:
    """A resource opens nothing; device memory is one sparse file, whatever the addresses."""
    gc_free = HostState.now()
    with pf.Resource(1 << 46, END - (1 << 46)) as huge:
        assert gc_free.difference(HostState.now()) == []
        for address in (1 << 46, 1 << 55, END - PAGE):
            put_at(huge, address, b"here")
            assert bytes_at(huge, address) == b"here"
        with pf.Vmo.physical(huge, 1 << 60, 1 << 61) as vast:
            assert vast.size == 1 << 61
            assert vast.committed_ranges() == []
            assert vast.object.pages.backing.committed_bytes() <= 3 * PAGE
    assert gc_free.difference(HostState.now()) == []


def test_device_memory_stays_while_somebody_may_name_it() -> None:
    """As a device's registers do; here for as long as the kernel has a resource, or shows some."""
    with pf.Resource(0, PAGE):
        with pf.Resource(BASE, PAGE) as made:
            put_at(made, BASE, b"kept")
        with pf.Resource(BASE, PAGE) as made:
            assert bytes_at(made, BASE) == b"kept"
    with pf.Resource(BASE, PAGE) as made:
        assert bytes_at(made, BASE) == bytes(4)


def test_resources_of_other_kinds_keep_no_memory() -> None:
    """Nor does one that was closed while its memory was shown, when the memory is gone."""
    with pf.Resource(1, 1, kind=5), pf.Resource.root(ResourceKind.IRQ):
        made = pf.Resource(BASE, PAGE)
        put_at(made, BASE, b"kept")
        shown = pf.Vmo.physical(made, BASE, PAGE)
        made.close()
        assert bytes(shown.view(0, 4)) == b"kept"
        shown.close()
        with pf.Resource(BASE, PAGE) as made:
            assert bytes_at(made, BASE) == bytes(4)


def test_two_kernels_have_two_machines() -> None:
    """What one has at an address is nothing to the other."""
    other = pf.Process(pf.Kernel())
    with pf.Resource(BASE, PAGE, exclusive=True) as here:
        put_at(here, BASE, b"here")
        with other, pf.Resource(BASE, PAGE, exclusive=True) as there:
            assert bytes_at(there, BASE) == bytes(4)
    other.exit()


def test_without_an_iommu_a_device_finds_device_memory_where_it_is() -> None:
    """What was shown once is on the bus until its last user is gone; the rest never was."""
    with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
        port = bti.master()
        with pf.Resource(BASE, 4 * PAGE) as made:
            with pytest.raises(DmaFault):
                port.read(BASE, 1)
            with pf.Vmo.physical(made, BASE + PAGE, 2 * PAGE) as vmo:
                port.write(BASE + 2 * PAGE - 2, b"four")  # over a border of pages
                assert bytes(vmo.view(PAGE - 2, 4)) == b"four"
            assert port.read(BASE + 2 * PAGE - 2, 4) == b"four"
            for address, size in ((BASE + PAGE - 1, 2), (BASE + 3 * PAGE - 1, 2)):
                with pytest.raises(DmaFault):
                    port.read(address, size)
        with pytest.raises(DmaFault):
            port.read(BASE + PAGE, 1)


def test_memory_and_device_memory_are_apart() -> None:
    """Simulated RAM has no address at which device memory can be."""
    with (
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
        pf.Vmo.contiguous(bti, PAGE, alignment=2 * GIB) as vmo,
        bti.pin(vmo, perms=pf.Perm.READ, form=pf.AddrForm.CONTIGUOUS) as pmt,
    ):
        at = int(pmt.addrs[0])
        assert at == 4 * GIB
        with pytest.raises(AccessDenied):
            pf.Resource(at, PAGE)
    with pf.Resource(2 * GIB, 2 * GIB):
        pass


def test_one_refused_host_call_leaves_nothing() -> None:
    """Whichever of the calls behind the first physical VMO it is; the next attempt works."""
    with pf.Resource(BASE, PAGE) as made:
        before = HostState.now()
        for number in range(1, 20):
            with FailNth(number) as seen:
                try:
                    pf.Vmo.physical(made, BASE, PAGE).close()
                except (pf.errors.NoMemory, HostError):
                    assert seen.refused
                else:
                    break
            assert bytes_at(made, BASE) == bytes(4)
        assert number > 1
        assert not seen.refused
    assert before.difference(HostState.now()) == []


def test_a_resource_may_be_low(any_bus: pf.Iommu) -> None:
    """Address 0 is an address like others, for the CPU; through an IOMMU devices have their own."""
    with (
        pf.Resource(0, 16 * MIB) as low,
        pf.Vmo.physical(low, 0, PAGE) as vmo,
        any_bus.initiator(1) as bti,
        bti.pin(vmo, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
    ):
        vmo.view(0, 3)[:] = b"low"
        port: Any = bti.master()
        assert port.read(int(pmt.addrs[0]), 3) == b"low"
        assert (int(pmt.addrs[0]) == 0) is (any_bus.bus.name == "stub")
