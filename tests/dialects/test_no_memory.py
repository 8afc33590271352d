"""Calls for which the host has no memory or no descriptor: ZX_ERR_NO_MEMORY, and nothing is left.

Every host call that a call makes is refused in turn. Source: NO_MEMORY of each call's page, and
SQLite's malloc tests for the way.
"""

from __future__ import annotations

import errno
import gc
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books

from . import things
from .refused import name_of, standing
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEVICE = 0xE000_0000
RW = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE
READ = zx.ZX_BTI_PERM_READ

_OPENS = ("memfd_create", "dup", "open")
"""The host calls that want a descriptor."""


@dataclass(frozen=True)
class Case:
    """A call, and what there has to be for it.

    Attributes:
      arrange: makes that, and returns the call; it is given its last output parameter.
      undo: what a caller does with what the call gave, or it would not end with its process.
    """

    name: str
    arrange: Callable[[], Callable[[Out], int]]
    undo: Callable[[Out], object] = lambda _: None

    def __str__(self) -> str:
        return self.name


def full(size: int = 8 * PAGE, options: int = 0) -> int:
    """A memory object that holds something in its first and third page."""
    made = things.vmo(size, options)
    for page in (0, 2):
        assert zx.zx_vmo_write(made, b"x" * PAGE, page * PAGE, PAGE) == zx.ZX_OK
    return made


def mapped() -> tuple[int, int, int]:
    """The root region, where a mapping of eight pages is, and what it shows."""
    root, vmo = zx.zx_vmar_root_self(), full()
    return root, ok(zx.zx_vmar_map, root, RW, 0, vmo, 0, 8 * PAGE), vmo


def create(options: int) -> Callable[[], Callable[[Out], int]]:
    return lambda: lambda out: zx.zx_vmo_create(8 * PAGE, options, out)


def contiguous() -> Callable[[Out], int]:
    bti = things.bti()
    return lambda out: zx.zx_vmo_create_contiguous(bti, 4 * PAGE, 0, out)


def physical() -> Callable[[Out], int]:
    resource = number_of(pf.Resource(DEVICE, 4 * PAGE))
    return lambda out: zx.zx_vmo_create_physical(resource, DEVICE, 4 * PAGE, out)


def snapshot() -> Callable[[Out], int]:
    vmo = full()
    return lambda out: zx.zx_vmo_create_child(vmo, zx.ZX_VMO_CHILD_SNAPSHOT, 0, 8 * PAGE, out)


def write(size: int) -> Callable[[], Callable[[Out], int]]:
    def arrange() -> Callable[[Out], int]:
        vmo, data = things.vmo(size), b"y" * size
        return lambda _: zx.zx_vmo_write(vmo, data, 0, size)

    return arrange


def set_size(size: int) -> Callable[[], Callable[[Out], int]]:
    def arrange() -> Callable[[Out], int]:
        vmo = full(options=zx.ZX_VMO_RESIZABLE)
        return lambda _: zx.zx_vmo_set_size(vmo, size)

    return arrange


def commit() -> Callable[[Out], int]:
    vmo = things.vmo(8 * PAGE)
    return lambda _: zx.zx_vmo_op_range(vmo, zx.ZX_VMO_OP_COMMIT, 0, 8 * PAGE, None, 0)


def region_commit() -> Callable[[Out], int]:
    root, vmo = zx.zx_vmar_root_self(), things.vmo(8 * PAGE)
    address = ok(zx.zx_vmar_map, root, RW, 0, vmo, 0, 8 * PAGE)
    return lambda _: zx.zx_vmar_op_range(root, zx.ZX_VMAR_OP_COMMIT, address, 8 * PAGE, None, 0)


def transfer() -> Callable[[Out], int]:
    source, target = full(), things.vmo(8 * PAGE)
    return lambda _: zx.zx_vmo_transfer_data(target, 0, 0, 4 * PAGE, source, 0)


def overlapping_transfer() -> Callable[[Out], int]:
    vmo = full()
    return lambda _: zx.zx_vmo_transfer_data(vmo, 0, PAGE, 4 * PAGE, vmo, 0)


def map_() -> Callable[[Out], int]:
    root, vmo = zx.zx_vmar_root_self(), full()
    return lambda out: zx.zx_vmar_map(root, RW, 0, vmo, 0, 8 * PAGE, out)


def map_over() -> Callable[[Out], int]:
    root, address, vmo = mapped()
    offset = address - info(root, zx.ZX_INFO_VMAR).base + 2 * PAGE
    over = RW | zx.ZX_VM_SPECIFIC_OVERWRITE
    return lambda out: zx.zx_vmar_map(root, over, offset, vmo, 0, PAGE, out)


def unmap_cut() -> Callable[[Out], int]:
    root, address, _ = mapped()
    return lambda _: zx.zx_vmar_unmap(root, address + 2 * PAGE, PAGE)


def protect() -> Callable[[Out], int]:
    root, address, _ = mapped()
    return lambda _: zx.zx_vmar_protect(root, zx.ZX_VM_PERM_READ, address + 2 * PAGE, PAGE)


def pin() -> Callable[[Out], int]:
    bti, vmo, addrs = things.bti(), things.vmo(8 * PAGE), bytearray(64)
    return lambda out: zx.zx_bti_pin(bti, READ, vmo, 0, 8 * PAGE, addrs, 8, out)


CASES = [
    Case("zx_vmo_create", create(0)),
    Case("zx_vmo_create, resizable", create(zx.ZX_VMO_RESIZABLE)),
    Case("zx_vmo_create, discardable", create(zx.ZX_VMO_DISCARDABLE)),
    Case("zx_vmo_create, unbounded", create(zx.ZX_VMO_UNBOUNDED)),
    Case("zx_vmo_create_contiguous", contiguous),
    Case("zx_vmo_create_physical", physical),
    Case("zx_vmo_create_child, a copy", snapshot),
    Case("zx_vmo_write", write(PAGE)),
    Case("zx_vmo_write, long", write(128 * PAGE)),
    Case("zx_vmo_set_size, more", set_size(16 * PAGE)),
    Case("zx_vmo_set_size, less", set_size(PAGE)),
    Case("zx_vmo_op_range COMMIT", commit),
    Case("zx_vmar_op_range COMMIT", region_commit),
    Case("zx_vmo_transfer_data", transfer),
    Case("zx_vmo_transfer_data, overlapping", overlapping_transfer),
    Case("zx_vmar_map", map_),
    Case("zx_vmar_map, over a mapping", map_over),
    Case("zx_vmar_unmap, of a part", unmap_cut),
    Case("zx_vmar_protect, of a part", protect),
    Case("zx_bti_pin", pin, lambda out: zx.zx_pmt_unpin(out.value)),
]

MAY_LEAVE = {
    "zx_vmo_op_range COMMIT": "mapping left: ",
    "zx_vmar_op_range COMMIT": "mapping left: ",
    "zx_bti_pin": "mapping left: ",
    "zx_vmo_create_child, a copy": "mapping left: ",
    "zx_vmo_transfer_data": "mapping left: ",
    "zx_vmo_transfer_data, overlapping": "mapping left: ",
    "zx_vmar_unmap, of a part": "mapping gone: ",
}
"""A memory object keeps a mapping of its own for the next call, and it goes with the object. An
address space gives up the mapping that it has to spare when the host refuses one to unmap with."""

GETS_OVER = {
    ("zx_vmo_create_child, a copy", "mmap"),
    ("zx_vmo_transfer_data", "mmap"),
    ("zx_vmo_transfer_data, overlapping", "mmap"),
    ("zx_vmar_unmap, of a part", "mmap"),
}
"""Refusals after which a call tries something smaller. It is refused if that is refused as well."""


@contextmanager
def world() -> Iterator[pf.Kernel]:
    """A kernel and a current process. At the end there is nothing left of either."""
    gc.collect()
    before = HostState.now()
    kernel = pf.Kernel(seed=4)
    process = pf.Process(kernel, name="poor")
    with process:
        yield kernel
    process.exit()
    assert kernel.objects() == []
    gc.collect()
    assert before.difference(HostState.now()) == []


def host_calls(case: Case) -> list[str]:
    """What the call asks of the host when nothing is refused."""
    with world():
        act, plan, out = case.arrange(), HostCalls(), Out()
        with plan:
            assert name_of(act(out)) == "OK"
        case.undo(out)
    return plan.names


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whatever_the_host_refuses_is_no_memory(case: Case) -> None:
    """No output parameter is written, nothing is left, and the same call succeeds afterwards."""
    names = host_calls(case)
    assert names
    for number, name in enumerate(names, 1):
        for code in (errno.ENOMEM, errno.EMFILE) if name in _OPENS else (errno.ENOMEM,):
            where = f"{name}, call {number} of {names}: {errno.errorcode[code]}"
            if (case.name, name) not in GETS_OVER:
                refused_once(case, FailNth(number, code), where)
                continue
            with world() as kernel:
                act, out = case.arrange(), Out()
                with FailNth(number, code):
                    assert name_of(act(out)) == "OK", where
                check_books(kernel)
                case.undo(out)
            refused_once(case, FailFrom(number, code), where)


def refused_once(case: Case, plan: FailNth, where: str) -> None:
    """A call under a plan that it does not get over, and again without."""
    with world() as kernel:
        act, out = case.arrange(), Out()
        before, host = standing(kernel), HostState.now()
        with plan:
            found = name_of(act(out))
        assert found == "NO_MEMORY", where
        assert out.value is None, where
        assert standing(kernel) == before, where
        may = MAY_LEAVE.get(case.name, "descriptor left, in no case")
        left = host.difference(HostState.now())
        assert [line for line in left if not line.startswith(may)] == [], where
        check_books(kernel)
        assert name_of(act(out)) == "OK", where
        case.undo(out)
