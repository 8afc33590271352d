"""pinu and unpinu, which are older; pincode and unpincode, which take what a function is in."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
import shutil
import sysconfig
from pathlib import Path

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.host import probe
from tests.memory.locking import locked

from .world import P, World, address

SYS, USER = aix.UIO_SYSSPACE, aix.UIO_USERSPACE

old = pytest.mark.filterwarnings("ignore:.*for whichever process is current:DeprecationWarning")


@pytest.mark.parametrize("service", [aix.pinu, aix.unpinu])
def test_they_are_deprecated(world: World, service: object) -> None:
    """And the warning names the caller's line."""
    with pytest.warns(DeprecationWarning, match="xmem") as caught:
        service(world.u, 0, USER)  # type: ignore[operator]
    assert caught[0].filename == __file__


@old
@pytest.mark.parametrize("flag", [SYS, USER])
def test_either_space_is_pinned(world: World, flag: int) -> None:
    start = world.a if flag == SYS else world.u
    before = locked()
    assert aix.pinu(start + 10, P, flag) == 0
    assert (world.short(start, 3), locked() - before) == ([1, 1, 0], 2 * P)
    assert aix.unpinu(start, 3 * P, flag) == aix.EINVAL
    assert world.short(start, 3) == [0, 0, 0]
    assert locked() == before


@old
def test_errors(world: World) -> None:
    for service in (aix.pinu, aix.unpinu):
        assert service(world.u, P, 99) == aix.EINVAL
        assert service(world.u, 0, USER) == aix.EINVAL
        assert service(world.u, -1, USER) == aix.EINVAL
        assert service(world.u, P, SYS) == aix.EFAULT
        assert service(world.a, P, USER) == aix.EFAULT
        assert service(16, P, USER) == aix.EINVAL
        assert service(world.a + 16 * P, P, SYS) == aix.EINVAL
    assert world.held == 0


@old
def test_not_more_than_the_limit(tight: World) -> None:
    assert aix.pinu(tight.a, 9 * P, SYS) == aix.ENOMEM
    assert tight.held == 0


@old
def test_environments(world: World) -> None:
    """Source: unpinu is for interrupt level where it is about system space."""
    assert (aix.pinu(world.a, P, SYS), aix.pinu(world.u, P, USER)) == (0, 0)
    with aix.interrupt_environment():
        with pytest.raises(aix.KernelAssertion):
            aix.pinu(world.a, P, SYS)
        with pytest.raises(aix.KernelAssertion):
            aix.unpinu(world.u, P, USER)
        assert aix.unpinu(world.a, P, SYS) == 0
    assert aix.unpinu(world.u, P, USER) == 0


@old
def test_mapped_files_are_refused(world: World, tmp_path: Path) -> None:
    """Source: pinu does not work on a mapped file. xmempin takes it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * P))
    with open(path, "r+b") as file:
        shown = mmap.mmap(file.fileno(), 2 * P)
    start = address(shown)
    assert aix.pinu(start, P, USER) == aix.EINVAL
    dp = world.attached(start, P)
    assert aix.xmempin(start, P, dp) == 0
    assert aix.xmemunpin(start, P, dp) == 0
    with pf.Vmo.from_file(path) as vmo:
        mapping = world.process.root.map(vmo, pf.VmOption.PERM_READ)
        assert aix.pinu(int(mapping.address), P, SYS) == aix.EINVAL
        mapping.unmap()
    shared = mmap.mmap(-1, P)
    assert aix.pinu(address(shared), P, USER) == 0
    assert aix.unpinu(address(shared), P, USER) == 0
    assert aix.xmdetach(dp) == aix.XMEM_SUCC
    shown.close()


# Code ---------------------------------------------------------------------------------------------


def function(library: ctypes.CDLL, name: str) -> int:
    found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert found is not None
    return found


def test_a_library_is_pinned_as_a_whole(world: World) -> None:
    """Source: pincode: the code and the data of the module that a function belongs to."""
    code = function(ctypes.CDLL(None), "qsort")
    line = next(line for line in probe.mappings() if line.start <= code < line.stop)
    parts = [each for each in probe.mappings() if each.path == line.path and each.readable]
    assert {each.executable for each in parts} == {True, False}
    before = locked()
    assert aix.pincode(code) == 0
    size = sum(each.stop - each.start for each in parts)
    assert locked() - before == size
    assert world.kernel.counted.statistics().long_term == size
    for part in parts:
        assert world.counts(part.start) == [(0, 1)]
    assert aix.unpincode(function(ctypes.CDLL(None), "strlen")) == 0
    assert (locked(), world.held) == (before, 0)


def test_pins_of_code_nest(world: World) -> None:
    code = function(ctypes.CDLL(None), "qsort")
    assert (aix.pincode(code), aix.pincode(code)) == (0, 0)
    assert aix.unpincode(code) == 0
    assert world.counts(code) == [(0, 1)]
    assert aix.unpincode(code) == 0


def test_what_is_no_code(world: World) -> None:
    """Data of a library, memory of our own, and nothing at all."""
    code = function(ctypes.CDLL(None), "qsort")
    line = next(line for line in probe.mappings() if line.start <= code < line.stop)
    data = next(m for m in probe.mappings() if m.path == line.path and not m.executable)
    for nowhere in (data.start, world.u, world.a, 16):
        assert aix.pincode(nowhere) == aix.EINVAL
        assert aix.unpincode(nowhere) == aix.EINVAL
    assert world.held == 0


def test_code_that_is_not_pinned_stops_the_system(world: World) -> None:
    code = function(ctypes.CDLL(None), "qsort")
    with pytest.raises(aix.KernelAssertion, match="unpincode"):
        aix.unpincode(code)
    assert world.held == 0


def test_too_much_code(tight: World) -> None:
    """Source: ENOMEM: nothing is pinned."""
    assert aix.pincode(function(ctypes.CDLL(None), "qsort")) == aix.ENOMEM
    assert tight.held == 0


def _size(path: Path) -> int:
    return path.stat().st_size


def test_code_that_has_been_unloaded(world: World, tmp_path: Path) -> None:
    """Source: EFAULT: the memory of the module is not accessible. Its pins are gone with it.

    A copy of a small extension of Python's, so that nobody else has it loaded.
    """
    extension = min(Path(sysconfig.get_config_var("DESTSHARED")).glob("_*.so"), key=_size)
    path = tmp_path / "unloaded.so"
    shutil.copy(extension, path)
    library = ctypes.CDLL(str(path))
    code = function(library, f"PyInit_{extension.name.partition('.')[0]}")
    assert aix.pincode(code) == 0
    _ctypes.dlclose(library._handle)  # noqa: SLF001 - ctypes has no other way
    assert aix.unpincode(code) == aix.EFAULT
    assert world.held == 0
    assert aix.unpincode(code) == aix.EINVAL


@pytest.mark.parametrize("service", [aix.pincode, aix.unpincode])
def test_for_the_process_environment_only(world: World, service: object) -> None:
    with aix.interrupt_environment(), pytest.raises(aix.KernelAssertion):
        service(world.a)  # type: ignore[operator]
