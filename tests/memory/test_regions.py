"""The tree of host address ranges, against a model of single pages and against real memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.errors import AccessDenied, AlreadyExists, BadState, InvalidArgs, NoMemory
from pinfold.host import calls, mm, probe
from pinfold.memory.mapped import RWX, Lease, Mapped
from pinfold.memory.regions import Region
from pinfold.memory.reservation import AddressSpace
from pinfold.sites import caller
from pinfold.units import GIB, MIB, PAGE_SIZE, HostVa

PAGES = 24
FILE_PAGES = 16


def reads(address: int) -> int | None:
    """The byte at ``address``, or None where reading it would fault."""
    try:
        return calls.process_vm_read(os.getpid(), address, 1)[0]
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return None


def a_file(first: int) -> int:
    """A memfd whose page i is filled with ``first + i``."""
    fd = mm.create_memfd("regions", FILE_PAGES * PAGE_SIZE)
    for page in range(FILE_PAGES):
        calls.pwrite(fd, bytes([first + page]) * PAGE_SIZE, page * PAGE_SIZE)
    return fd


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[int, int]]:
    fds = a_file(1), a_file(101)
    yield fds
    for fd in fds:
        calls.close(fd)


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    made = AddressSpace(PAGES * PAGE_SIZE)
    yield made
    made.close()


class Counted(Mapped):
    """Remembers the file's number, so that a piece can be told from another's."""

    __slots__ = ("number",)

    def __init__(self, fd: int, number: int) -> None:
        super().__init__(fd)
        self.number = number


@dataclass
class Model:
    """Every page: which mapping shows which page of its file, with what permissions."""

    pages: dict[int, tuple[Counted, int, int]] = field(default_factory=dict)

    def pieces(self) -> dict[int, int]:
        """How many separate ranges each mapping has, by id."""
        counts: dict[int, int] = {}
        for page, (mapped, at, _) in self.pages.items():
            before = self.pages.get(page - 1)
            if before is None or before[0] is not mapped or before[1] != at - 1:
                counts[id(mapped)] = counts.get(id(mapped), 0) + 1
        return counts


def check(space: AddressSpace, model: Model, every: list[Counted]) -> None:
    """The books, the model and what the processor would see are the same."""
    base = space.base
    seen: dict[int, tuple[Mapped, int, int]] = {}
    for piece in space.root.pieces(space.base, space.stop):
        assert piece.runs[0][0] == piece.start
        assert piece.runs[-1][1] == piece.stop
        for low, high, prot in piece.runs:
            for address in range(low, high, PAGE_SIZE):
                at = (piece.offset + address - piece.start) // PAGE_SIZE
                seen[(address - base) // PAGE_SIZE] = (piece.mapped, at, prot)
    assert seen == model.pages
    for page in range(PAGES):
        entry = model.pages.get(page)
        readable = entry is not None and entry[2] & 1
        expected = entry[0].number + entry[1] if entry is not None and readable else None
        assert reads(base + page * PAGE_SIZE) == expected
    counts = model.pieces()
    for mapped in every:
        assert mapped.pieces == counts.get(id(mapped), 0)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, PAGES - 1))
    return start, draw(st.integers(start + 1, PAGES))


steps = st.lists(
    st.tuples(
        st.sampled_from(["map", "map", "find", "clear", "protect", "allocate", "destroy"]),
        spans(),
        st.integers(0, 7),
        st.sampled_from([0, 1, 3]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(steps)
def test_the_tree_is_what_a_dict_of_pages_is(
    files: tuple[int, int], plan: list[tuple[str, tuple[int, int], int, int, bool]]
) -> None:
    space = AddressSpace(PAGES * PAGE_SIZE)
    model, every, regions = Model(), list[Counted](), [space.root]
    try:
        for kind, (low, high), choice, prot, which in plan:
            regions = [region for region in regions if region.alive]
            region = regions[choice % len(regions)]
            first = (region.base - space.base) // PAGE_SIZE
            last = (region.stop - space.base) // PAGE_SIZE
            low, high = max(low, first), min(high, last)
            if low >= high:
                continue
            start, stop = space.base + low * PAGE_SIZE, space.base + high * PAGE_SIZE
            inner = [
                (a, b)
                for a, b, child in region.children.overlapping(start, stop)
                if isinstance(child, Region)
            ]
            if kind == "find":
                found = region.find_gap((high - low) * PAGE_SIZE, PAGE_SIZE, region.stop)
                assert found == lowest(region, (high - low) * PAGE_SIZE)
                if found is None:
                    continue
                start, stop, inner = found, found + stop - start, []
                low, high = ((at - space.base) // PAGE_SIZE for at in (start, stop))
            if kind in ("map", "find"):
                if inner or high - low > FILE_PAGES - choice:
                    continue
                mapped = Counted(files[which], 101 if which else 1)
                every.append(mapped)
                region.map(start, stop, mapped, choice * PAGE_SIZE, prot)
                for page in range(low, high):
                    model.pages[page] = (mapped, choice + page - low, prot)
            elif kind == "clear":
                if any(a < start or b > stop for a, b in inner):
                    continue
                region.clear(start, stop)
                for page in range(low, high):
                    model.pages.pop(page, None)
            elif kind == "protect":
                if any(page not in model.pages for page in range(low, high)):
                    continue
                region.protect(start, stop, prot)
                for page in range(low, high):
                    model.pages[page] = (*model.pages[page][:2], prot)
            elif kind == "allocate":
                if not region.children.overlapping(start, stop):
                    regions.append(region.allocate(start, stop, None, compact=False))
            elif region.parent is not None:
                region.destroy()
                for page in range(first, last):
                    model.pages.pop(page, None)
            check(space, model, every)
    finally:
        space.close()
    assert all(mapped.pieces == 0 for mapped in every)


def lowest(
    region: Region, size: int, align: int = PAGE_SIZE, limit: int | None = None
) -> int | None:
    """First fit, the slow way: try every page."""
    stop = region.stop if limit is None else limit
    for at in range(region.base, stop - size + 1, PAGE_SIZE):
        if at % align == 0 and not region.children.overlapping(at, at + size):
            return at
    return None


# The hint that makes first fit cheap must not change what it finds.
hinted = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 4),
        st.sampled_from([1, 1, 1, 2, 4]),
        st.integers(0, PAGES),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(hinted)
def test_a_gap_is_the_lowest_that_fits(plan: list[tuple[bool, int, int, int]]) -> None:
    """Source: zircon, placement without randomisation: the lowest candidate."""
    space = AddressSpace(PAGES * PAGE_SIZE)
    root = space.root
    try:
        for placing, pages, align, edge in plan:
            if placing:
                size, step = pages * PAGE_SIZE, align * PAGE_SIZE
                limit = root.base + edge * PAGE_SIZE if edge % 3 == 0 and edge else root.stop
                found = root.find_gap(size, step, limit)
                assert found == lowest(root, size, step, limit)
                if found is not None:
                    root.allocate(found, found + size, None, compact=False)
            elif root.children:
                entries = list(root.children)
                low, high, _ = entries[edge % len(entries)]
                root.clear(low, high)
    finally:
        space.close()


def test_random_placement_repeats_with_its_seed_and_uses_every_candidate() -> None:
    """Source: zircon, each of the first 2^entropy candidates may be picked."""
    picks: list[list[int | None]] = []
    for _ in range(2):
        space = AddressSpace(PAGES * PAGE_SIZE, seed=7)
        space.root.allocate(
            space.base + 4 * PAGE_SIZE, space.base + 6 * PAGE_SIZE, None, compact=False
        )
        found = [space.root.find_gap(2 * PAGE_SIZE, PAGE_SIZE, space.stop) for _ in range(400)]
        picks.append([None if at is None else (at - space.base) // PAGE_SIZE for at in found])
        space.close()
    assert picks[0] == picks[1]
    assert set(picks[0]) == {0, 1, 2, *range(6, PAGES - 1)}


def test_a_compact_region_is_filled_from_the_bottom_where_others_are_random() -> None:
    """Source: ZX_VM_COMPACT."""
    space = AddressSpace(PAGES * PAGE_SIZE, seed=1)
    inner = space.root.allocate(space.base, space.stop, None, compact=True)
    assert inner.find_gap(PAGE_SIZE, PAGE_SIZE, inner.stop) == inner.base
    space.close()


def test_placement_does_not_search_what_is_full(space: AddressSpace) -> None:
    """A row of equal requests looks at one gap each, whatever lies below."""
    looked: list[int] = []

    class Watched(Region):
        __slots__ = ()

        def gaps(self, at: int) -> Iterator[tuple[int, int]]:
            for gap in super().gaps(at):
                looked.append(gap[0])
                yield gap

    region = Watched(space, None, 0, 1 << 30)
    for index in range(0, 4000, 2):  # 2000 blocks with holes of a page between
        region.allocate(index * PAGE_SIZE, (index + 1) * PAGE_SIZE, None, compact=False)
    size = 2 * PAGE_SIZE
    for _ in range(100):
        found = region.find_gap(size, PAGE_SIZE, region.stop)
        assert found is not None
        region.allocate(found, found + size, None, compact=False)
    assert len(looked) <= 2000 + 100


# Reserving -------------------------------------------------------------------------------------


def test_a_space_is_reserved_and_given_back() -> None:
    before = probe.process_memory().size
    space = AddressSpace(GIB)
    assert probe.process_memory().size >= before + GIB
    assert reads(space.base) is None
    with pytest.raises(OSError, match="exists"):
        mm.reserve_at(HostVa(space.base), PAGE_SIZE)
    space.close()
    space.close()
    mm.reserve_at(HostVa(space.base), PAGE_SIZE)
    mm.unmap(HostVa(space.base), PAGE_SIZE)


def test_a_space_at_a_chosen_address() -> None:
    first = AddressSpace(MIB)
    address = first.base
    with pytest.raises(AlreadyExists) as caught:
        AddressSpace(MIB, address)
    assert caught.value.asked == address
    assert caught.value.holder
    assert caught.value.remedy
    first.close()
    again = AddressSpace(MIB, address)
    assert again.base == address
    again.close()


@pytest.mark.parametrize(
    ("size", "address"), [(0, None), (-PAGE_SIZE, None), (PAGE_SIZE + 1, None), (PAGE_SIZE, 1)]
)
def test_a_space_has_whole_pages(size: int, address: int | None) -> None:
    with pytest.raises(InvalidArgs):
        AddressSpace(size, address)


@pytest.fixture
def refuse_mmap() -> Iterator[list[int]]:
    """Refuse mmap with ENOMEM as often as the list says; the rest go through."""
    left = [0]

    def interceptor(name: str) -> None:
        if name == "mmap" and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    former = calls.set_interceptor(interceptor)
    yield left
    calls.set_interceptor(former)


def test_the_default_size_shrinks_to_what_there_is(refuse_mmap: list[int]) -> None:
    refuse_mmap[0] = 3
    space = AddressSpace()
    limit = probe.address_space_limit()
    assert space.stop - space.base == (128 * GIB if limit is None else space.stop - space.base)
    assert refuse_mmap[0] == 0
    space.close()


def test_a_limit_on_address_space_is_named(
    refuse_mmap: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source: getrlimit(2): RLIMIT_AS counts reservations."""
    monkeypatch.setattr(probe, "address_space_limit", lambda: 8 * GIB)
    space = AddressSpace()
    assert space.stop - space.base == 2 * GIB
    space.close()
    refuse_mmap[0] = 1 << 30
    for size in (None, GIB):
        with pytest.raises(NoMemory, match="RLIMIT_AS") as caught:
            AddressSpace(size)
        assert caught.value.limit == 8 * GIB


# Views -----------------------------------------------------------------------------------------


def lend(space: AddressSpace, mapped: Mapped, low: int, high: int, needs: int) -> memoryview:
    start, stop = space.base + low * PAGE_SIZE, space.base + high * PAGE_SIZE
    lease = Lease(start, stop, needs, caller())

    def over(_: object) -> None:
        mapped.leases.discard(lease)
        space.lease_over(lease)

    return space.lend(mapped, lease, over)


def test_a_view_stops_what_would_take_its_bytes(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    root, base, mapped = space.root, space.base, Mapped(files[0])
    root.map(base, base + 4 * PAGE_SIZE, mapped, 0, 3)
    view = lend(space, mapped, 1, 2, 3)
    shown = base + PAGE_SIZE
    acts: tuple[Callable[[], None], ...] = (
        lambda: root.clear(base, shown + PAGE_SIZE),
        lambda: root.clear(shown, shown + PAGE_SIZE),
        lambda: root.map(shown, shown + PAGE_SIZE, Mapped(files[1]), 0, 1),
        lambda: root.protect(shown, shown + PAGE_SIZE, 1),
        lambda: root.protect(base, base + 4 * PAGE_SIZE, 0),
    )
    for act in acts:
        with pytest.raises(BadState) as caught:
            act()
        assert __file__ in str(caught.value.holder)
        assert caught.value.remedy
    root.protect(shown, shown + PAGE_SIZE, RWX)  # takes nothing away
    root.clear(shown + PAGE_SIZE, base + 4 * PAGE_SIZE)  # beside it
    part = view[5:9]
    del view
    with pytest.raises(BadState):
        root.clear(base, shown + PAGE_SIZE)
    del part
    root.clear(base, shown + PAGE_SIZE)
    assert mapped.pieces == 0


def test_a_view_that_is_gone_stops_nothing_before_anybody_is_told(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """The word of its end waits for the lock, which another thread may hold."""
    mapped = Mapped(files[0])
    space.root.map(space.base, space.base + PAGE_SIZE, mapped, 0, 1)
    lease = Lease(space.base, space.base + 8, 1, caller())
    view = mapped.lend(lease, lambda _: None)
    assert lease.live
    del view
    space.root.clear(space.base, space.base + PAGE_SIZE)
    assert mapped.leases == {lease}


def test_addresses_of_a_stale_view_are_given_to_nobody(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """A late access faults; it never reads somebody else's bytes."""
    root, base, mapped = space.root, space.base, Mapped(files[0])
    root.map(base, base + 2 * PAGE_SIZE, mapped, 0, 1)
    view = lend(space, mapped, 0, 1, 1)
    root.clear(base, base + 2 * PAGE_SIZE, force=True)
    assert reads(base) is None
    assert root.find_gap(PAGE_SIZE, PAGE_SIZE, root.stop) == base + PAGE_SIZE
    with pytest.raises(BadState):
        root.map(base, base + PAGE_SIZE, Mapped(files[1]), 0, 1)
    del view
    assert root.find_gap(PAGE_SIZE, PAGE_SIZE, root.stop) == base


def test_a_reservation_outlives_its_stale_views(files: tuple[int, int]) -> None:
    space, mapped = AddressSpace(MIB), Mapped(files[0])
    space.root.map(space.base, space.base + PAGE_SIZE, mapped, 0, 1)
    view = lend(space, mapped, 0, 1, 1)
    space.close()
    assert reads(space.base) is None
    assert mapped.pieces == 0
    with pytest.raises(OSError, match="exists"):
        mm.reserve_at(HostVa(space.base), PAGE_SIZE)
    del view
    mm.reserve_at(HostVa(space.base), PAGE_SIZE)
    mm.unmap(HostVa(space.base), PAGE_SIZE)


# Refusals --------------------------------------------------------------------------------------


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
