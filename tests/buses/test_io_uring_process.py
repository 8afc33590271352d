"""The io_uring bus in processes of its own: limits, forks, exits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.host import probe
from pinfold.units import KIB, PAGE_SIZE, human_size
from tests.programs import run

if TYPE_CHECKING:
    from pathlib import Path

# The limit counts over all processes of a user: these are nobody else.
NOBODY_ELSE = """
    RW = pf.Perm.READ | pf.Perm.WRITE
    def pinned():
        return probe.process_memory().pinned
    def become_somebody(limit):
        with pf.open_bus("io_uring") as bus:  # what is imported now need not be readable later
            bus.initiator(1).close()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        os.setgroups([])
        os.setgid(100000 + os.getpid())
        os.setuid(100000 + os.getpid())
    def refused(act):
        try:
            act()
        except PinfoldError as error:
            return told(error)
    def room_of(bti, vmo):  # the most that can be pinned
        for size in range(vmo.size, 0, -PAGE_SIZE):
            if refused(lambda: bti.pin(vmo, 0, size, perms=RW).unpin()) is None:
                return size
"""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become a user who has pinned nothing"
)


def told(program: str, *arguments: str) -> Any:
    return run(NOBODY_ELSE + program, *arguments)


@needs_root
def test_the_limit_is_exact_and_told_by_name() -> None:
    """Source: setrlimit(2): io_uring counts by user. What is held is named, and so is a remedy."""
    found = told("""
    become_somebody(64 * PAGE_SIZE)
    with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti, pf.Vmo(65 * PAGE_SIZE) as vmo:
        room = room_of(bti, vmo)
        statistics = bus.bus.statistics()
        whole = bti.pin(vmo, 0, room, perms=RW)
        full = pinned()
        more = refused(lambda: bti.pin(vmo, 0, PAGE_SIZE, perms=RW))
        whole.unpin()
        empty = pinned()
        large = refused(lambda: bti.pin(vmo, perms=RW))
        left = pinned()
        bti.pin(vmo, PAGE_SIZE, room, perms=RW).unpin()
        counts = [vmo.pin_count(), bti.statistics().pins]
    print(json.dumps([room, statistics.memlock_limit, statistics.may_exceed, full, empty, left,
                      more, large, counts]))
    """)
    room, limit, may_exceed, full, empty, left, more, large, counts = found
    assert (limit, may_exceed) == (64 * PAGE_SIZE, False)
    assert 48 * PAGE_SIZE < room <= limit  # since Linux 6.14 the ring itself counts
    assert (full, empty, left) == (room, 0, 0)
    assert counts == [0, 0]
    for error in (more, large):
        assert error["class"] == "LimitReached"
        assert error["limit"] == limit
        assert "RLIMIT_MEMLOCK" in error["text"]
    assert more["asked"] == PAGE_SIZE
    assert human_size(room) in more["holder"]
    assert (large["asked"], large["available"]) == (65 * PAGE_SIZE, limit)
    assert large.get("holder") is None


@needs_root
@pytest.mark.parametrize("less", [0, 1, 3, 4, 5, 8])
def test_a_registration_that_stops_half_way_leaves_nothing(less: int) -> None:
    """With 28 address bits a buffer is 4 pages. The kernel registers those that fit, and says how
    many; all of them go, and as much as fits can be pinned afterwards."""
    found = told(
        """
    become_somebody(64 * PAGE_SIZE)
    with pf.open_bus("io_uring") as bus, pf.Vmo(64 * PAGE_SIZE) as vmo:
        with bus.initiator(1, address_bits=28) as bti:
            room = room_of(bti, vmo)
            other = bti.pin(vmo, 0, PAGE_SIZE, perms=RW)
            size = room - int(sys.argv[1]) * PAGE_SIZE
            stopped = refused(lambda: bti.pin(vmo, perms=RW))
            after = [pinned(), vmo.pin_count(), bti.statistics().pins]
            other.unpin()
            with bti.pin(vmo, 0, size, perms=RW) as pmt:
                held = pinned() - size
                bti.master().write(int(pmt.addrs[0]), b"x" * size)
            written = vmo.read() == b"x" * size + bytes(vmo.size - size)
    print(json.dumps([stopped, after, held, written]))
    """,
        str(less),
    )
    stopped, after, held, written = found
    assert after == [PAGE_SIZE, 1, 1]
    assert (held, written) == (0, True)
    assert (stopped["class"], stopped["available"]) == ("LimitReached", 63 * PAGE_SIZE)


@needs_root
def test_a_limit_without_room_for_a_ring() -> None:
    """It is told as the limit, not as a kernel without io_uring. (Before Linux 6.14 it fits.)"""
    found = told("""
    become_somebody(0)
    try:
        pf.open_bus("io_uring").close()
        print(json.dumps(None))
    except PinfoldError as error:
        print(json.dumps(told(error)))
    """)
    if found is not None:
        assert found["class"] == "LimitReached"
        assert found["limit"] == 0
        assert "RLIMIT_MEMLOCK" in found["text"]


@needs_root
def test_a_ring_that_was_closed_is_not_in_the_way() -> None:
    """Until the kernel has taken it apart, a moment later, it counts against the limit."""
    found = told("""
    become_somebody(16 * PAGE_SIZE)
    texts = []
    with pf.Vmo(4 * PAGE_SIZE) as vmo:
        for _ in range(50):
            try:
                with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti:
                    bti.pin(vmo, perms=RW).unpin()
            except LimitReached as error:
                texts.append(str(error))
        with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti, pf.Vmo(PAGE_SIZE * 17) as vmo:
            texts.append(str(refused(lambda: bti.pin(vmo, perms=RW))))
    print(json.dumps(texts))
    """)
    assert len(found) == 1
    assert "a moment" in found[0]


@pytest.mark.skipif(
    not probe.may_exceed_memlock(), reason="the limit on locked memory binds this process"
)
def test_with_the_capability_the_limit_does_not_count() -> None:
    """Root is not bound: nothing is counted against it."""
    found = told("""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (PAGE_SIZE, PAGE_SIZE))
    with pf.open_bus("io_uring") as bus, bus.initiator(1) as bti, pf.Vmo(64 * PAGE_SIZE) as vmo:
        bti.pin(vmo, perms=RW).unpin()
        print(json.dumps(bus.bus.statistics().may_exceed))
    """)
    assert found is True


def test_a_child_has_no_part_in_it() -> None:
    """Every use is refused; its copies of the descriptors are gone, and so is what they would hold:
    when the parent's go, the kernel lets go of the pages."""
    found = told("""
    bus = pf.open_bus("io_uring")
    bti, vmo = bus.initiator(1), pf.Vmo(4 * PAGE_SIZE)
    file = bus.file(vmo_file := os.memfd_create("file"), writable=True)
    vmo.write(b"parent")
    pmt, other = bti.pin(vmo, perms=RW), file.pin(vmo, perms=RW)
    master, at = bti.master(), int(pmt.addrs[0])
    far = int(other.addrs[0])
    rings = [fd for fd in os.listdir("/proc/self/fd")
             if "io_uring" in (os.readlink(f"/proc/self/fd/{fd}")
                               if os.path.lexists(f"/proc/self/fd/{fd}") else "")]
    read, write = os.pipe()
    there, back = os.pipe()
    pid = os.fork()
    if pid == 0:
        refused = []
        for act in (lambda: master.read(at, 1), lambda: master.write(at, b"c"), pmt.unpin,
                    lambda: master.copy(at, at, 1), lambda: bti.pin(vmo, perms=RW),
                    lambda: file.read(far, 1, at=0), lambda: file.submit([(True, far, 1, 0)]),
                    file.sync, bti.master, lambda: bus.initiator(2), lambda: bus.file(vmo_file)):
            try:
                act()
                refused.append("nothing")
            except Exception as error:
                refused.append(type(error).__name__)
        left = [fd for fd in rings if os.path.lexists(f"/proc/self/fd/{fd}")]
        os.write(write, json.dumps([refused, left]).encode())
        os.read(there, 1)
        del pmt, other, bti, file, bus, master
        gc.collect()
        os._exit(0)
    child = json.loads(os.read(read, 10000))
    before = [pinned(), master.read(at, 6).decode(), file.write(far, 6, at=0)]
    for thing in (pmt.unpin, other.unpin, bti.close, file.close, bus.close):
        thing()
    after = pinned()
    os.write(back, b"x")
    code = os.waitpid(pid, 0)[1]
    print(json.dumps([child, before, after, len(rings), code]))
    """)
    (refused, left), before, after, rings, code = found
    assert refused == ["WrongProcess"] * len(refused)
    assert left == []
    assert before == [8 * PAGE_SIZE, "parent", 6]
    assert (after, rings, code) == (0, 2, 0)


def test_a_fork_while_threads_are_at_work() -> None:
    """A lock that another thread of the parent had is no lock of the child's: it is refused, and
    does not wait for ever."""
    found = told("""
    bus = pf.open_bus("io_uring")
    bti, vmo = bus.initiator(1), pf.Vmo(64 * PAGE_SIZE)
    pmt = bti.pin(vmo, perms=RW)
    master, at = bti.master(), int(pmt.addrs[0])
    going = True
    def work():
        while going:
            master.read(at, 64 * PAGE_SIZE)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = []
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: on purpose
            pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                master.read(at, 1)
            except WrongProcess:
                os._exit(0)
            os._exit(1)
        codes.append(os.waitpid(pid, 0)[1])
    going = False
    for thread in threads:
        thread.join()
    pmt.unpin()
    bti.close(), bus.close()
    print(json.dumps(codes))
    """)
    assert found == [0] * 20


def test_a_process_may_end_with_everything_open(tmp_path: Path) -> None:
    """With transfers under way and pins live: nothing is said, and nothing waits for ever."""
    path = tmp_path / "data"
    path.write_bytes(os.urandom(256 * KIB))
    found = told(
        """
    warnings.simplefilter("ignore", ResourceWarning)
    bus = pf.open_bus("io_uring")
    bti, vmo = bus.file(sys.argv[1]), pf.Vmo(64 * PAGE_SIZE)
    pmt = bti.pin(vmo, perms=RW)
    at = int(pmt.addrs[0])
    batch = bti.submit([(False, at + i * PAGE_SIZE, PAGE_SIZE, i * PAGE_SIZE) for i in range(64)])
    print(json.dumps("gone"))
    """,
        str(path),
    )
    assert found == "gone"


def test_a_signal_is_heard_while_transfers_are_waited_for(tmp_path: Path) -> None:
    """A handler that raises ends the wait. What is under way goes on, and is waited for again.
    Without an exception the wait goes on. A handler that asks for a transfer is refused."""
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 20))
    found = told(
        """
    class Heard(Exception):
        pass
    def raising(*_):
        heard.append("raised")
        raise Heard
    def quiet(*_):
        heard.append("quiet")
    def asking(*_):
        try:
            file.read(at, 1, at=0)
        except BadState:
            heard.append("refused")
    waits = 0
    def interceptor(name):  # a signal comes with each wait
        global waits
        if name == "io_uring_enter":
            waits += 1
            if waits % 2:
                signal.raise_signal(signal.SIGALRM)
    heard, results = [], []
    with open(sys.argv[1], "rb") as data:
        content = data.read()
    with pf.open_bus("io_uring") as bus, bus.file(sys.argv[1], depth=4) as file, \\
            pf.Vmo(1 << 20) as vmo, file.pin(vmo, perms=RW) as pmt:
        at = int(pmt.addrs[0])
        wanted = [(False, at + i * PAGE_SIZE, PAGE_SIZE, i * PAGE_SIZE) for i in range(256)]
        for handler in (raising, quiet, asking):
            signal.signal(signal.SIGALRM, handler)
            vmo.write(bytes(1 << 20))
            batch = file.submit(wanted)
            calls.set_interceptor(interceptor)
            for _ in range(10000):
                try:
                    outcomes = batch.finish()
                    break
                except Heard:
                    pass
            calls.set_interceptor(None)
            results.append([outcomes.bytes_moved, vmo.read() == content])
    print(json.dumps([results, sorted(set(heard)), pinned()]))
    """,
        str(path),
    )
    assert found == [[[1 << 20, True]] * 3, ["quiet", "raised", "refused"], 0]
