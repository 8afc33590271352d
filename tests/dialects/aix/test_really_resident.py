"""A pinned page really stays in memory when the kernel wants it, and may go when it is unpinned.

Two ways to want it, both with a swap file behind them. ``MADV_PAGEOUT`` reclaims a range, but only
pages that are mapped once: those of a memory object are also mapped by pinfold's own window, so it
would leave them alone even if nobody had locked them. They are tried in a memory control group of
their own, which is told to give back everything it has. Pages that nobody pinned are the control
of every test: they do go.

Source: mincore(2), madvise(2); the kernel's admin guide, memory control groups, force_empty (v1)
and memory.reclaim (v2). A page of shared memory is out once /proc counts it as swapped; while its
copy is still being written, mincore calls it resident. What another processor has just had in
hand is not found by MADV_PAGEOUT: posix_fadvise of a page that is in use makes all of them put back
what they have.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import calls, mm, process_vm
from pinfold.testing import HostState
from pinfold.units import MIB, HostVa
from tests.memory.locking import locked
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = pf.PAGE_SIZE
PAGES = 16
PINNED = slice(4, 8)
"""Pages of the sixteen."""

_SWAP = 128 * MIB
_ATTEMPTS = 100
_CGROUPS = Path("/sys/fs/cgroup")
_TOOLS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


# What a host has to have --------------------------------------------------------------------------


def _tool(name: str, *arguments: str) -> str | None:
    """Run a program; why that did not work."""
    path = shutil.which(name, path=_TOOLS)
    if path is None:
        return f"there is no {name}"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"{name} failed"


def _swap_in(folder: Path, stack: ExitStack) -> str | None:
    """Have a swap file in a folder until the end of ``stack``; or why there is none."""
    try:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=".swap-")))
        path = made / "swap"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, _SWAP)
        finally:
            os.close(fd)
    except OSError as error:
        return str(error)
    refused = _tool("mkswap", str(path)) or _tool("swapon", str(path))
    if refused is None:
        stack.callback(_end_swap, str(path))
    return refused


def _end_swap(path: str) -> None:
    assert _tool("swapoff", path) is None


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Something to page out to: what the host has, or a file for as long as these tests run.

    Gives a folder, where a file that is written to disk has waited for what was paged out before.
    """
    with ExitStack() as stack:
        folder = Path("/var/tmp")  # noqa: S108 - no name in it is known beforehand
        if not _swaps():
            folder = _enable_swap(tmp_path_factory.getbasetemp(), stack)
        yield folder
    # here it is off again, and its file removed


def _swaps() -> list[str]:
    return Path("/proc/swaps").read_text().splitlines()[1:]


def _wait_for_disk(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(P))
        file.flush()
        os.fsync(file.fileno())


def _enable_swap(temporary: Path, stack: ExitStack) -> Path:
    refusals = []
    for folder in (temporary, Path("/var/tmp"), Path(__file__).parent):  # noqa: S108 - one of three
        with ExitStack() as attempt:
            refused = _swap_in(folder, attempt)
            if refused is None:
                stack.push(attempt.pop_all())
                return folder
        refusals.append(f"{folder}: {refused}")
    pytest.skip(f"no swap file can be enabled: {'; '.join(refusals)}")


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A memory control group, empty in the beginning and in the end."""
    v1 = _CGROUPS / "memory"
    try:
        made = Path(tempfile.mkdtemp(prefix="pinfold-", dir=v1 if v1.is_dir() else _CGROUPS))
    except OSError as error:
        pytest.skip(f"no memory control group can be made: {error}")
    try:
        if not any((made / name).exists() for name in ("memory.force_empty", "memory.reclaim")):
            pytest.skip("control groups here do not control memory, or cannot be told to reclaim")
        yield made
    finally:
        made.rmdir()


# User memory, and MADV_PAGEOUT --------------------------------------------------------------------


class Area:
    """Sixteen pages of user memory, full of what no other page is, in a mapping of their own."""

    def __init__(self, flags: int, disk: Path) -> None:
        self.disk = disk
        start = HostVa(calls.mmap(0, (PAGES + 2) * P, mmap.PROT_READ, _RESERVED, -1, 0))
        self.start = HostVa(start + P)
        self.size = PAGES * P
        calls.mmap(self.start, self.size, 3, flags | mmap.MAP_ANONYMOUS | _FIXED, -1, 0)
        self.restore()

    def restore(self) -> None:
        self.content = os.urandom(self.size)
        assert process_vm.write(os.getpid(), self.start, self.content) == self.size

    @property
    def pinned(self) -> HostVa:
        return HostVa(self.start + PINNED.start * P)

    def resident(self) -> list[int]:
        return list(mm.resident(self.start, self.size))

    def swapped(self) -> int:
        """Bytes that are in swap, and nowhere else but perhaps on their way there."""
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):
                low, high = (int(border, 16) for border in name.split("-"))
                inside = self.start <= low and high <= self.start + self.size
            elif inside and name == "Swap:":
                total += int(rest[0]) << 10
        return total

    def page_out(self) -> set[int]:
        """Ask for every page to be reclaimed, one by one; those that may not be."""
        _drain()
        refused = set()
        for page in range(PAGES):
            try:
                mm.page_out(HostVa(self.start + page * P), P)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                refused.add(page)
        return refused

    def close(self) -> None:
        mm.unmap(HostVa(self.start - P), (PAGES + 2) * P)


def _drain() -> None:
    """Every processor puts back the pages that it has in hand, where they can be reclaimed."""
    program = os.open(sys.executable, os.O_RDONLY)
    try:
        os.posix_fadvise(program, 0, P, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(program)


_RESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIXED = 0x10


@pytest.fixture(params=[mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["private", "shared"])
def area(request: pytest.FixtureRequest, swap: Path, process: pf.Process) -> Iterator[Area]:
    """User memory that can be paged out, as is found out first."""
    del process
    made = Area(request.param, swap)
    if not _until(made, lambda: made.swapped() == made.size):
        made.close()
        pytest.skip("MADV_PAGEOUT evicts nothing here, though there is swap")
    made.restore()
    yield made
    made.close()


def _until(area: Area, done: Callable[[], bool]) -> bool:
    """Ask for reclaim until ``done``, a bounded number of times."""
    for _ in range(_ATTEMPTS):
        area.page_out()
        if done():
            return True
        _wait_for_disk(area.disk)
        area.restore()  # a page that was found busy has to be found again
    return False


def xmempin(area: Area, dp: aix.Xmem) -> None:
    assert aix.xmempin(area.pinned, 4 * P, dp) == 0


def xmemunpin(area: Area, dp: aix.Xmem) -> None:
    assert aix.xmemunpin(area.pinned, 4 * P, dp) == 0


def xlate_pin(area: Area, dp: aix.Xmem) -> None:
    assert aix.xlate_pin(dp, area.pinned, 4 * P, aix.B_READ) == 0


def xlate_unpin(area: Area, dp: aix.Xmem) -> None:
    assert aix.xlate_unpin(dp, area.pinned, 4 * P) == 0


def pinu(area: Area, dp: aix.Xmem) -> None:
    del dp
    with pytest.deprecated_call():
        assert aix.pinu(area.pinned, 4 * P, aix.UIO_USERSPACE) == 0


def unpinu(area: Area, dp: aix.Xmem) -> None:
    del dp
    with pytest.deprecated_call():
        assert aix.unpinu(area.pinned, 4 * P, aix.UIO_USERSPACE) == 0


@pytest.mark.parametrize(
    ("pin", "unpin"),
    [(xmempin, xmemunpin), (xlate_pin, xlate_unpin), (pinu, unpinu)],
    ids=["xmempin", "xlate_pin", "pinu"],
)
def test_pinned_user_memory_is_not_paged_out_until_it_is_unpinned(
    area: Area, pin: Callable[[Area, aix.Xmem], None], unpin: Callable[[Area, aix.Xmem], None]
) -> None:
    """Its neighbours are, by the same calls, and it is again once it has lost its last pin."""
    dp, before = aix.Xmem(), locked()
    assert aix.xmattach(area.start, area.size, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
    pin(area, dp)
    assert locked() - before == 4 * P
    assert _until(area, lambda: area.swapped() == area.size - 4 * P)
    assert area.page_out() == {4, 5, 6, 7}
    assert area.resident()[PINNED] == [1] * 4
    unpin(area, dp)
    assert aix.xmdetach(dp) == aix.XMEM_SUCC
    assert locked() == before
    assert _until(area, lambda: area.swapped() == area.size)
    assert process_vm.read(os.getpid(), area.start, area.size) == area.content


@pytest.mark.parametrize("area", [mmap.MAP_PRIVATE], indirect=True, ids=["private"])
def test_mincore_has_pinned_pages_alone(area: Area) -> None:
    """A page that is written out and only read again goes at once, and mincore says so."""
    dp = aix.Xmem()
    assert aix.xmattach(area.start, area.size, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
    for pins in (2, 1, 0):
        if pins == 2:
            xmempin(area, dp)
            xmempin(area, dp)
        else:
            xmemunpin(area, dp)
        stay = [int(bool(pins) and page in range(4, 8)) for page in range(PAGES)]
        for _ in range(_ATTEMPTS):
            mm.populate_read(area.start, area.size)
            area.page_out()
            if area.resident() == stay:
                break
            _wait_for_disk(area.disk)
        assert area.resident() == stay, pins
    assert aix.xmdetach(dp) == aix.XMEM_SUCC


# Both spaces, and a control group that has to give back its memory -------------------------------

_IN_A_GROUP = """
import mmap, subprocess, tempfile
from pathlib import Path
from pinfold.dialects import aix
from pinfold.host import process_vm
from pinfold.units import HostVa

P, PAGES, PINNED = PAGE_SIZE, 16, range(4, 8)
group = Path(sys.argv[1])
empty = group / "memory.force_empty"  # of version 1; its text says nothing
told = (empty, "0") if empty.exists() else (group / "memory.reclaim", "1G")

# Somebody outside the group tells it, while whoever is inside waits: a program that runs takes its
# own pages back as fast as they go, and the kernel goes for those first. That a group has less to
# give than it was asked for is no error.
shell = 'while read line; do for i in 1 2 3 4; do echo "$2" >"$1"; done 2>/dev/null; echo; done'
outside = subprocess.Popen(
    ["sh", "-c", shell, "sh", *map(str, told)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
(group / "cgroup.procs").write_text(str(os.getpid()))
try:
    (group / "memory.swappiness").write_text("100")
except OSError:
    pass  # version 2 has none

# The kernel decides by numbers that it brings up to date when enough has changed, for every
# processor so many pages, and somebody reads them.
ballast = 256 * P * min(os.cpu_count(), 64)

def reclaim():
    mmap.mmap(-1, ballast, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()
    (group / "memory.stat").read_text()
    os.write(outside.stdin.fileno(), b"\\n")
    os.read(outside.stdout.fileno(), 1)

def resident(address):
    return list(mm.resident(HostVa(address), PAGES * P))

def stay(most):
    '''The pages that are there in the end, by the name of the memory; tried until so many are.'''
    for _ in range(100):
        reclaim()
        with tempfile.TemporaryFile(dir=sys.argv[2]) as file:  # it waits for what was paged out
            file.write(bytes(P))
            file.flush()
            os.fsync(file.fileno())
        found = {name: resident(address) for name, address in areas.items()}
        if not any(found["control"]) and all(sum(each) <= most for each in found.values()):
            break
    return {n: [page for page, there in enumerate(each) if there] for n, each in found.items()}

def filled(flags):
    made = mmap.mmap(-1, PAGES * P, flags | mmap.MAP_ANONYMOUS)
    made[:] = content
    memory.append(made)
    return calls.address_of(memoryview(made))

content = os.urandom(PAGES * P)
memory = []
"""


def test_what_is_pinned_stays_when_the_kernel_takes_all_it_can(
    control_group: Path, swap: Path
) -> None:
    """System space and user space; counted down to nothing, everything goes.

    The pages of the memory object are looked at through both of its mappings, neither of which is
    locked: pinned is the memory, wherever it is seen.
    """
    found = _in_group(
        control_group,
        swap,
        """
        with pf.Process(pf.Kernel(seed=1), name="group") as process:
            both = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
            vmo = pf.Vmo(PAGES * P)
            vmo.write(content)
            first, second = (process.root.map(vmo, both) for _ in range(2))
            mm.populate_write(HostVa(second.address), PAGES * P)
            user, shared = filled(mmap.MAP_PRIVATE), filled(mmap.MAP_SHARED)
            areas = {
                "control": filled(mmap.MAP_PRIVATE),
                "pinned here": int(first.address), "and seen here": int(second.address),
                "user": user, "shared": shared,
            }
            one, two = aix.Xmem(), aix.Xmem()
            at = PINNED.start * P
            done = [
                aix.pin(int(first.address) + at, 4 * P),
                aix.ltpin(int(second.address) + at, 4 * P),
                aix.xmattach(user, PAGES * P, one, aix.USER_ADSPACE),
                aix.xmempin(user + at, 4 * P, one),
                aix.xmempin(user + at, 4 * P, one),
                aix.xmattach(shared, PAGES * P, two, aix.USER_ADSPACE),
                aix.xlate_pin(two, shared + at, 4 * P, aix.B_READ),
            ]
            stayed = [stay(4)]
            done += [
                aix.unpin(int(second.address) + at, 4 * P),
                aix.xmemunpin(user + at, 4 * P, one),
            ]
            stayed.append(stay(4))
            done += [
                aix.ltunpin(int(first.address) + at, 4 * P),
                aix.xmemunpin(user + at, 4 * P, one),
                aix.xlate_unpin(two, shared + at, 4 * P),
            ]
            stayed.append(stay(0))
            same = [
                process_vm.read(os.getpid(), address, PAGES * P) == content
                for address in areas.values()
            ]
            done += [aix.xmdetach(one), aix.xmdetach(two)]
            first.unmap()
            second.unmap()
            vmo.close()
        process.exit()
        outside.communicate()
        print(json.dumps([stayed, done, same, locked()]))
        """,
    )
    told, done, same, left = found
    if told[2]["control"]:
        pytest.skip("a control group told to give back its memory keeps what nobody has locked")
    assert done == [0] * len(done)
    pinned = {name: [4, 5, 6, 7] for name in told[0]} | {"control": []}
    assert told[0] == pinned
    assert told[1] == pinned
    assert told[2] == {name: [] for name in pinned}
    assert same == [True] * 5
    assert left == 0


def _in_group(group: Path, disk: Path, program: str) -> Any:
    before = HostState.now()
    found = run(_IN_A_GROUP + textwrap.dedent(program), str(group), str(disk))
    assert before.difference(HostState.now()) == []
    return found
