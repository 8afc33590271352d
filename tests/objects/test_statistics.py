"""Every object answers statistics() with a frozen record."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import DmaFault


def test_a_bus_counts_its_devices_and_its_faults(sim: pf.Iommu) -> None:
    before = sim.statistics()
    assert (before.bus, before.initiators, before.faults, before.handles) == ("sim", 0, 0, 1)
    with sim.initiator(7) as bti, sim.duplicate() as second:
        with pytest.raises(DmaFault):
            bti.master().read(0x1000, 8)
        now = second.statistics()
        assert (now.koid, now.initiators, now.faults, now.handles) == (sim.koid, 1, 1, 2)
    assert sim.statistics().initiators == 0


def test_a_process_says_what_it_has(process: pf.Process) -> None:
    assert process.statistics().handles == 0
    assert process.statistics().address_space == 0
    with pf.Vmo(pf.PAGE_SIZE):
        assert process.statistics().handles == 1
        assert process.root.size == process.statistics().address_space
    assert process.statistics().alive
    process.exit()
    ended = process.statistics()
    assert (ended.alive, ended.handles, ended.address_space) == (False, 0, 0)


@pytest.mark.parametrize("kind", ["vmo", "bti", "pmt", "iommu", "vmar", "process", "resource"])
def test_a_record_is_frozen(kind: str, bti: pf.Bti, vmo: pf.Vmo, sim: pf.Iommu) -> None:
    process = pf.current_process()
    with bti.pin(vmo, perms=pf.Perm.READ) as pmt, pf.Resource(0x9000_0000, 0x1000) as resource:
        objects: dict[str, Any] = {
            "vmo": vmo,
            "bti": bti,
            "pmt": pmt,
            "iommu": sim,
            "vmar": process.root,
            "process": process,
            "resource": resource,
        }
        record = objects[kind].statistics()
        with pytest.raises(FrozenInstanceError):
            record.koid = 0
