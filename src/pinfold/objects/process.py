# A process: a handle table and a root region. Ending it closes its handles as process death does.
#
# The kernel does not keep it. What keeps it is whoever holds it, a handle of it, a mapping in it or
# a view of one. When nobody does, its finaliser ends it, with a warning if there was anything to
# end: 1 TiB of address space each is soon all there is.
from __future__ import annotations

import secrets
import sys
import warnings
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pinfold import sites
from pinfold.errors import BadState
from pinfold.memory.locks import refuse_inside
from pinfold.objects.handle import Handle, HandleEntry
from pinfold.objects.kernel import default_kernel
from pinfold.objects.object import KernelObject, ObjectType
from pinfold.objects.region import VmarObject

if TYPE_CHECKING:
    from types import TracebackType

    from pinfold.objects.kernel import Kernel
    from pinfold.objects.vmar import Vmar
    from pinfold.sites import Site

K = TypeVar("K", bound=KernelObject)

PROCESS_RIGHTS: Final = 0x6D3CF
"""The rights of a process's handle to itself. Source: ZX_DEFAULT_PROCESS_RIGHTS."""

_VALUE_BITS = 30  # a handle value is 32 bits, of which the two lowest are 1


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """A process at one moment."""

    koid: int
    name: str
    alive: bool
    handles: int
    """Open handles in its table."""
    address_space: int
    """Bytes of its root region; 0 before it is first asked for."""


class Process(KernelObject):
    """A handle table, and an address region made when it is first asked for.

    ``with process:`` makes it the current one for the block; what is made there belongs to it. The
    block does not end it: call `exit`.
    """

    __slots__ = ("_numbers", "_region", "_root", "_scramble", "_self", "_site", "alive", "handles")

    object_type = ObjectType.PROCESS

    def __init__(self, kernel: Kernel | None = None, *, name: str = "") -> None:
        if kernel is None:
            kernel = current_process().kernel
        super().__init__(kernel, name)
        self._site: Site = sites.caller()
        self.handles: dict[int, HandleEntry] = {}
        """The open handles by value, oldest first."""
        self.alive = True
        self._numbers = count(1)
        self._scramble = secrets.randbits(_VALUE_BITS) << 2
        self._region: VmarObject | None = None
        self._root: Vmar | None = None
        self._self: HandleEntry | None = None
        kernel.enter(self)

    def add(self, target: KernelObject, rights: int) -> HandleEntry:
        """A new handle to ``target``. Called with the kernel's lock held.

        Raises:
          BadState: the process has ended.
        """
        if not self.alive:
            self._check_alive()
        value = (next(self._numbers) << 2 & 0xFFFF_FFFC) ^ self._scramble | 3
        while value in self.handles:  # after a billion handles, old values may still be open
            value = (next(self._numbers) << 2 & 0xFFFF_FFFC) ^ self._scramble | 3
        entry = HandleEntry(value, target, rights, self)
        self.handles[value] = entry
        target.handle_count += 1
        if target.handle_count == 1:
            self.kernel.enter(target)
        return entry

    @property
    def self_handle(self) -> Handle[Process]:
        """The process's handle to itself, which it keeps, and opens again if it was closed.

        Source: zx_process_self.

        Raises:
          BadState: the process has ended.
        """
        with self.kernel.lock:
            entry = self._self
            if entry is None or entry.object is None:
                entry = self._self = self.add(self, PROCESS_RIGHTS)
                entry.face = Handle.wrap(entry)
            return entry.face  # type: ignore[return-value]  # made above, and lasts as long

    def on_zero_handles(self) -> None:
        """A process does not end because nobody has a handle to it."""

    def statistics(self) -> ProcessStatistics:
        """The process as a frozen record. Nothing is reserved by asking."""
        with self.kernel.lock:
            region = self._region
            return ProcessStatistics(
                koid=self.koid,
                name=self.name,
                alive=self.alive,
                handles=len(self.handles),
                address_space=0 if region is None else region.region.stop - region.region.base,
            )

    def exit(self) -> None:
        """End the process: unmap its memory, close its handles newest first.

        A live pin token goes to its Bti's quarantine: nobody knows whether the device is quiet.
        Views of mappings are no obstacle: their addresses stay reserved and inaccessible. Where the
        host refuses a step, the rest is done all the same, and the first refusal is raised.
        Ending it twice does nothing.

        Source: process death in Zircon.
        """
        with self.kernel.lock:
            self._end()

    def settle(self) -> None:
        """What a dropped process leaves to be done. Called with the kernel's lock held."""
        refuse_inside(self.kernel.physmap.lock)
        self._end()

    def _end(self) -> None:
        self.alive = False
        failed: BaseException | None = None
        steps = [entry.close_locked for entry in reversed(list(self.handles.values()))]
        if self._region is not None:
            steps.insert(0, self._region.tear_down)
            self._region = None
        for step in steps:
            try:
                step()
            except BaseException as error:  # raised below: a process ends as a whole
                failed = failed or error
        self._root = None
        self.kernel.forget(self)
        if failed is not None:
            raise failed

    def keeps(self, root: Vmar) -> bool:
        """True for the handle to its root region, which it keeps for whoever asks and closes."""
        return root is self._root

    def __del__(self) -> None:
        region = getattr(self, "_region", None)  # absent when making the process failed
        if sys.is_finalizing() or (region is None and not getattr(self, "handles", None)):
            return
        kernel = self.kernel
        if kernel.lost:  # a forked child: the parent's process is the parent's to end
            return
        try:
            warnings.warn(
                f"{self} was dropped and had not ended, made at {sites.describe(self._site)}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        finally:  # where warnings are errors, it ends all the same
            kernel.lock.post(self)

    @property
    def root(self) -> Vmar:
        """The root region: address space of this Python process, reserved on first use.

        The process keeps the handle, and opens another if that one was closed.

        Raises:
          BadState: the process has ended.
          NoMemory: as `reserve_root`.
        """
        return self._handle_to_root()

    def reserve_root(
        self, *, size: int | None = None, address: int | None = None, seed: int | None = None
    ) -> Vmar:
        """Make the root region otherwise than `root` would. The process keeps the handle.

        Args:
          size: bytes, page-aligned; by default 1 TiB, or what RLIMIT_AS leaves room for.
          address: where, page-aligned, not 0; by default where the host likes.
          seed: places regions and mappings at random, repeatably; by default at the lowest address
            that fits.

        Raises:
          BadState: there is a root region already, or the process has ended.
          InvalidArgs: ``size`` or ``address`` is not as above, or ends beyond every user address
            (``.limit``).
          AlreadyExists: something is in the way at ``address``.
          NoMemory: there is no room, or RLIMIT_AS does not allow it (``.limit``).
        """
        with self.kernel.lock:
            if self._region is not None:
                raise BadState(f"{self} has a root region", remedy="reserve it before it is used")
            self._check_alive()
            self._make_region(size, address, seed)
        return self._handle_to_root()

    def _handle_to_root(self) -> Vmar:
        root = self._root
        if root is not None and not root.closed:
            return root
        from pinfold.objects.vmar import Vmar

        with self.kernel.lock:
            root = self._root
            if root is None or root.closed:  # else another thread has been here first
                region = self.root_region()
                entry = self.add(region, region.default_rights)
                root = self._root = Vmar.wrap(entry)
            return root

    def root_region(self) -> VmarObject:
        """The object behind `root`, without a handle to it. Called with the kernel's lock held.

        Raises:
          BadState, NoMemory: as `root`.
        """
        self._check_alive()
        return self._region or self._make_region()

    @property
    def address_space(self) -> VmarObject | None:
        """The object behind `root`, if it has been asked for."""
        return self._region

    def _make_region(
        self, size: int | None = None, address: int | None = None, seed: int | None = None
    ) -> VmarObject:
        """Reserve the address space. Called with the kernel's lock held."""
        made = self._region = VmarObject.make_root(self.kernel, size, address, seed)
        made.region.space.keeper = self
        return made

    def _check_alive(self) -> None:
        if not self.alive:
            raise BadState(f"{self} has ended", remedy="make another process")

    def __enter__(self) -> Self:
        _stack.set((*_stack.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _stack.set(_stack.get()[:-1])


_stack: ContextVar[tuple[Process, ...]] = ContextVar("pinfold_processes", default=())
"""The processes whose blocks this thread or task is in, the innermost last."""
_default: dict[str, Any] = {}


def current_process() -> Process:
    """The process that new objects belong to: that of the innermost ``with``, else the default."""
    inside = _stack.get()
    if inside:
        return inside[-1]
    kernel = default_kernel()
    process: Process | None = _default.get("process")
    if process is None or process.kernel is not kernel or not process.alive:
        process = _default["process"] = Process(kernel, name="default")
    return process
