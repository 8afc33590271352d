# A handle: an object and the rights over it.
#
# Two layers. A `HandleEntry` sits in its process's table, as the number a dialect uses names it.
# A `Handle` is what Python code holds; dropping it unclosed closes the entry, with a
# ResourceWarning that says where it was made.
#
# Source: zx_handle_close, zx_handle_duplicate, zx_handle_replace.
from __future__ import annotations

import sys
import warnings
from operator import index
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from pinfold import sites
from pinfold.errors import AccessDenied, BadHandle, InvalidArgs, WrongType
from pinfold.objects.object import KernelObject
from pinfold.objects.signals import Signal, wait
from pinfold.rights import Right, describe_rights

if TYPE_CHECKING:
    from types import TracebackType

    from pinfold.objects.kernel import Kernel
    from pinfold.objects.process import Process
    from pinfold.sites import Site

_DUPLICATE = int(Right.DUPLICATE)
_SAME_RIGHTS = int(Right.SAME_RIGHTS)
_SET_PROPERTY = int(Right.SET_PROPERTY)
_WAIT = int(Right.WAIT)
_TRANSFER = int(Right.TRANSFER)

NAME_BYTES = 31
"""A name can have so many. Source: ZX_MAX_NAME_LEN, less its NUL."""


class HandleEntry:
    """One row of a process's handle table.

    Attributes:
      value: the number that names it in its process.
      object: what it is a handle to; None once it is closed.
      rights: bits of `Right`.
      process: whose table it is in.
      face: what a dialect uses it through, made on first use; it lasts as long as the entry.
    """

    __slots__ = ("face", "object", "process", "rights", "value")

    def __init__(self, value: int, target: KernelObject, rights: int, process: Process) -> None:
        self.value = value
        self.object: KernelObject | None = target
        self.rights = rights
        self.process = process
        self.face: Handle[Any] | None = None

    def close_locked(self) -> None:
        """Close it, once. Called with the kernel's lock held."""
        target = self.object
        if target is None:
            return
        self.object = None
        self.face = None
        del self.process.handles[self.value]
        target.handle_count -= 1
        if self.process.kernel.waiters:
            self._cancel_waits()
        if not target.handle_count:
            target.on_zero_handles()

    def _cancel_waits(self) -> None:
        for waiter in self.process.kernel.waiters:
            if waiter.entry is self:
                waiter.wake()

    def settle(self) -> None:
        """What a dropped handle leaves to be done."""
        self.close_locked()


K = TypeVar("K", bound=KernelObject)
T = TypeVar("T", bound=KernelObject)


class Handle(Generic[K]):
    """An object plus rights. Close it, use it in a ``with`` block, or be warned."""

    __slots__ = ("__weakref__", "_entry", "_site")

    _entry: HandleEntry
    _site: Site

    @classmethod
    def wrap(cls, entry: HandleEntry, site: Site | None = None) -> Self:
        """What Python code holds for a row of the table; ``site`` is where it was made."""
        made = cls.__new__(cls)
        made._entry = entry
        made._site = site or sites.caller()
        return made

    def _open(self, entry: HandleEntry) -> None:
        """What a subclass's ``__init__`` does once it has made its object."""
        self._entry = entry
        self._site = sites.caller()

    # What subclasses use ------------------------------------------------------------------------

    @property
    def object(self) -> K:
        """The object behind the handle.

        Raises:
          BadHandle: the handle is closed.
        """
        target: Any = self._entry.object
        if target is None:
            raise BadHandle(f"this {type(self).__name__} is closed")
        return target  # type: ignore[no-any-return]  # a table row holds any kind of object

    def _require(self, rights: int) -> K:
        """The object, if the handle has every right asked for.

        Raises:
          BadHandle: the handle is closed.
          AccessDenied: a right is missing (``.missing``).
        """
        entry = self._entry
        target: Any = entry.object
        if target is None:
            raise BadHandle(f"this {type(self).__name__} is closed")
        missing = rights & ~entry.rights
        if missing:
            raise AccessDenied(
                f"a handle to {target}", missing=missing, remedy="use a handle with that right"
            )
        return target  # type: ignore[no-any-return]  # a table row holds any kind of object

    def _demand(self, kind: type[T], rights: int) -> T:
        """The object, if it is of a kind and the handle has every right asked for.

        For calls that check something else before they look at the handle.

        Raises:
          BadHandle: the handle is closed.
          WrongType: it is a handle to something else.
          AccessDenied: a right is missing (``.missing``).
        """
        target: Any = self._entry.object
        if target is not None and not isinstance(target, kind):
            raise WrongType(f"{target} is of another kind", remedy="pass another handle")
        return self._require(rights)  # type: ignore[return-value]  # looked at above

    # What everybody uses ------------------------------------------------------------------------

    @property
    def rights(self) -> Right:
        """What this handle may do."""
        return Right(self._entry.rights)

    @property
    def koid(self) -> int:
        """The number of the object; the same through every handle to it."""
        return self.object.koid

    @property
    def name(self) -> str:
        """The object's name, for people."""
        return self.object.name

    @property
    def kernel(self) -> Kernel:
        """The kernel that the object belongs to."""
        return self._entry.process.kernel

    @property
    def value(self) -> int:
        """The number that names this handle in its process, for dialects."""
        return self._entry.value

    @property
    def closed(self) -> bool:
        """True once the handle is closed, by whatever way."""
        return self._entry.object is None

    def duplicate(self, rights: Right | int = Right.SAME_RIGHTS) -> Self:
        """Another handle to the same object, with the same rights or fewer.

        Raises:
          BadHandle: this handle is closed.
          AccessDenied: it lacks DUPLICATE.
          InvalidArgs: ``rights`` has one that this handle lacks.

        Source: zx_handle_duplicate.
        """
        entry = self._entry
        with entry.process.kernel.lock:
            target = self._require(_DUPLICATE)
            return self.wrap(entry.process.add(target, narrowed(entry.rights, index(rights))))

    def replace(self, rights: Right | int = Right.SAME_RIGHTS) -> Self:
        """A new handle in place of this one, with the same rights or fewer; this one is closed.

        It is closed on the error below as well: a token whose replacement is refused goes to
        quarantine.

        Raises:
          BadHandle: this handle is closed.
          InvalidArgs: ``rights`` has one that this handle lacks.

        Source: zx_handle_replace.
        """
        entry = self._entry
        with entry.process.kernel.lock:
            target = self.object
            try:
                fresh = entry.process.add(target, narrowed(entry.rights, index(rights)))
            finally:
                entry.close_locked()
            return self.wrap(fresh)

    def move_to(self, process: Process) -> Self:
        """Move this handle to another process, as a message would; this one is closed.

        Args:
          process: of the same kernel.

        Raises:
          BadHandle: this handle is closed.
          AccessDenied: it lacks TRANSFER.
          InvalidArgs: the process is of another kernel.
          BadState: the process has ended.

        After an error this handle is open as before.

        Source: Zircon, ZX_RIGHT_TRANSFER.
        """
        entry = self._entry
        with entry.process.kernel.lock:
            target = self._require(_TRANSFER)
            if process.kernel is not target.kernel:
                raise InvalidArgs(f"{process} is of another kernel", remedy="make both in one")
            fresh = process.add(target, entry.rights)
            entry.close_locked()
            return self.wrap(fresh)

    def rename(self, name: str | bytes) -> None:
        """Give the object another name, of 31 bytes at the most; the rest is cut off.

        A name ends at its first NUL. Bytes that are no UTF-8 are kept as they are.

        Raises:
          BadHandle: this handle is closed.
          AccessDenied: it lacks SET_PROPERTY.
          WrongType: its kind of object has no name to change.

        Source: zx_object_set_property, ZX_PROP_NAME.
        """
        kept = kept_name(name)
        with self._entry.process.kernel.lock:
            target = self._require(_SET_PROPERTY)
            if not target.has_name:
                raise WrongType(f"{target} has no name that can be changed")
            target.name = kept
            target.renamed()

    @property
    def signals(self) -> Signal:
        """What the object says of itself now."""
        with self._entry.process.kernel.lock:
            return Signal(self.object.signals)

    def wait(self, signals: Signal | int, deadline: int | None = None) -> Signal:
        """Wait until the object has one of ``signals``; the state it had then.

        Args:
          deadline: on the clock of `time.monotonic_ns`; None waits for ever, one that has passed
            does not wait.

        Raises:
          BadHandle: this handle is closed.
          AccessDenied: it lacks WAIT.
          TimedOut: the deadline came first (``.available`` is the state).
          Canceled: the handle was closed meanwhile.

        Source: zx_object_wait_one.
        """
        return wait(self, index(signals), deadline, _WAIT)

    def close(self) -> None:
        """Close the handle; closing it again does nothing.

        In a ``__del__`` that the collector runs inside pinfold it is closed right after that.

        Source: zx_handle_close.
        """
        entry = self._entry
        if entry.object is None:
            return
        lock = entry.process.kernel.lock
        if lock.held_here:
            lock.later(entry)
            return
        with lock:
            entry.close_locked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __bool__(self) -> bool:
        """True while the handle is open, whatever the size of what is behind it."""
        return self._entry.object is not None

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """A handle is one row of one process's table: neither copied nor pickled."""
        raise WrongType(
            f"a {type(self).__name__} cannot be copied or pickled",
            remedy="duplicate() it, or pass the memory on by a descriptor",
        )

    def __repr__(self) -> str:
        target = self._entry.object
        if target is None:
            return f"<{type(self).__name__} (closed)>"
        return f"<{type(self).__name__} {target} rights {describe_rights(self._entry.rights)}>"

    def __del__(self) -> None:
        entry = getattr(self, "_entry", None)  # absent when making the handle failed
        if entry is None or entry.object is None or sys.is_finalizing():
            return
        if entry.face is self:  # a number in a table, which goes with its process
            return
        kernel = entry.process.kernel
        if kernel.lost:  # a forked child: the parent's handle is the parent's to close
            return
        try:
            warnings.warn(
                f"{entry.object} was dropped with an open handle, "
                f"made at {sites.describe(self._site)}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        finally:  # where warnings are errors, it is closed all the same
            kernel.lock.post(entry)


def kept_name(name: str | bytes) -> str:
    """What an object keeps of a name that a call gives it: 31 bytes, or up to the first NUL."""
    raw = name.encode(errors="surrogateescape") if isinstance(name, str) else bytes(name)
    return raw[:NAME_BYTES].partition(b"\0")[0].decode(errors="surrogateescape")


def narrowed(held: int, wanted: int) -> int:
    """The rights of a new handle made from one with ``held``.

    Raises:
      InvalidArgs: ``wanted`` is neither SAME_RIGHTS nor a subset of ``held``.
    """
    if wanted == _SAME_RIGHTS:
        return held
    if wanted & ~held:
        raise InvalidArgs(
            f"the new handle would have more rights: {describe_rights(wanted & ~held)}",
            remedy="ask for a subset of the rights of the handle you have",
        )
    return wanted
