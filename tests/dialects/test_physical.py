"""zx_vmo_create_physical: which resource gives which addresses, and what is at them.

Source: zx_vmo_create_physical; Zircon's kernel and its tests. The order of checks is in the tables
of the zx_vmo calls.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.objects.resource import ResourceKind
from pinfold.units import GIB, MIB

from . import things
from .refused import name_of
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("process")

MMIO = zx.ZX_RSRC_KIND_MMIO
BASE = 0xE000_0000
TOP = 1 << 64


def mmio(base: int = BASE, size: int = 4 * PAGE, parent: int | None = None) -> int:
    """A resource over device memory."""
    parent = zx.root_resource() if parent is None else parent
    made: int = ok(zx.zx_resource_create, parent, MMIO, base, size, None, 0)
    return made


def physical(resource: int, paddr: int = BASE, size: int = PAGE) -> int:
    """A physical VMO."""
    made: int = ok(zx.zx_vmo_create_physical, resource, paddr, size)
    return made


def shown(vmo: int, size: int = PAGE) -> int:
    """Where a mapping of it is."""
    options = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE
    made: int = ok(zx.zx_vmar_map, zx.zx_vmar_root_self(), options, 0, vmo, 0, size)
    return made


def store(address: int, data: bytes) -> None:
    """Write through a mapping, as the CPU does."""
    ctypes.memmove(address, data, len(data))


def load(address: int, size: int) -> bytes:
    """Read through a mapping."""
    return ctypes.string_at(address, size)


# The resource -------------------------------------------------------------------------------------


def system() -> int:
    """A SYSTEM resource, which has no addresses to map."""
    made: int = ok(zx.zx_resource_create, zx.root_resource(), zx.ZX_RSRC_KIND_SYSTEM, 1, 1, None, 0)
    return made


@pytest.mark.parametrize(
    ("resource", "paddr", "size", "found"),
    [
        (zx.root_resource, BASE, PAGE, "WRONG_TYPE"),
        (system, BASE, PAGE, "WRONG_TYPE"),
        (lambda: zx.root_resource(ResourceKind.IRQ), BASE, PAGE, "WRONG_TYPE"),
        (mmio, BASE, 4 * PAGE, "OK"),
        (mmio, BASE + PAGE, 4 * PAGE, "OUT_OF_RANGE"),
        (mmio, BASE - PAGE, PAGE, "OUT_OF_RANGE"),
        (mmio, BASE + 4 * PAGE, PAGE, "OUT_OF_RANGE"),
        (mmio, BASE + 3 * PAGE + 1, PAGE, "OUT_OF_RANGE"),
        (mmio, BASE + 1, PAGE, "INVALID_ARGS"),
        (mmio, TOP - PAGE, PAGE, "OUT_OF_RANGE"),
        (mmio, TOP - PAGE, 2 * PAGE, "OUT_OF_RANGE"),
        (mmio, TOP - 1, PAGE, "OUT_OF_RANGE"),
        (lambda: things.without(zx.ZX_DEFAULT_RESOURCE_RIGHTS, mmio()), BASE, PAGE, "OK"),
        (lambda: mmio(BASE, 1), BASE, PAGE, "OK"),
        (lambda: mmio(BASE, PAGE + 1), BASE, 2 * PAGE, "OK"),
        (lambda: mmio(BASE + PAGE - 1, 2), BASE, 2 * PAGE, "OK"),
        (lambda: mmio(BASE + PAGE // 2, PAGE // 4), BASE, PAGE, "OK"),
        (lambda: mmio(BASE + PAGE // 2, PAGE // 4), BASE, 2 * PAGE, "OUT_OF_RANGE"),
        (lambda: mmio(BASE + PAGE // 2, PAGE // 4), BASE + 1, PAGE, "OUT_OF_RANGE"),
    ],
)
def test_which_resource_gives_which_addresses(
    resource: Callable[[], int], paddr: int, size: int, found: str
) -> None:
    """Source: Zircon's kernel: the resource stands for the pages that it touches; no right is
    needed; the range is looked at before the alignment of the address."""
    assert name_of(zx.zx_vmo_create_physical(resource(), paddr, size, Out())) == found


@pytest.mark.parametrize(
    ("paddr", "size", "found"),
    [
        (0, 16 * MIB, "OK"),
        (0, 16 * MIB + PAGE, "ACCESS_DENIED"),
        (16 * MIB, PAGE, "ACCESS_DENIED"),
        (16 * MIB + 1, PAGE, "ACCESS_DENIED"),
        (2 * GIB - PAGE, PAGE, "ACCESS_DENIED"),
        (2 * GIB, PAGE, "OK"),
        (4 * GIB, PAGE, "ACCESS_DENIED"),
        ((1 << 46) - PAGE, 2 * PAGE, "ACCESS_DENIED"),
        (1 << 46, PAGE, "OK"),
        (1 << 62, PAGE, "OK"),
        ((1 << 62) + 1, PAGE, "INVALID_ARGS"),
        ((1 << 63) - 2 * PAGE, PAGE, "OK"),
        ((1 << 63) - PAGE, PAGE, "OUT_OF_RANGE"),
        (TOP - PAGE, PAGE, "OUT_OF_RANGE"),
        (TOP - PAGE, 2 * PAGE, "INVALID_ARGS"),
        (0, TOP - PAGE, "ACCESS_DENIED"),
    ],
)
def test_all_of_device_memory_is_not_ram(paddr: int, size: int, found: str) -> None:
    """Source: Zircon's kernel: denied ranges, then alignment, then overflow.

    OUT_OF_RANGE past 2**63 is ours: no file can simulate it.
    """
    whole = zx.root_resource(MMIO)
    assert name_of(zx.zx_vmo_create_physical(whole, paddr, size, Out())) == found


def test_the_registers_of_an_iommu_are_denied() -> None:
    """Source: Zircon's kernel, as RAM is."""
    registers = 0xFED9_0000
    descriptor = registers.to_bytes(8, "little") + b"\0\0\1" + bytes(5)
    root, whole = zx.root_resource(), zx.root_resource(MMIO)
    physical(whole, registers)
    ok(zx.zx_iommu_create, root, zx.ZX_IOMMU_TYPE_INTEL, descriptor, len(descriptor))
    for paddr, found in ((registers, "ACCESS_DENIED"), (registers + PAGE, "OK")):
        assert name_of(zx.zx_vmo_create_physical(whole, paddr, PAGE, Out())) == found


# The object ---------------------------------------------------------------------------------------


def test_what_a_physical_vmo_is() -> None:
    """Source: zx_vmo_create_physical; no EXECUTE, as in Zircon's kernel."""
    vmo = physical(mmio())
    found = info(vmo, zx.ZX_INFO_VMO)
    assert found.flags == zx.ZX_INFO_VMO_CONTIGUOUS | zx.ZX_INFO_VMO_VIA_HANDLE
    assert found.cache_policy == zx.ZX_CACHE_POLICY_UNCACHED
    assert found.handle_rights == zx.ZX_DEFAULT_VMO_RIGHTS
    assert found.size_bytes == PAGE


def test_the_resource_may_go_first() -> None:
    """Source: Zircon: after creation there is no relation between the two."""
    resource = mmio()
    vmo = physical(resource)
    assert zx.zx_handle_close(resource) == zx.ZX_OK
    at = shown(vmo)
    store(at, b"kept")
    assert load(at, 4) == b"kept"


def test_an_exclusive_resource_may_go_while_its_memory_is_mapped() -> None:
    """Source: Zircon: its addresses are free at once, and both see the same bytes."""
    options, root = MMIO | zx.ZX_RSRC_FLAG_EXCLUSIVE, zx.root_resource()
    one = ok(zx.zx_resource_create, root, options, BASE, PAGE, None, 0)
    first = shown(physical(one))
    assert zx.zx_handle_close(one) == zx.ZX_OK
    two = ok(zx.zx_resource_create, root, options, BASE, PAGE, None, 0)
    store(first, b"same")
    assert load(shown(physical(two)), 4) == b"same"


def test_an_address_shows_the_same_bytes_whatever_the_resource() -> None:
    """Source: the bus: device memory is found by address."""
    big, small = mmio(), mmio(BASE + PAGE, PAGE)
    child = mmio(BASE + PAGE, 16, parent=big)
    whole = shown(physical(big, BASE, 4 * PAGE), 4 * PAGE)
    parts = [
        shown(physical(resource, BASE + PAGE))
        for resource in (small, child, zx.root_resource(MMIO))
    ]
    store(parts[0], b"bar")
    for part in parts:
        assert load(part, 3) == b"bar"
    assert load(whole, PAGE + 3)[PAGE:] == b"bar"
    assert load(whole, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("options", [zx.ZX_BTI_CONTIGUOUS, 0])
def test_a_device_meets_what_the_cpu_wrote(options: int, process: pf.Process) -> None:
    """On a stub another device's registers are where they are; through an IOMMU, where granted."""
    vmo = physical(mmio(), BASE + PAGE)
    store(shown(vmo), b"bell")
    for iommu, at in ((pf.open_bus("stub"), BASE + PAGE), (pf.open_bus("sim"), None)):
        bti, addrs = ok(zx.zx_bti_create, number_of(iommu), 0, 1), bytearray(8)
        token = ok(zx.zx_bti_pin, bti, zx.ZX_BTI_PERM_READ | options, vmo, 0, PAGE, addrs, 1)
        found = int.from_bytes(addrs, "little")
        assert at is None or found == at
        target = process.handles[bti].object
        assert isinstance(target, pf.objects.initiator.BtiObject)
        assert target.space.master().read(found, 4) == b"bell"
        assert zx.zx_pmt_unpin(token) == zx.ZX_OK


def test_a_real_window_is_what_everybody_finds(tmp_path: Path) -> None:
    """A BAR or /dev/mem in earnest, a file here: through a resource made from it, or another."""
    path = tmp_path / "bar"
    path.write_bytes(bytes(PAGE) + b"status" + bytes(2 * PAGE - 6))
    with path.open("r+b") as file:
        window = number_of(
            pf.Resource(BASE, 2 * PAGE, fd=file.fileno(), fd_offset=PAGE, name="bar")
        )
    child, stranger = mmio(BASE, PAGE, parent=window), mmio()
    assert zx.zx_handle_close(window) == zx.ZX_OK
    for resource in (child, stranger):
        assert load(shown(physical(resource)), 6) == b"status"
    store(shown(physical(child)), b"STATUS")
    assert path.read_bytes()[PAGE : PAGE + 6] == b"STATUS"
    # A range that is in the window and out of it is no memory of one kind.
    found = zx.zx_vmo_create_physical(stranger, BASE + PAGE, 2 * PAGE, Out())
    assert name_of(found) == "OUT_OF_RANGE"
    assert load(shown(physical(stranger, BASE + 2 * PAGE)), 1) == b"\0"
