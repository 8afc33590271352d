"""The phys bus: frames that are held before they are read, all of a range or none of it.

That no frame changes meanwhile is in test_phys_in_place.py; memory in one run in
test_phys_contiguous.py.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.buses.phys.space import extents_of
from pinfold.errors import (
    LimitReached,
    NotSupported,
    OutOfReach,
    Unavailable,
)
from pinfold.host import abi, calls
from pinfold.testing import HostCalls, check_books, check_extents
from pinfold.units import KIB, HostVa
from tests.buses.phys_machine import (
    PAGE,
    RW,
    OtherMapping,
    needs_phys,
    pinned,
)
from tests.programs import run

if TYPE_CHECKING:
    from pathlib import Path


READ = pf.Perm.READ


@needs_phys
def test_addresses_are_the_frames_that_another_mapping_shows(phys: pf.Bti) -> None:
    """Source: pagemap.rst. Every page of every range, in order."""
    with pf.Vmo(64 * PAGE) as vmo, OtherMapping(vmo) as other:
        for first, count in ((0, 64), (0, 1), (63, 1), (5, 17)):
            with phys.pin(vmo, first * PAGE, count * PAGE, perms=READ) as pmt:
                assert pmt.addrs.dtype == np.uint64
                assert (pmt.addrs == other.frames()[first : first + count]).all()
                assert pmt.addrs.all()
                check_extents(pmt.extents, count * PAGE, phys.limits)


@needs_phys
def test_the_kernel_counts_what_is_granted_until_it_is_not(phys: pf.Bti) -> None:
    """VmPin; a page that is granted twice is counted twice."""
    before = pinned()
    with pf.Vmo(16 * PAGE) as vmo:
        one = phys.pin(vmo, perms=RW)
        two = phys.pin(vmo, 0, 4 * PAGE, perms=READ)
        assert one.statistics().anchor is pf.Anchor.IO_URING
        assert pinned() == before + 20 * PAGE
        one.unpin()
        assert pinned() == before + 4 * PAGE
        two.unpin()
        assert pinned() == before


@needs_phys
def test_pages_are_held_before_they_are_looked_up(phys: pf.Bti) -> None:
    """The order is the safety: swapped, a frame is where the page was a moment ago."""
    with pf.Vmo(4 * PAGE) as vmo:
        with HostCalls() as seen:
            pmt = phys.pin(vmo, perms=READ)
        assert seen.names.index("io_uring_register") < seen.names.index("open")
        with HostCalls() as seen:
            pmt.unpin()
        assert seen.names == ["io_uring_register"]


@needs_phys
def test_neighbouring_frames_are_one_extent(phys: pf.Bti) -> None:
    """Equal runs stay whole; addresses by page are the same either way."""
    with pf.Vmo(256 * PAGE) as vmo, phys.pin(vmo, perms=READ) as pmt:
        run_of = pmt.extents
        assert [extent.offset for extent in run_of] == [
            at * run_of.chunk for at in range(len(run_of))
        ]
        by_page = np.concatenate(
            [np.arange(e.address, e.address + e.size, PAGE, dtype=np.uint64) for e in run_of]
        )
        assert (by_page == pmt.addrs).all()


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        ([7], [1]),
        ([7, 8, 9], [3]),
        ([9, 8, 7], [1, 1, 1]),
        ([4, 5, 20, 21, 10, 11], [2, 2, 2]),
        ([4, 5, 20, 21, 10], [2, 2, 1]),
        ([4, 5, 6, 7, 20, 21], [4, 2]),
        ([4, 5, 20, 21, 22, 23], [2, 2, 2]),
        ([4, 5, 6, 20, 21], [3, 2]),
        ([4, 5, 20, 21, 22, 40], [1] * 6),
    ],
)
def test_frames_become_equal_runs_as_long_as_can_be(frames: list[int], sizes: list[int]) -> None:
    """Of runs of 2 and 3 pages, only single pages are equal parts; the last may be short."""
    addresses = np.array(frames, dtype=np.uint64) * np.uint64(PAGE)
    made = extents_of(addresses, len(frames) * PAGE)
    assert [extent.size // PAGE for extent in made] == sizes
    assert made.addresses(PAGE).tolist() == addresses.tolist()


class Emptying(HostCalls):
    """Empties the page table of a range whenever the pagemap is opened, so many times."""

    def __init__(self, address: HostVa, size: int, times: int) -> None:
        super().__init__()
        self.address, self.size, self.times = address, size, times

    def _refuses(self, number: int) -> bool:
        if self.names[number - 1] == "open" and self.times:
            self.times -= 1
            calls.madvise(self.address, self.size, abi.MADV_DONTNEED)
        return False


@needs_phys
def test_a_page_that_left_the_page_table_is_fetched_back(phys: pf.Bti) -> None:
    """Reclaim may empty the table that the pagemap reads; a page that is held stays where it is."""
    with pf.Vmo(13 * PAGE) as vmo, phys.pin(vmo, perms=READ) as pmt:
        before, at = pinned(), pmt.object.pinned.host_address
        for times in (1, 2, 3, 5, 9):  # the last often enough for a page to be asked for twice
            with Emptying(at, vmo.size, times) as seen, phys.pin(vmo, perms=READ) as again:
                assert (again.addrs == pmt.addrs).all()
            assert seen.names.count("open") > times
        with Emptying(at, vmo.size, 1000), pytest.raises(Unavailable, match="all the time"):
            phys.pin(vmo, perms=READ)
        assert pinned() == before


@needs_phys
def test_a_device_that_cannot_reach_it_gets_nothing(phys_bus: pf.Iommu) -> None:
    """The extent is named, and nothing is left registered."""
    before = pinned()
    with phys_bus.initiator(2, address_bits=16) as narrow, pf.Vmo(8 * PAGE) as vmo:
        with pytest.raises(OutOfReach, match="16 address bits") as caught:
            narrow.pin(vmo, perms=READ)
        extent: Any = caught.value.extent
        assert extent.address + extent.size > 1 << 16
        assert caught.value.limit == 1 << 16
        assert caught.value.remedy is not None
        assert (pinned(), vmo.pin_count()) == (before, 0)


@needs_phys
def test_every_slot_is_used_and_given_back(process: pf.Process) -> None:
    before = pinned()
    with pf.open_bus("phys", slots=3) as bus, bus.initiator(1) as bti, pf.Vmo(PAGE) as vmo:
        for _ in range(5):
            held = [bti.pin(vmo, perms=READ) for _ in range(3)]
            with pytest.raises(LimitReached, match="no room") as caught:
                bti.pin(vmo, perms=READ)
            assert (caught.value.limit, caught.value.available) == (3, 0)
            assert caught.value.holder == "3 live grant(s)"
            held.pop(1).unpin()
            held.append(bti.pin(vmo, perms=READ))
            for pmt in held:
                pmt.unpin()
        assert pinned() == before


@needs_phys
def test_a_long_range_takes_several_slots(
    process: pf.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers of 16 KiB here, a GiB otherwise: the parts are neighbours, and go together."""
    monkeypatch.setattr("pinfold.buses.phys.table.MAX_BUFFER", 16 * KIB)
    before = pinned()
    with (
        pf.open_bus("phys", slots=5) as bus,
        bus.initiator(1) as bti,
        pf.Vmo(64 * KIB + PAGE) as vmo,
        OtherMapping(vmo) as other,
    ):
        with bti.pin(vmo, perms=READ) as pmt:
            assert pinned() == before + vmo.size
            assert (pmt.addrs == other.frames()).all()
            with pytest.raises(LimitReached):
                bti.pin(vmo, 0, PAGE, perms=READ)
        assert pinned() == before
        with bti.pin(vmo, 0, 16 * KIB, perms=READ), pytest.raises(LimitReached) as caught:
            bti.pin(vmo, perms=READ)
        assert (caught.value.asked, caught.value.available) == (5, 4)


@needs_phys
def test_a_limit_that_is_met_half_way_leaves_nothing_held() -> None:
    """RLIMIT_MEMLOCK binds without CAP_IPC_LOCK: the first buffers fit, and are let go again."""
    found = run(
        """
        import struct
        from pinfold.buses.phys import table
        header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        kept = 1 << abi.CAP_SYS_ADMIN
        low = (kept & 0xFFFFFFFF, kept & 0xFFFFFFFF, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capset(header, struct.pack("<6I", *low, 0, 0, 0)) == 0, ctypes.get_errno()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (16 * PAGE_SIZE, 16 * PAGE_SIZE))
        table.MAX_BUFFER = 4 * PAGE_SIZE
        with pf.Process(pf.Kernel()), pf.open_bus("phys", slots=64) as bus:
            with bus.initiator(1) as bti, pf.Vmo(24 * PAGE_SIZE) as vmo:
                first = bti.pin(vmo, 0, 6 * PAGE_SIZE, perms=1)
                held = probe.process_memory().pinned
                try:
                    bti.pin(vmo, perms=1)
                except LimitReached as error:
                    refused = told(error)
                after = probe.process_memory().pinned
                again = bti.pin(vmo, 0, 4 * PAGE_SIZE, perms=1)
                again.unpin()
                first.unpin()
                print(json.dumps([held, refused, after, probe.process_memory().pinned]))
        """
    )
    held, refused, after, left = found
    assert held == after == 6 * PAGE
    assert left == 0
    assert refused["class"] == "LimitReached"
    assert refused["limit"] == 16 * PAGE
    assert refused["asked"] == 24 * PAGE
    assert "RLIMIT_MEMLOCK" in refused["text"]
    assert "CAP_IPC_LOCK" in refused["text"]
    assert "24 KiB pinned" in refused["holder"]
    assert refused["notes"] == []


@needs_phys
def test_memory_that_linux_does_not_pin_is_refused(phys: pf.Bti, tmp_path: Path) -> None:
    """Linux pins for writing; device memory has an address already."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * PAGE)
    before = pinned()
    with (
        pf.Vmo.from_file(path) as read_only,
        pytest.raises(NotSupported, match="may not be written") as caught,
    ):
        phys.pin(read_only, perms=READ)
    assert caught.value.remedy is not None
    with (
        pf.Resource(0xFE00_0000, PAGE) as resource,
        pf.Vmo.physical(resource, 0xFE00_0000, PAGE) as memory,
        pytest.raises(NotSupported, match="device memory"),
    ):
        phys.pin(memory, perms=READ)
    assert pinned() == before


@needs_phys
def test_one_run_of_simulated_addresses_is_not_one_of_frames(phys: pf.Bti) -> None:
    """A device told the first address alone would run into somebody else's memory."""
    with (
        pf.open_bus("stub") as stub,
        stub.initiator(1) as other,
        pf.Vmo.contiguous(other, 1024 * PAGE) as vmo,
        pytest.raises(NotSupported, match="one run of addresses elsewhere"),
    ):
        phys.pin(vmo, perms=READ, form=pf.AddrForm.CONTIGUOUS)


@needs_phys
def test_the_books_hold_under_random_pins(phys_bus: pf.Iommu, phys: pf.Bti) -> None:
    """Every live address is right at any time, whatever came and went beside it."""
    chance = random.Random(5)
    before = pinned()
    with pf.Vmo(16 * PAGE) as vmo, OtherMapping(vmo) as other:
        frames = other.frames()
        live: list[tuple[pf.Pmt, int, int]] = []
        for _ in range(300):
            if live and chance.random() < 0.5:
                live.pop(chance.randrange(len(live)))[0].unpin()
            else:
                first = chance.randrange(16)
                count = chance.randrange(1, 17 - first)
                pmt = phys.pin(vmo, first * PAGE, count * PAGE, perms=READ)
                live.append((pmt, first, count))
            assert pinned() == before + sum(count for *_, count in live) * PAGE
            for pmt, first, count in live:
                assert (pmt.addrs == frames[first : first + count]).all()
        check_books(phys_bus.kernel)
        for pmt, *_ in live:
            pmt.unpin()


@needs_phys
def test_threads_pin_and_unpin_at_once(process: pf.Process, phys_bus: pf.Iommu) -> None:
    """The kernel's lock is not held meanwhile; the bus has one of its own."""
    before = pinned()
    wrong: list[object] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with (
            phys_bus.initiator(seed) as bti,
            pf.Vmo(32 * PAGE, process=process) as vmo,
            OtherMapping(vmo) as other,
        ):
            frames = other.frames()
            for _ in range(60):
                count = chance.randrange(1, 33)
                with bti.pin(vmo, 0, count * PAGE, perms=READ) as pmt:
                    if (pmt.addrs != frames[:count]).any():
                        wrong.append((seed, count))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pinned() == before


@needs_phys
def test_pins_of_magentas_stay_held_when_their_device_is_closed() -> None:
    """Elsewhere they end. Here nobody is shut out, and nobody has said that the device is quiet.

    In a process of its own, since the page stays pinned for as long as that lives.
    """
    program = """
        import pinfold as pf
        from pinfold.host import probe
        from pinfold.objects.magenta import pins

        def main():
            with pf.open_bus("phys") as bus, pf.Vmo(pf.PAGE_SIZE) as vmo:
                vmo.write(b"x")
                before = probe.process_memory().pinned
                bti = bus.initiator(2)
                pins.pin(bti, vmo, 0, pf.PAGE_SIZE, int(pf.Perm.READ), 1, lambda _: None)
                bti.close()
                held = probe.process_memory().pinned - before
                print(json.dumps([vmo.pin_count(), held, len(pf.default_kernel().leaks)]))

        main()
    """
    assert run(program) == [1, PAGE, 1]
