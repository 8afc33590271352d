"""The phys bus: frames that are held before they are read, all of a range or none of it.

That no frame changes meanwhile is in test_phys_in_place.py; memory in one run in
test_phys_contiguous.py.
"""

from __future__ import annotations

import errno
import gc
import random
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.buses.phys import PhysBus
from pinfold.buses.phys.space import extents_of
from pinfold.errors import (
    AccessDenied,
    BadState,
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotSupported,
    OutOfReach,
    PinfoldError,
    Unavailable,
)
from pinfold.host import abi, calls
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books, check_extents
from pinfold.units import KIB, HostVa
from tests.buses.phys_machine import (
    PAGE,
    RW,
    FailCall,
    OtherMapping,
    needs_phys,
    pinned,
    settles_at,
)
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ = pf.Perm.READ


@pytest.fixture
def bus(process: pf.Process) -> Iterator[pf.Iommu]:
    """The bus; at its end nothing is pinned that was not pinned before."""
    del process
    before = pinned()
    with pf.open_bus("phys") as made:
        yield made
    assert settles_at(before)


@pytest.fixture
def device(bus: pf.Iommu) -> Iterator[pf.Bti]:
    """A device with 64 address bits."""
    with bus.initiator(1, name="card") as made:
        yield made


# Opening ----------------------------------------------------------------------------------------


def test_without_the_capability_it_is_refused_and_says_so() -> None:
    """Frames would read as 0, and address 0 would be the device's."""
    found = run(
        """
        from pinfold.testing import HostCalls, HostState
        give_up_privileges()
        with pf.Process(pf.Kernel()), HostCalls() as seen:
            before = HostState.now()
            try:
                pf.open_bus("phys")
            except AccessDenied as error:
                left = before.difference(HostState.now())
                print(json.dumps([str(error), error.remedy, left, "io_uring_setup" in seen.names]))
        """
    )
    assert "phys bus needs CAP_SYS_ADMIN, which this process lacks" in found[0]
    assert "CAP_SYS_ADMIN" in found[1]
    assert found[2:] == [[], False]


@needs_phys
def test_a_capability_that_shows_no_frames_is_not_enough() -> None:
    """Root of a user namespace has every capability, and the kernel hides frames from it."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Ur", "true"], check=False).returncode:
        pytest.skip("this process may make no user namespace")
    program = "import pinfold as pf\nwith pf.Process(pf.Kernel()): pf.open_bus('phys')"
    done = subprocess.run(
        [unshare, "-Ur", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "AccessDenied" in done.stderr
    assert "hides them although the process has CAP_SYS_ADMIN" in done.stderr


@needs_phys
@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (errno.ENOSYS, NotSupported, "CONFIG_IO_URING"),
        (errno.EPERM, AccessDenied, "io_uring_disabled"),
        (errno.EMFILE, NoMemory, "RLIMIT_NOFILE"),
        (errno.EIO, HostError, "make an io_uring"),
    ],
)
def test_without_io_uring_it_says_what_is_missing(
    process: pf.Process, code: int, error: type[PinfoldError], words: str
) -> None:
    with FailCall("io_uring_setup", code), pytest.raises(error, match=words):
        pf.open_bus("phys")


@needs_phys
def test_an_old_table_is_not_enough(process: pf.Process) -> None:
    """Linux before 5.19 has no sparse tables, and says EINVAL."""
    before = HostState.now()
    with FailCall("io_uring_register", errno.EINVAL), pytest.raises(NotSupported, match=r"5\.19"):
        pf.open_bus("phys")
    assert before.difference(HostState.now()) == []


@needs_phys
@pytest.mark.parametrize("slots", [0, (1 << 14) + 1])
def test_a_table_has_so_many_slots(process: pf.Process, slots: int) -> None:
    with pytest.raises(InvalidArgs, match="slots"):
        pf.open_bus("phys", slots=slots)


@needs_phys
def test_it_does_not_say_that_it_isolates(bus: pf.Iommu, device: pf.Bti) -> None:
    """What a program may ask before it trusts a device with addresses."""
    assert not bus.limits.isolates
    assert bus.limits.real_frames
    assert bus.limits.anchor is pf.Anchor.IO_URING
    assert bus.limits.max_grants == 1 << 14
    assert bus.bus.name == "phys"
    assert len(bus.faults) == 0
    with pytest.raises(NotSupported, match="program the device"):
        device.master()
    with pytest.raises(NotSupported, match="does not know its devices"):
        device.device()
    for bits in (0, 65):
        with pytest.raises(InvalidArgs):
            bus.bus.attach(1, address_bits=bits)


# Granting ---------------------------------------------------------------------------------------


@needs_phys
def test_addresses_are_the_frames_that_another_mapping_shows(device: pf.Bti) -> None:
    """Source: pagemap.rst. Every page of every range, in order."""
    with pf.Vmo(64 * PAGE) as vmo, OtherMapping(vmo) as other:
        for first, count in ((0, 64), (0, 1), (63, 1), (5, 17)):
            with device.pin(vmo, first * PAGE, count * PAGE, perms=READ) as pmt:
                assert pmt.addrs.dtype == np.uint64
                assert (pmt.addrs == other.frames()[first : first + count]).all()
                assert pmt.addrs.all()
                check_extents(pmt.extents, count * PAGE, device.limits)


@needs_phys
def test_the_kernel_counts_what_is_granted_until_it_is_not(device: pf.Bti) -> None:
    """VmPin; a page that is granted twice is counted twice."""
    before = pinned()
    with pf.Vmo(16 * PAGE) as vmo:
        one = device.pin(vmo, perms=RW)
        two = device.pin(vmo, 0, 4 * PAGE, perms=READ)
        assert one.statistics().anchor is pf.Anchor.IO_URING
        assert pinned() == before + 20 * PAGE
        one.unpin()
        assert pinned() == before + 4 * PAGE
        two.unpin()
        assert pinned() == before


@needs_phys
def test_pages_are_held_before_they_are_looked_up(device: pf.Bti) -> None:
    """The order is the safety: swapped, a frame is where the page was a moment ago."""
    with pf.Vmo(4 * PAGE) as vmo:
        with HostCalls() as seen:
            pmt = device.pin(vmo, perms=READ)
        assert seen.names.index("io_uring_register") < seen.names.index("open")
        with HostCalls() as seen:
            pmt.unpin()
        assert seen.names == ["io_uring_register"]


@needs_phys
def test_neighbouring_frames_are_one_extent(device: pf.Bti) -> None:
    """Equal runs stay whole; addresses by page are the same either way."""
    with pf.Vmo(256 * PAGE) as vmo, device.pin(vmo, perms=READ) as pmt:
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
def test_a_page_that_left_the_page_table_is_fetched_back(device: pf.Bti) -> None:
    """Reclaim may empty the table that the pagemap reads; a page that is held stays where it is."""
    with pf.Vmo(13 * PAGE) as vmo, device.pin(vmo, perms=READ) as pmt:
        before, at = pinned(), pmt.object.pinned.host_address
        for times in (1, 2, 3, 5, 9):  # the last often enough for a page to be asked for twice
            with Emptying(at, vmo.size, times) as seen, device.pin(vmo, perms=READ) as again:
                assert (again.addrs == pmt.addrs).all()
            assert seen.names.count("open") > times
        with Emptying(at, vmo.size, 1000), pytest.raises(Unavailable, match="all the time"):
            device.pin(vmo, perms=READ)
        assert pinned() == before


@needs_phys
def test_a_device_that_cannot_reach_it_gets_nothing(bus: pf.Iommu) -> None:
    """The extent is named, and nothing is left registered."""
    before = pinned()
    with bus.initiator(2, address_bits=16) as narrow, pf.Vmo(8 * PAGE) as vmo:
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
def test_memory_that_linux_does_not_pin_is_refused(device: pf.Bti, tmp_path: Path) -> None:
    """Linux pins for writing; device memory has an address already."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * PAGE)
    before = pinned()
    with (
        pf.Vmo.from_file(path) as read_only,
        pytest.raises(NotSupported, match="does not pin such memory") as caught,
    ):
        device.pin(read_only, perms=READ)
    assert caught.value.remedy is not None
    with (
        pf.Resource(0xFE00_0000, PAGE) as resource,
        pf.Vmo.physical(resource, 0xFE00_0000, PAGE) as memory,
        pytest.raises(NotSupported, match="device memory"),
    ):
        device.pin(memory, perms=READ)
    assert pinned() == before


@needs_phys
def test_one_run_of_simulated_addresses_is_not_one_of_frames(device: pf.Bti) -> None:
    """A device told the first address alone would run into somebody else's memory."""
    with (
        pf.open_bus("stub") as stub,
        stub.initiator(1) as other,
        pf.Vmo.contiguous(other, 1024 * PAGE) as vmo,
        pytest.raises(NotSupported, match="one run of addresses elsewhere"),
    ):
        device.pin(vmo, perms=READ, form=pf.AddrForm.CONTIGUOUS)


@needs_phys
def test_the_books_hold_under_random_pins(bus: pf.Iommu, device: pf.Bti) -> None:
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
                pmt = device.pin(vmo, first * PAGE, count * PAGE, perms=READ)
                live.append((pmt, first, count))
            assert pinned() == before + sum(count for *_, count in live) * PAGE
            for pmt, first, count in live:
                assert (pmt.addrs == frames[first : first + count]).all()
        check_books(bus.kernel)
        for pmt, *_ in live:
            pmt.unpin()


@needs_phys
def test_threads_pin_and_unpin_at_once(process: pf.Process, bus: pf.Iommu) -> None:
    """The kernel's lock is not held meanwhile; the bus has one of its own."""
    before = pinned()
    wrong: list[object] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with (
            bus.initiator(seed) as bti,
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


# The end of a grant -----------------------------------------------------------------------------


@needs_phys
def test_a_pin_that_was_dropped_is_held_in_place_until_it_is_released(
    bus: pf.Iommu, device: pf.Bti
) -> None:
    """Revoking shuts nobody out here: the device may be writing there yet."""
    before = pinned()
    with pf.Vmo(4 * PAGE) as vmo:
        pmt = device.pin(vmo, perms=RW)
        token = pmt.object
        pmt.close()
        assert token.state is pf.PmtState.QUARANTINED
        assert pinned() == before + 4 * PAGE
        assert device.release_quarantine() == 1
        assert pinned() == before
        check_books(bus.kernel)


@needs_phys
def test_revoking_twice_is_allowed_and_a_foreign_grant_is_not(device: pf.Bti) -> None:
    before = pinned()
    with pf.Vmo(PAGE) as vmo:
        pmt = device.pin(vmo, perms=READ)
        space, grant = device.object.space, pmt.object.grant
        assert space.live_grants() == [grant]
        space.revoke(grant)
        assert (space.live_grants(), pinned()) == ([], before)
        space.revoke(grant)
        pmt.unpin()
        with (
            pf.open_bus("stub") as stub,
            stub.initiator(1) as bti,
            bti.pin(vmo, perms=READ) as other,
            pytest.raises(InvalidArgs, match="another bus"),
        ):
            space.revoke(other.object.grant)


@needs_phys
def test_what_the_kernel_does_not_let_go_stays_held_and_is_tried_again(device: pf.Bti) -> None:
    before = pinned()
    with pf.Vmo(PAGE) as vmo:
        pmt = device.pin(vmo, perms=READ)
        token = pmt.object
        with FailNth(1, errno.EIO), pytest.raises(HostError, match="unregister"):
            pmt.unpin()
        assert token.state is pf.PmtState.STUCK
        assert pinned() == before + PAGE
        assert vmo.pin_count() == 1
        assert device.release_quarantine() == 1
        assert (pinned(), vmo.pin_count()) == (before, 0)


@needs_phys
def test_closing_the_bus_lets_everything_go(process: pf.Process) -> None:
    """Twice is once, and afterwards it grants nothing."""
    before = pinned()
    with pf.Vmo(4 * PAGE) as vmo, pf.open_bus("phys") as iommu, iommu.initiator(1) as bti:
        pmt = bti.pin(vmo, perms=READ)
        bus = iommu.bus
        assert isinstance(bus, PhysBus)
        bus.close()
        assert settles_at(before)
        bus.close()
        pmt.unpin()
        with pytest.raises(BadState, match="closed"):
            bti.pin(vmo, perms=READ)
        with pytest.raises(BadState, match="closed"):
            bus.attach(2)


@needs_phys
def test_a_finaliser_inside_a_grant_leaves_its_work_for_later(device: pf.Bti) -> None:
    """The collector may drop a pin while this very thread has the bus's lock."""
    before = pinned()
    bus: Any = device.object.iommu.bus
    with pf.Vmo(PAGE) as vmo:
        pmt = device.pin(vmo, perms=READ)
        token = pmt.object
        listed: Any = token.grant
        with bus.locked():
            with pytest.raises(Unavailable):
                device.object.space.revoke(listed)
            with pytest.raises(Unavailable):
                device.object.space.close()
            done: list[str] = []
            device.object.space.notify_idle(lambda: done.append("settled"))
            device.object.space.live_grants()
            assert done == []
        assert done == ["settled"]
        pmt.unpin()
        assert pinned() == before


@needs_phys
def test_a_forked_child_has_no_part_in_it() -> None:
    """Its copy of the ring would keep the pages held when the parent lets them go."""
    found = run(
        """
        def rings():
            fds = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.lexists(f"/proc/self/fd/{n}")]
            with open("/proc/self/maps") as maps:
                return sum("io_uring" in fd for fd in fds), maps.read().count("io_uring")

        with pf.Process(pf.Kernel()), pf.open_bus("phys") as bus:
            with bus.initiator(1) as bti, pf.Vmo(4 * PAGE_SIZE) as vmo:
                pmt = bti.pin(vmo, perms=1)
                mine = rings()
                reader, writer = os.pipe()
                child = os.fork()
                if not child:
                    said = [rings(), list(pmt.addrs[:0])]
                    for act in (lambda: bti.pin(vmo, perms=1), bti.object.space.live_grants):
                        try:
                            act()
                        except WrongProcess as error:
                            said.append(type(error).__name__)
                    os.write(writer, json.dumps(said).encode())
                    os._exit(0)
                os.waitpid(child, 0)
                held = probe.process_memory().pinned
                pmt.unpin()
                left = probe.process_memory().pinned
                print(json.dumps([mine, json.loads(os.read(reader, 4096)), held, left]))
        """
    )
    assert found == [[1, 3], [[0, 0], [], "WrongProcess", "WrongProcess"], 4 * PAGE, 0]


# Failures ---------------------------------------------------------------------------------------


@needs_phys
def test_whatever_call_of_opening_fails_nothing_is_left(process: pf.Process) -> None:
    before, held = HostState.now(), pinned()
    with HostCalls() as seen:
        bus = pf.open_bus("phys")
    bus.close()
    assert "io_uring_setup" in seen.names
    for n in range(1, len(seen.names) + 1):
        for code in (errno.ENOMEM, errno.EIO):
            with FailNth(n, code), pytest.raises(PinfoldError):
                pf.open_bus("phys")
            gc.collect()
            assert before.difference(HostState.now()) == [], seen.names[n - 1]
            assert settles_at(held)


def grant_calls(device: pf.Bti, vmo: pf.Vmo) -> list[str]:
    with HostCalls() as seen:
        pmt = device.pin(vmo, perms=READ)
    pmt.unpin()
    return seen.names


@needs_phys
def test_whatever_call_of_a_pin_fails_nothing_is_held(bus: pf.Iommu, device: pf.Bti) -> None:
    """And the same pin works afterwards."""
    with pf.Vmo(8 * PAGE) as vmo:
        names = grant_calls(device, vmo)
    assert {"io_uring_register", "open", "pread", "mmap", "madvise"} <= set(names)
    before, state = pinned(), HostState.now()
    for n in range(1, len(names) + 1):
        for code in (errno.ENOMEM, errno.EIO, errno.EFAULT):
            with pf.Vmo(8 * PAGE) as vmo:
                with FailNth(n, code), pytest.raises(PinfoldError) as caught:
                    device.pin(vmo, perms=READ)
                where = f"{names[n - 1]}: {caught.value!r}"
                assert pinned() == before, where
                assert device.object.space.live_grants() == [], where
                assert vmo.pin_count() == 0, where
                assert not getattr(caught.value, "__notes__", []), where
                check_books(bus.kernel)
                device.pin(vmo, perms=READ).unpin()
            assert state.difference(HostState.now()) == [], where


@needs_phys
def test_when_undoing_fails_as_well_no_address_is_given_and_the_next_grant_settles_it(
    bus: pf.Iommu, device: pf.Bti
) -> None:
    """The pages stay held for nobody, until the kernel is willing."""
    with pf.Vmo(8 * PAGE) as vmo:
        before, names = pinned(), grant_calls(device, vmo)
        at = names.index("open") + 1
        with FailFrom(at, errno.EIO), pytest.raises(HostError, match="pagemap") as caught:
            device.pin(vmo, perms=READ)
        assert any("unregister" in note for note in caught.value.__notes__)
        assert pinned() == before + 8 * PAGE
        assert device.object.space.live_grants() == []
        check_books(bus.kernel)
        with device.pin(vmo, 0, PAGE, perms=READ):
            assert pinned() == before + PAGE
        assert pinned() == before


@needs_phys
def test_hidden_frames_are_an_error_and_nothing_stays_held() -> None:
    """Privileges that were given up after opening: never address 0."""
    found = run(
        """
        with pf.Process(pf.Kernel()), pf.open_bus("phys") as bus:
            with bus.initiator(1) as bti, pf.Vmo(4 * PAGE_SIZE) as vmo:
                give_up_privileges()
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
                try:
                    bti.pin(vmo, perms=1)
                except AccessDenied as error:
                    print(json.dumps([str(error), probe.process_memory().pinned]))
        """
    )
    assert "hides page frame numbers" in found[0]
    assert found[1] == 0
