"""An unpin that broke off near the limit of recursion could lose its token.

The handle was closed, the device still reached the pages, and the token was neither released nor in
quarantine: nothing could ever take the device's access back, and `release_quarantine`, which was to
be called when the device is quiet, did not find it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.testing import check_books
from tests.dialects.refused import name_of
from tests.dialects.things import PAGE, ok

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ = zx.ZX_BTI_PERM_READ


@pytest.fixture
def process(kernel: pf.Kernel) -> Iterator[pf.Process]:
    """The current process. What the host has left is not looked at: it may be more than nothing."""
    made = pf.Process(kernel, name="test")
    with made:
        yield made
        check_books(kernel)
    made.exit()


def deep(levels: int, act: Callable[[], object]) -> object:
    """Call ``act`` so many calls further down."""
    return act() if levels <= 0 else deep(levels - 1, act)


def unpin_by_number(pmt: int) -> Callable[[], object]:
    return lambda: zx.zx_pmt_unpin(pmt)


def close_by_number(pmt: int) -> Callable[[], object]:
    return lambda: zx.zx_handle_close(pmt)


@pytest.mark.parametrize("way", [unpin_by_number, close_by_number], ids=["unpin", "close"])
def test_a_token_is_released_or_can_be(
    kernel: pf.Kernel, any_bus: pf.Iommu, way: Callable[[int], Callable[[], object]]
) -> None:
    """At every depth: the pin is there, with its handle, or gone, or where a release finds it.

    Source: zx_pmt_unpin; the two orders at the head of objects/initiator.py.
    """
    broken, whole = 0, 0
    limit = sys.getrecursionlimit()
    with any_bus.initiator(1) as bti:
        authority = number_of(bti.duplicate())
        for level in range(limit, 0, -1):
            vmo = ok(zx.zx_vmo_create, PAGE, 0)
            pmt = ok(zx.zx_bti_pin, authority, READ, vmo, 0, PAGE, bytearray(8), 1)
            try:
                deep(level, way(pmt))
                whole += 1
            except (RecursionError, ctypes.ArgumentError):  # ctypes says it in words of its own
                broken += 1
            found = bti.statistics()
            if zx.zx_handle_check_valid(pmt) == zx.ZX_OK:
                assert (found.pins, found.quarantined) == (1, 0), level
                assert name_of(zx.zx_pmt_unpin(pmt)) == "OK"
            else:  # in quarantine, or just not there yet: a release finds both
                assert found.quarantined <= found.pins <= 1, level
                assert way is close_by_number or found.pins == found.quarantined, level
            check_books(kernel)
            bti.release_quarantine()
            assert bti.statistics().pins == 0, level
            assert zx.zx_vmo_op_range(vmo, zx.ZX_VMO_OP_DECOMMIT, 0, PAGE, None, 0) == zx.ZX_OK
            assert zx.zx_handle_close(vmo) == zx.ZX_OK
            if whole == 3:
                break
        assert broken
        assert whole
        assert zx.zx_handle_close(authority) == zx.ZX_OK
    assert kernel.leaks == []


def test_release_quarantine_itself_loses_nothing(kernel: pf.Kernel, any_bus: pf.Iommu) -> None:
    """A release that breaks off leaves what it did not release in quarantine."""
    out, broken = Out(), 0
    with any_bus.initiator(1) as bti:
        authority = number_of(bti.duplicate())
        for level in range(sys.getrecursionlimit(), 0, -1):
            vmo = ok(zx.zx_vmo_create, PAGE, 0)
            pmt = ok(zx.zx_bti_pin, authority, READ, vmo, 0, PAGE, bytearray(8), 1)
            assert zx.zx_handle_close(pmt) == zx.ZX_OK
            out.value = None

            def release() -> None:
                out.value = zx.zx_bti_release_quarantine(authority)

            try:
                deep(level, release)
            except RecursionError:
                broken += 1
            check_books(kernel)
            bti.release_quarantine()
            assert bti.statistics().pins == 0, level
            assert zx.zx_handle_close(vmo) == zx.ZX_OK
            if out.value is not None:
                break
        assert broken
        assert zx.zx_handle_close(authority) == zx.ZX_OK
    assert kernel.leaks == []
