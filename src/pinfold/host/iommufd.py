# iommufd's requests, one function each: what goes into the structure, and what comes out of it.
#
# Source: <linux/iommufd.h> and <linux/vfio.h>, whose comments define each request; drivers/iommu/
# iommufd of Linux for the errors.
#
# A structure begins with its own length. The kernel takes a shorter one for an older one, and
# refuses a longer one only where what it does not know is not 0: the layouts here are the first
# that each request had, and no kernel needs another.
#
# Every request is one host call with a name of its own, `iommufd_map` for one: a test can fail it
# or see when it was made. What shuts a device out is made even when a failure is injected, as close
# is: the device could still reach what a test believes it has lost.
from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from pinfold.host import abi_iommufd as abi
from pinfold.host import calls
from pinfold.units import ByteRange

IOMMU: Final = "/dev/iommu"
"""The device that makes I/O address spaces; the kernel has it or not."""

DESTROY: Final = struct.Struct("=II")
ALLOC: Final = struct.Struct("=III")
RANGE: Final = struct.Struct("=QQ")
RANGES: Final = struct.Struct("=IIIIQQ")
MAP: Final = struct.Struct("=IIIIQQQ")
MAP_FILE: Final = struct.Struct("=IIIiQQQ")
UNMAP: Final = struct.Struct("=IIQQ")
HW_INFO: Final = struct.Struct("=IIIIQI4x")
VTD_INFO: Final = struct.Struct("=IIQQ")
BIND: Final = struct.Struct("=IIiI")
ATTACH: Final = struct.Struct("=III")
DETACH: Final = struct.Struct("=II")

_FEW_RANGES: Final = 16


def _request(name: str, fd: int, request: int, argument: bytearray) -> None:
    calls.intercept(f"iommufd_{name}")
    fcntl.ioctl(fd, request, argument)


def _last_request(name: str, fd: int, request: int, argument: bytearray) -> None:
    """One that is made before a failure is injected."""
    fcntl.ioctl(fd, request, argument)
    calls.intercept(f"iommufd_{name}")


def open_iommu() -> int:
    """A new iommufd, close-on-exec. Whatever is made in it goes when it is closed."""
    return calls.open_file(IOMMU, os.O_RDWR)


def open_device(path: str) -> int:
    """A device's own file, close-on-exec. It refuses everything until it is bound."""
    return calls.open_file(path, os.O_RDWR)


# The device --------------------------------------------------------------------------------------


def bind(device: int, iommu: int) -> int:
    """VFIO_DEVICE_BIND_IOMMUFD: the number that the iommufd knows the device by."""
    request = bytearray(BIND.pack(BIND.size, 0, iommu, 0))
    _request("bind", device, abi.VFIO_DEVICE_BIND_IOMMUFD, request)
    number: int = BIND.unpack(request)[3]
    return number


def attach(device: int, ioas: int) -> None:
    """VFIO_DEVICE_ATTACH_IOMMUFD_PT: from now on the device's addresses mean this space's."""
    request = bytearray(ATTACH.pack(ATTACH.size, 0, ioas))
    _request("attach", device, abi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, request)


def detach(device: int) -> None:
    """VFIO_DEVICE_DETACH_IOMMUFD_PT: every access of the device is blocked."""
    request = bytearray(DETACH.pack(DETACH.size, 0))
    _last_request("detach", device, abi.VFIO_DEVICE_DETACH_IOMMUFD_PT, request)


# The address space -------------------------------------------------------------------------------


def alloc_ioas(iommu: int) -> int:
    """IOMMU_IOAS_ALLOC: the number of a new I/O address space."""
    request = bytearray(ALLOC.pack(ALLOC.size, 0, 0))
    _request("alloc", iommu, abi.IOMMU_IOAS_ALLOC, request)
    number: int = ALLOC.unpack(request)[2]
    return number


def destroy(iommu: int, number: int) -> None:
    """IOMMU_DESTROY: an address space goes, with every mapping in it."""
    request = bytearray(DESTROY.pack(DESTROY.size, number))
    _last_request("destroy", iommu, abi.IOMMU_DESTROY, request)


def iova_ranges(iommu: int, ioas: int) -> tuple[tuple[ByteRange, ...], int]:
    """IOMMU_IOAS_IOVA_RANGES: where mappings can lie, ascending, and how they are aligned."""
    room = _FEW_RANGES
    while True:
        table = bytearray(room * RANGE.size)
        with memoryview(table) as view:
            address = calls.address_of(view)
            request = bytearray(RANGES.pack(RANGES.size, ioas, room, 0, address, 0))
            try:
                _request("ranges", iommu, abi.IOMMU_IOAS_IOVA_RANGES, request)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                room *= 2
                continue
        _, _, count, _, _, alignment = RANGES.unpack(request)
        pairs = (RANGE.unpack_from(table, at * RANGE.size) for at in range(count))
        # theirs are inclusive
        return tuple(sorted(ByteRange(low, last + 1) for low, last in pairs)), alignment


def vtd_capabilities(iommu: int, device: int) -> int | None:
    """IOMMU_GET_HW_INFO: the capability register of the VT-d unit in front of a bound device.

    None where the IOMMU is none of Intel's, or the kernel does not say what it is.
    """
    data = bytearray(VTD_INFO.size)
    with memoryview(data) as view:
        address = calls.address_of(view)
        request = bytearray(HW_INFO.pack(HW_INFO.size, 0, device, len(data), address, 0))
        try:
            _request("hw_info", iommu, abi.IOMMU_GET_HW_INFO, request)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                return None
            raise
    if HW_INFO.unpack(request)[5] != abi.IOMMU_HW_INFO_TYPE_INTEL_VTD:
        return None
    capabilities: int = VTD_INFO.unpack(data)[2]
    return capabilities


def has_map_file(iommu: int) -> bool:
    """Whether the kernel knows IOMMU_IOAS_MAP_FILE.

    Asked for a mapping without any permission, which a kernel that knows the request refuses before
    it looks at the rest.
    """
    request = bytearray(MAP_FILE.pack(MAP_FILE.size, 0, 0, -1, 0, 0, 0))
    try:
        _request("has_map_file", iommu, abi.IOMMU_IOAS_MAP_FILE, request)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return False
        if error.errno == errno.EINVAL:
            return True
        raise
    return True


def map_memory(iommu: int, ioas: int, address: int, iova: int, size: int, flags: int) -> None:
    """IOMMU_IOAS_MAP, at ``iova``: pins the pages at ``address`` if a device is attached."""
    flags |= abi.IOMMU_IOAS_MAP_FIXED_IOVA
    request = bytearray(MAP.pack(MAP.size, flags, ioas, 0, address, size, iova))
    _request("map", iommu, abi.IOMMU_IOAS_MAP, request)


def map_file(
    iommu: int, ioas: int, memfd: int, start: int, iova: int, size: int, flags: int
) -> None:
    """IOMMU_IOAS_MAP_FILE, at ``iova``: the pages of a memory file, mapped here or not.

    The kernel looks neither at how the file was opened nor at its seals: a device may write to a
    file that nobody else may write to.
    """
    flags |= abi.IOMMU_IOAS_MAP_FIXED_IOVA
    request = bytearray(MAP_FILE.pack(MAP_FILE.size, flags, ioas, memfd, start, size, iova))
    _request("map_file", iommu, abi.IOMMU_IOAS_MAP_FILE, request)


def unmap(iommu: int, ioas: int, iova: int, size: int) -> int:
    """IOMMU_IOAS_UNMAP: how many bytes were unmapped."""
    request = bytearray(UNMAP.pack(UNMAP.size, ioas, iova, size))
    _last_request("unmap", iommu, abi.IOMMU_IOAS_UNMAP, request)
    unmapped: int = UNMAP.unpack(request)[3]
    return unmapped
