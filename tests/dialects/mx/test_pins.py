"""mx_bti_pin and mx_bti_unpin: what they do, the vectors of the reference, and orders of three.

Source: mx_bti_pin; the kernel of the draft of August 2017.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, mx, zx
from pinfold.dialects.calling import face, number_of
from pinfold.objects.pmt import AddrForm, PmtState
from pinfold.testing import check_books

from . import things
from .things import EXECUTE, PAGE, READ, WRITE, attempt, decommit, fine, named, ok, pin, unpin

if TYPE_CHECKING:
    from collections.abc import Iterator

Strict = Literal["docs", "kernel"] | None


@pytest.fixture(params=[None, "docs", "kernel"])
def strict(request: pytest.FixtureRequest) -> Iterator[Strict]:
    """Whom the kernel of the current process follows."""
    kernel = pf.Kernel(seed=2, strict=request.param)
    process = pf.Process(kernel)
    with process:
        yield request.param
        check_books(kernel)
    process.exit()
    assert kernel.objects() == []
    books = kernel.statistics().ledger
    assert (books.pins, books.pinned_bytes, books.requested_bytes) == (0, 0, 0)


@pytest.fixture
def process() -> Iterator[pf.Process]:
    """A process of a kernel that follows the pages."""
    made = pf.Process(pf.Kernel(seed=2))
    with made:
        yield made
        check_books(made.kernel)
    made.exit()
    assert made.kernel.objects() == []


def counts(vmo: int, pages: int) -> list[int]:
    target: Any = face(vmo).object
    return [target.pages.pin_count(page) for page in range(pages)]


# The vectors of the reference ---------------------------------------------------------------------


def test_an_address_a_page(strict: Strict) -> None:
    """Vectors 1, 2 and 9: the whole array names the pin, and names it once."""
    del strict
    bti, vmo = things.bti(), things.vmo(3 * PAGE)
    found, addrs = attempt(bti, vmo, 0, 3 * PAGE, room=3)
    assert (found, len(addrs)) == ("OK", 3)
    assert (np.diff(addrs.astype(np.int64)) != PAGE).all()
    assert decommit(vmo) == "BAD_STATE"
    assert unpin(bti, addrs[:2]) == "INVALID_ARGS"
    assert unpin(bti, addrs[::-1].copy()) == "INVALID_ARGS"
    assert unpin(bti, np.append(addrs, addrs[:1])) == "INVALID_ARGS"
    assert unpin(bti, addrs) == "OK"
    assert unpin(bti, addrs) == "INVALID_ARGS"
    assert attempt(bti, vmo, 0, 3 * PAGE, room=2)[0] == "BUFFER_TOO_SMALL"
    assert counts(vmo, 3) == [0, 0, 0]
    assert decommit(vmo, 0, 3 * PAGE) == "OK"


def test_contiguous_memory_has_one_address(strict: Strict) -> None:
    """Vector 3; its pages are never given back, and the books are even afterwards."""
    del strict
    bti, vmo = things.bti(), things.contiguous()
    found, addrs = attempt(bti, vmo, 0, 3 * PAGE, READ | WRITE, room=1)
    assert (found, len(addrs)) == ("OK", 1)
    physical = bytearray(24)
    fine(mx.mx_vmo_op_range, vmo, mx.MX_VMO_OP_LOOKUP, 0, 3 * PAGE, physical, 24)
    assert list(np.frombuffer(physical, np.uint64) - addrs[0]) == [0, PAGE, 2 * PAGE]
    assert unpin(bti, addrs) == "OK"
    assert pf.current_process().kernel.statistics().ledger.pinned_bytes == 0
    assert decommit(vmo) == "BAD_STATE"


def test_a_size_to_the_byte(strict: Strict) -> None:
    """Vector 4: the range is looked at in bytes, and the pages that it touches are pinned."""
    del strict
    bti, vmo = things.bti(), things.vmo(5000)
    assert attempt(bti, vmo, 0, 2 * PAGE)[0] == "OUT_OF_RANGE"
    assert attempt(bti, vmo, 0, 5001)[0] == "OUT_OF_RANGE"
    assert attempt(bti, vmo, PAGE, 5000 - PAGE)[0] == "OK"
    assert counts(vmo, 2) == [0, 1]
    assert len(pin(things.bti(), vmo, 0, 5000)) == 2
    assert len(pin(things.bti(), vmo, 0, 1)) == 1
    assert counts(vmo, 2) == [2, 2]


def test_a_hole(strict: Strict) -> None:
    """Vector 5: nothing is committed, and nothing counted."""
    del strict
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    assert decommit(vmo, PAGE) == "OK"
    assert attempt(bti, vmo, 0, 2 * PAGE)[0] == "NOT_FOUND"
    target: Any = face(vmo).object
    assert target.attributed(0, 2 * PAGE) == PAGE
    assert decommit(vmo) == "OK"


@pytest.mark.parametrize(
    ("perms", "right", "found"),
    [
        (0, 0, "INVALID_ARGS"),
        (8, 0, "INVALID_ARGS"),
        (8 | WRITE, mx.MX_RIGHT_WRITE, "ACCESS_DENIED"),
        (READ, mx.MX_RIGHT_READ, "ACCESS_DENIED"),
        (EXECUTE, mx.MX_RIGHT_EXECUTE, "ACCESS_DENIED"),
        (EXECUTE, mx.MX_RIGHT_READ, "OK"),
        (WRITE, mx.MX_RIGHT_READ, "OK"),
        (READ | WRITE | EXECUTE, 0, "OK"),
    ],
)
def test_permissions(process: pf.Process, perms: int, right: int, found: str) -> None:
    """Vector 6; each permission asks for the right of its name and for no other."""
    del process
    vmo = things.vmo()
    assert attempt(things.bti(), things.without(right, vmo), perms=perms)[0] == found


def test_alignment_comes_before_everything(process: pf.Process) -> None:
    """Vector 7."""
    del process
    assert mx.mx_bti_pin(0, 0, 1, 0, 0, None, 0, None) == mx.MX_ERR_INVALID_ARGS
    assert mx.mx_bti_pin(0, 0, 0, 0, 0, None, 0, None) == mx.MX_ERR_BAD_HANDLE


def test_pinning_again(strict: Strict) -> None:
    """Vector 8: the page says ALREADY_BOUND, the kernel counts to 31. Other devices may pin."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    found = [attempt(bti, vmo)[0] for _ in range(32)]
    if strict == "kernel":
        assert found == ["OK"] * 31 + ["UNAVAILABLE"]
        assert attempt(things.bti(), vmo)[0] == "UNAVAILABLE"
        assert counts(vmo, 2) == [31, 0]
    else:
        assert found == ["OK"] + ["ALREADY_BOUND"] * 31
        assert attempt(bti, vmo, 0, 2 * PAGE)[0] == "ALREADY_BOUND"
        assert attempt(things.bti(), vmo, 0, 2 * PAGE)[0] == "OK"
        assert attempt(bti, vmo, PAGE)[0] == "OK"
        assert counts(vmo, 2) == [2, 2]


def test_the_limit_of_a_page(strict: Strict) -> None:
    """31 pins by as many devices, 30 of contiguous memory: one is its own, for good."""
    del strict
    for vmo, most in ((things.vmo(PAGE), 31), (things.contiguous(PAGE), 30)):
        btis = [things.bti() for _ in range(most + 1)]
        found = [attempt(bti, vmo) for bti in btis]
        assert [status for status, _ in found] == ["OK"] * most + ["UNAVAILABLE"]
        assert unpin(btis[0], found[0][1]) == "OK"
        assert attempt(btis[-1], vmo)[0] == "OK"


def test_what_a_pin_forbids(strict: Strict) -> None:
    """Vector 10: giving back and cutting off; growing and cutting within a page are fine."""
    del strict
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    addrs = pin(bti, vmo, 0, 100)
    assert decommit(vmo) == "BAD_STATE"
    assert named(mx.mx_vmo_set_size(vmo, 0)) == "BAD_STATE"
    assert ok(mx.mx_vmo_get_size, vmo) == 2 * PAGE
    fine(mx.mx_vmo_set_size, vmo, 9 * PAGE)
    fine(mx.mx_vmo_set_size, vmo, 50)
    assert unpin(bti, addrs) == "OK"
    fine(mx.mx_vmo_set_size, vmo, 0)


def test_closing_the_device_ends_its_pins(strict: Strict) -> None:
    """Vector 11, with two handles and two devices."""
    del strict
    bti, other, vmo = things.bti(), things.bti(), things.vmo(2 * PAGE)
    pin(bti, vmo, 0, 2 * PAGE)
    pin(bti, things.vmo(PAGE))
    kept = pin(other, vmo, PAGE)
    twin = things.twin(bti)
    fine(mx.mx_handle_close, bti)
    assert counts(vmo, 2) == [1, 2]
    fine(mx.mx_handle_close, twin)
    assert counts(vmo, 2) == [0, 1]
    assert decommit(vmo) == "OK"
    assert unpin(other, kept) == "OK"
    assert pf.current_process().kernel.leaks == []


def test_the_pin_holds_the_memory(strict: Strict) -> None:
    """Vector 12: closing the handle to the memory does not end it."""
    del strict
    bti, vmo = things.bti(), things.vmo(PAGE)
    addrs = pin(bti, vmo)
    fine(mx.mx_vmo_write, vmo, b"held", 0, 4, Out())
    fine(mx.mx_handle_close, vmo)
    device: Any = face(bti)
    assert device.master().read(int(addrs[0]), 4) == b"held"
    assert unpin(bti, addrs) == "OK"
    assert unpin(bti, addrs) == "INVALID_ARGS"


def test_a_clone_has_no_memory_before_it_is_written(strict: Strict) -> None:
    """Vector 13; a write gives one page, a commit the rest, a writable mapping what it shows."""
    del strict
    bti, vmo = things.bti(), things.vmo(4 * PAGE)
    fine(mx.mx_vmo_write, vmo, b"parent", PAGE, 6, Out())
    clone = ok(mx.mx_vmo_clone, vmo, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, 4 * PAGE)
    assert [attempt(bti, clone, page * PAGE)[0] for page in range(4)] == ["NOT_FOUND"] * 4
    fine(mx.mx_vmo_write, clone, b"c", PAGE + 6, 1, Out())
    assert attempt(bti, clone, 0, 2 * PAGE)[0] == "NOT_FOUND"
    addrs = pin(bti, clone, PAGE)
    device: Any = face(bti)
    assert device.master().read(int(addrs[0]), 7) == b"parentc"
    root = mx.mx_vmar_root_self()
    at = ok(mx.mx_vmar_map, root, 0, clone, 2 * PAGE, PAGE, READ)
    assert attempt(bti, clone, 2 * PAGE)[0] == "NOT_FOUND"
    fine(mx.mx_vmar_protect, root, at, PAGE, READ | WRITE)
    assert attempt(bti, clone, 2 * PAGE)[0] == "OK"
    assert attempt(bti, clone, 3 * PAGE)[0] == "NOT_FOUND"
    fine(mx.mx_vmo_op_range, clone, mx.MX_VMO_OP_COMMIT, 3 * PAGE, 1, None, 0)
    assert attempt(bti, clone, 3 * PAGE)[0] == "OK"
    assert attempt(bti, clone)[0] == "NOT_FOUND"


def test_device_memory_is_not_pinned(process: pf.Process) -> None:
    """Vector 14."""
    del process
    device = ok(mx.mx_vmo_create_physical, mx.root_resource(), 0xC000_0000, PAGE)
    assert attempt(things.bti(), device)[0] == "NOT_SUPPORTED"
    assert attempt(things.bti(), device, 0, 8 * PAGE)[0] == "NOT_SUPPORTED"


# Orders of more than two --------------------------------------------------------------------------


def test_a_full_page_below_a_hole(strict: Strict) -> None:
    """Source: that kernel decides page by page. Where a page is bound as well, the hole wins."""
    vmo = things.vmo(3 * PAGE)
    bti = things.bti()
    for _ in range(31):
        pin(things.bti(), vmo, 0, PAGE)
    assert decommit(vmo, PAGE) == "OK"
    assert attempt(bti, vmo, 0, 2 * PAGE)[0] == "UNAVAILABLE"
    assert attempt(bti, vmo, PAGE, 2 * PAGE)[0] == "NOT_FOUND"
    pin(bti, vmo, 2 * PAGE)
    three = "UNAVAILABLE" if strict == "kernel" else "NOT_FOUND"
    assert attempt(bti, vmo, 0, 3 * PAGE)[0] == three
    assert counts(vmo, 3) == [31, 0, 1]


def test_nothing_to_permit_is_found_late(strict: Strict) -> None:
    """Source: that kernel finds a pin without permissions, or without bytes, when it maps."""
    del strict
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    decommit(vmo, PAGE)
    assert attempt(bti, vmo, PAGE, PAGE, 0)[0] == "NOT_FOUND"
    assert attempt(bti, vmo, 0, PAGE, 0)[0] == "INVALID_ARGS"
    assert attempt(bti, vmo, 0, 0)[0] == "INVALID_ARGS"
    assert attempt(bti, vmo, 2 * PAGE, 0)[0] == "INVALID_ARGS"
    assert attempt(bti, vmo, 3 * PAGE, 0)[0] == "OUT_OF_RANGE"
    assert counts(vmo, 2) == [0, 0]


def test_the_limit_of_pinned_memory() -> None:
    """Source: mx_bti_pin NO_MEMORY."""
    process = pf.Process(pf.Kernel(max_pinned=2 * PAGE))
    with process:
        bti, vmo = things.bti(), things.vmo(4 * PAGE)
        addrs = pin(bti, vmo, 0, 2 * PAGE)
        assert attempt(bti, vmo, 2 * PAGE)[0] == "NO_MEMORY"
        assert unpin(bti, addrs) == "OK"
        assert attempt(bti, vmo, 2 * PAGE)[0] == "OK"
    process.exit()


def test_a_full_address_space(process: pf.Process) -> None:
    """Source: mx_bti_pin NO_MEMORY, on a bus that translates."""
    del process
    bus = pf.open_bus("sim", aperture=(PAGE, 4 * PAGE))
    bti, vmo = ok(mx.mx_bti_create, number_of(bus), 1), things.vmo(8 * PAGE)
    assert attempt(bti, vmo, 0, 8 * PAGE)[0] == "NO_MEMORY"
    assert attempt(bti, vmo, 0, 8 * PAGE, 0)[0] == "INVALID_ARGS"
    assert attempt(bti, vmo)[0] == "OK"


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
    assert (room[:3], room[19:], actual.value) == (b"\xff" * 3, b"\xff" * 21, 2)
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
    for _ in range(20):
        addrs, found = pin(bti, vmo), list[str]()
        ready = threading.Barrier(2)

        def work() -> None:
            with process:
                ready.wait()
                found.append(unpin(bti, addrs))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == ["INVALID_ARGS", "OK"]
