"""Refusals of the host's own, for more memory than any machine has; and when they are found out.

Source: NO_MEMORY of each call's page; Zircon's dispatcher for the order.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import number_of
from pinfold.testing import FailNth, HostCalls, HostState

from . import things
from .pins import quarantined
from .refused import name_of, standing
from .things import PAGE, info, ok

if TYPE_CHECKING:
    from collections.abc import Callable

HUGE = 1 << 46
"""Bytes: fewer than an object can have, and more than any host has."""

READ = zx.ZX_BTI_PERM_READ


@pytest.fixture
def huge(process: pf.Process) -> int:
    """A memory object of more than the host has, with nothing in it."""
    del process
    return things.vmo(HUGE)


def refused(kernel: pf.Kernel, call: Callable[..., int], *args: Any) -> str:
    """The status of a call after which nothing is more or less than it was."""
    before, host = standing(kernel), HostState.now()
    found = name_of(call(*args))
    assert standing(kernel) == before
    assert host.difference(HostState.now()) == []
    return found


def test_more_than_the_host_has_is_not_committed(kernel: pf.Kernel, huge: int) -> None:
    """And a page of it is. Source: zx_vmo_op_range, COMMIT, NO_MEMORY."""
    commit = zx.ZX_VMO_OP_COMMIT
    args = (huge, commit, 0, HUGE, None, 0)
    assert refused(kernel, zx.zx_vmo_op_range, *args) == "NO_MEMORY"
    assert info(huge, zx.ZX_INFO_VMO).committed_bytes == 0
    assert zx.zx_vmo_op_range(huge, commit, HUGE - PAGE, PAGE, None, 0) == zx.ZX_OK


def test_more_than_the_host_has_is_not_contiguous(kernel: pf.Kernel, process: pf.Process) -> None:
    """Source: zx_vmo_create_contiguous, NO_MEMORY."""
    del process
    bti, out = things.bti(), Out()
    for size in (HUGE >> 1, HUGE << 4):
        found = refused(kernel, zx.zx_vmo_create_contiguous, bti, size, 0, out)
        assert (found, out.value) == ("NO_MEMORY", None)
    assert zx.zx_vmo_create_contiguous(bti, PAGE, 0, out) == zx.ZX_OK


COMPRESS = zx.ZX_BTI_COMPRESS

PINS: list[tuple[str, Callable[[], int], int, str]] = [
    ("nothing else is wrong", things.bti, READ | COMPRESS, "OK"),
    ("a token in quarantine", quarantined, READ | COMPRESS, "BAD_STATE"),
    ("no permission", things.bti, COMPRESS, "INVALID_ARGS"),
    ("both", quarantined, COMPRESS, "BAD_STATE"),
]
"""What is wrong, whose pin, the options, and what a pin of one page gets for it."""


@pytest.mark.parametrize(
    ("bti", "options", "small"), [row[1:] for row in PINS], ids=[row[0] for row in PINS]
)
def test_a_pin_finds_out_first_that_there_is_no_memory(
    kernel: pf.Kernel, huge: int, bti: Callable[[], int], options: int, small: str
) -> None:
    """Before it looks at the quarantine, and that before it asks what is permitted.

    Source: Zircon's dispatcher: the pages are committed and pinned before either is looked at.
    """
    number, out, addrs = bti(), Out(), bytearray(8)
    found = refused(kernel, zx.zx_bti_pin, number, options, huge, 0, HUGE, addrs, 1, out)
    assert found == "NO_MEMORY"
    assert repr(out) == "Out(None)"
    assert addrs == bytearray(8)
    found = name_of(zx.zx_bti_pin(number, options, huge, 0, PAGE, addrs, 1, out))
    assert found == small
    if out.value is not None:
        assert zx.zx_pmt_unpin(out.value) == zx.ZX_OK
    assert zx.zx_bti_release_quarantine(number) == zx.ZX_OK


@pytest.mark.parametrize(
    ("bti", "options", "small"), [row[1:] for row in PINS], ids=[row[0] for row in PINS]
)
def test_a_commit_that_the_host_refuses_is_found_out_first_as_well(
    kernel: pf.Kernel, process: pf.Process, bti: Callable[[], int], options: int, small: str
) -> None:
    """The same of a page that the host has not got just now."""
    del process
    number, vmo, out, addrs = bti(), things.vmo(PAGE), Out(), bytearray(8)
    before = standing(kernel)
    with FailNth(1) as plan:
        found = name_of(zx.zx_bti_pin(number, options, vmo, 0, PAGE, addrs, 1, out))
    assert plan.refused
    assert found == "NO_MEMORY"
    assert repr(out) == "Out(None)"
    assert standing(kernel) == before
    found = name_of(zx.zx_bti_pin(number, options, vmo, 0, PAGE, addrs, 1, out))
    assert found == small
    if out.value is not None:
        assert zx.zx_pmt_unpin(out.value) == zx.ZX_OK
    assert zx.zx_bti_release_quarantine(number) == zx.ZX_OK


def test_the_limit_of_pinned_memory_is_found_out_first_as_well() -> None:
    """Kernel(max_pinned=...) is memory that there is not. Source: as above."""
    kernel = pf.Kernel(max_pinned=2 * PAGE)
    process = pf.Process(kernel)
    with process:
        number, out, addrs = quarantined(), Out(), bytearray(16)
        vmo = things.vmo(2 * PAGE)
        args = (number, 0, vmo, 0, 2 * PAGE, addrs, 2, out)
        assert refused(kernel, zx.zx_bti_pin, *args) == "NO_MEMORY"
        assert repr(out) == "Out(None)"
        assert zx.zx_bti_release_quarantine(number) == zx.ZX_OK
        assert name_of(zx.zx_bti_pin(*args)) == "INVALID_ARGS"
        assert zx.zx_bti_pin(number, READ, *args[2:]) == zx.ZX_OK
        assert zx.zx_pmt_unpin(out.value) == zx.ZX_OK
    process.exit()


def test_a_device_whose_address_space_is_full_is_out_of_memory(
    kernel: pf.Kernel, process: pf.Process
) -> None:
    """Source: zx_bti_pin, NO_MEMORY: no device addresses are left."""
    del process
    bus = pf.open_bus("sim", aperture=(PAGE, 5 * PAGE))
    iommu = number_of(bus)
    bti, vmo, out = ok(zx.zx_bti_create, iommu, 0, 1), things.vmo(8 * PAGE), Out()
    assert zx.zx_vmo_op_range(vmo, zx.ZX_VMO_OP_COMMIT, 0, 8 * PAGE, None, 0) == zx.ZX_OK
    args = (bti, READ, vmo, 0, 8 * PAGE, bytearray(64), 8, out)
    assert refused(kernel, zx.zx_bti_pin, *args) == "NO_MEMORY"
    assert repr(out) == "Out(None)"
    assert zx.zx_bti_pin(bti, READ, vmo, 0, PAGE, bytearray(8), 1, out) == zx.ZX_OK
    assert zx.zx_pmt_unpin(out.value) == zx.ZX_OK


@pytest.mark.parametrize(
    ("kind", "descriptor"),
    [
        (zx.ZX_IOMMU_TYPE_STUB, b"\0"),
        (zx.ZX_IOMMU_TYPE_INTEL, (0xFED9_0000).to_bytes(8, "little") + b"\0\0\1" + bytes(5)),
    ],
    ids=["stub", "intel"],
)
def test_an_iommu_asks_nothing_of_the_host_that_could_be_refused(
    kernel: pf.Kernel, process: pf.Process, kind: int, descriptor: bytes
) -> None:
    """Or is refused for want of it. That its module is imported is tested in tests/regress."""
    del process
    root, out = zx.root_resource(), Out()
    args = (root, kind, descriptor, len(descriptor))
    with HostCalls() as plan:
        made = ok(zx.zx_iommu_create, *args)
    assert zx.zx_handle_close(made) == zx.ZX_OK
    for number in range(1, len(plan.names) + 1):
        with FailNth(number, errno.EMFILE):
            found = refused(kernel, zx.zx_iommu_create, *args, out)
        assert (found, out.value) == ("NO_MEMORY", None)
    assert zx.zx_iommu_create(*args, out) == zx.ZX_OK
