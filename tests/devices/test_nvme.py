"""The NVMe controller in software: its registers, its admin queue and its end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.devices.nvme import MemoryMedium, Nvme
from pinfold.errors import InvalidArgs, OutOfRange
from tests.devices import nvme_host as host_of
from tests.devices.nvme_host import (
    AQA,
    ASQ,
    CAP,
    CC,
    CONFIGURATION,
    CREATE_CQ,
    CREATE_SQ,
    CSTS,
    DATA,
    DELETE_CQ,
    DELETE_SQ,
    DOORBELLS,
    FATAL,
    IDENTIFY,
    INTMC,
    INTMS,
    READY,
    SHUTDOWN_COMPLETE,
    SLOTS,
    VS,
    Host,
    hosting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

P = pf.PAGE_SIZE
BLOCK = 512
BLOCKS = 2048


@pytest.fixture
def medium() -> MemoryMedium:
    return MemoryMedium(BLOCKS * BLOCK)


@pytest.fixture
def nvme(device_bti: pf.Bti, medium: MemoryMedium) -> Nvme:
    return Nvme(device_bti.master(), medium, serial="S1", entries=64)


@pytest.fixture
def host(nvme: Nvme, device_bti: pf.Bti) -> Iterator[Host]:
    """One that has not started it."""
    with hosting(nvme, device_bti) as made:
        yield made


@pytest.fixture
def running(host: Host) -> Host:
    host.start()
    return host


# Registers ---------------------------------------------------------------------------------------


def test_capabilities(nvme: Nvme) -> None:
    """Source: NVM Express Base Specification 1.4, section 3.1.1."""
    value = nvme.read64(CAP)
    assert value & 0xFFFF == 63  # MQES
    assert value >> 16 & 1  # CQR
    assert value >> 24 & 0xFF == 1  # TO
    assert value >> 32 & 0xF == 0  # DSTRD
    assert value >> 37 & 1  # CSS
    assert (value >> 48 & 0xF, value >> 52 & 0xF) == (0, 4)
    assert nvme.read32(CAP) | nvme.read32(CAP + 4) << 32 == value
    assert nvme.read32(VS) == 0x10400
    assert nvme.size == 0x4000


def test_wide_registers_are_written_whole_or_in_halves(nvme: Nvme) -> None:
    nvme.write64(ASQ, 0x1122334455667000)
    assert nvme.read32(ASQ) == 0x55667000
    nvme.write32(ASQ + 4, 0xAABBCCDD)
    assert nvme.read64(ASQ) == 0xAABBCCDD55667000
    nvme.write32(ASQ, 0x8000)
    assert nvme.read64(ASQ) == 0xAABBCCDD00008000
    nvme.reset()
    assert nvme.read64(ASQ) == 0


def test_accesses_that_no_register_takes(nvme: Nvme) -> None:
    assert nvme.read64(CC) == (1 << 64) - 1
    assert nvme.read32(CSTS + 2) == (1 << 32) - 1
    nvme.write64(CC, 1)
    assert nvme.read32(CC) == 0
    assert nvme.statistics().refused == 3
    nvme.write32(CAP, 0)
    nvme.write32(CSTS, 1)
    nvme.write32(DOORBELLS, 1)  # it is not enabled
    assert nvme.statistics().ignored == 3
    assert nvme.read32(DOORBELLS) == nvme.read32(0x40) == 0
    with pytest.raises(OutOfRange):
        nvme.read32(nvme.size)


@pytest.mark.parametrize(
    "options",
    [
        {"latency": -1},
        {"step": 0},
        {"step": 1, "latency": 0},
        {"entries": 1},
        {"entries": 65537},
        {"stride": 2},
        {"stride": 12},
        {"stride": 512},
        {"max_transfer": 4096},
        {"max_transfer": 12288},
        {"block_size": 256},
        {"block_size": 768},
        {"block_size": 1 << 22},
    ],
)
def test_no_such_controller(
    device_bti: pf.Bti, medium: MemoryMedium, options: dict[str, int]
) -> None:
    with pytest.raises(InvalidArgs):
        Nvme(device_bti.master(), medium, **options)  # type: ignore[arg-type]


# Start and end -----------------------------------------------------------------------------------


def test_becoming_ready_takes_a_while(host: Host, nvme: Nvme) -> None:
    host.admin_registers(host.at(0), host.at(1))
    nvme.write32(CC, CONFIGURATION)
    assert nvme.read32(CSTS) == 0
    assert nvme.read32(CSTS) == READY
    assert nvme.read32(AQA) == 7 << 16 | 7
    nvme.write32(AQA, 0)
    nvme.write32(ASQ, 0)
    assert nvme.read32(ASQ) == host.at(0) & 0xFFFFFFFF  # taken only while it is disabled
    assert nvme.statistics().ignored == 2
    nvme.write32(CC, CONFIGURATION & ~1)
    assert nvme.read32(CSTS) == nvme.read32(CC) == 0
    assert nvme.read32(ASQ) == host.at(0) & 0xFFFFFFFF  # section 7.3.2


@pytest.mark.parametrize(
    ("configuration", "crooked", "slots"),
    [
        pytest.param(CONFIGURATION | 1 << 4, (0, 0), SLOTS, id="command set"),
        pytest.param(CONFIGURATION | 1 << 11, (0, 0), SLOTS, id="arbitration"),
        pytest.param(CONFIGURATION | 0xF << 7, (0, 0), SLOTS, id="page"),
        pytest.param(CONFIGURATION, (64, 0), SLOTS, id="submission queue"),
        pytest.param(CONFIGURATION, (0, 64), SLOTS, id="completion queue"),
        pytest.param(CONFIGURATION, (0, 0), 1, id="size"),
    ],
)
def test_what_it_cannot_start_with_is_fatal(
    host: Host, configuration: int, crooked: tuple[int, int], slots: int
) -> None:
    """Section 9.5. Disabled, it can be started again."""
    host.admin_registers(host.at(0, crooked[0]), host.at(1, crooked[1]), slots=slots)
    assert host.enable(configuration) == FATAL
    host.controller.write32(CC, 0)
    assert host.controller.read32(CSTS) == 0
    host.start()


def test_shutdown_flushes(running: Host, nvme: Nvme, medium: MemoryMedium) -> None:
    """Section 7.6.2. Afterwards doorbells do nothing, until it is reset."""
    nvme.write32(CC, CONFIGURATION | 1 << 14)
    assert nvme.read32(CSTS) == READY | SHUTDOWN_COMPLETE
    assert medium.flushes == 1
    nvme.write32(CC, CONFIGURATION | 1 << 14)
    assert medium.flushes == 1
    running.put(1, host_of.FLUSH)
    running.ring(1)
    running.pass_time()
    assert running.take(1) == []
    nvme.write32(CC, 0)
    assert nvme.read32(CSTS) == 0


def test_disabling_drops_what_was_not_begun(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    nvme = Nvme(device_bti.master(), medium, latency=3)
    with hosting(nvme, device_bti) as host:
        host.start()
        host.put(1, host_of.FLUSH)
        host.ring(1)
        nvme.write32(CC, 0)
        for _ in range(10):
            nvme.read32(CSTS)
    assert medium.flushes == 0


# Admin commands ----------------------------------------------------------------------------------


def test_identify_controller(running: Host) -> None:
    """Section 5.15.2.2."""
    assert running.admin(IDENTIFY, prp1=running.at(DATA), d10=1, namespace=0).status == 0
    data = running.memory.read(DATA * P, 4096)
    assert data[4:24] == b"S1".ljust(20)
    assert data[24:64] == b"pinfold disk".ljust(40)
    assert data[77] == 7  # 512 KiB
    assert struct.unpack_from("<I", data, 80) == (0x10400,)
    assert (data[512], data[513]) == (0x66, 0x44)
    assert struct.unpack_from("<I", data, 516) == (1,)
    assert data[525] == 1


def test_identify_namespace(running: Host) -> None:
    """Section 5.15.2.1. The structure may lie across two pages."""
    first, second = running.at(DATA, P - 256), running.at(DATA + 1)
    assert running.admin(IDENTIFY, prp1=first, prp2=second).status == 0
    data = running.memory.read(DATA * P + P - 256, 4096)
    assert struct.unpack_from("<QQQ", data) == (BLOCKS, BLOCKS, BLOCKS)
    assert struct.unpack_from("<HBB", data, 128) == (0, 9, 0)


def test_active_namespaces(running: Host) -> None:
    for above, expected in ((0, 1), (1, 0)):
        done = running.admin(IDENTIFY, prp1=running.at(DATA), d10=2, namespace=above)
        assert done.status == 0
        found = struct.unpack("<1024I", running.memory.read(DATA * P, 4096))
        assert found == (expected, *[0] * 1023)


@pytest.mark.parametrize(
    ("what", "namespace", "status"),
    [(0, 0, 0x0B), (0, 2, 0x0B), (0, 0xFFFFFFFF, 0x0B), (2, 0xFFFFFFFE, 0x0B), (0x77, 1, 0x02)],
)
def test_identify_refuses(running: Host, what: int, namespace: int, status: int) -> None:
    done = running.admin(IDENTIFY, prp1=running.at(DATA), d10=what, namespace=namespace)
    assert (done.status, done.retry) == (status, False)


def test_the_number_of_queues(running: Host) -> None:
    """Section 5.21.1.7: what is granted may be more than what was asked for."""
    assert running.admin(host_of.SET_FEATURES, d10=7).result == 7 << 16 | 7
    assert running.admin(host_of.GET_FEATURES, d10=7).result == 7 << 16 | 7
    assert running.admin(host_of.SET_FEATURES, d10=7, d11=0xFFFF).status == 0x02
    assert running.admin(host_of.SET_FEATURES, d10=6).status == 0x02


def test_an_abort_comes_too_late(running: Host) -> None:
    """Section 5.1: bit 0 says that nothing was aborted."""
    done = running.admin(host_of.ABORT, d10=1)
    assert (done.status, done.result) == (0, 1)


@pytest.mark.parametrize("flags", [0x01, 0x40])
def test_fused_commands_and_lists_of_other_kinds_are_refused(running: Host, flags: int) -> None:
    assert running.io(host_of.FLUSH, flags=flags).status == 0x02


def test_unknown_commands(running: Host) -> None:
    assert running.admin(0x7F).status == 0x01
    assert running.io(0x7F).status == 0x01


SIZE, WHOLE = 7 << 16, 1


@pytest.mark.parametrize(
    ("opcode", "d10", "d11", "crooked", "status"),
    [
        pytest.param(CREATE_CQ, SIZE | 0, WHOLE, 0, 0x101, id="completion queue 0"),
        pytest.param(CREATE_CQ, SIZE | 1, WHOLE, 0, 0x101, id="completion queue there already"),
        pytest.param(CREATE_CQ, SIZE | 9, WHOLE, 0, 0x101, id="completion queue too many"),
        pytest.param(CREATE_CQ, 0 << 16 | 2, WHOLE, 0, 0x102, id="completion queue of one"),
        pytest.param(CREATE_CQ, 64 << 16 | 2, WHOLE, 0, 0x102, id="completion queue too long"),
        pytest.param(CREATE_CQ, SIZE | 2, 0, 0, 0x002, id="completion queue in pieces"),
        pytest.param(CREATE_CQ, SIZE | 2, WHOLE, 8, 0x013, id="completion queue crooked"),
        pytest.param(CREATE_CQ, SIZE | 2, 9 << 16 | 3, 0, 0x108, id="no such vector"),
        pytest.param(CREATE_SQ, SIZE | 0, 1 << 16 | WHOLE, 0, 0x101, id="submission queue 0"),
        pytest.param(CREATE_SQ, SIZE | 1, 1 << 16 | WHOLE, 0, 0x101, id="submission queue there"),
        pytest.param(CREATE_SQ, SIZE | 2, 2 << 16 | WHOLE, 0, 0x100, id="completes to nothing"),
        pytest.param(CREATE_SQ, SIZE | 2, 0 << 16 | WHOLE, 0, 0x100, id="completes to admin"),
        pytest.param(CREATE_SQ, SIZE | 2, 1 << 16, 0, 0x002, id="submission queue in pieces"),
        pytest.param(CREATE_SQ, SIZE | 2, 1 << 16 | WHOLE, 8, 0x013, id="submission crooked"),
        pytest.param(DELETE_CQ, 1, 0, 0, 0x10C, id="a completion queue in use"),
        pytest.param(DELETE_CQ, 2, 0, 0, 0x101, id="no such completion queue"),
        pytest.param(DELETE_CQ, 0, 0, 0, 0x101, id="the admin completion queue"),
        pytest.param(DELETE_SQ, 2, 0, 0, 0x101, id="no such submission queue"),
        pytest.param(DELETE_SQ, 0, 0, 0, 0x101, id="the admin submission queue"),
    ],
)
def test_queues_that_cannot_be(
    running: Host, opcode: int, d10: int, d11: int, crooked: int, status: int
) -> None:
    """Sections 5.3 to 5.6. What there is stays as it is."""
    done = running.admin(opcode, prp1=running.at(DATA, crooked), d10=d10, d11=d11)
    assert (done.status, done.retry) == (status, False)
    assert running.io(host_of.FLUSH).status == 0


def test_queues_need_the_size_of_their_entries(host: Host) -> None:
    host.admin_registers(host.at(0), host.at(1))
    assert host.enable(CONFIGURATION & ~(0xFF << 16)) == READY
    done = host.admin(CREATE_CQ, prp1=host.at(DATA), d10=SIZE | 1, d11=WHOLE)
    assert done.status == 0x002


def test_queues_are_deleted_and_made_again(running: Host) -> None:
    for opcode in (DELETE_SQ, DELETE_CQ):
        assert running.admin(opcode, d10=1).status == 0
    running.controller.write32(DOORBELLS + 8, 1)
    running.controller.write32(DOORBELLS + 12, 1)
    assert running.controller.statistics().ignored == 2
    done = running.admin(CREATE_CQ, prp1=running.at(DATA), d10=SIZE | 5, d11=WHOLE)
    assert done.status == 0


def test_commands_of_a_queue_that_is_deleted(device_bti: pf.Bti, medium: MemoryMedium) -> None:
    """Section 5.6: each is completed, as aborted, before the deletion is."""
    nvme = Nvme(device_bti.master(), medium, step=1)
    with hosting(nvme, device_bti) as host:
        host.start()
        sent = [host.put(1, host_of.FLUSH) for _ in range(2)]
        host.put(0, DELETE_SQ, d10=1)
        host.ring(1)
        host.ring(0)  # fetched first
        host.pass_time()
        assert [done.status for done in host.take(0)] == [0]
        dropped = host.take(1)
        assert [done.identifier for done in dropped] == sent
        assert {(done.status, done.retry) for done in dropped} == {(0x08, True)}
    assert medium.flushes == 0


def test_a_deletion_where_the_completion_queue_is_full(running: Host) -> None:
    """What could not be told before is not told over what the host has not read."""
    sent = [running.put(1, host_of.FLUSH) for _ in range(SLOTS - 1)]
    running.ring(1)
    running.pass_time()
    assert [done.identifier for done in running.take(1, acknowledge=False)] == sent
    running.put(1, host_of.FLUSH)
    running.ring(1)
    running.pass_time()
    assert running.admin(DELETE_SQ, d10=1).status == 0
    assert running.take(1, acknowledge=False) == []
    assert running.admin(DELETE_CQ, d10=1).status == 0


# Interrupts --------------------------------------------------------------------------------------


def test_interrupts_are_masked_by_vector(running: Host, nvme: Nvme) -> None:
    seen: list[int] = []
    stop = nvme.on_interrupt(seen.append)
    running.io(host_of.FLUSH)
    assert seen == []  # made without interrupts
    running.admin(host_of.ABORT)
    assert seen == [1]
    nvme.write32(INTMS, 1)
    running.admin(host_of.ABORT)
    assert seen == [1]
    assert nvme.read32(INTMS) == nvme.read32(INTMC) == 1
    nvme.write32(INTMC, 1)
    for opcode, d11 in ((CREATE_CQ, 3 << 16 | 3), (CREATE_SQ, 2 << 16 | 1)):
        page = DATA + opcode
        done = running.admin(opcode, prp1=running.at(page), d10=SIZE | 2, d11=d11)
        assert done.status == 0
    seen.clear()
    entry = struct.pack("<BBHIQQQQ6I", host_of.FLUSH, 0, 7, 1, *[0] * 10)
    running.memory.write(entry, (DATA + CREATE_SQ) * P)
    nvme.write32(DOORBELLS + 16, 1)
    running.pass_time()
    assert seen == [1 << 3]
    stop()
    assert nvme.statistics().interrupts == 6
