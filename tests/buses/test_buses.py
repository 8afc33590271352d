"""The buses: what each adds to the contract."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import DmaFault, InvalidArgs, LimitReached
from pinfold.testing import check_extents

if TYPE_CHECKING:
    from collections.abc import Callable


PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE


# sim --------------------------------------------------------------------------------------------


def fault_of(access: Callable[[], object]) -> pf.Fault:
    with pytest.raises(DmaFault) as caught:
        access()
    fault = caught.value.fault
    assert isinstance(fault, pf.Fault)
    return fault


def late(master: pf.BusMaster, address: int) -> pf.Fault:
    """The fault of a read of one byte."""
    return fault_of(lambda: master.read(address, 1))


def test_every_fault_says_who_what_where_when_and_why(
    sim: pf.Iommu, bti: pf.Bti, vmo: pf.Vmo
) -> None:
    """The record a driver's author needs, with the nearest grant."""
    master = bti.master()
    empty = fault_of(lambda: master.read(0x5000, 4))
    assert (empty.reason, empty.nearest) == (pf.FaultReason.NOTHING_THERE, None)

    pmt = bti.pin(vmo, 0, PAGE, perms=READ)
    at = int(pmt.addrs[0])
    denied = fault_of(lambda: master.write(at + 8, b"1234"))
    assert denied.reason is pf.FaultReason.NOT_PERMITTED
    assert (denied.initiator, denied.access, denied.address, denied.size) == (
        0x10,
        WRITE,
        at + 8,
        4,
    )
    assert denied.when_ns > empty.when_ns
    assert denied.nearest is not None
    assert "buffer" in denied.nearest.what
    assert __file__ in str(denied)

    over = fault_of(lambda: master.read(at + PAGE - 1, 2))
    assert over.reason is pf.FaultReason.BEYOND_END
    assert over.detail.startswith("1 byte(s) beyond the end of grant 1")
    beyond = fault_of(lambda: master.read(at + PAGE, 1))
    assert beyond.reason is pf.FaultReason.BEYOND_END
    far = fault_of(lambda: master.read(at + 64 * PAGE, 1))
    assert far.reason is pf.FaultReason.NOTHING_THERE
    assert "after grant 1" in far.detail

    pmt.unpin()
    late = fault_of(lambda: master.read(at, 1))
    assert late.reason is pf.FaultReason.REVOKED
    assert "was granted until" in late.detail
    assert __file__ in late.detail
    assert late.nearest is not None
    assert late.nearest.revoked_ns is not None

    assert sim.faults.total == len(sim.faults) == 6
    assert [fault.number for fault in sim.faults] == [1, 2, 3, 4, 5, 6]


def test_an_address_wider_than_the_device(sim: pf.Iommu) -> None:
    """The device's own fault, and told apart from a stray address."""
    with sim.initiator(3, address_bits=28) as bti:
        fault = fault_of(lambda: bti.master().read(1 << 28, 4))
    assert fault.reason is pf.FaultReason.OUT_OF_REACH


def test_listeners_hear_of_faults_until_they_stop(sim: pf.Iommu, bti: pf.Bti) -> None:
    """For devices that raise an interrupt on a fault, and for tests."""
    heard: list[pf.Fault] = []
    stop = sim.faults.subscribe(heard.append)
    fault_of(lambda: bti.master().read(0, 1))
    stop()
    fault_of(lambda: bti.master().read(0, 1))
    assert len(heard) == 1
    sim.faults.clear()
    assert (len(sim.faults), sim.faults.total) == (0, 2)


def test_an_access_is_checked_whole_before_a_byte_moves(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """A write that runs over the end changes nothing at all."""
    vmo.write(b"x" * 4 * PAGE)
    with bti.pin(vmo, 0, PAGE, perms=WRITE) as pmt:
        at = int(pmt.addrs[0])
        fault_of(lambda: bti.master().write(at + PAGE - 2, b"yyy"))
        assert vmo.read() == b"x" * 4 * PAGE


def test_addresses_are_not_reused_at_once(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """A device that comes back too late meets nothing, not somebody else's pages."""
    seen = set()
    for _ in range(100):
        with bti.pin(vmo, perms=READ) as pmt:
            seen.add(int(pmt.addrs[0]))
    assert len(seen) == 100


def test_a_small_aperture_is_used_to_the_last_page_and_again(process: pf.Process) -> None:
    """Next fit wraps, and finds every gap."""
    with (
        pf.open_bus("sim", aperture=(PAGE, 9 * PAGE)) as bus,
        bus.initiator(1) as bti,
        pf.Vmo(2 * PAGE) as vmo,
    ):
        for _ in range(50):
            held = [bti.pin(vmo, 0, PAGE, perms=READ) for _ in range(4)]
            with pytest.raises(LimitReached) as caught:
                bti.pin(vmo, 0, PAGE, perms=READ)
            assert caught.value.limit == 8 * PAGE
            assert "aligned" in str(caught.value)
            held.sort(key=lambda pmt: int(pmt.addrs[0]))
            held.pop(1).unpin()
            held.pop(1).unpin()
            held.append(bti.pin(vmo, perms=READ))
            for pmt in held:
                pmt.unpin()


def test_two_devices_have_two_address_spaces(sim: pf.Iommu, vmo: pf.Vmo) -> None:
    """The same address may mean different memory to each."""
    with sim.initiator(1) as one, sim.initiator(2) as two, pf.Vmo(PAGE) as other:
        vmo.write(b"one")
        other.write(b"two")
        with one.pin(vmo, perms=READ) as a, two.pin(other, perms=READ) as b:
            assert a.addrs[0] == b.addrs[0]
            assert one.master().read(int(a.addrs[0]), 3) == b"one"
            assert two.master().read(int(b.addrs[0]), 3) == b"two"


def test_two_authorities_over_one_device_share_its_addresses(sim: pf.Iommu, vmo: pf.Vmo) -> None:
    """Hardware cannot tell them apart, so neither does the bus."""
    with sim.initiator(1) as one, sim.initiator(1) as same, one.pin(vmo, perms=READ) as pmt:
        assert same.master().read(int(pmt.addrs[0]), 1) == b"\0"
        assert same.statistics().pins == 0


def test_the_lookaside_buffer_forgets_what_is_revoked(bti: pf.Bti, process: pf.Process) -> None:
    """More pages than it has entries, then every one of them is stopped."""
    with pf.Vmo(5000 * PAGE) as vmo:
        master = bti.master()
        pmt = bti.pin(vmo, perms=READ)
        addresses = pmt.addrs.tolist()
        for address in addresses:
            assert master.read(address, 1) == b"\0"
        pmt.unpin()
        for address in addresses[::97] + addresses[-50:]:
            late(master, address)


def test_odd_accesses(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Nothing, less than nothing, and other kinds of buffer."""
    with bti.pin(vmo, perms=READ | WRITE) as pmt:
        at, master = int(pmt.addrs[0]), bti.master()
        assert master.read(at, 0) == b""
        with pytest.raises(InvalidArgs):
            master.read(at, -1)
        master.write(at, memoryview(np.arange(4, dtype="<u2").data))
        target = bytearray(8)
        master.read_into(at, memoryview(target))
        assert target == np.arange(4, dtype="<u2").tobytes()
        master.copy(at + 100, at, 8)
        assert vmo.read(100, 8) == bytes(target)


def test_a_token_collected_inside_an_access_is_settled_after_it(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """A finaliser that runs inside an access waits for its end, and no longer."""
    other = pf.Vmo(PAGE)
    keeper = bti.pin(vmo, perms=READ)
    victim = bti.pin(other, perms=READ)
    victim_at = int(victim.addrs[0])
    cycle: list[object] = [victim]
    cycle.append(cycle)
    space: Any = bti.object.space
    translate = space.translate

    def collecting(address: int, size: int, access: int) -> object:
        grant = translate(address, size, access)
        with pytest.warns(ResourceWarning):
            gc.collect()
        return grant

    gc.collect()
    gc.disable()
    try:
        del cycle, victim
        space.translate = collecting
        assert bti.master().read(int(keeper.addrs[0]), 1) == b"\0"
    finally:
        gc.enable()
        del space.translate
    fault = fault_of(lambda: bti.master().read(victim_at, 1))
    assert fault.reason is pf.FaultReason.REVOKED
    assert bti.statistics().quarantined == 1
    bti.release_quarantine()
    keeper.unpin()
    other.close()


# stub -------------------------------------------------------------------------------------------


@pytest.fixture
def stub(process: pf.Process) -> pf.Iommu:
    del process
    return pf.open_bus("stub")


def test_simulated_memory_is_scattered_and_repeatable(process: pf.Process) -> None:
    """No page follows its neighbour, address 0 is never given out, and a seed repeats it."""
    for pages in (2, 3, 16, 17, 511, 512, 513, 2000):
        seen = []
        for _ in range(2):
            kernel = pf.Kernel(seed=42)
            with (
                pf.Process(kernel) as own,
                pf.open_bus("stub") as bus,
                bus.initiator(1) as bti,
                pf.Vmo(pages * PAGE) as vmo,
                bti.pin(vmo, perms=READ) as pmt,
            ):
                seen.append(pmt.addrs.tolist())
                check_extents(pmt.extents, vmo.size, bus.limits)
            own.exit()
        assert seen[0] == seen[1]
        steps = np.abs(np.diff(np.array(seen[0], dtype=np.int64)))
        assert (steps != PAGE).all()
        assert len(set(seen[0])) == pages
        assert 0 not in seen[0]


def test_a_page_keeps_its_address(stub: pf.Iommu, vmo: pf.Vmo) -> None:
    """Source: Zircon's stub, the same page has the same device address, for every device."""
    with stub, stub.initiator(1) as one, stub.initiator(2) as two:
        with one.pin(vmo, perms=READ) as whole, two.pin(vmo, PAGE, 2 * PAGE, perms=WRITE) as part:
            assert part.addrs.tolist() == whole.addrs.tolist()[1:3]
        with one.pin(vmo, perms=READ) as again:
            assert again.addrs.tolist() == whole_addresses(again)


def whole_addresses(pmt: pf.Pmt) -> list[int]:
    return [extent.address for extent in pmt.extents]


def test_the_stub_protects_nothing(stub: pf.Iommu, vmo: pf.Vmo) -> None:
    """What a machine without an IOMMU is like: write to a read-only pin, and after unpin."""
    with stub, stub.initiator(1) as bti:
        pmt = bti.pin(vmo, perms=READ)
        at, master = int(pmt.addrs[0]), bti.master()
        master.write(at, b"stray")
        pmt.unpin()
        master.write(at + 5, b"later")
        assert vmo.read(0, 10) == b"straylater"
        assert stub.faults.total == 0


def test_the_stub_stops_what_no_memory_is_behind(stub: pf.Iommu) -> None:
    """And memory that is gone is gone: its frames lead nowhere."""
    with stub, stub.initiator(1) as bti:
        vmo = pf.Vmo(4 * PAGE, resizable=True)
        with bti.pin(vmo, perms=READ) as pmt:
            addresses = pmt.addrs.tolist()
        master = bti.master()
        master.read(addresses[3], 1)
        vmo.resize(3 * PAGE)
        assert fault_of(lambda: master.read(addresses[3], 1)).reason is pf.FaultReason.NOTHING_THERE
        master.read(addresses[2], 1)
        vmo.close()
        for address in addresses:
            late(master, address)
        fault_of(lambda: master.copy(addresses[0], addresses[1], 8))


def test_an_access_that_crosses_a_page_of_scattered_memory(
    stub: pf.Iommu, process: pf.Process
) -> None:
    """The next address is some other page of the object, or of none; never simply the next page."""
    with stub, stub.initiator(1) as bti, pf.Vmo(16 * PAGE) as vmo:
        vmo.write(b"".join(bytes([65 + page]) * PAGE for page in range(16)))
        with bti.pin(vmo, perms=READ | WRITE) as pmt:
            at = {int(address): page for page, address in enumerate(pmt.addrs)}
            crossed = 0
            for address, page in at.items():
                neighbour = at.get(address + PAGE)
                if neighbour is None:
                    late(bti.master(), address + PAGE)
                    continue
                crossed += 1
                assert neighbour != page + 1
                want = bytes([65 + page, 65 + neighbour])
                assert bti.master().read(address + PAGE - 1, 2) == want
            assert crossed > 8


def test_a_run_within_a_contiguous_object(stub: pf.Iommu, process: pf.Process) -> None:
    """Physical memory does not know objects: an access moves across them, page by page."""
    with stub, stub.initiator(1) as bti, pf.Vmo.contiguous(bti, 2 * PAGE) as vmo:
        vmo.write(b"x" * 2 * PAGE)
        with bti.pin(vmo, perms=READ | WRITE, form=pf.AddrForm.CONTIGUOUS) as pmt:
            at = int(pmt.addrs[0])
            assert bti.master().read(at + PAGE - 2, 4) == b"xxxx"
            bti.master().copy(at + PAGE + 1, at, 10)
