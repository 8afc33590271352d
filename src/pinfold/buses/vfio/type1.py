# A container of VFIO's own: Type1 v2, reached through the device's IOMMU group.
#
# Order, all of it the kernel's: container, group, group into container, then the IOMMU, and only
# then can anything be mapped or the device be opened. Version 2, because with version 1 an unmap
# takes more away than was asked.
#
# MAP_DMA pins at once, long-term, and charges VmLck by mapping: the same pages mapped twice are
# charged twice. It takes a range whole or not at all. UNMAP_DMA of what is not there succeeds and
# says 0 bytes, so what it says is checked.
#
# Source: <linux/vfio.h>, drivers/vfio/vfio_iommu_type1.c of Linux, measured on 6.1 and 6.18.
from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from pinfold.bus import Anchor
from pinfold.buses.vfio import refusals
from pinfold.errors import BadState, HostError, InvalidArgs, NotSupported, WrongProcess
from pinfold.host import abi_vfio as abi
from pinfold.host import calls, pci, vfio
from pinfold.memory.hosterrors import noted, translated
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange
    from pinfold.host.pci import PciDevice
    from pinfold.units import ByteRange


class Type1Container:
    """VFIO's container with one group in it.

    Args:
      device: whose group; bound to vfio-pci.

    Raises:
      AccessDenied, Unavailable, NotSupported, HostError: see `refusals.from_open`.
      BadState: the group is not viable (``.holder`` names who drives the others).
    """

    name = "type1"
    anchor = Anchor.VFIO

    def __init__(self, device: PciDevice) -> None:
        if device.group is None:
            raise refusals.no_iommu(device)
        self._address = str(device.address)
        self._lost = False
        self._mapped = 0
        self._books = threading.Lock()
        self._container = self._group = -1
        try:
            self._container = _open(vfio.CONTAINER)
            self._require_type1()
            self._group = _open(vfio.group_path(device.group))
            with translated(f"ask IOMMU group {device.group} for its status"):
                if not vfio.group_is_viable(self._group):
                    raise refusals.not_viable(device.group, pci.neighbours(device))
            with translated(f"put IOMMU group {device.group} into a container"):
                vfio.set_container(self._group, self._container)
                vfio.set_iommu(self._container, abi.VFIO_TYPE1v2_IOMMU)
                info = vfio.iommu_info(self._container)
        except BaseException as error:
            with noted("closing the container", error):
                self.close()
            raise
        self._ranges = info.ranges
        self._page_sizes = info.page_sizes or (PAGE_SIZE,)
        self._limit = info.available

    def _require_type1(self) -> None:
        with translated("ask VFIO for its version"):
            version = vfio.api_version(self._container)
            able = vfio.has_extension(self._container, abi.VFIO_TYPE1v2_IOMMU)
        if version != abi.VFIO_API_VERSION or not able:
            raise NotSupported(
                "this kernel's VFIO has no Type1 v2",
                asked=abi.VFIO_API_VERSION,
                available=version,
                remedy="as root: modprobe vfio_iommu_type1",
            )

    def open_device(self) -> int:
        """See `Container.open_device`."""
        group = self._open_fd(self._group)
        with translated(f"open PCI device {self._address}"):
            return vfio.device_fd(group, self._address)

    def ranges(self) -> tuple[ByteRange, ...]:
        """See `Container.ranges`."""
        return self._ranges

    def page_sizes(self) -> tuple[int, ...]:
        """See `Container.page_sizes`."""
        return self._page_sizes

    def limit(self) -> int | None:
        """See `Container.limit`: what the kernel said when the container was opened."""
        return self._limit

    def map(self, pinned: PinnedRange, iova: int, perms: int) -> None:
        """See `Container.map`."""
        container = self._open_fd(self._container)
        size = pinned.size
        try:
            vfio.map_dma(container, pinned.host_address, iova, size, dma_flags(perms))
        except OSError as error:
            if not refusals.is_the_kernels(error):
                raise
            what = f"map {size:#x} bytes of {pinned.what} at {iova:#x}"
            raise refusals.from_map(
                what, error, size=size, limit=self._limit, mapped=self._mapped
            ) from error
        with self._books:
            self._mapped += 1

    def unmap(self, iova: int, size: int, *, again: bool = False) -> None:
        """See `Container.unmap`."""
        container = self._open_fd(self._container)
        try:
            unmapped = vfio.unmap_dma(container, iova, size)
        except OSError as error:
            if not refusals.is_the_kernels(error):
                raise
            raise HostError(f"unmap {size:#x} bytes at {iova:#x}", error) from error
        if unmapped != size and (unmapped or not again):
            raise BadState(
                f"the kernel unmapped another number of bytes at {iova:#x} than were mapped",
                asked=size,
                available=unmapped,
                holder="whoever else has the container: a forked child could unmap it",
                remedy="have that end, then release_quarantine(): what is not mapped then is gone",
            )
        with self._books:
            self._mapped -= 1

    def close(self) -> None:
        """See `Container.close`."""
        if self._lost:
            return
        group, self._group = self._group, -1
        container, self._container = self._container, -1
        with translated("close the container"):
            try:
                if group >= 0:
                    calls.close(group)
            finally:
                if container >= 0:
                    calls.close(container)

    def abandon(self) -> None:
        """See `Container.abandon`."""
        self.close()
        self._lost = True

    def _open_fd(self, fd: int) -> int:
        if self._lost:
            raise WrongProcess("this bus belongs to the process that this one was forked from")
        if fd < 0:
            raise BadState("this bus is closed")
        return fd


def dma_flags(perms: int) -> int:
    """The permissions of a mapping. Raises NotSupported for EXECUTE, InvalidArgs for none."""
    if perms & Perm.EXECUTE:
        raise NotSupported(
            "an IOMMU that VFIO drives tells no fetch from a read",
            asked=perms,
            remedy="pin with READ, if the device may read what it executes",
        )
    flags = 0
    if perms & Perm.READ:
        flags |= abi.VFIO_DMA_MAP_FLAG_READ
    if perms & Perm.WRITE:
        flags |= abi.VFIO_DMA_MAP_FLAG_WRITE
    if not flags:
        raise InvalidArgs("a grant that permits nothing", asked=perms, remedy="name a Perm")
    return flags


def _open(path: str) -> int:
    try:
        return calls.open_file(path, os.O_RDWR)
    except OSError as error:
        raise refusals.from_open(path, error) from error
