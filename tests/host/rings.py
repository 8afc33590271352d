"""What the tests of the ring share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pinfold.host import abi, probe
from pinfold.host.abi_uring import (
    SQE,
)
from pinfold.host.uring import Ring
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray


RW = abi.PROT_READ | abi.PROT_WRITE
PAGES = 8
SIZE = PAGES * PAGE_SIZE


def why_not() -> str:
    """Why this machine has no ring to try; empty where it has."""
    try:
        Ring(1, 1).close()
    except OSError as error:
        return f"io_uring is not to be had here: {error}"
    return ""


WHY_NOT = why_not()
needs_ring = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it is there")


def reaped(ring: Ring) -> NDArray[Any]:
    """The completions that are there; they are taken off the ring."""
    found = ring.completed()
    ring.seen(len(found))
    return found


def pinned() -> int:
    return probe.process_memory().pinned


def gone(before: int) -> bool:
    """True once what a closed ring held is let go, which takes the kernel a moment."""
    for _ in range(100_000):
        if pinned() == before:
            return True
        os.sched_yield()
    return False


def requests(count: int, **fields: Any) -> NDArray[Any]:
    """So many requests, numbered from 0; a field is one value or one for each."""
    made = np.zeros(count, dtype=SQE)
    made["user_data"] = np.arange(count)
    for name, value in fields.items():
        made[name] = value
    return made


def done(ring: Ring, wanted: NDArray[Any]) -> dict[int, int]:
    """Submit, wait for all, and give each request's result by its number."""
    ring.queue(wanted)
    assert ring.submit(len(wanted)) == len(wanted)
    found = reaped(ring)
    return {int(entry["user_data"]): int(entry["res"]) for entry in found}
