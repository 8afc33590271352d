"""Refusals that the host makes for real: a full file system, a cut file, the limits.

After each of them no counter has changed and nothing is locked, and the same call works once the
cause is gone. Source: AIX pin: all of the range or none of it; ENOMEM, ENOSPC, EIO.
"""

from __future__ import annotations

import mmap
import os
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import calls, process_vm
from pinfold.testing import check_books
from tests.memory.locking import locked
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = pf.PAGE_SIZE
BOTH = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE


@dataclass(frozen=True)
class Way:
    """One way to pin a range, and what undoes it.

    Attributes:
      system: of system space; else of user space.
      pin, unpin: take a descriptor of the range, where it begins, and its bytes.
      files: it pins mapped files.
      lost: what it says of a page that cannot be had.
    """

    name: str
    system: bool
    pin: Callable[[aix.Xmem, int, int], int]
    unpin: Callable[[aix.Xmem, int, int], int]
    files: bool = True
    lost: int = aix.EIO

    def __str__(self) -> str:
        return f"{self.name} of {'system' if self.system else 'user'} space"


def _older(service: Callable[[int, int, int], int], flag: int) -> Callable[..., int]:
    def call(_: aix.Xmem, start: int, size: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return service(start, size, flag)

    return call


def _described(*, system: bool) -> list[Way]:
    flag = aix.UIO_SYSSPACE if system else aix.UIO_USERSPACE
    return [
        Way(
            "xmempin",
            system,
            lambda dp, start, size: aix.xmempin(start, size, dp),
            lambda dp, start, size: aix.xmemunpin(start, size, dp),
        ),
        Way(
            "xlate_pin",
            system,
            lambda dp, start, size: aix.xlate_pin(dp, start, size, aix.B_READ),
            lambda dp, start, size: aix.xlate_unpin(dp, start, size),
            lost=aix.XMEM_FAIL,
        ),
        Way("pinu", system, _older(aix.pinu, flag), _older(aix.unpinu, flag), files=False),
    ]


WAYS = [
    Way(
        name="pin",
        system=True,
        pin=lambda _, start, size: aix.pin(start, size),
        unpin=lambda _, start, size: aix.unpin(start, size),
    ),
    Way(
        name="ltpin",
        system=True,
        pin=lambda _, start, size: aix.ltpin(start, size),
        unpin=lambda _, start, size: aix.ltunpin(start, size),
    ),
    *_described(system=True),
    *_described(system=False),
]
"""Every service that pins a range."""


def counts(kernel: pf.Kernel) -> list[Any]:
    """All counters, and what is held, after the books were found to agree."""
    check_books(kernel)
    ledger = kernel.statistics().ledger
    found: list[Any] = [ledger.pins, ledger.pinned_bytes, ledger.requested_bytes]
    found.append(kernel.counted.statistics())
    for pages, book in kernel.counted.books.items():
        every = (0, 1 << 64)
        found.append((id(pages), [*book.short.runs(*every)], [*book.long.runs(*every)]))
    return found


class Memory:
    """Some pages of a space, described by a descriptor."""

    def __init__(self, stack: ExitStack, way: Way, size: int, path: Path | None = None) -> None:
        self.size = size
        if way.system:
            made = pf.Vmo(size) if path is None else pf.Vmo.from_file(path, writable=True)
            vmo = stack.enter_context(made)
            mapping = pf.current_process().root.map(vmo, BOTH)
            stack.callback(mapping.unmap)
            self.start = int(mapping.address)
        else:
            user = _mapped(size, path)
            stack.callback(user.close)
            self.start = calls.address_of(memoryview(user))
        self.dp = aix.Xmem()
        flag = aix.SYS_ADSPACE if way.system else aix.USER_ADSPACE
        assert aix.xmattach(self.start, size, self.dp, flag) == aix.XMEM_SUCC
        stack.callback(aix.xmdetach, self.dp)

    def pin(self, way: Way, size: int | None = None) -> int:
        return way.pin(self.dp, self.start, size or self.size)

    def unpin(self, way: Way, size: int | None = None) -> int:
        return way.unpin(self.dp, self.start, size or self.size)


def _mapped(size: int, path: Path | None) -> mmap.mmap:
    if path is None:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), size, mmap.MAP_SHARED)


@pytest.fixture
def stack(process: pf.Process) -> Iterator[ExitStack]:
    """What is left in the end, in the reverse order of its making."""
    del process
    with ExitStack() as made:
        yield made


# EIO: a page cannot be had ------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, P, 2 * P + 1], ids=["all", "most", "the last"])
@pytest.mark.parametrize("way", [way for way in WAYS if way.files], ids=str)
def test_a_file_that_was_cut_cannot_be_pinned(
    way: Way, left: int, kernel: pf.Kernel, stack: ExitStack, tmp_path: Path
) -> None:
    """Source: mmap(2): what lies beyond the end of the file, in whole pages, is not there."""
    path = tmp_path / "cut"
    path.write_bytes(b"x" * 4 * P)
    memory = Memory(stack, way, 4 * P, path)
    before, host = counts(kernel), locked()
    os.truncate(path, left)
    for _ in range(2):
        assert memory.pin(way) == way.lost
        assert counts(kernel) == before
        assert locked() == host
    os.truncate(path, 4 * P)
    assert memory.pin(way) == 0
    assert locked() - host == 4 * P
    assert memory.unpin(way) == 0
    assert counts(kernel) == before
    assert locked() == host


@pytest.mark.parametrize("way", [way for way in WAYS if way.files], ids=str)
def test_what_was_pinned_before_its_file_was_cut_can_be_unpinned(
    way: Way, kernel: pf.Kernel, stack: ExitStack, tmp_path: Path
) -> None:
    """A pin more is refused; the one that there is stays until it is undone."""
    path = tmp_path / "cut"
    path.write_bytes(b"x" * 4 * P)
    memory = Memory(stack, way, 4 * P, path)
    before, host = counts(kernel), locked()
    assert memory.pin(way, 2 * P) == 0
    pinned = counts(kernel)
    os.truncate(path, P)
    if way.name != "xlate_pin":  # whose list is for the two pages that are pinned
        assert memory.pin(way) == way.lost
    assert counts(kernel) == pinned
    assert locked() - host == 2 * P
    assert memory.unpin(way, 2 * P) == 0
    assert counts(kernel) == before
    assert locked() == host


@pytest.mark.parametrize("flag", [aix.SYS_ADSPACE, aix.USER_ADSPACE])
def test_nothing_is_copied_to_or_from_a_file_that_was_cut(
    flag: int, stack: ExitStack, tmp_path: Path
) -> None:
    """XMEM_FAIL, and no signal; no byte of the part that is still there is written."""
    path = tmp_path / "cut"
    path.write_bytes(b"x" * 4 * P)
    way = next(way for way in WAYS if way.system is (flag == aix.SYS_ADSPACE))
    memory, here = Memory(stack, way, 4 * P, path), Memory(stack, WAYS[0], 4 * P)
    os.truncate(path, 2 * P)
    assert aix.xmemin(memory.start, here.start, 4 * P, memory.dp) == aix.XMEM_FAIL
    assert aix.xmemout(here.start, memory.start, 4 * P, memory.dp) == aix.XMEM_FAIL
    assert path.read_bytes() == b"x" * 2 * P
    assert aix.xmemin(memory.start, here.start, 2 * P, memory.dp) == aix.XMEM_SUCC
    assert process_vm.read(os.getpid(), here.start, 3 * P) == b"x" * 2 * P + bytes(P)


# ENOMEM: the limit of the system, and that of the process -----------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_systems_limit_on_pinned_memory(way: Way) -> None:
    """A page of the range that is pinned already does not count again."""
    kernel = pf.Kernel(seed=1, max_pinned=4 * P)
    host = locked()
    with pf.Process(kernel, name="limited") as process, ExitStack() as stack:
        memory, other = Memory(stack, way, 5 * P), Memory(stack, WAYS[0], 2 * P)
        before = counts(kernel)
        assert memory.pin(way) == aix.ENOMEM
        assert counts(kernel) == before
        assert locked() == host
        assert other.pin(WAYS[0]) == 0
        held = counts(kernel)
        assert memory.pin(way, 3 * P) == aix.ENOMEM
        assert counts(kernel) == held
        assert locked() - host == 2 * P
        assert other.unpin(WAYS[0]) == 0
        assert memory.pin(way, 3 * P) == 0  # the same call
        assert memory.unpin(way, 3 * P) == 0
        assert counts(kernel) == before
        assert locked() == host
    process.exit()


_SERVICES = """
import mmap
from pathlib import Path
from pinfold.dialects import aix
from pinfold.testing import check_books

P, BOTH = PAGE_SIZE, pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
warnings.simplefilter("ignore", DeprecationWarning)
kernel = pf.Kernel(seed=1)
process = pf.Process(kernel, name="poor")

def services(system, user, size):
    '''Every service that pins, on memory of either space: a name, what pins, what unpins.'''
    one, two = aix.Xmem(), aix.Xmem()
    assert aix.xmattach(system, size, one, aix.SYS_ADSPACE) == 0
    assert aix.xmattach(user, size, two, aix.USER_ADSPACE) == 0
    return [
        ("pin", lambda n: aix.pin(system, n), lambda n: aix.unpin(system, n)),
        ("ltpin", lambda n: aix.ltpin(system, n), lambda n: aix.ltunpin(system, n)),
        ("xmempin, system", lambda n: aix.xmempin(system, n, one),
            lambda n: aix.xmemunpin(system, n, one)),
        ("xlate_pin, system", lambda n: aix.xlate_pin(one, system, n, aix.B_READ),
            lambda n: aix.xlate_unpin(one, system, n)),
        ("pinu, system", lambda n: aix.pinu(system, n, aix.UIO_SYSSPACE),
            lambda n: aix.unpinu(system, n, aix.UIO_SYSSPACE)),
        ("xmempin, user", lambda n: aix.xmempin(user, n, two),
            lambda n: aix.xmemunpin(user, n, two)),
        ("xlate_pin, user", lambda n: aix.xlate_pin(two, user, n, aix.B_READ),
            lambda n: aix.xlate_unpin(two, user, n)),
        ("pinu, user", lambda n: aix.pinu(user, n, aix.UIO_USERSPACE),
            lambda n: aix.unpinu(user, n, aix.UIO_USERSPACE)),
    ], lambda: [aix.xmdetach(one), aix.xmdetach(two)]

def left():
    '''What is pinned and locked.'''
    check_books(kernel)
    return [kernel.counted.statistics().held, kernel.statistics().ledger.pins, locked()]
"""


def test_the_limit_on_locked_memory() -> None:
    """RLIMIT_MEMLOCK is ENOMEM. Source: mlock(2)."""
    found = run(
        _SERVICES
        + """
give_up_privileges(memlock=4 * P)
with process:
    vmo = pf.Vmo(8 * P)
    mapping = process.root.map(vmo, BOTH)
    memory = mmap.mmap(-1, 8 * P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = calls.address_of(memoryview(memory))
    ways, detach = services(int(mapping.address), address, 8 * P)
    code = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value
    told = [["pincode", [aix.pincode(code), *left()]]]
    for name, pin, unpin in ways:
        refused = [pin(8 * P), *left()]
        within = [pin(4 * P), unpin(4 * P), *left()]
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        after = [pin(8 * P), locked(), unpin(8 * P), *left()]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (4 * P, hard))
        told.append([name, refused, within, after])
    detached = detach()
    mapping.unmap()
    vmo.close()
process.exit()
print(json.dumps([told, detached]))
"""
    )
    (code, *told), detached = found
    assert code == ["pincode", [aix.ENOMEM, 0, 0, 0]]
    assert len(told) == 8
    for name, refused, within, after in told:
        assert refused == [aix.ENOMEM, 0, 0, 0], name
        assert within == [0, 0, 0, 0, 0], name
        assert after == [0, 8 * P, 0, 0, 0, 0], name
    assert detached == [0, 0]


# ENOSPC: the file system is full ------------------------------------------------------------------

_FULL = """
CLONE_NEWNS, CLONE_NEWUSER, MS_REC_PRIVATE = 0x20000, 0x10000000, 0x44000
libc = ctypes.CDLL(None, use_errno=True)

def own_tmpfs(folder, size):
    '''A tmpfs that only this program sees, and that goes with it; why not, where it is refused.'''
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        return "unshare: " + os.strerror(ctypes.get_errno())
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None):
        return "a private mount: " + os.strerror(ctypes.get_errno())
    if libc.mount(b"none", folder.encode(), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode()):
        return "a tmpfs: " + os.strerror(ctypes.get_errno())
    return None
"""


def _on_a_full_file_system(
    program: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> Any:
    # A program with several threads cannot have a user namespace of its own.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    found = run(_SERVICES + _FULL + program, str(folder), *arguments)
    if isinstance(found, str):
        pytest.skip(f"no file system of one's own: {found}")
    return found


def test_memory_whose_file_system_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC for a memory object over a file with holes; all is well once there is room."""
    told, detached = _on_a_full_file_system(
        """
why = own_tmpfs(sys.argv[1], 20 * P)
if why is not None:
    print(json.dumps(why))
    sys.exit()
holes, other = Path(sys.argv[1], "holes"), Path(sys.argv[1], "other")
holes.touch()
os.truncate(holes, 16 * P)
other.write_bytes(b"x" * 8 * P)
with process:
    vmo = pf.Vmo.from_file(holes, writable=True)
    mapping = process.root.map(vmo, BOTH)
    own = mmap.mmap(-1, 16 * P)
    every, detach = services(int(mapping.address), calls.address_of(memoryview(own)), 16 * P)
    ways = [way for way in every if "user" not in way[0] and "pinu" not in way[0]]
    told = [[name, [pin(16 * P), *left()]] for name, pin, _ in ways]
    other.unlink()
    for told_of, (_, pin, unpin) in zip(told, ways):
        told_of.append([pin(16 * P), unpin(16 * P), *left()])
    detached = detach()
    mapping.unmap()
    vmo.close()
process.exit()
print(json.dumps([told, detached]))
""",
        tmp_path,
        monkeypatch,
    )
    assert [name for name, *_ in told] == ["pin", "ltpin", "xmempin, system", "xlate_pin, system"]
    for name, refused, after in told:
        assert refused == [aix.ENOSPC, 0, 0, 0], name
        assert after == [0, 0, 0, 0, 0], name
    assert detached == [0, 0]


def test_a_users_mapping_whose_file_system_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever maps a file past pinfold has its pages brought in by the lock: ENOSPC as well.

    Linux says the same of it as of a cut file. Source: madvise(2), MADV_POPULATE_READ: EFAULT where
    touching the page would be SIGBUS.
    """
    told, detached = _on_a_full_file_system(
        """
why = own_tmpfs(sys.argv[1], 20 * P)
if why is not None:
    print(json.dumps(why))
    sys.exit()
holes, other = Path(sys.argv[1], "holes"), Path(sys.argv[1], "other")
holes.touch()
os.truncate(holes, 16 * P)
other.write_bytes(b"x" * 8 * P)
with process:
    vmo = pf.Vmo(16 * P)
    mapping = process.root.map(vmo, BOTH)
    with holes.open("r+b") as file:
        own = mmap.mmap(file.fileno(), 16 * P)
    every, detach = services(int(mapping.address), calls.address_of(memoryview(own)), 16 * P)
    ways = [way for way in every if "user" in way[0] and "pinu" not in way[0]]
    told = [[name, [pin(16 * P), *left()]] for name, pin, _ in ways]
    other.unlink()
    for told_of, (_, pin, unpin) in zip(told, ways):
        told_of.append([pin(16 * P), unpin(16 * P), *left()])
    detached = detach()
    mapping.unmap()
    vmo.close()
process.exit()
print(json.dumps([told, detached]))
""",
        tmp_path,
        monkeypatch,
    )
    assert [name for name, *_ in told] == ["xmempin, user", "xlate_pin, user"]
    for name, refused, after in told:
        assert refused == [aix.ENOSPC, 0, 0, 0], name
        assert after == [0, 0, 0, 0, 0], name
    assert detached == [0, 0]
