"""A real device's registers, configuration space, interrupts and reset."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.buses.vfio.interrupts import InterruptKind
from pinfold.errors import (
    BadState,
    HostError,
    InvalidArgs,
    NotFound,
    NotSupported,
    OutOfRange,
    TimedOut,
)
from pinfold.host import abi_vfio as abi
from pinfold.testing import HostState
from pinfold.testing.faults import FailNth, HostCalls
from tests.vfio.real import BOTH, opened

if TYPE_CHECKING:
    from pinfold.drivers.mmio import Mmio

EDU = (0x1234, 0x11E8)
EDU_ID, EDU_LIVENESS, EDU_SOURCE, EDU_RAISE, EDU_ACKNOWLEDGE = 0x00, 0x04, 0x80, 0x60, 0x64
NVME_CAPABILITIES, NVME_VERSION = 0x00, 0x08
NVME_CONFIGURATION, NVME_STATUS, NVME_QUEUE_SIZES = 0x14, 0x1C, 0x24
NVME_SUBMISSIONS, NVME_COMPLETIONS = 0x28, 0x30


@pytest.mark.vfio("edu1")
def test_a_register_is_read_in_its_own_width(process: pf.Process, vfio_edu64: str) -> None:
    """edu does not answer a narrower access, and has addresses of eight bytes from 0x80 on."""
    with opened(vfio_edu64) as found:
        bar: Mmio = found.device.bar(0)
        assert bar.size == 1 << 20
        assert bar.read32(EDU_ID) & 0xFFFF == 0x00ED
        bar.write32(EDU_LIVENESS, 0x12345678)
        assert bar.read32(EDU_LIVENESS) == 0x12345678 ^ 0xFFFFFFFF
        wide = 0xFEDC_BA98_7654_3210
        bar.write64(EDU_SOURCE, wide)
        assert bar.read64(EDU_SOURCE) == wide
        assert found.device.bar(0).read8(EDU_ID) != 0xED  # so four bytes were one access, not four
        with HostCalls() as host:
            bar.read32(EDU_ID)
        assert host.names == []  # a load, and no system call


@pytest.mark.vfio("nvme")
def test_registers_are_read_in_halves_and_bytes(process: pf.Process, vfio_nvme: str) -> None:
    """An NVMe controller takes any width; all must agree on its version."""
    with opened(vfio_nvme) as found:
        bar = found.device.bar(0)
        version = bar.read32(NVME_VERSION)
        assert version >> 16 == 1
        assert bar.read16(NVME_VERSION + 2) == 1
        assert bar.read8(NVME_VERSION + 2) == 1
        assert bar.read64(NVME_CAPABILITIES) & 0xFFFF_FFFF == bar.read32(NVME_CAPABILITIES)


@pytest.mark.vfio("edu1")
def test_an_access_that_a_driver_must_not_make(process: pf.Process, vfio_edu64: str) -> None:
    """It is refused before it reaches the device."""
    with opened(vfio_edu64) as found:
        bar = found.device.bar(0)
        for wrong in (bar.size, bar.size - 2, -4):
            with pytest.raises(OutOfRange) as raised:
                bar.read32(wrong)
            assert raised.value.limit == bar.size
            with pytest.raises(OutOfRange):
                bar.write32(wrong, 0)
        for access in (bar.read16, bar.read32, bar.read64):
            with pytest.raises(InvalidArgs):
                access(1)
        for value in (-1, 1 << 32):
            with pytest.raises(InvalidArgs):
                bar.write32(EDU_LIVENESS, value)
        with pytest.raises(InvalidArgs):
            found.device.bar(6)
        with pytest.raises(NotFound):
            found.device.bar(3)


@pytest.mark.vfio("edu1")
def test_a_register_that_cannot_be_mapped_is_read_all_the_same(
    process: pf.Process, vfio_edu64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pread and pwrite of exactly that width, as where an MSI-X table is in the way."""
    from dataclasses import replace

    from pinfold.host import vfio

    real = vfio.region_info
    monkeypatch.setattr(
        vfio, "region_info", lambda fd, index: replace(real(fd, index), mappable=())
    )
    with opened(vfio_edu64) as found:
        bar = found.device.bar(0)
        with HostCalls() as host:
            bar.write32(EDU_LIVENESS, 0x0F0F0F0F)
            assert bar.read32(EDU_LIVENESS) == 0xF0F0F0F0
        assert host.names == ["vfio_write_region", "vfio_read_region"]


@pytest.mark.vfio("edu1")
def test_the_configuration_space(process: pf.Process, vfio_edu64: str) -> None:
    """Numbers, capabilities, and a register that keeps what is written."""
    with opened(vfio_edu64) as found:
        config = found.device.config
        assert (config.vendor, config.device) == EDU
        assert config.size >= abi.PCI_CFG_SPACE_SIZE
        assert config.read32(0) == EDU[1] << 16 | EDU[0]
        assert [capability.id for capability in config.capabilities()] == [0x05]
        line = 0x3C  # the interrupt line: a scratch register
        config.write8(line, 0x2A)
        assert config.read8(line) == 0x2A
        with pytest.raises(OutOfRange):
            config.read16(config.size)
        with pytest.raises(InvalidArgs):
            config.read32(2)
        with pytest.raises(InvalidArgs):
            config.write8(line, 256)


@pytest.mark.vfio("edu1")
def test_mastering_comes_and_goes_with_the_authority(process: pf.Process, vfio_edu64: str) -> None:
    """On while somebody has it, and again for the next; two share it."""
    with pf.open_bus(f"vfio:{vfio_edu64}") as iommu:
        bus = iommu.bus
        device = bus.device  # type: ignore[attr-defined]
        requester = bus.requester  # type: ignore[attr-defined]
        assert not device.config.master
        with iommu.initiator(requester) as one:
            assert device.config.master
            assert one.device() is device
            with iommu.initiator(requester):
                assert device.config.master
            assert device.config.master
        assert not device.config.master
        with iommu.initiator(requester, address_bits=40):
            assert device.config.master
        assert not device.config.master


@pytest.mark.vfio("edu1", "nvme")
def test_reset(process: pf.Process, vfio_edu64: str, vfio_nvme: str) -> None:
    """edu has none, and says so; an NVMe controller is put back."""
    with opened(vfio_edu64) as found:
        assert not found.device.resets
        with pytest.raises(NotSupported, match="no reset"):
            found.device.reset()
    with (
        opened(vfio_nvme) as found,
        pf.Vmo(2 * pf.PAGE_SIZE) as queues,
        found.bti.pin(queues, perms=BOTH) as pmt,
    ):
        bar = found.device.bar(0)
        bar.write32(NVME_QUEUE_SIZES, 0x001F001F)
        bar.write64(NVME_SUBMISSIONS, int(pmt.addrs[0]))
        bar.write64(NVME_COMPLETIONS, int(pmt.addrs[1]))
        bar.write32(NVME_CONFIGURATION, 0x0046_0001)  # entries of 64 and 16 bytes, enabled
        assert bar.read32(NVME_STATUS) == 1
        found.device.reset()
        assert (bar.read32(NVME_CONFIGURATION), bar.read32(NVME_STATUS)) == (0, 0)
        assert found.device.config.master  # the configuration stays


# Interrupts --------------------------------------------------------------------------------------


@pytest.mark.vfio("edu1", "nvme")
def test_what_a_device_has_of_interrupts(
    process: pf.Process, vfio_edu64: str, vfio_nvme: str
) -> None:
    with opened(vfio_edu64) as found:
        kinds = {info.kind: info for info in found.device.interrupts.available()}
        assert kinds[InterruptKind.MSI].count == 1
        assert kinds[InterruptKind.INTX].automasked
        assert InterruptKind.MSIX not in kinds
    with opened(vfio_nvme) as found:
        assert found.device.interrupts.info(InterruptKind.MSIX).count > 1


@pytest.mark.vfio("nvme")
def test_each_vector_has_an_eventfd(process: pf.Process, vfio_nvme: str) -> None:
    """Triggered one by one by the kernel, and by no other."""
    with (
        opened(vfio_nvme) as found,
        found.device.interrupts.enable(InterruptKind.MSIX, 3) as interrupts,
    ):
        assert len(interrupts) == 3
        assert len({interrupts.fileno(vector) for vector in range(3)}) == 3
        interrupts.trigger(1)
        assert [interrupts.poll(vector) for vector in range(3)] == [0, 1, 0]
        interrupts.trigger(2)
        interrupts.trigger(2)
        assert interrupts.wait(10, vector=2) == 2
        interrupts.trigger(0)
        interrupts.clear()
        assert [interrupts.poll(vector) for vector in range(3)] == [0, 0, 0]
        with pytest.raises(TimedOut):
            interrupts.wait(0)
        with pytest.raises(InvalidArgs):
            interrupts.trigger(3)
        with pytest.raises(NotSupported):
            interrupts.unmask()


@pytest.mark.vfio("edu1")
def test_a_level_is_masked_until_it_is_unmasked(process: pf.Process, vfio_edu64: str) -> None:
    """INTx: the kernel masks it as it arrives; unmasked while it is up, it arrives again."""
    with opened(vfio_edu64) as found:
        bar = found.device.bar(0)
        with found.device.interrupts.enable(InterruptKind.INTX) as interrupts:
            bar.write32(EDU_RAISE, 1)
            assert interrupts.wait(10) == 1
            interrupts.unmask()  # it is still up
            assert interrupts.wait(10) == 1
            bar.write32(EDU_ACKNOWLEDGE, 1)
            interrupts.unmask()
            assert interrupts.poll() == 0
            bar.write32(EDU_RAISE, 2)
            assert interrupts.wait(10) == 1
            bar.write32(EDU_ACKNOWLEDGE, 2)


@pytest.mark.vfio("edu1")
def test_the_callers_own_eventfd(process: pf.Process, vfio_edu64: str) -> None:
    """It is used, and stays the caller's."""
    own = os.eventfd(0, os.EFD_NONBLOCK)
    with opened(vfio_edu64) as found:
        interrupts = found.device.interrupts.enable(InterruptKind.MSI, eventfds=[own])
        assert interrupts.fileno() == own
        interrupts.trigger()
        assert os.eventfd_read(own) == 1
        interrupts.disable()
        interrupts.disable()
        with pytest.raises(BadState):
            interrupts.poll()
    assert os.fstat(own)
    os.close(own)


@pytest.mark.vfio("edu1")
def test_interrupts_that_there_are_not(process: pf.Process, vfio_edu64: str) -> None:
    """More vectors than there are, none, another kind beside, and a vector too few."""
    with opened(vfio_edu64) as found:
        enable = found.device.interrupts.enable
        with pytest.raises(NotSupported) as raised:
            enable(InterruptKind.MSI, 2)
        assert (raised.value.asked, raised.value.available) == (2, 1)
        with pytest.raises(NotSupported):
            enable(InterruptKind.MSIX)
        for count, fds in ((0, None), (1, ()), (1, (1, 2))):
            with pytest.raises(InvalidArgs):
                enable(InterruptKind.MSI, count, eventfds=fds)
        with enable(InterruptKind.MSI), pytest.raises(BadState, match="one kind"):
            enable(InterruptKind.INTX)
        with enable(InterruptKind.INTX) as again:
            again.trigger()
            assert again.wait(10) == 1


@pytest.mark.vfio("nvme")
def test_every_call_of_enabling_and_mapping_may_fail(process: pf.Process, vfio_nvme: str) -> None:
    """Nothing stays open or mapped, and the next attempt works."""
    with opened(vfio_nvme) as found:

        def act() -> None:
            found.device.interrupts.enable(InterruptKind.MSIX, 2).disable()

        with HostCalls() as host:
            act()
        before = HostState.now()
        enabling = host.names.index("vfio_device_set_irqs") + 1
        for number in range(1, enabling + 1):
            with FailNth(number, errno.EIO), pytest.raises(HostError):
                act()
            assert before.difference(HostState.now()) == []
        act()
        for number in (1, 2, 3):  # ask, map, keep from a forked child
            with FailNth(number, errno.EIO), pytest.raises(HostError):
                found.device.bar(0)
            assert before.difference(HostState.now()) == []
        assert found.device.bar(0).read32(NVME_VERSION)
