"""Calls for which the host has no memory or no descriptor: MX_ERR_NO_MEMORY, and nothing is left.

Every host call that a call makes is refused in turn. Source: NO_MEMORY of each call's page.
"""

from __future__ import annotations

import errno
import gc
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, mx
from pinfold.dialects.calling import face
from pinfold.testing import FailNth, HostCalls, HostState, check_books

from . import things
from .things import PAGE, READ, WRITE, fine, named, ok

if TYPE_CHECKING:
    from collections.abc import Callable

    Act = Callable[[Out], int]

RW = READ | WRITE


def create() -> Act:
    return lambda out: mx.mx_vmo_create(5000, 0, out)


def contiguous() -> Act:
    root = mx.root_resource()
    return lambda out: mx.mx_vmo_create_contiguous(root, 4 * PAGE, 0, out)


def physical() -> Act:
    root = mx.root_resource()
    return lambda out: mx.mx_vmo_create_physical(root, 0xC000_0000, PAGE, out)


def clone() -> Act:
    vmo = things.vmo(4 * PAGE)
    return lambda out: mx.mx_vmo_clone(vmo, 1, 0, 4 * PAGE, out)


def write() -> Act:
    vmo = things.vmo(128 * PAGE, committed=False)
    return lambda out: mx.mx_vmo_write(vmo, bytes(128 * PAGE), 0, 128 * PAGE, out)


def read() -> Act:
    vmo = things.vmo(128 * PAGE, committed=False)
    return lambda out: mx.mx_vmo_read(vmo, bytearray(128 * PAGE), 0, 128 * PAGE, out)


def set_size(size: int) -> Callable[[], Act]:
    def arrange() -> Act:
        vmo = things.vmo(8 * PAGE)
        return lambda _: mx.mx_vmo_set_size(vmo, size)

    return arrange


def commit() -> Act:
    vmo = things.vmo(8 * PAGE, committed=False)
    return lambda _: mx.mx_vmo_op_range(vmo, mx.MX_VMO_OP_COMMIT, 0, 8 * PAGE, None, 0)


def decommit() -> Act:
    vmo = things.vmo(8 * PAGE)
    return lambda _: mx.mx_vmo_op_range(vmo, mx.MX_VMO_OP_DECOMMIT, 0, 8 * PAGE, None, 0)


def map_() -> Act:
    root, vmo = mx.mx_vmar_root_self(), things.vmo()
    flags = RW | mx.MX_VM_FLAG_MAP_RANGE
    return lambda out: mx.mx_vmar_map(root, 0, vmo, 0, 4 * PAGE, flags, out)


def unmap() -> Act:
    root, vmo = mx.mx_vmar_root_self(), things.vmo()
    at = ok(mx.mx_vmar_map, root, 0, vmo, 0, 4 * PAGE, RW)
    return lambda _: mx.mx_vmar_unmap(root, at + PAGE, PAGE)


def protect() -> Act:
    root, vmo = mx.mx_vmar_root_self(), things.vmo()
    at = ok(mx.mx_vmar_map, root, 0, vmo, 0, 4 * PAGE, RW)
    return lambda _: mx.mx_vmar_protect(root, at + PAGE, PAGE, READ)


def pin(bus: str) -> Callable[[], Act]:
    def arrange() -> Act:
        bti, vmo, addrs = things.bti(bus), things.vmo(8 * PAGE, committed=False), bytearray(64)
        mapping: Any = pf.current_process().root.map(face(vmo), RW)
        mapping.view()[:] = bytes(8 * PAGE)  # memory that the books do not know of
        mapping.unmap()
        return lambda out: mx.mx_bti_pin(bti, vmo, 0, 8 * PAGE, READ, addrs, 8, out)

    return arrange


CASES: dict[str, Callable[[], Act]] = {
    "mx_vmo_create": create,
    "mx_vmo_create_contiguous": contiguous,
    "mx_vmo_create_physical": physical,
    "mx_vmo_clone": clone,
    "mx_vmo_write": write,
    "mx_vmo_read": read,
    "mx_vmo_set_size, more": set_size(16 * PAGE + 1),
    "mx_vmo_set_size, less": set_size(PAGE + 1),
    "mx_vmo_op_range COMMIT": commit,
    "mx_vmo_op_range DECOMMIT": decommit,
    "mx_vmar_map": map_,
    "mx_vmar_unmap": unmap,
    "mx_vmar_protect": protect,
    "mx_bti_pin, stub": pin("stub"),
    "mx_bti_pin, sim": pin("sim"),
}


def standing(kernel: pf.Kernel) -> Any:
    now = kernel.statistics()
    return now.objects, now.handles, now.ledger.pins, now.ledger.pinned_bytes, now.leaks


@pytest.mark.parametrize("name", CASES)
def test_whatever_the_host_refuses_is_no_memory(name: str) -> None:
    """No output is written, nothing is left, and the same call succeeds afterwards."""
    gc.collect()
    before = HostState.now()
    number = refusals = 0
    while True:
        number += 1
        kernel = pf.Kernel(seed=4)
        process = pf.Process(kernel, name="poor")
        with process:
            act, out = CASES[name](), Out()
            was, plan = standing(kernel), FailNth(number, errno.ENOMEM)
            with plan:
                found = named(act(out))
            if plan.refused:
                refusals += 1
                assert found in ("NO_MEMORY", "OK"), plan.names
                if found == "NO_MEMORY":
                    assert out.value is None
                    assert standing(kernel) == was
                    check_books(kernel)
                    assert named(act(out)) == "OK", plan.names
            else:
                assert found == "OK"
            check_books(kernel)
        process.exit()
        assert kernel.objects() == []
        if not plan.refused:
            break
    assert refusals
    gc.collect()
    assert before.difference(HostState.now()) == []


def test_what_is_made_from_the_books_asks_the_host_nothing(process: pf.Process) -> None:
    """A pin of memory that a call has committed, and its end."""
    del process
    bti, vmo, addrs, actual = things.bti(), things.vmo(PAGE), bytearray(8), Out()
    given = (bti, vmo, 0, PAGE, READ, addrs, 1, actual)
    fine(mx.mx_bti_pin, *given)
    fine(mx.mx_bti_unpin, bti, addrs, 1)
    with HostCalls() as plan:
        fine(mx.mx_bti_pin, *given)
        fine(mx.mx_bti_unpin, bti, addrs, 1)
    assert plan.names == []
