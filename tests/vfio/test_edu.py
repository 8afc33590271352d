"""The edu driver, unchanged, on QEMU's edu behind an emulated Intel IOMMU."""

from __future__ import annotations

import os
import random
import warnings

import pytest

import pinfold as pf
from pinfold.buses.vfio.interrupts import InterruptKind
from pinfold.drivers.edu import DMA_DONE
from pinfold.errors import DmaFault, OutOfReach, WrongProcess
from tests.vfio.real import BOTH, READ, WRITE, edu, faults_of, opened

P = pf.PAGE_SIZE

DEVICES = pytest.mark.parametrize(("fixture", "bits"), [("vfio_edu", 28), ("vfio_edu64", 64)])


@DEVICES
@pytest.mark.vfio("edu0", "edu1")
def test_the_driver_moves_data(
    request: pytest.FixtureRequest, process: pf.Process, fixture: str, bits: int
) -> None:
    """By DMA, through pins, in both directions; the device has 28 address bits, or 64."""
    address: str = request.getfixturevalue(fixture)
    content = random.Random(1).randbytes(3000)
    with (
        edu(address, address_bits=bits) as (found, driver),
        pf.Vmo(2 * P) as source,
        pf.Vmo(2 * P) as target,
    ):
        assert driver.alive()
        assert driver.factorial(10) == 3_628_800
        source.write(content, 100)
        with found.bti.pin(source, perms=READ) as come, found.bti.pin(target, perms=WRITE) as go:
            driver.transfer(come, go, len(content), source_offset=100, destination_offset=P - 50)
        assert target.read(P - 50, len(content)) == content
        assert found.bus.faults.total == 0


@pytest.mark.vfio("edu1")
def test_an_interrupt_arrives_on_the_eventfd(process: pf.Process, vfio_edu64: str) -> None:
    """By MSI, at the end of a transfer and when it is asked for."""
    with (
        edu(vfio_edu64) as (found, driver),
        pf.Vmo(P) as vmo,
        found.bti.pin(vmo, perms=READ) as pmt,
        found.device.interrupts.enable(InterruptKind.MSI) as interrupts,
    ):
        assert interrupts.poll() == 0
        driver.copy_to_device(pmt, 16, interrupt=True)
        assert interrupts.wait(10) == 1
        assert driver.acknowledge() == DMA_DONE
        driver.raise_interrupt(0x40)
        assert interrupts.wait(10) == 1
        assert driver.acknowledge() == 0x40


@pytest.mark.vfio("edu1")
def test_a_stray_write_is_blocked_and_seen(process: pf.Process, vfio_edu64: str) -> None:
    """Right behind a grant: the kernel's log has the page and the direction."""
    with (
        edu(vfio_edu64) as (found, driver),
        pf.Vmo(P, name="granted") as vmo,
        found.bti.pin(vmo, perms=BOTH) as pmt,
    ):
        beyond = int(pmt.addrs[0]) + P
        (fault,) = faults_of(found.bus, lambda: driver.copy_from_device(beyond, 4))
        faults = found.bus.faults
        assert len(faults) == 1
        assert (fault.initiator, fault.address) == (found.bus.requester, beyond)
        assert fault.access == WRITE
        assert fault.reason is pf.FaultReason.BEYOND_END
        assert fault.nearest is not None
        assert "granted" in fault.nearest.what
        assert "kernel's log" in fault.detail
        assert vmo.read() == bytes(P)
        assert str(DmaFault(fault))
        faults.clear()
        assert (len(faults), faults.total) == (0, 1)


@pytest.mark.vfio("edu1")
def test_an_access_after_unpin_is_blocked(process: pf.Process, vfio_edu64: str) -> None:
    """The very next one, and the record says whose it was."""
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P, name="gone") as vmo:
        vmo.write(b"old!")
        with found.bti.pin(vmo, perms=BOTH) as pmt:
            at = int(pmt.addrs[0])
            driver.copy_to_device(at, 4)
        (fault,) = faults_of(found.bus, lambda: driver.copy_from_device(at, 4))
        assert fault.reason is pf.FaultReason.REVOKED
        assert fault.address == at
        assert vmo.read(0, 4) == b"old!"


@pytest.mark.vfio("edu0")
def test_faults_of_before_and_of_others_are_not_shown(
    process: pf.Process, vfio_edu: str, vfio_edu64: str
) -> None:
    """Only this device's, and only since the bus was opened."""
    with edu(vfio_edu64) as (found, driver):
        with opened(vfio_edu, address_bits=28) as other:
            assert faults_of(found.bus, lambda: driver.copy_to_device(1 << 30, 4))
            assert other.bus.faults.total == 0
        with opened(vfio_edu, address_bits=28) as later:
            assert later.bus.faults.total == 0


@pytest.mark.vfio("edu0")
def test_an_address_wider_than_the_device_is_refused(process: pf.Process, vfio_edu: str) -> None:
    """edu drops the bits it has not got without a word; so nothing is started."""
    with edu(vfio_edu, address_bits=28) as (_, driver):
        before = driver.statistics().transfers
        with pytest.raises(OutOfReach) as raised:
            driver.copy_to_device(1 << 28, 4)
        assert raised.value.extent is not None
        assert driver.statistics().transfers == before


@pytest.mark.vfio("edu0")
def test_a_grant_beyond_the_device_is_refused_with_the_extent(
    process: pf.Process, vfio_edu: str
) -> None:
    """The IOMMU has addresses enough, and the device does not reach them."""
    with opened(vfio_edu, address_bits=22) as found, pf.Vmo(4 << 20) as vmo:
        with pytest.raises(OutOfReach) as raised:
            found.bti.pin(vmo, perms=READ)
        extent = raised.value.extent
        assert isinstance(extent, pf.Extent)
        assert (extent.address, extent.size) == (1 << 22, 4 << 20)
        assert raised.value.limit == 1 << 22
        with found.bti.pin(vmo, 0, 1 << 20, perms=READ) as pmt:
            assert int(pmt.addrs[-1]) + P <= 1 << 22


@pytest.mark.vfio("edu1")
def test_a_forked_child_uses_nothing_and_takes_nothing(
    process: pf.Process, vfio_edu64: str
) -> None:
    """It has copies of the descriptors, and could unmap what its parent has mapped."""
    with (
        edu(vfio_edu64) as (found, driver),
        pf.Vmo(P) as vmo,
        found.bti.pin(vmo, perms=BOTH) as pmt,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is meant
            child = os.fork()
        if child == 0:
            refused = 0
            for call in (
                lambda: found.device.bar(0),
                lambda: driver.alive(),
                lambda: found.device.config.vendor,
                found.device.reset,
                pmt.unpin,
                lambda: found.bus.container.map(None, 0, 1),  # type: ignore[arg-type]
                lambda: found.bus.container.unmap(int(pmt.addrs[0]), P),
                lambda: found.bus.attach(found.bus.requester),
            ):
                try:
                    call()
                except WrongProcess:
                    refused += 1
            held = [
                target
                for target in (os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors())
                if "vfio" in target
            ]
            os._exit(0 if refused == 8 and not held else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        vmo.write(b"still granted")
        driver.copy_to_device(pmt, 13)
        assert driver.load(13) == b"still granted"


def _descriptors() -> list[int]:
    """Of this process; the listing's own is gone by the time it is looked at."""
    return [
        int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
    ]
