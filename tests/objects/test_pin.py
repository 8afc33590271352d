"""Bti.pin and Pmt.unpin: the two orders, what comes back, what a failure leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.bus import DeviceSpace, Grant, PinnedRange
from pinfold.errors import (
    BadState,
    LimitReached,
    Unavailable,
)
from pinfold.memory.counts import MAX_PINS
from pinfold.testing import check_books
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
READ, WRITE, EXECUTE = pf.Perm.READ, pf.Perm.WRITE, pf.Perm.EXECUTE


def watch(
    bti: pf.Bti, *, refuse: BaseException | None = None, at: str = ""
) -> list[tuple[str, Any]]:
    """Note, at each grant and revoke of a device, what the host's books say at that moment."""
    space: Any = bti.object.space
    seen: list[tuple[str, Any]] = []
    grant: Callable[[PinnedRange, int], Grant] = space.grant
    revoke: Callable[[Grant], None] = space.revoke

    def watched_grant(pinned: PinnedRange, perms: int) -> Grant:
        seen.append(("grant", pinned.pages.pin_count(pinned.offset // PAGE)))
        if refuse is not None and at == "grant":
            raise refuse
        return grant(pinned, perms)

    def watched_revoke(given: Grant) -> None:
        pinned = given.pinned
        seen.append(("revoke", pinned.pages.pin_count(pinned.offset // PAGE)))
        if refuse is not None and at == "revoke":
            raise refuse
        revoke(given)

    space.grant, space.revoke = watched_grant, watched_revoke
    return seen


def unwatch(bti: pf.Bti) -> None:
    space: Any = bti.object.space
    del space.grant, space.revoke


# Order ------------------------------------------------------------------------------------------


def test_the_host_pins_before_the_bus_grants(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: DESIGN principle, a pin is a transaction. Swap the two in `pin` and this fails."""
    seen = watch(bti)
    for committed_before in (False, True):
        with bti.pin(vmo, perms=READ):
            assert seen.pop() == ("grant", 1), f"committed before: {committed_before}"
        seen.clear()


def test_the_bus_revokes_before_the_host_unpins(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_pmt_unpin. While a device can reach a page, its pin count is not 0."""
    pmt = bti.pin(vmo, perms=WRITE)
    seen = watch(bti)
    pmt.unpin()
    assert seen == [("revoke", 1)]
    assert vmo.pin_count() == 0


def test_a_locked_pin_is_locked_before_the_grant_and_until_after_the_revoke(
    process: pf.Process,
) -> None:
    """The anchor holds the pages whenever the device can reach them."""
    from pinfold.host import probe

    with (
        pf.open_bus("sim", anchor=pf.Anchor.MLOCK) as iommu,
        iommu.initiator(1) as bti,
        pf.Vmo(2 * PAGE) as vmo,
    ):
        start = probe.process_memory().locked
        space: Any = bti.object.space
        locked: list[int] = []
        grant, revoke = space.grant, space.revoke

        def noting_grant(pinned: PinnedRange, perms: int) -> Any:
            locked.append(probe.process_memory().locked)
            return grant(pinned, perms)

        def noting_revoke(given: Grant) -> None:
            locked.append(probe.process_memory().locked)
            revoke(given)

        space.grant, space.revoke = noting_grant, noting_revoke
        pmt = bti.pin(vmo, perms=WRITE)
        assert pmt.statistics().anchor is pf.Anchor.MLOCK
        pmt.unpin()
        assert locked == [start + 2 * PAGE, start + 2 * PAGE]
        assert probe.process_memory().locked == start


def test_a_refused_grant_leaves_nothing(bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_bti_pin, a failure pins nothing."""
    watch(bti, refuse=LimitReached("the bus is full"), at="grant")
    for _ in range(2):  # with the pages absent, then with them committed
        with pytest.raises(LimitReached):
            bti.pin(vmo, perms=READ)
        assert vmo.pin_count() == 0
        assert kernel.statistics().ledger.pins == 0
        vmo.commit()
    unwatch(bti)
    bti.pin(vmo, perms=READ).unpin()


def test_a_failed_revoke_keeps_the_pages_held(bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """ADR 1. The device may still reach them, so they are not let go; a release tries again."""
    pmt = bti.pin(vmo, perms=WRITE)
    watch(bti, refuse=RuntimeError("the IOMMU does not answer"), at="revoke")
    with pytest.raises(RuntimeError):
        pmt.unpin()
    assert pmt.closed
    assert vmo.pin_count() == 1
    assert bti.statistics().quarantined == 1
    with pytest.raises(BadState):
        bti.pin(vmo, perms=READ)
    with pytest.raises(RuntimeError):
        bti.release_quarantine()
    assert vmo.pin_count() == 1
    unwatch(bti)
    assert bti.release_quarantine() == 1
    assert vmo.pin_count() == 0
    assert kernel.statistics().ledger.pins == 0


def test_an_interrupted_grant_holds_the_pages_for_good(
    bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel
) -> None:
    """A Ctrl-C may come after the bus has granted: nobody can tell, so nothing is let go."""
    watch(bti, refuse=KeyboardInterrupt(), at="grant")
    with pytest.raises(KeyboardInterrupt):
        bti.pin(vmo, perms=READ)
    unwatch(bti)
    assert vmo.pin_count() == 1
    assert len(kernel.leaks) == 1
    assert kernel.leaks[0].size == vmo.size


# Results ----------------------------------------------------------------------------------------


def test_pinning_commits_absent_pages(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin, non-committed pages will have been committed."""
    assert vmo.committed_ranges() == []
    with bti.pin(vmo, PAGE, 2 * PAGE, perms=READ):
        assert vmo.committed_ranges() == [(PAGE, 3 * PAGE)]


@pytest.mark.parametrize("pages", [1, 3, 300])
@pytest.mark.parametrize("form", list(pf.AddrForm))
def test_the_number_of_addresses(process: pf.Process, form: pf.AddrForm, pages: int) -> None:
    """Source: zx_bti_pin, the three counts."""
    contiguity = 256 * PAGE
    expected = {
        pf.AddrForm.PER_PAGE: pages,
        pf.AddrForm.COMPRESS: -(-pages // 256),
        pf.AddrForm.CONTIGUOUS: 1,
    }
    with (
        pf.open_bus("sim", minimum_contiguity=contiguity) as iommu,
        iommu.initiator(1) as bti,
        pf.Vmo.contiguous(bti, pages * PAGE) as vmo,
        bti.pin(vmo, perms=READ, form=form) as pmt,
    ):
        assert pmt.addrs.dtype == np.uint64
        assert len(pmt.addrs) == expected[form]
        assert not pmt.addrs.flags.writeable
        assert pmt.addrs is pmt.addrs
        if form is not pf.AddrForm.PER_PAGE:
            assert not (pmt.addrs % contiguity).any()


def test_the_memory_outlives_its_handles_while_pinned(bti: pf.Bti, process: pf.Process) -> None:
    """Source: zx_bti_pin, the PMT retains a reference to the VMO."""
    vmo = pf.Vmo(PAGE)
    vmo.write(b"still here")
    pmt = bti.pin(vmo, perms=READ)
    vmo.close()
    assert bti.master().read(int(pmt.addrs[0]), 10) == b"still here"
    pmt.unpin()


def test_pins_nest_and_overlap(bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: zx_bti_pin, repeated pins are independent; each needs its own unpin."""
    first = bti.pin(vmo, 0, 3 * PAGE, perms=READ)
    second = bti.pin(vmo, PAGE, 3 * PAGE, perms=WRITE)
    assert [vmo.pin_count(page * PAGE) for page in range(4)] == [1, 2, 2, 1]
    assert kernel.statistics().ledger.pinned_bytes == 4 * PAGE
    assert kernel.statistics().ledger.requested_bytes == 6 * PAGE
    first.unpin()
    assert [vmo.pin_count(page * PAGE) for page in range(4)] == [0, 1, 1, 1]
    second.unpin()
    assert kernel.statistics().ledger.peak_bytes == 4 * PAGE


def test_the_32nd_pin_of_a_page_is_refused_whole(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin UNAVAILABLE. The earlier pages of the call are not pinned either."""
    held = [bti.pin(vmo, 2 * PAGE, PAGE, perms=READ) for _ in range(MAX_PINS)]
    with pytest.raises(Unavailable) as caught:
        bti.pin(vmo, perms=READ)
    assert caught.value.limit == MAX_PINS
    assert vmo.pin_count(0) == 0
    for pmt in held:
        pmt.unpin()


def test_the_32nd_pin_of_one_page_alone_is_refused(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zircon conformance, the 32nd pin of one page. A pin of one page has its own path."""
    held = [bti.pin(vmo, 0, PAGE, perms=READ) for _ in range(MAX_PINS)]
    with pytest.raises(Unavailable):
        bti.pin(vmo, 0, PAGE, perms=READ)
    assert vmo.pin_count() == MAX_PINS
    for pmt in held:
        pmt.unpin()


def test_the_pin_limit_counts_memory_not_pins(process: pf.Process) -> None:
    """A page that two devices share is held once."""
    kernel = pf.Kernel(max_pinned=2 * PAGE)
    with (
        pf.Process(kernel) as inner,
        pf.open_bus("sim") as iommu,
        iommu.initiator(1, name="nic") as bti,
        pf.Vmo(4 * PAGE) as vmo,
    ):
        one, two = bti.pin(vmo, 0, 2 * PAGE, perms=READ), bti.pin(vmo, 0, 2 * PAGE, perms=WRITE)
        with pytest.raises(LimitReached) as caught:
            bti.pin(vmo, 2 * PAGE, PAGE, perms=READ)
        error = caught.value
        assert (error.asked, error.available, error.limit) == (PAGE, 0, 2 * PAGE)
        assert "nic" in str(error.holder)
        assert error.remedy is not None
        assert vmo.pin_count(2 * PAGE) == 0
        one.unpin()
        two.unpin()
    inner.exit()


@pytest.mark.parametrize("anchor", ["NONE", "MLOCK"])
def test_a_page_of_huge_memory_is_pinned_in_little_address_space(anchor: str) -> None:
    """A window of the whole object is a convenience; where RLIMIT_AS forbids it, one page will do.

    And other pages afterwards, with the first still pinned.
    """
    found = run(
        """
        vmo = pf.Vmo(1 << 39)
        limit = probe.process_memory().size + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        bus = pf.open_bus("sim", anchor=pf.Anchor[sys.argv[1]])
        bti = bus.initiator(1)
        places = 0, 1 << 38, vmo.size - PAGE_SIZE
        pins = {at: bti.pin(vmo, at, PAGE_SIZE, perms=3) for at in places}
        for number, pmt in enumerate(pins.values()):
            bti.master().write(int(pmt.addrs[0]), b"%d" % number)
        print(json.dumps([vmo.read(at, 1).decode() for at in pins]))
        for pmt in pins.values():
            pmt.unpin()
        for thing in (bti, bus, vmo):
            thing.close()
        """,
        anchor,
    )
    assert found == ["0", "1", "2"]


# What pinned pages forbid -----------------------------------------------------------------------


def test_pinned_pages_cannot_be_given_back(bti: pf.Bti, process: pf.Process) -> None:
    """Source: zx_bti_pin and zx_vmo_set_size; Linux itself would not stop any of these."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        vmo.write(b"x" * vmo.size)
        with bti.pin(vmo, PAGE, PAGE, perms=READ):
            with pytest.raises(BadState) as caught:
                vmo.decommit(0, 2 * PAGE)
            assert caught.value.holder is not None
            with pytest.raises(BadState):
                vmo.resize(PAGE)
            assert vmo.read() == b"x" * vmo.size  # nothing changed
            vmo.decommit(2 * PAGE, PAGE)
            vmo.resize(2 * PAGE)
            vmo.resize(8 * PAGE)
        vmo.resize(0)


def test_zeroing_clears_pinned_pages_in_place(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_vmo_op_range ZERO, pinned pages are cleared in place and stay committed."""
    vmo.write(b"x" * vmo.size)
    with bti.pin(vmo, PAGE, PAGE, perms=READ) as pmt:
        at = int(pmt.addrs[0])
        vmo.zero()
        assert vmo.read() == bytes(vmo.size)
        assert vmo.committed_ranges() == [(PAGE, 2 * PAGE)]
        vmo.write(b"new", PAGE)
        assert bti.master().read(at, 3) == b"new"


def test_books_are_recounted(bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """The recount that the state machine relies on notices a count that went wrong."""
    pmt = bti.pin(vmo, perms=READ)
    check_books(kernel)
    vmo.object.pages.pin(0, 1)
    with pytest.raises(AssertionError, match="count 2, 1 live pins"):
        check_books(kernel)
    vmo.object.pages.unpin(0, 1)
    pmt.unpin()


def test_the_space_is_a_device_space(bti: pf.Bti) -> None:
    """What the bus gives is what the contract says."""
    space: DeviceSpace = bti.object.space
    assert (space.initiator, space.address_bits) == (0x10, 64)
