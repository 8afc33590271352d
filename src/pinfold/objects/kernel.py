# A kernel: what its objects share.
#
# Koids, the ledger of pins and its limit, the simulated physical address map, and the registry of
# live objects. There is a default one; a test makes its own and shares nothing with another test.
#
# The lock is the first in the order of locks (memory/locks.py). It is held for books and for short
# reads and writes, never while the host commits or locks memory for a caller.
from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, cast

from pinfold import sites
from pinfold.errors import InvalidArgs
from pinfold.memory.device_memory import DeviceMemory
from pinfold.memory.ledger import Ledger, LedgerStatistics
from pinfold.memory.locks import KernelLock, log
from pinfold.memory.physmap import PhysicalMap
from pinfold.memory.ranges import RangeMap
from pinfold.objects.counted_pins import CountedPins
from pinfold.objects.object import ObjectType
from pinfold.objects.resource_space import ResourceSpaces
from pinfold.units import PAGE_SIZE

if TYPE_CHECKING:
    from pinfold.memory.pages import Pages
    from pinfold.memory.pinned import PinnedRange
    from pinfold.objects.addresses import Stretch
    from pinfold.objects.device_maps import DeviceMap
    from pinfold.objects.lent import Lent
    from pinfold.objects.memory_object import VmoObject
    from pinfold.objects.object import KernelObject
    from pinfold.objects.region import VmarObject
    from pinfold.objects.signals import Waiter

_KEPT_ELSEWHERE: Final = (ObjectType.PROCESS, ObjectType.VMAR)
"""Listed for as long as their users keep them: a dropped process is to end."""

_FIRST_KOID: Final = 1024  # Source: Zircon reserves the numbers below for itself


@dataclass(frozen=True, slots=True)
class Leak:
    """Pins that nobody can release any more: their Bti was closed while they were quarantined."""

    bti: str
    what: str
    offset: int
    size: int
    pinned_at: str


@dataclass(frozen=True, slots=True)
class KernelStatistics:
    """A kernel at one moment."""

    objects: int
    handles: int
    ledger: LedgerStatistics
    leaks: int


class Kernel:
    """The shared state of a set of objects.

    Args:
      max_pinned: bytes that may be pinned at once; None for no limit of pinfold's own.
      paging_space: bytes that counted pins may promise a place to (objects/paging.py); None for as
        many as there are.
      seed: of the policies that scatter simulated physical addresses.
      strict: whom to follow where a system's pages and its kernel differ: ``"docs"`` or
        ``"kernel"``. None leaves it to the dialect: Zircon's has the kernel, Magenta's the docs.
      debug_syscalls: calls that are for debugging only are there.
    """

    def __init__(
        self,
        *,
        max_pinned: int | None = None,
        paging_space: int | None = None,
        seed: int = 0,
        strict: Literal["docs", "kernel"] | None = None,
        debug_syscalls: bool = False,
    ) -> None:
        if strict not in (None, "docs", "kernel"):
            raise InvalidArgs(
                "strict is None, 'docs' or 'kernel'",
                asked=strict,
                remedy="say whom to follow, or leave it out",
            )
        if max_pinned is not None and max_pinned < PAGE_SIZE:
            raise InvalidArgs(
                "max_pinned is at least a page, or None for no limit",
                asked=max_pinned,
                limit=PAGE_SIZE,
            )
        if paging_space is not None and paging_space < 0:
            raise InvalidArgs("an amount of paging space is not negative", asked=paging_space)
        self.paging_space = paging_space
        self.strict = strict
        self.debug_syscalls = debug_syscalls
        self.lock = KernelLock()
        self.ledger = Ledger(max_pinned)
        self.physmap = PhysicalMap(seed=seed)
        self.physmap.settle = self.lock.settle
        self.devices = DeviceMemory(self.physmap)
        """What is at the physical addresses that are not RAM."""
        self.physmap.elsewhere = self.devices.find
        self.resources = ResourceSpaces()
        self.families: dict[tuple[int, int], list[Pages]] = {}
        """The memory objects over each file that others may have too, by device and inode."""
        self.spaces: weakref.WeakValueDictionary[int, VmarObject] = weakref.WeakValueDictionary()
        """The root regions of its processes, by where they begin."""
        self.lent: RangeMap[Lent] = RangeMap()
        """The mappings of ours that views of its memory objects lie in, by address."""
        self.own_memory: VmoObject | None = None
        """The process's memory that no object owns, once something has asked for it."""
        self.counted = CountedPins(self)
        """The pins by address that are counted, short and long."""
        self.code_pins: list[tuple[list[Stretch], list[Stretch]]] = []
        """What each `pin_code` has pinned, and what of it is pinned still, the oldest first."""
        self.device_maps: weakref.WeakSet[DeviceMap] = weakref.WeakSet()
        """What has been granted of memory that counted pins hold."""
        self.leaks: list[Leak] = []
        self.waiters: list[Waiter] = []
        """The threads that wait for a signal of some object."""
        self.lost = False
        """True in a process forked from the one that made this kernel."""
        self._koids = count(_FIRST_KOID)
        self._objects: dict[int, KernelObject] = {}
        self._listed: weakref.WeakValueDictionary[int, KernelObject] = weakref.WeakValueDictionary()
        _kernels.add(self)

    def next_koid(self) -> int:
        """A number that no object has had."""
        return next(self._koids)

    def enter(self, member: KernelObject) -> None:
        """Enter an object into the registry; entering it again does nothing."""
        if member.object_type in _KEPT_ELSEWHERE:
            self._listed[member.koid] = member
        else:
            self._objects[member.koid] = member

    def forget(self, member: KernelObject) -> None:
        """Strike an object out."""
        if self._objects.pop(member.koid, None) is None:
            self._listed.pop(member.koid, None)

    def leak(self, owner: str, pinned: PinnedRange) -> None:
        """Put on record that nobody can release these pages any more. With the lock held."""
        leak = Leak(owner, pinned.what, pinned.offset, pinned.size, sites.describe(pinned.site))
        self.leaks.append(leak)
        # Logged once the lock is let go: a logger may do anything.
        self.lock.tell(partial(log.warning, "no handle can release this any more: %s", leak))

    def objects(self, kind: ObjectType | None = None) -> list[KernelObject]:
        """The live objects, oldest first; of one kind, or all."""
        members = [*self._listed.values(), *self._objects.values()]
        members.sort(key=lambda member: member.koid)
        return [m for m in members if kind is None or m.object_type is kind]

    def reclaim(self) -> int:
        """Discard the memory of discardable objects that nobody has locked or uses; how many bytes.

        An object is discarded once it has been locked and unlocked. It reads as not found until it
        is locked again, and the lock says that its contents are lost.

        Raises:
          HostError: the host refused to take the memory of one; those before it are discarded.
        """
        with self.lock:
            found = self.objects(ObjectType.VMO)
            return sum(cast("VmoObject", vmo).discard() for vmo in found)

    def statistics(self) -> KernelStatistics:
        """The kernel as a frozen record."""
        with self.lock:
            members = self.objects()
            return KernelStatistics(
                objects=len(members),
                handles=sum(member.handle_count for member in members),
                ledger=self.ledger.statistics(),
                leaks=len(self.leaks),
            )


_kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()
_default: list[Kernel] = []


def default_kernel() -> Kernel:
    """The kernel of objects that are made without naming one."""
    if not _default:
        _default.append(Kernel())
    return _default[0]


def _lose_parents_kernels() -> None:
    """In a forked child: the parent's objects are the parent's."""
    _default.clear()
    for kernel in list(_kernels):
        kernel.lost = True
        kernel.lock.lose()
        kernel.counted.lose()
        kernel.physmap.lose()
        for member in kernel.objects():
            member.on_fork_child()


os.register_at_fork(after_in_child=_lose_parents_kernels)
