"""A driver that makes the ring smaller than where the engine is in it."""

from __future__ import annotations

import struct

import pytest

import pinfold as pf
from pinfold.devices.copier import Code, Copier

PAGE = pf.PAGE_SIZE
CONTROL, CODE, BASE, SIZE, TAIL, HEAD = 0x04, 0x0C, 0x10, 0x18, 0x1C, 0x20


@pytest.mark.parametrize("bus_name", ["sim", "stub"])
def test_a_ring_made_smaller_than_the_head_is_a_bad_ring(
    process: pf.Process, bus_name: str
) -> None:
    """A register write never raises in the driver: the engine stops, and says why."""
    with (
        pf.open_bus(bus_name) as bus,
        bus.initiator(1) as bti,
        pf.Vmo.contiguous(bti, 2 * PAGE) as vmo,
        bti.pin(vmo, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
    ):
        at = int(pmt.addrs[0])
        descriptor = struct.pack("<QQIIII", at + PAGE, at + PAGE + 512, 8, 0, 0, 0)
        vmo.write(descriptor * 128)
        engine = Copier(bti.master(), latency=0)
        engine.write64(BASE, at)
        engine.write32(SIZE, 128)
        engine.write32(CONTROL, 1)
        engine.write32(TAIL, 100)
        assert engine.read32(HEAD) == 100
        engine.write32(CONTROL, 0)
        engine.write32(SIZE, 16)
        engine.write32(TAIL, 5)
        engine.write32(CONTROL, 1)
        assert engine.read32(CODE) == Code.BAD_RING
