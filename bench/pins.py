# Claim: to pin and unpin one committed page on the sim bus takes under 10 us of Python, and the
# same, within 2x, whether 10 or 1,000,000 other pins are live.
#
# Three kernels stand side by side, with 10, 10,000 and 1,000,000 live pins, and take turns. Their
# memory objects are of the same size, so that only the number of live pins differs. Half of the
# live pins belong to the device that is measured, half to three others of the same bus; pages are
# pinned up to 16 times over (31 is the most a page can carry).
#
# What is judged is the pair on a page drawn at random. Two more rows have no goal: `replace` unpins
# a live pin drawn at random and makes another, which at a million also waits for memory that is in
# no cache; and the rows with the collector on are what a program that leaves it on sees.
from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from time import perf_counter
from types import FrameType
from typing import Any

from bench.measure import Row, Scale, Subject, absolute, against, interleave, time_text
from bench.rig import RW, Rig, rig
from pinfold import PAGE_SIZE, Pmt

_OWNERS = (0, 1, 0, 2, 0, 3)
_DRAWN = 65_536  # drawn beforehand; each round goes on where the last one stopped


class Population:
    """One kernel with so many live pins."""

    def __init__(self, made: Rig, live: int, pages: int) -> None:
        self.live = live
        self.btis = [made.bti(0x10 + number) for number in range(4)]
        self.vmo = made.vmo(pages * PAGE_SIZE)
        draw = random.Random(live)  # noqa: S311 - a pattern to be repeated, not a secret
        self.offsets = [draw.randrange(pages) * PAGE_SIZE for _ in range(_DRAWN)]
        self.victims = [draw.randrange(live) for _ in range(_DRAWN)]
        before = _anonymous_bytes()
        start = perf_counter()
        self.pins: list[Pmt] = []
        keep, vmo, btis = self.pins.append, self.vmo, self.btis
        for index in range(live):
            # An odd multiplier visits every page of a power of two before it comes back.
            page = index * 40503 % pages
            keep(btis[_OWNERS[index % 6]].pin(vmo, page * PAGE_SIZE, PAGE_SIZE, perms=RW))
        self.build_seconds = (perf_counter() - start) / live
        self.bytes_each = (_anonymous_bytes() - before) / live

    def pair(self) -> Subject:
        """Pin and unpin one page, drawn at random."""
        bti, vmo, walk = self.btis[0], self.vmo, cycle(self.offsets)

        def subject(count: int) -> None:
            for offset in islice(walk, count):
                bti.pin(vmo, offset, PAGE_SIZE, perms=RW).unpin()

        return subject

    def replace(self) -> Subject:
        """Unpin a live pin, drawn at random, and make another in its place."""
        bti, vmo, pins = self.btis[0], self.vmo, self.pins
        walk = cycle(zip(self.victims, self.offsets, strict=True))

        def subject(count: int) -> None:
            for victim, offset in islice(walk, count):
                pins[victim].unpin()
                pins[victim] = bti.pin(vmo, offset, PAGE_SIZE, perms=RW)

        return subject

    def unpin_all(self) -> float:
        """End every live pin; seconds for each."""
        start = perf_counter()
        while self.pins:
            self.pins.pop().unpin()
        return (perf_counter() - start) / self.live


def _anonymous_bytes() -> int:
    """Memory of our own in use; the memory objects' pages, which are shared, do not count."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def _calls_in(act: Callable[[], object]) -> tuple[int, int]:
    """How many Python functions and how many C functions ``act`` calls."""
    counted = {"call": 0, "c_call": 0}

    def profiler(_frame: FrameType, event: str, _argument: Any) -> None:
        if event in counted:
            counted[event] += 1

    act()
    sys.setprofile(profiler)
    try:
        act()
    finally:
        sys.setprofile(None)
    return counted["call"] - 1, counted["c_call"] - 1  # act itself, and the setprofile that ends it


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    pages = scale.pick(65_536, 64)
    counts = (10, scale.pick(10_000, 100), scale.pick(1_000_000, 1_000))
    with ExitStack() as stack:
        groups = [Population(stack.enter_context(rig()), count, pages) for count in counts]
        few, middle, many = groups
        pairs = {f"pair {group.live}": group.pair() for group in groups}
        replacing = {f"replace {group.live}": group.replace() for group in groups}
        quiet = interleave(pairs | replacing, scale, seconds=12)
        collecting = interleave(pairs, scale, seconds=4, collect=True)
        why = _why(few)
        for group in groups:
            yield absolute(
                "pins",
                f"pin + unpin one page at {group.live:,} live",
                quiet[f"pair {group.live}"],
                scale,
                below=10e-6,
                why=why,
            )
        floor = quiet[f"pair {few.live}"]
        for group in (middle, many):
            timing = quiet[f"pair {group.live}"]
            yield against(
                "pins",
                f"pin + unpin one page at {group.live:,} live",
                timing,
                f"the same at {few.live}",
                floor,
                scale,
                at_most=2,
                why=f"{time_text(timing.best - floor.best)} more than at {few.live}",
            )
        for group in (middle, many):
            yield against(
                "pins",
                f"replace a random live pin at {group.live:,} live",
                quiet[f"replace {group.live}"],
                f"the same at {few.live}",
                quiet[f"replace {few.live}"],
                scale,
            )
        yield against(
            "pins",
            f"pin + unpin at {many.live:,} live, collector on",
            collecting[f"pair {many.live}"],
            f"the same at {few.live}",
            collecting[f"pair {few.live}"],
            scale,
        )
        yield _fact(f"make {many.live:,} pins, collector on", time_text(many.build_seconds), "each")
        yield _fact(f"a live pin at {many.live:,} live", f"{many.bytes_each:.0f} bytes", "of RSS")
        ended = {group.live: group.unpin_all() for group in groups}
        yield _fact(f"unpin {many.live:,} pins, newest first", time_text(ended[many.live]), "each")


def _fact(subject: str, value: str, what: str) -> Row:
    return Row("pins", subject, "", value, None, f"{value} {what}", "", None)


def _why(group: Population) -> str:
    bti, vmo = group.btis[0], group.vmo
    python, c = _calls_in(lambda: bti.pin(vmo, 0, PAGE_SIZE, perms=RW).unpin())
    return f"a pair is {python} calls of Python functions and {c} of C functions"
