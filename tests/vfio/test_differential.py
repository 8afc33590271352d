"""The same random work on `sim` and on `vfio`: what happens, what moves, and what is stopped.

One device is a program behind a software IOMMU, the other QEMU's behind Intel's; driver, pins and
accesses are the same. Both buses place grants alike, so even the addresses are.

Left out is what is known to differ, see docs/buses.md: an access over a border, of which a real
IOMMU lets the first part through; a read of what is write-only, which Linux 6.1 lets through; and a
write to what is read-only after a read of the same page, which QEMU stops without a word.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

import pinfold as pf
from pinfold.devices.edu import Edu
from pinfold.drivers.edu import CHUNK, EduDriver
from pinfold.units import page_down
from tests.vfio.real import BOTH, READ, edu, faults_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.buses.vfio import VfioBus

T = TypeVar("T")

P = pf.PAGE_SIZE
PAGES: Final = 4
OBJECTS: Final = 3
STEPS: Final = 60
STRAY: Final = 4
"""Bytes in an access that is to be stopped."""

Seen = list[tuple[int, int, str]]
"""Faults: page, access, reason."""


class Side:
    """One of the two buses, with a device, memory, and pins."""

    def __init__(
        self, bti: pf.Bti, driver: EduDriver, watch: Callable[[Callable[[], None]], Seen]
    ) -> None:
        self.bti = bti
        self.driver = driver
        self.watch = watch
        self.vmos = [pf.Vmo(PAGES * P, name=f"object {number}") for number in range(OBJECTS)]
        self.pins: list[pf.Pmt] = []

    def pin(self, which: int, first: int, count: int, perms: pf.Perm) -> tuple[int, ...]:
        """Pin; where the device finds it."""
        self.pins.append(self.bti.pin(self.vmos[which], first * P, count * P, perms=perms))
        return tuple(self.pins[-1].addrs.tolist())

    def unpin(self, which: int) -> int:
        """Unpin; where it was."""
        pmt = self.pins.pop(which)
        at = int(pmt.addrs[0])
        pmt.unpin()
        return at

    def access(self, address: int, size: int, data: bytes) -> tuple[Seen, bytes]:
        """The device reads (no data) or writes; what was stopped, and what it has then."""
        if data:
            self.driver.store(data)
            return self.watch(lambda: self.driver.copy_from_device(address, size)), b""
        self.driver.store(bytes(size))
        return self.watch(lambda: self.driver.copy_to_device(address, size)), self.driver.load(size)

    def contents(self) -> list[bytes]:
        """All of the memory."""
        return [vmo.read() for vmo in self.vmos]

    def close(self) -> None:
        """Give everything back."""
        for pmt in self.pins:
            pmt.unpin()
        for vmo in self.vmos:
            vmo.close()


def software(stack: ExitStack) -> Side:
    """On the software IOMMU."""
    iommu = stack.enter_context(pf.open_bus("sim"))
    bti = stack.enter_context(iommu.initiator(0x28))
    driver = stack.enter_context(EduDriver(Edu(bti.master()), bti, address_bits=64))

    def watch(access: Callable[[], None]) -> Seen:
        before = iommu.faults.total
        access()
        new = iommu.faults.total - before
        faults = [iommu.faults[number] for number in range(-new, 0)]
        return [(page_down(f.address), f.access, f.reason.name) for f in faults]

    return Side(bti, driver, watch)


def real(stack: ExitStack, address: str) -> Side:
    """On the real one."""
    found, driver = stack.enter_context(edu(address))
    bus: VfioBus = found.bus

    def watch(access: Callable[[], None]) -> Seen:
        return [(f.address, f.access, f.reason.name) for f in faults_of(bus, access)]

    return Side(found.bti, driver, watch)


@pytest.mark.timeout(300)
@pytest.mark.vfio("edu1")
@pytest.mark.parametrize("seed", [1])
def test_both_buses_do_the_same(process: pf.Process, vfio_edu64: str, seed: int) -> None:
    """Outcomes, contents, addresses, and the page, direction and reason of each fault."""
    chance = random.Random(seed)
    stopped = moved = 0
    with ExitStack() as stack:
        sides = [software(stack), real(stack, vfio_edu64)]
        for side in sides:
            stack.callback(side.close)
            for number, vmo in enumerate(side.vmos):
                vmo.write(random.Random(number).randbytes(PAGES * P))
        grants: list[tuple[int, int, pf.Perm]] = []
        read: set[int] = set()
        for step in range(STEPS):
            act = chance.choice(["pin", "unpin", "move", "move", "stray", "late"])
            if act == "pin" or not grants:
                which, first = chance.randrange(OBJECTS), chance.randrange(PAGES)
                count, perms = chance.randint(1, PAGES - first), chance.choice([READ, BOTH])
                at = agreed(step, [side.pin(which, first, count, perms) for side in sides])
                grants.append((at[0], count * P, perms))
                read.difference_update(at)
                continue
            number = chance.randrange(len(grants))
            start, length, perms = grants[number]
            if act == "unpin" or (act == "late" and len(grants) > 1):
                at_once = agreed(step, [side.unpin(number) for side in sides])
                assert at_once == start
                del grants[number]
                if act == "unpin":
                    continue
                address, size, writing = start, STRAY, chance.random() < 0.5
            elif act != "move":
                writing = chance.random() < 0.5
                wrong = perms == READ and start not in read and chance.random() < 0.5
                address = start if wrong else start + length
                writing, size = writing or wrong, STRAY
            else:
                writing, size = perms == BOTH and chance.random() < 0.5, chance.randint(1, CHUNK)
                address = start + chance.randrange(length - size + 1)
                read.update(range(page_down(address), address + size, P))
            data = chance.randbytes(size) if writing else b""
            seen, _ = agreed(step, [side.access(address, size, data) for side in sides])
            stopped, moved = stopped + len(seen), moved + (not seen)
            assert bool(seen) is (act != "move"), (step, act)
            agreed(step, [side.contents() for side in sides])
    assert stopped > 5
    assert moved > 10


def agreed(step: int, outcomes: list[T]) -> T:
    """What both say."""
    here, there = outcomes
    assert here == there, f"step {step}"
    return here
