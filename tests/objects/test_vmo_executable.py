"""Executable memory: who may have it, and code in it really runs."""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, BadHandle, OutOfRange, WrongType
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books
from tests.user_memory import store

from .pages import PAGE, SNAPSHOTS, device_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

C = VmoChild
R = pf.Right
READ, WRITE, EXECUTE = (
    pf.VmOption.PERM_READ,
    pf.VmOption.PERM_WRITE,
    pf.VmOption.PERM_EXECUTE,
)

pytestmark = pytest.mark.usefixtures("process")


def returning(value: int) -> bytes:
    """A function of no arguments that returns a small number, as this machine's code."""
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return b"\xb8" + struct.pack("<I", value) + b"\xc3"  # mov eax, value; ret
    if machine in ("aarch64", "arm64"):
        return struct.pack("<II", 0x5280_0000 | value << 5, 0xD65F_03C0)  # mov w0, #value; ret
    pytest.skip(f"no code for {machine} here")


def run(address: int) -> int:
    """Call the code at an address."""
    found: int = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return found


@pytest.fixture
def vmex(process: pf.Process) -> Iterator[pf.Resource]:
    """The authority over executable memory."""
    del process
    with pf.Resource(1, 1, kind=5, name="vmex") as made:
        yield made


@pytest.fixture
def code(vmex: pf.Resource) -> Iterator[pf.Vmo]:
    """Two pages; at the start of each is a function that returns 41, or 42."""
    plain = pf.Vmo(2 * PAGE, name="code")
    plain.write(returning(41))
    plain.write(returning(42), PAGE)
    with plain.replace_as_executable(vmex) as made:
        yield made


# Running ------------------------------------------------------------------------------------------


def test_code_runs(code: pf.Vmo, process: pf.Process) -> None:
    """Source: zx_vmo_replace_as_executable: what is mapped with EXECUTE can be called."""
    with process.root.map(code, READ | EXECUTE) as mapping:
        assert run(mapping.address) == 41
        assert run(mapping.address + PAGE) == 42


def test_code_that_is_written_through_a_mapping_runs(code: pf.Vmo, process: pf.Process) -> None:
    """First written, then protected: never both at once."""
    with process.root.map(code, READ | WRITE) as mapping:
        assert store(mapping.address, returning(7))
        process.root.protect(mapping.address, mapping.size, READ | EXECUTE)
        assert not store(mapping.address, returning(8))
        assert run(mapping.address) == 7
        with process.root.map(code, READ | WRITE) as other:
            assert store(other.address + PAGE, returning(9))
        assert run(mapping.address + PAGE) == 9


@pytest.mark.parametrize("kind", [C.SLICE, C.REFERENCE])
def test_code_runs_through_a_slice_and_a_reference(
    code: pf.Vmo, process: pf.Process, kind: C
) -> None:
    """Source: zx_vmo_create_child: both keep EXECUTE."""
    offset, size = (PAGE, PAGE) if kind is C.SLICE else (0, 0)
    with (
        code.child(kind, offset, size) as made,
        process.root.map(made, READ | EXECUTE) as mapping,
    ):
        assert R.EXECUTE in made.rights
        assert run(mapping.address) == (42 if kind is C.SLICE else 41)


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_a_snapshot_has_to_be_made_executable_again(
    code: pf.Vmo, vmex: pf.Resource, process: pf.Process, kind: C
) -> None:
    """Source: zx_vmo_create_child: a writable snapshot has no EXECUTE; one with NO_WRITE has."""
    copy = code.child(kind, 0, 2 * PAGE)
    with pytest.raises(AccessDenied):
        process.root.map(copy, READ | EXECUTE)
    code.write(returning(5))
    with (
        copy.replace_as_executable(vmex) as made,
        process.root.map(made, READ | EXECUTE) as mapping,
    ):
        assert run(mapping.address) == 41
    with (
        code.child(kind | C.NO_WRITE, 0, 2 * PAGE) as fixed,
        process.root.map(fixed, READ | EXECUTE) as mapping,
    ):
        assert run(mapping.address) == 5


def test_a_device_writes_code_that_runs(code: pf.Vmo, bti: pf.Bti, process: pf.Process) -> None:
    """The memory is one: a boot loader in three lines."""
    with (
        bti.pin(code, perms=pf.Perm.WRITE) as pmt,
        process.root.map(code, READ | EXECUTE) as mapping,
    ):
        bti.master().write(int(pmt.addrs[0]), returning(99))
        assert run(mapping.address) == 99


# Who may ------------------------------------------------------------------------------------------


def test_without_execute_nothing_is_mapped_executable(vmo: pf.Vmo, process: pf.Process) -> None:
    """Source: zx_vmar_map, zx_vmar_protect, ACCESS_DENIED: now or later."""
    with pytest.raises(AccessDenied) as caught:
        process.root.map(vmo, READ | EXECUTE)
    assert caught.value.missing == R.EXECUTE
    with process.root.map(vmo, READ) as mapping, pytest.raises(AccessDenied):
        process.root.protect(mapping.address, PAGE, READ | EXECUTE)


def test_a_handle_without_execute_to_code_cannot_run_it(code: pf.Vmo, process: pf.Process) -> None:
    """It is the handle that has the right, and the mapping that remembers it."""
    with code.duplicate(code.rights & ~R.EXECUTE) as less, pytest.raises(AccessDenied):
        process.root.map(less, READ | EXECUTE)
    mapping = process.root.map(code, READ)
    code.close()
    process.root.protect(mapping.address, mapping.size, READ | EXECUTE)
    assert run(mapping.address) == 41
    mapping.unmap()


def test_the_handle_is_replaced(vmex: pf.Resource) -> None:
    """Source: zx_vmo_replace_as_executable: the rights there were, and EXECUTE."""
    vmo = pf.Vmo(PAGE, resizable=True)
    less = vmo.replace(R.READ | R.RESIZE)
    made = less.replace_as_executable(vmex)
    assert less.closed
    assert made.rights == R.READ | R.RESIZE | R.EXECUTE
    again = made.replace_as_executable()
    assert again.rights == R.READ | R.RESIZE | R.EXECUTE
    assert again.statistics().handles == 1
    again.close()


def test_device_memory_can_be_made_executable(vmex: pf.Resource) -> None:
    """Source: zx_vmo_replace_as_executable: a memory object of whatever kind."""
    with device_memory() as plain, plain.replace_as_executable(vmex) as made:
        assert R.EXECUTE in made.rights


@pytest.mark.parametrize("wrong", ["closed", "a Vmo", "device memory", "hypervisor"])
def test_the_authority_is_looked_at_and_the_handle_is_gone(kernel: pf.Kernel, wrong: str) -> None:
    """Source: zx_vmo_replace_as_executable: after any error but a handle that is no handle."""
    vmo = pf.Vmo(PAGE)
    before = kernel.statistics().objects
    error: type[Exception] = WrongType
    authority: Any
    if wrong == "closed":
        authority, error = pf.Resource(1, 1, kind=5), BadHandle
        authority.close()
    elif wrong == "a Vmo":
        authority = pf.Vmo(PAGE)
    elif wrong == "device memory":
        authority = pf.Resource(0xC000_0000, PAGE)
    else:
        authority, error = pf.Resource(0, 1, kind=5), OutOfRange
    with pytest.raises(error):
        vmo.replace_as_executable(authority)
    assert vmo.closed
    authority.close()
    assert kernel.statistics().objects == before - 1
    check_books(kernel)


def test_a_closed_handle_is_not_replaced(vmex: pf.Resource) -> None:
    """Source: zx_vmo_replace_as_executable, BAD_HANDLE; whatever the authority is."""
    vmo = pf.Vmo(PAGE)
    vmo.close()
    for authority in (vmex, None, vmo):
        with pytest.raises(BadHandle):
            vmo.replace_as_executable(authority)
