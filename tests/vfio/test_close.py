"""The end of a vfio bus: the order of its steps, and nothing left behind."""

from __future__ import annotations

import errno
import gc
from dataclasses import replace
from functools import partial

import pytest

import pinfold as pf
from pinfold.buses.vfio import VfioBus
from pinfold.buses.vfio.interrupts import InterruptKind
from pinfold.errors import BadState, HostError, NotSupported, Unavailable
from pinfold.host import vfio
from pinfold.testing.faults import FailFrom, HostCalls
from tests.programs import run
from tests.vfio.real import BOTH, READ, edu, opened

P = pf.PAGE_SIZE
STEPS = ("vfio_write_region", "vfio_device_reset", "vfio_unmap_dma", "close")


def steps(host: HostCalls) -> list[str]:
    """The calls that matter, each once, in the order of their first."""
    return list(dict.fromkeys(name for name in host.names if name in STEPS))


@pytest.mark.vfio("nvme")
def test_the_device_stops_before_anything_is_taken_from_it(
    process: pf.Process, vfio_nvme: str
) -> None:
    """Mastering off, reset, revoke, close: with a pin that nobody has unpinned."""
    iommu = pf.open_bus(f"vfio:{vfio_nvme}", backend="type1")
    bus = iommu.bus
    assert isinstance(bus, VfioBus)
    space = bus.attach(bus.requester)
    with (
        pf.open_bus("sim") as other,
        other.initiator(1) as bti,
        pf.Vmo(P) as vmo,
        bti.pin(vmo, perms=BOTH) as pmt,  # any pinned range will do
    ):
        grant = space.grant(pmt.object.pinned, int(READ))
        assert space.live_grants() == [grant]
        with HostCalls() as host:
            bus.close()
        assert steps(host) == list(STEPS)
        assert space.live_grants() == []
    iommu.close()


@pytest.mark.vfio("nvme")
def test_the_last_authority_stops_the_device(process: pf.Process, vfio_nvme: str) -> None:
    """And what it has left behind is revoked after that."""
    with pf.open_bus(f"vfio:{vfio_nvme}") as iommu:
        bus = iommu.bus
        assert isinstance(bus, VfioBus)
        with pf.Vmo(P) as vmo:
            bti = iommu.initiator(bus.requester)
            pmt = bti.pin(vmo, perms=READ)
            with HostCalls() as host:
                bti.close()
            assert steps(host)[:2] == ["vfio_write_region", "vfio_device_reset"]
            assert not bus.device.config.master
            pmt.unpin()


@pytest.mark.vfio("edu1")
def test_a_device_without_a_reset_is_stopped_all_the_same(
    process: pf.Process, vfio_edu64: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(vfio_edu64) as found:
        with HostCalls() as host:
            found.bus.close()
        assert steps(host) == ["vfio_write_region", "close"]
    assert caplog.records == []  # its authority, which goes after it, finds nothing to stop


@pytest.mark.vfio("edu1")
def test_after_close_the_device_can_be_opened_again(process: pf.Process, vfio_edu64: str) -> None:
    """A BAR that is still mapped, or an eventfd in a vector, would keep the group busy."""
    for _ in range(3):
        with edu(vfio_edu64) as (found, driver):
            registers, config = found.device.bar(0), found.device.config
            interrupts = found.device.interrupts.enable(InterruptKind.MSI)
            assert driver.alive()
            with pytest.raises(Unavailable, match="in use"):
                pf.open_bus(f"vfio:{vfio_edu64}")
        for call in (
            partial(registers.read32, 0),
            partial(registers.write32, 4, 0),
            partial(config.read16, 0),
            interrupts.poll,
            interrupts.fileno,
            found.device.reset,
            partial(found.device.bar, 0),
            partial(found.device.interrupts.info, InterruptKind.MSI),
        ):
            with pytest.raises(BadState):
                call()


@pytest.mark.vfio("edu1")
def test_a_close_that_is_refused_gives_back_what_it_can(
    process: pf.Process, vfio_edu64: str
) -> None:
    """Every step is tried; the first refusal is told; the device can be opened again."""
    iommu = pf.open_bus(f"vfio:{vfio_edu64}")
    bus = iommu.bus
    assert isinstance(bus, VfioBus)
    bus.device.bar(0)
    with FailFrom(1, errno.EIO), pytest.raises(HostError):
        bus.close()
    bus.close()
    iommu.close()
    del bus, iommu
    gc.collect()  # the mapping of the BAR, which could not be replaced, goes with its object
    pf.open_bus(f"vfio:{vfio_edu64}").close()


@pytest.mark.vfio("edu1")
def test_every_call_of_opening_may_fail(process: pf.Process, vfio_edu64: str) -> None:
    """Nothing is left open by a bus that could not be: the next attempt would be refused."""
    with HostCalls() as host:
        pf.open_bus(f"vfio:{vfio_edu64}").close()
    calls = len(host.names)
    refused = 0
    for number in range(1, calls + 1):
        with FailFrom(number, errno.EIO):
            try:
                iommu = pf.open_bus(f"vfio:{vfio_edu64}")
            except pf.PinfoldError:
                refused += 1
                continue
        iommu.close()
        break
    assert refused > 10
    pf.open_bus(f"vfio:{vfio_edu64}").close()


@pytest.mark.vfio("edu1")
def test_a_forked_child_closes_what_it_can(vfio_edu64: str) -> None:
    """One close that fails is told, and keeps no other copy open: it would keep the group busy."""
    found = run(
        """
        import os
        from pinfold.buses.vfio import VfioBus
        from pinfold.buses.vfio.interrupts import InterruptKind
        from pinfold.testing.faults import FailNth

        def held():
            fds = os.listdir("/proc/self/fd")
            names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds
                     if os.path.lexists(f"/proc/self/fd/{fd}")]
            return [name for name in names if "vfio" in name or "eventfd" in name]

        bus = VfioBus(sys.argv[1], backend="type1")
        bus.device.interrupts.enable(InterruptKind.MSI)
        before = len(held())
        try:
            with FailNth(1, 5):
                bus.abandon()
            told = None
        except PinfoldError as error:
            told = str(error)
        print(json.dumps([before, told, held()]))
        """,
        vfio_edu64,
    )
    assert found == [4, "close an eventfd: Input/output error", []]


@pytest.mark.vfio("edu1")
def test_a_kernel_that_names_no_addresses_is_refused(
    process: pf.Process, vfio_edu64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older ones do not; the window of the interrupts would be granted."""
    real = vfio.iommu_info
    with monkeypatch.context() as patched:
        patched.setattr(vfio, "iommu_info", lambda fd: replace(real(fd), ranges=()))
        with pytest.raises(NotSupported, match="which addresses"):
            pf.open_bus(f"vfio:{vfio_edu64}", backend="type1")
    pf.open_bus(f"vfio:{vfio_edu64}", backend="type1").close()
