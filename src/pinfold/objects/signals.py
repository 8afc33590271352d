# Signals: what an object says of itself, and waiting for it.
#
# Source: zx_object_wait_one.
#
# A waiter is woken through a lock used as a gate: releasing one never waits, so that a finaliser on
# any thread may do it, whatever that thread was doing. An Event would do the same through a
# Condition, whose lock the interrupted thread might hold.
#
# Lock: the kernel's, for the list of waiters and for looking at the state. A waiter waits without.
from __future__ import annotations

import enum
import threading
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from pinfold.errors import Canceled, TimedOut

if TYPE_CHECKING:
    from pinfold.objects.handle import Handle, HandleEntry
    from pinfold.objects.object import KernelObject

_LONGEST: Final = int(threading.TIMEOUT_MAX)  # seconds; a longer wait is made of several
_NS: Final = 1_000_000_000


class Signal(enum.IntFlag, boundary=enum.KEEP):
    """What an object says of itself. The numbers are Zircon's."""

    NONE = 0
    ZERO_CHILDREN = 1 << 3
    """Of a memory object: no child of it is left."""
    HANDLE_CLOSED = 1 << 23
    """Of the handle that was waited on: it is closed."""


_CLOSED: Final = int(Signal.HANDLE_CLOSED)


class Waiter:
    """One thread that waits on one handle.

    Attributes:
      seen: what the object said when the wait was over; None until then. The thread may look much
        later, and the object may say something else by then.
    """

    __slots__ = ("entry", "gate", "seen", "signals", "target")

    def __init__(self, entry: HandleEntry, target: KernelObject, signals: int) -> None:
        self.entry = entry
        self.target = target
        self.signals = signals
        self.seen: int | None = None
        self.gate = threading.Lock()
        self.gate.acquire()

    def wake(self) -> None:
        """End the wait if there is a reason. With the kernel's lock held; never waits."""
        if self.seen is not None:
            return
        state = self.target.signals
        if self.entry.object is not self.target:
            state |= _CLOSED
        elif not state & self.signals:
            return
        self.seen = state
        self.gate.release()


def wait(handle: Handle[Any], signals: int, deadline: int | None, right: int) -> Signal:
    """Wait until the object has one of ``signals``; the state it had at that moment.

    Args:
      deadline: on the clock of `time.monotonic_ns`; None waits for ever. One that has passed asks
        and does not wait.
      right: what the handle must have.

    Raises:
      BadHandle, AccessDenied: the handle.
      TimedOut: the deadline came first (``.available`` has the state).
      Canceled: the handle was closed meanwhile (``.available`` is the state, and HANDLE_CLOSED).
    """
    entry = handle._entry
    kernel = entry.process.kernel
    with kernel.lock:
        target = handle._require(right)
        if target.signals & signals:
            return Signal(target.signals)
        waiter = Waiter(entry, target, signals)
        kernel.waiters.append(waiter)
    try:
        while True:
            waiter.gate.acquire(timeout=_patience(deadline))
            with kernel.lock:
                seen = waiter.seen
                if seen is not None:
                    break
                if deadline is not None and monotonic_ns() >= deadline:
                    raise TimedOut(
                        f"{target} has not signalled it by the deadline",
                        asked=signals,
                        available=Signal(target.signals),
                    )
    finally:
        with kernel.lock:
            kernel.waiters.remove(waiter)
    if seen & _CLOSED:
        raise Canceled("the handle was closed while it was waited on", available=Signal(seen))
    return Signal(seen)


def _patience(deadline: int | None) -> float:
    """Seconds to wait at the most before looking again."""
    if deadline is None:
        return _LONGEST
    return min(max(deadline - monotonic_ns(), 0) / _NS, _LONGEST)
