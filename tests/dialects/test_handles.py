"""zx_handle_close, _close_many, _duplicate, _replace, _check_valid.

Source: their pages; Zircon's kernel for which of several faults decides.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, zx

from . import things
from .faulty import Call, Fault, attempts, check
from .things import PAGE, ok

SAME = zx.ZX_RIGHT_SAME_RIGHTS


def valid(number: int) -> bool:
    return zx.zx_handle_check_valid(number) == zx.ZX_OK


def plain() -> int:
    """A handle that may do nothing but be duplicated, waited on and inspected."""
    made: int = ok(zx.zx_handle_replace, things.vmo(), zx.ZX_RIGHTS_BASIC)
    return made


ZERO = Fault("no handle", "handle", lambda: 0, "BAD_HANDLE")
CLOSED = Fault("a closed handle", "handle", things.closed, "BAD_HANDLE")
MISSHAPEN = Fault("no number of a handle", "handle", lambda: things.vmo() & ~3, "BAD_HANDLE")
TOO_MANY = (
    Fault("a right too many", "rights", lambda: zx.ZX_RIGHT_READ, "INVALID_ARGS"),
    Fault("SAME_RIGHTS and more", "rights", lambda: SAME | zx.ZX_RIGHT_WAIT, "INVALID_ARGS"),
    Fault("a right that no kind has", "rights", lambda: 1 << 30, "INVALID_ARGS"),
)
NOWHERE = Fault("nowhere to put it", "out", lambda: None, "INVALID_ARGS")

DUPLICATE = Call(
    zx.zx_handle_duplicate,
    {"handle": plain, "rights": lambda: SAME, "out": Out},
    (
        ZERO,
        CLOSED,
        MISSHAPEN,
        Fault(
            "without DUPLICATE",
            "handle",
            lambda: things.without(zx.ZX_RIGHT_DUPLICATE, plain()),
            "ACCESS_DENIED",
        ),
        Fault("a token", "handle", things.pmt, "ACCESS_DENIED"),
        *TOO_MANY,
        NOWHERE,
    ),
)
REPLACE = Call(
    zx.zx_handle_replace,
    {"handle": plain, "rights": lambda: SAME, "out": Out},
    (ZERO, CLOSED, MISSHAPEN, *TOO_MANY, NOWHERE),
)
CHECK_VALID = Call(
    zx.zx_handle_check_valid,
    {"handle": plain},
    (
        Fault("no handle", "handle", lambda: 0, "INVALID_ARGS"),
        Fault("no low bit", "handle", lambda: things.vmo() & ~1, "OUT_OF_RANGE"),
        Fault("no second bit", "handle", lambda: things.vmo() & ~2, "OUT_OF_RANGE"),
        Fault("neither bit", "handle", lambda: 0xFFFF_FFFC, "OUT_OF_RANGE"),
        Fault("a closed handle", "handle", things.closed, "NOT_FOUND"),
    ),
)
CLOSE = Call(
    zx.zx_handle_close,
    {"handle": plain},
    (CLOSED, MISSHAPEN, Fault("a number out of the air", "handle", lambda: 7, "BAD_HANDLE")),
)
CLOSE_MANY = Call(
    zx.zx_handle_close_many,
    {"handles": lambda: struct.pack("=I", plain()), "num_handles": lambda: 1},
    (
        Fault("NULL", "handles", lambda: None, "INVALID_ARGS"),
        Fault("a short array", "handles", lambda: bytes(3), "INVALID_ARGS"),
        Fault("more than there are", "num_handles", lambda: 2, "INVALID_ARGS"),
        Fault("more than can be", "num_handles", lambda: 2**64 - 1, "INVALID_ARGS"),
        Fault(
            "a closed handle", "handles", lambda: struct.pack("=I", things.closed()), "BAD_HANDLE"
        ),
    ),
)
CALLS = (DUPLICATE, REPLACE, CHECK_VALID, CLOSE, CLOSE_MANY)


@pytest.mark.parametrize(("call", "faults"), attempts(CALLS))
@pytest.mark.usefixtures("process")
def test_the_first_fault_decides(call: Call, faults: tuple[Fault, ...]) -> None:
    """Source: the kernel's order of checks; no output is written after any of them."""
    check(call, faults)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.function.__name__)
@pytest.mark.usefixtures("process")
def test_without_a_fault_it_succeeds(call: Call) -> None:
    found, args = call.attempt()
    assert found == "ZX_OK"
    assert "out" not in args or valid(args["out"].value)


# zx_handle_close ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", things.ALL)
@pytest.mark.usefixtures("process")
def test_close_takes_any_handle_whatever_its_rights(kind: str) -> None:
    """Source: zx_handle_close, RIGHTS: none."""
    number = ok(zx.zx_handle_replace, things.ALL[kind](), zx.ZX_RIGHT_NONE)
    assert zx.zx_handle_close(number) == zx.ZX_OK
    assert zx.zx_handle_close(number) == zx.ZX_ERR_BAD_HANDLE
    assert not valid(number)


@pytest.mark.usefixtures("process")
def test_close_of_no_handle_is_no_error() -> None:
    """Source: zx_handle_close, "It is not an error to close ZX_HANDLE_INVALID"."""
    assert zx.zx_handle_close(zx.ZX_HANDLE_INVALID) == zx.ZX_OK


def test_of_threads_that_close_one_number_one_has_closed_it(process: pf.Process) -> None:
    numbers = [things.vmo(PAGE) for _ in range(32)]
    start = threading.Barrier(4)
    statuses: list[list[int]] = []

    def close_all() -> None:
        with process:
            start.wait()
            statuses.append([zx.zx_handle_close(number) for number in numbers])

    threads = [threading.Thread(target=close_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in zip(*statuses, strict=True):
        assert sorted(found) == [zx.ZX_ERR_BAD_HANDLE] * 3 + [zx.ZX_OK]


# zx_handle_close_many -----------------------------------------------------------------------------

A, B, NONE, GONE = "a", "b", "none", "gone"
MANY: list[tuple[list[str], str]] = [
    ([], "OK"),
    ([A], "OK"),
    ([A, B], "OK"),
    ([NONE, A, NONE, B], "OK"),
    ([NONE], "OK"),
    ([A, A, B], "BAD_HANDLE"),
    ([GONE, A, B], "BAD_HANDLE"),
    ([A, GONE, B], "BAD_HANDLE"),
    ([A, B, GONE], "BAD_HANDLE"),
    ([GONE], "BAD_HANDLE"),
]


@pytest.mark.parametrize(("names", "expected"), MANY)
@pytest.mark.usefixtures("process")
def test_close_many_closes_all_that_can_be_closed(names: list[str], expected: str) -> None:
    """Source: zx_handle_close_many; conformance list, 20."""
    numbers = {A: things.vmo(), B: things.region(), NONE: 0, GONE: things.closed()}
    array = np.array([numbers[name] for name in names], np.uint32)
    found = zx.zx_handle_close_many(array, len(array))
    assert found == things.status(expected)
    for name in (A, B):
        assert valid(numbers[name]) is (name not in names)


NOT_THERE: list[tuple[Any, int]] = [
    (None, 1),
    (None, 2**64 - 1),
    (b"", 1),
    (bytes(7), 2),
    (bytes(8), 2**62),
]


@pytest.mark.parametrize(("handles", "count"), NOT_THERE)
@pytest.mark.usefixtures("process")
def test_close_many_reads_nothing_beyond_the_array(handles: Any, count: int) -> None:
    """And closes nothing then: NULL, or an array that is shorter than it is said to be."""
    assert zx.zx_handle_close_many(handles, count) == zx.ZX_ERR_INVALID_ARGS


@pytest.mark.usefixtures("process")
def test_close_many_of_a_short_array_closes_nothing() -> None:
    number = things.vmo()
    array = np.array([number, number], np.uint32)
    assert zx.zx_handle_close_many(array, 3) == zx.ZX_ERR_INVALID_ARGS
    assert valid(number)
    assert zx.zx_handle_close_many(array, 1) == zx.ZX_OK
    assert zx.zx_handle_close_many(None, 0) == zx.ZX_OK


# zx_handle_duplicate ------------------------------------------------------------------------------

SUBSETS = [
    (SAME, zx.ZX_RIGHTS_BASIC),
    (zx.ZX_RIGHTS_BASIC, zx.ZX_RIGHTS_BASIC),
    (zx.ZX_RIGHT_WAIT, zx.ZX_RIGHT_WAIT),
    (zx.ZX_RIGHT_NONE, zx.ZX_RIGHT_NONE),
]


@pytest.mark.parametrize(("asked", "given"), SUBSETS)
@pytest.mark.parametrize("call", [zx.zx_handle_duplicate, zx.zx_handle_replace])
@pytest.mark.usefixtures("process")
def test_the_new_handle_has_the_rights_that_were_asked_for(
    call: Any, asked: int, given: int
) -> None:
    """Source: zx_handle_duplicate, zx_handle_replace; rights 0 are legal."""
    number = plain()
    made = ok(call, number, asked)
    assert made != number
    assert made & zx.ZX_HANDLE_FIXED_BITS_MASK == zx.ZX_HANDLE_FIXED_BITS_MASK
    assert things.info(made, zx.ZX_INFO_HANDLE_BASIC).rights == given
    assert valid(number) is (call is zx.zx_handle_duplicate)


@pytest.mark.usefixtures("process")
def test_a_duplicate_is_to_the_same_object_and_outlives_the_first() -> None:
    number = things.vmo()
    koid = things.info(number, zx.ZX_INFO_HANDLE_BASIC).koid
    made = ok(zx.zx_handle_duplicate, number, SAME)
    assert zx.zx_handle_close(number) == zx.ZX_OK
    assert things.info(made, zx.ZX_INFO_HANDLE_BASIC).koid == koid
    assert things.info(made, zx.ZX_INFO_HANDLE_COUNT).handle_count == 1


@pytest.mark.usefixtures("process")
def test_a_duplicate_with_nowhere_to_go_is_closed_again() -> None:
    number = things.vmo()
    assert zx.zx_handle_duplicate(number, SAME, None) == zx.ZX_ERR_INVALID_ARGS
    assert things.info(number, zx.ZX_INFO_HANDLE_COUNT).handle_count == 1


# zx_handle_replace --------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [(fault,) for fault in REPLACE.faults], ids=lambda f: f[0].what)
@pytest.mark.usefixtures("process")
def test_a_replacement_that_fails_has_consumed_the_handle(faults: tuple[Fault, ...]) -> None:
    """Source: zx_handle_replace, "handle will always be invalidated"."""
    args = check(REPLACE, faults)
    assert not valid(args["handle"])


def quarantine(bti: int) -> tuple[int, int]:
    found = things.info(bti, zx.ZX_INFO_BTI)
    return found.pmo_count, found.quarantine_count


def pinned(bti: int) -> int:
    addrs = bytearray(8)
    made: int = ok(zx.zx_bti_pin, bti, zx.ZX_BTI_PERM_READ, things.vmo(), 0, PAGE, addrs, 1)
    return made


@pytest.mark.parametrize(("rights", "out"), [(zx.ZX_RIGHT_READ, Out()), (SAME, None)])
@pytest.mark.usefixtures("process")
def test_a_token_whose_replacement_fails_is_quarantined(rights: int, out: Out | None) -> None:
    """Source: Zircon's handle table; conformance list, 2."""
    bti = things.bti()
    token = pinned(bti)
    assert zx.zx_handle_replace(token, rights, out) == zx.ZX_ERR_INVALID_ARGS
    assert quarantine(bti) == (1, 1)
    assert zx.zx_bti_release_quarantine(bti) == zx.ZX_OK
    assert quarantine(bti) == (0, 0)


@pytest.mark.usefixtures("process")
def test_a_token_can_be_replaced_though_it_cannot_be_duplicated() -> None:
    """Source: zx_handle_replace asks for no right; conformance list, 3."""
    bti = things.bti()
    token = pinned(bti)
    assert zx.zx_handle_duplicate(token, SAME, Out()) == zx.ZX_ERR_ACCESS_DENIED
    fresh = ok(zx.zx_handle_replace, token, SAME)
    assert quarantine(bti) == (1, 0)
    assert zx.zx_pmt_unpin(fresh) == zx.ZX_OK
    assert quarantine(bti) == (0, 0)


@pytest.mark.usefixtures("process")
def test_a_number_is_not_used_again_soon() -> None:
    """Source: Zircon's handle values, so that a use after closing is found out."""
    seen = set()
    for _ in range(100):
        number = things.vmo(0)
        assert number not in seen
        seen.add(number)
        assert zx.zx_handle_close(number) == zx.ZX_OK


# Moving a handle to another process ---------------------------------------------------------------


def ended() -> pf.Process:
    """A process that has ended."""
    made = pf.Process()
    made.exit()
    return made


TRANSFER = Call(
    zx.handle_transfer,
    {"handle": plain, "process": pf.Process, "out": Out},
    (
        ZERO,
        CLOSED,
        Fault(
            "without TRANSFER",
            "handle",
            lambda: things.without(zx.ZX_RIGHT_TRANSFER, plain()),
            "ACCESS_DENIED",
        ),
        Fault("a token", "handle", things.pmt, "ACCESS_DENIED"),
        Fault("another kernel", "process", lambda: pf.Process(pf.Kernel()), "INVALID_ARGS"),
        Fault("an ended process", "process", ended, "BAD_STATE"),
        NOWHERE,
    ),
)


@pytest.mark.parametrize(("call", "faults"), attempts([TRANSFER]))
@pytest.mark.usefixtures("process")
def test_a_handle_that_cannot_be_moved_stays(call: Call, faults: tuple[Fault, ...]) -> None:
    """Source: ZX_RIGHT_TRANSFER. Only where there is nowhere to put its number it is gone."""
    args = check(call, faults)
    assert valid(args["handle"]) is (
        faults[0].what not in ("no handle", "a closed handle", NOWHERE.what)
    )


def test_a_handle_is_moved_with_its_rights(process: pf.Process) -> None:
    """It means nothing here any more, and is the only handle all the while."""
    other = pf.Process(process.kernel)
    number = plain()
    koid = things.info(number, zx.ZX_INFO_HANDLE_BASIC).koid
    moved = ok(zx.handle_transfer, number, other)
    assert not valid(number)
    with other:
        basic = things.info(moved, zx.ZX_INFO_HANDLE_BASIC)
        assert (basic.koid, basic.rights) == (koid, zx.ZX_RIGHTS_BASIC)
        assert things.info(moved, zx.ZX_INFO_HANDLE_COUNT).handle_count == 1
        assert zx.zx_handle_close(moved) == zx.ZX_OK
    with pytest.raises(TypeError):
        zx.handle_transfer(things.vmo(), None, Out())  # type: ignore[arg-type]  # what is tried
    other.exit()


# What a program has from the start ----------------------------------------------------------------


def test_the_process_has_handles_to_itself_and_to_its_root_region(process: pf.Process) -> None:
    """Source: zircon/process.h; the rights are those of the kernel's first handles."""
    me, root = zx.zx_process_self(), zx.zx_vmar_root_self()
    basic = things.info(me, zx.ZX_INFO_HANDLE_BASIC)
    assert (basic.koid, basic.type) == (process.koid, zx.ZX_OBJ_TYPE_PROCESS)
    assert basic.rights == zx.ZX_DEFAULT_PROCESS_RIGHTS
    basic = things.info(root, zx.ZX_INFO_HANDLE_BASIC)
    assert basic.type == zx.ZX_OBJ_TYPE_VMAR
    rwx = zx.ZX_RIGHT_READ | zx.ZX_RIGHT_WRITE | zx.ZX_RIGHT_EXECUTE
    assert basic.rights == zx.ZX_DEFAULT_VMAR_RIGHTS | rwx
    assert (zx.zx_process_self(), zx.zx_vmar_root_self()) == (me, root)


@pytest.mark.parametrize("mine", [zx.zx_process_self, zx.zx_vmar_root_self])
@pytest.mark.usefixtures("process")
def test_a_handle_that_the_process_keeps_can_be_closed_and_had_again(mine: Any) -> None:
    number = mine()
    koid = things.info(number, zx.ZX_INFO_HANDLE_BASIC).koid
    assert zx.zx_handle_close(number) == zx.ZX_OK
    again = mine()
    assert again != number
    assert things.info(again, zx.ZX_INFO_HANDLE_BASIC).koid == koid
