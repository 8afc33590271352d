# An iommufd as the container of one device: /dev/iommu, and the device's own file.
#
# Source: <linux/iommufd.h>, and Documentation/userspace-api/iommufd.rst and vfio.rst of Linux; what
# each refusal means was tried on Linux 7.3, in the guest of tests/vfio/test_iommufd.py.
#
# Two orders carry the safety of this file:
#
#   open    bind the device, make the address space, ATTACH, and only then map
#   close   DETACH, and only then destroy the address space
#
# A mapping in a space without a device pins nothing and checks nothing: it would be a promise about
# memory that the kernel is free to move. Attached first, a mapping is there with its pins or it is
# refused. And a device that is detached first finds every address blocked, whatever is taken apart
# after that.
#
# Memory files are mapped by their descriptor where the kernel has IOAS_MAP_FILE (6.13): no address
# of this process is involved, so none can be unmapped or replaced under the grant. That request
# asks neither how a file was opened nor whether it is sealed. What may not be written is therefore
# mapped by its address when the device asks to write: there the kernel refuses it.
#
# What is different from type 1: pins are charged to the user, all processes together, and shown as
# VmPin, not VmLck; the same pages mapped twice are charged twice here as well; there is no limit on
# the number of mappings; and unmapping what is not there, or a part of a mapping, is ENOENT.
from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

from pinfold.bus import Anchor
from pinfold.buses.vfio import refusals
from pinfold.buses.vfio.type1 import dma_flags
from pinfold.errors import (
    AccessDenied,
    BadState,
    HostError,
    LimitReached,
    NotSupported,
    PinfoldError,
    Unavailable,
    WrongProcess,
)
from pinfold.host import abi_iommufd as abi
from pinfold.host import abi_vfio, calls, iommufd, probe
from pinfold.memory.hosterrors import each_tried, noted, translated
from pinfold.rights import Perm
from pinfold.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import PinnedRange
    from pinfold.host.pci import PciDevice
    from pinfold.units import ByteRange

_FLAGS: Final = (
    (abi_vfio.VFIO_DMA_MAP_FLAG_READ, abi.IOMMU_IOAS_MAP_READABLE),
    (abi_vfio.VFIO_DMA_MAP_FLAG_WRITE, abi.IOMMU_IOAS_MAP_WRITEABLE),
)

_REMEDIES: Final = {
    errno.EFAULT: "keep the memory mapped, and writable where the device may write",
    errno.EINVAL: "use whole pages inside the addresses that the bus reports",
}
"""For a mapping."""

_ATTACH_REMEDIES: Final = {
    errno.EPERM: "have the machine remap interrupts, or see allow_unsafe_interrupts of iommufd",
    errno.EADDRINUSE: "map only after the device is attached",
}


_VTD_PAGES: Final = ((1 << 34, 21), (1 << 35, 30))
"""Bits of VT-d's capability register, and of an address in a page. Source: Intel VT-d
specification 11.4.2, SSLPS."""


def missing(device: PciDevice) -> PinfoldError | None:
    """Why ``device`` is not to be had through an iommufd; None where it can be tried.

    Opens what is to be opened and closes it again, which binds nothing.

    Raises:
      NoMemory, HostError: that could not be found out.
    """
    try:
        path = _device_path(device)
        for opening in (_open_iommu, partial(_open_device, path)):
            fd = opening()
            with translated("close what was opened to try it"):
                calls.close(fd)
    except (NotSupported, AccessDenied, Unavailable) as error:
        return error
    return None


class IommufdContainer:
    """One device in an I/O address space of its own.

    Args:
      device: bound to vfio-pci.

    Raises:
      NotSupported: the kernel has no iommufd, or no file for this device.
      AccessDenied: this process may not open one of the two.
      Unavailable: another program has the device or its group, or the kernel drives a neighbour.
      NoMemory: no descriptor or no memory is left.
      HostError: the kernel refused for another reason.
    """

    name = "iommufd"
    anchor = Anchor.IOMMUFD

    def __init__(self, device: PciDevice) -> None:
        self._address = str(device.address)
        self._closed: BadState | None = None
        """What a call raises from now on; None while the container is open."""
        path = _device_path(device)
        opened: list[int] = []
        try:
            self._iommu = _open_iommu()
            opened.append(self._iommu)
            self._device = _open_device(path)
            opened.append(self._device)
            self._bind()
            self._attach()
        except BaseException as error:
            # Closing undoes the rest: the binding, and whatever was made in the iommufd.
            for fd in reversed(opened):
                with noted("closing what was opened", error):
                    calls.close(fd)
            raise

    def _bind(self) -> None:
        try:
            self._number = iommufd.bind(self._device, self._iommu)
        except OSError as error:
            # EBUSY: the file of its group is open, or the kernel drives a neighbour in the group.
            # EINVAL: its own file was bound before, by somebody who opened it, too.
            if error.errno in (errno.EBUSY, errno.EINVAL):
                raise Unavailable(
                    f"PCI device {self._address} is in use",
                    holder="another bus of this process, another process, a mapping of one of its "
                    "BARs, or the driver of another device in its IOMMU group",
                    remedy="close that, or bind every device of the group to vfio-pci",
                ) from error
            raise HostError(f"bind PCI device {self._address} to an iommufd", error) from error

    def _attach(self) -> None:
        """Attach the device to a new address space, and see what that is like with it inside."""
        with translated("make an I/O address space"):
            self._ioas = iommufd.alloc_ioas(self._iommu)
        try:
            iommufd.attach(self._device, self._ioas)
        except OSError as error:
            what = f"attach PCI device {self._address} to an I/O address space"
            if error.errno == errno.EBUSY:
                raise Unavailable(f"{what}: it is being reset", remedy="try again") from error
            remedy = _ATTACH_REMEDIES.get(error.errno or 0)
            raise HostError(what, error, remedy=remedy) from error
        with translated("ask what the IOMMU can do"):
            self._ranges, smallest = iommufd.iova_ranges(self._iommu, self._ioas)
            able = iommufd.vtd_capabilities(self._iommu, self._number) or 0
            larger = (1 << shift for bit, shift in _VTD_PAGES if able & bit)
            self._page_sizes = (smallest, *larger)
            self._takes_files = iommufd.has_map_file(self._iommu)

    @property
    def takes_files(self) -> bool:
        """True where the kernel maps memory files by their descriptor."""
        return self._takes_files

    def open_device(self) -> int:
        """See `Container.open_device`: another descriptor of the same open file.

        The device stays bound until the last of them is closed.
        """
        self._check()
        with translated(f"open PCI device {self._address} once more"):
            return calls.dup(self._device)

    def ranges(self) -> tuple[ByteRange, ...]:
        """See `Container.ranges`. As of the attachment: no second device comes to narrow them."""
        return self._ranges

    def page_sizes(self) -> tuple[int, ...]:
        """See `Container.page_sizes`: what mappings align to, and what Intel's units say of theirs.

        Of other IOMMUs iommufd tells the smallest alone.
        """
        return self._page_sizes

    def limit(self) -> int | None:
        """See `Container.limit`: iommufd has none."""
        return None

    def map(self, pinned: PinnedRange, iova: int, perms: int) -> None:
        """See `Container.map`. A memory file by its descriptor, other memory by its address."""
        self._check()
        wanted, size = dma_flags(perms), pinned.size
        flags = sum(theirs for ours, theirs in _FLAGS if wanted & ours)
        file = pinned.memfd if self._takes_files else None
        if perms & Perm.WRITE and not pinned.writable:
            file = None
        try:
            if file is None:
                address = pinned.host_address
                iommufd.map_memory(self._iommu, self._ioas, address, iova, size, flags)
            else:
                fd, start = file
                iommufd.map_file(self._iommu, self._ioas, fd, start, iova, size, flags)
        except OSError as error:
            if not refusals.is_the_kernels(error):
                raise
            what = f"map {size:#x} bytes of {pinned.what} at {iova:#x}"
            raise _from_map(what, error, size) from error

    def unmap(self, iova: int, size: int, *, again: bool = False) -> None:
        """See `Container.unmap`."""
        self._check()
        what = f"unmap {size:#x} bytes at {iova:#x}"
        try:
            unmapped = iommufd.unmap(self._iommu, self._ioas, iova, size)
        except OSError as error:
            if not refusals.is_the_kernels(error):
                raise
            remedy = None
            if error.errno == errno.ENOENT:  # nothing there, or a part of something
                if again:  # what was mapped is no part, so it is gone
                    return
                remedy = "unmap what was mapped, whole and once"
            raise HostError(what, error, remedy=remedy) from error
        if unmapped != size:
            raise BadState(
                f"{what}: the kernel unmapped another number of bytes",
                asked=size,
                available=unmapped,
                holder="whoever else has the iommufd: a forked child could map in it",
                remedy="have that end, then release_quarantine(): what is not mapped then is gone",
            )

    def close(self) -> None:
        """See `Container.close`. Every step is taken; the first refusal is raised in the end."""
        if self._closed is not None:
            return
        self._closed = BadState("this bus is closed")
        space = partial(iommufd.destroy, self._iommu, self._ioas)
        each_tried(
            (
                self._step("detach", partial(iommufd.detach, self._device)),
                self._step("destroy the I/O address space of", space),
                self._step("close", partial(calls.close, self._device)),
                self._step("close the iommufd of", partial(calls.close, self._iommu)),
            )
        )

    def abandon(self) -> None:
        """See `Container.abandon`. The parent's descriptors keep everything as it is."""
        if self._closed is not None:
            return
        self._closed = WrongProcess("this bus belongs to the process that this one was forked from")
        each_tried(
            self._step("close the child's copy of", partial(calls.close, fd))
            for fd in (self._device, self._iommu)
        )

    def _check(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(self._closed.message)

    def _step(self, what: str, call: Callable[[], object]) -> Callable[[], None]:
        """``call`` with its refusals as pinfold's."""

        def step() -> None:
            with translated(f"{what} PCI device {self._address}"):
                call()

        return step


def _device_path(device: PciDevice) -> str:
    """The device's own file. Raises NotSupported where it has none."""
    if device.cdev is None:
        raise NotSupported(
            f"PCI device {device} has no device file of its own",
            remedy="bind it to vfio-pci, on a kernel with CONFIG_VFIO_DEVICE_CDEV",
        )
    return device.cdev


def _open_iommu() -> int:
    try:
        return iommufd.open_iommu()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise NotSupported(
                f"the kernel has no iommufd: there is no {iommufd.IOMMU}",
                remedy="use a kernel with CONFIG_IOMMUFD, or VFIO's own container",
            ) from error
        raise refusals.from_open(iommufd.IOMMU, error) from error


def _open_device(path: str) -> int:
    try:
        return iommufd.open_device(path)
    except OSError as error:
        raise refusals.from_open(path, error) from error


def _from_map(what: str, error: OSError, size: int) -> PinfoldError:
    """Mapping ``size`` bytes was refused."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is not None:
        return HostError(what, error, remedy=remedy)
    if error.errno != errno.ENOMEM:
        return refusals.from_map(what, error, size=size, limit=None, mapped=0)
    try:
        pinned, limit = probe.process_memory().pinned, probe.memlock_limit()
        binds = not probe.may_exceed_memlock()
    except OSError as second:
        return HostError(f"{what}: not enough memory, and reading the limit", second)
    if limit is None or not binds:
        return refusals.from_map(what, error, size=size, limit=None, mapped=0)
    # The pages are there already, so this is the limit. It counts what all the processes of the
    # user have pinned, which nobody can read; of ours we know.
    return LimitReached(
        f"{what}: RLIMIT_MEMLOCK would be passed; each grant counts anew",
        asked=size,
        available=max(0, limit - pinned) if pinned + size > limit else None,
        limit=limit,
        holder=f"this process has {human_size(pinned)} pinned for devices; what other processes "
        "of this user have pinned counts, too",
        remedy="unpin something, raise the limit (ulimit -l, LimitMEMLOCK=), or give the process "
        "CAP_IPC_LOCK",
    )
