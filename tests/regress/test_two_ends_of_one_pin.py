"""An unpin that failed wrote in the books once more, after it had given the pin up.

Somebody else may be releasing it by then: that mark was taken off, and two ended one pin.
"""

from __future__ import annotations

from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import HostError
from pinfold.objects.initiator import BtiObject

pytestmark = pytest.mark.usefixtures("process")


def test_a_failed_unpin_leaves_the_mark_of_who_releases_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A release begins between the two steps of the failure, as on another thread."""
    with (
        pf.open_bus("io_uring") as bus,
        bus.initiator(1) as bti,
        pf.Vmo(pf.PAGE_SIZE) as vmo,
    ):
        pmt = bti.pin(vmo, perms=pf.Perm.READ)
        device, token = bti.object, pmt.object
        space: Any = device.space
        revoke, stick = space.revoke, BtiObject._stick  # noqa: SLF001 - where the lock is let go
        release = object()

        def refused(grant: Any) -> None:
            space.revoke = revoke
            raise HostError("revoke", OSError(5, "once"))

        def then_released(target: BtiObject, found: Any) -> None:
            stick(target, found)
            assert target.mark_quarantined(release) == [token]

        space.revoke = refused
        monkeypatch.setattr(BtiObject, "_stick", then_released)
        with pytest.raises(HostError):
            pmt.unpin()
        assert token.leaving is release
        assert bti.release_quarantine() == 0  # somebody is at it
        device.unpin_marked(token, release)
        assert bti.statistics().quarantined == bti.statistics().pins == 0
        bti.pin(vmo, perms=pf.Perm.READ).unpin()
