"""Zeroing uncached memory that has a copy-on-write relative was done as if it had none.

Zircon would have to write the pages, which it does not for memory that is not cached: the call is
refused there, and a driver that was tried here went on to fail on the real system.
"""

from __future__ import annotations

import pytest

from pinfold.dialects import Out, zx
from tests.dialects import things
from tests.dialects.refused import name_of
from tests.dialects.things import PAGE, ok

pytestmark = pytest.mark.usefixtures("process")

ZERO = zx.ZX_VMO_OP_ZERO


def uncached_relatives() -> tuple[int, int]:
    """Two snapshots of what is gone, full; the first is uncached: it has no parent any more."""
    root = things.vmo(2 * PAGE)
    assert zx.zx_vmo_write(root, b"q" * 2 * PAGE, 0, 2 * PAGE) == zx.ZX_OK
    first, second = (
        ok(zx.zx_vmo_create_child, root, zx.ZX_VMO_CHILD_SNAPSHOT, 0, 2 * PAGE) for _ in range(2)
    )
    assert zx.zx_handle_close(root) == zx.ZX_OK
    assert zx.zx_vmo_set_cache_policy(first, zx.ZX_CACHE_POLICY_UNCACHED) == zx.ZX_OK
    return first, second


def zeroed(number: int, offset: int = 0, size: int = PAGE) -> str:
    return name_of(zx.zx_vmo_op_range(number, ZERO, offset, size, None, 0))


@pytest.mark.parametrize(("offset", "size"), [(0, PAGE), (0, 2 * PAGE), (PAGE, PAGE), (1, 8)])
def test_pages_that_a_relative_shares_are_not_zeroed_while_uncached(offset: int, size: int) -> None:
    """Source: zx_vmo_op_range ZERO in Zircon's kernel: what cannot be decommitted is written."""
    first, _ = uncached_relatives()
    assert zeroed(first, offset, size) == "BAD_STATE"
    assert zeroed(first, offset, 0) == "OK"
    assert zx.zx_vmo_set_cache_policy(first, zx.ZX_CACHE_POLICY_CACHED) == zx.ZX_OK
    buffer = bytearray(2 * PAGE)
    assert zx.zx_vmo_read(first, buffer, 0, 2 * PAGE) == zx.ZX_OK
    assert buffer == b"q" * 2 * PAGE
    assert zeroed(first, offset, size) == "OK"


def test_the_last_of_the_relatives_is_zeroed_again() -> None:
    """Its pages are its own then, and can be given back."""
    first, second = uncached_relatives()
    assert zx.zx_handle_close(second) == zx.ZX_OK
    assert zeroed(first, 0, 2 * PAGE) == "OK"
    out = Out()
    assert zx.zx_vmo_get_size(first, out) == zx.ZX_OK


def test_the_cached_relative_is_zeroed() -> None:
    _, second = uncached_relatives()
    assert zeroed(second, 0, 2 * PAGE) == "OK"
