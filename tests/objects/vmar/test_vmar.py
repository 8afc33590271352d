"""Address regions: where things are placed, and what the processor sees of them."""

from __future__ import annotations

from typing import Any

import pytest

from pinfold import Kernel, Process, Resource, Vmo
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    InvalidArgs,
    NoResources,
    OutOfRange,
)
from pinfold.objects.vmar import VmOption
from pinfold.rights import Perm
from pinfold.units import GIB, MIB
from tests.objects.vmar.world import (
    CAN_ALL,
    CAN_READ,
    DEVICE,
    EXECUTE,
    READ,
    ROOT_PAGES,
    RW,
    SPECIFIC,
    UPPER,
    P,
    World,
    contiguous,
    kernel_maps,
    resident_in_tables,
)
from tests.user_memory import load, store

# Placing ----------------------------------------------------------------------------------------


def test_the_root_has_zircons_rights_and_real_addresses(world: World) -> None:
    """Source: zircon, the root VMAR's natural handle rights are 0x20801F."""
    assert int(world.root.rights) == 0x20801F
    assert world.root.size == ROOT_PAGES * P
    assert [
        line[2] for line in kernel_maps(world.root.base, world.root.base + world.root.size)
    ] == ["---p"]


@pytest.mark.parametrize(
    ("options", "rights"),
    [(0, 0x208003), (CAN_READ, 0x208007), (CAN_ALL, 0x20801F), (VmOption.COMPACT, 0x208003)],
)
def test_a_childs_rights_follow_its_options(world: World, options: VmOption, rights: int) -> None:
    """Source: zx_vmar_allocate: rights 0x208003, and READ, WRITE, EXECUTE per CAN_MAP."""
    assert int(world.allocate(P, options).rights) == rights


def test_a_child_may_let_choose_where_its_parent_does_not(world: World) -> None:
    """Source: zircon, CAN_MAP_SPECIFIC may be granted even if the parent lacks it."""
    outer = world.allocate(8 * P, CAN_READ)
    inner = world.allocate(4 * P, CAN_READ | VmOption.CAN_MAP_SPECIFIC, of=outer)
    assert inner.map(world.vmo, READ | SPECIFIC, offset=P, size=P).address == inner.base + P


def test_placing_is_first_fit(world: World) -> None:
    """Source: zircon without address randomisation: the lowest candidate."""
    base = world.root.base
    made = [world.root.map(world.vmo, READ, size=2 * P) for _ in range(4)]
    assert [m.address - base for m in made] == [0, 2 * P, 4 * P, 6 * P]
    made[1].unmap()
    assert world.root.map(world.vmo, READ, size=3 * P).address == base + 8 * P
    assert world.root.map(world.vmo, READ, size=P).address == base + 2 * P
    assert world.allocate(P).base == base + 3 * P


def test_an_alignment_is_honoured_and_an_upper_limit_too(world: World) -> None:
    with Process(world.kernel) as other:
        root = other.reserve_root(size=GIB)
        root.map(world.vmo, READ, size=P)
        for log2 in (10, 11, 16, 21, 25):
            made = root.map(world.vmo, READ | VmOption.align(log2), size=P)
            assert made.address % max(1 << log2, P) == 0
        low = root.map(world.vmo, READ | UPPER, offset=8 * P, size=P, vmo_offset=3 * P)
        assert root.base <= low.address <= root.base + 7 * P
        assert load(low.address) == bytes([4])  # the memory offset is honoured
        assert root.map(world.vmo, READ | UPPER, offset=root.size).size == 4 * P
        with pytest.raises(InvalidArgs) as caught:
            root.map(world.vmo, READ | SPECIFIC | VmOption.align(32), offset=P)
        assert caught.value.limit == 1 << 32
        with pytest.raises(NoResources) as full:
            root.map(world.vmo, READ | UPPER, offset=4 * P)
        assert full.value.limit == root.base + 4 * P
        other.exit()


@pytest.mark.parametrize("log2", [9, 33, 0, -1])
def test_an_alignment_that_there_is_not(log2: int) -> None:
    with pytest.raises(InvalidArgs) as caught:
        VmOption.align(log2)
    assert caught.value.asked == log2


def test_random_placement_differs_by_seed_and_repeats(world: World) -> None:
    def places(seed: int) -> list[int]:
        with Process(world.kernel) as other:
            root = other.reserve_root(size=GIB, seed=seed)
            found = [root.map(world.vmo, READ).address - root.base for _ in range(8)]
            inner = world.keep(root.allocate(8 * P, VmOption.COMPACT | CAN_READ))
            assert inner.map(world.vmo, READ).address == inner.base
            other.exit()
        return found

    assert places(1) == places(1)
    assert places(1) != places(2)


def test_a_root_at_a_chosen_address(world: World) -> None:
    first = Process(world.kernel)
    with pytest.raises(AlreadyExists):
        first.reserve_root(size=P, address=world.root.base)
    root = first.reserve_root(size=MIB)
    base = root.base
    assert first.root is root
    with pytest.raises(BadState) as caught:
        first.reserve_root(size=P)
    assert caught.value.remedy
    first.exit()
    with pytest.raises(BadState):
        first.reserve_root(size=P)
    second = Process(world.kernel)
    assert second.reserve_root(size=MIB, address=base).base == base
    second.exit()


# What a mapping shows ---------------------------------------------------------------------------


def test_a_mapping_is_the_memory_itself(world: World) -> None:
    made = world.root.map(world.vmo, RW, vmo_offset=P, size=2 * P)
    assert (made.size, made.vmo_offset, made.max_perms) == (2 * P, P, Perm.READ | Perm.WRITE)
    assert load(made.address) == bytes([2])
    assert store(made.address + P, b"hello")
    assert world.vmo.read(2 * P, 5) == b"hello"
    world.vmo.write(b"world", P)
    assert bytes(made.view(0, 5)) == b"world"
    made.array("<u4")[0] = 0x01020304
    assert world.vmo.read(P, 4) == bytes([4, 3, 2, 1])


def test_a_length_is_rounded_up_and_defaults_to_the_rest(world: World) -> None:
    """Source: zx_vmar_map, N rounds len up."""
    assert world.root.map(world.vmo, READ, size=1).size == P
    assert world.root.map(world.vmo, READ, vmo_offset=P).size == 3 * P
    with pytest.raises(InvalidArgs):
        world.root.map(world.vmo, READ, vmo_offset=4 * P)


@pytest.mark.parametrize(
    ("options", "perms"),
    [
        (0, "---s"),
        (READ, "r--s"),
        (RW, "rw-s"),
        (READ | EXECUTE, "r-xs"),
        (RW | EXECUTE, "rwxs"),
        (VmOption.PERM_READ_IF_XOM_UNSUPPORTED | EXECUTE, "r-xs"),
    ],
)
def test_permissions_are_the_processors(world: World, options: VmOption, perms: str) -> None:
    vmo = world.executable()
    made = world.root.map(vmo, options)
    assert kernel_maps(made.address, made.address + P) == [(made.address, made.address + P, perms)]
    assert (load(made.address) is None) == (perms[0] == "-")
    assert store(made.address, b"x") == (perms[1] == "w")
    world.root.protect(made.address, P, READ)
    assert kernel_maps(made.address, made.address + P)[0][2] == "r--s"


def test_execute_only_where_it_is_not_to_be_had_in_protect_too(world: World) -> None:
    made = world.root.map(world.executable(), 0)
    world.root.protect(made.address, P, EXECUTE | VmOption.PERM_READ_IF_XOM_UNSUPPORTED)
    assert kernel_maps(made.address, made.address + P)[0][2] == "r-xs"


def test_a_mapping_keeps_the_memory_after_its_handles(world: World) -> None:
    """Source: zx_vmar_map: closing the VMO handle does not remove the mapping."""
    vmo = world.new_vmo(1)
    vmo.write(b"kept")
    koid = vmo.koid
    made = world.root.map(vmo, READ)
    again = world.root.map(vmo, READ)
    assert vmo.statistics().mappings == 2
    vmo.close()
    made.unmap()
    assert load(again.address, 4) == b"kept"
    assert koid in {found.koid for found in world.kernel.objects()}
    again.unmap()
    assert koid not in {found.koid for found in world.kernel.objects()}


def test_mapping_commits_nothing_and_map_range_enters_what_there_is(world: World) -> None:
    """Source: zx_vmar_map, MAP_RANGE: nothing is committed, pages beyond the VMO are skipped."""
    vmo = world.new_vmo(8)
    vmo.write(b"x", 2 * P)
    vmo.write(b"y", 5 * P)
    before = vmo.committed_ranges()
    made = world.root.map(vmo, READ | VmOption.MAP_RANGE, vmo_offset=P, size=9 * P)
    assert vmo.committed_ranges() == before
    present = [resident_in_tables(made.address + page * P) for page in range(9)]
    assert present == [False, True, False, False, True, False, False, False, False]
    assert not resident_in_tables(world.root.map(vmo, READ, vmo_offset=2 * P).address)
    world.root.map(vmo, VmOption.MAP_RANGE)  # no access: nothing can be entered


def test_address_spaces_that_map_it_are_counted(world: World) -> None:
    """Source: zx_info_vmo_t, share_count: 1 wherever there are fewer than two mappings."""

    def counts() -> tuple[int, int]:
        now = world.vmo.statistics()
        return now.mappings, now.share_count

    assert counts() == (0, 1)
    made = world.root.map(world.vmo, READ)
    world.root.unmap(made.address + P, P)
    assert counts() == (2, 1)
    with Process(world.kernel) as other:
        also = other.reserve_root(size=MIB).map(world.vmo, READ)
        assert counts() == (3, 2)
        made.unmap()
        assert counts() == (1, 1)
        also.unmap()
        world.root.map(world.vmo, READ | SPECIFIC)
        other.root.map(world.vmo, READ | SPECIFIC)
        other.root.map(world.vmo, READ | VmOption.SPECIFIC_OVERWRITE, offset=P, size=P)
        assert counts() == (4, 2)
        other.exit()
    assert counts() == (1, 1)


def test_beyond_the_end_there_are_addresses_without_memory(world: World) -> None:
    """Source: zircon accepts it without ALLOW_FAULTS."""
    vmo = world.new_vmo(2, resizable=True)
    made = world.root.map(vmo, READ | VmOption.ALLOW_FAULTS, size=4 * P)
    assert load(made.address + P) == b"\0"
    assert load(made.address + 2 * P) is None
    with pytest.raises(OutOfRange) as caught:
        made.view(P, 2 * P)
    assert caught.value.limit == 2 * P
    vmo.resize(4 * P)
    assert bytes(made.view(3 * P, 1)) == b"\0"
    vmo.resize(P)
    assert made.mapped_size == 4 * P
    assert load(made.address + P) is None


def test_files_contiguous_and_device_memory_map_too(world: World, tmp_path: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"f" * (P + 5))
    with Vmo.from_file(path, process=world.process) as file:
        made = world.root.map(file, READ)
        assert bytes(made.view(P, 6)) == b"fffff\0"
        with pytest.raises(AccessDenied):
            world.root.map(file, RW)
        with pytest.raises(AccessDenied):
            world.root.protect(made.address, P, RW)
    with contiguous(world) as run:
        assert bytes(world.root.map(run, RW).view(0, 1)) == b"\0"
    with Resource(DEVICE, 4 * P, process=world.process) as bar:
        with Vmo.physical(bar, DEVICE + 2 * P, P, process=world.process) as window:
            low = world.root.map(window, RW | VmOption.MAP_RANGE)
        with Vmo.physical(bar, DEVICE, 4 * P, process=world.process) as whole:
            all_of_it = world.root.map(whole, RW)
    assert store(low.address, b"register")
    assert load(all_of_it.address + 2 * P, 8) == b"register"


def test_memory_of_another_kernel_is_refused(world: World) -> None:
    stranger = Process(Kernel())
    with Vmo(P, process=stranger) as foreign, pytest.raises(InvalidArgs):
        world.root.map(foreign, READ)
