# VFIO's requests, one function each: what goes into the structure, and what comes out of it.
#
# Source: <linux/vfio.h>, whose comments define each request; drivers/vfio of Linux for the errors.
#
# A structure begins with its own length. A request that has more to say than the caller left room
# for succeeds and says in that length how much it wants, so what has capabilities is asked twice.
#
# Every request is one host call with a name of its own, `vfio_map_dma` for one: a test can fail it
# or see when it was made. UNMAP_DMA is made even when a failure is injected, as close is: the
# device could still reach what a test believes it has lost.
from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pinfold.host import abi_vfio as abi
from pinfold.host import calls
from pinfold.units import ByteRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTAINER: Final = "/dev/vfio/vfio"
"""The device that makes containers; groups lie beside it."""

_PATH: Final = 256
"""Bytes of a buffer for a device's name; fcntl copies up to 1024."""


def group_path(group: int) -> str:
    """The device of an IOMMU group."""
    return f"{os.path.dirname(CONTAINER)}/{group}"


def _request(name: str, fd: int, request: int, argument: bytearray | int = 0) -> int:
    calls.intercept(f"vfio_{name}")
    return fcntl.ioctl(fd, request, argument)


def _chain(info: bytes, first: int) -> Iterator[tuple[int, int]]:
    """The capabilities in a structure, as (id, where its contents begin)."""
    at = first
    while at:
        kind, _version, following = struct.unpack_from("=HHI", info, at)
        yield kind, at + 8
        at = following


def _with_room(name: str, fd: int, request: int, fields: bytes) -> bytes:
    """A structure that says how long it wants to be, as long as it wants."""
    size = 4 + len(fields)
    for _ in range(2):
        info = bytearray(struct.pack("=I", size) + fields).ljust(size, b"\0")
        _request(name, fd, request, info)
        (wanted,) = struct.unpack_from("=I", info)
        if wanted <= size:
            break
        size = wanted
    return bytes(info)


# The container and the group ---------------------------------------------------------------------


def api_version(container: int) -> int:
    """VFIO_GET_API_VERSION."""
    return _request("get_api_version", container, abi.VFIO_GET_API_VERSION)


def has_extension(container: int, extension: int) -> bool:
    """VFIO_CHECK_EXTENSION."""
    return bool(_request("check_extension", container, abi.VFIO_CHECK_EXTENSION, extension))


def set_iommu(container: int, kind: int) -> None:
    """VFIO_SET_IOMMU: after a group has been put in the container."""
    _request("set_iommu", container, abi.VFIO_SET_IOMMU, kind)


def group_is_viable(group: int) -> bool:
    """VFIO_GROUP_GET_STATUS: whether every device of the group is VFIO's, or nobody's."""
    status = bytearray(struct.pack("=II", 8, 0))
    _request("group_get_status", group, abi.VFIO_GROUP_GET_STATUS, status)
    (flags,) = struct.unpack_from("=I", status, 4)
    return bool(flags & abi.VFIO_GROUP_FLAGS_VIABLE)


def set_container(group: int, container: int) -> None:
    """VFIO_GROUP_SET_CONTAINER."""
    number = bytearray(struct.pack("=i", container))
    _request("group_set_container", group, abi.VFIO_GROUP_SET_CONTAINER, number)


def device_fd(group: int, address: str) -> int:
    """VFIO_GROUP_GET_DEVICE_FD: a descriptor of the device, close-on-exec."""
    name = bytearray(address.encode().ljust(_PATH, b"\0"))
    return _request("group_get_device_fd", group, abi.VFIO_GROUP_GET_DEVICE_FD, name)


@dataclass(frozen=True, slots=True)
class IommuInfo:
    """What VFIO_IOMMU_GET_INFO says of a container with a group in it."""

    page_sizes: tuple[int, ...]
    """Bytes, ascending."""
    ranges: tuple[ByteRange, ...]
    """Addresses that can be mapped, ascending; none where the kernel does not say."""
    available: int | None
    """Mappings that can still be made; None where the kernel does not say."""


def iommu_info(container: int) -> IommuInfo:
    """VFIO_IOMMU_GET_INFO, capabilities included."""
    info = _with_room("iommu_get_info", container, abi.VFIO_IOMMU_GET_INFO, bytes(20))
    flags, page_bits, first = struct.unpack_from("=IQI", info, 4)
    sizes = (1 << bit for bit in range(64) if page_bits >> bit & 1)
    ranges: list[ByteRange] = []
    available = None
    if flags & abi.VFIO_IOMMU_INFO_CAPS:
        for kind, at in _chain(info, first):
            if kind == abi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                (count,) = struct.unpack_from("=I", info, at)
                ends = struct.unpack_from(f"={2 * count}Q", info, at + 8)
                pairs = zip(ends[::2], ends[1::2], strict=True)
                ranges = [ByteRange(low, last + 1) for low, last in pairs]  # theirs are inclusive
            elif kind == abi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                (available,) = struct.unpack_from("=I", info, at)
    return IommuInfo(
        page_sizes=tuple(sizes) if flags & abi.VFIO_IOMMU_INFO_PGSIZES else (),
        ranges=tuple(sorted(ranges)),
        available=available,
    )


def map_dma(container: int, address: int, iova: int, size: int, flags: int) -> None:
    """VFIO_IOMMU_MAP_DMA: pins the pages at ``address`` and lets the devices reach them."""
    request = bytearray(struct.pack("=IIQQQ", 32, flags, address, iova, size))
    _request("map_dma", container, abi.VFIO_IOMMU_MAP_DMA, request)


def unmap_dma(container: int, iova: int, size: int) -> int:
    """VFIO_IOMMU_UNMAP_DMA: how many bytes were unmapped, which may be none."""
    request = bytearray(struct.pack("=IIQQ", 24, 0, iova, size))
    fcntl.ioctl(container, abi.VFIO_IOMMU_UNMAP_DMA, request)
    calls.intercept("vfio_unmap_dma")
    unmapped: int = struct.unpack_from("=Q", request, 16)[0]
    return unmapped


# The device --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What VFIO_DEVICE_GET_INFO says."""

    flags: int
    regions: int
    interrupts: int


def device_info(device: int) -> DeviceInfo:
    """VFIO_DEVICE_GET_INFO."""
    info = bytearray(struct.pack("=5I", 20, 0, 0, 0, 0))
    _request("device_get_info", device, abi.VFIO_DEVICE_GET_INFO, info)
    _, flags, regions, interrupts, _ = struct.unpack("=5I", info)
    return DeviceInfo(flags, regions, interrupts)


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """What VFIO_DEVICE_GET_REGION_INFO says of one region."""

    flags: int
    size: int
    """Bytes; 0 where the device has no such region."""
    offset: int
    """Where it is in the device's descriptor."""
    mappable: tuple[ByteRange, ...]
    """Parts of the region that can be mapped, ascending."""


def region_info(device: int, index: int) -> RegionInfo:
    """VFIO_DEVICE_GET_REGION_INFO, capabilities included."""
    fields = struct.pack("=IIIQQ", 0, index, 0, 0, 0)
    info = _with_room("device_get_region_info", device, abi.VFIO_DEVICE_GET_REGION_INFO, fields)
    flags, _, first, size, offset = struct.unpack_from("=IIIQQ", info, 4)
    mappable = [ByteRange(0, size)] if flags & abi.VFIO_REGION_INFO_FLAG_MMAP else []
    if mappable and flags & abi.VFIO_REGION_INFO_FLAG_CAPS:
        for kind, at in _chain(info, first):
            if kind == abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
                (count,) = struct.unpack_from("=I", info, at)
                parts = struct.unpack_from(f"={2 * count}Q", info, at + 8)
                pairs = zip(parts[::2], parts[1::2], strict=True)
                mappable = [ByteRange(start, start + length) for start, length in pairs if length]
    return RegionInfo(flags, size, offset, tuple(sorted(mappable)))


@dataclass(frozen=True, slots=True)
class IrqInfo:
    """What VFIO_DEVICE_GET_IRQ_INFO says of one kind of interrupt."""

    flags: int
    count: int
    """Vectors that the device has of it."""


def irq_info(device: int, index: int) -> IrqInfo:
    """VFIO_DEVICE_GET_IRQ_INFO."""
    info = bytearray(struct.pack("=4I", 16, 0, index, 0))
    _request("device_get_irq_info", device, abi.VFIO_DEVICE_GET_IRQ_INFO, info)
    _, flags, _, count = struct.unpack("=4I", info)
    return IrqInfo(flags, count)


def set_irqs(
    device: int, index: int, action: int, start: int, count: int, eventfds: Sequence[int] = ()
) -> None:
    """VFIO_DEVICE_SET_IRQS, with an eventfd a vector, or with no data for none."""
    data = abi.VFIO_IRQ_SET_DATA_EVENTFD if eventfds else abi.VFIO_IRQ_SET_DATA_NONE
    size = 20 + 4 * len(eventfds)
    request = bytearray(
        struct.pack(f"=5I{len(eventfds)}i", size, data | action, index, start, count, *eventfds)
    )
    _request("device_set_irqs", device, abi.VFIO_DEVICE_SET_IRQS, request)


def reset(device: int) -> None:
    """VFIO_DEVICE_RESET."""
    _request("device_reset", device, abi.VFIO_DEVICE_RESET)


def read_region(device: int, offset: int, size: int) -> bytes:
    """Read a region of a device through its descriptor; one access where it is aligned."""
    calls.intercept("vfio_read_region")
    return os.pread(device, size, offset)


def write_region(device: int, offset: int, data: bytes) -> int:
    """Write a region of a device through its descriptor: bytes written."""
    calls.intercept("vfio_write_region")
    return os.pwrite(device, data, offset)
