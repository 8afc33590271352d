"""An unpin whose BTI another thread closed meanwhile blamed the addresses.

Source: mx_bti_unpin in the kernel of the draft: BAD_STATE, for the device has no pins any more.
"""

from __future__ import annotations

import pytest

from pinfold.dialects import mx
from pinfold.objects.initiator import BtiObject
from tests.dialects.mx import things
from tests.dialects.mx.things import PAGE, counts, fine, pin, unpin


@pytest.mark.usefixtures("process")
def test_the_device_is_closed_between_the_look_up_and_the_unpin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bti, vmo = things.bti(), things.vmo(PAGE)
    addrs, end = pin(bti, vmo), BtiObject.unpin_listed

    def late(device: BtiObject, addresses: bytes) -> None:
        fine(mx.mx_handle_close, bti)
        end(device, addresses)

    monkeypatch.setattr(BtiObject, "unpin_listed", late)
    assert unpin(bti, addrs) == "BAD_STATE"
    assert counts(vmo, 1) == [0]
