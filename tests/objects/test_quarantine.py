"""Tokens that went away without unpin: shut out, still pinned, until they are released."""

from __future__ import annotations

import logging

import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    BadState,
    DmaFault,
    InvalidArgs,
)

PAGE = pf.PAGE_SIZE
R = pf.Right
READ, WRITE, EXECUTE = pf.Perm.READ, pf.Perm.WRITE, pf.Perm.EXECUTE


def test_a_dropped_token_is_revoked_and_stays_pinned(
    bti: pf.Bti, vmo: pf.Vmo, caplog: pytest.LogCaptureFixture
) -> None:
    """Source: Zircon, a PMT whose last handle goes away without unpin is quarantined."""
    pmt = bti.pin(vmo, perms=READ | WRITE)
    at = int(pmt.addrs[0])
    caplog.set_level(logging.WARNING, "pinfold")
    with pytest.warns(ResourceWarning, match=__file__):
        del pmt  # the last reference
    assert "quarantine" in caplog.text
    assert vmo.pin_count() == 1
    with pytest.raises(DmaFault):
        bti.master().read(at, 1)
    assert (bti.statistics().pins, bti.statistics().quarantined) == (1, 1)
    with pytest.raises(BadState) as caught:
        bti.pin(vmo, perms=READ)
    assert "release_quarantine" in str(caught.value)
    with pytest.raises(BadState):
        vmo.decommit()
    assert bti.release_quarantine() == 1
    assert bti.release_quarantine() == 0
    vmo.decommit()


def test_closing_a_token_quarantines_it_and_others_go_on(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: Zircon, existing PMTs keep working and can be unpinned."""
    keeps, goes = bti.pin(vmo, perms=READ), bti.pin(vmo, perms=READ)
    goes.close()
    assert bti.master().read(int(keeps.addrs[0]), 1) == b"\0"
    keeps.unpin()
    assert bti.statistics().pins == 1
    bti.release_quarantine()


def test_a_token_cannot_be_duplicated_and_a_bad_replace_quarantines(
    bti: pf.Bti, vmo: pf.Vmo
) -> None:
    """Source: zircon conformance: duplicate of a PMT, replace of a PMT with READ."""
    pmt = bti.pin(vmo, perms=READ)
    with pytest.raises(AccessDenied):
        pmt.duplicate()
    moved = pmt.replace()
    assert pmt.closed
    with pytest.raises(InvalidArgs):
        moved.replace(R.READ)
    assert moved.closed
    assert (bti.statistics().pins, bti.statistics().quarantined) == (1, 1)
    bti.release_quarantine()


def test_release_needs_write(bti: pf.Bti) -> None:
    """Source: zx_bti_release_quarantine, ZX_RIGHT_WRITE."""
    with bti.duplicate(R.READ | R.MAP) as less, pytest.raises(AccessDenied) as caught:
        less.release_quarantine()
    assert caught.value.missing == R.WRITE


def test_a_closed_bti_lets_live_tokens_unpin(sim: pf.Iommu, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """Source: Zircon, with live PMTs the object survives inside the PMTs."""
    bti = sim.initiator(5)
    pmt = bti.pin(vmo, perms=READ)
    bti.close()
    pmt.unpin()
    assert vmo.pin_count() == 0
    assert kernel.leaks == []


def test_a_bti_closed_with_quarantined_pins_leaks_them_on_record(
    sim: pf.Iommu, process: pf.Process, kernel: pf.Kernel
) -> None:
    """Source: Zircon, the pinned pages, VMOs, PMTs and the BTI are leaked for ever."""
    bti = sim.initiator(5)
    vmo = pf.Vmo(PAGE, name="lost")
    bti.pin(vmo, perms=READ).close()
    assert kernel.leaks == []
    bti.close()
    assert [leak.size for leak in kernel.leaks] == [PAGE]
    assert "lost" in kernel.leaks[0].what
    assert __file__ in kernel.leaks[0].pinned_at
    assert vmo.pin_count() == 1
    vmo.close()


def test_process_exit_quarantines_live_tokens(
    sim: pf.Iommu, vmo: pf.Vmo, kernel: pf.Kernel
) -> None:
    """Source: Zircon, another process that holds the BTI sees the quarantine and can release."""
    bti = sim.initiator(5)
    with pf.Process(kernel, name="driver") as driver:
        mine = pf.Bti.wrap(driver.add(bti.object, int(bti.rights)))
        pmt = mine.pin(vmo, perms=READ)
    driver.exit()
    assert pmt.closed
    assert mine.closed
    assert (bti.statistics().pins, bti.statistics().quarantined) == (1, 1)
    assert bti.release_quarantine() == 1
    bti.close()
