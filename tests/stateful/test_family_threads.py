"""Eight threads on one family of memory objects: children come and go, and no count is lost."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pinfold as pf
from pinfold.errors import PinfoldError
from pinfold.objects.signals import Signal
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
THREADS = 8
STEPS = 250
PAGES = 8
KINDS = (VmoChild.SNAPSHOT, VmoChild.SLICE, VmoChild.REFERENCE)


class Worker:
    """What one thread does: anything, to the shared objects and to children of its own."""

    def __init__(self, number: int, shared: list[pf.Vmo], bti: pf.Bti) -> None:
        self.chance = random.Random(number)
        self.shared = shared
        self.bti = bti
        self.mine: list[pf.Vmo] = []
        self.pins: list[pf.Pmt] = []
        self.refused = 0

    def run(self, start: threading.Barrier, process: pf.Process) -> Worker:
        acts: list[Callable[[pf.Vmo], object]] = [
            self.child,
            self.child,
            self.child,
            self.close,
            self.pin,
            self.unpin,
            self.reclaim,
            lambda vmo: vmo.write(b"x" * PAGE, self.offset()),
            lambda vmo: vmo.zero(self.offset(), PAGE),
            lambda vmo: vmo.decommit(self.offset(), PAGE),
            lambda vmo: vmo.resize(self.offset() + PAGE),
            lambda vmo: vmo.set_stream_size(self.offset()),
            lambda vmo: vmo.transfer(
                self.chance.choice(self.shared),
                offset=self.offset(),
                size=PAGE,
                source_offset=self.offset(),
            ),
            lambda vmo: vmo.wait(Signal.ZERO_CHILDREN, 0),
            lambda vmo: vmo.statistics(),
        ]
        start.wait()
        with process:
            for _ in range(STEPS):
                vmo = self.chance.choice(self.mine or self.shared)
                if self.chance.random() < 0.5:
                    vmo = self.chance.choice(self.shared)
                try:
                    self.chance.choice(acts)(vmo)
                except PinfoldError:
                    self.refused += 1
        return self

    def offset(self) -> int:
        return self.chance.randrange(PAGES) * PAGE

    def child(self, vmo: pf.Vmo) -> None:
        kind = self.chance.choice(KINDS)
        size = 0 if kind is VmoChild.REFERENCE else self.offset()
        self.mine.append(vmo.child(kind, 0, size))

    def close(self, _: pf.Vmo) -> None:
        if self.mine:
            self.mine.pop(self.chance.randrange(len(self.mine))).close()

    def pin(self, vmo: pf.Vmo) -> None:
        self.pins.append(self.bti.pin(vmo, 0, PAGE, perms=pf.Perm.READ))

    def unpin(self, _: pf.Vmo) -> None:
        if self.pins:
            self.pins.pop(self.chance.randrange(len(self.pins))).unpin()

    def reclaim(self, _: pf.Vmo) -> None:
        cache = self.shared[-1]
        cache.lock_memory()
        cache.unlock_memory()
        cache.kernel.reclaim()


def test_eight_threads_lose_no_child(process: pf.Process, kernel: pf.Kernel) -> None:
    """At the end every parent has as many children as are left of it, and says so."""
    with pf.open_bus("sim") as bus:
        bti = bus.initiator(1)
    shared = [pf.Vmo(PAGES * PAGE, resizable=n % 2 == 0) for n in range(4)]
    shared.append(pf.Vmo(PAGES * PAGE, discardable=True))
    start = threading.Barrier(THREADS)
    workers = [Worker(number, shared, bti) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for worker in pool.map(lambda worker: worker.run(start, process), workers):
            assert worker.refused < STEPS
    check_books(kernel)
    assert sum(len(worker.mine) for worker in workers) > THREADS
    for worker in workers:
        for pmt in worker.pins:
            pmt.unpin()
        for vmo in worker.mine:
            vmo.close()
    check_books(kernel)
    for vmo in shared:
        found = vmo.statistics()
        assert (found.children, found.pins, found.pinned) == (0, 0, 0)
        assert vmo.signals == Signal.ZERO_CHILDREN
        vmo.close()
    bti.close()
    assert kernel.objects() == [process]
