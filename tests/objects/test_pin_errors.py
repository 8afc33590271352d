"""Bti.pin: one row a documented condition, in Zircon's order."""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.bus import Extent
from pinfold.errors import (
    AccessDenied,
    BadHandle,
    InvalidArgs,
    LimitReached,
    OutOfRange,
    OutOfReach,
    WrongType,
)

PAGE = pf.PAGE_SIZE
R = pf.Right
READ, WRITE, EXECUTE = pf.Perm.READ, pf.Perm.WRITE, pf.Perm.EXECUTE


def narrowed(vmo: pf.Vmo, rights: pf.Right) -> pf.Vmo:
    return vmo.duplicate(rights)


@pytest.mark.parametrize(
    ("rights", "perms", "missing"),
    [
        (R.READ | R.WRITE, READ, R.MAP),
        (R.MAP | R.WRITE, READ, R.READ),
        (R.MAP | R.READ, WRITE, R.WRITE),
        (R.MAP | R.WRITE, EXECUTE, R.READ),
        (R.MAP | R.READ, READ | WRITE, R.WRITE),
        (R.NONE, READ | WRITE | EXECUTE, R.MAP | R.READ | R.WRITE),
    ],
)
def test_rights_of_the_memory(
    bti: pf.Bti, vmo: pf.Vmo, rights: pf.Right, perms: pf.Perm, missing: pf.Right
) -> None:
    """Source: zx_bti_pin ACCESS_DENIED; EXECUTE asks for READ."""
    with narrowed(vmo, rights) as less, pytest.raises(AccessDenied) as caught:
        bti.pin(less, perms=perms)
    assert caught.value.missing == missing


def test_execute_needs_read_and_not_execute(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin, the note on ZX_BTI_PERM_EXECUTE."""
    with narrowed(vmo, R.MAP | R.READ) as less, bti.pin(less, perms=EXECUTE) as pmt:
        assert bti.master().fetch(int(pmt.addrs[0]), 1) == b"\0"


def test_the_bti_needs_map(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin, handle must have ZX_RIGHT_MAP."""
    with bti.duplicate(R.READ | R.WRITE) as less, pytest.raises(AccessDenied) as caught:
        less.pin(vmo, perms=READ)
    assert caught.value.missing == R.MAP


@pytest.mark.parametrize(
    ("offset", "size", "perms", "form", "error"),
    [
        (1, PAGE, READ, "PER_PAGE", InvalidArgs),
        (0, PAGE - 1, READ, "PER_PAGE", InvalidArgs),
        (-PAGE, PAGE, READ, "PER_PAGE", InvalidArgs),
        (0, -PAGE, READ, "PER_PAGE", InvalidArgs),
        (0, 0, READ, "PER_PAGE", InvalidArgs),
        (0, PAGE, 0, "PER_PAGE", InvalidArgs),
        (0, PAGE, 0x20, "PER_PAGE", InvalidArgs),
        (0, PAGE, READ, "CONTIGUOUS", InvalidArgs),
        (4 * PAGE, PAGE, READ, "PER_PAGE", OutOfRange),
        (0, 5 * PAGE, READ, "PER_PAGE", OutOfRange),
        (1 << 64, PAGE, READ, "PER_PAGE", OutOfRange),
        # When several things are wrong, the documented one wins.
        (8 * PAGE, PAGE, READ, "CONTIGUOUS", InvalidArgs),  # the form before the range
        (8 * PAGE, PAGE, 0, "PER_PAGE", OutOfRange),  # the range before the empty permission
        (8 * PAGE, 0, READ, "PER_PAGE", InvalidArgs),  # the empty size before the range
    ],
)
def test_arguments(
    bti: pf.Bti, vmo: pf.Vmo, offset: int, size: int, perms: int, form: str, error: type[Exception]
) -> None:
    """Source: zx_bti_pin INVALID_ARGS and OUT_OF_RANGE; the order from the dispatcher."""
    with pytest.raises(error):
        bti.pin(vmo, offset, size, perms=perms, form=pf.AddrForm[form])
    assert bti.statistics().pins == 0


def test_rights_are_checked_before_an_empty_size(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: Zircon, size 0 with a VMO that lacks READ is ACCESS_DENIED."""
    with narrowed(vmo, R.MAP) as less, pytest.raises(AccessDenied):
        bti.pin(less, 0, 0, perms=READ)


def test_closed_handles(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin BAD_HANDLE."""
    other = vmo.duplicate()
    other.close()
    with pytest.raises(BadHandle):
        bti.pin(other, perms=READ)
    gone = bti.duplicate()
    gone.close()
    with pytest.raises(BadHandle):
        gone.pin(vmo, perms=READ)
    pmt = bti.pin(vmo, perms=READ)
    pmt.unpin()
    with pytest.raises(BadHandle):
        pmt.unpin()
    with pytest.raises(BadHandle):
        _ = pmt.addrs


def test_a_narrow_device_is_told_what_it_cannot_reach(process: pf.Process) -> None:
    """Without translation a 24-bit device cannot reach simulated memory, which begins at 16 MiB."""
    with (
        pf.open_bus("stub") as iommu,
        iommu.initiator(1, address_bits=24) as bti,
        pf.Vmo(PAGE) as vmo,
    ):
        with pytest.raises(OutOfReach) as caught:
            bti.pin(vmo, perms=READ)
        assert caught.value.limit == 1 << 24
        assert isinstance(caught.value.extent, Extent)
        assert caught.value.extent.address >= 1 << 24
        assert vmo.pin_count() == 0


def test_a_narrow_device_runs_out_of_addresses(process: pf.Process) -> None:
    """On a bus that translates it gets what it can reach, until that is spent."""
    with (
        pf.open_bus("sim") as iommu,
        iommu.initiator(1, address_bits=16) as bti,
        pf.Vmo(PAGE) as vmo,
    ):
        held = [bti.pin(vmo, perms=READ) for _ in range(8)]  # with a page between
        with pytest.raises(LimitReached) as caught:
            bti.pin(vmo, perms=READ)
        assert caught.value.limit == (1 << 16) - PAGE
        assert caught.value.available is not None
        held.pop(3).unpin()
        held.append(bti.pin(vmo, perms=READ))
        for pmt in held:
            pmt.unpin()


@pytest.mark.parametrize("form", [0, 1, None, "PER_PAGE", "CONTIGUOUS", pf.Perm.READ])
def test_a_form_that_is_none(bti: pf.Bti, vmo: pf.Vmo, form: Any) -> None:
    """A dialect's number is not one of ours, and does not pass for the default."""
    with pytest.raises(WrongType) as caught:
        bti.pin(vmo, perms=READ, form=form)
    assert type(form).__name__ in str(caught.value)
    assert bti.statistics().pins == vmo.pin_count() == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"perms": 1.0},
        {"perms": "READ"},
        {"perms": None},
        {"perms": READ, "offset": 0.0},
        {"perms": READ, "size": float(PAGE)},
    ],
)
def test_numbers_are_whole(bti: pf.Bti, vmo: pf.Vmo, arguments: dict[str, Any]) -> None:
    """1.0 is equal to READ, and is no permission."""
    with pytest.raises(TypeError):
        bti.pin(vmo, **arguments)
    assert bti.statistics().pins == vmo.pin_count() == 0
