"""The same sequence of pins, unpins, reads and writes on sim and on io_uring: the same outcomes.

Addresses differ. What is compared is what moved, what was stopped and why, and what is in memory.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import DmaFault, PinfoldError
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
PAGES = 6
STEPS = 400


class Board:
    """A device on a bus, and memory."""

    def __init__(self, name: str) -> None:
        self.bus = pf.open_bus(name)
        self.bti = self.bus.initiator(7)
        self.master = self.bti.master()
        self.vmo = pf.Vmo(PAGES * PAGE)
        self.pins: list[pf.Pmt] = []
        self.starts: list[tuple[int, int]] = []

    def close(self) -> None:
        for pmt in self.pins:
            pmt.unpin()
        for thing in (self.vmo, self.bti, self.bus):
            thing.close()

    def address(self, which: int, place: str) -> int:
        """A place in one of the last ten pins, live or not."""
        start, size = self.starts[-1 - which % min(len(self.starts), 10)]
        return start + {"start": 0, "middle": size // 2 + 1, "last": size - 4, "end": size}[place]

    def do(self, step: tuple[Any, ...]) -> Any:
        """What became of one step."""
        kind, *rest = step
        try:
            if kind == "pin":
                first, count, perms = rest
                pmt = self.bti.pin(self.vmo, first * PAGE, count * PAGE, perms=perms)
                self.pins.append(pmt)
                self.starts.append((int(pmt.addrs[0]), count * PAGE))
                return len(pmt.extents)
            if kind == "unpin":
                self.pins.pop(rest[0] % len(self.pins)).unpin()
                return None
            which, place, size = rest[:3]
            at = self.address(which, place)
            if kind == "read":
                return self.master.read(at, size)
            if kind == "write":
                return self.master.write(at, rest[3][:size])
            return self.master.copy(self.address(rest[3], place), at, size)
        except DmaFault as error:
            fault = error.fault
            assert isinstance(fault, pf.Fault)
            return fault.reason, fault.access, fault.size
        except PinfoldError as error:
            return type(error)


@pytest.fixture
def boards(process: pf.Process) -> Iterator[tuple[Board, Board]]:
    """One on each bus."""
    del process
    made = Board("sim"), Board("io_uring")
    yield made
    for board in made:
        board.close()


def steps(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    live = made = 0
    for _ in range(STEPS):
        kind = chance.choice(["pin", "unpin", "read", "read", "write", "write", "copy"])
        if not made or (kind == "pin" and live < 8):
            first = chance.randrange(PAGES)
            count = chance.randint(1, PAGES - first)
            live, made = live + 1, made + 1
            yield "pin", first, count, chance.choice([READ, WRITE, READ | WRITE])
        elif kind == "unpin" and live:
            live -= 1
            yield "unpin", chance.randrange(100)
        else:
            which, size = chance.randrange(1000), chance.choice([0, 1, 8, 100, PAGE, 2 * PAGE])
            place = chance.choice(["start", "middle", "last", "end"])
            if kind == "write":
                yield "write", which, place, size, chance.randbytes(2 * PAGE)
            elif kind == "copy":
                yield "copy", which, place, min(size, 8), chance.randrange(1000)
            else:
                yield "read", which, place, size


@pytest.mark.parametrize("seed", range(8))
def test_the_same_sequence_has_the_same_outcomes(
    kernel: pf.Kernel, boards: tuple[Board, Board], seed: int
) -> None:
    """In range, over the end, in the wrong direction, after unpin."""
    sim, uring = boards
    stopped = moved = 0
    for number, step in enumerate(steps(random.Random(seed))):
        one, other = sim.do(step), uring.do(step)
        assert one == other, (number, step[:4])
        stopped += isinstance(one, tuple)
        moved += step[0] in ("read", "write", "copy") and not isinstance(one, tuple)
    assert stopped > 20
    assert moved > 10
    assert sim.vmo.read() == uring.vmo.read()
    assert sim.bus.faults.total == uring.bus.faults.total == stopped
    for page in range(PAGES):
        assert sim.vmo.pin_count(page * PAGE) == uring.vmo.pin_count(page * PAGE)
    check_books(kernel)
