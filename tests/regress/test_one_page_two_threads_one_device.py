"""Two threads could both pin one page through one BTI, where the page forbids a second pin.

Whether a page is bound was asked before the host locked it, which is done without the kernel's
lock, and not again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.dialects import mx
from pinfold.dialects.calling import face, number_of
from pinfold.memory.pinned import PinnedRange
from tests.dialects.mx import things
from tests.dialects.mx.things import PAGE, attempt, counts, ok, unpin

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=[None, "kernel"])
def strict(request: pytest.FixtureRequest) -> Iterator[str | None]:
    process = pf.Process(pf.Kernel(strict=request.param))
    with process:
        yield request.param
    process.exit()


def test_one_of_two_is_already_bound(strict: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first waits for the host. The kernel lets both pin."""
    process = pf.current_process()
    bus = pf.open_bus("sim", anchor=pf.Anchor.MLOCK)
    bti, vmo = ok(mx.mx_bti_create, number_of(bus), 1), things.vmo(2 * PAGE)
    other: list[Any] = []
    fill = PinnedRange.fill

    def second() -> None:
        with process:
            other.append(attempt(bti, vmo))

    def and_meanwhile_another(pinned: PinnedRange) -> None:
        monkeypatch.setattr(PinnedRange, "fill", fill)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        fill(pinned)

    monkeypatch.setattr(PinnedRange, "fill", and_meanwhile_another)
    first = attempt(bti, vmo, 0, 2 * PAGE)
    assert other[0][0] == "OK"
    if strict == "kernel":
        assert first[0] == "OK"
        assert counts(vmo, 2) == [2, 1]
        assert unpin(bti, first[1]) == "OK"
    else:
        assert first[0] == "ALREADY_BOUND"
    assert counts(vmo, 2) == [1, 0]
    device: Any = face(bti)
    assert len(device.object.space.live_grants()) == 1
    assert unpin(bti, other[0][1]) == "OK"
