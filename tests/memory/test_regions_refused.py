"""Host address ranges where the kernel refuses: nothing changes, in the books as in the kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pinfold.errors import AccessDenied, NoMemory
from pinfold.host import calls, mm
from pinfold.memory.mapped import Mapped
from pinfold.memory.reservation import AddressSpace
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import Counted, Model, check, reads


def test_out_of_mappings_is_an_ordinary_error(
    space: AddressSpace, files: tuple[int, int], refuse_mmap: list[int]
) -> None:
    """Source: mmap(2) ENOMEM at vm.max_map_count; the old mapping is left intact."""
    root, base, mapped = space.root, space.base, Counted(files[0], 1)
    root.map(base, base + 3 * PAGE_SIZE, mapped, 0, 1)
    model = Model({page: (mapped, page, 1) for page in range(3)})
    middle = base + PAGE_SIZE, base + 2 * PAGE_SIZE
    acts: tuple[Callable[[], None], ...] = (
        lambda: root.clear(*middle),
        lambda: root.map(*middle, Counted(files[1], 101), 0, 1),
    )
    for act in acts:
        refuse_mmap[0] = 2
        with pytest.raises(NoMemory, match=r"vm\.max_map_count") as caught:
            act()
        assert isinstance(caught.value.__cause__, OSError)
        check(space, model, [mapped])


AT_THE_LIMIT = """
from pinfold import Kernel, Process, Vmo
from pinfold.errors import NoMemory
from pinfold.host import calls
from pinfold.host.abi import MAP_ANONYMOUS, MAP_SHARED
from pinfold.objects.vmar import VmOption
from pinfold.units import PAGE_SIZE as P

READ_AT = VmOption.PERM_READ | VmOption.SPECIFIC
process = Process(Kernel())
root, vmo, made = process.root, Vmo(2 * P, process=process), []
try:
    while True:  # each with a gap before it: no two are one mapping to the kernel
        made.append(root.map(vmo, READ_AT, offset=(2 * len(made) + 1) * P, size=P))
except NoMemory as error:
    assert "vm.max_map_count" in str(error)
assert len(made) == vmo.statistics().mappings
if FILL:
    try:
        while True:  # until every mmap is refused
            calls.mmap(0, P, 0, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
    except OSError:
        pass
    for mapping in made[10:20]:
        mapping.unmap()
    assert vmo.statistics().mappings == len(made) - 10
    root.map(vmo, READ_AT, offset=21 * P, size=P)
    root.unmap(root.base, 101 * P)
vmo.close()
process.exit()
assert process.kernel.objects() == []
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("fill", [True, False])
def test_unmapping_works_at_the_real_limit_of_mappings(*, fill: bool) -> None:
    """Source: mmap(2) ENOMEM: past vm.max_map_count every mmap is refused, ours to unmap too.

    In a process of its own: Python itself maps memory.
    """
    command = [sys.executable, "-W", "error", "-c", f"FILL = {fill}{AT_THE_LIMIT}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_kernel_is_never_asked_to_cut_the_reservation_by_unmapping(
    space: AddressSpace, files: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of mappings, replacing whole ones still works and cutting does not."""
    root, base = space.root, space.base
    for page in (2, 5):
        at = base + page * PAGE_SIZE
        root.map(at, at + PAGE_SIZE, Mapped(files[0]), 0, 1)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(mm, "clear_to_reserved", lambda at, size: asked.append((at - base, size)))
    root.clear(base, base + 2 * PAGE_SIZE)  # nothing is there: nothing is asked
    assert asked == []
    root.clear(base + PAGE_SIZE, base + 8 * PAGE_SIZE)
    assert asked == [(2 * PAGE_SIZE, 4 * PAGE_SIZE)]


def test_a_refused_mprotect_leaves_books_and_kernel_in_step(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Source: zx_vmar_protect: only NO_MEMORY can leave a partial result."""
    root, base = space.root, space.base
    first, second = Counted(files[0], 1), Counted(files[1], 101)
    root.map(base, base + 2 * PAGE_SIZE, first, 0, 1)
    root.map(base + 2 * PAGE_SIZE, base + 4 * PAGE_SIZE, second, 0, 1)
    seen = [0]

    def fail_from_the_second(name: str) -> None:
        seen[0] += name == "mprotect"
        if seen[0] >= 2:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    former = calls.set_interceptor(fail_from_the_second)
    try:
        with pytest.raises(NoMemory) as caught:
            root.protect(base, base + 4 * PAGE_SIZE, 0)
    finally:
        calls.set_interceptor(former)
    assert "put back" in "".join(caught.value.__notes__)
    model = Model({page: (first, page, 0) for page in range(2)})
    model.pages |= {page + 2: (second, page, 1) for page in range(2)}
    check(space, model, [first, second])


def test_a_descriptor_that_cannot_be_written_is_not_mapped_writable(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Source: mmap(2) EACCES."""
    fd = calls.open_file(f"/proc/self/fd/{files[0]}", os.O_RDONLY)
    try:
        with pytest.raises(AccessDenied) as caught:
            space.root.map(space.base, space.base + PAGE_SIZE, Mapped(fd), 0, 3)
        assert caught.value.remedy
    finally:
        calls.close(fd)
    assert reads(space.base) is None
    assert not space.root.children
