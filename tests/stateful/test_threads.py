"""Eight threads on shared objects: no count is lost, and no access goes astray."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import pinfold as pf
from pinfold.errors import BadHandle, BadState, DmaFault, LimitReached, Unavailable
from pinfold.testing import check_books

PAGE = pf.PAGE_SIZE
THREADS = 8
STEPS = 400
PAGES = 64


def test_eight_threads_lose_no_count(process: pf.Process, kernel: pf.Kernel) -> None:
    """Pin, unpin, write, resize, decommit, close and device accesses, on shared objects."""
    bus = pf.open_bus("sim")
    btis = [bus.initiator(number) for number in range(3)]
    vmos = [pf.Vmo(PAGES * PAGE, resizable=True) for _ in range(3)]
    start = threading.Barrier(THREADS)
    refused = (BadState, Unavailable, LimitReached, BadHandle, pf.errors.OutOfRange)

    def work(number: int) -> list[pf.Pmt]:
        chance = random.Random(number)
        mine: list[pf.Pmt] = []
        start.wait()
        for _ in range(STEPS):
            act = chance.randrange(6)
            vmo, bti = chance.choice(vmos), chance.choice(btis)
            try:
                if act <= 1 or not mine:
                    first = chance.randrange(PAGES)
                    count = chance.randrange(1, PAGES - first + 1)
                    perms = pf.Perm.READ | pf.Perm.WRITE
                    mine.append(bti.pin(vmo, first * PAGE, count * PAGE, perms=perms))
                elif act == 2:
                    mine.pop(chance.randrange(len(mine))).unpin()
                elif act == 3:
                    pmt = chance.choice(mine)
                    pmt.object.bti.space.master().write(int(pmt.addrs[0]), bytes([number]))
                elif act == 4:
                    vmo.resize(chance.randrange(PAGES // 2, PAGES + 1) * PAGE)
                else:
                    with vmo.duplicate() as other:
                        other.decommit(0, PAGE)
            except refused:
                continue
        return mine

    with process, ThreadPoolExecutor(THREADS) as pool:
        left = [pmt for mine in pool.map(work, range(THREADS)) for pmt in mine]
    check_books(kernel)
    assert kernel.statistics().ledger.pins == len(left)
    for pmt in left:
        pmt.unpin()
    check_books(kernel)
    assert kernel.statistics().ledger.pinned_bytes == 0
    assert [vmo.statistics().pins for vmo in vmos] == [0, 0, 0]
    for handles in (vmos, btis, [bus]):
        for handle in handles:
            handle.close()


def test_a_copy_that_is_under_way_never_writes_after_revoke(process: pf.Process) -> None:
    """On return from unpin the device is shut out, however busy it was."""
    size = 16 << 20
    bus = pf.open_bus("sim")
    bti = bus.initiator(1)
    source, target = pf.Vmo(size), pf.Vmo(size)
    source.write(b"\xaa" * size)
    reading = bti.pin(source, perms=pf.Perm.READ)
    writing = bti.pin(target, perms=pf.Perm.WRITE)
    a, b = int(reading.addrs[0]), int(writing.addrs[0])
    running = threading.Event()
    stop = threading.Event()

    def device() -> int:
        master = bti.master()
        copies = 0
        while True:
            try:
                master.copy(b, a, size)
            except DmaFault:
                return copies
            copies += 1
            running.set()
            assert not stop.is_set() or copies < 1000, "nobody stopped the device"

    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(device)
        running.wait()
        writing.unpin()
        stop.set()
        target.write(bytes(size))  # the memory is the host's again
        assert copying.result() >= 1
    assert target.read() == bytes(size)
    reading.unpin()
    for thing in (source, target, bti, bus):
        thing.close()


def test_tokens_dropped_by_many_threads_are_all_quarantined(
    process: pf.Process, recwarn: pytest.WarningsRecorder
) -> None:
    """A finaliser never waits, and nothing that it leaves is forgotten."""
    bus = pf.open_bus("sim")
    bti = bus.initiator(1)
    vmo = pf.Vmo(PAGES * PAGE)
    pins = [bti.pin(vmo, n % PAGES * PAGE, PAGE, perms=pf.Perm.READ) for n in range(PAGES * 8)]
    with ThreadPoolExecutor(THREADS) as pool:
        shares = [pins[n::THREADS] for n in range(THREADS)]
        pins.clear()
        list(pool.map(list.clear, shares))
    assert bti.statistics().quarantined == PAGES * 8
    assert bti.release_quarantine() == PAGES * 8
    assert len(recwarn) == PAGES * 8
    recwarn.clear()
    for thing in (vmo, bti, bus):
        thing.close()
