"""The io_uring bus: grants, which are registered buffers, and what is stopped."""

from __future__ import annotations

import errno
import gc
import os
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.buses import registering
from pinfold.buses.io_uring import UringBus
from pinfold.buses.io_uring import master as ports
from pinfold.errors import (
    AccessDenied,
    BadState,
    DmaFault,
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotSupported,
)
from pinfold.host import probe
from pinfold.memory.locks import Reentered
from pinfold.testing import FailFrom, FailNth, HostCalls
from pinfold.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("process")

PAGE = pf.PAGE_SIZE
READ, WRITE, EXECUTE = pf.Perm.READ, pf.Perm.WRITE, pf.Perm.EXECUTE
RW = READ | WRITE
REASON = pf.FaultReason


def pinned() -> int:
    return probe.process_memory().pinned


@pytest.fixture
def bus(process: pf.Process) -> Iterator[pf.Iommu]:
    """The bus. When it has gone, the kernel holds no page of ours."""
    del process
    with pf.open_bus("io_uring") as made:
        yield made


@pytest.fixture
def device(bus: pf.Iommu) -> Iterator[pf.Bti]:
    """A device that is a program."""
    with bus.initiator(0x10, name="device") as made:
        yield made


def uring(bus: pf.Iommu) -> UringBus:
    assert isinstance(bus.bus, UringBus)
    return bus.bus


def fault_of(access: Callable[[], object]) -> pf.Fault:
    with pytest.raises(DmaFault) as caught:
        access()
    fault = caught.value.fault
    assert isinstance(fault, pf.Fault)
    return fault


# Grants -------------------------------------------------------------------------------------------


def test_a_pin_is_the_kernels_and_gone_with_unpin(device: pf.Bti) -> None:
    """Source: the module: a grant registers its pages, for which Linux takes a long-term pin."""
    with pf.Vmo(4 * PAGE) as vmo:
        pmt = device.pin(vmo, PAGE, 2 * PAGE, perms=RW)
        assert pinned() == 2 * PAGE
        assert vmo.committed_ranges() == [(PAGE, 3 * PAGE)]
        assert pmt.statistics().anchor is pf.Anchor.IO_URING
        pmt.unpin()
        assert pinned() == 0


def test_what_was_never_touched_is_committed(device: pf.Bti) -> None:
    """A device that reads it gets zeros from pages of the object, and what it writes is seen."""
    with pf.Vmo(2 * PAGE) as vmo, device.pin(vmo, perms=RW) as pmt:
        first, last = (int(address) for address in pmt.addrs)
        master = device.master()
        assert master.read(first, 2 * PAGE) == bytes(2 * PAGE)
        master.write(last + 5, b"device")
        assert vmo.read(PAGE + 5, 6) == b"device"


def test_what_is_committed_is_not_touched_again(device: pf.Bti) -> None:
    """To look at each page of what is there would cost more than the kernel's own pin."""
    with pf.Vmo(4 * PAGE) as vmo:
        vmo.commit()
        device.pin(vmo, perms=RW).unpin()
        with HostCalls() as plan:
            device.pin(vmo, perms=RW).unpin()
        assert plan.names == ["io_uring_register", "io_uring_register"]


def test_the_same_page_may_be_pinned_often(device: pf.Bti) -> None:
    """Each pin is a buffer of its own, and counts against the limit by itself."""
    with pf.Vmo(PAGE) as vmo:
        pins = [device.pin(vmo, perms=READ) for _ in range(31)]
        assert pinned() == 31 * PAGE
        assert len({int(pmt.addrs[0]) for pmt in pins}) == 31
        for pmt in pins:
            pmt.unpin()
        assert pinned() == 0


@pytest.mark.parametrize("pages", [1, 3, 4, 5, 8, 17])
def test_a_grant_may_be_many_buffers(bus: pf.Iommu, pages: int) -> None:
    """With 28 address bits a buffer is 16 KiB. A longer pin is several, and one run anyway."""
    content = np.random.default_rng(pages).bytes(pages * PAGE)
    with bus.initiator(1, address_bits=28) as bti, pf.Vmo(pages * PAGE) as vmo:
        assert bti.object.space.largest_buffer == 4 * PAGE  # type: ignore[attr-defined]
        vmo.write(content)
        with bti.pin(vmo, perms=RW) as pmt:
            assert pinned() == pages * PAGE
            assert len(pmt.extents) == 1
            at, master = int(pmt.addrs[0]), bti.master()
            assert at + pages * PAGE <= 1 << 28
            assert master.read(at, pages * PAGE) == content
            for start in range(0, pages * PAGE - 100, 3 * PAGE - 7):
                assert master.read(at + start, 100) == content[start : start + 100]
            master.write(at + 1, content[:-1])
            assert vmo.read() == content[:1] + content[:-1]
            past = fault_of(lambda: master.read(at + 1, pages * PAGE))
            assert past.reason is REASON.BEYOND_END
            after = fault_of(lambda: master.read(at + pages * PAGE, 1))
            assert after.reason is REASON.BEYOND_END
        assert pinned() == 0


def test_more_than_a_gibibyte_is_two_buffers(bus: pf.Iommu) -> None:
    """Source: io_uring_register(2): a buffer is 1 GiB at most."""
    size = GIB + PAGE
    if probe.available_memory() < 2 * size:
        pytest.skip("less memory than the test commits")
    limit = probe.memlock_limit()
    if limit is not None and limit <= size and not probe.may_exceed_memlock():
        pytest.skip("the limit on locked memory binds this process, and is less than that")
    with bus.initiator(1) as bti, pf.Vmo(size) as vmo, bti.pin(vmo, perms=RW) as pmt:
        assert pinned() == size
        at = int(pmt.addrs[0])
        bti.master().write(at + GIB - 3, b"across")
        assert vmo.read(GIB - 3, 6) == b"across"


def test_the_table_is_the_limit(bus: pf.Iommu) -> None:
    """Each grant takes its slots and an empty one; what is left is told, and refused by name."""
    with bus.initiator(1, address_bits=15) as bti, pf.Vmo(8 * PAGE) as vmo:
        # 8 slots of a page, of which the first stays empty.
        with pytest.raises(LimitReached) as caught:
            bti.pin(vmo, perms=READ)
        assert (caught.value.asked, caught.value.limit) == (8 * PAGE, 7 * PAGE)
        with bti.pin(vmo, 0, 7 * PAGE, perms=READ) as pmt:
            assert int(pmt.addrs[0]) == PAGE
            with pytest.raises(LimitReached) as caught:
                bti.pin(vmo, 0, PAGE, perms=READ)
            assert caught.value.available == 0
            assert "1 live grant" in str(caught.value)
        pins = [bti.pin(vmo, 0, PAGE, perms=READ) for _ in range(4)]
        assert sorted(int(pmt.addrs[0]) for pmt in pins) == [page * PAGE for page in (1, 3, 5, 7)]
        with pytest.raises(LimitReached) as caught:
            bti.pin(vmo, 0, PAGE, perms=READ)
        assert caught.value.available == 0  # the slots between them stay empty
        for pmt in pins:
            pmt.unpin()
        assert pinned() == 0


@pytest.mark.parametrize("bits", [1, 12])
def test_a_device_that_reaches_no_slot(bus: pf.Iommu, bits: int) -> None:
    """Slot 0 stays empty: address 0 is never granted."""
    with pytest.raises(InvalidArgs):
        bus.initiator(1, address_bits=bits)


def test_nothing_is_executed(device: pf.Bti) -> None:
    """A file executes nothing: refused by name, and nothing is held."""
    with pf.Vmo(PAGE) as vmo, pytest.raises(NotSupported):
        device.pin(vmo, perms=READ | EXECUTE)
    assert pinned() == 0
    fault = fault_of(lambda: device.master().fetch(PAGE, 4))
    assert fault.access == EXECUTE


def test_a_shared_mapping_of_a_file_is_refused(bus: pf.Iommu, tmp_path: Path) -> None:
    """Linux does not pin pages of a file for long where they could be written back meanwhile."""
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * PAGE))
    with (
        bus.initiator(1) as bti,
        pf.Vmo.from_file(path, writable=True) as vmo,
        pytest.raises(NotSupported) as caught,
    ):
        bti.pin(vmo, perms=READ)
    assert "copy" in str(caught.value.remedy)
    assert pinned() == 0


def test_memory_that_may_not_be_written_is_refused(bus: pf.Iommu, tmp_path: Path) -> None:
    """Linux pins for writing, whatever the grant permits."""
    path = tmp_path / "data"
    path.write_bytes(bytes(PAGE))
    with bus.initiator(1) as bti, pf.Vmo.from_file(path) as vmo:
        with pytest.raises(NotSupported) as caught:
            bti.pin(vmo, perms=READ)
        assert "writing" in str(caught.value)
        assert vmo.pin_count() == 0
        assert bti.statistics().pins == 0


def test_pages_under_a_pin_are_not_given_back(device: pf.Bti) -> None:
    """Linux lets a hole be punched under a registered buffer, and its device write to an orphan."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo, device.pin(vmo, PAGE, PAGE, perms=RW):
        with pytest.raises(BadState):
            vmo.decommit()
        with pytest.raises(BadState):
            vmo.decommit(PAGE, PAGE)
        with pytest.raises(BadState):
            vmo.resize(PAGE)
        vmo.decommit(2 * PAGE, PAGE)


# Accesses that are stopped ------------------------------------------------------------------------


def test_every_stray_address_is_stopped(bus: pf.Iommu, device: pf.Bti) -> None:
    """By the kernel or by pinfold: what was not granted is a fault, and no byte moves."""
    with pf.Vmo(2 * PAGE) as vmo, bus.initiator(0x11) as other:
        vmo.write(b"x" * 2 * PAGE)
        pmt = device.pin(vmo, perms=RW)
        at, master = int(pmt.addrs[0]), device.master()
        stop = at + 2 * PAGE
        cases: dict[str, tuple[int, int, pf.FaultReason]] = {
            "zero": (0, 1, REASON.NOTHING_THERE),
            "low": (PAGE, 1, REASON.NOTHING_THERE),
            "before": (at - 1, 1, REASON.NOTHING_THERE),
            "into": (at - 1, 2, REASON.NOTHING_THERE),
            "over": (stop - 1, 2, REASON.BEYOND_END),
            "after": (stop, 1, REASON.BEYOND_END),
            "slot": (at + GIB, 1, REASON.BEYOND_END),
            "far": (at + 100 * GIB, 1, REASON.NOTHING_THERE),
            "last slot": ((1 << 44) - 1, 1, REASON.NOTHING_THERE),
            "over the table": ((1 << 44) - 1, 2, REASON.NOTHING_THERE),
            "beyond the table": (1 << 44, 1, REASON.NOTHING_THERE),
            "the highest": ((1 << 64) - 1, 1, REASON.NOTHING_THERE),
            "around": ((1 << 64) - 1, 2, REASON.NOTHING_THERE),
            "wider": (1 << 64, 1, REASON.OUT_OF_REACH),
            "negative": (-1, 1, REASON.OUT_OF_REACH),
            "all": (at, 1 << 62, REASON.BEYOND_END),
            "more than all": (at, (1 << 64) + 1, REASON.BEYOND_END),
        }
        for name, (address, size, reason) in cases.items():
            before = bus.faults.total
            fault = fault_of(lambda: master.read(address, size))  # noqa: B023 - called at once
            assert (name, fault.reason) == (name, reason)
            assert (fault.address, fault.size, fault.access) == (address, size, READ), name
            assert bus.faults.total == before + 1, name
            if size < PAGE:
                written = fault_of(lambda: master.write(address, b"!" * size))  # noqa: B023
                assert (name, written.reason, written.access) == (name, reason, WRITE)
        wrong = fault_of(lambda: other.master().read(at, 1))
        assert (wrong.initiator, wrong.reason) == (0x11, REASON.NOTHING_THERE)
        assert vmo.read() == b"x" * 2 * PAGE
        pmt.unpin()
        late = fault_of(lambda: master.read(at, 1))
        assert late.reason is REASON.REVOKED
        assert __file__ in late.detail


def test_directions_are_kept(device: pf.Bti) -> None:
    """The kernel knows none: a registered buffer can be read and written."""
    with pf.Vmo(PAGE) as vmo:
        vmo.write(b"content")
        master = device.master()
        with device.pin(vmo, perms=READ) as pmt:
            at = int(pmt.addrs[0])
            assert master.read(at, 7) == b"content"
            assert fault_of(lambda: master.write(at, b"!")).reason is REASON.NOT_PERMITTED
            assert fault_of(lambda: master.copy(at, at + 8, 1)).access == WRITE
        with device.pin(vmo, perms=WRITE) as pmt:
            at = int(pmt.addrs[0])
            assert fault_of(lambda: master.read(at, 1)).reason is REASON.NOT_PERMITTED
            master.write(at, b"C")
        assert vmo.read(0, 7) == b"Content"


def test_accesses_of_no_bytes(device: pf.Bti, sim: pf.Iommu) -> None:
    """They are checked like others, and as on sim."""
    with pf.Vmo(PAGE) as vmo, sim.initiator(1) as soft:
        for bti in (device, soft):
            master = bti.master()
            with bti.pin(vmo, perms=RW) as pmt:
                at = int(pmt.addrs[0])
                assert master.read(at, 0) == b""
                master.write(at, b"")
                master.copy(at, at, 0)
            fault_of(lambda: master.read(at, 0))  # noqa: B023 - called at once
            fault_of(lambda: master.copy(at, at, 0))  # noqa: B023
        with pytest.raises(InvalidArgs):
            device.master().read(PAGE, -1)


def test_listeners_hear_of_faults_outside_the_locks(bus: pf.Iommu, device: pf.Bti) -> None:
    """A device model may use its port from there; a port that is refused everything tells, too."""
    with pf.Vmo(PAGE) as vmo, device.pin(vmo, perms=RW) as pmt:
        at, master = int(pmt.addrs[0]), device.master()
        heard: list[bytes] = []
        stop = bus.faults.subscribe(lambda fault: heard.append(master.read(at, 1)))
        for access in (
            lambda: master.read(0, 1),
            lambda: master.read(-1, 1),
            lambda: master.fetch(at, 1),
            lambda: master.copy(1 << 64, at, 1),
        ):
            fault_of(access)
        assert heard == [b"\0"] * 4
        stop()


# Devices and the bus ------------------------------------------------------------------------------


def test_a_port_of_a_device_that_has_left(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Nothing is granted to it, and nothing of it is left."""
    bti = bus.initiator(1)
    master = bti.master()
    with bti.pin(vmo, perms=RW) as pmt:
        at = int(pmt.addrs[0])
    bti.close()
    assert uring(bus).statistics().devices == 0
    fault_of(lambda: master.read(at, 1))
    fault_of(lambda: master.write(at, b"x"))
    fault_of(lambda: master.copy(at, at, 1))


def test_the_same_initiator_is_the_same_device(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Source: `attach`. With other address bits it is refused."""
    with bus.initiator(1) as one, bus.initiator(1) as two, one.pin(vmo, perms=RW) as pmt:
        assert two.master().read(int(pmt.addrs[0]), 1) == b"\0"
        with pytest.raises(InvalidArgs):
            bus.initiator(1, address_bits=32)
        assert uring(bus).statistics().devices == 1
        one_left = uring(bus).statistics()
        assert (one_left.grants, one_left.granted_bytes, one_left.pinned) == (1, 4 * PAGE, 4 * PAGE)
        assert one_left.memlock_limit == probe.memlock_limit()
        assert one_left.may_exceed is probe.may_exceed_memlock()
        assert (one_left.largest_buffer, one_left.buffers_per_device) == (GIB, 16 * KIB)


def test_there_is_no_device_to_talk_to(device: pf.Bti) -> None:
    """The device is the block layer."""
    with pytest.raises(NotSupported, match="files"):
        device.device()
    space = device.object.space
    for act in (space.sync, space.file_statistics):  # type: ignore[attr-defined]
        with pytest.raises(NotSupported, match="no file"):
            act()


@pytest.mark.parametrize("depth", [0, -1, 3, 63, 1 << 16])
def test_depths_that_cannot_be(depth: int) -> None:
    """A power of two, as many as the kernel's rings have at most."""
    with pytest.raises(InvalidArgs):
        pf.open_bus("io_uring", depth=depth)


def test_options_that_do_not_exist() -> None:
    """As on every bus."""
    with pytest.raises(InvalidArgs):
        pf.open_bus("io_uring", width=3)


def test_without_io_uring_it_says_so() -> None:
    """Source: io_uring_setup(2)."""
    with FailNth(1, errno.ENOSYS), pytest.raises(NotSupported) as caught:
        pf.open_bus("io_uring")
    assert "5.19" in str(caught.value.remedy)


def test_where_io_uring_is_not_allowed_it_says_so() -> None:
    """Source: io_uring_setup(2); what a container's profile answers."""
    with FailNth(1, errno.EPERM), pytest.raises(AccessDenied) as caught:
        pf.open_bus("io_uring")
    assert "io_uring_disabled" in str(caught.value.remedy)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_too_little_of_the_host_is_not_too_old_a_kernel(code: int) -> None:
    """The remedy is another."""
    registering.closed_lately.clear()  # a limit that binds us is not to be waited for
    with FailNth(1, code), pytest.raises(NoMemory):
        pf.open_bus("io_uring")


def test_a_dropped_token_is_revoked_and_its_pages_held(
    device: pf.Bti, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel's pin goes with the grant; the counts stay until the quarantine is released."""
    with pf.Vmo(2 * PAGE) as vmo:
        pmt = device.pin(vmo, perms=RW)
        at, master = int(pmt.addrs[0]), device.master()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del pmt
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        assert "quarantine" in caplog.text
        assert pinned() == 0
        assert vmo.pin_count() == 1
        assert fault_of(lambda: master.read(at, 1)).reason is REASON.REVOKED
        with pytest.raises(BadState):
            device.pin(vmo, perms=RW)
        with pytest.raises(BadState):
            vmo.decommit()
        assert device.release_quarantine() == 1
        assert vmo.pin_count() == 0
        vmo.decommit()


def test_a_device_closed_under_live_pins_keeps_them(bus: pf.Iommu, vmo: pf.Vmo) -> None:
    """Tokens outlive the last handle, and can be unpinned."""
    bti = bus.initiator(1)
    pmt = bti.pin(vmo, perms=RW)
    bti.close()
    assert pinned() == 4 * PAGE
    assert uring(bus).statistics().devices == 1
    pmt.unpin()
    assert pinned() == 0
    assert uring(bus).statistics().devices == 0


def test_the_bus_may_be_closed_under_everything(process: pf.Process, vmo: pf.Vmo) -> None:
    """Devices and tokens keep it open."""
    del process
    bus = pf.open_bus("io_uring")
    bti = bus.initiator(1)
    master = bti.master()
    pmt = bti.pin(vmo, perms=RW)
    bus.close()
    master.write(int(pmt.addrs[0]), b"still")
    bti.close()
    assert pinned() == 4 * PAGE
    pmt.unpin()
    assert vmo.read(0, 5) == b"still"
    assert pinned() == 0


def test_a_bus_that_is_closed_revokes_what_is_live(kernel: pf.Kernel, vmo: pf.Vmo) -> None:
    """Source: `Bus.close`. Whoever uses a bus by itself has no tokens to keep it open."""
    bus = UringBus()
    with pf.Iommu(bus) as iommu:
        bti = iommu.initiator(1)
        pmt = bti.pin(vmo, perms=RW)
        bus.close()
        assert pinned() == 0
        pmt.unpin()
        bti.close()
    assert kernel.statistics().ledger.pins == 0


def test_a_bus_closes_everything_whatever_is_refused(vmo: pf.Vmo) -> None:
    """The first refusal is raised; no descriptor is left."""
    bus = UringBus()
    with pf.Iommu(bus) as iommu:
        devices = [iommu.initiator(number) for number in (1, 2, 3)]
        tokens = [bti.pin(vmo, perms=RW) for bti in devices]
        before = len(os.listdir("/proc/self/fd"))
        with FailFrom(1, errno.EIO), pytest.raises(HostError):
            bus.close()
        assert len(os.listdir("/proc/self/fd")) == before - 3
        for pmt in tokens:  # the grants have gone with their rings
            pmt.unpin()
        for bti in devices:
            bti.close()
    assert vmo.pin_count() == 0
    while pinned():  # a ring that is closed lets go of its buffers a moment later
        os.sched_yield()


@pytest.mark.parametrize("name", ["live_grants", "end"])
def test_the_bus_is_not_locked_while_a_device_is_waited_for(
    bus: pf.Iommu, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source: the module, locks. A thread inside a device may run a finaliser that wants the bus's;
    whoever has that and waits for the device would wait for ever."""
    real = uring(bus)
    space = real.attach(1)
    asked, answer = threading.Event(), threading.Event()
    found: list[bool] = []
    done = getattr(space, name)

    def waiting() -> object:
        asked.set()
        found.append(answer.wait(20))
        result: object = done()
        return result

    monkeypatch.setattr(space, name, waiting)
    act = real.statistics if name == "live_grants" else partial(real.detach, space)
    thread = threading.Thread(target=act)
    thread.start()
    asked.wait()
    other = real.attach(2)  # and this is the finaliser
    real.detach(other)
    answer.set()
    thread.join()
    assert found == [True]
    if name == "live_grants":
        real.detach(space)
    assert real.statistics().devices == 0


# A registration that is refused -------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EIO, errno.EAGAIN])
def test_refused_registrations_and_clearings(device: pf.Bti, n: int, code: int) -> None:
    """A pin that is refused holds nothing; an unpin that is refused holds everything, until it is
    tried again."""
    registering.closed_lately.clear()  # a limit that binds us is not to be waited for
    with pf.Vmo(PAGE) as vmo:
        vmo.commit()
        with FailNth(n, code) as plan:
            if n == 1:
                with pytest.raises((HostError, NoMemory)):
                    device.pin(vmo, perms=RW)
                assert pinned() == 0
            else:
                pmt = device.pin(vmo, perms=RW)
                with pytest.raises((HostError, NoMemory)):
                    pmt.unpin()
                assert (pinned(), vmo.pin_count()) == (PAGE, 1)
        assert plan.refused == ["io_uring_register"]
        if n == 2:
            assert device.release_quarantine() == 1
        assert (pinned(), vmo.pin_count()) == (0, 0)
        device.pin(vmo, perms=RW).unpin()


@pytest.mark.parametrize(
    "error", [TimeoutError("late"), MemoryError(), KeyboardInterrupt(), Reentered("handler")]
)
def test_what_breaks_off_a_registration_is_no_refusal(
    bus: pf.Iommu,
    kernel: pf.Kernel,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler may raise when the kernel has registered it all: the slots stay taken,
    nothing reaches them, and `Bus.close` empties them."""
    with bus.initiator(1) as bti, pf.Vmo(PAGE) as vmo:
        ring: Any = bti.object.space._ring  # type: ignore[attr-defined]  # noqa: SLF001
        put = ring.put

        def interrupted(*arguments: Any) -> int:
            put(*arguments)
            raise error

        monkeypatch.setattr(ring, "put", interrupted)
        with pytest.raises(type(error)):
            bti.pin(vmo, perms=RW)
        monkeypatch.undo()
        (left,) = bti.object.space.live_grants()
        (found,) = left.extents
        assert (pinned(), len(kernel.leaks)) == (PAGE, 1)
        assert fault_of(lambda: bti.master().read(found.address, 1)).size == 1
        with bti.pin(vmo, perms=RW) as pmt:
            assert int(pmt.addrs[0]) != found.address
    real = uring(bus)
    bus.close()
    real.close()
    while pinned():  # a ring that is closed lets go of its buffers a moment later
        os.sched_yield()


def test_large_accesses_of_a_port(device: pf.Bti, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is made in bursts, the last of them shorter; all of it arrives."""
    monkeypatch.setattr(ports, "_BURST", MIB)  # so that both pins fit a limit that binds us
    size = 2 * MIB + 100
    content = np.random.default_rng(9).bytes(size)
    with pf.Vmo(size) as source, pf.Vmo(size) as target:
        source.write(content)
        with device.pin(source, perms=READ) as a, device.pin(target, perms=WRITE) as b:
            device.master().copy(int(b.addrs[0]), int(a.addrs[0]), size)
        assert target.read(0, size) == content
