"""Pins by address at random, short and long, in both spaces, against a plain model of pages.

Two objects are mapped, one of them twice and lent as a view, beside memory of the process. A page
has two numbers in the model, wherever it is seen. After every step the counters, the ledger, the
pin counts of the objects and what the kernel has locked must be what the model says.
"""

from __future__ import annotations

import mmap
import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pinfold as pf
from pinfold.errors import LimitReached, NotPinned
from pinfold.host import calls
from pinfold.objects.addresses import pages_of, stretches
from pinfold.objects.spaces import Space
from pinfold.testing import check_books
from tests.memory.locking import locked

PAGE = pf.PAGE_SIZE
PAGES = 6
LIMIT = 14
STEPS = int(os.environ.get("PINFOLD_STEPS", "0"))
PERMS = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE

Place = tuple[str, int]
"""Which memory, and the page in it."""


class CountedPins(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.before = locked()
        self.kernel = pf.Kernel(seed=3, max_pinned=LIMIT * PAGE)
        self.process = pf.Process(self.kernel, name="machine")
        self.counts: dict[Place, list[int]] = {}
        self.in_place: list[tuple[pf.PinnedBuffer, list[Place]]] = []

    @initialize()
    def memory(self) -> None:
        with self.process:
            root = self.process.reserve_root(size=1 << 24)
            self.vmos = {name: pf.Vmo(PAGES * PAGE, name=name) for name in ("one", "two")}
            at = pf.VmOption.SPECIFIC | PERMS
            for offset, name in ((0, "one"), (PAGES * PAGE, "two"), (3 * PAGES * PAGE, "one")):
                root.map(self.vmos[name], at, offset=offset)
            self.view = self.vmos["two"].view()
        self.user = mmap.mmap(-1, PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = int(root.base)
        self.places: dict[int, list[Place]] = {
            base: [("one", p) for p in range(PAGES)] + [("two", p) for p in range(PAGES)],
            base + 3 * PAGES * PAGE: [("one", p) for p in range(PAGES)],
            calls.address_of(self.view): [("two", p) for p in range(PAGES)],
            calls.address_of(memoryview(self.user)): [("user", p) for p in range(PAGES)],
        }
        self.system = set(list(self.places)[:2])

    def range_of(self, which: int, first: int, count: int) -> tuple[Space, int, list[Place]]:
        """A range of one of the places where memory is seen."""
        start = list(self.places)[which % len(self.places)]
        pages = self.places[start]
        first %= len(pages)
        pages = pages[first : first + count]
        space = Space(self.process, system=start in self.system)
        return space, start + first * PAGE, pages

    def fresh(self, pages: list[Place]) -> int:
        """How many of them nothing holds."""
        held = {place for place, counts in self.counts.items() if any(counts)}
        held |= {place for _, places in self.in_place for place in places}
        return len(set(pages) - held)

    @property
    def held(self) -> set[Place]:
        return {place for place, counts in self.counts.items() if any(counts)}

    @rule(
        which=st.integers(0, 3),
        first=st.integers(0, 11),
        count=st.integers(1, 8),
        long=st.booleans(),
    )
    def pin(self, which: int, first: int, count: int, long: bool) -> None:  # noqa: FBT001
        space, start, pages = self.range_of(which, first, count)
        everything = self.held | {place for _, places in self.in_place for place in places}
        fits = len(everything) + self.fresh(pages) <= LIMIT
        try:
            self.kernel.counted.pin(
                space.finder(start + 1, len(pages) * PAGE - 2), owner="m", long=long
            )
        except LimitReached:
            assert not fits
            return
        assert fits
        for page in pages:
            self.counts.setdefault(page, [0, 0])[long] += 1

    @rule(
        which=st.integers(0, 3),
        first=st.integers(0, 11),
        count=st.integers(1, 8),
        long=st.booleans(),
        whole=st.booleans(),
    )
    def unpin(
        self,
        which: int,
        first: int,
        count: int,
        long: bool,  # noqa: FBT001
        whole: bool,  # noqa: FBT001
    ) -> None:
        space, start, pages = self.range_of(which, first, count)
        done = 0
        for page in pages:
            if not self.counts.get(page, [0, 0])[long]:
                break
            done += 1
        try:
            self.kernel.counted.unpin(
                space.finder(start, len(pages) * PAGE), long=long, whole=whole
            )
        except NotPinned as error:
            stopped = error.asked
        else:
            stopped = start + len(pages) * PAGE
        assert stopped == start + done * PAGE
        if whole and done < len(pages):
            return
        for page in pages[:done]:
            self.counts[page][long] -= 1

    @rule(first=st.integers(0, PAGES - 1), count=st.integers(1, 3))
    def pin_in_place(self, first: int, count: int) -> None:
        view = self.view[first * PAGE : (first + count) * PAGE]
        pages = [("two", page) for page in range(first, min(first + count, PAGES))]
        try:
            with self.process:
                self.in_place.append((pf.pin(view), pages))
        except LimitReached:
            everything = self.held | {place for _, places in self.in_place for place in places}
            assert len(everything) + self.fresh(list(pages)) > LIMIT

    @rule(which=st.integers(0, 9))
    def unpin_in_place(self, which: int) -> None:
        if self.in_place:
            held, _ = self.in_place.pop(which % len(self.in_place))
            held.unpin()

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "places"):
            return
        check_books(self.kernel)
        everything = self.held | {place for _, places in self.in_place for place in places}
        assert self.kernel.ledger.pinned_bytes == len(everything) * PAGE
        assert self.kernel.counted.statistics().held == len(self.held) * PAGE
        assert locked() - self.before == len(everything) * PAGE
        for start, pages in self.places.items():
            with self.kernel.lock:
                for number, place in enumerate(pages):
                    (found,) = stretches(self.kernel, *pages_of(start + number * PAGE, PAGE))
                    expected = tuple(self.counts.get(place, [0, 0]))
                    assert self.kernel.counted.counts(found) == expected
        for name, vmo in self.vmos.items():
            for page in range(PAGES):
                times = sum((name, page) in places for _, places in self.in_place)
                assert vmo.pin_count(page * PAGE) == times + ((name, page) in self.held)

    def teardown(self) -> None:
        for held, _ in self.in_place:
            held.unpin()
        self.kernel.counted.release()
        assert locked() == self.before
        assert self.kernel.ledger.pinned_bytes == 0
        if hasattr(self, "view"):
            self.view.release()
            self.user.close()
            for vmo in self.vmos.values():
                vmo.close()
        self.process.exit()


TestCountedPins = CountedPins.TestCase
TestCountedPins.settings = settings(
    max_examples=max(40, STEPS // 50), stateful_step_count=50, deadline=None
)
