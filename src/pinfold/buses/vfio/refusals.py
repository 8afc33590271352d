# What VFIO's refusals mean, and what to do about each.
#
# Source: drivers/vfio and drivers/iommu of Linux for what is refused when; each was provoked in the
# guest of tests/vfio.
from __future__ import annotations

import errno
import os
import pwd
from typing import TYPE_CHECKING

from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    HostError,
    LimitReached,
    NoMemory,
    NotSupported,
    PinfoldError,
    Unavailable,
)
from pinfold.host import probe
from pinfold.units import human_size

if TYPE_CHECKING:
    from pinfold.host.pci import PciDevice


def not_bound(device: PciDevice) -> BadState:
    """The device belongs to another driver, or to none."""
    address = str(device.address)
    steps = [
        f"echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override",
        f"echo {address} > /sys/bus/pci/drivers_probe",
    ]
    if device.driver is not None:
        steps.insert(0, f"echo {address} > /sys/bus/pci/devices/{address}/driver/unbind")
    return BadState(
        f"PCI device {device} is not bound to vfio-pci",
        holder=f"driver {device.driver}" if device.driver else "no driver",
        remedy=f"as root: modprobe vfio-pci; {'; '.join(steps)}",
    )


def no_iommu(device: PciDevice) -> NotSupported:
    """Nothing translates for the device, so it could reach everything."""
    return NotSupported(
        f"no IOMMU translates for PCI device {device}",
        remedy="enable VT-d or AMD-Vi in the firmware and boot with intel_iommu=on; or use the "
        "phys bus, which protects nothing",
    )


def not_viable(group: int, neighbours: list[PciDevice]) -> BadState:
    """A device of the group has another driver, and devices of a group can reach each other."""
    others = ", ".join(
        f"{other} on driver {other.driver}" for other in neighbours if other.driver is not None
    )
    return BadState(
        f"IOMMU group {group} has devices that the kernel drives itself",
        holder=others or None,
        remedy="bind every device of the group to vfio-pci, or to no driver",
    )


def is_the_kernels(error: OSError) -> bool:
    """False for what a signal handler raised, a TimeoutError for one.

    It may come right after the kernel has done what was asked, so it is no refusal. One that has an
    errno cannot be told from the kernel's own.
    """
    return error.errno is not None and not isinstance(error, TimeoutError)


def _user() -> str:
    """Who this process runs as, for a command that somebody else will run."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # it has no name here, and chown takes the number
        return str(number)


def from_open(path: str, error: OSError) -> PinfoldError:
    """Opening a container, a group or a device's own file was refused."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"this process may not open {path}",
            remedy=f"run as its owner, or as root: chown {_user()} {path}",
        )
    if error.errno == errno.EBUSY:
        return Unavailable(
            f"{path} is in use",
            holder="another bus of this process, another process, or a mapping of one of its BARs",
            remedy=f"close that; `fuser -v {path}` names the process",
        )
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return NotSupported(
            f"there is no {path}",
            remedy="as root: modprobe vfio-pci; or use a kernel with CONFIG_VFIO_PCI",
        )
    return HostError(f"open {path}", error)


def from_map(
    what: str, error: OSError, *, size: int, limit: int | None, mapped: int
) -> PinfoldError:
    """Mapping ``size`` bytes was refused.

    Args:
      limit: mappings at most.
      mapped: mappings that are live.
    """
    if error.errno == errno.ENOSPC:
        return LimitReached(
            f"{what}: the IOMMU's container has no mapping left",
            asked=1,
            available=0,
            limit=limit,
            holder=f"{mapped} live grant(s)",
            remedy="unpin something, pin larger ranges, or raise the dma_entry_limit of the module "
            "vfio_iommu_type1",
        )
    if error.errno == errno.EEXIST:
        return AlreadyExists(
            f"{what}: something is mapped there that this bus did not map",
            holder="a forked child with a copy of the container's descriptor",
            remedy="let one process use the container",
        )
    if error.errno == errno.EBUSY:
        return Unavailable(f"{what}: the IOMMU is busy", remedy="try again")
    if error.errno == errno.ENOMEM:
        return _no_memory(what, size)
    return HostError(what, error)


def _no_memory(what: str, size: int) -> PinfoldError:
    """ENOMEM is a limit that objects, or memory that there is none of: the books tell."""
    try:
        memory, limit = probe.process_memory(), probe.memlock_limit()
        binds = limit is not None and not probe.may_exceed_memlock()
    except OSError as error:
        return HostError(f"{what}: not enough memory, and reading the limit", error)
    charged = max(memory.locked, memory.pinned)
    if binds and limit is not None and charged + size > limit:
        return LimitReached(
            f"{what}: RLIMIT_MEMLOCK would be passed; each grant counts anew",
            asked=size,
            available=max(0, limit - charged),
            limit=limit,
            holder=f"this process has {human_size(charged)} locked or mapped for devices",
            remedy="unpin something, raise the limit (ulimit -l, LimitMEMLOCK=), or give the "
            "process CAP_IPC_LOCK",
        )
    return NoMemory(f"{what}: the host has no memory left", asked=size, remedy="free memory")
