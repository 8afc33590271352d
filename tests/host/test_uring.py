"""The ring: requests in and completions out, and calls that fail, on the real kernel."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pinfold.host import calls
from pinfold.host.abi_uring import (
    IORING_OP_FSYNC,
    IORING_OP_NOP,
    IORING_OP_READ_FIXED,
    IORING_OP_WRITE_FIXED,
    MAX_BUFFER,
)
from pinfold.host.uring import Ring
from pinfold.testing import FailNth, HostCalls, HostState
from pinfold.units import PAGE_SIZE, HostVa
from tests.host.rings import PAGES, SIZE, done, gone, needs_ring, pinned, reaped, requests
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_ring


def test_a_batch_is_answered_request_by_request(ring: Ring) -> None:
    wanted = requests(5, opcode=IORING_OP_NOP)
    ring.queue(wanted)
    assert (ring.room(), ring.queued()) == (3, 5)
    assert len(reaped(ring)) == 0
    assert ring.submit(5) == 5
    assert (ring.room(), ring.queued()) == (8, 0)
    ring.wait()  # there is something: no call
    found = reaped(ring)
    assert sorted(found["user_data"]) == [0, 1, 2, 3, 4]
    assert not found["res"].any()
    assert len(reaped(ring)) == 0


def test_what_is_reaped_is_a_copy(ring: Ring) -> None:
    """The kernel writes over a slot of the ring as soon as it is taken off."""
    first = requests(16, opcode=IORING_OP_NOP)
    for half in (first[:8], first[8:]):
        ring.queue(half)
        ring.submit(8)
    kept = reaped(ring)
    before = kept.copy()
    later = requests(8, opcode=IORING_OP_NOP)
    later["user_data"] += 1000
    for _ in range(2):
        assert set(done(ring, later)) == set(range(1000, 1008))
    assert (kept == before).all()


def test_both_rings_wrap_again_and_again(ring: Ring) -> None:
    """Batches of a length that does not divide the rings': every border falls within one."""
    number = 0
    for turn in range(200):
        count = turn % 7 + 1
        wanted = requests(count, opcode=IORING_OP_NOP)
        wanted["user_data"] += number
        assert set(done(ring, wanted)) == set(range(number, number + count))
        number += count
    assert (ring.room(), ring.queued()) == (8, 0)


def test_completions_wait_in_the_ring_and_beyond_it(ring: Ring) -> None:
    """Twice as many fit as requests; the kernel keeps the others and drops none."""
    for turn in range(4):
        wanted = requests(8, opcode=IORING_OP_NOP)
        wanted["user_data"] += 8 * turn
        ring.queue(wanted)
        assert ring.submit() == 8
    seen: list[int] = []
    while len(seen) < 32:
        found = reaped(ring)
        seen += [int(number) for number in found["user_data"]]
        if not len(found):
            ring.wait()
    assert sorted(seen) == list(range(32))


def test_a_full_ring_takes_as_many_as_it_has_room_for(ring: Ring) -> None:
    ring.queue(requests(8, opcode=IORING_OP_NOP))
    assert (ring.room(), ring.queued()) == (0, 8)
    assert ring.submit(8) == 8
    assert len(reaped(ring)) == 8


def test_what_was_not_submitted_can_be_taken_back(ring: Ring) -> None:
    """Wherever the queue's border lies; what is queued next is what is done."""
    for turn in range(20):
        ring.queue(requests(5, opcode=IORING_OP_NOP))
        assert ring.unqueue() == 5
        assert (ring.room(), ring.queued(), ring.unqueue()) == (8, 0, 0)
        wanted = requests(3, opcode=IORING_OP_NOP)
        wanted["user_data"] += 100 * turn + 50
        assert set(done(ring, wanted)) == set(range(100 * turn + 50, 100 * turn + 53))
    assert ring.submit() == 0
    assert len(reaped(ring)) == 0


def test_waiting_for_so_many_makes_a_call_only_where_there_are_fewer(ring: Ring) -> None:
    ring.queue(requests(4, opcode=IORING_OP_NOP))
    ring.submit(4)
    with HostCalls() as seen:
        ring.wait(4)
    assert seen.names == []
    with FailNth(1, errno.EINTR) as seen, pytest.raises(InterruptedError):
        ring.wait(5)
    assert seen.names == ["io_uring_enter"]
    assert len(reaped(ring)) == 4


def test_bytes_go_between_a_file_and_a_buffer(ring: Ring, memory: HostVa, file: int) -> None:
    """READ_FIXED and WRITE_FIXED of parts, by address and slot; FSYNC."""
    ring.put(5, memory, SIZE, MAX_BUFFER)
    turned = np.arange(PAGES)[::-1]
    fetch = requests(PAGES, opcode=IORING_OP_READ_FIXED, fd=file, buf_index=5, len=PAGE_SIZE)
    fetch["off"] = turned * PAGE_SIZE
    fetch["addr"] = memory + np.arange(PAGES) * PAGE_SIZE
    assert done(ring, fetch) == dict.fromkeys(range(PAGES), PAGE_SIZE)
    there = bytes(calls.buffer_at(memory, SIZE))
    assert there == b"".join(bytes([n]) * PAGE_SIZE for n in turned)

    calls.memset(memory, 0xA5, PAGE_SIZE)
    store = requests(1, opcode=IORING_OP_WRITE_FIXED, fd=file, buf_index=5, addr=memory)
    store["off"], store["len"] = 7, 11
    assert done(ring, store) == {0: 11}
    assert done(ring, requests(1, opcode=IORING_OP_FSYNC, fd=file)) == {0: 0}
    assert os.pread(file, 13, 6) == b"\x00" + b"\xa5" * 11 + b"\x00"
    fetch = fetch[:1]
    fetch["off"] = SIZE - 5
    assert done(ring, fetch) == {0: 5}, "the file ends"
    fetch["fd"] = 1 << 20
    assert done(ring, fetch) == {0: -errno.EBADF}
    ring.clear(5, 1)


def test_what_is_in_flight_keeps_its_pages_when_the_slot_is_cleared(
    ring: Ring, memory: HostVa
) -> None:
    """Source: io_uring_register(2). The end of the request lets them go, and not before."""
    before = pinned()
    ring.put(0, memory, PAGE_SIZE, MAX_BUFFER)
    reader, writer = os.pipe()
    wait = requests(1, opcode=IORING_OP_READ_FIXED, fd=reader, addr=memory, len=4)
    ring.queue(wait)
    assert ring.submit() == 1
    assert ring.clear(0, 1) == 1
    assert len(reaped(ring)) == 0
    assert pinned() == before + PAGE_SIZE
    os.write(writer, b"late")
    ring.wait()
    assert int(reaped(ring)[0]["res"]) == 4
    assert bytes(calls.buffer_at(memory, 4)) == b"late"
    assert gone(before)
    os.close(reader)
    os.close(writer)


def test_a_wait_hears_a_signal() -> None:
    """EINTR is the caller's to see; nothing is lost by it."""
    assert run(
        """
        import errno
        import numpy as np
        from pinfold.host.abi_uring import SQE, IORING_OP_NOP, IORING_OP_READ_FIXED
        from pinfold.host.uring import Ring
        ring = Ring(1, 1)
        start = area(1)
        ring.put(0, start, PAGE_SIZE, PAGE_SIZE)
        reader, writer = os.pipe()
        one = np.zeros(1, dtype=SQE)
        one["opcode"], one["fd"], one["addr"], one["len"] = IORING_OP_READ_FIXED, reader, start, 1
        ring.queue(one)
        ring.submit()
        heard = []
        signal.signal(signal.SIGALRM, lambda *_: heard.append("alarm"))
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            ring.wait()
        except OSError as error:
            heard.append(errno.errorcode[error.errno])
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(writer, b"x")
        while not len(found := ring.completed()):
            ring.wait()
        print(json.dumps([sorted(set(heard)), int(found[0]["res"])]))
        ring.close()
        """
    ) == [["EINTR", "alarm"], 1]


# Failures ---------------------------------------------------------------------------------------


def test_making_a_ring_leaves_nothing_of_it_when_a_call_fails() -> None:
    """Each host call in turn."""
    with HostCalls() as seen:
        Ring(4, 4).close()
    making = seen.names[: seen.names.index("io_uring_register") + 1]
    assert making == ["io_uring_setup", "mmap", "mmap", "mmap", "io_uring_register"]
    before = HostState.now()
    for n in range(1, len(making) + 1):
        with FailNth(n, errno.ENOMEM), pytest.raises(OSError, match="Cannot allocate"):
            Ring(4, 4)
        assert before.difference(HostState.now()) == [], making[n - 1]


def test_closing_goes_on_when_a_call_fails() -> None:
    """All is tried, and the first refusal raised."""
    before = HostState.now()
    for n in range(1, 5):
        ring = Ring(4, 4)
        with FailNth(n, errno.EIO) as seen, pytest.raises(OSError, match="Input/output"):
            ring.close()
        assert seen.names == ["munmap", "munmap", "munmap", "close"]
        assert before.difference(HostState.now()) == []


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("io_uring_register", lambda ring, at: ring.put(0, at, PAGE_SIZE, MAX_BUFFER)),
        ("io_uring_register", lambda ring, _: ring.clear(0, 1)),
        ("io_uring_enter", lambda ring, _: ring.submit()),
        ("io_uring_enter", lambda ring, _: ring.wait()),
    ],
)
def test_a_refused_call_changes_nothing(
    ring: Ring, memory: HostVa, call: str, act: Callable[[Ring, HostVa], object]
) -> None:
    """And the next one works."""
    before = pinned()
    ring.queue(requests(2, opcode=IORING_OP_NOP))
    with FailNth(1, errno.EAGAIN) as seen, pytest.raises(OSError, match="temporarily"):
        act(ring, memory)
    assert (seen.names, pinned(), ring.queued()) == ([call], before, 2)
    assert ring.submit(2) == 2
    assert len(reaped(ring)) == 2
    assert ring.put(0, memory, PAGE_SIZE, MAX_BUFFER) == 1
    assert ring.clear(0, 1) == 1


def test_numbers_of_requests_go_beyond_32_bits(ring: Ring) -> None:
    """What a caller keeps in user_data comes back whole."""
    wanted = requests(1, opcode=IORING_OP_NOP, user_data=np.uint64((1 << 64) - 1))
    assert done(ring, wanted) == {(1 << 64) - 1: 0}
