"""What the tests of address regions share: a small world, and looks at real memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from pinfold import Kernel, Process, Right, Vmo, open_bus
from pinfold.host import calls
from pinfold.objects.handle import Handle
from pinfold.objects.mapping import Mapping
from pinfold.objects.pmt import Pmt
from pinfold.objects.vmar import Vmar, VmOption
from pinfold.units import PAGE_SIZE
from tests.user_memory import load

READ, WRITE, EXECUTE = VmOption.PERM_READ, VmOption.PERM_WRITE, VmOption.PERM_EXECUTE
RW = READ | WRITE
SPECIFIC, OVERWRITE = VmOption.SPECIFIC, VmOption.SPECIFIC_OVERWRITE
UPPER = VmOption.OFFSET_IS_UPPER_LIMIT
CAN_READ, CAN_WRITE = VmOption.CAN_MAP_READ, VmOption.CAN_MAP_WRITE
CAN_ALL = CAN_READ | CAN_WRITE | VmOption.CAN_MAP_EXECUTE | VmOption.CAN_MAP_SPECIFIC
STREAM = VmOption.FAULT_BEYOND_STREAM_SIZE
ILLEGAL = 1 << 16
RANGE = VmOption.MAP_RANGE
FAULTS = VmOption.ALLOW_FAULTS
P = PAGE_SIZE
ROOT_PAGES = 64
DEVICE = 0xC000_0000
"""A physical address at which there is no RAM."""

H = TypeVar("H", bound=Handle[Any])


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

    def __init__(self, *, strict: Literal["docs"] | None = None) -> None:
        self.kernel = Kernel(strict=strict)
        self.process = Process(self.kernel, name="test")
        self.kept: list[Handle[Any]] = []
        self.process.reserve_root(size=ROOT_PAGES * P)
        self.vmo = self.new_vmo(4)
        for page in range(4):
            self.vmo.write(bytes([page + 1]) * P, page * P)

    @property
    def root(self) -> Vmar:
        return self.process.root

    def end(self) -> None:
        """End the process. What is pinned is unpinned, and nothing may be left."""
        for handle in self.kept:
            if isinstance(handle, Pmt) and handle:
                handle.unpin()
        self.process.exit()
        assert self.kernel.objects() == []

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
    """What the books say is shown and what the processor sees are the same, page by page."""
    root = world.root
    shown: dict[int, int] = {}
    if root.base:
        for piece in root.object.region.pieces(root.base, root.base + root.size):
            for low, high, prot in piece.runs_in(piece.start, piece.edge):
                shown |= dict.fromkeys(range(low, high, P), prot)
        for low, high, perms in kernel_maps(root.base, root.base + root.size):
            for at in range(low, high, P):
                kind = "s" if at in shown else "p"  # the reservation is private
                prot = shown.pop(at, 0)
                bits = (letter if prot >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
                assert perms == "".join(bits) + kind, hex(at)
    assert not shown
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
    found = [load(made.address + page * P) for page in range(made.size // P)]
    return [None if byte is None else byte[0] for byte in found]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_in_tables(address: int) -> bool:
    """True when this address has a page table entry. Source: pagemap, bit 63."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // P * 8)
        return bool(pagemap.read(8)[7] & 0x80)


# Other threads, and the host ----------------------------------------------------------------------


@contextmanager
def at_each(name: str, act: Callable[[], None]) -> Iterator[None]:
    """``act`` before each host call of a name: what another thread does at that moment."""

    def see(seen: str) -> None:
        if seen == name:
            act()

    former = calls.set_interceptor(see)
    try:
        yield
    finally:
        calls.set_interceptor(former)


def refuse(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def elsewhere(act: Callable[[], object]) -> Callable[[], None]:
    """``act`` on another thread, and waits for it; once."""
    left = [1]

    def call() -> None:
        if not left[0]:
            return
        left[0] = 0
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    return call
