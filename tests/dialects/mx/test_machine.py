"""Pins by address, in any order, against a plain model of what each device has pinned."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.testing import check_books

from . import things
from .things import PAGE

PAGES = 6


class Pins(RuleBasedStateMachine):
    """Two devices, one object, and a list of (device, first page, last page, addresses)."""

    def __init__(self, strict: things.Strict = None) -> None:
        super().__init__()
        self.kernel = pf.Kernel(seed=5, strict=strict)
        self.process = pf.Process(self.kernel)
        self.docs = strict != "kernel"
        self.live: list[tuple[int, int, int, Any]] = []
        self.memory = [True] * PAGES
        with self.process:
            self.vmo = things.vmo(PAGES * PAGE)
            self.btis = [things.bti(), things.bti("sim")]

    def expected(self, device: int, first: int, last: int) -> str:
        pages = range(first, last)
        counts = self.counts()
        if not all(self.memory[page] for page in pages):
            return "NOT_FOUND"
        if self.docs and any(
            page in range(low, high)
            for page in pages
            for owner, low, high, _ in self.live
            if owner == device
        ):
            return "ALREADY_BOUND"
        return "UNAVAILABLE" if any(counts[page] >= 31 for page in pages) else "OK"

    def counts(self) -> Counter[int]:
        return Counter(page for _, low, high, _ in self.live for page in range(low, high))

    @rule(
        device=strategies.integers(0, 1),
        first=strategies.integers(0, PAGES - 1),
        size=strategies.integers(1, 3 * PAGE),
    )
    def pin(self, device: int, first: int, size: int) -> None:
        size = min(size, (PAGES - first) * PAGE)
        last = first + -(-size // PAGE)
        with self.process:
            found, addrs = things.attempt(self.btis[device], self.vmo, first * PAGE, size)
        assert found == self.expected(device, first, last)
        if found == "OK":
            assert len(addrs) == (1 if device else last - first)
            self.live.append((device, first, last, addrs.copy()))

    @rule(which=strategies.integers(0, 40), device=strategies.integers(0, 1))
    def unpin(self, which: int, device: int) -> None:
        if not self.live:
            return
        addrs = self.live[which % len(self.live)][3]
        same = [
            number
            for number, (owner, _, _, other) in enumerate(self.live)
            if owner == device and np.array_equal(addrs, other)
        ]
        with self.process:
            found = things.unpin(self.btis[device], addrs)
        assert found == ("OK" if same else "INVALID_ARGS")
        if same:
            del self.live[same[0]]

    @rule(page=strategies.integers(0, PAGES - 1))
    def decommit(self, page: int) -> None:
        with self.process:
            found = things.decommit(self.vmo, page * PAGE)
        assert found == ("BAD_STATE" if self.counts()[page] else "OK")
        if found == "OK":
            self.memory[page] = False

    @rule(page=strategies.integers(0, PAGES - 1))
    def write(self, page: int) -> None:
        with self.process:
            things.fine(mx.mx_vmo_write, self.vmo, b"x", page * PAGE, 1, Out())
        self.memory[page] = True

    @rule(device=strategies.integers(0, 1))
    def close(self, device: int) -> None:
        with self.process:
            things.fine(mx.mx_handle_close, self.btis[device])
            self.btis[device] = things.bti("sim" if device else "stub")
        self.live = [pin for pin in self.live if pin[0] != device]

    @invariant()
    def the_books_agree(self) -> None:
        check_books(self.kernel)
        with self.process:
            counts = self.counts()
            assert things.counts(self.vmo, PAGES) == [counts[page] for page in range(PAGES)]

    def teardown(self) -> None:
        self.process.exit()
        assert self.kernel.objects() == []
        assert self.kernel.leaks == []


class PinsAsTheKernel(Pins):
    """The same, where the kernel of that time is followed."""

    def __init__(self) -> None:
        super().__init__("kernel")


TestDocs = Pins.TestCase
TestDocs.settings = settings(max_examples=25, stateful_step_count=30)
TestKernel = PinsAsTheKernel.TestCase
TestKernel.settings = settings(max_examples=25, stateful_step_count=30)
