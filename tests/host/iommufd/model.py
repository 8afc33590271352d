"""A kernel with an iommufd and one device, for machines without.

`Model` takes the structures apart by the header's words, keeps what was mapped, and refuses what
the header says is refused, or what a test has it refuse. What the real kernel does is in
tests/vfio/test_iommufd.py, which needs a guest that has it.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from pinfold.host import abi_iommufd as abi
from pinfold.host import calls
from pinfold.host.pci import PciAddress, PciDevice
from pinfold.rights import Perm
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = int(Perm.READ), int(Perm.WRITE)
SIZE: Final = 4 * PAGE_SIZE
IOVA: Final = 0x10000
IOAS: Final = 7
NUMBER: Final = 3
RANGES: Final[tuple[tuple[int, int], ...]] = ((0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1))

NAMES: Final = {
    value: name.lower().removeprefix("iommu_").removeprefix("vfio_device_")
    for name, value in vars(abi).items()
    if name.isupper() and value >= abi.VFIO_DEVICE_BIND_IOMMUFD
}


class Model:
    """A kernel with one device. ``refuse`` has the errno of each request that it refuses."""

    def __init__(self) -> None:
        self.refuse: dict[int, int] = {}
        self.seen: list[str] = []
        self.mapped: dict[int, tuple[int, tuple[int, ...]]] = {}
        """By address: how long, and the fields of the request after its own length."""
        self.ranges = RANGES
        self.hardware = (1, 1 << 34)
        """What kind of IOMMU it has, and the capability register of Intel's."""
        self.attached = False
        self.spaces: set[int] = set()

    def ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        """In place of fcntl's."""
        os.fstat(fd)
        name = NAMES[request]
        self.seen.append(name)
        if request in self.refuse:
            raise OSError(self.refuse[request], os.strerror(self.refuse[request]))
        (length,) = struct.unpack_from("=I", argument)
        assert length == len(argument), name
        getattr(self, name)(argument)
        return 0

    def bind_iommufd(self, argument: bytearray) -> None:
        _, flags, iommu, _ = struct.unpack("=IIiI", argument)
        os.fstat(iommu)
        assert flags == 0
        struct.pack_into("=I", argument, 12, NUMBER)

    def ioas_alloc(self, argument: bytearray) -> None:
        self.spaces.add(IOAS)
        struct.pack_into("=I", argument, 8, IOAS)

    def attach_iommufd_pt(self, argument: bytearray) -> None:
        assert struct.unpack("=III", argument)[1:] == (0, IOAS)
        assert not self.mapped, "what is mapped before pins nothing"
        self.attached = True

    def detach_iommufd_pt(self, argument: bytearray) -> None:
        assert struct.unpack("=II", argument)[1] == 0
        self.attached = False

    def destroy(self, argument: bytearray) -> None:
        self.spaces.remove(struct.unpack("=II", argument)[1])
        self.mapped.clear()

    def ioas_iova_ranges(self, argument: bytearray) -> None:
        _, ioas, room, reserved, table, _ = struct.unpack("=IIIIQQ", argument)
        assert (ioas, reserved, self.attached) == (IOAS, 0, True)
        struct.pack_into("=I", argument, 8, len(self.ranges))
        if room < len(self.ranges):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        struct.pack_into("=Q", argument, 24, PAGE_SIZE)
        memory = calls.buffer_at(table, 16 * len(self.ranges))
        for at, (first, last) in enumerate(self.ranges):
            struct.pack_into("=QQ", memory, 16 * at, first, last)

    def get_hw_info(self, argument: bytearray) -> None:
        _, flags, device, room, table, _ = struct.unpack("=IIIIQI4x", argument)
        assert (flags, device, room, self.attached) == (0, NUMBER, 24, True)
        kind, register = self.hardware
        struct.pack_into("=IIQQ", calls.buffer_at(table, room), 0, 0, 0, register, 0)
        struct.pack_into("=I", argument, 24, kind)

    def ioas_map(self, argument: bytearray) -> None:
        self._map(argument, "=IIIIQQQ")

    def ioas_map_file(self, argument: bytearray) -> None:
        self._map(argument, "=IIIiQQQ")

    def _map(self, argument: bytearray, layout: str) -> None:
        _, *fields = struct.unpack(layout, argument)
        flags, *_, length, iova = fields
        if not flags & (abi.IOMMU_IOAS_MAP_READABLE | abi.IOMMU_IOAS_MAP_WRITEABLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        assert flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA
        assert self.attached
        self.mapped[iova] = length, tuple(fields)

    def ioas_unmap(self, argument: bytearray) -> None:
        _, ioas, iova, length = struct.unpack("=IIQQ", argument)
        assert ioas == IOAS
        found = [
            at for at, (size, _) in self.mapped.items() if iova <= at < at + size <= iova + length
        ]
        if not found:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        struct.pack_into("=Q", argument, 16, sum(self.mapped.pop(at)[0] for at in found))


DEVICE: Final = PciDevice(
    address=PciAddress(0, 0, 5, 0),
    vendor=0x1234,
    device=0x11E8,
    class_code=0xFF00,
    driver="vfio-pci",
    group=5,
    cdev="/dev/null",
)


def refusing(name: str, error: int) -> Callable[[str], None]:
    """An interceptor that refuses every call of that name."""

    def see(called: str) -> None:
        if called == name:
            raise OSError(error, os.strerror(error))

    return see
