"""zx_resource_create: the order of checks, and what a resource is good for.

Source: zx_resource_create; Zircon's kernel and its tests for the order and for NOT_FOUND.
"""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.objects.resource import ResourceKind
from pinfold.units import GIB, MIB

from . import things
from .faulty import Call, Fault, attempts
from .refused import name_of, refused
from .things import PAGE, info, ok

pytestmark = pytest.mark.usefixtures("process")

REGISTERS = 0xE000_0000
"""Where `things.resource` has four pages."""
TOP = (1 << 64) - 1
MMIO, IRQ, IOPORT = zx.ZX_RSRC_KIND_MMIO, zx.ZX_RSRC_KIND_IRQ, zx.ZX_RSRC_KIND_IOPORT
SMC, SYSTEM = zx.ZX_RSRC_KIND_SMC, zx.ZX_RSRC_KIND_SYSTEM
ROOT = int(ResourceKind.ROOT)  # in no header any more
EXCLUSIVE = zx.ZX_RSRC_FLAG_EXCLUSIVE
KINDS = [MMIO, IRQ, IOPORT, SMC, SYSTEM]


def create(parent: int, options: int, base: int, size: int, *name: Any) -> int:
    """A resource that is to be made."""
    made: int = ok(zx.zx_resource_create, parent, options, base, size, *(name or (None, 0)))
    return made


def attempt(parent: int, options: int, base: int, size: int) -> str:
    """The status of making one, which is closed again."""
    out = Out()
    found = zx.zx_resource_create(parent, options, base, size, None, 0, out)
    if out.value is not None:
        close(out.value)
    return name_of(found)


def close(number: int) -> None:
    """Close a handle that is open."""
    assert zx.zx_handle_close(number) == zx.ZX_OK


def exclusive() -> int:
    """A resource like `things.resource`, of which no part can be made."""
    return number_of(pf.Resource(REGISTERS, 4 * PAGE, exclusive=True))


# The order of checks ------------------------------------------------------------------------------

PART = Call(
    zx.zx_resource_create,
    {
        "parent": things.resource,
        "options": lambda: MMIO,
        "base": lambda: REGISTERS + PAGE,
        "size": lambda: PAGE,
        "name": lambda: b"timer",
        "name_size": lambda: 5,
        "out": Out,
    },
    (
        Fault("overflow", "base", lambda: TOP, "INVALID_ARGS"),
        Fault("no parent", "parent", things.closed, "BAD_HANDLE"),
        Fault("parent 0", "parent", lambda: 0, "BAD_HANDLE"),
        Fault("parent a VMO", "parent", things.vmo, "WRONG_TYPE"),
        Fault(
            "parent without WRITE",
            "parent",
            lambda: things.without(zx.ZX_RIGHT_WRITE, things.resource()),
            "ACCESS_DENIED",
        ),
        Fault("kind ROOT", "options", lambda: ROOT, "INVALID_ARGS"),
        Fault("unknown kind", "options", lambda: zx.ZX_RSRC_KIND_COUNT, "INVALID_ARGS"),
        Fault("kind 0xffff", "options", lambda: 0xFFFF, "INVALID_ARGS"),
        Fault("unknown flag", "options", lambda: MMIO | 0x2_0000, "INVALID_ARGS"),
        Fault("highest flag", "options", lambda: MMIO | EXCLUSIVE | 1 << 31, "INVALID_ARGS"),
        Fault("another kind", "options", lambda: IRQ, "ACCESS_DENIED"),
        Fault("below it", "base", lambda: REGISTERS - 1, "ACCESS_DENIED"),
        Fault("above it", "base", lambda: REGISTERS + 4 * PAGE, "ACCESS_DENIED"),
        Fault("a byte too long", "size", lambda: 3 * PAGE + 1, "ACCESS_DENIED"),
        Fault("no size", "size", lambda: 0, "ACCESS_DENIED"),
        Fault("a part is exclusive", "options", lambda: MMIO | EXCLUSIVE, "INVALID_ARGS"),
        Fault("a part of an exclusive one", "parent", exclusive, "INVALID_ARGS"),
        Fault("name NULL", "name", lambda: None, "INVALID_ARGS"),
        Fault("name too short", "name_size", lambda: 6, "INVALID_ARGS"),
        Fault("nowhere to return it", "out", lambda: None, "INVALID_ARGS"),
    ),
    name="a part",
)

WHOLE = Call(
    zx.zx_resource_create,
    {
        "parent": zx.root_resource,
        "options": lambda: SYSTEM,
        "base": lambda: zx.ZX_RSRC_SYSTEM_VMEX_BASE,
        "size": lambda: 1,
        "name": lambda: None,
        "name_size": lambda: 0,
        "out": Out,
    },
    (
        Fault("overflow", "base", lambda: TOP, "INVALID_ARGS"),
        Fault("no parent", "parent", things.closed, "BAD_HANDLE"),
        Fault("parent a VMO", "parent", things.vmo, "WRONG_TYPE"),
        Fault("kind ROOT", "options", lambda: ROOT, "INVALID_ARGS"),
        Fault("parent of another kind", "parent", lambda: zx.root_resource(IRQ), "ACCESS_DENIED"),
        Fault("name NULL", "name_size", lambda: 1, "INVALID_ARGS"),
        Fault("no size", "size", lambda: 0, "INVALID_ARGS"),
        Fault("no such address", "base", lambda: zx.ZX_RSRC_SYSTEM_COUNT, "NOT_FOUND"),
        Fault("more than there are", "size", lambda: zx.ZX_RSRC_SYSTEM_COUNT, "NOT_FOUND"),
        Fault("nowhere to return it", "out", lambda: None, "INVALID_ARGS"),
    ),
    name="from the root",
)


def possible(faults: tuple[Fault, ...]) -> bool:
    """No bytes at the last address do not overflow."""
    return {fault.what for fault in faults} != {"overflow", "no size"}


@pytest.mark.parametrize(
    ("call", "faults"), [case for case in attempts([PART, WHOLE]) if possible(case.values[1])]
)
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...], kernel: pf.Kernel) -> None:
    """Source: zx_resource_create; the order from Zircon's kernel. Nothing is left behind."""
    refused(call, faults, kernel)


@pytest.mark.parametrize("call", [PART, WHOLE], ids=["a part", "from the root"])
def test_good_arguments_are_good(call: Call) -> None:
    """What the tables change is all that is wrong."""
    found, args = call.attempt()
    assert found == "ZX_OK"
    made = info(args["out"].value, zx.ZX_INFO_RESOURCE)
    assert (made.kind, made.base, made.size) == (args["options"], args["base"], args["size"])
    rights = info(args["out"].value, zx.ZX_INFO_HANDLE_BASIC).rights
    assert rights == zx.ZX_DEFAULT_RESOURCE_RIGHTS


def test_a_failed_call_speaks_for_no_address() -> None:
    """With nowhere to return the handle, the addresses are free again."""
    root = zx.root_resource()
    for _ in range(2):
        made = zx.zx_resource_create(root, MMIO | EXCLUSIVE, REGISTERS, PAGE, None, 0, None)
        assert made == zx.ZX_ERR_INVALID_ARGS
    create(root, MMIO | EXCLUSIVE, REGISTERS, PAGE)


# The root -----------------------------------------------------------------------------------------


def test_the_root_resource_stays_in_the_table(process: pf.Process) -> None:
    """Source: dialects: what a C program gets from its loader."""
    number = zx.root_resource()
    assert number in process.handles
    assert zx.root_resource() == number
    made = info(number, zx.ZX_INFO_RESOURCE)
    assert (made.kind, made.flags, made.base, made.size) == (ROOT, 0, 0, 0)
    close(number)
    again = zx.root_resource()
    assert again != number
    with pf.Process(process.kernel) as other:
        assert zx.root_resource() in other.handles
    other.exit()
    assert zx.root_resource() == again


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_from_the_root_and_from_its_own(kind: int) -> None:
    """Source: Zircon: the root resource stands in for any kind; the newest has one of each kind."""
    for parent in (zx.root_resource(), zx.root_resource(kind)):
        made = create(parent, kind, 3, 5)
        part = info(create(made, kind, 4, 1), zx.ZX_INFO_RESOURCE)
        assert (part.kind, part.base, part.size) == (kind, 4, 1)
    assert info(zx.root_resource(kind), zx.ZX_INFO_RESOURCE).size == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_gives_another(kind: int) -> None:
    """Source: zx_resource_create ACCESS_DENIED."""
    for other in KINDS:
        if other != kind:
            assert attempt(zx.root_resource(kind), other, 1, 1) == "ACCESS_DENIED"


def test_there_is_no_root_of_an_unknown_kind() -> None:
    """`zx.root_resource` is no system call: its error is Python's."""
    with pytest.raises(pf.errors.InvalidArgs):
        zx.root_resource(zx.ZX_RSRC_KIND_COUNT)


# What may be named --------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [ROOT, MMIO], ids=["ROOT", "MMIO"])
@pytest.mark.parametrize(
    ("base", "size", "found"),
    [
        (0, 16 * MIB, "OK"),
        (0, 16 * MIB + 1, "ACCESS_DENIED"),
        (16 * MIB, 1, "ACCESS_DENIED"),
        (2 * GIB - 1, 1, "ACCESS_DENIED"),
        (2 * GIB, 2 * GIB, "OK"),
        (2 * GIB, 2 * GIB + 1, "ACCESS_DENIED"),
        (1 << 45, PAGE, "ACCESS_DENIED"),
        (1 << 46, 1 << 61, "OK"),
        (0, TOP, "ACCESS_DENIED"),
        (REGISTERS, 0, "ACCESS_DENIED"),
        ((1 << 63) - PAGE, 1, "NOT_FOUND"),
        (1 << 63, (1 << 63) - 1, "NOT_FOUND"),
    ],
)
def test_device_memory_is_where_no_ram_is(parent: int, base: int, size: int, found: str) -> None:
    """Source: Zircon's filter of root resources: RAM is had from the kernel, not by address.

    Past what can be simulated a resource gets what it gets past a processor's address lines.
    """
    assert attempt(zx.root_resource(parent), MMIO, base, size) == found


@pytest.mark.parametrize(
    ("kind", "base", "found"),
    [
        (IRQ, 255, "OK"),
        (IRQ, 256, "NOT_FOUND"),
        (IOPORT, 0xFFFE, "OK"),
        (IOPORT, 0xFFFF, "NOT_FOUND"),
        (SMC, 63, "OK"),
        (SMC, 64, "NOT_FOUND"),
        (SYSTEM, zx.ZX_RSRC_SYSTEM_SAMPLING_BASE, "OK"),
        (SYSTEM, zx.ZX_RSRC_SYSTEM_COUNT, "NOT_FOUND"),
    ],
)
def test_each_kind_has_its_addresses(kind: int, base: int, found: str) -> None:
    """Source: Zircon: the allocator of a kind has what its platform has."""
    assert attempt(zx.root_resource(), kind, base, 1) == found


def test_a_part_is_within_the_byte() -> None:
    """Source: Zircon's tests. The whole pages of an MMIO resource are for physical VMOs only."""
    parent = create(zx.root_resource(), MMIO, REGISTERS + 0x200, 0x400)
    assert attempt(parent, MMIO, REGISTERS, 0x200) == "ACCESS_DENIED"
    assert attempt(parent, MMIO, REGISTERS + 0x600, 1) == "ACCESS_DENIED"
    half = create(parent, MMIO, REGISTERS + 0x200, 0x200)
    assert attempt(half, MMIO, REGISTERS + 0x200, 0x201) == "ACCESS_DENIED"
    assert attempt(half, MMIO, REGISTERS + 0x200, 0x200) == "OK"


# Exclusive ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [ROOT, MMIO], ids=["ROOT", "MMIO"])
@pytest.mark.parametrize(
    ("first", "second", "base", "size", "found"),
    [
        (0, 0, REGISTERS, PAGE, "OK"),
        (EXCLUSIVE, 0, REGISTERS, PAGE, "NOT_FOUND"),
        (0, EXCLUSIVE, REGISTERS, PAGE, "NOT_FOUND"),
        (EXCLUSIVE, EXCLUSIVE, REGISTERS, PAGE, "NOT_FOUND"),
        (EXCLUSIVE, 0, REGISTERS + PAGE - 1, PAGE, "NOT_FOUND"),
        (EXCLUSIVE, 0, REGISTERS - 1, 2, "NOT_FOUND"),
        (EXCLUSIVE, 0, REGISTERS - PAGE, 3 * PAGE, "NOT_FOUND"),
        (0, EXCLUSIVE, REGISTERS - PAGE, 3 * PAGE, "NOT_FOUND"),
        (EXCLUSIVE, EXCLUSIVE, REGISTERS + PAGE, PAGE, "OK"),
        (EXCLUSIVE, 0, REGISTERS - PAGE, PAGE, "OK"),
    ],
)
def test_an_exclusive_range_is_overlapped_by_none(
    parent: int, first: int, second: int, base: int, size: int, found: str
) -> None:
    """Source: ZX_RSRC_FLAG_EXCLUSIVE; NOT_FOUND from Zircon's tests."""
    root = zx.root_resource(parent)
    one = create(root, MMIO | first, REGISTERS, PAGE)
    assert info(one, zx.ZX_INFO_RESOURCE).flags == first
    assert attempt(root, MMIO | second, base, size) == found
    close(one)
    assert attempt(root, MMIO | second, base, size) == "OK"


def test_exclusive_ranges_of_two_kinds_are_strangers() -> None:
    """Port 4 and vector 4 have nothing in common."""
    root = zx.root_resource()
    create(root, IRQ | EXCLUSIVE, 4, 1)
    assert attempt(root, IOPORT | EXCLUSIVE, 4, 1) == "OK"


def test_a_shared_range_that_is_closed_once_of_two_stays_shared() -> None:
    """The last of those who have an address frees it."""
    root = zx.root_resource()
    one, two = create(root, MMIO, REGISTERS, PAGE), create(root, MMIO, REGISTERS, 2 * PAGE)
    close(one)
    assert attempt(root, MMIO | EXCLUSIVE, REGISTERS, PAGE) == "NOT_FOUND"
    close(two)
    assert attempt(root, MMIO | EXCLUSIVE, REGISTERS, PAGE) == "OK"


def test_what_a_process_had_exclusively_is_free_when_it_has_ended(kernel: pf.Kernel) -> None:
    """Process death closes its handles."""
    ended = pf.Process(kernel)
    with ended:
        create(zx.root_resource(), MMIO | EXCLUSIVE, REGISTERS, PAGE)
    assert attempt(zx.root_resource(), MMIO, REGISTERS, PAGE) == "NOT_FOUND"
    ended.exit()
    assert attempt(zx.root_resource(), MMIO, REGISTERS, PAGE) == "OK"


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "kept"),
    [
        (None, 0, ""),
        (b"ignored", 0, ""),
        (b"timer", 5, "timer"),
        (b"timer", 3, "tim"),
        (b"ti\0mer", 6, "ti"),
        (b"x" * 31, 31, "x" * 31),
        (b"x" * 40, 40, "x" * 31),
        (b"x" * 31, 1 << 20, "x" * 31),  # no more than 31 bytes are read
    ],
)
def test_31_bytes_of_a_name_are_kept(name: bytes | None, length: int, kept: str) -> None:
    """Source: zx_resource_create; ZX_MAX_NAME_LEN."""
    made = create(things.resource(), MMIO, REGISTERS, PAGE, name, length)
    assert info(made, zx.ZX_INFO_RESOURCE).name == kept


# Arguments that C could not pass ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, -1, OverflowError),
        (1, 1 << 32, OverflowError),
        (2, 1 << 64, OverflowError),
        (3, -1, OverflowError),
        (3, 1.0, TypeError),
        (4, 5, TypeError),
        (5, "5", TypeError),
        (6, [], TypeError),
    ],
)
def test_what_c_could_not_pass_is_pythons_error(
    at: int, value: Any, error: type[Exception]
) -> None:
    """Source: dialects: raised before anything is done."""
    args: list[Any] = [zx.root_resource(), MMIO, REGISTERS, PAGE, None, 0, Out()]
    args[at] = value
    with pytest.raises(error):
        zx.zx_resource_create(*args)
