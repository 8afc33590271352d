"""The NVMe controller in software: its I/O commands, where their data lies, and what is stopped."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.nvme import MemoryMedium, Nvme
from tests.devices import nvme_host as host_of
from tests.devices.nvme_host import (
    CC,
    CSTS,
    DATA,
    DOORBELLS,
    FATAL,
    READ,
    SLOTS,
    WRITE,
    Host,
    hosting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

P = pf.PAGE_SIZE
BLOCK = 512
BLOCKS = 1 << 14
PER_PAGE = P // BLOCK
LISTS = 40
"""A page of the host's memory, from which on PRP lists lie."""
NOWHERE = 0x0F00_0000_0000
"""Where nothing is granted, and no memory is."""

LBA_OUT_OF_RANGE, INVALID_NAMESPACE, INVALID_FIELD = 0x80, 0x0B, 0x02
INVALID_PRP_OFFSET, DATA_TRANSFER_ERROR = 0x13, 0x04


@pytest.fixture
def medium() -> MemoryMedium:
    made = MemoryMedium(BLOCKS * BLOCK)
    made.write(0, random.Random(1).randbytes(64 * P))
    return made


@pytest.fixture
def host(device_bti: pf.Bti, medium: MemoryMedium) -> Iterator[Host]:
    """A host that has started it. There is no limit of a transfer."""
    nvme = Nvme(device_bti.master(), medium, max_transfer=None)
    with hosting(nvme, device_bti) as made:
        made.start()
        yield made


def put_list(host: Host, entries: list[int], *, page: int = LISTS, offset: int = 0) -> int:
    """Write a PRP list; its device address."""
    host.memory.write(struct.pack(f"<{len(entries)}Q", *entries), page * P + offset)
    return host.at(page, offset)


# Commands ----------------------------------------------------------------------------------------


def test_blocks_move_both_ways(host: Host, medium: MemoryMedium) -> None:
    host.memory.write(b"w" * BLOCK, DATA * P)
    assert host.io(WRITE, prp1=host.at(DATA), d10=BLOCKS - 1).status == 0
    assert medium.read((BLOCKS - 1) * BLOCK, BLOCK) == b"w" * BLOCK
    assert host.io(READ, prp1=host.at(DATA, P - BLOCK), d10=3).status == 0
    assert host.memory.read(DATA * P + P - BLOCK, BLOCK) == medium.read(3 * BLOCK, BLOCK)
    found = host.controller.statistics()
    assert (found.bytes_read, found.bytes_written, found.errors) == (BLOCK, BLOCK, 0)


def test_zeroes_need_no_memory(host: Host, medium: MemoryMedium) -> None:
    """Section 6.17: and no limit of a transfer applies."""
    assert host.io(host_of.WRITE_ZEROES, d10=1, d12=9).status == 0
    assert medium.read(BLOCK, 10 * BLOCK) == bytes(10 * BLOCK)
    assert any(medium.read(0, BLOCK))
    assert any(medium.read(11 * BLOCK, BLOCK))


def test_flush(host: Host, medium: MemoryMedium) -> None:
    for namespace in (1, 0xFFFFFFFF):
        assert host.io(host_of.FLUSH, namespace=namespace).status == 0
    assert medium.flushes == 2
    assert host.io(host_of.FLUSH, namespace=2).status == INVALID_NAMESPACE


@pytest.mark.parametrize("opcode", [READ, WRITE, host_of.WRITE_ZEROES])
def test_ranges_of_blocks(host: Host, opcode: int) -> None:
    """An LBA has 64 bits; no sum of them wraps."""
    at = host.at(DATA)
    for lba, count in ((BLOCKS, 1), (BLOCKS - 1, 2), (1 << 32, 1), ((1 << 64) - 1, 2)):
        low, high = lba & 0xFFFFFFFF, lba >> 32
        done = host.io(opcode, prp1=at, d10=low, d11=high, d12=count - 1)
        assert (done.status, done.retry) == (LBA_OUT_OF_RANGE, False)
    assert host.io(opcode, prp1=at, namespace=2).status == INVALID_NAMESPACE


def test_a_transfer_over_the_limit(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    nvme = Nvme(device_bti.master(), medium, max_transfer=8192)
    with hosting(nvme, device_bti) as host:
        host.start()
        second = host.at(DATA + 1)
        assert host.io(READ, prp1=host.at(DATA), prp2=second, d12=15).status == 0
        assert host.io(READ, prp1=host.at(DATA), prp2=second, d12=16).status == INVALID_FIELD
        assert host.io(host_of.WRITE_ZEROES, d12=16).status == 0


def test_large_blocks(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    nvme = Nvme(device_bti.master(), medium, block_size=4096)
    with hosting(nvme, device_bti) as host:
        host.start()
        assert host.io(READ, prp1=host.at(DATA), d10=2).status == 0
        assert host.memory.read(DATA * P, 4096) == medium.read(8192, 4096)
        assert host.io(READ, prp1=host.at(DATA), d10=BLOCKS // 8).status == LBA_OUT_OF_RANGE


# Where data lies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 4, P - 4])
@pytest.mark.parametrize("begin", [0, 8, P - 24, P - 16, P - 8])
def test_lists_that_begin_anywhere(
    host: Host, medium: MemoryMedium, offset: int, begin: int
) -> None:
    """Eight pages in reverse order; from a certain ``begin`` on the list goes on elsewhere."""
    size = 8 * P - (P if offset else 0)
    pages = [host.at(DATA + page) for page in range(9, 0, -1)]
    first, others = pages[0] + offset, pages[1:8]
    room = (P - begin) // 8
    if len(others) > room:
        rest = put_list(host, others[room - 1 :], page=LISTS + 1)
        others = [*others[: room - 1], rest]
    second = put_list(host, others, offset=begin)
    done = host.io(READ, prp1=first, prp2=second, d12=size // BLOCK - 1)
    assert done.status == 0
    found = host.memory.read(DATA * P, 10 * P)
    in_order = b"".join(found[page * P :][:P] for page in range(9, 0, -1))
    assert in_order[offset : offset + size] == medium.read(0, size)
    assert not any(in_order[:offset])
    assert not any(in_order[offset + size :])
    assert host.io(WRITE, prp1=first, prp2=second, d10=1000, d12=size // BLOCK - 1).status == 0
    assert medium.read(1000 * BLOCK, size) == medium.read(0, size)


def test_a_list_of_lists(host: Host, medium: MemoryMedium) -> None:
    """More entries than two pages hold: every one the same page, which keeps the last."""
    entries, room = 2 * (P // 8) + 10, P // 8
    page = host.at(DATA)
    work: list[int] = []
    for number in range(3):
        count = min(room - (number < 2), entries - len(work))
        link = [host.at(LISTS + number + 1)] if number < 2 else []
        put_list(host, [page] * count + link, page=LISTS + number)
        work += [page] * count
    assert len(work) == entries
    blocks = (entries + 1) * PER_PAGE
    done = host.io(READ, prp1=page, prp2=host.at(LISTS), d12=blocks - 1)
    assert done.status == 0
    assert host.memory.read(DATA * P, P) == medium.read((blocks - PER_PAGE) * BLOCK, P)
    assert host.controller.statistics().bytes_read == blocks * BLOCK


@pytest.mark.parametrize(
    ("prp1", "prp2", "entries", "blocks"),
    [
        pytest.param(2, 0, None, 1, id="a first page"),
        pytest.param(0, 4, None, 2 * PER_PAGE, id="a second page"),
        pytest.param(0, None, [0, 8], 3 * PER_PAGE, id="a page in a list"),
        pytest.param(0, LISTS * P + 4, None, 3 * PER_PAGE, id="a list"),
        pytest.param(0, None, [-8, 8], 4 * PER_PAGE, id="a list in a list"),
    ],
)
def test_offsets_that_must_not_be(
    host: Host,
    medium: MemoryMedium,
    prp1: int,
    prp2: int | None,
    entries: list[int] | None,
    blocks: int,
) -> None:
    """Section 4.3. Nothing is moved, in memory or on the medium."""
    before = host.memory.read(DATA * P, 4 * P), medium.read(0, 4 * P)
    if entries is None:
        assert prp2 is not None
        second = host.at(prp2 // P or DATA + 1, prp2 % P)
    elif entries[0] < 0:  # the list has one place, for the address of the next, which is crooked
        put_list(host, [host.at(DATA + 1)] * 3, page=LISTS + 1, offset=8)
        second = put_list(host, [host.at(LISTS + 1, 8)], offset=P - 8)
    else:
        second = put_list(host, [host.at(DATA + 1) + entry for entry in entries])
    for opcode in (READ, WRITE):
        done = host.io(opcode, prp1=host.at(DATA, prp1), prp2=second, d12=blocks - 1)
        assert (done.status, done.retry) == (INVALID_PRP_OFFSET, False)
    assert (host.memory.read(DATA * P, 4 * P), medium.read(0, 4 * P)) == before


# What the bus stops ------------------------------------------------------------------------------


def test_data_that_is_stopped(any_bus: pf.Iommu, host: Host, medium: MemoryMedium) -> None:
    """The command fails, the controller goes on; a write changes no block."""
    before = medium.read(0, 2 * P)
    for opcode in (READ, WRITE):
        done = host.io(opcode, prp1=host.at(DATA), prp2=NOWHERE, d12=2 * PER_PAGE - 1)
        assert (done.status, done.retry) == (DATA_TRANSFER_ERROR, True)
    assert medium.read(0, 2 * P) == before
    assert host.io(host_of.FLUSH).status == 0
    assert [fault.address for fault in any_bus.faults] == [NOWHERE, NOWHERE]
    assert host.controller.statistics().stopped == 2


def test_a_list_that_is_stopped(any_bus: pf.Iommu, host: Host) -> None:
    done = host.io(READ, prp1=host.at(DATA), prp2=NOWHERE, d12=3 * PER_PAGE - 1)
    assert done.status == DATA_TRANSFER_ERROR
    assert not any(host.memory.read(DATA * P, P))  # the list is read before any data moves
    [fault] = any_bus.faults
    assert fault.size == 16


def test_a_submission_queue_that_is_stopped(host: Host) -> None:
    """Nothing can be told any more but by the status, until it is disabled (section 9.5)."""
    assert host.admin(host_of.CREATE_SQ, prp1=NOWHERE, d10=7 << 16 | 2, d11=1 << 16 | 1).status == 0
    host.controller.write32(DOORBELLS + 16, 1)
    host.pass_time()
    assert host.controller.read32(CSTS) & FATAL
    host.put(1, host_of.FLUSH)
    host.ring(1)
    host.pass_time()
    assert host.take(1) == []
    host.controller.write32(CC, 0)
    assert host.controller.read32(CSTS) == 0


def test_a_completion_queue_that_is_stopped(host: Host) -> None:
    create = host_of.CREATE_CQ
    assert host.admin(create, prp1=NOWHERE, d10=7 << 16 | 2, d11=1).status == 0
    done = host.admin(host_of.CREATE_SQ, prp1=host.at(DATA), d10=7 << 16 | 2, d11=2 << 16 | 1)
    assert done.status == 0
    host.memory.write(bytes(64), DATA * P)  # a flush of namespace 0: an error, to be told
    host.controller.write32(DOORBELLS + 16, 1)
    host.pass_time()
    assert host.controller.read32(CSTS) & FATAL
    assert host.controller.statistics().stopped == 1


# Queues ------------------------------------------------------------------------------------------


def test_a_full_completion_queue_is_waited_for(host: Host, medium: MemoryMedium) -> None:
    """Section 4.1.2: seven fit eight slots. The eighth is done once the host has read."""
    for _ in range(SLOTS - 1):
        host.put(1, host_of.FLUSH)
    host.ring(1)
    host.pass_time()
    assert len(host.take(1, acknowledge=False)) == SLOTS - 1
    host.put(1, host_of.FLUSH)
    host.ring(1)
    host.pass_time()
    assert host.take(1, acknowledge=False) == []
    assert medium.flushes == SLOTS - 1
    host.acknowledge(1)
    host.pass_time()
    assert len(host.take(1)) == 1
    assert medium.flushes == SLOTS


def test_heads_and_phases_go_round(host: Host) -> None:
    heads = [host.io(host_of.FLUSH).head for _ in range(20)]
    assert heads == [(at + 1) % SLOTS for at in range(20)]


def test_doorbells_of_nothing(host: Host) -> None:
    before = host.controller.statistics()
    host.controller.write32(DOORBELLS + 8, SLOTS)  # beyond the queue
    host.controller.write32(DOORBELLS + 12, SLOTS)
    host.controller.write32(DOORBELLS + 16, 1)  # no such queue
    host.controller.write32(DOORBELLS + 20, 1)
    host.pass_time()
    after = host.controller.statistics()
    assert after.ignored == before.ignored + 4
    assert after.commands == before.commands


def test_doorbells_that_lie_apart(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    nvme = Nvme(device_bti.master(), medium, stride=8, latency=0)
    with hosting(nvme, device_bti) as host:
        host.admin_registers(host.at(0), host.at(1))
        host.enable()
        host.put(0, host_of.ABORT)
        nvme.write32(DOORBELLS + 4, 1)  # between two
        assert host.take(0, acknowledge=False) == []
        host.ring(0)
        assert len(host.take(0, acknowledge=False)) == 1
        nvme.write32(DOORBELLS + 8, 1)
        assert nvme.statistics().ignored == 1


def test_commands_take_reads(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    nvme = Nvme(device_bti.master(), medium, latency=3, step=2)
    with hosting(nvme, device_bti) as host:
        host.start()
        for _ in range(5):
            host.put(1, host_of.FLUSH)
        host.ring(1)
        done = []
        for _ in range(6):
            nvme.read32(CSTS)
            done.append(medium.flushes)
        assert done == [0, 0, 2, 4, 5, 5]


def test_an_interrupt_that_resets(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    """A listener may do so in the middle of the work: what was left is not done."""
    nvme = Nvme(device_bti.master(), medium)
    with hosting(nvme, device_bti) as host:
        host.start()
        stop = nvme.on_interrupt(lambda _: nvme.reset())
        for _ in range(3):
            host.put(0, host_of.ABORT)
        host.ring(0)
        host.pass_time()
        assert len(host.take(0, acknowledge=False)) == 1
        stop()
