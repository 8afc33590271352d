"""The vfio bus where there is no VFIO: what it says, and what needs no device."""

from __future__ import annotations

import errno
import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.buses.vfio import refusals
from pinfold.buses.vfio.faults import KernelFaultLog, parse
from pinfold.buses.vfio.open import find_device, why_not
from pinfold.buses.vfio.type1 import dma_flags
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotFound,
    NotSupported,
    PinfoldError,
    Unavailable,
)
from pinfold.faults import FaultReason
from pinfold.host import kmsg, pci, vfio
from pinfold.host.pci import PciAddress, PciDevice
from pinfold.testing.faults import FailNth

if TYPE_CHECKING:
    from pathlib import Path

READ, WRITE, EXECUTE = pf.Perm.READ, pf.Perm.WRITE, pf.Perm.EXECUTE
MINE = PciAddress(0, 0, 5, 0)
USER = pwd.getpwuid(os.geteuid()).pw_name  # $USER in a root shell is root
DEVICE = PciDevice(MINE, 0x1234, 0x11E8, 0x00FF00, "vfio-pci", 5, None)


# Finding a device ---------------------------------------------------------------------------------


def test_an_address_that_is_none() -> None:
    for wrong in ("", "edu", "00:05", "00:25.0"):
        with pytest.raises(InvalidArgs, match="PCI address") as raised:
            find_device(wrong)
        assert raised.value.remedy
    with pytest.raises(InvalidArgs, match="name it"):
        pf.open_bus("vfio")


def test_a_device_that_is_not_there() -> None:
    absent = next(
        str(address)
        for address in (PciAddress(0, 0xFE, n, 7) for n in range(32))
        if pci.look(address) is None
    )
    with pytest.raises(NotFound, match=absent) as raised:
        pf.open_bus(f"vfio:{absent}")
    assert "lspci" in str(raised.value.remedy)
    assert isinstance(why_not(absent), (NotFound, NotSupported))


def test_a_machine_without_vfio_says_what_to_load() -> None:
    if os.path.exists(vfio.CONTAINER):
        pytest.skip("this machine has VFIO: tests/vfio has the rest")
    reason = why_not("0000:00:00.0")
    assert isinstance(reason, NotSupported)
    assert "modprobe vfio-pci" in str(reason)


# Refusals -----------------------------------------------------------------------------------------


def test_a_device_of_another_driver() -> None:
    """The remedy is what a root shell takes, as it stands."""
    error = refusals.not_bound(replace(DEVICE, driver="nvme"))
    assert isinstance(error, BadState)
    assert error.holder == "driver nvme"
    assert str(error.remedy).split("; ") == [
        "as root: modprobe vfio-pci",
        "echo 0000:00:05.0 > /sys/bus/pci/devices/0000:00:05.0/driver/unbind",
        "echo vfio-pci > /sys/bus/pci/devices/0000:00:05.0/driver_override",
        "echo 0000:00:05.0 > /sys/bus/pci/drivers_probe",
    ]
    assert "unbind" not in str(refusals.not_bound(replace(DEVICE, driver=None)))


def test_a_group_with_others_in_it() -> None:
    neighbours = [
        replace(DEVICE, address=PciAddress(0, 0, 5, 1), driver="ahci"),
        replace(DEVICE, address=PciAddress(0, 0, 5, 2), driver=None),
    ]
    error = refusals.not_viable(5, neighbours)
    assert error.holder == "0000:00:05.1 (1234:11e8) on driver ahci"
    assert "vfio-pci" in str(error.remedy)


def test_a_device_without_an_iommu() -> None:
    assert "intel_iommu=on" in str(refusals.no_iommu(replace(DEVICE, group=None)))


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.EACCES, AccessDenied, f"chown {USER} /dev/vfio/5"),
        (errno.EPERM, AccessDenied, f"chown {USER} /dev/vfio/5"),
        (errno.EBUSY, Unavailable, "fuser"),
        (errno.ENOENT, NotSupported, "modprobe"),
        (errno.EIO, HostError, "Input/output"),
    ],
)
def test_a_file_that_cannot_be_opened(number: int, kind: type[PinfoldError], remedy: str) -> None:
    error = refusals.from_open("/dev/vfio/5", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert remedy in str(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, LimitReached),
        (errno.EEXIST, AlreadyExists),
        (errno.EBUSY, Unavailable),
        (errno.EFAULT, HostError),
    ],
)
def test_a_mapping_that_is_refused(number: int, kind: type[PinfoldError]) -> None:
    refusal = OSError(number, os.strerror(number))
    error = refusals.from_map("map", refusal, size=4096, limit=65535, mapped=3)
    assert type(error) is kind


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    refusal = OSError(errno.EACCES, os.strerror(errno.EACCES))
    assert "chown 4000000000 /dev/iommu" in str(refusals.from_open("/dev/iommu", refusal))


def test_what_an_iommu_cannot_say() -> None:
    assert dma_flags(READ | WRITE) == 3
    with pytest.raises(NotSupported, match="fetch"):
        dma_flags(READ | EXECUTE)
    with pytest.raises(InvalidArgs):
        dma_flags(0)


# The kernel's log ---------------------------------------------------------------------------------

LINES = {
    "DMAR: [DMA Write NO_PASID] Request device [00:05.0] fault addr 0x110000 "
    "[fault reason 0x05] PTE Write access is not set": (MINE, WRITE, 0x110000, True),
    "DMAR: [DMA Read NO_PASID] Request device [00:04.0] fault addr 0xfffff000 "
    "[fault reason 0x06] PTE Read access is not set": (
        PciAddress(0, 0, 4, 0),
        READ,
        0xFFFFF000,
        True,
    ),
    "DMAR: [DMA Read] Request device [3f:1f.7] PASID ffffffff fault addr 7fff0000 "
    "[fault reason 06] PTE Read access is not set": (
        PciAddress(0, 0x3F, 0x1F, 7),
        READ,
        0x7FFF0000,
        True,
    ),
    "vfio-pci 0001:00:05.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0013 "
    "address=0x1234000 flags=0x0020]": (PciAddress(1, 0, 5, 0), WRITE, 0x1234000, False),
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:00:05.0 domain=0x0013 "
    "address=0x1234000 flags=0x0000]": (MINE, READ, 0x1234000, False),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_fault(line: str) -> None:
    """As Linux 5.10 to 6.18 print them. Source: drivers/iommu/intel/dmar.c, amd/iommu.c."""
    found = parse(line)
    assert found is not None
    device, access, address, any_domain = LINES[line]
    assert (found.device, found.access, found.address) == (device, access, address)
    assert found.any_domain is any_domain


@pytest.mark.parametrize(
    "line",
    [
        "",
        "DMAR: DRHD: handling fault status reg 2",
        "DMAR: [INTR-REMAP] Request device [00:05.0] fault index 0x1 [fault reason 0x22]",
        "vfio-pci 0000:00:05.0: enabling device (0000 -> 0002)",
        "DMAR: [DMA Write] Request device [zz:05.0] fault addr 0x1000 [fault reason 5] x",
    ],
)
def test_a_line_of_something_else(line: str) -> None:
    assert parse(line) is None


def test_whose_line_it_is() -> None:
    """Intel's line does not say which domain; AMD's does."""
    intel, _, _, amd, _ = (parse(line) for line in LINES)
    assert intel is not None
    assert amd is not None
    assert intel.is_about(MINE)
    assert intel.is_about(replace(MINE, domain=1))
    assert not intel.is_about(replace(MINE, device=4))
    assert amd.is_about(replace(MINE, domain=1))
    assert not amd.is_about(MINE)


def explained(page: int, access: int) -> tuple[FaultReason, str, None]:
    del page, access
    return FaultReason.NOTHING_THERE, "nothing there", None


def test_only_this_devices_lines_become_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when the log was opened, with the page and the direction; listeners hear of each."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    monkeypatch.setattr(kmsg, "PATH", str(path))
    monkeypatch.setattr(os, "lseek", lambda fd, offset, whence: 0)  # a pipe cannot
    log = KernelFaultLog(MINE, explained)
    writer = os.open(path, os.O_WRONLY)
    heard: list[pf.Fault] = []
    log.subscribe(heard.append)
    assert (log.readable, log.total, len(log), list(log)) == (True, 0, 0, [])
    mine, others = (f"4,{number},1,-;{line}\n" for number, line in enumerate(list(LINES)[:2]))
    os.write(writer, others.encode())
    assert log.total == 0
    os.write(writer, mine.encode())
    assert (log.total, heard) == (1, [])
    assert len(log) == 1
    fault = log[-1]
    assert (fault.initiator, fault.access, fault.address) == (0x28, WRITE, 0x110000)
    assert "reason 0x05, PTE Write access is not set" in fault.detail
    assert heard == [fault]
    log.clear()
    assert (log.total, list(log)) == (1, [])
    log.close()
    assert not log.readable
    os.close(writer)


def test_without_the_log_there_are_no_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmsg, "PATH", str(tmp_path / "none"))
    log = KernelFaultLog(MINE, explained)
    assert not log.readable
    assert (log.total, len(log), list(log)) == (0, 0, [])
    log.close()


def test_a_log_that_is_there_and_fails_is_told() -> None:
    """No descriptor left is no reason to see no fault for ever."""
    for number, kind in ((errno.EMFILE, NoMemory), (errno.EIO, HostError)):
        with FailNth(1, number), pytest.raises(kind, match="kernel's log"):
            KernelFaultLog(MINE, explained)
    for number in (errno.EPERM, errno.EACCES, errno.ENOENT):
        with FailNth(1, number):
            assert not KernelFaultLog(MINE, explained).readable
