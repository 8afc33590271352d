"""The queue of an io_uring device: split transfers, threads, and who waits for whom."""

from __future__ import annotations

import errno
import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.buses.io_uring.file import OpenFile
from pinfold.errors import BadState, DmaFault, PinfoldError
from pinfold.host import calls, probe
from pinfold.transfers import Outcomes, transfers
from pinfold.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pinfold.objects.file_initiator import FileInitiator

pytestmark = [pytest.mark.usefixtures("process"), pytest.mark.timeout(60)]

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
RW = READ | WRITE
REASON = pf.FaultReason
SIZE = 16 * MIB if probe.may_exceed_memlock() else 4 * MIB
"""What is pinned: half of what Linux lets everybody lock, where the limit binds."""
PIECE = SIZE // 64
CONTENT = np.random.default_rng(5).bytes(SIZE)


@pytest.fixture
def bus(process: pf.Process) -> Iterator[pf.Iommu]:
    del process
    with pf.open_bus("io_uring") as made:
        yield made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many bytes of noise; nobody writes it."""
    made = tmp_path_factory.mktemp("uring") / "noise"
    made.write_bytes(CONTENT)
    return made


@pytest.fixture
def opened(path: Path) -> Iterator[OpenFile]:
    made = OpenFile(path, writable=False, direct=None)
    yield made
    made.close()


def moved_by(bti: pf.Bti, file: OpenFile, wanted: list[tuple[bool, int, int, int]]) -> Outcomes:
    """Transfers of a device of few address bits, which no file is."""
    queue: Any = bti.object.space.queue  # type: ignore[attr-defined]
    batch = queue.start(transfers(wanted), file)
    queue.finish(batch)
    outcomes: Outcomes = batch.outcomes()
    return outcomes


def in_threads(*acts: Callable[[], object]) -> None:
    """Run all at once; the first that raised is raised."""
    failed: list[BaseException] = []

    def run(act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def empty_cache(path: Path) -> None:
    """What is read by the page cache has to come from the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# Split transfers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [4, 5, 9, 64])
def test_a_transfer_over_several_buffers_has_one_outcome(
    bus: pf.Iommu, opened: OpenFile, pages: int
) -> None:
    """With 28 address bits a buffer is 4 pages: what is moved is counted from the start, up to what
    is missing, and an address that is not granted whole moves nothing."""
    size = pages * PAGE
    with (
        bus.initiator(1, address_bits=28) as bti,
        pf.Vmo(size) as vmo,
        bti.pin(vmo, perms=RW) as pmt,
    ):
        start = int(pmt.addrs[0])
        outcomes = moved_by(bti, opened, [(False, start, size, 0)])
        assert (outcomes.moved.tolist(), outcomes.ok) == ([size], True)
        assert vmo.read() == CONTENT[:size]
        outcomes = moved_by(
            bti,
            opened,
            [
                (False, start + 1, size - 2, 100),
                (False, start, 1, SIZE - 1),
                (False, start, size, SIZE - 5),
                (False, start, size, SIZE),
                (False, start + 1, size, 0),
                (False, start - 1, size, 0),
                (False, start, 1 << 62, 0),
                (False, start + size - 1, 1, 7),
            ],
        )
        moved = [size - 2, 1, 5, 0, 0, 0, 0, 1]
        assert outcomes.moved.tolist() == moved
        assert outcomes.errors.tolist() == [0] * 4 + [errno.EFAULT] * 3 + [0]
        assert {at: fault.reason for at, fault in outcomes.faults.items()} == {
            4: REASON.BEYOND_END,
            5: REASON.NOTHING_THERE,
            6: REASON.BEYOND_END,
        }
        assert vmo.read(size - 1, 1) == CONTENT[7:8]


def test_directions_of_split_transfers(bus: pf.Iommu, opened: OpenFile) -> None:
    """Stopped as one."""
    with (
        bus.initiator(1, address_bits=28) as bti,
        pf.Vmo(9 * PAGE) as vmo,
        bti.pin(vmo, perms=READ) as pmt,
    ):
        outcomes = moved_by(bti, opened, [(False, int(pmt.addrs[0]), 9 * PAGE, 0)])
        assert outcomes.moved.tolist() == [0]
        assert outcomes.faults[0].reason is REASON.NOT_PERMITTED
        assert bus.faults.total == 1
        assert vmo.read() == bytes(9 * PAGE)


def test_a_batch_is_checked_against_the_pins_of_the_moment(
    process: pf.Process, opened: OpenFile
) -> None:
    """What waits behind the depth when its pin goes is stopped there and then: another pin may have
    got the same address by the time that its turn would have come."""
    del process
    with (
        pf.open_bus("io_uring", depth=1) as bus,
        bus.initiator(1, address_bits=14) as bti,
        pf.Vmo(PAGE) as vmo,
        pf.Vmo(PAGE) as other,
    ):
        queue = bti.object.space.queue  # type: ignore[attr-defined]
        pmt = bti.pin(vmo, perms=RW)
        start = int(pmt.addrs[0])
        batch = queue.start(transfers([(False, start, PAGE, 0)] * 3), opened)
        pmt.unpin()
        assert vmo.read() == CONTENT[:PAGE]  # the first was under way, and was waited for
        again = bti.pin(other, perms=RW)
        while int(again.addrs[0]) != start:  # addresses are given out in turn
            again.unpin()
            again = bti.pin(other, perms=RW)
        queue.finish(batch)
        outcomes = batch.outcomes()
        assert outcomes.moved.tolist() == [PAGE, 0, 0]
        assert [fault.reason for fault in outcomes.faults.values()] == [REASON.REVOKED] * 2
        assert other.read() == bytes(PAGE)
        again.unpin()


# Unpin and what is under way ----------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
def test_no_byte_arrives_after_unpin(
    bus: pf.Iommu,
    path: Path,
    direct: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Source: `Bus.revoke`: on return the device is shut out. Reads of many megabytes are under way
    when the pin goes; from its return on the memory stays as it is made then."""
    with pf.Vmo(SIZE) as vmo, bus.file(path, direct=direct or None, depth=64) as file:
        if direct and not file.file_statistics().direct:
            pytest.skip(f"{path} is on a file system without direct I/O")
        waited = 0
        for _ in range(12):
            if not direct:
                empty_cache(path)
            pmt = file.pin(vmo, perms=RW)
            start = int(pmt.addrs[0])
            batch = file.submit([(False, start + at, PIECE, at) for at in range(0, SIZE, PIECE)])
            waited += batch.left > 0
            pmt.unpin()
            assert probe.process_memory().pinned == 0
            vmo.write(bytes(SIZE))
            outcomes = batch.finish()
            assert outcomes.ok
            assert outcomes.bytes_moved == SIZE
            assert vmo.read() == bytes(SIZE)
        assert waited


def test_the_slots_are_emptied_before_it_is_waited(
    bus: pf.Iommu, path: Path, process: pf.Process
) -> None:
    """Else new requests could come for ever. And the wait is over before the pages are let go."""
    del process
    with pf.Vmo(SIZE) as vmo, bus.file(path, depth=64) as file:
        pmt = file.pin(vmo, perms=RW)
        start = int(pmt.addrs[0])
        file.submit([(False, start + at, 4 * PIECE, at) for at in range(0, SIZE, 4 * PIECE)])
        seen: list[tuple[str, int]] = []

        pages = vmo.object.pages  # not by a call of the handle's: here it would be from inside

        def look(name: str) -> None:
            seen.append((name, pages.pin_count(0)))

        calls.set_interceptor(look)
        try:
            pmt.unpin()
        finally:
            calls.set_interceptor(None)
        assert seen[0] == ("io_uring_register", 1)
        assert set(seen[1:]) <= {("io_uring_enter", 1)}
        assert vmo.pin_count() == 0


def test_an_access_while_its_pin_is_being_revoked(bus: pf.Iommu, path: Path) -> None:
    """The slot is empty, the requests before have not ended: a fault like any other."""
    with pf.Vmo(SIZE) as vmo, bus.file(path, depth=64) as file:
        pmt = file.pin(vmo, perms=RW)
        start = int(pmt.addrs[0])
        space: Any = file.object.space
        found: list[Outcomes] = []
        taken = space.queue.drain

        def drain(grant: Any) -> None:
            found.append(file.transfer([(False, start, PAGE, 0)]))
            taken(grant)

        space.queue.drain = drain
        try:
            pmt.unpin()
        finally:
            del space.queue.drain
        assert found[0].moved.tolist() == [0]
        assert found[0].faults[0].reason is REASON.REVOKED
        with pytest.raises(DmaFault):
            found[0].raise_first()
        assert vmo.read(0, PAGE) == bytes(PAGE)


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 8])
def test_threads_share_a_device(process: pf.Process, bus: pf.Iommu, path: Path, depth: int) -> None:
    """Each gets all of what it asked for: no completion is lost, and nobody waits for ever."""
    with bus.file(path, depth=depth) as file:

        def work(number: int) -> None:
            chance = np.random.default_rng(number)
            with pf.Vmo(64 * PAGE, process=process) as vmo:
                for turn in range(25):
                    with file.pin(vmo, perms=RW) as pmt:
                        start = int(pmt.addrs[0])
                        pages = chance.integers(0, SIZE // PAGE, 64)
                        count = 1 if turn % 3 else 64
                        outcomes = file.transfer(
                            [
                                (False, start + at * PAGE, PAGE, int(page) * PAGE)
                                for at, page in enumerate(pages[:count])
                            ]
                        )
                        assert outcomes.ok
                        assert outcomes.bytes_moved == count * PAGE
                    for at, page in enumerate(pages[:count].tolist()):
                        assert vmo.read(at * PAGE, PAGE) == CONTENT[page * PAGE :][:PAGE]

        in_threads(*[lambda n=n: work(n) for n in range(6)])
        queue: Any = file.object.space.queue  # type: ignore[attr-defined]
        assert (queue._under_way, queue._live, queue._waiters) == (0, [], 0)  # noqa: SLF001
        assert probe.process_memory().pinned == 0


def test_threads_unpin_under_each_others_transfers(bus: pf.Iommu, path: Path) -> None:
    """On two devices at once: what was unpinned is stopped or was moved; never anything else."""
    ends = threading.Event()
    with pf.Vmo(64 * PAGE) as vmo, bus.file(path, depth=8) as one, bus.file(path) as two:
        current: dict[FileInitiator, int] = {one: 0, two: 0}

        def pinning(file: FileInitiator) -> None:
            try:
                for _ in range(150):
                    with file.pin(vmo, perms=RW) as pmt:
                        current[file] = int(pmt.addrs[0])
                        file.transfer([(False, current[file], PAGE, 0)]).raise_first()
            finally:
                ends.set()

        def moving(file: FileInitiator) -> None:
            while not ends.is_set():
                start = current[file]
                outcomes = file.transfer(
                    [(False, start + at * PAGE, PAGE, at * PAGE) for at in range(64)]
                )
                for at in range(64):
                    assert (outcomes.moved[at], outcomes.errors[at]) in (
                        (PAGE, 0),
                        (0, errno.EFAULT),
                    )
                    assert (at in outcomes.faults) == (outcomes.errors[at] != 0)

        in_threads(
            lambda: pinning(one),
            lambda: pinning(two),
            lambda: moving(one),
            lambda: moving(one),
            lambda: moving(two),
        )
        check = vmo.read()
        assert all(
            check[at : at + PAGE] in (bytes(PAGE), CONTENT[at : at + PAGE])
            for at in range(0, 64 * PAGE, PAGE)
        )
    assert probe.process_memory().pinned == 0


@pytest.mark.parametrize("direct", [None, False])
def test_what_a_thread_that_has_ended_had_submitted_is_made(
    bus: pf.Iommu,
    path: Path,
    direct: bool | None,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Linux makes requests in the name of the thread that gave them, and gives up what is left of a
    thread that ends: EFAULT and ECANCELED, here and there. Those are made again."""
    with (
        bus.file(path, direct=direct, depth=64) as file,
        pf.Vmo(SIZE) as vmo,
        file.pin(vmo, perms=RW) as pmt,
    ):
        start = int(pmt.addrs[0])
        for _ in range(5):
            empty_cache(path)
            vmo.write(bytes(SIZE))
            batches: list[Any] = []
            wanted = [(False, start + at, PIECE, at) for at in range(0, SIZE, PIECE)]
            in_threads(lambda: batches.append(file.submit(wanted)))  # noqa: B023 - run at once
            outcomes = batches[0].finish()
            assert outcomes.ok
            assert not outcomes.faults
            assert vmo.read() == CONTENT


def test_writes_of_a_thread_that_has_ended(bus: pf.Iommu, tmp_path: Path) -> None:
    """As above; these are punted to workers, which end with their thread."""
    target = tmp_path / "target"
    target.touch()
    with (
        bus.file(target, writable=True, direct=False, depth=64) as file,
        pf.Vmo(SIZE) as vmo,
        file.pin(vmo, perms=READ) as pmt,
    ):
        vmo.write(CONTENT)
        start = int(pmt.addrs[0])
        batches: list[Any] = []
        wanted = [(True, start + at, PIECE, at) for at in range(0, SIZE, PIECE)]
        in_threads(lambda: batches.append(file.submit(wanted)))
        outcomes = batches[0].finish()
        assert outcomes.ok
    assert target.read_bytes() == CONTENT


def test_a_file_closed_while_threads_use_it(bus: pf.Iommu, path: Path) -> None:
    """Whoever comes too late is refused; nobody waits for ever, and no ring is touched that has
    gone."""
    for _ in range(20):
        file = bus.file(path, depth=4)
        with pf.Vmo(64 * PAGE) as vmo:
            pmt = file.pin(vmo, perms=RW)
            start = int(pmt.addrs[0])
            begun = threading.Barrier(3)

            def moving() -> None:
                begun.wait()  # noqa: B023 - run at once
                try:
                    while True:
                        file.transfer([(False, start, PAGE, 0)] * 20)  # noqa: B023
                except PinfoldError:
                    pass

            def closing() -> None:
                begun.wait()  # noqa: B023
                file.close()  # noqa: B023
                pmt.unpin()  # noqa: B023

            in_threads(moving, moving, closing)
        assert probe.process_memory().pinned == 0


# Finalisers ---------------------------------------------------------------------------------------


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.self = self


def test_a_token_dropped_inside_the_queue_is_settled_afterwards(
    bus: pf.Iommu, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The collector may run while a completion is being written down."""
    with bus.file(path, depth=8) as file, pf.Vmo(PAGE) as vmo, pf.Vmo(PAGE) as other:
        pmt = file.pin(vmo, perms=RW)
        start = int(pmt.addrs[0])
        queue: Any = file.object.space.queue  # type: ignore[attr-defined]
        account = queue._account  # noqa: SLF001
        doomed = [Cycle(file.pin(other, perms=RW))]

        def collecting(found: Any) -> None:
            doomed.clear()
            gc.collect()
            assert other.pin_count() == 1
            account(found)

        queue._account = collecting  # noqa: SLF001
        with pytest.warns(ResourceWarning, match="pmt"):
            assert file.read(start, PAGE, at=0) == PAGE
        del queue._account  # noqa: SLF001
        assert "quarantine" in caplog.text
        assert probe.process_memory().pinned == PAGE  # revoked, once the access was over
        assert file.release_quarantine() == 1
        assert other.pin_count() == 0
        pmt.unpin()


def test_a_finaliser_of_ones_own_is_refused(bus: pf.Iommu, path: Path) -> None:
    """It runs inside, and would find the books half written."""
    with bus.file(path) as file, pf.Vmo(PAGE) as vmo, file.pin(vmo, perms=RW) as pmt:
        start = int(pmt.addrs[0])
        refused: list[BaseException] = []

        class Asking:
            def __del__(self) -> None:
                for act in (lambda: file.read(start, 1, at=0), lambda: file.pin(vmo, perms=RW)):
                    try:
                        act()
                    except BadState as error:
                        refused.append(error)

        queue: Any = file.object.space.queue  # type: ignore[attr-defined]
        with queue.lock:
            Asking()
        assert len(refused) == 2
        assert vmo.pin_count() == 1
        assert file.read(start, PAGE, at=0) == PAGE
