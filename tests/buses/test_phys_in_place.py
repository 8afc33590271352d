"""What holds a page in place, tried: everything in Linux that moves pages, while they are pinned.

The same is done to pages that are only locked, to show that it does move pages: the numbers are
printed. Nothing is switched off for it, and no setting is changed: compaction is asked for, once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import pinfold as pf
from pinfold.host import abi, calls
from tests.buses.phys_machine import HUGE, PAGE, RW, OtherMapping, changed, needs_phys
from tests.programs import run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZE: Final = 4 * HUGE
COMPACT: Final = Path("/proc/sys/vm/compact_memory")

pytestmark = needs_phys

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> Say:
    """Tell whoever reads the output of the tests, and keep it with the result."""

    def tell(text: str) -> None:
        record_property("frames", text)
        with capsys.disabled():
            print(f"\n    {text}")

    return tell


@pytest.fixture
def locking(process: pf.Process) -> Iterator[pf.Bti]:
    """A device whose grants are locked with mlock."""
    del process
    with pf.open_bus("sim", anchor=pf.Anchor.MLOCK) as bus, bus.initiator(1) as bti:
        yield bti


def scattered() -> pf.Vmo:
    """Memory full of numbers, so that what is lost is seen."""
    vmo = pf.Vmo(SIZE)
    for at in range(0, SIZE, PAGE):
        vmo.write((at // PAGE).to_bytes(4, "little"), at)
    return vmo


def intact(vmo: pf.Vmo) -> bool:
    """True when every page holds its number."""
    data = vmo.read()
    return all(
        data[at : at + 4] == (at // PAGE).to_bytes(4, "little") for at in range(0, SIZE, PAGE)
    )


def compact() -> None:
    """Have the kernel move whatever it can, once. A trigger, and no setting."""
    COMPACT.write_text("1")


needs_compaction = pytest.mark.skipif(
    not os.access(COMPACT, os.W_OK), reason="asking for compaction takes root"
)


def moved_by(
    disturb: Callable[[OtherMapping], str], bti: pf.Bti
) -> tuple[int, str, NDArray[np.uint64]]:
    """How many frames of a pin are others afterwards, what the kernel said, and where they were."""
    with scattered() as vmo, OtherMapping(vmo) as other, bti.pin(vmo, perms=RW) as pmt:
        before = other.frames()
        said = disturb(other)
        after = other.frames()
        assert intact(vmo)
        if bti.limits.real_frames:
            assert (pmt.addrs == after).all(), "an address is not that of the page any more"
        return changed(before, after), said, before


def test_collapsing_moves_what_is_locked_and_nothing_that_is_held(
    phys: pf.Bti, locking: pf.Bti, say: Say
) -> None:
    """What khugepaged does by itself: small pages are copied to a huge one."""

    def collapse(other: OtherMapping) -> str:
        return other.advise(abi.MADV_COLLAPSE)

    locked, said, _ = moved_by(collapse, locking)
    if said != "done":
        pytest.skip(f"this machine does not collapse pages: {said}")
    held, refused, _ = moved_by(collapse, phys)
    total = SIZE // PAGE
    say(f"MADV_COLLAPSE: mlock {locked} of {total} frames changed; phys {held} of {total}")
    assert locked > 0, "the disturbance moved nothing: it proves nothing"
    assert held == 0
    assert refused != "done"


@needs_compaction
def test_compaction_moves_nothing_that_is_held(phys: pf.Bti, locking: pf.Bti, say: Say) -> None:
    """Both kinds at once, in the same compactions, with holes all around them to move to.

    How much of what is locked moves depends on where it happens to lie: the rounds end when some
    has. None of what is held may, in any round.
    """
    locked = held = rounds = 0
    while not locked and rounds < 8:
        rounds += 1
        with (
            pf.Vmo(16 * SIZE) as around,
            scattered() as mine,
            scattered() as theirs,
            OtherMapping(mine) as at_mine,
            OtherMapping(theirs) as at_theirs,
            phys.pin(mine, perms=RW) as pmt,
            locking.pin(theirs, perms=RW),
        ):
            around.commit()
            before = at_theirs.frames()
            for at in range(0, around.size, 2 * PAGE):
                around.decommit(at, PAGE)
            compact()
            locked += changed(before, at_theirs.frames())
            held += changed(pmt.addrs, at_mine.frames())
            assert intact(mine)
            assert intact(theirs)
    total = SIZE // PAGE
    say(
        f"compact_memory, {rounds} round(s): mlock {locked} of {total} frames changed; "
        f"phys {held} of {total}"
    )
    assert held == 0


@needs_compaction
def test_addresses_are_right_while_the_kernel_compacts_all_the_time(phys: pf.Bti) -> None:
    """Pinned in the middle of it: what is looked up after holding is what stays."""
    stop = threading.Event()

    def keep_compacting() -> None:
        while not stop.is_set():
            compact()

    thread = threading.Thread(target=keep_compacting)
    thread.start()
    try:
        with scattered() as vmo, OtherMapping(vmo) as other:
            for _ in range(25):
                with phys.pin(vmo, perms=RW) as pmt:
                    assert (pmt.addrs == other.frames()).all()
                    other.advise(abi.MADV_COLLAPSE)
                    assert (pmt.addrs == other.frames()).all()
                other.advise(abi.MADV_COLLAPSE)  # now it may: the next pin is somewhere else
            assert intact(vmo)
    finally:
        stop.set()
        thread.join()


def test_asking_for_reclaim_moves_nothing_that_is_held(phys: pf.Bti) -> None:
    """MADV_PAGEOUT, through the bus's own mapping and another: the page stays where it is."""

    def page_out(other: OtherMapping) -> str:
        return other.advise(abi.MADV_PAGEOUT)

    assert moved_by(page_out, phys)[0] == 0
    with scattered() as vmo, OtherMapping(vmo) as other, phys.pin(vmo, perms=RW) as pmt:
        calls.madvise(pmt.object.pinned.host_address, SIZE, abi.MADV_PAGEOUT)
        assert (pmt.addrs == other.frames()).all()
        assert intact(vmo)


def test_a_fork_and_writes_in_both_move_nothing_that_is_held() -> None:
    """Memory objects are shared: parent and child write to the pages that the device has."""
    assert run(
        """
        with pf.Process(pf.Kernel()), pf.open_bus("phys") as bus:
            with bus.initiator(1) as bti, pf.Vmo(64 * PAGE_SIZE) as vmo:
                pmt = bti.pin(vmo, perms=3)
                at, size = pmt.object.pinned.host_address, vmo.size
                addrs = pmt.addrs.copy()
                view = calls.buffer_at(at, size)
                child = os.fork()
                if not child:
                    for page in range(0, size, 2 * PAGE_SIZE):
                        view[page] = 7
                    os._exit(0)
                for page in range(PAGE_SIZE, size, 2 * PAGE_SIZE):
                    view[page] = 9
                assert os.waitpid(child, 0)[1] == 0
                same = bool((pagemap.frames(at, size) == addrs).all())
                seen = sorted(set(view[page] for page in range(0, size, PAGE_SIZE)))
                pmt.unpin()
                print(json.dumps([same, seen]))
        """
    ) == [True, [7, 9]]


def test_what_is_in_quarantine_stays_in_place(phys: pf.Bti) -> None:
    """The device may be writing there yet: only its driver knows, and has not said."""
    with scattered() as vmo, OtherMapping(vmo) as other:
        pmt = phys.pin(vmo, perms=RW)
        before = pmt.addrs
        pmt.close()
        assert other.advise(abi.MADV_COLLAPSE) != "done"
        assert changed(before, other.frames()) == 0
        assert phys.release_quarantine() == 1
        assert intact(vmo)
