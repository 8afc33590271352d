# A process: a handle table and a root region. Ending it closes its handles as process death does.
from __future__ import annotations

import secrets
from contextvars import ContextVar, Token
from itertools import count
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pinfold.errors import BadState
from pinfold.objects.handle import HandleEntry
from pinfold.objects.kernel import default_kernel
from pinfold.objects.object import KernelObject, ObjectType

if TYPE_CHECKING:
    from types import TracebackType

    from pinfold.objects.kernel import Kernel
    from pinfold.objects.vmar import Vmar

K = TypeVar("K", bound=KernelObject)

_VALUE_BITS = 30  # a handle value is 32 bits, of which the two lowest are 1


class Process(KernelObject):
    """A handle table, and an address region made when it is first asked for.

    ``with process:`` makes it the current one for the block; what is made there belongs to it.
    """

    __slots__ = ("_numbers", "_root", "_scramble", "_tokens", "alive", "handles")

    object_type = ObjectType.PROCESS

    def __init__(self, kernel: Kernel | None = None, *, name: str = "") -> None:
        if kernel is None:
            kernel = current_process().kernel
        super().__init__(kernel, name)
        kernel.enter(self)
        self.handles: dict[int, HandleEntry] = {}
        """The open handles by value, oldest first."""
        self.alive = True
        self._numbers = count(1)
        self._scramble = secrets.randbits(_VALUE_BITS) << 2
        self._root: Vmar | None = None
        self._tokens: list[Token[Process | None]] = []

    def add(self, target: KernelObject, rights: int) -> HandleEntry:
        """A new handle to ``target``. Called with the kernel's lock held.

        Raises:
          BadState: the process has ended.
        """
        if not self.alive:
            raise BadState(f"{self} has ended")
        value = (next(self._numbers) << 2 & 0xFFFF_FFFC) ^ self._scramble | 3
        while value in self.handles:  # after a billion handles, old values may still be open
            value = (next(self._numbers) << 2 & 0xFFFF_FFFC) ^ self._scramble | 3
        entry = HandleEntry(value, target, rights, self)
        self.handles[value] = entry
        target.handle_count += 1
        if target.handle_count == 1:
            self.kernel.enter(target)
        return entry

    def remove(self, value: int) -> None:
        """Take a closed handle out of the table."""
        del self.handles[value]

    def exit(self) -> None:
        """End the process: unmap its memory, close its handles newest first.

        A live pin token goes to its Bti's quarantine: nobody knows whether the device is quiet.
        Ending it twice does nothing.

        Source: process death in Zircon.
        """
        root = self._root
        if root is not None:
            self._root = None
            root.tear_down()
        with self.kernel.lock:
            self.alive = False
            for entry in reversed(list(self.handles.values())):
                entry.close_locked()
            self.kernel.forget(self)

    @property
    def root(self) -> Vmar:
        """The root region: address space of this Python process, reserved on first use."""
        if self._root is None:
            from pinfold.objects.vmar import Vmar

            self._root = Vmar.make_root(self)
        return self._root

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.reset(self._tokens.pop())


_current: ContextVar[Process | None] = ContextVar("pinfold_process", default=None)
_default: dict[str, Any] = {}


def current_process() -> Process:
    """The process that new objects belong to: that of the innermost ``with``, else the default."""
    current = _current.get()
    if current is not None:
        return current
    kernel = default_kernel()
    process: Process | None = _default.get("process")
    if process is None or process.kernel is not kernel or not process.alive:
        process = _default["process"] = Process(kernel, name="default")
    return process
