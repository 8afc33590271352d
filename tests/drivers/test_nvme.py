"""The NVMe driver, on each simulated bus and on QEMU's controller behind a real IOMMU."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.drivers.nvme import CommandFailed
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    BadState,
    InvalidArgs,
    LimitReached,
    OutOfRange,
    WrongType,
)
from tests.drivers.nvme_stages import BLOCK, DISK, STAGES, Stage, Watched, hardware, software

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pinfold.drivers.nvme import NvmeDriver

P = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
PER_PAGE = P // BLOCK
TAIL_OF_1 = 0x1000 + 2 * 4
"""The doorbell of the I/O submission queue, where the stride is the smallest."""


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, process: pf.Process, tmp_path: Path) -> Iterator[Stage]:
    """A controller on each bus."""
    del process
    with hardware() if request.param == "vfio" else software(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def driver(stage: Stage) -> Iterator[NvmeDriver]:
    with stage.driver() as made:
        yield made


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_it_knows_its_controller_and_its_namespace(stage: Stage, driver: NvmeDriver) -> None:
    assert driver.controller.version >= (1, 0, 0)
    assert driver.controller.namespaces >= 1
    assert ("pinfold" in driver.controller.model) is not stage.real
    assert driver.namespace.number == 1
    assert driver.namespace.block_size == BLOCK
    assert driver.namespace.size == DISK
    found = driver.statistics()
    assert found.depth == 31
    assert found.max_transfer == driver.controller.max_transfer == 512 << 10
    assert found.submitted == found.outstanding == 0
    assert stage.bti.statistics().pins == 1


@pytest.mark.parametrize(
    ("offset", "blocks"),
    [
        pytest.param(0, 1, id="one PRP"),
        pytest.param(P - BLOCK, 1, id="one PRP to the end of its page"),
        pytest.param(P - 4, 1, id="two PRPs, four bytes in the first"),
        pytest.param(P, 2 * PER_PAGE, id="two PRPs of whole pages"),
        pytest.param(0, 2 * PER_PAGE + 1, id="a list of two"),
        pytest.param(P - 4, 2 * PER_PAGE, id="a list, from inside a page"),
        pytest.param(4, 1024, id="as much as one command moves, from inside a page"),
        pytest.param(BLOCK, 1024 + 3, id="two commands"),
    ],
)
def test_blocks_go_out_and_come_back(
    stage: Stage, driver: NvmeDriver, offset: int, blocks: int
) -> None:
    """And no byte beside them changes."""
    size, lba = blocks * BLOCK, 1000 + blocks
    room = offset + size + P + -(offset + size) % P
    data = noise(room, blocks)
    with stage.pinned(room, data) as (source, pmt):
        driver.write(pmt, lba, blocks, offset=offset)
        source.write(bytes(room))
        driver.flush()
        driver.read(pmt, lba, blocks, offset=offset)
        found = source.read()
    assert found[offset : offset + size] == data[offset : offset + size]
    assert not any(found[:offset])
    assert not any(found[offset + size :])
    counted = driver.statistics()
    assert counted.bytes_read == counted.bytes_written == size
    assert counted.submitted == counted.completed == 2 * -(-blocks // 1024) + 1
    assert counted.failures == counted.outstanding == 0
    assert len(stage.iommu.faults) == 0


def test_bytes_are_stored_and_loaded(driver: NvmeDriver) -> None:
    """More of them than the driver has memory for; then the first and the last block."""
    data = noise(300 * BLOCK, 1)
    driver.store(7, data)
    assert driver.load(7, 300) == data
    assert driver.load(8, 1) == data[BLOCK : 2 * BLOCK]
    last = driver.namespace.blocks - 1
    driver.store(0, b"a" * BLOCK)
    driver.store(last, memoryview(b"z" * BLOCK))
    assert driver.load(0, 1) + driver.load(last, 1) == b"a" * BLOCK + b"z" * BLOCK


def test_what_was_written_outlives_the_driver(stage: Stage) -> None:
    """Shut down, disabled, started anew."""
    data = noise(BLOCK, 2)
    with stage.driver() as first:
        first.store(99, data)
    assert stage.bti.statistics().pins == 0
    with stage.driver(depth=1) as second:
        assert second.load(99, 1) == data
    assert stage.bti.statistics().pins == stage.bti.statistics().quarantined == 0


def test_a_driver_takes_over_a_controller_that_runs(stage: Stage) -> None:
    """Whoever had it before was killed, say: it is stopped before it is given new queues."""
    first = stage.driver()
    with stage.driver() as second:
        second.store(0, b"x" * BLOCK)
        assert second.load(0, 1) == b"x" * BLOCK
    first.close()
    assert stage.bti.statistics().pins == 0


# Several at a time -------------------------------------------------------------------------------


def test_commands_are_outstanding_together(stage: Stage, driver: NvmeDriver) -> None:
    data = noise(8 * P, 3)
    with stage.pinned(8 * P, data) as (memory, pmt):
        writes = [
            driver.submit_write(pmt, 64 * page, PER_PAGE, offset=P * page) for page in range(8)
        ]
        assert driver.statistics().submitted == 8
        done = driver.reap(8)
        assert sorted(found.ticket for found in done) == writes
        assert {(found.command, found.blocks, found.error) for found in done} == {
            ("write", PER_PAGE, None)
        }
        assert sorted(found.lba for found in done) == [64 * page for page in range(8)]
        flush = driver.submit_flush()
        assert [(found.ticket, found.command) for found in driver.reap(1)] == [(flush, "flush")]
        memory.write(bytes(8 * P))
        for page in range(8):
            driver.submit_read(pmt, 64 * page, PER_PAGE, offset=P * (7 - page))
        driver.reap(8)
        assert driver.reap() == []
        found = memory.read()
        assert b"".join(found[P * page :][:P] for page in reversed(range(8))) == data


def test_queues_go_round_and_their_phase_turns(stage: Stage) -> None:
    """Four slots, three commands at a time, four times round."""
    with stage.driver(depth=3) as driver, stage.pinned(P) as (memory, pmt):
        assert driver.statistics().depth == 3
        driver.store(0, b"".join(bytes([number]) * BLOCK for number in range(16)))
        for first in range(0, 15, 3):
            for at in range(3):
                driver.submit_read(pmt, first + at, 1, offset=at * BLOCK)
            assert len(driver.reap(3)) == 3
            assert memory.read(0, 3 * BLOCK) == b"".join(
                bytes([first + at]) * BLOCK for at in range(3)
            )
        assert driver.statistics().failures == 0


def test_a_full_queue_says_so(stage: Stage) -> None:
    """A doorbell that does not arrive keeps it full."""
    held: list[tuple[int, int]] = []

    def hold(offset: int, value: int) -> bool:
        if offset == TAIL_OF_1:
            held.append((offset, value))
        return offset != TAIL_OF_1

    registers = Watched(stage.registers, writing=hold)
    with stage.driver(registers, depth=2) as driver, stage.pinned(P) as (_, pmt):
        driver.submit_read(pmt, 0, 1)
        driver.submit_read(pmt, 1, 1, offset=BLOCK)
        with pytest.raises(LimitReached) as caught:
            driver.submit_read(pmt, 2, 1)
        assert (caught.value.available, caught.value.limit) == (0, 2)
        with pytest.raises(LimitReached):
            driver.submit_flush()
        assert driver.reap() == []
        stage.registers.write32(*held[-1])
        assert len(driver.reap(2)) == 2
        driver.submit_flush()
        stage.registers.write32(*held[-1])
        assert len(driver.reap(1)) == 1


def test_a_whole_transfer_beside_submitted_commands(stage: Stage, driver: NvmeDriver) -> None:
    """It waits for its own, and leaves the others to be reaped."""
    with stage.pinned(2 * P) as (memory, pmt):
        driver.store(5, b"5" * BLOCK)
        driver.store(6, b"6" * BLOCK)
        ticket = driver.submit_read(pmt, 5, 1)
        driver.read(pmt, 6, 1, offset=P)
        assert memory.read(P, BLOCK) == b"6" * BLOCK
        assert [found.ticket for found in driver.reap(1)] == [ticket]
        assert memory.read(0, BLOCK) == b"5" * BLOCK


def test_more_completions_than_there_can_be(driver: NvmeDriver) -> None:
    """To wait for them would be to wait for ever."""
    driver.submit_flush()
    with pytest.raises(InvalidArgs) as caught:
        driver.reap(2)
    assert caught.value.available == 1
    with pytest.raises(InvalidArgs):
        driver.reap(-1)
    assert len(driver.reap(1)) == 1


def test_closed_with_commands_outstanding(stage: Stage) -> None:
    """The controller has stopped, so the pin may go at once, and nobody is faulted."""
    with stage.pinned(16 * P) as (memory, pmt):
        driver = stage.driver()
        for page in range(16):
            driver.submit_read(pmt, page, PER_PAGE, offset=page * P)
        driver.close()
        before = memory.read()
    assert stage.bti.statistics().pins == 0
    with stage.driver() as driver:
        driver.flush()
    assert len(before) == 16 * P
    assert len(stage.iommu.faults) == 0


# What is refused ---------------------------------------------------------------------------------


def test_ranges_are_checked_before_anything_is_submitted(stage: Stage, driver: NvmeDriver) -> None:
    last = driver.namespace.blocks
    with stage.pinned(P) as (_, pmt):
        for lba, blocks in ((last, 1), (last - 1, 2), (1 << 70, 1)):
            with pytest.raises(OutOfRange) as caught:
                driver.read(pmt, lba, blocks)
            assert caught.value.limit == last
        for lba, blocks, offset in ((0, 0, 0), (-1, 1, 0), (0, -1, 0), (0, 1, -4), (0, 1, 2)):
            with pytest.raises(InvalidArgs):
                driver.write(pmt, lba, blocks, offset=offset)
        with pytest.raises(OutOfRange) as caught:
            driver.read(pmt, 0, PER_PAGE, offset=4)
        assert caught.value.limit == P
        with pytest.raises(WrongType):
            driver.read(int(pmt.addrs[0]), 0, 1)  # type: ignore[arg-type]
        for data in (b"", b"x", b"x" * (BLOCK + 1)):
            with pytest.raises(InvalidArgs):
                driver.store(0, data)
        with pytest.raises(OutOfRange):
            driver.load(last, 1)
    with pytest.raises(BadHandle):
        driver.read(pmt, 0, 1)
    assert driver.statistics().submitted == 0


def test_more_than_one_command_moves(stage: Stage, driver: NvmeDriver) -> None:
    """It is refused where it would be one command, and split where it need not be."""
    most = driver.statistics().max_transfer
    with stage.pinned(most + P) as (_, pmt):
        with pytest.raises(InvalidArgs) as caught:
            driver.submit_read(pmt, 0, most // BLOCK + 1)
        assert caught.value.limit == most
        driver.read(pmt, 0, most // BLOCK + 1)
    assert driver.statistics().completed == 2


def test_a_pin_that_does_not_permit_the_transfer(stage: Stage, driver: NvmeDriver) -> None:
    """Not all controllers would tell, so it is found out before."""
    with pf.Vmo(P) as memory:
        memory.write(b"mine" * (P // 4))
        with stage.bti.pin(memory, perms=READ) as pmt, pytest.raises(AccessDenied, match="WRITE"):
            driver.read(pmt, 0, 1)
        with stage.bti.pin(memory, perms=WRITE) as pmt, pytest.raises(AccessDenied, match="READ"):
            driver.write(pmt, 0, 1)
        assert memory.read() == b"mine" * (P // 4)
    assert driver.statistics().submitted == 0


def test_a_namespace_that_cannot_be(stage: Stage) -> None:
    """The controller's own words; everything is given back."""
    with pytest.raises(CommandFailed, match="identify: invalid namespace or format") as caught:
        stage.driver(namespace=1000)
    error = caught.value
    assert (error.status_type, error.status_code) == (0, 0x0B)
    assert (error.command, error.lba, error.retry) == ("identify", None, False)
    assert stage.bti.statistics().pins == stage.bti.statistics().quarantined == 0


@pytest.mark.parametrize("namespace", [0, -1, 0xFFFFFFFF, 1 << 32, 1 << 70])
def test_a_number_that_no_namespace_has(stage: Stage, namespace: int) -> None:
    """Source: section 6.1: 0 is none, and all ones are every namespace."""
    with pytest.raises(InvalidArgs) as caught:
        stage.driver(namespace=namespace)
    assert (caught.value.asked, caught.value.limit) == (namespace, 0xFFFFFFFE)
    assert stage.bti.statistics().pins == 0


def test_the_last_number_that_a_namespace_can_have(stage: Stage) -> None:
    """It is the controller that says whether there is one."""
    with pytest.raises(CommandFailed, match="identify: invalid namespace or format"):
        stage.driver(namespace=0xFFFFFFFE)
    assert stage.bti.statistics().pins == 0


@pytest.mark.parametrize("depth", [0, -1, 64, 1 << 20])
def test_a_depth_that_no_queue_has(stage: Stage, depth: int) -> None:
    with pytest.raises(InvalidArgs) as caught:
        stage.driver(depth=depth)
    assert caught.value.limit == P // 64 - 1
    assert stage.bti.statistics().pins == 0


def test_a_closed_driver_moves_nothing(stage: Stage) -> None:
    driver = stage.driver()
    driver.close()
    driver.close()
    with stage.pinned(P) as (_, pmt):
        for call in (
            lambda: driver.read(pmt, 0, 1),
            lambda: driver.submit_write(pmt, 0, 1),
            lambda: driver.load(0, 1),
            lambda: driver.store(0, bytes(BLOCK)),
            driver.flush,
            driver.submit_flush,
            driver.reap,
        ):
            with pytest.raises(BadState):
                call()
    assert driver.statistics().submitted == 0


# What the bus stops ------------------------------------------------------------------------------


def test_a_pin_that_ends_while_a_read_is_under_way(stage: Stage) -> None:
    """The software controller reports it. QEMU's reports success; only the bus knows better."""
    memory = pf.Vmo(P, name="mine")
    pins: list[pf.Pmt] = []
    isolates = stage.bti.limits.isolates

    def unpin(offset: int, value: int) -> None:
        del value
        if offset == TAIL_OF_1 and pins:
            pins.pop().unpin()
            if not isolates:
                memory.close()  # or the device would still reach it

    with stage.driver(Watched(stage.registers, writing=unpin)) as driver:
        driver.store(0, b"x" * BLOCK)
        memory.write(b"mine" * (P // 4))
        pmt = stage.bti.pin(memory, perms=WRITE)
        address = int(pmt.addrs[0])
        pins.append(pmt)
        if stage.real:
            driver.read(pmt, 0, 1)
            assert driver.statistics().failures == 0
        else:
            with pytest.raises(CommandFailed, match="data transfer error") as caught:
                driver.read(pmt, 0, 1)
            assert (caught.value.lba, caught.value.blocks) == (0, 1)
            assert caught.value.retry
            assert driver.statistics().failures == 1
        fault = stage.iommu.faults[0]
        assert (fault.initiator, fault.address, fault.access) == (0x30, address, WRITE)
        if isolates:
            assert fault.reason is pf.FaultReason.REVOKED
            with memory:
                assert memory.read() == b"mine" * (P // 4)
        assert driver.load(0, 1) == b"x" * BLOCK  # it goes on
