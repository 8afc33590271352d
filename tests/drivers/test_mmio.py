"""How a driver waits."""

from __future__ import annotations

import pytest

from pinfold.drivers.mmio import DeviceTimeout, poll
from pinfold.errors import PinfoldError


def test_poll_waits_between_looks_and_not_around_them() -> None:
    steps: list[str] = []

    def ready() -> bool:
        steps.append("look")
        return len(steps) > 4

    assert poll(ready, "it", polls=10, wait=lambda: steps.append("wait")) == 3
    assert steps == ["look", "wait", "look", "wait", "look"]


def test_poll_gives_up_after_so_many_looks() -> None:
    """A TimeoutError, as a Python user expects, and one of ours."""
    waits: list[int] = []
    with pytest.raises(DeviceTimeout, match="the thing: not done after 3 polls") as caught:
        poll(lambda: False, "the thing", polls=3, wait=lambda: waits.append(1))
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, PinfoldError)
    assert len(waits) == 2
    assert caught.value.remedy is not None
