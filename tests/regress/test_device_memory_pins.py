"""Pins of device memory were counted as pins of the host's memory.

A page of a device's registers could be pinned 31 times and no more, and counted against the limit
of pinned memory, of which it holds none: a driver with many queues was refused. Zircon counts
neither.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import BadState, LimitReached
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000
RW = pf.Perm.READ | pf.Perm.WRITE


@pytest.fixture
def kernel() -> pf.Kernel:
    """One that allows a page of pinned memory."""
    return pf.Kernel(seed=1, max_pinned=PAGE)


@pytest.fixture(params=["simulated", "a window"])
def registers(
    request: pytest.FixtureRequest, process: pf.Process
) -> Iterator[tuple[pf.Vmo, int | None]]:
    """Four pages of device memory, and the descriptor of the file behind them."""
    fd = None
    if request.param == "a window":
        fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4 * PAGE)
    with (
        pf.Resource(DEVICE, 4 * PAGE, fd=fd, process=process) as resource,
        pf.Vmo.physical(resource, DEVICE, 4 * PAGE, process=process) as made,
    ):
        yield made, fd
    if fd is not None:
        os.close(fd)


@pytest.mark.parametrize(("count", "size"), [(40, PAGE), (300, PAGE), (40, 3 * PAGE)])
def test_device_memory_is_pinned_as_often_as_one_likes(
    kernel: pf.Kernel,
    registers: tuple[pf.Vmo, int | None],
    any_bus: pf.Iommu,
    count: int,
    size: int,
) -> None:
    """Source: zx_bti_pin of a physical VMO: a range check, no counting. A byte counts to 255."""
    vmo, fd = registers
    with any_bus.initiator(1) as bti:
        pins = [bti.pin(vmo, PAGE, size, perms=RW) for _ in range(count)]
        assert kernel.ledger.pinned_bytes == 0
        assert kernel.ledger.statistics().pins == count
        check_books(kernel)
        if fd is not None:
            _stay_pinned(vmo, fd, pins)
        for pmt in pins:
            if not pmt.closed:
                pmt.unpin()
        check_books(kernel)
        assert vmo.pin_count(PAGE) == 0


def _stay_pinned(vmo: pf.Vmo, fd: int, pins: list[pf.Pmt]) -> None:
    """The file's pages are not given away while there is one of them."""
    with pf.Vmo.from_fd(fd, process=vmo._entry.process) as other:
        with pytest.raises(BadState):
            other.decommit(PAGE, PAGE)
        for pmt in pins[1:]:
            pmt.unpin()
        with pytest.raises(BadState) as caught:
            other.decommit(PAGE, PAGE)
        assert caught.value.holder == "1 pin(s)"
        other.decommit(0, PAGE)
        pins[0].unpin()
        other.decommit(PAGE, PAGE)


def test_the_limit_is_for_memory(
    kernel: pf.Kernel, registers: tuple[pf.Vmo, int | None], any_bus: pf.Iommu
) -> None:
    """What the device's memory does not take is there for the host's."""
    vmo, _ = registers
    with (
        any_bus.initiator(1) as bti,
        pf.Vmo(2 * PAGE) as memory,
        bti.pin(vmo, perms=RW),
        bti.pin(memory, 0, PAGE, perms=RW),
    ):
        assert kernel.ledger.pinned_bytes == PAGE
        with pytest.raises(LimitReached):
            bti.pin(memory, PAGE, PAGE, perms=RW)
        with bti.pin(vmo, perms=RW):
            assert kernel.ledger.pinned_bytes == PAGE
