"""Reserving address space: how much, where, and until when."""

from __future__ import annotations

import pytest

from pinfold.errors import AlreadyExists, InvalidArgs, NoMemory
from pinfold.host import mm, probe
from pinfold.memory.mapped import Mapped
from pinfold.memory.reservation import AddressSpace
from pinfold.testing import HostCalls
from pinfold.units import GIB, MIB, PAGE_SIZE, HostVa
from tests.memory.host_ranges import interrupting, lend, reads


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


TOO_HIGH = 1 << 63  # no user address is so high
BIG = 1 << 64  # what a size_t and a pointer are cut to


@pytest.mark.parametrize(
    ("size", "address"), [(0, None), (-PAGE_SIZE, None), (PAGE_SIZE + 1, None), (PAGE_SIZE, 1)]
)
def test_a_space_has_whole_pages(size: int, address: int | None) -> None:
    with pytest.raises(InvalidArgs) as caught:
        AddressSpace(size, address)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("size", "address"),
    [
        (BIG + 4 * PAGE_SIZE, None),
        (BIG, None),
        (TOO_HIGH + PAGE_SIZE, None),
        (4 * PAGE_SIZE, BIG + 0x1000_0000),
        (4 * PAGE_SIZE, TOO_HIGH - PAGE_SIZE),
        (None, TOO_HIGH + PAGE_SIZE),
        (BIG - PAGE_SIZE, 2 * PAGE_SIZE),
    ],
)
def test_no_space_is_beyond_every_user_address(size: int | None, address: int | None) -> None:
    """What the C library would cut to 64 bits is refused: the books would have more than is ours.

    Source: mmap(2): size_t, void *.
    """
    seen = HostCalls()
    with seen, pytest.raises(InvalidArgs) as caught:
        AddressSpace(size, address)
    assert caught.value.limit == TOO_HIGH
    assert caught.value.remedy
    assert seen.names == []  # nobody else's memory was touched


@pytest.mark.parametrize("address", [0, -PAGE_SIZE])
def test_no_space_begins_at_address_0(address: int) -> None:
    """A mapping of NULL would make of every null pointer in the process a good one."""
    seen = HostCalls()
    with seen, pytest.raises(InvalidArgs) as caught:
        AddressSpace(PAGE_SIZE, address)
    assert caught.value.limit == PAGE_SIZE
    assert seen.names == []


def test_what_the_kernel_has_not_is_no_memory() -> None:
    """Below the limit of every machine, above this one's: the kernel says so."""
    with pytest.raises(NoMemory) as caught:
        AddressSpace(TOO_HIGH - PAGE_SIZE)
    assert "Process.exit" in str(caught.value.remedy)


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


def test_the_spare_mapping_is_had_again_after_an_interruption(
    space: AddressSpace, files: tuple[int, int]
) -> None:
    """Without it, unmapping at the limit of mappings would fail for good."""
    space.root.map(space.base, space.base + PAGE_SIZE, Mapped(files[0]), 0, 1)
    with interrupting(mm, "clear_to_reserved"):
        space.clear_at_the_limit(space.base, space.base + PAGE_SIZE)
    assert space.clear_at_the_limit(space.base, space.base + PAGE_SIZE)
