# The kernel's lock, and what to do with work that cannot wait for it.
#
# A handle can be dropped anywhere: the garbage collector may run in the middle of any operation, on
# a thread that already holds any of our locks. So a finaliser never waits. It leaves its work with
# `KernelLock.post`, which does it at once when the lock is free, and otherwise leaves it to whoever
# holds the lock, who does it right after letting go.
#
# While a real bus grants or revokes, the lock is not held, since the host may take its time. For
# the thread that is in there it is as if: `KernelLock.inside`. Its finalisers wait, and its signal
# handlers are refused, as under the lock.
#
# Order of locks: the kernel's; then a device space's, a bus's or the physical map's, of which each
# bus says which is first; then a backing's own. Never upward.
from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from pinfold.errors import BadState, Unavailable, WrongProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

log = logging.getLogger("pinfold")
log.addHandler(logging.NullHandler())  # what to print is for the application to say


class Work(Protocol):
    """Something a finaliser left to be done."""

    def settle(self) -> None:
        """Do it, with the kernel's lock held.

        It raises `Unavailable` for: not from here, try later. It must not ask for `later` itself,
        or `KernelLock.settle` would never come to an end.
        """


class Reentered(BadState):
    """A thread that is inside pinfold was made to call it again: by a handler, or a `__del__`."""


class KernelLock:
    """A lock whose holder does, on the way out, what finalisers have left."""

    __slots__ = ("_inside", "_lock", "_outer", "_posted", "_to_tell")

    def __init__(self) -> None:
        # Reentrant, and never entered twice: it knows its owner from the moment it is taken, where
        # a note of ours would be made an instant later, and a signal can come in between.
        self._lock: Any = threading.RLock()
        self._outer: KernelLock | None = None
        self._inside: set[int] = set()
        """The threads that are inside without it."""
        self._posted: deque[Work] = deque()
        self._to_tell: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        if self._lock._is_owned() or (self._inside and get_ident() in self._inside):  # noqa: SLF001 - what threading.Condition asks too
            raise Reentered(
                "this thread is inside pinfold already: called from a __del__ or a signal handler",
                remedy="have the handler note what is to be done, and do it outside",
            )
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
        if self._posted:
            self.settle()
        if self._to_tell:
            self._tell()

    @property
    def held_here(self) -> bool:
        """True when the calling thread holds it, or counts as `inside`."""
        if self._inside and get_ident() in self._inside:
            return True
        return bool(self._lock._is_owned())  # noqa: SLF001

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In the block the calling thread counts as inside, while others may have the lock."""
        me = get_ident()
        self._inside.add(me)
        try:
            yield
        finally:
            self._inside.discard(me)
            if self._posted:
                self.settle()

    def post(self, work: Work) -> None:
        """Have ``work`` done as soon as the lock allows. Never waits; for finalisers."""
        self._posted.append(work)
        self.settle()

    def later(self, work: Work) -> None:
        """Have ``work`` done after the lock is let go. For its holder."""
        self._posted.append(work)

    def tell(self, message: Callable[[], None]) -> None:
        """Call ``message`` after the lock is let go: a log handler may ask pinfold something."""
        self._to_tell.append(message)

    @contextmanager
    def told_after(self, outer: KernelLock) -> Iterator[None]:
        """In the block, which has ``outer``: what this thread would tell, it tells after that."""
        self._outer = outer
        try:
            yield
        finally:
            self._outer = None

    def _tell(self) -> None:
        outer = self._outer
        if outer is not None and outer.held_here:
            while self._to_tell:
                outer.tell(self._to_tell.popleft())
            return
        while self._to_tell:
            try:
                message = self._to_tell.popleft()
            except IndexError:  # another thread was quicker
                return
            message()

    def settle(self) -> None:
        """Do what has been left, unless somebody holds the lock: then they will."""
        going_on = True
        while self._posted and going_on:
            if self.held_here or not self._lock.acquire(blocking=False):
                return
            try:
                going_on = self._settle_once()
            finally:
                self._lock.release()
        if self._to_tell:
            self._tell()

    def _settle_once(self) -> bool:
        """Try everything that is there now; True when something was done."""
        done = False
        for _ in range(len(self._posted)):
            work = self._posted.popleft()
            try:
                work.settle()
                done = True
            except Unavailable:  # this thread is inside an access, whose end settles again
                self._posted.append(work)
            except Exception:  # a finaliser has nobody to raise to
                done = True
                message = "a dropped object could not be settled"
                self.tell(partial(log.error, message, exc_info=sys.exc_info()))
        return done

    def lose(self) -> None:
        """In a forked child: from now on every use raises, and nothing is settled."""
        self._lock = LostLock()
        self._inside.clear()
        self._posted.clear()


class LostLock:
    """The lock of what belongs to the parent process: entering it raises."""

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - Lock's signature
        """Raises WrongProcess; without blocking, False."""
        if not blocking:
            return False
        raise WrongProcess(
            "these objects belong to the process that this one was forked from",
            remedy="make a Kernel of its own in the child",
        )

    def release(self) -> None:
        """Nothing is held."""

    def _is_owned(self) -> bool:
        return False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def held_by_this_thread(lock: threading.RLock | LostLock) -> bool:
    """True when the calling thread is inside ``lock``; what threading.Condition asks too."""
    return bool(lock._is_owned())  # type: ignore[union-attr]  # noqa: SLF001 - Condition asks too


def refuse_inside(lock: threading.RLock | LostLock) -> None:
    """Raise `Unavailable` when a finaliser runs inside an access of its own thread."""
    if held_by_this_thread(lock):
        raise Unavailable("an access of this thread is under way", remedy="settle it afterwards")
