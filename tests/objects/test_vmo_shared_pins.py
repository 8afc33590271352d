"""Pins belong to pages: what is pinned through a slice or a reference is pinned for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import BadState, Unavailable
from pinfold.memory.counts import MAX_PINS
from pinfold.objects.vmo import VmoChild
from pinfold.testing import check_books

from .pages import PAGE, numbered, numbers, page

if TYPE_CHECKING:
    from collections.abc import Iterator

C = VmoChild
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE


@pytest.fixture
def stub(process: pf.Process) -> Iterator[pf.Bti]:
    """A device that sees simulated physical addresses."""
    del process
    with pf.open_bus("stub") as bus, bus.initiator(1) as made:
        yield made


def test_a_page_has_one_address_by_whatever_name(stub: pf.Bti) -> None:
    """Source: zx_bti_pin with the stub IOMMU: same page, same address."""
    with (
        numbered([1, 2, 3, 4]) as vmo,
        vmo.child(C.SLICE, PAGE, 3 * PAGE) as part,
        part.child(C.SLICE, PAGE, PAGE) as inner,
        vmo.child(C.REFERENCE) as other,
        stub.pin(inner, perms=READ) as by_inner,
        stub.pin(part, perms=READ) as by_part,
        stub.pin(vmo, perms=READ) as by_parent,
        stub.pin(other, perms=READ) as by_reference,
    ):
        whole = by_parent.addrs
        assert by_inner.addrs.tolist() == whole[2:3].tolist()
        assert by_part.addrs.tolist() == whole[1:4].tolist()
        assert np.array_equal(by_reference.addrs, whole)
        assert len(set(whole.tolist())) == 4
        assert [stub.master().read(int(at), 1) for at in whole] == [b"\1", b"\2", b"\3", b"\4"]


def test_pin_counts_add_up(stub: pf.Bti, kernel: pf.Kernel) -> None:
    """Each object says how often its page is pinned, and how many pins are through itself."""
    with (
        numbered([1, 2, 3]) as vmo,
        vmo.child(C.SLICE, PAGE, 2 * PAGE) as part,
        vmo.child(C.REFERENCE) as other,
        stub.pin(part, 0, PAGE, perms=READ),
        stub.pin(vmo, 0, 2 * PAGE, perms=READ),
        stub.pin(other, perms=READ),
    ):
        assert [vmo.pin_count(at * PAGE) for at in range(3)] == [2, 3, 1]
        assert [other.pin_count(at * PAGE) for at in range(3)] == [2, 3, 1]
        assert [part.pin_count(at * PAGE) for at in range(2)] == [3, 1]
        assert [each.statistics().pins for each in (vmo, part, other)] == [1, 1, 1]
        assert [each.statistics().pinned for each in (vmo, part, other)] == [3 * PAGE] * 3
        assert kernel.statistics().ledger.pinned_bytes == 3 * PAGE
        check_books(kernel)


def test_the_pins_of_a_page_are_limited_over_all_its_names(stub: pf.Bti) -> None:
    """Source: zx_bti_pin, UNAVAILABLE: 31 pins a page, whoever made them."""
    with (
        numbered([1, 2]) as vmo,
        vmo.child(C.SLICE, PAGE, PAGE) as part,
        vmo.child(C.REFERENCE) as other,
    ):
        pins = [
            stub.pin(*((part, 0) if n % 3 == 0 else ((vmo, other)[n % 2], PAGE)), PAGE, perms=READ)
            for n in range(MAX_PINS)
        ]
        for each, offset in ((vmo, PAGE), (part, 0), (other, PAGE)):
            with pytest.raises(Unavailable):
                stub.pin(each, offset, PAGE, perms=READ)
        with pytest.raises(Unavailable):
            stub.pin(vmo, perms=READ)
        assert vmo.pin_count(0) == 0, "the page before the full one was let go"
        pins.pop().unpin()
        stub.pin(part, perms=READ).unpin()
        for pmt in pins:
            pmt.unpin()
        assert vmo.pin_count(PAGE) == 0


@pytest.mark.parametrize("way", ["slice", "reference"])
def test_what_a_pin_forbids_it_forbids_by_every_name(stub: pf.Bti, way: str) -> None:
    """Source: zx_vmo_op_range, DECOMMIT; zx_vmo_set_cache_policy; zx_vmo_create_child."""
    with (
        numbered([1, 2, 3]) as vmo,
        vmo.child(C.SLICE, PAGE, PAGE) as part,
        vmo.child(C.REFERENCE) as other,
    ):
        pinned, offset = (part, 0) if way == "slice" else (other, PAGE)
        pmt = stub.pin(pinned, offset, PAGE, perms=READ | WRITE)
        for each, at in ((vmo, PAGE), (other, PAGE), (part, 0)):
            with pytest.raises(BadState):
                each.decommit(at, PAGE)
        vmo.decommit(0, PAGE)
        other.decommit(2 * PAGE, PAGE)
        assert numbers(vmo) == [0, 2, 0]
        with pytest.raises(BadState):
            vmo.child(C.SNAPSHOT, 0, PAGE)
        vmo.zero()
        assert numbers(part) == [0], "cleared in place"
        assert part.committed_ranges() == [(0, PAGE)]
        stub.master().write(int(pmt.addrs[0]), page(9))
        assert numbers(vmo) == [0, 9, 0]
        vmo.child(C.SLICE, 0, PAGE).close()
        vmo.child(C.REFERENCE).close()
        pmt.unpin()
        vmo.decommit()
        assert vmo.statistics().committed == 0


@pytest.mark.parametrize("through", ["parent", "reference"])
def test_no_pinned_page_is_cut_off_by_any_name(stub: pf.Bti, through: str) -> None:
    """Source: zx_vmo_set_size, BAD_STATE; growing, and cutting off others, is fine."""
    with (
        numbered([1, 2, 3, 4], resizable=True) as vmo,
        vmo.child(C.REFERENCE | C.RESIZABLE) as other,
    ):
        pmt = stub.pin(other if through == "parent" else vmo, PAGE, PAGE, perms=READ)
        cutting = vmo if through == "parent" else other
        cutting.resize(2 * PAGE)
        cutting.resize(5 * PAGE)
        before = (cutting.size, cutting.stream_size, numbers(cutting))
        for size in (0, 1, PAGE):
            with pytest.raises(BadState):
                cutting.resize(size)
            assert (cutting.size, cutting.stream_size, numbers(cutting)) == before
        cutting.resize(PAGE + 1)
        assert vmo.read(PAGE, 2) == b"\2\0", "the tail of a pinned page is zeroed in place"
        pmt.unpin()
        cutting.resize(0)


def test_a_pin_through_a_slice_outlives_every_handle(stub: pf.Bti, kernel: pf.Kernel) -> None:
    """Source: zx_bti_pin: the token keeps the memory."""
    vmo = numbered([1, 2, 3])
    part = vmo.child(C.SLICE, PAGE, PAGE)
    pmt = stub.pin(part, perms=READ | WRITE)
    part.close()
    vmo.close()
    stub.master().write(int(pmt.addrs[0]), page(5))
    assert stub.master().read(int(pmt.addrs[0]), 1) == b"\5"
    check_books(kernel)
    before = kernel.statistics().objects
    pmt.unpin()
    assert kernel.statistics().objects == before - 2, "the token, and what it kept"


def test_a_token_says_where_in_its_own_object_the_pin_is(stub: pf.Bti) -> None:
    """Not where in the pages that it shares."""
    with (
        numbered([1, 2, 3, 4]) as vmo,
        vmo.child(C.SLICE, PAGE, 3 * PAGE) as part,
        stub.pin(part, PAGE, PAGE, perms=READ) as pmt,
    ):
        assert pmt.statistics().offset == PAGE
        assert pmt.object.vmo is part.object


def test_the_limit_on_pinned_memory_counts_a_page_once() -> None:
    """Whatever names it is pinned by."""
    kernel = pf.Kernel(max_pinned=2 * PAGE)
    process = pf.Process(kernel)
    with (
        process,
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
        numbered([1, 2, 3]) as vmo,
        vmo.child(C.SLICE, 0, 2 * PAGE) as part,
        bti.pin(part, perms=READ),
        bti.pin(vmo, 0, 2 * PAGE, perms=READ),
    ):
        with pytest.raises(pf.errors.LimitReached):
            bti.pin(vmo, 2 * PAGE, PAGE, perms=READ)
        check_books(kernel)
    process.exit()
