"""The seam: declared argument types, ranges that nothing cuts, injected failures."""

from __future__ import annotations

import array
import ast
import ctypes
import errno
import inspect
import mmap
import os
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from pinfold.host import abi, calls, mm, probe, process_vm
from pinfold.testing import HostCalls
from pinfold.units import PAGE_SIZE, HostVa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS


def private(size: int) -> HostVa:
    return HostVa(calls.mmap(0, size, READ_WRITE, PRIVATE, -1, 0))


@pytest.fixture
def page() -> Iterator[HostVa]:
    """A page of private memory."""
    address = private(PAGE_SIZE)
    yield address
    mm.unmap(address, PAGE_SIZE)


# Argument types ----------------------------------------------------------------------------------


def foreign_functions() -> dict[str, Any]:
    """Every C function that host/calls.py holds, by name; those used in passing included."""
    kind: Any = type(ctypes.pythonapi.Py_IncRef).__mro__[1]  # ctypes' base of all functions
    found = {name: value for name, value in vars(calls).items() if isinstance(value, kind)}
    for library in [v for v in vars(calls).values() if isinstance(v, ctypes.CDLL)]:
        found |= {name: value for name, value in vars(library).items() if isinstance(value, kind)}
    return found


def test_every_foreign_function_declares_its_arguments() -> None:
    """ctypes passes an undeclared int as a C int: half of an address is lost without a word."""
    found = foreign_functions()
    assert {"mlock", "munmap", "memmove", "process_vm_readv"} <= found.keys()
    assert [name for name, function in found.items() if function.argtypes is None] == []


def test_an_address_above_32_bits_arrives_whole() -> None:
    """What was written there is there, and what is unmapped is that and nothing else."""
    address = HostVa(0x2123 << 32)
    try:
        mm.reserve_at(address, 3 * PAGE_SIZE)
    except OSError as error:
        pytest.skip(f"somebody lives at the address of this test: {error}")
    mm.protect(address, 3 * PAGE_SIZE, READ_WRITE)
    calls.memset(address, 0xA5, 3 * PAGE_SIZE)
    calls.memmove(address + 10, address + PAGE_SIZE, 5)
    assert process_vm.read(os.getpid(), address + 2 * PAGE_SIZE, 4) == b"\xa5" * 4
    assert mm.resident(address, 3 * PAGE_SIZE) == b"\x01\x01\x01"
    before = probe.process_memory().locked
    mm.lock(address, PAGE_SIZE)
    assert probe.process_memory().locked - before == PAGE_SIZE
    mm.unlock(address, PAGE_SIZE)
    mm.unmap(HostVa(address + PAGE_SIZE), PAGE_SIZE)
    assert probe.mapped_ranges(address, address + 3 * PAGE_SIZE) == [
        (address, address + PAGE_SIZE),
        (address + 2 * PAGE_SIZE, address + 3 * PAGE_SIZE),
    ]
    mm.unmap(address, 3 * PAGE_SIZE)


def test_an_offset_above_32_bits_arrives_whole() -> None:
    fd = mm.create_memfd("long", 8 << 32)
    try:
        mm.punch(fd, 0, 8 << 32)
        calls.pwrite(fd, b"there", 5 << 32)
        assert mm.data_runs(fd, 0, 8 << 32) == [(5 << 32, (5 << 32) + PAGE_SIZE)]
        address = mm.map_shared(fd, 5 << 32, PAGE_SIZE, abi.PROT_READ)
        assert bytes(calls.buffer_at(address, 5)) == b"there"
        mm.unmap(address, PAGE_SIZE)
    finally:
        calls.close(fd)


# Ranges -----------------------------------------------------------------------------------------

WHOLE: Final = 1 << 64


@pytest.mark.parametrize(
    ("above", "length"),
    [
        (WHOLE, PAGE_SIZE),
        (WHOLE, 0),
        (-WHOLE, PAGE_SIZE),
        (0, WHOLE + PAGE_SIZE),
        (0, WHOLE),
        (0, PAGE_SIZE - WHOLE),
        (0, -1),
    ],
)
def test_a_range_that_c_would_cut_is_refused(above: int, length: int, page: HostVa) -> None:
    """ctypes keeps 64 bits of an int and drops the others without a word.

    All but the last of these are good ranges once they are cut. None of the calls is made.
    """
    address, data = page + above, bytes(PAGE_SIZE)
    acts: list[Callable[[], object]] = [
        lambda: calls.mmap(address, length, READ_WRITE, PRIVATE, -1, 0),
        lambda: calls.munmap(address, length),
        lambda: calls.mprotect(address, length, READ_WRITE),
        lambda: calls.madvise(address, length, abi.MADV_DONTNEED),
        lambda: calls.mlock(address, length),
        lambda: calls.munlock(address, length),
        lambda: calls.mincore(address, length, 1),
        lambda: process_vm.read(os.getpid(), address, length),
    ]
    if above:
        acts.append(lambda: process_vm.write(os.getpid(), address, data))
    for act in acts:
        with HostCalls() as seen, pytest.raises(OSError, match="Invalid argument") as caught:
            act()
        assert (caught.value.errno, seen.names) == (errno.EINVAL, [])


def test_a_range_that_ends_beyond_every_address_is_refused() -> None:
    """It would wrap around to the first ones."""
    with pytest.raises(OSError, match="Invalid argument"):
        calls.munmap(WHOLE - PAGE_SIZE, 2 * PAGE_SIZE)


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (1 << 63, 1), (WHOLE, 1), (0, -1), (0, 1 << 63), (0, WHOLE + 1)]
)
def test_an_offset_that_c_would_cut_is_refused(offset: int, length: int) -> None:
    """A file offset has 63 bits. Nothing is punched, and nothing is mapped."""
    fd = mm.create_memfd("offsets", 2 * PAGE_SIZE)
    try:
        calls.pwrite(fd, b"kept", 0)
        with HostCalls() as seen, pytest.raises(OSError, match="Invalid argument") as caught:
            mm.punch(fd, offset, length)
        assert (caught.value.errno, seen.names) == (errno.EINVAL, [])
        if length == 1:
            with pytest.raises(OSError, match="Invalid argument"):
                mm.map_shared(fd, offset, PAGE_SIZE, abi.PROT_READ)
        assert calls.pread(fd, 4, 0) == b"kept"
    finally:
        calls.close(fd)


# Injected failures -------------------------------------------------------------------------------

FIOCLEX: Final = 0x5451  # close on exec: harmless, and any file takes it

NO_CALL: Final = {
    *("set_interceptor", "memmove", "memset", "buffer_at", "address_of"),
    *("declare", "declare_syscall", "refused", "unfit"),
}
"""Functions of the seam that make no call that could fail."""


def test_every_call_asks_the_interceptor() -> None:
    """A call that passed it by would be one that no fault test can fail."""
    found = []
    for module in (calls, process_vm):
        tree = ast.parse(inspect.getsource(module))
        found += [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    asking = {n.name for n in found if re.search(r"\b(_interceptor|intercept)\(", ast.unparse(n))}
    assert {node.name for node in found} - asking == NO_CALL


class EveryCall:
    """Each call of the seam, harmless, by the name that the interceptor sees, in an order."""

    def __init__(self, folder: Path) -> None:
        self.page, self.gone = private(PAGE_SIZE), private(PAGE_SIZE)
        (folder / "file").write_bytes(b"x" * 100)
        self.fd = os.open(folder / "file", os.O_RDWR)
        self.closing = os.dup(self.fd)
        self.made: list[int] = []

    def acts(self) -> dict[str, Callable[[], object]]:
        page, fd, pid = self.page, self.fd, os.getpid()
        return {
            "mmap": lambda: calls.mmap(page, PAGE_SIZE, 3, PRIVATE | abi.MAP_FIXED, -1, 0),
            "mlock": lambda: calls.mlock(page, PAGE_SIZE),
            "munlock": lambda: calls.munlock(page, PAGE_SIZE),
            "mincore": lambda: calls.mincore(page, PAGE_SIZE, 1),
            "mprotect": lambda: calls.mprotect(page, PAGE_SIZE, READ_WRITE),
            "madvise": lambda: calls.madvise(page, PAGE_SIZE, abi.MADV_POPULATE_WRITE),
            "process_vm_readv": lambda: process_vm.read(pid, page, 8),
            "process_vm_writev": lambda: process_vm.write(pid, page, b"12345678"),
            "memfd_create": lambda: self.made.append(calls.memfd_create("m", abi.MFD_CLOEXEC)),
            "open": lambda: self.made.append(calls.open_file("/proc/self/maps", os.O_RDONLY)),
            "dup": lambda: self.made.append(calls.dup(fd)),
            "fstat": lambda: calls.fstat(fd),
            "ftruncate": lambda: calls.ftruncate(fd, 200),
            "lseek": lambda: calls.lseek(fd, 0, os.SEEK_SET),
            "pwrite": lambda: calls.pwrite(fd, b"abc", 0),
            "pread": lambda: calls.pread(fd, 3, 0),
            "fallocate": lambda: calls.fallocate(fd, 0, 0, PAGE_SIZE),
            "fcntl": lambda: calls.fcntl(fd, 1),
            "ioctl": lambda: calls.ioctl(fd, FIOCLEX, bytearray(8)),
            "munmap": lambda: calls.munmap(self.gone, PAGE_SIZE),
            "close": lambda: calls.close(self.closing),
        }

    def cleanup(self) -> None:
        mm.unmap(self.page, PAGE_SIZE)
        for fd in (self.fd, *self.made):
            os.close(fd)


@pytest.fixture
def every_call(tmp_path: Path) -> Iterator[EveryCall]:
    made = EveryCall(tmp_path)
    yield made
    made.cleanup()


def test_the_interceptor_sees_every_call_in_order(every_call: EveryCall) -> None:
    acts = every_call.acts()
    with HostCalls() as seen:
        for act in acts.values():
            act()
    assert seen.names == list(acts)


def test_an_injected_failure_reaches_the_caller_as_the_kernels_own(every_call: EveryCall) -> None:
    """The very exception; and close and munmap have been done when it comes, the others have not.

    Linux releases a descriptor whatever close() returns.
    """
    acts = every_call.acts()
    injected = OSError(errno.ENOSPC, "injected")

    def interceptor(name: str) -> None:
        assert name in acts
        raise injected

    former = calls.set_interceptor(interceptor)
    try:
        for act in acts.values():
            with pytest.raises(OSError, match="injected") as caught:
                act()
            assert caught.value is injected
    finally:
        assert calls.set_interceptor(former) is interceptor
    assert every_call.made == []
    assert os.fstat(every_call.fd).st_size == 100
    assert probe.mapped_ranges(every_call.gone, every_call.gone + PAGE_SIZE) == []
    with pytest.raises(OSError, match="Bad file"):
        os.close(every_call.closing)


# Single calls ------------------------------------------------------------------------------------


def test_process_vm_reads_and_writes_where_it_may(page: HostVa) -> None:
    """Source: process_vm_readv(2). A bad address is an error, not a signal."""
    pid = os.getpid()
    assert process_vm.write(pid, page + 4, b"abcd") == 4
    assert process_vm.read(pid, page, 10) == b"\0\0\0\0abcd\0\0"
    mm.protect(page, PAGE_SIZE, abi.PROT_NONE)
    for act in (
        lambda: process_vm.read(pid, page, 1),
        lambda: process_vm.write(pid, page, b"x"),
        lambda: process_vm.read(pid, 0, 1),
    ):
        with pytest.raises(OSError, match="Bad address") as caught:
            act()
        assert caught.value.errno == errno.EFAULT


def test_process_vm_stops_at_the_end_of_the_memory() -> None:
    """Source: process_vm_readv(2), partial transfers: a whole iovec or nothing, by the page."""
    address = private(2 * PAGE_SIZE)
    mm.unmap(HostVa(address + PAGE_SIZE), PAGE_SIZE)
    found = process_vm.read(os.getpid(), address + PAGE_SIZE - 8, 16)
    assert found == bytes(8)
    mm.unmap(address, PAGE_SIZE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"immutable",
        lambda: bytearray(10),
        lambda: array.array("i", [1, 2]),
        lambda: mmap.mmap(-1, PAGE_SIZE),
        lambda: np.arange(10),
        lambda: np.zeros((3, 4), order="F"),
        lambda: (ctypes.c_char * 12)(),
    ],
)
def test_the_address_of_a_buffer_is_where_its_bytes_are(make: Callable[[], Any]) -> None:
    made = make()
    view = memoryview(made)
    assert ctypes.string_at(calls.address_of(view), view.nbytes) == view.tobytes(order="A")
    view.release()
    if isinstance(made, mmap.mmap):
        made.close()  # BufferError if the address kept it lent


def test_a_buffer_in_pieces_has_no_address() -> None:
    with pytest.raises(BufferError):
        calls.address_of(memoryview(bytes(10))[::2])


def test_a_buffer_at_an_address_is_that_memory(page: HostVa) -> None:
    view = memoryview(calls.buffer_at(page, 8)).cast("B")
    view[:3] = b"abc"
    assert process_vm.read(os.getpid(), page, 4) == b"abc\0"
    assert calls.address_of(view) == page


def test_opened_and_copied_descriptors_do_not_outlive_exec(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    opened = calls.open_file(str(path), os.O_RDONLY)
    copied = calls.dup(opened)
    made = calls.memfd_create("m", abi.MFD_CLOEXEC)
    for fd in (opened, copied, made):
        assert not os.get_inheritable(fd)
        calls.close(fd)


def test_an_errno_is_the_kernels_own() -> None:
    for act, number in (
        (lambda: calls.mmap(1, PAGE_SIZE, 1, PRIVATE | abi.MAP_FIXED, -1, 0), errno.EINVAL),
        (lambda: calls.mmap(0, 0, 1, PRIVATE, -1, 0), errno.EINVAL),
        (lambda: calls.munmap(1, PAGE_SIZE), errno.EINVAL),
        (lambda: calls.mincore(1, PAGE_SIZE, 1), errno.EINVAL),
        (lambda: calls.fallocate(-1, 0, 0, 1), errno.EBADF),
        (lambda: process_vm.read(2**22 + 1, 0, 1), errno.ESRCH),
    ):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            act()
        assert caught.value.errno == number
