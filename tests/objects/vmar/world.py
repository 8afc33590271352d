"""What the tests of address regions share: a small world, and looks at real memory."""

from __future__ import annotations

import errno
import os
from typing import Any, TypeVar

from pinfold import Kernel, Process, Right, Vmo, open_bus
from pinfold.host import calls
from pinfold.objects.handle import Handle
from pinfold.objects.mapping import Mapping
from pinfold.objects.vmar import Vmar, VmOption
from pinfold.units import PAGE_SIZE

READ, WRITE, EXECUTE = VmOption.PERM_READ, VmOption.PERM_WRITE, VmOption.PERM_EXECUTE
RW = READ | WRITE
SPECIFIC, OVERWRITE = VmOption.SPECIFIC, VmOption.SPECIFIC_OVERWRITE
UPPER = VmOption.OFFSET_IS_UPPER_LIMIT
CAN_READ, CAN_WRITE = VmOption.CAN_MAP_READ, VmOption.CAN_MAP_WRITE
CAN_ALL = CAN_READ | CAN_WRITE | VmOption.CAN_MAP_EXECUTE | VmOption.CAN_MAP_SPECIFIC
STREAM = VmOption.FAULT_BEYOND_STREAM_SIZE
ILLEGAL = 1 << 16
P = PAGE_SIZE
ROOT_PAGES = 64

H = TypeVar("H", bound=Handle[Any])


def reads(address: int, size: int = 1) -> bytes | None:
    """The bytes at ``address``, or None where reading them would fault."""
    try:
        return calls.process_vm_read(os.getpid(), address, size)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return None


def writes(address: int, data: bytes) -> bool:
    """Write at ``address`` as a store would; False where it would fault."""
    try:
        return calls.process_vm_write(os.getpid(), address, data) == len(data)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return False


def kernel_maps(start: int, stop: int) -> list[tuple[int, int, str]]:
    """The lines of /proc/self/maps inside a range: start, stop, permissions."""
    found = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            where, perms = line.split()[:2]
            low, high = (int(part, 16) for part in where.split("-"))
            if low < stop and start < high:
                found.append((max(low, start), min(high, stop), perms))
    return found


class World:
    """A kernel, a process with a small root region, and a memory object of four pages.

    It keeps the handles that are made through it until the process exits.
    """

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.process = Process(self.kernel, name="test")
        self.kept: list[Handle[Any]] = []
        self.process.reserve_root(size=ROOT_PAGES * P)
        self.vmo = self.new_vmo(4)
        for page in range(4):
            self.vmo.write(bytes([page + 1]) * P, page * P)

    @property
    def root(self) -> Vmar:
        return self.process.root

    def keep(self, handle: H) -> H:
        self.kept.append(handle)
        return handle

    def new_vmo(self, pages: int, *, resizable: bool = False, name: str = "m") -> Vmo:
        return self.keep(Vmo(pages * P, name=name, resizable=resizable, process=self.process))

    def allocate(
        self,
        size: int,
        options: VmOption | int = 0,
        *,
        offset: int = 0,
        name: str = "",
        of: Vmar | None = None,
    ) -> Vmar:
        return self.keep((of or self.root).allocate(size, options, offset=offset, name=name))

    def without(self, handle: H, rights: Right) -> H:
        return self.keep(handle.duplicate(handle.rights & ~rights))

    def executable(self) -> Vmo:
        made = self.new_vmo(1)
        made._entry.rights |= Right.EXECUTE
        return made


def agree(world: World) -> None:
    """What the books say is mapped and what the processor sees are the same."""
    root = world.root
    mapped: dict[int, tuple[int, int]] = {}
    for record in root.maps():
        if record.kind == "mapping":
            for at in range(record.base, record.base + record.size, P):
                mapped[at] = int(record.perms), record.vmo_koid
    if root.base:
        for low, high, perms in kernel_maps(root.base, root.base + root.size):
            for at in range(low, high, P):
                bits = mapped.pop(at, (0, 0))[0]
                assert perms[0] == ("r" if bits & 1 else "-"), hex(at)
                assert perms[1] == ("w" if bits & 2 else "-"), hex(at)
                assert perms[2] == ("x" if bits & 4 else "-"), hex(at)
    assert not mapped
    koids = [r.vmo_koid for r in root.maps() if r.kind == "mapping"]
    assert set(koids) <= {found.koid for found in world.kernel.objects()}


def contiguous(world: World) -> Vmo:
    with open_bus("stub", process=world.process) as iommu, iommu.initiator(1) as bti:
        return world.keep(Vmo.contiguous(bti, P, process=world.process))


def dead_region(world: World) -> Vmar:
    made = world.allocate(4 * P, CAN_ALL)
    made.destroy()
    return made


def childless_handle(world: World) -> Vmar:
    return world.without(world.root, Right.OP_CHILDREN)


def shown(world: World, made: Mapping) -> list[int | None]:
    found = [reads(made.address + page * P) for page in range(made.size // P)]
    return [None if byte is None else byte[0] for byte in found]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
