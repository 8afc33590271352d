"""The cache policy: when it can be set, and what it refuses from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import AccessDenied, BadState, InvalidArgs, OutOfRange
from pinfold.objects.vmo import CachePolicy, VmoChild
from pinfold.units import UINT64_MAX
from tests.user_memory import load, store

from .pages import PAGE, RW, SNAPSHOTS, device_memory, numbered, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

C = VmoChild
R = pf.Right
READ = pf.Perm.READ
UNCACHED = CachePolicy.UNCACHED
OTHERS = tuple(policy for policy in CachePolicy if policy)

pytestmark = pytest.mark.usefixtures("process")


def test_the_policies_that_there_are() -> None:
    """Source: zx_vmo_set_cache_policy: by default what memory of the kind is used for."""
    with pf.Vmo(PAGE) as vmo, device_memory() as device:
        assert vmo.cache_policy is CachePolicy.CACHED
        assert device.cache_policy is UNCACHED
        for policy in (*OTHERS, CachePolicy.CACHED, CachePolicy.CACHED):
            vmo.set_cache_policy(policy)
            assert vmo.cache_policy is vmo.statistics().cache_policy is policy
        for wrong in (4, 7, 1 << 31, -1):
            with pytest.raises(InvalidArgs):
                vmo.set_cache_policy(wrong)
        with vmo.duplicate(vmo.rights & ~R.MAP) as less, pytest.raises(AccessDenied):
            less.set_cache_policy(0)


@pytest.mark.parametrize("policy", CachePolicy)
def test_memory_in_use_keeps_its_policy(
    bti: pf.Bti, process: pf.Process, policy: CachePolicy
) -> None:
    """Source: zx_vmo_set_cache_policy, BAD_STATE: even the same one; and it can be set again."""
    with numbered([1, 2]) as vmo:
        pmt = bti.pin(vmo, PAGE, PAGE, perms=READ)
        with pytest.raises(BadState):
            vmo.set_cache_policy(policy)
        pmt.close()
        with pytest.raises(BadState):
            vmo.set_cache_policy(policy)
        bti.release_quarantine()
        with process.root.map(vmo, RW), pytest.raises(BadState):
            vmo.set_cache_policy(policy)
        vmo.set_cache_policy(policy)


@pytest.mark.parametrize("kind", [C.SLICE, C.REFERENCE, *SNAPSHOTS])
def test_relatives_keep_their_policy(kind: C) -> None:
    """Source: zx_vmo_set_cache_policy, BAD_STATE: on both sides, until the other is gone."""
    vmo = numbered([1])
    with vmo.child(kind, 0, 0 if kind is C.REFERENCE else PAGE) as made:
        for each in (vmo, made):
            with pytest.raises(BadState):
                each.set_cache_policy(0)
    vmo.set_cache_policy(UNCACHED)
    vmo.set_cache_policy(0)
    with vmo.child(kind, 0, 0 if kind is C.REFERENCE else PAGE) as made:
        vmo.close()
        if kind in SNAPSHOTS:
            made.set_cache_policy(UNCACHED)
        else:
            with pytest.raises(BadState):
                made.set_cache_policy(0)


def test_a_sibling_s_pin_is_a_pin_of_the_pages(bti: pf.Bti) -> None:
    """Source: Zircon: pins belong to the pages."""
    with numbered([1]) as vmo:
        part = vmo.child(C.SLICE, 0, PAGE)
        pmt = bti.pin(part, perms=READ)
        part.close()
        with pytest.raises(BadState):
            vmo.set_cache_policy(0)
        pmt.unpin()
        vmo.set_cache_policy(0)


def test_device_memory_changes_its_policy_while_nobody_has_a_window(
    bti: pf.Bti, process: pf.Process
) -> None:
    """Source: zx_vmo_set_cache_policy in Zircon's kernel: the same is always fine; pins are not
    known to device memory."""
    with device_memory() as vmo:
        with bti.pin(vmo, perms=READ):
            vmo.set_cache_policy(CachePolicy.WRITE_COMBINING)
        with process.root.map(vmo, RW):
            vmo.set_cache_policy(CachePolicy.WRITE_COMBINING)
            with pytest.raises(BadState):
                vmo.set_cache_policy(UNCACHED)
        with vmo.child(C.SLICE, 0, PAGE) as part:
            assert part.cache_policy is CachePolicy.WRITE_COMBINING
            for each in (vmo, part):
                each.set_cache_policy(CachePolicy.WRITE_COMBINING)
                with pytest.raises(BadState):
                    each.set_cache_policy(UNCACHED)
        vmo.set_cache_policy(UNCACHED)


@pytest.mark.parametrize("policy", OTHERS)
@pytest.mark.parametrize(
    "act",
    [
        lambda vmo: vmo.read(),
        lambda vmo: vmo.read(0, 0),
        lambda vmo: vmo.read(8 * PAGE, 1),
        lambda vmo: vmo.write(b"x"),
        lambda vmo: vmo.write(b""),
        lambda vmo: vmo.zero(1, 3),
        lambda vmo: vmo.zero(1, 2 * PAGE),
        lambda vmo: vmo.child(C.SLICE, 0, PAGE),
        lambda vmo: vmo.child(C.REFERENCE),
        lambda vmo: vmo.child(C.SNAPSHOT, 0, PAGE),
    ],
)
def test_what_goes_through_the_cache_is_refused(
    policy: CachePolicy, act: Callable[[pf.Vmo], object]
) -> None:
    """Source: zx_vmo_read, zx_vmo_op_range ZERO, zx_vmo_create_child: BAD_STATE."""
    with numbered([1, 2, 3]) as vmo:
        vmo.set_cache_policy(policy)
        with pytest.raises(BadState):
            act(vmo)
        vmo.set_cache_policy(0)
        assert numbers(vmo) == [1, 2, 3]
        assert vmo.statistics().children == 0


def test_what_works_without_a_cache(bti: pf.Bti, process: pf.Process) -> None:
    """Source: zx_vmo_op_range: whole pages are given back, and what is zero stays so."""
    with numbered([1, 0, 3, 4], resizable=True) as vmo:
        vmo.set_cache_policy(UNCACHED)
        vmo.commit(PAGE, PAGE)
        vmo.decommit(0, PAGE)
        vmo.zero(2 * PAGE, PAGE)
        vmo.zero(PAGE + 1, 5)
        vmo.prefetch()
        vmo.clean_cache(0, PAGE)
        with pytest.raises(OutOfRange):
            vmo.read(UINT64_MAX, 1)
        with process.root.map(vmo, RW) as mapping:
            assert load(mapping.address + 3 * PAGE) == b"\4"
            assert store(mapping.address, b"x")
        with bti.pin(vmo, perms=READ) as pmt:
            assert bti.master().read(int(pmt.addrs[0]), 1) == b"x"
        vmo.resize(2 * PAGE)
        vmo.set_cache_policy(0)
        assert vmo.read(0, 1) == b"x"


def test_pinned_memory_without_a_cache_is_not_zeroed(bti: pf.Bti) -> None:
    """Source: zx_vmo_op_range, ZERO in Zircon's kernel: what cannot be given back is written."""
    with numbered([1, 2, 3]) as vmo:
        vmo.set_cache_policy(UNCACHED)
        with bti.pin(vmo, PAGE, PAGE, perms=READ):
            with pytest.raises(BadState):
                vmo.zero()
            vmo.zero(0, PAGE)
            with pytest.raises(BadState):
                vmo.zero(PAGE, PAGE)
        vmo.set_cache_policy(0)
        assert numbers(vmo) == [0, 2, 3]


def test_contiguous_memory_without_a_cache(bti: pf.Bti) -> None:
    """Source: Zircon's kernel: it has slices all the same; it keeps its pages, so is not zeroed."""
    with pf.Vmo.contiguous(bti, 2 * PAGE) as vmo:
        vmo.set_cache_policy(UNCACHED)
        with vmo.child(C.SLICE, PAGE, PAGE) as part:
            assert part.cache_policy is UNCACHED
            with pytest.raises(BadState):
                part.read()
        with pytest.raises(BadState):
            vmo.zero()
        with pytest.raises(BadState):
            vmo.read()
        vmo.set_cache_policy(0)
        assert numbers(vmo) == [0, 0]
