"""mx_bti_pin and mx_bti_unpin: the vectors of the reference, and orders of three.

Source: mx_bti_pin; the kernel of the draft of August 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.dialects.calling import face, number_of

from . import things
from .things import (
    EXECUTE,
    PAGE,
    READ,
    WRITE,
    attempt,
    counts,
    decommit,
    fine,
    named,
    ok,
    pin,
    unpin,
)

if TYPE_CHECKING:
    from .things import Strict

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
    assert attempt(bti, clone, PAGE, 2 * PAGE)[0] == "NOT_FOUND"
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
    """Source: that kernel decides page by page. What lies above the hole does not matter; where a
    page below it is bound, the hole wins, for ALREADY_BOUND has its place after the holes."""
    vmo = things.vmo(3 * PAGE)
    bti = things.bti()
    for _ in range(31):
        pin(things.bti(), vmo, 0, PAGE)
    assert decommit(vmo, PAGE) == "OK"
    assert attempt(bti, vmo, 0, 2 * PAGE)[0] == "UNAVAILABLE"
    assert attempt(bti, vmo, PAGE, 2 * PAGE)[0] == "NOT_FOUND"
    addrs = pin(bti, vmo, 2 * PAGE)
    assert attempt(bti, vmo, 0, 3 * PAGE)[0] == "UNAVAILABLE"
    assert counts(vmo, 3) == [31, 0, 1]
    assert unpin(bti, addrs) == "OK"
    mine = things.vmo(2 * PAGE)
    pin(bti, mine)
    for _ in range(30):
        pin(things.bti(), mine)
    assert decommit(mine, PAGE) == "OK"
    both = "UNAVAILABLE" if strict == "kernel" else "NOT_FOUND"
    assert attempt(bti, mine, 0, 2 * PAGE)[0] == both


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
