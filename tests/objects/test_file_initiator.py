"""A file as a device: transfers between it and what was pinned through it."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    DmaFault,
    HostError,
    InvalidArgs,
    NoMemory,
    NoSpace,
    NotSupported,
)
from pinfold.host import probe
from pinfold.objects.file_initiator import FileInitiator
from pinfold.testing import FailFrom, FailNth, HostCalls
from pinfold.transfers import TRANSFER
from pinfold.units import GIB, MIB
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("process")

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
RW = READ | WRITE
REASON = pf.FaultReason
PAGES = 64
CONTENT = np.random.default_rng(5).bytes(PAGES * PAGE)


@pytest.fixture
def bus(process: pf.Process) -> Iterator[pf.Iommu]:
    del process
    with pf.open_bus("io_uring") as made:
        yield made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 64 pages of noise."""
    made = tmp_path / "data"
    made.write_bytes(CONTENT)
    return made


@pytest.fixture
def file(bus: pf.Iommu, path: Path) -> Iterator[FileInitiator]:
    """The file as a device that may write it."""
    with bus.file(path, writable=True, depth=8) as made:
        yield made


@pytest.fixture
def memory(process: pf.Process) -> Iterator[pf.Vmo]:
    """Memory as long as the file."""
    del process
    with pf.Vmo(PAGES * PAGE, name="memory") as made:
        yield made


@pytest.fixture
def at(file: FileInitiator, memory: pf.Vmo) -> Iterator[int]:
    """The device address of all of the memory."""
    with file.pin(memory, perms=RW) as pmt:
        yield int(pmt.addrs[0])


def fault_of(access: Callable[[], object]) -> pf.Fault:
    with pytest.raises(DmaFault) as caught:
        access()
    fault = caught.value.fault
    assert isinstance(fault, pf.Fault)
    return fault


# Bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "size", "offset"),
    [
        (0, PAGES * PAGE, 0),
        (PAGE, PAGE, 3 * PAGE),
        (512, 512, 1024),
        (1, 100, 77),
        (PAGE - 1, 2, PAGE),
        (0, 513, 512),
        (3 * PAGE, 0, 0),
    ],
)
@pytest.mark.parametrize("direct", [None, False])
def test_bytes_go_both_ways(
    bus: pf.Iommu,
    path: Path,
    memory: pf.Vmo,
    inside: int,
    size: int,
    offset: int,
    direct: bool | None,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Past the page cache or through it: what is aligned and what is not moves the same bytes."""
    with (
        bus.file(path, writable=True, direct=direct) as file,
        file.pin(memory, perms=RW) as pmt,
    ):
        start = int(pmt.addrs[0]) + inside
        assert file.read(start, size, at=offset) == size
        assert memory.read(inside, size) == CONTENT[offset : offset + size]
        assert memory.read(0, inside) == bytes(inside)
        assert memory.read(inside + size, memory.size - inside - size).count(0) == (
            memory.size - inside - size
        )
        other = np.random.default_rng(6).bytes(size)
        memory.write(other, inside)
        assert file.write(start, size, at=offset) == size
        file.sync()
    assert path.read_bytes() == CONTENT[:offset] + other + CONTENT[offset + size :]


def test_the_end_of_the_file_is_a_short_read(file: FileInitiator, memory: pf.Vmo, at: int) -> None:
    """Fewer bytes than asked for, there only; beyond it none."""
    end = PAGES * PAGE
    assert file.read(at, 2 * PAGE, at=end - PAGE) == PAGE
    assert file.read(at, 100, at=end - 7) == 7
    assert file.read(at, PAGE, at=end) == 0
    assert file.read(at, PAGE, at=1 << 40) == 0
    os.truncate(file.file_statistics().path, 1000)
    assert file.read(at, 4 * PAGE, at=0) == 1000
    assert memory.read(0, 1000) == CONTENT[:1000]


def test_a_write_makes_the_file_longer(
    file: FileInitiator, memory: pf.Vmo, at: int, path: Path
) -> None:
    """With a hole where nothing was written, and a tail that is no block."""
    memory.write(b"tail" * 300)
    assert file.write(at, 1200, at=PAGES * PAGE + 5 * PAGE) == 1200
    assert path.stat().st_size == PAGES * PAGE + 5 * PAGE + 1200
    assert path.read_bytes()[PAGES * PAGE :] == bytes(5 * PAGE) + b"tail" * 300
    assert file.file_statistics().size == path.stat().st_size


def test_direct_and_buffered_transfers_see_each_other(
    file: FileInitiator, memory: pf.Vmo, at: int, path: Path
) -> None:
    """Whatever goes past the page cache and whatever goes through it is one file."""
    chance = np.random.default_rng(7)
    expected = bytearray(CONTENT)
    for _ in range(200):
        size = int(chance.choice([1, 511, 512, 1000, PAGE, 2 * PAGE + 1]))
        offset = int(chance.integers(0, PAGES * PAGE - size))
        if chance.random() < 0.5:
            offset &= -512
        inside = int(chance.integers(0, memory.size - size)) & int(chance.choice([-1, -512]))
        if chance.random() < 0.5:
            piece = chance.bytes(size)
            memory.write(piece, inside)
            assert file.write(at + inside, size, at=offset) == size
            expected[offset : offset + size] = piece
        else:
            assert file.read(at + inside, size, at=offset) == size
            assert memory.read(inside, size) == expected[offset : offset + size]
    assert path.read_bytes() == expected


def test_vectors_lie_together_in_the_file(
    file: FileInitiator, memory: pf.Vmo, at: int, path: Path
) -> None:
    """In the order of the file, wherever they are in memory."""
    segments = [(at + 3 * PAGE, 10), (at, PAGE), (at + 7, 0), (at + 5 * PAGE + 1, 77)]
    assert file.readv(segments, at=PAGE) == PAGE + 87
    assert memory.read(3 * PAGE, 10) == CONTENT[PAGE : PAGE + 10]
    assert memory.read(0, PAGE) == CONTENT[PAGE + 10 : 2 * PAGE + 10]
    assert memory.read(5 * PAGE + 1, 77) == CONTENT[2 * PAGE + 10 : 2 * PAGE + 87]
    memory.write(b"a" * 10, 3 * PAGE)
    assert file.writev(iter(segments), at=0) == PAGE + 87
    assert path.read_bytes()[:PAGE] == b"a" * 10 + CONTENT[PAGE + 10 : 2 * PAGE]
    assert file.readv([], at=0) == 0


def test_a_vector_is_counted_up_to_what_is_missing(file: FileInitiator, at: int) -> None:
    """Source: `readv`: the bytes before the first that was not moved."""
    end = PAGES * PAGE
    assert file.readv([(at, PAGE), (at + PAGE, PAGE), (at, 5)], at=end - PAGE - 9) == PAGE + 9
    with pytest.raises(DmaFault):
        file.readv([(at, PAGE), (0, PAGE)], at=0)


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 200, 1025])
def test_batches_of_any_length_at_any_depth(
    bus: pf.Iommu, path: Path, memory: pf.Vmo, depth: int, count: int
) -> None:
    """As many are under way as the depth allows; the others follow."""
    with bus.file(path, depth=depth) as file, file.pin(memory, perms=WRITE) as pmt:
        start = int(pmt.addrs[0])
        chance = np.random.default_rng(count)
        pages = chance.permutation(PAGES)
        wanted = np.zeros(count, dtype=TRANSFER)
        index = np.arange(count) % PAGES
        wanted["address"] = start + index * PAGE
        wanted["size"] = PAGE
        wanted["at"] = pages[index] * PAGE
        outcomes = file.transfer(wanted)
        assert len(outcomes) == count
        assert outcomes.ok
        assert outcomes.bytes_moved == count * PAGE
        for slot in range(min(count, PAGES)):
            where = int(pages[slot]) * PAGE
            assert memory.read(slot * PAGE, PAGE) == CONTENT[where : where + PAGE]
        seen = file.file_statistics()
        assert (seen.transfers, seen.bytes_moved, seen.failed, seen.stopped) == (
            count,
            count * PAGE,
            0,
            0,
        )
        assert seen.depth == depth


def test_outcomes_are_in_the_order_of_the_transfers(
    file: FileInitiator, at: int, bus: pf.Iommu
) -> None:
    """One of each kind; none of them keeps the others from being made."""
    end = PAGES * PAGE
    outcomes = file.transfer(
        [
            (False, at, PAGE, 0),
            (False, 0, PAGE, 0),
            (False, at, PAGE, end - 10),
            (False, at + end - 1, 2, 0),
            (True, at, 10, 0),
            (False, (1 << 64) - 1, PAGE, 0),
            (False, at, (1 << 62), 0),
        ]
    )
    assert outcomes.moved.tolist() == [PAGE, 0, 10, 0, 10, 0, 0]
    assert outcomes.errors.tolist() == [0, errno.EFAULT, 0, errno.EFAULT, 0, *[errno.EFAULT] * 2]
    assert sorted(outcomes.faults) == [1, 3, 5, 6]
    assert [outcomes[i].fault is not None for i in range(7)] == [
        i in (1, 3, 5, 6) for i in range(7)
    ]
    assert bus.faults.total == 4
    assert fault_of(outcomes.raise_first).address == 0
    seen = file.file_statistics()
    assert (seen.transfers, seen.failed, seen.stopped) == (7, 4, 4)


def test_submitted_transfers_go_on_by_themselves(
    file: FileInitiator, memory: pf.Vmo, at: int
) -> None:
    """And are waited for in any order, once or twice."""
    batches = [file.submit([(False, at + page * PAGE, PAGE, page * PAGE)]) for page in range(PAGES)]
    for batch in reversed(batches):
        assert batch.finish().bytes_moved == PAGE
        assert batch.finish().bytes_moved == PAGE
        assert batch.left == 0
    assert memory.read() == CONTENT


def test_a_batch_that_is_dropped_is_not_kept(file: FileInitiator, at: int) -> None:
    """What exceeds the depth is not made, and nobody waits for it."""
    for _ in range(20):
        file.submit([(False, at, PAGE, 0)] * 100)
    gc.collect()
    assert file.read(at, PAGE, at=0) == PAGE
    assert (
        file.file_statistics().failed == 20 * 100 - file.file_statistics().bytes_moved // PAGE + 1
    )


def test_the_callers_array_is_his_own(file: FileInitiator, memory: pf.Vmo, at: int) -> None:
    """What he writes to it afterwards changes nothing."""
    wanted = np.zeros(32, dtype=TRANSFER)
    wanted["address"], wanted["size"] = at + np.arange(32) * PAGE, PAGE
    wanted["at"] = np.arange(32) * PAGE
    batch = file.submit(wanted)
    wanted["write"] = True
    wanted["address"] = 0
    assert batch.finish().bytes_moved == 32 * PAGE
    assert memory.read(0, 32 * PAGE) == CONTENT[: 32 * PAGE]


# What is stopped ----------------------------------------------------------------------------------


def test_a_pin_is_for_the_file_it_was_made_through(
    bus: pf.Iommu, file: FileInitiator, path: Path, at: int
) -> None:
    """Another file is another device."""
    with bus.file(path) as other:
        fault = fault_of(lambda: other.read(at, 1, at=0))
        assert fault.reason is REASON.NOTHING_THERE
        assert fault.initiator == other.object.space.initiator


def test_directions(file: FileInitiator, memory: pf.Vmo) -> None:
    """A read of the file writes memory, and the other way round."""
    with file.pin(memory, perms=READ) as pmt:
        start = int(pmt.addrs[0])
        fault = fault_of(lambda: file.read(start, 10, at=0))
        assert (fault.reason, fault.access) == (REASON.NOT_PERMITTED, WRITE)
        assert memory.read(0, 10) == bytes(10)
        assert file.write(start, 10, at=0) == 10
    with file.pin(memory, perms=WRITE) as pmt:
        start = int(pmt.addrs[0])
        fault = fault_of(lambda: file.write(start, 10, at=0))
        assert (fault.reason, fault.access) == (REASON.NOT_PERMITTED, READ)
        assert file.read(start, 10, at=20) == 10


def test_after_unpin_the_address_is_nobodys(file: FileInitiator, memory: pf.Vmo) -> None:
    """And says who had it."""
    with file.pin(memory, perms=RW) as pmt:
        start = int(pmt.addrs[0])
    fault = fault_of(lambda: file.read(start, 10, at=0))
    assert fault.reason is REASON.REVOKED
    assert "memory" in str(fault)


@pytest.mark.parametrize(
    ("address", "size", "offset"),
    [(-1, 1, 0), (0, -1, 0), (0, 1, -1), (1 << 64, 1, 0), (0, 1, 1 << 63), (0, 1 << 63, 0)],
)
def test_numbers_that_cannot_be(file: FileInitiator, address: int, size: int, offset: int) -> None:
    """On each of the ways in."""
    for act in (
        lambda: file.read(address, size, at=offset),
        lambda: file.write(address, size, at=offset),
        lambda: file.readv([(address, size)], at=offset),
        lambda: file.writev([(address, size)], at=offset),
        lambda: file.transfer([(False, address, size, offset)]),
    ):
        with pytest.raises(InvalidArgs):
            act()
    assert file.file_statistics().transfers == 0


def test_vectors_that_pass_the_end_of_all_files(file: FileInitiator) -> None:
    """Their sum is what counts, and does not wrap around."""
    for sizes in ([1 << 62, 1 << 62], [(1 << 62) - 1] * 3):
        with pytest.raises(InvalidArgs):
            file.readv([(PAGE, size) for size in sizes], at=0)


# Files that are none, and refusals ----------------------------------------------------------------


def test_what_is_no_such_file(bus: pf.Iommu, tmp_path: Path) -> None:
    """A pipe's transfers may never end; others have no bytes at offsets."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for wrong in (fifo, tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises((NotSupported, HostError)):
            bus.file(wrong)
    with pytest.raises(HostError) as caught:
        bus.file(tmp_path / "absent")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(HostError) as caught:
        bus.file(tmp_path, writable=True)
    assert caught.value.errno == errno.EISDIR
    for number in (-1, 1 << 20):
        with pytest.raises(HostError):
            bus.file(number)
    with pytest.raises(InvalidArgs):
        bus.file(True)  # noqa: FBT003 - on purpose
    with pytest.raises(InvalidArgs):
        bus.file(tmp_path, depth=3)


@pytest.mark.parametrize("name", ["sim", "stub"])
def test_other_buses_have_no_files(name: str, path: Path) -> None:
    """Refused by name."""
    with pf.open_bus(name) as other, pytest.raises(NotSupported, match="io_uring"):
        other.file(path)


def test_a_path_may_be_bytes(bus: pf.Iommu, path: Path) -> None:
    """As for open()."""
    with bus.file(os.fsencode(path)) as file:  # type: ignore[arg-type]
        assert file.file_statistics().path == str(path)


def test_a_descriptor_stays_the_callers(bus: pf.Iommu, memory: pf.Vmo) -> None:
    """One of memory, too, that has no name."""
    fd = os.memfd_create("callers")
    os.write(fd, CONTENT)
    place = os.lseek(fd, 0, os.SEEK_CUR)
    with bus.file(fd, writable=True) as file, file.pin(memory, perms=RW) as pmt:
        start = int(pmt.addrs[0])
        assert file.read(start, memory.size, at=0) == memory.size
        assert memory.read() == CONTENT
        memory.write(b"written")
        file.write(start, 7, at=0)
    assert os.lseek(fd, 0, os.SEEK_CUR) == place
    assert os.pread(fd, 7, 0) == b"written"
    assert os.get_blocking(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("flags", "writable"),
    [(os.O_RDONLY, True), (os.O_WRONLY, True), (os.O_WRONLY, False), (os.O_PATH, False)],
)
def test_a_descriptor_gives_no_more_than_it_is_good_for(
    bus: pf.Iommu,
    path: Path,
    flags: int,
    writable: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Whatever this process could open itself."""
    fd = os.open(path, flags)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((AccessDenied, InvalidArgs), match="cannot be"):
        bus.file(fd, writable=writable)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    with pytest.raises(HostError) as caught:
        bus.file(fd)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("direct", [None, False])
def test_a_descriptor_good_for_more_than_is_wanted(
    bus: pf.Iommu,
    path: Path,
    memory: pf.Vmo,
    direct: bool | None,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Without ``writable`` nothing is written by it; a bad address is a fault all the same."""
    fd = os.open(path, os.O_RDWR)
    with bus.file(fd, direct=direct) as file, file.pin(memory, perms=RW) as pmt:
        start = int(pmt.addrs[0])
        for inside, size in ((0, PAGE), (5, 7), (0, 0)):
            with pytest.raises(HostError) as caught:
                file.write(start + inside, size, at=0)
            assert caught.value.errno == errno.EBADF
        outcomes = file.transfer(
            [(True, start, PAGE, 0), (False, start, PAGE, 0), (True, start - 1, 1, 0)]
        )
        assert outcomes.errors.tolist() == [errno.EBADF, 0, errno.EFAULT]
        assert sorted(outcomes.faults) == [2]
        assert file.file_statistics().failed == 5
    assert path.read_bytes() == CONTENT
    os.close(fd)


@pytest.mark.parametrize("flag", [os.O_APPEND, os.O_NONBLOCK, os.O_DIRECT])
def test_flags_of_a_descriptor_stay_the_callers(
    bus: pf.Iommu, path: Path, memory: pf.Vmo, flag: int
) -> None:
    """With O_APPEND Linux writes at the end, whatever the offset: the file is opened anew. Where
    that is refused, so is the descriptor."""
    fd = os.open(path, os.O_RDWR | flag)
    before = os.listdir("/proc/self/fd")
    with bus.file(fd, writable=True) as file, file.pin(memory, perms=RW) as pmt:
        memory.write(b"written")
        assert file.write(int(pmt.addrs[0]) + 1, 6, at=1) == 6
        assert file.read(int(pmt.addrs[0]), 7, at=0) == 7
    assert path.read_bytes() == CONTENT[:1] + b"ritten" + CONTENT[7:]
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & flag
    with FailNth(3, errno.EACCES) as plan, pytest.raises(NotSupported, match="anew"):
        bus.file(fd, writable=True)
    assert plan.refused == ["open"]
    assert os.listdir("/proc/self/fd") == before
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY])
def test_a_file_that_cannot_be_opened_anew_has_no_direct_path(
    bus: pf.Iommu, path: Path, memory: pf.Vmo, code: int
) -> None:
    """Its descriptor is good for everything else."""
    fd = os.open(path, os.O_RDWR)
    with FailNth(6, code) as plan, bus.file(fd, writable=True) as file:
        assert not file.file_statistics().direct
        with file.pin(memory, perms=RW) as pmt:
            assert file.read(int(pmt.addrs[0]), memory.size, at=0) == memory.size
    assert memory.read() == CONTENT
    assert plan.refused == ["open"]
    with FailNth(6, code) as plan, pytest.raises(NotSupported, match="anew"):
        bus.file(fd, direct=True)
    assert plan.refused == ["open"]
    os.close(fd)


def test_a_file_that_this_process_may_not_open(tmp_path: Path) -> None:
    """Who opened it, and gave up the right to, has the descriptor still."""
    path = tmp_path / "secret"
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    found = run(
        """
    import pinfold.buses.io_uring, pinfold.objects.file_initiator
    with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti, pf.Vmo(PAGE_SIZE) as vmo:
        bti.pin(vmo, perms=pf.Perm.READ).unpin()  # what is imported now need not be readable later
    fd = os.open(sys.argv[1], os.O_RDWR)
    os.chmod(sys.argv[1], 0)
    give_up_privileges()
    try:
        opened = os.close(os.open(sys.argv[1], os.O_RDWR))
    except OSError:
        opened = False
    with pf.open_bus("io_uring") as bus, bus.file(fd, writable=True) as file, \\
            pf.Vmo(PAGE_SIZE) as vmo, file.pin(vmo, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt:
        at = int(pmt.addrs[0])
        counts = [file.read(at, PAGE_SIZE, at=0), file.write(at, 100, at=PAGE_SIZE)]
        same = vmo.read() == os.pread(fd, PAGE_SIZE, 0)
        direct = file.file_statistics().direct
    print(json.dumps([opened, counts, same, direct]))
    """,
        str(path),
    )
    assert found == [False, [PAGE, 100], True, False]


def test_direct_where_it_cannot_be(bus: pf.Iommu, path: Path) -> None:
    """Asked for, it is refused by name; else the page cache is used."""
    with FailNth(5, errno.EINVAL) as plan, pytest.raises(NotSupported, match="direct"):
        bus.file(path, direct=True)
    assert plan.refused == ["open"]
    with FailNth(5, errno.EINVAL) as plan, bus.file(path) as file:
        assert not file.file_statistics().direct
        assert file.file_statistics().memory_alignment == 0
    assert plan.refused == ["open"]
    with bus.file(path, direct=False) as file:
        assert not file.file_statistics().direct


def test_a_file_that_is_not_writable(bus: pf.Iommu, path: Path, memory: pf.Vmo) -> None:
    """Source: write(2), EBADF."""
    with bus.file(path) as file, file.pin(memory, perms=RW) as pmt:
        with pytest.raises(HostError) as caught:
            file.write(int(pmt.addrs[0]), PAGE, at=0)
        assert caught.value.errno == errno.EBADF
        assert not isinstance(caught.value, DmaFault)
    assert path.read_bytes() == CONTENT


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 pages."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={16 * PAGE}", "tiny", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this process mounts nothing: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_is_full(bus: pf.Iommu, memory: pf.Vmo, tiny: Path) -> None:
    """A part may be written; what is left is told."""
    path = tiny / "file"
    path.touch()
    memory.write(CONTENT)
    with bus.file(path, writable=True) as file, file.pin(memory, perms=READ) as pmt:
        start = int(pmt.addrs[0])
        with pytest.raises(NoSpace):
            file.write(start, memory.size, at=0)
        outcomes = file.transfer(
            [(True, start + page * PAGE, PAGE, page * PAGE) for page in range(PAGES)]
        )
        assert not outcomes.ok
        assert set(outcomes.errors.tolist()) == {0, errno.ENOSPC}
        assert outcomes.bytes_moved == int((outcomes.errors == 0).sum()) * PAGE
        with pytest.raises(NoSpace):
            outcomes.raise_first()
        written = np.flatnonzero(outcomes.errors == 0)
        held = path.read_bytes()
        for page in written.tolist():
            assert held[page * PAGE :][:PAGE] == CONTENT[page * PAGE :][:PAGE]


def test_a_block_device(bus: pf.Iommu, tmp_path: Path, memory: pf.Vmo) -> None:
    """Its size is what it holds, and its end an end."""
    image = tmp_path / "image"
    image.write_bytes(CONTENT)
    done = subprocess.run(
        ["losetup", "--show", "-f", str(image)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine has no loop device to give: {done.stderr.strip()}")
    disk = done.stdout.strip()
    try:
        with bus.file(disk, writable=True) as file, file.pin(memory, perms=RW) as pmt:
            start = int(pmt.addrs[0])
            assert file.file_statistics().size == PAGES * PAGE
            assert file.file_statistics().direct
            with open(disk, "rb") as opened:
                opened.seek(7)
                with bus.file(opened.fileno()) as same:
                    assert same.file_statistics().size == PAGES * PAGE
                assert opened.tell() == os.lseek(opened.fileno(), 0, os.SEEK_CUR) == 7
            assert file.read(start, memory.size, at=0) == memory.size
            assert memory.read() == CONTENT
            memory.write(b"sector", 512)
            assert file.write(start + 512, 512, at=1024) == 512
            file.sync()
            assert file.read(start, PAGE, at=PAGES * PAGE) == 0
            with pytest.raises(NoSpace):
                file.write(start, PAGE, at=PAGES * PAGE)
    finally:
        subprocess.run(["losetup", "-d", disk], check=True)
    assert image.read_bytes()[1024:1030] == b"sector"


# Ends ---------------------------------------------------------------------------------------------


def test_a_closed_file_is_closed(bus: pf.Iommu, path: Path) -> None:
    """Twice is once; every use is refused, and nothing is left open."""
    before = len(os.listdir("/proc/self/fd"))
    file = bus.file(path)
    file.close()
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for act in (
        lambda: file.read(PAGE, 1, at=0),
        lambda: file.submit([]),
        file.sync,
        file.file_statistics,
    ):
        with pytest.raises(BadHandle):
            act()


def test_a_file_closed_under_its_transfers(bus: pf.Iommu, path: Path, memory: pf.Vmo) -> None:
    """What is under way ends first; what was not given is cancelled, and says so."""
    file = bus.file(path, depth=4)
    pmt = file.pin(memory, perms=RW)
    start = int(pmt.addrs[0])
    batch = file.submit([(False, start + page * PAGE, PAGE, page * PAGE) for page in range(PAGES)])
    file.close()
    outcomes = batch.finish()
    assert outcomes.moved[:4].tolist() == [PAGE] * 4
    assert outcomes.errors[4:].tolist() == [errno.ECANCELED] * (PAGES - 4)
    assert memory.read() == CONTENT[: 4 * PAGE] + bytes((PAGES - 4) * PAGE)
    assert probe.process_memory().pinned == PAGES * PAGE
    pmt.unpin()
    assert probe.process_memory().pinned == 0


def test_a_file_has_a_port_as_well(file: FileInitiator, memory: pf.Vmo, at: int) -> None:
    """`master` moves bytes by the same ring and the same pins."""
    file.master().write(at, b"by the port")
    assert file.write(at, 11, at=0) == 11
    assert memory.read(0, 11) == b"by the port"


def test_sync_reaches_the_file(file: FileInitiator, at: int) -> None:
    """Source: fsync(2). One system call, and its refusal is told."""
    file.write(at, 100, at=0)
    with HostCalls() as plan:
        file.sync()
    assert set(plan.names) == {"io_uring_enter"}


# Refusals of the kernel's -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY, errno.EINTR])
def test_try_again_is_tried_again(file: FileInitiator, memory: pf.Vmo, at: int, code: int) -> None:
    """Source: io_uring_enter(2), ERRORS. None is made twice, none is forgotten."""
    wanted = [(False, at + page * PAGE, PAGE, page * PAGE) for page in range(PAGES)]
    with HostCalls() as plan:
        file.transfer(wanted)
    for n in range(1, len(plan.names) + 1):
        memory.write(bytes(memory.size))
        with FailNth(n, code):
            outcomes = file.transfer(wanted)
        assert outcomes.ok
        assert outcomes.bytes_moved == memory.size
        assert memory.read() == CONTENT
    queue = file.object.space.queue  # type: ignore[attr-defined]
    assert (queue._under_way, queue._live, queue._ring.room()) == (0, [], 8)  # noqa: SLF001


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY])
def test_try_again_for_ever_is_a_refusal(
    file: FileInitiator, memory: pf.Vmo, at: int, code: int
) -> None:
    """With nothing under way whose end could change it, nobody waits for ever."""
    with FailFrom(1, code), pytest.raises(HostError) as caught:
        file.read(at, PAGE, at=0)
    assert caught.value.errno == code
    assert memory.read(0, PAGE) == bytes(PAGE)
    assert file.read(at, PAGE, at=0) == PAGE


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM])
def test_nothing_moves_after_it_was_refused(
    file: FileInitiator, memory: pf.Vmo, at: int, code: int
) -> None:
    """What the kernel would not take is taken off the ring: the next call does not give it."""
    with FailNth(1, code), pytest.raises((HostError, NoMemory)):
        file.read(at, PAGE, at=0)
    file.sync()
    assert file.read(at + PAGE, PAGE, at=PAGE) == PAGE
    assert memory.read(0, 2 * PAGE) == bytes(PAGE) + CONTENT[PAGE : 2 * PAGE]


def test_a_refused_wait_can_be_made_again(file: FileInitiator, memory: pf.Vmo, at: int) -> None:
    """What is under way goes on; and an unpin waits for it."""
    wanted = [(False, at + page * PAGE, PAGE, page * PAGE) for page in range(PAGES)]
    batch = file.submit(wanted)
    refused = 0
    for _ in range(1000):
        try:
            with FailNth(1, errno.EIO):
                outcomes = batch.finish()
            break
        except HostError:
            refused += 1
            outcomes = batch.finish()
            break
    assert outcomes.bytes_moved == memory.size
    assert memory.read() == CONTENT


def test_a_call_from_a_finaliser_inside_is_refused(file: FileInitiator, at: int) -> None:
    """The collector may run anywhere: a device is not used from inside its own queue."""
    queue = file.object.space.queue  # type: ignore[attr-defined]
    with queue.lock:
        for act in (
            lambda: file.read(at, 1, at=0),
            file.sync,
            lambda: file.master().read(at, 1),
        ):
            with pytest.raises(BadState, match="inside"):
                act()
    assert file.read(at, 1, at=0) == 1


def test_a_large_file(bus: pf.Iommu, tmp_path: Path) -> None:
    """Offsets beyond 32 bits, sizes of megabytes, and a sparse file."""
    path = tmp_path / "sparse"
    path.touch()
    size = 5 * MIB
    with bus.file(path, writable=True) as file, pf.Vmo(size) as vmo:
        content = np.random.default_rng(8).bytes(size)
        vmo.write(content)
        with file.pin(vmo, perms=RW) as pmt:
            start = int(pmt.addrs[0])
            assert file.write(start, size, at=5 * GIB) == size
            vmo.write(bytes(size))
            assert file.read(start, size, at=5 * GIB) == size
            assert vmo.read() == content
            assert file.read(start, PAGE, at=PAGE) == PAGE
            assert vmo.read(0, PAGE) == bytes(PAGE)
    assert path.stat().st_size == 5 * GIB + size
