"""Magenta's calls did not look at states that only Zircon's calls give an object.

A snapshot that is never to change was emptied, uncached memory was written, and what was written to
discarded memory was reported as lost by the next lock.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest

from pinfold.dialects import Out, mx, zx
from tests.dialects.mx import things
from tests.dialects.mx.things import PAGE, attempt, decommit, fine, named, ok

if TYPE_CHECKING:
    import pinfold as pf


def moved(vmo: int) -> list[str]:
    """What a read and a write say, short and long."""
    found = []
    for size in (1, PAGE * 128):
        buffer, actual = bytearray(size), Out()
        found.append(named(mx.mx_vmo_read(vmo, buffer, 0, size, actual)))
        found.append(named(mx.mx_vmo_write(vmo, buffer, 0, size, actual)))
        assert actual.value is None
    return found


def cloned(vmo: int) -> str:
    return named(mx.mx_vmo_clone(vmo, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGE, Out()))


def test_what_was_discarded_is_not_found(process: pf.Process) -> None:
    """Until somebody locks it, who is told that it was."""
    vmo = ok(zx.zx_vmo_create, 128 * PAGE, zx.ZX_VMO_DISCARDABLE)
    fine(zx.zx_vmo_op_range, vmo, zx.ZX_VMO_OP_TRY_LOCK, 0, 128 * PAGE, None, 0)
    fine(mx.mx_vmo_write, vmo, b"x", 0, 1, Out())
    fine(zx.zx_vmo_op_range, vmo, zx.ZX_VMO_OP_UNLOCK, 0, 128 * PAGE, None, 0)
    assert process.kernel.reclaim()
    assert moved(vmo) == ["NOT_FOUND"] * 4
    options = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE | zx.ZX_VM_ALLOW_FAULTS
    at = ok(zx.zx_vmar_map, mx.mx_vmar_root_self(), options, 0, vmo, 0, PAGE)
    ctypes.memset(at, 1, PAGE)  # memory again, and lost all the same
    assert attempt(things.bti(), vmo)[0] == "NOT_FOUND"
    assert cloned(vmo) == "NOT_FOUND"
    commit = mx.MX_VMO_OP_COMMIT
    assert named(mx.mx_vmo_op_range(vmo, commit, 0, PAGE, None, 0)) == "NOT_FOUND"
    lost = bytearray(32)
    fine(zx.zx_vmo_op_range, vmo, zx.ZX_VMO_OP_LOCK, 0, 128 * PAGE, lost, 32)
    fine(mx.mx_vmo_write, vmo, b"x", 0, 1, Out())


@pytest.mark.usefixtures("process")
def test_what_is_uncached_is_not_moved() -> None:
    vmo = ok(zx.zx_vmo_create, 128 * PAGE, 0)
    fine(zx.zx_vmo_set_cache_policy, vmo, zx.ZX_CACHE_POLICY_UNCACHED)
    assert moved(vmo) == ["BAD_STATE"] * 4
    assert cloned(vmo) == "BAD_STATE"


@pytest.mark.usefixtures("process")
def test_what_is_never_to_change_is_not_emptied() -> None:
    source = things.vmo(PAGE)
    fine(mx.mx_vmo_write, source, b"kept", 0, 4, Out())
    options = zx.ZX_VMO_CHILD_SNAPSHOT | zx.ZX_VMO_CHILD_NO_WRITE
    snapshot = ok(zx.zx_vmo_create_child, source, options, 0, PAGE)
    assert decommit(snapshot) == "NOT_SUPPORTED"
    assert decommit(source) == "OK"
    kept = bytearray(4)
    fine(mx.mx_vmo_read, snapshot, kept, 0, 4, Out())
    assert kept == b"kept"


@pytest.mark.usefixtures("process")
def test_rights_of_zircons_are_not_asked_for() -> None:
    """Source: mx_vmo_op_range needs none, and mx_vmo_set_size none that Magenta had not."""
    vmo = ok(zx.zx_vmo_create, 2 * PAGE, zx.ZX_VMO_RESIZABLE)
    reader = ok(zx.zx_handle_duplicate, vmo, zx.ZX_RIGHT_READ)
    assert decommit(reader) == "OK"
    assert named(mx.mx_vmo_set_size(reader, PAGE)) == "ACCESS_DENIED"
    writer = ok(zx.zx_handle_duplicate, vmo, zx.ZX_RIGHT_WRITE)
    fine(mx.mx_vmo_set_size, writer, PAGE)
