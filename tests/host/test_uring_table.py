"""The ring's table of registered buffers, on the real kernel."""

from __future__ import annotations

import errno

import pytest

from pinfold.host import abi, calls, mm
from pinfold.host.abi_uring import (
    IORING_MAX_REG_BUFFERS,
    IORING_OP_READ_FIXED,
    MAX_BUFFER,
)
from pinfold.host.uring import Ring
from pinfold.testing import HostState
from pinfold.units import PAGE_SIZE, HostVa
from tests.host.rings import RW, SIZE, done, gone, needs_ring, pinned, requests

pytestmark = needs_ring


def test_what_is_put_is_pinned_and_what_is_cleared_is_not(ring: Ring, memory: HostVa) -> None:
    """Source: proc(5), VmPin. Whole pages, however little of one is asked for."""
    before = pinned()
    assert ring.put(3, memory, SIZE, MAX_BUFFER) == 1
    assert pinned() == before + SIZE
    assert ring.put(4, HostVa(memory + 100), PAGE_SIZE, MAX_BUFFER) == 1
    assert pinned() == before + SIZE + 2 * PAGE_SIZE
    assert ring.clear(3, 2) == 2
    assert pinned() == before


def test_a_long_range_takes_a_slot_for_each_part(ring: Ring, memory: HostVa, file: int) -> None:
    """The last part is shorter; each slot is the part it should be."""
    longest = 3 * PAGE_SIZE
    assert ring.put(2, memory, SIZE, longest) == 3
    parts = [(0, longest), (longest, longest), (2 * longest, SIZE - 2 * longest)]
    for slot, (start, size) in enumerate(parts, 2):
        fill = requests(1, opcode=IORING_OP_READ_FIXED, fd=file, off=start, buf_index=slot)
        fill["addr"], fill["len"] = memory + start, size
        assert done(ring, fill) == {0: size}
        fill["addr"] = memory + start + size - 1
        fill["len"] = 2
        assert done(ring, fill) == {0: -errno.EFAULT}, "one byte beyond the slot's part"
    assert ring.clear(2, 3) == 3
    fill["addr"], fill["len"] = memory, 1
    assert done(ring, fill) == {0: -errno.EFAULT}, "the slot is empty"


def test_an_exact_multiple_has_no_empty_last_part(ring: Ring, memory: HostVa) -> None:
    before = pinned()
    assert ring.put(0, memory, SIZE, SIZE // 2) == 2
    assert pinned() == before + SIZE
    assert ring.clear(0, 2) == 2


def test_the_kernel_stops_at_a_bad_part_and_says_how_far_it_came(
    ring: Ring, memory: HostVa
) -> None:
    """Source: io_uring_register(2): a count that is short is no error, and must be compared."""
    before = pinned()
    room = mm.reserve(4 * PAGE_SIZE)
    fd = mm.create_memfd("hole", 4 * PAGE_SIZE)
    mm.map_shared_at(room, fd, 0, 2 * PAGE_SIZE, RW)
    calls.close(fd)
    assert ring.put(0, room, 4 * PAGE_SIZE, PAGE_SIZE) == 2
    assert pinned() == before + 2 * PAGE_SIZE
    with pytest.raises(OSError, match="Bad address") as caught:
        ring.put(2, HostVa(room + 2 * PAGE_SIZE), 2 * PAGE_SIZE, PAGE_SIZE)
    assert caught.value.errno == errno.EFAULT
    assert ring.clear(0, 4) == 4, "slots that are empty already count as well"
    assert pinned() == before
    mm.unmap(room, 4 * PAGE_SIZE)


@pytest.mark.parametrize(("slot", "pages"), [(16, 1), (15, 2), (1 << 31, 1)])
def test_a_range_beyond_the_table_is_refused_whole(
    ring: Ring, memory: HostVa, slot: int, pages: int
) -> None:
    """One slot of it may be there: it is not filled either."""
    before = pinned()
    with pytest.raises(OSError, match="Invalid argument"):
        ring.put(slot, memory, pages * PAGE_SIZE, PAGE_SIZE)
    assert pinned() == before


def test_a_buffer_has_a_gibibyte_at_most(ring: Ring) -> None:
    """Source: io_uring_register(2). The limit is looked at before the memory."""
    room = mm.reserve(MAX_BUFFER + PAGE_SIZE)
    with pytest.raises(OSError, match="Bad address"):
        ring.put(0, room, MAX_BUFFER + PAGE_SIZE, MAX_BUFFER + PAGE_SIZE)
    mm.unmap(room, MAX_BUFFER + PAGE_SIZE)


def test_a_read_only_mapping_is_refused(ring: Ring) -> None:
    """Linux pins for writing, whatever is done with the buffer."""
    fd = mm.create_memfd("read-only", PAGE_SIZE)
    address = mm.map_shared(fd, 0, PAGE_SIZE, abi.PROT_READ)
    calls.close(fd)
    with pytest.raises(OSError, match="Bad address"):
        ring.put(0, address, PAGE_SIZE, MAX_BUFFER)
    mm.unmap(address, PAGE_SIZE)


def test_the_largest_table_and_one_slot_more() -> None:
    """Source: io_uring_register(2). A refused table leaves no ring behind."""
    before = HostState.now()
    Ring(1, IORING_MAX_REG_BUFFERS).close()
    with pytest.raises(OSError, match="Invalid argument"):
        Ring(1, IORING_MAX_REG_BUFFERS + 1)
    assert before.difference(HostState.now()) == []


def test_closing_lets_every_buffer_go(memory: HostVa) -> None:
    before = pinned()
    ring = Ring(1, 4)
    ring.put(0, memory, SIZE, MAX_BUFFER)
    assert pinned() == before + SIZE
    ring.close()
    assert gone(before)
    ring.close()  # once is enough, twice is allowed


def test_what_is_put_over_a_slot_takes_its_place(ring: Ring, memory: HostVa) -> None:
    before = pinned()
    ring.put(0, memory, SIZE, MAX_BUFFER)
    ring.put(0, memory, PAGE_SIZE, MAX_BUFFER)
    assert pinned() == before + PAGE_SIZE
    ring.clear(0, 1)
