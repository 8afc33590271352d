"""zx_bti_pin: the order of checks, and what a refused pin leaves.

Source: zx_bti_pin; Zircon's kernel for the order of checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.units import UINT64_MAX

from . import things
from .faulty import Call, Fault, attempts
from .pins import (
    COMPRESS,
    CONTIGUOUS,
    EXECUTE,
    MOST_ADDRESSES,
    MOST_PINS,
    READ,
    RW,
    WRITE,
    attempt,
    pin,
    quarantined,
)
from .refused import refused, standing
from .things import PAGE, info, ok, without

pytestmark = pytest.mark.usefixtures("process")


def discarded() -> int:
    """A VMO whose memory was taken while nobody had locked it."""
    vmo = things.vmo(2 * PAGE, zx.ZX_VMO_DISCARDABLE)
    state = bytearray(32)
    for op, buffer in ((zx.ZX_VMO_OP_LOCK, state), (zx.ZX_VMO_OP_COMMIT, None)):
        room = len(buffer) if buffer is not None else 0
        assert zx.zx_vmo_op_range(vmo, op, 0, 2 * PAGE, buffer, room) == zx.ZX_OK
    assert zx.zx_vmo_op_range(vmo, zx.ZX_VMO_OP_UNLOCK, 0, 2 * PAGE, None, 0) == zx.ZX_OK
    assert pf.current_process().kernel.reclaim() == 2 * PAGE
    return vmo


def saturated() -> int:
    """A VMO whose second page is pinned as often as a page can be."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    for _ in range(MOST_PINS):
        pin(bti, vmo, offset=PAGE)
    return vmo


def frozen() -> Any:
    """An array of addresses that cannot be written."""
    array = np.zeros(2, np.uint64)
    array.flags.writeable = False
    return array


PIN = Call(
    zx.zx_bti_pin,
    {
        "handle": things.bti,
        "options": lambda: RW,
        "vmo": lambda: things.vmo(2 * PAGE),
        "offset": lambda: 0,
        "size": lambda: 2 * PAGE,
        "addrs": lambda: np.zeros(2, np.uint64),
        "num_addrs": lambda: 2,
        "pmt": Out,
    },
    (
        Fault("no BTI", "handle", things.closed, "BAD_HANDLE"),
        Fault("BTI 0", "handle", lambda: 0, "BAD_HANDLE"),
        Fault("a VMO for the BTI", "handle", things.vmo, "WRONG_TYPE"),
        Fault(
            "BTI without MAP",
            "handle",
            lambda: without(zx.ZX_RIGHT_MAP, things.bti()),
            "ACCESS_DENIED",
        ),
        Fault("offset unaligned", "offset", lambda: 1, "INVALID_ARGS"),
        Fault("size unaligned", "size", lambda: PAGE + 1, "INVALID_ARGS"),
        Fault("too many addresses", "num_addrs", lambda: MOST_ADDRESSES + 1, "INVALID_ARGS"),
        Fault("no VMO", "vmo", things.closed, "BAD_HANDLE"),
        Fault("VMO 0", "vmo", lambda: 0, "BAD_HANDLE"),
        Fault("a BTI for the VMO", "vmo", things.bti, "WRONG_TYPE"),
        Fault(
            "VMO without MAP",
            "vmo",
            lambda: without(zx.ZX_RIGHT_MAP, things.vmo(2 * PAGE)),
            "ACCESS_DENIED",
        ),
        Fault(
            "VMO without READ",
            "vmo",
            lambda: without(zx.ZX_RIGHT_READ, things.vmo(2 * PAGE)),
            "ACCESS_DENIED",
        ),
        Fault(
            "VMO without WRITE",
            "vmo",
            lambda: without(zx.ZX_RIGHT_WRITE, things.vmo(2 * PAGE)),
            "ACCESS_DENIED",
        ),
        Fault("both forms", "options", lambda: RW | COMPRESS | CONTIGUOUS, "INVALID_ARGS"),
        Fault("CONTIGUOUS of a plain VMO", "options", lambda: RW | CONTIGUOUS, "INVALID_ARGS"),
        Fault("an unknown option", "options", lambda: RW | 0x20, "INVALID_ARGS"),
        Fault("the highest option", "options", lambda: RW | 1 << 31, "INVALID_ARGS"),
        Fault("no size", "size", lambda: 0, "INVALID_ARGS"),
        Fault("beyond the VMO", "offset", lambda: PAGE, "OUT_OF_RANGE"),
        Fault("past the VMO", "offset", lambda: 8 * PAGE, "OUT_OF_RANGE"),
        Fault("overflow", "offset", lambda: UINT64_MAX + 1 - PAGE, "OUT_OF_RANGE"),
        Fault("too long", "size", lambda: 3 * PAGE, "OUT_OF_RANGE"),
        Fault("discarded", "vmo", discarded, "NOT_FOUND"),
        Fault("a page pinned 31 times", "vmo", saturated, "UNAVAILABLE"),
        Fault("quarantine", "handle", quarantined, "BAD_STATE"),
        Fault("permits nothing", "options", lambda: 0, "INVALID_ARGS"),
        Fault("COMPRESS and permits nothing", "options", lambda: COMPRESS, "INVALID_ARGS"),
        Fault("too few addresses", "num_addrs", lambda: 1, "INVALID_ARGS"),
        Fault("too many for the pin", "num_addrs", lambda: 3, "INVALID_ARGS"),
        Fault("no address", "num_addrs", lambda: 0, "INVALID_ARGS"),
        Fault("addrs NULL", "addrs", lambda: None, "INVALID_ARGS"),
        Fault("addrs read-only", "addrs", lambda: bytes(16), "INVALID_ARGS"),
        Fault("a frozen array", "addrs", frozen, "INVALID_ARGS"),
        Fault("addrs a byte short", "addrs", lambda: bytearray(15), "INVALID_ARGS"),
        Fault("nowhere to return it", "pmt", lambda: None, "INVALID_ARGS"),
    ),
)

NEEDS_PERMISSIONS = {"VMO without READ", "VMO without WRITE"}
NO_PERMISSIONS = {"permits nothing", "COMPRESS and permits nothing"}


def possible(faults: tuple[Fault, ...]) -> bool:
    """A pin that permits nothing asks for no right."""
    found = {fault.what for fault in faults}
    return not (found & NEEDS_PERMISSIONS and found & NO_PERMISSIONS)


@pytest.mark.parametrize(
    ("call", "faults"), [case for case in attempts([PIN]) if possible(case.values[1])]
)
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...], kernel: pf.Kernel) -> None:
    """Source: zx_bti_pin. Nothing stays pinned, nothing goes to quarantine, nothing is written."""
    args = refused(call, faults, kernel)
    if isinstance(args["addrs"], np.ndarray):
        assert not args["addrs"].any()


def test_good_arguments_are_good() -> None:
    """What the table changes is all that is wrong; the token has INSPECT and no more."""
    found, args = PIN.attempt()
    assert found == "ZX_OK"
    assert args["addrs"].all()
    basic = info(args["pmt"].value, zx.ZX_INFO_HANDLE_BASIC)
    assert (basic.type, basic.rights) == (zx.ZX_OBJ_TYPE_PMT, zx.ZX_DEFAULT_PMT_RIGHTS)


# The same argument, wrong twice -------------------------------------------------------------------


def test_a_bti_and_a_vmo_swapped() -> None:
    """The type is found out before the rights."""
    bti, vmo = things.bti(), things.vmo()
    assert attempt(vmo, bti, 1) == "WRONG_TYPE"
    assert attempt(without(zx.ZX_RIGHT_MAP, things.vmo()), vmo, 1) == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("options", "size", "count", "found"),
    [
        (READ | COMPRESS | CONTIGUOUS, 9 * PAGE, 1, "INVALID_ARGS"),  # the list's 4
        (0, 9 * PAGE, 1, "OUT_OF_RANGE"),  # 5
        (0, PAGE, 1, "INVALID_ARGS"),  # 5
        (0, PAGE, 7, "INVALID_ARGS"),
        (COMPRESS | CONTIGUOUS, 0, 0, "INVALID_ARGS"),
        (READ, 0, 0, "INVALID_ARGS"),
        (READ, PAGE + 1, MOST_ADDRESSES + 1, "INVALID_ARGS"),
        (READ, PAGE, MOST_ADDRESSES, "INVALID_ARGS"),
    ],
)
def test_statuses_that_are_easy_to_get_wrong(
    options: int, size: int, count: int, found: str
) -> None:
    """Source: Zircon's kernel; a range that is not there is found before options of 0 are."""
    bti, vmo = things.bti(), things.vmo()
    assert attempt(bti, vmo, count, options=options, size=size) == found
    assert info(bti, zx.ZX_INFO_BTI).pmo_count == 0
    assert attempt(bti, vmo, 1) == "OK"


@pytest.mark.parametrize("missing", [zx.ZX_RIGHT_READ, zx.ZX_RIGHT_WRITE, zx.ZX_RIGHT_EXECUTE])
@pytest.mark.parametrize("options", range(8))
def test_the_rights_that_a_pin_asks_for(missing: int, options: int) -> None:
    """Source: zx_bti_pin: EXECUTE asks for READ, and never for EXECUTE. Before the size is 0."""
    asked = (zx.ZX_RIGHT_READ if options & (READ | EXECUTE) else 0) | (
        zx.ZX_RIGHT_WRITE if options & WRITE else 0
    )
    vmo = things.vmo()
    lesser = vmo if missing == zx.ZX_RIGHT_EXECUTE else without(missing, vmo)
    refused_ = bool(asked & missing)
    expected = "ACCESS_DENIED" if refused_ else "OK" if options else "INVALID_ARGS"
    assert attempt(things.bti(), lesser, 1, options=options) == expected
    empty = "ACCESS_DENIED" if refused_ else "INVALID_ARGS"
    assert attempt(things.bti(), lesser, 0, options=options, size=0) == empty


def test_quarantine_comes_before_the_count_and_after_the_range() -> None:
    """Source: Zircon's kernel, the list's 7."""
    bti, vmo = quarantined(), things.vmo()
    assert attempt(bti, vmo, 5) == "BAD_STATE"
    assert attempt(bti, vmo, 1, options=0) == "BAD_STATE"
    assert attempt(bti, vmo, 1, size=5 * PAGE) == "OUT_OF_RANGE"
    assert attempt(bti, vmo, 0, size=0) == "INVALID_ARGS"


def test_the_32nd_pin_of_a_page_takes_the_earlier_pages_back() -> None:
    """Source: Zircon: 31 pins of a page at once (the list's 8)."""
    bti, vmo = things.bti(), things.vmo(2 * PAGE)
    tokens = [pin(bti, vmo, offset=PAGE) for _ in range(MOST_PINS)]
    assert attempt(bti, vmo, 2, size=2 * PAGE) == "UNAVAILABLE"
    target: Any = pf.current_process().handles[vmo].object
    assert [target.pages.pin_count(page) for page in range(2)] == [0, MOST_PINS]
    assert attempt(bti, vmo, 1) == "OK"
    assert zx.zx_pmt_unpin(tokens[0]) == zx.ZX_OK
    assert attempt(bti, vmo, 2, size=2 * PAGE) == "OK"


def test_the_system_wide_limit_is_a_lack_of_memory() -> None:
    """Source: zx_bti_pin NO_MEMORY. Before the quarantine and the options are looked at."""
    process = pf.Process(pf.Kernel(max_pinned=2 * PAGE))
    with process:
        bti, vmo = things.bti(), things.vmo()
        held = pin(bti, vmo, size=2 * PAGE)
        assert attempt(bti, vmo, 1, offset=2 * PAGE, options=0) == "NO_MEMORY"
        assert attempt(bti, vmo, 3, size=8 * PAGE) == "OUT_OF_RANGE"
        assert zx.zx_pmt_unpin(held) == zx.ZX_OK
        assert attempt(bti, vmo, 1, offset=2 * PAGE) == "OK"
    process.exit()


def test_a_full_address_space_is_a_lack_of_memory() -> None:
    """Source: zx_bti_pin NO_MEMORY; after the options permit something, before the count."""
    bus = pf.open_bus("sim", aperture=(PAGE, 4 * PAGE))
    bti, vmo = ok(zx.zx_bti_create, number_of(bus), 0, 1), things.vmo(8 * PAGE)
    assert attempt(bti, vmo, 9, size=8 * PAGE) == "NO_MEMORY"
    assert attempt(bti, vmo, 9, size=8 * PAGE, options=0) == "INVALID_ARGS"
    assert attempt(bti, vmo, 1) == "OK"


# Arguments that C could not pass ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arg", "value", "error"),
    [
        ("handle", -1, OverflowError),
        ("options", 1 << 32, OverflowError),
        ("vmo", 1 << 32, OverflowError),
        ("offset", -PAGE, OverflowError),
        ("size", 1 << 64, OverflowError),
        ("num_addrs", -1, OverflowError),
        ("offset", 0.0, TypeError),
        ("handle", "1", TypeError),
        ("addrs", 0x1000, TypeError),
        ("addrs", [0, 0], TypeError),
        ("addrs", np.zeros((4, 2), np.uint64)[:, 0], TypeError),
        ("pmt", 5, TypeError),
    ],
)
def test_what_c_could_not_pass_is_pythons_error(
    arg: str, value: Any, error: type[Exception], kernel: pf.Kernel
) -> None:
    """Source: dialects: raised before anything is done."""
    args = {name: give() for name, give in PIN.good.items()} | {arg: value}
    before = standing(kernel)
    with pytest.raises(error):
        zx.zx_bti_pin(*args.values())
    assert standing(kernel) == before
