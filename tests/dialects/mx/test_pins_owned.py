"""mx_bti_pin and mx_bti_unpin: what an address is, and whose a pin is.

Source: mx_bti_pin, mx_bti_unpin; the kernel of the draft of August 2017.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, mx, zx
from pinfold.dialects.calling import face, number_of
from pinfold.objects.pmt import AddrForm, PmtState

from . import things
from .things import (
    PAGE,
    READ,
    attempt,
    counts,
    fine,
    named,
    ok,
    pin,
    unpin,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What is an address -------------------------------------------------------------------------------


def test_a_bus_that_translates_gives_one_address(process: pf.Process) -> None:
    """The device finds all of it in one run, which is all that the addresses are for."""
    bti, vmo = things.bti("sim"), things.vmo(4 * PAGE)
    fine(mx.mx_vmo_write, vmo, b"far", 3 * PAGE, 3, Out())
    addrs = pin(bti, vmo, 0, 4 * PAGE, READ)
    assert len(addrs) == 1
    device: Any = face(bti)
    assert device.master().read(int(addrs[0]) + 3 * PAGE, 3) == b"far"
    (token,) = device.pins()
    assert (token.form, token.state, token.step) == (
        AddrForm.CONTIGUOUS,
        PmtState.PINNED,
        4 * PAGE,
    )
    assert token in process.kernel.objects()
    assert unpin(bti, addrs) == "OK"
    assert token not in process.kernel.objects()
    with pytest.raises(pf.errors.DmaFault):
        device.master().read(int(addrs[0]), 1)


def test_a_store_through_a_mapping_is_memory(process: pf.Process) -> None:
    """What the CPU has touched need not be committed by a call."""
    bti, vmo = things.bti(), things.vmo(3 * PAGE, committed=False)
    mapping = process.root.map(face(vmo), pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE)
    mapping.view()[PAGE] = 7
    assert attempt(bti, vmo)[0] == "NOT_FOUND"
    assert attempt(bti, vmo, PAGE)[0] == "OK"
    assert attempt(bti, vmo, PAGE, 2 * PAGE)[0] == "NOT_FOUND"
    mapping.unmap()


def test_equal_addresses_the_oldest_goes_first() -> None:
    """Source: mx_bti_unpin in the kernel: two identical pins need two unpins."""
    process = pf.Process(pf.Kernel(seed=2, strict="kernel"))
    with process:
        bti, vmo = things.bti(), things.vmo(2 * PAGE)
        first, second = pin(bti, vmo, 0, 2 * PAGE), pin(bti, vmo, 0, 2 * PAGE)
        assert (first == second).all()
        device: Any = face(bti)
        older, newer = device.pins()
        assert unpin(bti, second) == "OK"
        assert device.pins() == [newer]
        assert older.state is PmtState.RELEASED
        assert unpin(bti, first) == "OK"
        assert unpin(bti, first) == "INVALID_ARGS"
    process.exit()


def test_a_pin_that_somebody_is_ending_is_passed_over() -> None:
    """Of equal ones the next is taken: two threads that unpin end two pins."""
    process = pf.Process(pf.Kernel(seed=2, strict="kernel"))
    with process:
        bti, vmo = things.bti(), things.vmo(PAGE)
        addrs = pin(bti, vmo)
        pin(bti, vmo)
        device: Any = face(bti)
        older, newer = device.pins()
        older.leaving = True  # as between the two halves of an unpin
        assert unpin(bti, addrs) == "OK"
        assert newer.state is PmtState.RELEASED
        assert unpin(bti, addrs) == "INVALID_ARGS"
        older.leaving = False
        assert unpin(bti, addrs) == "OK"
    process.exit()


def test_another_devices_pin_cannot_be_removed(process: pf.Process) -> None:
    """Source: each BTI has its own pins, those of one id included."""
    del process
    iommu = things.iommu()
    one, two = ok(mx.mx_bti_create, iommu, 7), ok(mx.mx_bti_create, iommu, 7)
    vmo = things.vmo(PAGE)
    addrs = pin(one, vmo)
    assert unpin(two, addrs) == "INVALID_ARGS"
    assert unpin(one, addrs) == "OK"


def test_unaligned_arrays_of_addresses(process: pf.Process) -> None:
    """Bytes are bytes, wherever they are; what lies behind the addresses is not touched."""
    del process
    bti, vmo, room = things.bti(), things.vmo(2 * PAGE), bytearray(b"\xff" * 40)
    part, actual = memoryview(room)[3:], Out()
    fine(mx.mx_bti_pin, bti, vmo, 0, 2 * PAGE, READ, part, 2, actual)
    assert actual.value == 2
    assert bytes(room[:3] + room[19:]) == b"\xff" * 24
    assert named(mx.mx_bti_unpin(bti, bytes(part[:16]), 2)) == "OK"


# Beside Zircon's calls ----------------------------------------------------------------------------


def test_zircons_quarantine_does_not_end_magentas_pins(process: pf.Process) -> None:
    """A dropped token of Zircon's is released; what Magenta has pinned is nobody's to release."""
    del process
    bus = pf.open_bus("stub")
    bti, vmo = number_of(bus.initiator(7)), things.vmo(3 * PAGE)
    addrs, token = pin(bti, vmo), Out()
    two = bytearray(16)
    options = zx.ZX_BTI_PERM_READ
    fine(zx.zx_bti_pin, bti, options, vmo, PAGE, 2 * PAGE, two, 2, token)
    assert attempt(bti, vmo, 2 * PAGE)[0] == "ALREADY_BOUND"
    fine(zx.zx_handle_close, token.value)
    fine(zx.zx_bti_release_quarantine, bti)
    assert counts(vmo, 3) == [1, 0, 0]
    assert unpin(bti, np.frombuffer(two, np.uint64)) == "INVALID_ARGS"
    assert unpin(bti, addrs) == "OK"
    bus.close()


def test_a_process_that_ends(process: pf.Process) -> None:
    """Its devices go with it, and their pins with them; nothing is quarantined."""
    ended = pf.Process(process.kernel)
    with ended:
        pin(things.bti(), things.vmo())
    ended.exit()
    assert process.kernel.leaks == []
    assert process.kernel.statistics().ledger.pins == 0


def test_threads_pin_and_unpin(process: pf.Process) -> None:
    """Each its own page of one object, through one device. At the end nothing is counted."""
    bti, vmo = things.bti(), things.vmo(8 * PAGE)
    failed: list[str] = []

    def work(page: int) -> None:
        with process:
            for _ in range(50):
                found, addrs = attempt(bti, vmo, page * PAGE)
                if found != "OK" or unpin(bti, addrs) != "OK":
                    failed.append(found)

    threads = [threading.Thread(target=work, args=(page,)) for page in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert counts(vmo, 8) == [0] * 8


def test_of_two_threads_one_unpins(process: pf.Process) -> None:
    bti, vmo = things.bti(), things.vmo(PAGE)

    def work(ready: threading.Barrier, addrs: NDArray[np.uint64], found: list[str]) -> None:
        with process:
            ready.wait()
            found.append(unpin(bti, addrs))

    for _ in range(20):
        found: list[str] = []
        given = threading.Barrier(2), pin(bti, vmo), found
        threads = [threading.Thread(target=work, args=given) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == ["INVALID_ARGS", "OK"]


@pytest.mark.parametrize("known", [True, False])
def test_an_anchor_of_the_hosts(process: pf.Process, known: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The pages are locked by the host as well, in a step of its own; nothing is committed."""
    bus = pf.open_bus("sim", anchor=pf.Anchor.MLOCK)
    bti, vmo = ok(mx.mx_bti_create, number_of(bus), 1), things.vmo(4 * PAGE, committed=known)
    if not known:
        mapping = process.root.map(face(vmo), pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE)
        mapping.view(0, 2 * PAGE)[:] = bytes(2 * PAGE)
        mapping.unmap()
        assert attempt(bti, vmo, PAGE, 2 * PAGE)[0] == "NOT_FOUND"
    addrs = pin(bti, vmo, 0, 2 * PAGE)
    device: Any = face(bti)
    assert device.pins()[0].pinned.anchor is pf.Anchor.MLOCK
    target: Any = face(vmo).object
    assert target.attributed(0, 4 * PAGE) == (4 if known else 2) * PAGE
    assert unpin(bti, addrs) == "OK"
    pin(bti, vmo, 0, 2 * PAGE)
    fine(mx.mx_handle_close, bti)
    assert counts(vmo, 2) == [0, 0]


def test_what_python_can_store_to_is_the_clones_own(process: pf.Process) -> None:
    """A view of it, and a mapping that Python code or Zircon's call makes."""
    bti, vmo = things.bti(), things.vmo(4 * PAGE)
    clone = ok(mx.mx_vmo_clone, vmo, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, 4 * PAGE)
    python: Any = face(clone)
    python.view(PAGE, PAGE)[0] = 1
    process.root.map(python, pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE, size=PAGE)
    python.write(b"x", 3 * PAGE)
    found = [attempt(bti, clone, page * PAGE)[0] for page in range(4)]
    assert found == ["OK", "OK", "NOT_FOUND", "OK"]
