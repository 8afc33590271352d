"""zx_iommu_create and zx_bti_create: the order of checks, descriptors, and which devices there are.

Source: zx_iommu_create, zx_bti_create; Zircon's Intel driver for what a descriptor may say.
"""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.buses.sim import SimBus
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.errors import InvalidArgs
from pinfold.objects.intel_iommu import IntelDescriptor
from pinfold.units import KIB, MIB

from . import things
from .faulty import Call, Fault, attempts
from .refused import name_of, refused
from .things import PAGE, info, ok

pytestmark = pytest.mark.usefixtures("process")

STUB, INTEL, ARM = zx.ZX_IOMMU_TYPE_STUB, zx.ZX_IOMMU_TYPE_INTEL, zx.ZX_IOMMU_TYPE_ARM_SMMU
SYSTEM = zx.ZX_RSRC_KIND_SYSTEM
REGISTERS = 0xFED9_0000
"""Where a PC has the registers of its IOMMU."""


def scope(bus: int, *hops: int, count: int | None = None, kind: int = 0) -> bytes:
    """One zx_iommu_desc_intel_scope_t."""
    path = tuple(hops) + (0,) * (5 - len(hops))
    count = len(hops) if count is None else count
    return bytes(
        zx.zx_iommu_desc_intel_scope_t.pack(
            zx.zx_iommu_desc_intel_scope_t.record(kind, bus, count, path)
        )
    )


def reserved(base: int, size: int, *scopes: bytes, length: int | None = None) -> bytes:
    """One zx_iommu_desc_intel_reserved_memory_t and its scopes."""
    path = b"".join(scopes)
    layout = zx.zx_iommu_desc_intel_reserved_memory_t
    return (
        bytes(layout.pack(layout.record(base, size, len(path) if length is None else length)))
        + path
    )


def intel(
    *scopes: bytes,
    whole: bool = False,
    ranges: bytes = b"",
    scope_bytes: int | None = None,
    range_bytes: int | None = None,
) -> bytes:
    """One zx_iommu_desc_intel_t and what follows it."""
    path = b"".join(scopes)
    layout = zx.zx_iommu_desc_intel_t
    header = layout.record(
        REGISTERS,
        0,
        whole,
        len(path) if scope_bytes is None else scope_bytes,
        len(ranges) if range_bytes is None else range_bytes,
    )
    return bytes(layout.pack(header)) + path + ranges


DEVICE = 0x10
"""Device 2, function 0: what `ONE` serves on bus 3."""
ONE = intel(scope(3, DEVICE))
ALL_BUT_ONE = intel(scope(3, DEVICE), whole=True)
ALL = intel(whole=True)


def iommu(descriptor: bytes = ONE) -> int:
    """An Intel IOMMU."""
    made: int = ok(zx.zx_iommu_create, zx.root_resource(), INTEL, descriptor, len(descriptor))
    return made


def system(base: int, size: int = 1) -> int:
    """A SYSTEM resource."""
    made: int = ok(zx.zx_resource_create, zx.root_resource(), SYSTEM, base, size, None, 0)
    return made


# zx_iommu_create ----------------------------------------------------------------------------------

MAKE = Call(
    zx.zx_iommu_create,
    {
        "resource": lambda: system(zx.ZX_RSRC_SYSTEM_IOMMU_BASE),
        "type": lambda: STUB,
        "desc": lambda: b"\0",
        "desc_size": lambda: 1,
        "out": Out,
    },
    (
        Fault("no resource", "resource", things.closed, "BAD_HANDLE"),
        Fault("resource 0", "resource", lambda: 0, "BAD_HANDLE"),
        Fault("a VMO", "resource", things.vmo, "WRONG_TYPE"),
        Fault("MMIO", "resource", things.resource, "WRONG_TYPE"),
        Fault("VMEX", "resource", lambda: system(zx.ZX_RSRC_SYSTEM_VMEX_BASE), "WRONG_TYPE"),
        Fault("begins elsewhere", "resource", lambda: system(7, 3), "WRONG_TYPE"),
        Fault("all of SYSTEM", "resource", lambda: zx.root_resource(SYSTEM), "WRONG_TYPE"),
        Fault("too long", "desc_size", lambda: zx.ZX_IOMMU_MAX_DESC_LEN + 1, "INVALID_ARGS"),
        Fault("NULL", "desc", lambda: None, "INVALID_ARGS"),
        Fault("not all there", "desc_size", lambda: 2, "INVALID_ARGS"),
        Fault("ARM_SMMU", "type", lambda: ARM, "NOT_SUPPORTED"),
        Fault("no such type", "type", lambda: 0xFFFF_FFFF, "NOT_SUPPORTED"),
        Fault("a stub told nothing", "desc_size", lambda: 0, "INVALID_ARGS"),
        Fault("an Intel told a byte", "type", lambda: INTEL, "INVALID_ARGS"),
        Fault("nowhere to return it", "out", lambda: None, "INVALID_ARGS"),
    ),
)


@pytest.mark.parametrize(("call", "faults"), attempts([MAKE]))
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...], kernel: pf.Kernel) -> None:
    """Source: zx_iommu_create; WRONG_TYPE of a resource from Zircon's kernel."""
    refused(call, faults, kernel)


@pytest.mark.parametrize(
    "resource",
    [
        lambda: system(zx.ZX_RSRC_SYSTEM_IOMMU_BASE),
        lambda: system(zx.ZX_RSRC_SYSTEM_IOMMU_BASE, 2),
        zx.root_resource,
        lambda: things.without(zx.ZX_DEFAULT_RESOURCE_RIGHTS, system(8)),
    ],
    ids=["SYSTEM/IOMMU", "more than that", "ROOT", "no right"],
)
@pytest.mark.parametrize("kind", [STUB, INTEL])
def test_an_iommu_is_made(resource: Any, kind: int) -> None:
    """Source: zx_iommu_create. No right is needed on the resource; the content of the stub's byte
    does not matter."""
    descriptor = ONE if kind == INTEL else b"\xff"
    made = ok(zx.zx_iommu_create, resource(), kind, bytearray(descriptor), len(descriptor))
    basic = info(made, zx.ZX_INFO_HANDLE_BASIC)
    assert basic.type == zx.ZX_OBJ_TYPE_IOMMU
    assert basic.rights == zx.ZX_DEFAULT_IOMMU_RIGHTS


@pytest.mark.parametrize("length", [0, 2, zx.ZX_IOMMU_MAX_DESC_LEN])
def test_a_stub_is_told_one_byte(length: int) -> None:
    """Source: zx_iommu_create, zx_iommu_desc_stub_t."""
    made = zx.zx_iommu_create(zx.root_resource(), STUB, bytes(length), length, Out())
    assert name_of(made) == "INVALID_ARGS"


def test_only_the_said_part_of_a_descriptor_is_read() -> None:
    """The buffer may be longer than the descriptor."""
    assert zx.zx_iommu_create(zx.root_resource(), STUB, bytes(9), 1, Out()) == zx.ZX_OK
    assert zx.zx_iommu_create(zx.root_resource(), INTEL, ONE + b"?", len(ONE), Out()) == zx.ZX_OK


TWO = intel(scope(3, DEVICE), scope(4, 1, 2, 3, 4, 5, kind=1))
RANGE = reserved(0xA_0000, 64 * KIB, scope(0, 0x10))


@pytest.mark.parametrize(
    "descriptor",
    [
        ONE,
        TWO,
        ALL,
        ALL_BUT_ONE,
        intel(scope(3, DEVICE), ranges=RANGE),
        intel(scope(3, DEVICE), ranges=RANGE + RANGE),
        intel(*[scope(bus, 8) for bus in range(31)]),
    ],
    ids=["one", "two", "all", "all but one", "reserved", "two reserved", "as many as fit"],
)
def test_a_good_descriptor_is_remembered(descriptor: bytes, process: pf.Process) -> None:
    """Source: dialects: the descriptor is checked and remembered."""
    made: Any = process.handles[iommu(descriptor)].object
    assert made.descriptor == IntelDescriptor.parse(descriptor)
    assert made.descriptor.register_base == REGISTERS


def test_what_a_descriptor_says() -> None:
    """Field by field; of a stub nothing is remembered."""
    found = IntelDescriptor.parse(
        intel(scope(4, 1, 2, 3, kind=1), whole=True, ranges=reserved(5, 6, scope(7, 8)))
    )
    assert (found.whole_segment, found.segment) == (True, 0)
    assert [tuple(one) for one in found.scopes] == [(1, 4, bytes([1, 2, 3]))]
    assert [(one.base, one.size) for one in found.reserved] == [(5, 6)]
    assert [tuple(one) for one in found.reserved[0].scopes] == [(0, 7, bytes([8]))]
    with pf.open_bus("stub") as stub:
        assert stub.descriptor is None


@pytest.mark.parametrize(
    "descriptor",
    {
        "empty": b"",
        "shorter than the header": ONE[:15],
        "longer than it says": ONE + b"\0",
        "shorter than it says": ONE[:-1],
        "serves nothing": intel(),
        "a part of a scope": intel(scope(3, 1)[:7]),
        "a scope of no hop": intel(scope(3, count=0)),
        "a scope of six hops": intel(scope(3, 1, count=6)),
        "the second scope of no hop": intel(scope(3, 1), scope(3, 2, count=0)),
        "reserved bytes that are no range": intel(scope(3, 1), ranges=b"\0"),
        "a range and no scopes behind it": intel(scope(3, 1), ranges=reserved(0, 1)),
        "a range of no scopes": intel(scope(3, 1), ranges=reserved(0, 1) + scope(3, 1)),
        "a range past the end": intel(scope(3, 1), ranges=reserved(0, 1, scope(3, 1), length=16)),
        "a range of a part of a scope": intel(
            scope(3, 1), ranges=reserved(0, 1, scope(3, 1)[:7]) + b"\0"
        ),
        "a range of other scopes": intel(
            scope(3, 1), ranges=reserved(0, 1, scope(3, 1), scope(3, 2))
        ),
        "a range where the header has no scopes": intel(whole=True, ranges=RANGE),
        "a range's scope of no hop": intel(scope(3, 1), ranges=reserved(0, 1, scope(3, count=0))),
        "a range's scope of six hops": intel(
            scope(3, 1), ranges=reserved(0, 1, scope(3, 1, count=6))
        ),
        "bytes after the last range": intel(scope(3, 1), ranges=RANGE + b"\0" * 8),
        "another entry's worth of bytes": intel(scope(3, 1), ranges=RANGE + RANGE[:24]),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_bad_descriptor_is_refused(descriptor: tuple[str, bytes], kernel: pf.Kernel) -> None:
    """Source: zx_iommu_create INVALID_ARGS; the cases from Zircon's Intel driver."""
    root, raw = zx.root_resource(), descriptor[1]
    before = kernel.statistics()
    assert name_of(zx.zx_iommu_create(root, INTEL, raw, len(raw), Out())) == "INVALID_ARGS"
    assert kernel.statistics() == before
    with pytest.raises(InvalidArgs) as caught:
        IntelDescriptor.parse(raw)
    assert caught.value.asked is not None
    assert caught.value.remedy is not None


def test_the_registers_of_an_iommu_are_nobodys() -> None:
    """Source: Zircon's Intel driver denies them to every resource, for good."""
    registers = (zx.ZX_RSRC_KIND_MMIO, REGISTERS + PAGE - 1, 1, None, 0)
    assert zx.zx_handle_close(iommu()) == zx.ZX_OK
    found = zx.zx_resource_create(zx.root_resource(), *registers, Out())
    assert name_of(found) == "ACCESS_DENIED"
    beside = (zx.ZX_RSRC_KIND_MMIO, REGISTERS + PAGE, 1, None, 0)
    assert zx.zx_resource_create(zx.root_resource(), *beside, Out()) == zx.ZX_OK


# iommu_from_bus -----------------------------------------------------------------------------------


def test_a_handle_over_an_open_bus(process: pf.Process) -> None:
    """Source: dialects. The bus is claimed; an Iommu is shared, and another process may have it."""
    bus = SimBus()
    number = ok(zx.iommu_from_bus, bus)
    assert info(number, zx.ZX_INFO_HANDLE_BASIC).rights == zx.ZX_DEFAULT_IOMMU_RIGHTS
    assert name_of(zx.iommu_from_bus(bus, Out())) == "ALREADY_EXISTS"
    with pf.open_bus("stub") as iommu, pf.Process(process.kernel) as other:
        shared = ok(zx.iommu_from_bus, iommu)
        assert shared in other.handles
        assert info(shared, zx.ZX_INFO_HANDLE_BASIC).koid == iommu.koid
        assert info(shared, zx.ZX_INFO_HANDLE_COUNT).handle_count == 2
    other.exit()


def test_what_is_no_bus() -> None:
    """Its errors are statuses, like those of every call."""
    assert name_of(zx.iommu_from_bus("sim", Out())) == "WRONG_TYPE"
    with pf.open_bus("sim") as iommu:
        assert name_of(zx.iommu_from_bus(iommu, None)) == "INVALID_ARGS"
        foreign = pf.Process(pf.Kernel())
        with foreign:
            assert name_of(zx.iommu_from_bus(iommu, Out())) == "INVALID_ARGS"
        foreign.exit()
    assert name_of(zx.iommu_from_bus(iommu, Out())) == "BAD_HANDLE"


# zx_bti_create ------------------------------------------------------------------------------------

ATTACH = Call(
    zx.zx_bti_create,
    {"iommu": iommu, "options": lambda: 0, "bti_id": lambda: 3 << 8 | DEVICE, "out": Out},
    (
        Fault("an option", "options", lambda: 1, "INVALID_ARGS"),
        Fault("the highest option", "options", lambda: 1 << 31, "INVALID_ARGS"),
        Fault("no IOMMU", "iommu", things.closed, "BAD_HANDLE"),
        Fault("IOMMU 0", "iommu", lambda: 0, "BAD_HANDLE"),
        Fault("a VMO", "iommu", things.vmo, "WRONG_TYPE"),
        Fault("no such device", "bti_id", lambda: 3 << 8 | DEVICE + 1, "INVALID_ARGS"),
        Fault("no number of a device", "bti_id", lambda: 1 << 16, "INVALID_ARGS"),
        Fault("nowhere to return it", "out", lambda: None, "INVALID_ARGS"),
    ),
)


@pytest.mark.parametrize(("call", "faults"), attempts([ATTACH]))
def test_the_first_fault_of_a_bti_decides(
    call: Call, faults: tuple[Fault, ...], kernel: pf.Kernel
) -> None:
    """Source: zx_bti_create; options before the handle from Zircon's kernel."""
    refused(call, faults, kernel)


@pytest.mark.parametrize(
    ("descriptor", "bti_id", "served"),
    [
        (ONE, 0x0310, True),
        (ONE, 0x0311, False),
        (ONE, 0x0210, False),
        (ONE, 0x1_0310, False),
        (ALL_BUT_ONE, 0x0310, False),
        (ALL_BUT_ONE, 0x0311, True),
        (ALL_BUT_ONE, 0xFFFF, True),
        (ALL_BUT_ONE, 0x1_0000, False),
        (ALL, 0, True),
        (ALL, (1 << 64) - 1, False),
        (TWO, 0x0401, False),  # behind a bridge
        (intel(scope(4, 1, 2), whole=True), 0x0401, True),
    ],
)
def test_which_devices_an_intel_iommu_has(descriptor: bytes, bti_id: int, served: bool) -> None:  # noqa: FBT001 - a column of the table
    """Source: zx_bti_create; Zircon's Intel driver, which looks at scopes of one hop only."""
    found = zx.zx_bti_create(iommu(descriptor), 0, bti_id, Out())
    assert name_of(found) == ("OK" if served else "INVALID_ARGS")


@pytest.mark.parametrize("bti_id", [0, 0xDEAD_BEEF, (1 << 64) - 1])
def test_a_stub_has_every_device(bti_id: int) -> None:
    """Source: zx_bti_create. Several authorities with one number are strangers."""
    stub = things.iommu()
    one, two = ok(zx.zx_bti_create, stub, 0, bti_id), ok(zx.zx_bti_create, stub, 0, bti_id)
    found = [info(bti, zx.ZX_INFO_HANDLE_BASIC) for bti in (one, two)]
    assert found[0].koid != found[1].koid
    assert {basic.rights for basic in found} == {zx.ZX_DEFAULT_BTI_RIGHTS}
    assert {basic.type for basic in found} == {zx.ZX_OBJ_TYPE_BTI}


@pytest.mark.parametrize(
    ("kind", "contiguity", "reach"), [(STUB, PAGE, (1 << 64) - 1), (INTEL, MIB, 1 << 48)]
)
def test_what_each_iommu_promises(kind: int, contiguity: int, reach: int) -> None:
    """Source: zx_info_bti_t; 2**64 - 1 stands for 2**64."""
    made = iommu(ALL) if kind == INTEL else things.iommu()
    found = info(ok(zx.zx_bti_create, made, 0, 1), zx.ZX_INFO_BTI)
    assert (found.minimum_contiguity, found.aspace_size) == (contiguity, reach)
    assert (found.pmo_count, found.quarantine_count) == (0, 0)


def test_btis_outlive_their_iommus_handle(kernel: pf.Kernel) -> None:
    """Source: Zircon: closing the IOMMU does not affect its BTIs."""
    made = iommu(ALL)
    bti = ok(zx.zx_bti_create, made, 0, 1)
    assert zx.zx_handle_close(made) == zx.ZX_OK
    addrs, pmt = bytearray(8), Out()
    vmo = things.vmo()
    assert zx.zx_bti_pin(bti, zx.ZX_BTI_PERM_READ, vmo, 0, PAGE, addrs, 1, pmt) == zx.ZX_OK
    assert zx.zx_pmt_unpin(pmt.value) == zx.ZX_OK
    assert len(kernel.objects(pf.objects.object.ObjectType.IOMMU)) == 1
    assert zx.zx_handle_close(bti) == zx.ZX_OK
    assert kernel.objects(pf.objects.object.ObjectType.IOMMU) == []


def test_python_and_calls_use_one_bus() -> None:
    """A driver in Python and one that speaks in calls may have a device each."""
    with pf.open_bus("sim") as bus, bus.initiator(1) as device:
        bti = ok(zx.zx_bti_create, number_of(bus.duplicate()), 0, 2)
        vmo, addrs, pmt = things.vmo(), bytearray(8), Out()
        assert zx.zx_bti_pin(bti, zx.ZX_BTI_PERM_READ, vmo, 0, PAGE, addrs, 1, pmt) == zx.ZX_OK
        address = int.from_bytes(addrs, "little")
        with pytest.raises(pf.errors.DmaFault):  # granted to the other
            device.master().read(address, 1)
        assert zx.zx_pmt_unpin(pmt.value) == zx.ZX_OK
