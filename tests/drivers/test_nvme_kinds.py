"""The NVMe driver with controllers and media of many kinds, and when commands fail."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.devices.nvme import MemoryMedium, Nvme
from pinfold.drivers.nvme import CommandFailed, NvmeDriver
from pinfold.errors import BadHandle, InvalidArgs, NotSupported
from tests.drivers.nvme_stages import BLOCK, CAP_HIGH, CC, REQUESTER, Bad, Stage, Watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import SupportsLenAndGetItem

P = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
BLOCKS = 4096


@pytest.fixture
def medium() -> Bad:
    return Bad(BLOCKS * BLOCK)


@pytest.fixture
def stage(any_bus: pf.Iommu, medium: Bad) -> Iterator[Stage]:
    """A controller whose commands are done as they come."""
    with any_bus.initiator(REQUESTER) as bti:
        yield Stage(any_bus.name, any_bus, bti, Nvme(bti.master(), medium))


# Errors of commands ------------------------------------------------------------------------------


def test_a_medium_error_is_the_commands(stage: Stage, medium: Bad) -> None:
    medium.lost = range(10, 12)
    with stage.driver() as driver, stage.pinned(P) as (_, pmt):
        with pytest.raises(CommandFailed, match=r"read of 8 blocks at 0x8: unrecovered") as caught:
            driver.read(pmt, 8, 8)
        assert (caught.value.status_type, caught.value.status_code) == (2, 0x81)
        with pytest.raises(CommandFailed, match="write fault"):
            driver.store(11, bytes(BLOCK))
        with pytest.raises(CommandFailed, match="flush: write fault") as flushed:
            driver.flush()
        assert (flushed.value.lba, flushed.value.blocks) == (None, None)
        driver.read(pmt, 12, 8)
        medium.lost = range(0)
        assert driver.statistics().failures == 3


@pytest.mark.parametrize(("depth", "submitted"), [(2, 2), (31, 4)])
def test_the_lowest_failure_of_a_transfer_is_told(
    stage: Stage, medium: Bad, depth: int, submitted: int
) -> None:
    """Nothing of it is under way afterwards, and nothing more was begun once it was known."""
    medium.lost = range(1500, 2600)
    with stage.driver(depth=depth) as driver, stage.pinned(BLOCKS * BLOCK) as (_, pmt):
        with pytest.raises(CommandFailed) as caught:
            driver.read(pmt, 0, BLOCKS)
        assert (caught.value.lba, caught.value.blocks) == (1024, 1024)
        found = driver.statistics()
        assert found.outstanding == 0
        assert found.completed == found.submitted == submitted
        medium.lost = range(0)
        driver.read(pmt, 0, BLOCKS)


def test_the_lowest_failure_is_told_even_where_it_comes_last(
    any_bus: pf.Iommu, medium: Bad
) -> None:
    """Not the first that came back."""

    class Backwards(random.Random):
        def choice(self, seq: SupportsLenAndGetItem[Any]) -> Any:
            return seq[len(seq) - 1]

    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), medium, step=1, shuffle=Backwards())
        stage = Stage(any_bus.name, any_bus, bti, controller)
        with stage.driver() as driver, stage.pinned(BLOCKS * BLOCK) as (_, pmt):
            medium.lost = range(1500, 2600)
            with pytest.raises(CommandFailed) as caught:
                driver.read(pmt, 0, BLOCKS)
            assert (caught.value.lba, caught.value.blocks) == (1024, 1024)
            assert driver.statistics().failures == 2
            medium.lost = range(0)


def test_failures_of_submitted_commands_are_records(stage: Stage, medium: Bad) -> None:
    medium.lost = range(1, 2)
    with stage.driver() as driver, stage.pinned(P) as (_, pmt):
        tickets = [driver.submit_read(pmt, lba, 1, offset=lba * BLOCK) for lba in range(3)]
        done = {found.ticket: found for found in driver.reap(3)}
        assert [done[ticket].error is None for ticket in tickets] == [True, False, True]
        error = done[tickets[1]].error
        assert error is not None
        assert (error.lba, error.blocks) == (1, 1)
        medium.lost = range(0)


def test_completions_come_in_any_order(any_bus: pf.Iommu, medium: Bad) -> None:
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), medium, step=1, shuffle=random.Random(5))
        stage = Stage(any_bus.name, any_bus, bti, controller)
        with stage.driver(depth=8) as driver, stage.pinned(8 * BLOCK) as (memory, pmt):
            data = random.Random(6).randbytes(8 * BLOCK)
            driver.store(0, data)
            for _ in range(4):
                memory.write(bytes(8 * BLOCK))
                sent = [driver.submit_read(pmt, at, 1, offset=at * BLOCK) for at in range(8)]
                first = driver.reap(1)
                assert 1 <= len(first) < 8
                done = [found.ticket for found in first + driver.reap(8 - len(first))]
                assert done != sent
                assert sorted(done) == sent
                assert memory.read(0, 8 * BLOCK) == data


def test_a_random_run_agrees_with_a_model(any_bus: pf.Iommu) -> None:
    """Batches of reads and writes that do not touch each other, in whatever order they are done."""
    rng = random.Random(11)
    lanes, blocks, room = 8, 64, 9 * P
    medium = MemoryMedium(lanes * blocks * BLOCK)
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), medium, step=3, shuffle=random.Random(12))
        stage = Stage(any_bus.name, any_bus, bti, controller)
        contents = bytearray(rng.randbytes(lanes * room))
        disk = bytearray(medium.size)
        with (
            stage.driver(depth=5) as driver,
            stage.pinned(len(contents), contents) as (memory, pmt),
        ):
            for _ in range(40):
                sent = 0
                for lane in rng.sample(range(lanes), 5):
                    count = rng.randint(1, blocks)
                    lba = lane * blocks + rng.randint(0, blocks - count)
                    offset = lane * room + rng.randrange(0, room - count * BLOCK, 4)
                    on_disk = slice(lba * BLOCK, (lba + count) * BLOCK)
                    in_memory = slice(offset, offset + count * BLOCK)
                    if rng.random() < 0.5:
                        driver.submit_read(pmt, lba, count, offset=offset)
                        contents[in_memory] = disk[on_disk]
                    else:
                        driver.submit_write(pmt, lba, count, offset=offset)
                        disk[on_disk] = contents[in_memory]
                    sent += 1
                assert all(done.error is None for done in driver.reap(sent))
                assert memory.read() == contents
                assert medium.read(0, medium.size) == disk


# Kinds of controllers ----------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8, 256])
@pytest.mark.parametrize("latency", [0, 7])
def test_doorbells_lie_apart(any_bus: pf.Iommu, stride: int, latency: int) -> None:
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), MemoryMedium(1 << 20), stride=stride, latency=latency)
        with NvmeDriver(controller, bti) as driver:
            driver.store(3, b"s" * 40 * BLOCK)
            assert driver.load(3, 40) == b"s" * 40 * BLOCK
        assert controller.statistics().ignored == controller.statistics().refused == 0


def test_a_driver_that_polls_is_not_interrupted(any_bus: pf.Iommu, medium: Bad) -> None:
    """The admin queue would: a line that nobody acknowledges stays up."""
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), medium)
        with NvmeDriver(controller, bti) as driver:
            driver.flush()
        assert controller.statistics().interrupts == 0


@pytest.mark.parametrize(("entries", "depth"), [(2, 1), (4, 3), (64, 31)])
def test_a_controller_with_short_queues(any_bus: pf.Iommu, entries: int, depth: int) -> None:
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), MemoryMedium(1 << 20), entries=entries)
        with NvmeDriver(controller, bti) as driver:
            assert driver.statistics().depth == depth
            data = random.Random(7).randbytes(200 * BLOCK)
            driver.store(3, data)
            assert driver.load(3, 200) == data


@pytest.mark.parametrize(
    ("limit", "block", "most"),
    [
        pytest.param(8 << 10, 512, 8 << 10, id="two pages at most"),
        pytest.param(1 << 30, 512, 2 << 20, id="as much as a list holds"),
        pytest.param(None, 512, 2 << 20, id="no limit of the controller's own"),
        pytest.param(None, 4096, 2 << 20, id="large blocks"),
    ],
)
def test_the_longest_command(any_bus: pf.Iommu, limit: int | None, block: int, most: int) -> None:
    size = 5 << 20
    with any_bus.initiator(REQUESTER) as bti:
        medium = MemoryMedium(size)
        controller = Nvme(bti.master(), medium, max_transfer=limit, block_size=block)
        with NvmeDriver(controller, bti) as driver, pf.Vmo(size + P) as memory:
            assert driver.namespace.block_size == block
            assert driver.statistics().max_transfer == most
            data = random.Random(8).randbytes(size)
            memory.write(data, 4)
            with bti.pin(memory, perms=READ) as pmt:  # every list begins inside a page
                driver.write(pmt, 0, size // block, offset=4)
        assert medium.read(0, size) == data
        assert controller.statistics().errors == 0


@pytest.mark.parametrize(
    ("register", "change", "words"),
    [
        (CAP_HIGH, lambda value: value & ~(1 << 5), "no NVM command set"),
        (CAP_HIGH, lambda value: value | 0xF << 16, "smallest page is larger"),
    ],
)
def test_a_controller_that_cannot_be_driven(
    stage: Stage, register: int, change: object, words: str
) -> None:
    assert callable(change)

    def reading(offset: int, value: int) -> int:
        found: int = change(value) if offset == register else value
        return found

    with pytest.raises(NotSupported, match=words):
        stage.driver(Watched(stage.registers, reading=reading))
    assert stage.clean


def test_a_block_that_no_command_moves(any_bus: pf.Iommu, medium: Bad) -> None:
    with any_bus.initiator(REQUESTER) as bti:
        controller = Nvme(bti.master(), medium, block_size=1 << 20)
        with pytest.raises(NotSupported, match="a block is more than one command moves"):
            NvmeDriver(controller, bti)
        assert bti.statistics().pins == 0


def test_an_authority_that_is_closed(stage: Stage) -> None:
    """Its memory is given back, and the controller was left disabled."""
    with stage.iommu.initiator(REQUESTER) as bti:
        pass
    with pytest.raises(BadHandle):
        NvmeDriver(stage.registers, bti)
    assert stage.registers.read32(CC) == 0


@pytest.mark.parametrize("form", [pf.AddrForm.COMPRESS, pf.AddrForm.CONTIGUOUS])
def test_pins_of_other_forms(stage: Stage, form: pf.AddrForm) -> None:
    """Their addresses are further apart than pages."""
    data = random.Random(9).randbytes(8 * P)
    with (
        stage.driver() as driver,
        pf.Vmo.contiguous(stage.bti, 8 * P) as memory,
        stage.bti.pin(memory, perms=READ | WRITE, form=form) as pmt,
    ):
        memory.write(data)
        driver.write(pmt, 0, 7 * P // BLOCK, offset=P // 2)
        assert driver.load(0, 7 * P // BLOCK) == data[P // 2 : P // 2 + 7 * P]


def test_a_pin_of_another_device(stage: Stage) -> None:
    """Its addresses are good on the same bus, but not for this device."""
    with (
        stage.driver() as driver,
        stage.iommu.initiator(0x99) as other,
        pf.Vmo(P) as memory,
        other.pin(memory, perms=READ | WRITE) as pmt,
        pytest.raises(InvalidArgs, match="another device"),
    ):
        driver.read(pmt, 0, 1)
