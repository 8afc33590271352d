"""Host memory: each function does what it says, and refuses as it says."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pinfold.host import abi, calls, mm, probe, process_vm
from pinfold.units import PAGE_SIZE, HostVa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGES = 8
SIZE = PAGES * PAGE_SIZE
READ_WRITE = abi.PROT_READ | abi.PROT_WRITE


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        yield
    assert caught.value.errno in numbers


@pytest.fixture
def fd() -> Iterator[int]:
    """A memfd of eight pages, nothing committed."""
    made = mm.create_memfd("test", SIZE)
    yield made
    calls.close(made)


@pytest.fixture
def shared(fd: int) -> Iterator[HostVa]:
    """All of it, mapped readable and writable."""
    address = mm.map_shared(fd, 0, SIZE, READ_WRITE)
    yield address
    mm.unmap(address, SIZE)


def at(address: HostVa, page: int) -> HostVa:
    return HostVa(address + page * PAGE_SIZE)


# Files that hold memory --------------------------------------------------------------------------


def test_a_memfd_has_its_size_and_nothing_committed(fd: int) -> None:
    found = calls.fstat(fd)
    assert (found.st_size, found.st_blocks) == (SIZE, 0)
    assert mm.data_runs(fd, 0, SIZE) == []


@pytest.mark.parametrize("name", ["", "x" * 249, "x" * 250, "ä" * 200, "日" * 300])
def test_a_memfd_takes_any_name(name: str) -> None:
    """Source: memfd_create(2): 249 bytes; cut, and never in the middle of a character."""
    made = mm.create_memfd(name, 0)
    shown = os.readlink(f"/proc/self/fd/{made}").removeprefix("/memfd:").removesuffix(" (deleted)")
    calls.close(made)
    assert name.startswith(shown)
    assert shown == name or 245 < len(shown.encode()) <= 249


def test_seals_add_up_and_bind(fd: int) -> None:
    """Source: fcntl(2), file sealing."""
    mm.seal(fd, abi.F_SEAL_SHRINK)
    mm.seal(fd, abi.F_SEAL_GROW)
    assert (mm.seals_of(fd) or 0) & 0xF == abi.F_SEAL_SHRINK | abi.F_SEAL_GROW
    for size in (SIZE - PAGE_SIZE, SIZE + PAGE_SIZE):
        with refused(errno.EPERM):
            calls.ftruncate(fd, size)
    mm.seal(fd, abi.F_SEAL_WRITE)
    with refused(errno.EPERM):
        calls.pwrite(fd, b"x", 0)
    with refused(errno.EPERM):
        mm.punch(fd, 0, PAGE_SIZE)


def test_a_write_seal_waits_for_writable_mappings(fd: int, shared: HostVa) -> None:
    """Source: fcntl(2), EBUSY. A seal on future writes does not: old mappings go on writing."""
    with refused(errno.EBUSY):
        mm.seal(fd, abi.F_SEAL_WRITE)
    mm.seal(fd, abi.F_SEAL_FUTURE_WRITE)
    calls.memset(shared, 1, 1)
    with refused(errno.EPERM):
        mm.map_shared(fd, 0, SIZE, READ_WRITE)
    mm.seal(fd, abi.F_SEAL_SEAL)
    with refused(errno.EPERM):
        mm.seal(fd, abi.F_SEAL_GROW)


def test_an_ordinary_file_cannot_be_sealed(tmp_path: Path) -> None:
    """Source: fcntl(2), F_ADD_SEALS EINVAL; on a tmpfs it is as a memfd sealed against seals."""
    (tmp_path / "file").write_bytes(b"x")
    plain = calls.open_file(str(tmp_path / "file"), os.O_RDWR)
    seals = mm.seals_of(plain)
    assert seals in (None, abi.F_SEAL_SEAL)
    with refused(errno.EINVAL if seals is None else errno.EPERM):
        mm.seal(plain, abi.F_SEAL_GROW)
    calls.close(plain)


def test_data_runs_are_where_data_was_written_and_not_punched(fd: int) -> None:
    """Source: lseek(2), SEEK_DATA; fallocate(2), PUNCH_HOLE."""
    calls.pwrite(fd, b"x" * 3 * PAGE_SIZE, PAGE_SIZE)
    calls.pwrite(fd, b"x", 6 * PAGE_SIZE)
    assert mm.data_runs(fd, 0, SIZE) == [
        (PAGE_SIZE, 4 * PAGE_SIZE),
        (6 * PAGE_SIZE, 7 * PAGE_SIZE),
    ]
    assert mm.data_runs(fd, 2 * PAGE_SIZE, 3 * PAGE_SIZE) == [(2 * PAGE_SIZE, 3 * PAGE_SIZE)]
    assert mm.data_runs(fd, 4 * PAGE_SIZE, 6 * PAGE_SIZE) == []
    mm.punch(fd, 2 * PAGE_SIZE, PAGE_SIZE)
    assert mm.data_runs(fd, 0, 5 * PAGE_SIZE) == [
        (PAGE_SIZE, 2 * PAGE_SIZE),
        (3 * PAGE_SIZE, 4 * PAGE_SIZE),
    ]
    assert calls.pread(fd, 1, 2 * PAGE_SIZE) == b"\0"


def test_a_hole_can_be_punched_in_locked_memory(fd: int, shared: HostVa) -> None:
    """The kernel takes no notice of locks: why pinfold's own counts must. Source: fallocate(2)."""
    calls.memset(shared, 7, SIZE)
    mm.lock(shared, SIZE)
    with refused(errno.EINVAL):
        mm.remove(shared, SIZE)
    with refused(errno.EINVAL):
        mm.page_out(shared, SIZE)
    mm.punch(fd, 0, PAGE_SIZE)
    assert bytes(calls.buffer_at(shared, 2)) == b"\0\0"
    mm.unlock(shared, SIZE)
    mm.remove(shared, SIZE)
    assert mm.data_runs(fd, 0, SIZE) == []


# Addresses that show memory ----------------------------------------------------------------------


def test_a_reservation_holds_addresses_and_no_memory() -> None:
    before = probe.process_memory()
    address = mm.reserve(1 << 36)
    assert probe.process_memory().size - before.size == 1 << 36
    with refused(errno.EFAULT):
        process_vm.read(os.getpid(), address, 1)
    with refused(errno.EEXIST):
        mm.reserve_at(at(address, 1), PAGE_SIZE)
    mm.unmap(address, 1 << 36)
    mm.reserve_at(address, SIZE)
    assert probe.mapped_ranges(address, address + 2 * SIZE) == [(address, address + SIZE)]
    mm.unmap(address, SIZE)


def test_a_mapping_goes_over_a_reservation_and_back(fd: int) -> None:
    calls.pwrite(fd, b"third", 2 * PAGE_SIZE)
    address = mm.reserve(SIZE)
    mm.map_shared_at(at(address, 1), fd, 2 * PAGE_SIZE, PAGE_SIZE, abi.PROT_READ)
    assert bytes(calls.buffer_at(at(address, 1), 5)) == b"third"
    mm.clear_to_reserved(address, SIZE)
    with refused(errno.EFAULT):
        process_vm.read(os.getpid(), at(address, 1), 1)
    mm.unmap(address, SIZE)


def test_a_refused_mapping_leaves_the_old_one(fd: int, shared: HostVa) -> None:
    """Source: mmap(2), EACCES. A descriptor opened for reading cannot be mapped for writing."""
    calls.memset(shared, 9, 1)
    reading = calls.open_file(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with refused(errno.EACCES):
        mm.map_shared_at(shared, reading, 0, SIZE, READ_WRITE)
    calls.close(reading)
    assert bytes(calls.buffer_at(shared, 1)) == b"\x09"


def test_protection_binds(shared: HostVa) -> None:
    mm.protect(shared, PAGE_SIZE, abi.PROT_READ)
    with refused(errno.EFAULT):
        process_vm.write(os.getpid(), shared, b"x")
    mm.protect(shared, PAGE_SIZE, abi.PROT_NONE)
    with refused(errno.EFAULT):
        process_vm.read(os.getpid(), shared, 1)
    mm.protect(shared, PAGE_SIZE, READ_WRITE)
    assert process_vm.write(os.getpid(), shared, b"x") == 1


@pytest.mark.parametrize("populate", [mm.populate_read, mm.populate_write])
def test_populating_commits_the_pages_of_a_memfd(
    populate: Callable[[HostVa, int], None], fd: int, shared: HostVa
) -> None:
    """Source: madvise(2). Reading commits too: shared memory has no page of zeros."""
    populate(at(shared, 2), 3 * PAGE_SIZE)
    assert mm.data_runs(fd, 0, SIZE) == [(2 * PAGE_SIZE, 5 * PAGE_SIZE)]
    assert mm.resident(shared, SIZE) == bytes([0, 0, 1, 1, 1, 0, 0, 0])


def unaligned(address: HostVa, fd: int) -> HostVa:
    del fd
    return HostVa(address + 1)


def not_mapped(address: HostVa, fd: int) -> HostVa:
    del fd
    mm.unmap(at(address, 3), PAGE_SIZE)
    return address


def no_access(address: HostVa, fd: int) -> HostVa:
    del fd
    mm.protect(at(address, 3), PAGE_SIZE, abi.PROT_NONE)
    return address


def read_only(address: HostVa, fd: int) -> HostVa:
    del fd
    mm.protect(at(address, 3), PAGE_SIZE, abi.PROT_READ)
    return address


def past_the_end(address: HostVa, fd: int) -> HostVa:
    calls.ftruncate(fd, 3 * PAGE_SIZE)
    return address


@pytest.mark.parametrize(
    ("spoil", "reading", "writing"),
    [
        (unaligned, errno.EINVAL, errno.EINVAL),
        (not_mapped, errno.ENOMEM, errno.ENOMEM),
        (no_access, errno.EINVAL, errno.EINVAL),
        (read_only, None, errno.EINVAL),
        (past_the_end, errno.EFAULT, errno.EFAULT),
    ],
)
def test_populating_tells_its_failures_apart(
    spoil: Callable[[HostVa, int], HostVa],
    reading: int | None,
    writing: int,
    fd: int,
    shared: HostVa,
) -> None:
    """Source: madvise(2) ERRORS, MADV_POPULATE_READ and _WRITE."""
    start = spoil(shared, fd)
    if reading is None:
        mm.populate_read(start, SIZE)
    else:
        with refused(reading):
            mm.populate_read(start, SIZE)
    with refused(writing):
        mm.populate_write(start, SIZE)


def test_residency_is_asked_by_the_page(shared: HostVa) -> None:
    """Source: mincore(2)."""
    calls.memset(at(shared, 1), 1, 1)
    assert mm.resident(shared, 2 * PAGE_SIZE + 1) == b"\0\1\0"
    mm.unmap(at(shared, 4), PAGE_SIZE)
    with refused(errno.ENOMEM):
        mm.resident(shared, SIZE)


def test_a_lock_keeps_pages_and_nests_not_at_all(shared: HostVa) -> None:
    """Source: mlock(2): one unlock undoes any number of locks. Why pinfold counts."""
    before = probe.process_memory().locked
    mm.lock(shared, SIZE)
    mm.lock(shared, SIZE)
    assert probe.process_memory().locked - before == SIZE
    mm.unlock(shared, SIZE)
    assert probe.process_memory().locked == before
