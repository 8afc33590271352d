# Events and event pairs: outside the dialect's subject, but what several cases about handles hold.
#
# They are real objects in the process's real table, so that those cases try the handles as written.
# Nothing else of an event is here.
from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from pinfold.dialects.zx import numbers as zx
from pinfold.objects.object import KernelObject

from .words import EVENTPAIR_PEER_CLOSED

if TYPE_CHECKING:
    from pinfold.objects.kernel import Kernel
    from pinfold.objects.process import Process

_EVENTPAIR_RIGHTS: Final = zx.ZX_RIGHTS_BASIC | zx.ZX_RIGHT_SIGNAL | zx.ZX_RIGHT_SIGNAL_PEER
"""ZX_DEFAULT_EVENTPAIR_RIGHTS of zircon/rights.h."""


class OtherType(enum.IntEnum):
    """Kinds of object that pinfold does not have."""

    EVENT = zx.ZX_OBJ_TYPE_EVENT
    EVENTPAIR = zx.ZX_OBJ_TYPE_EVENTPAIR


class Event(KernelObject):
    """Something with handles to it."""

    __slots__ = ()

    object_type = OtherType.EVENT  # type: ignore[assignment]  # a kind that pinfold lacks


class EventPair(KernelObject):
    """One of two, which learns when there is no handle to the other any more."""

    __slots__ = ("peer",)

    object_type = OtherType.EVENTPAIR  # type: ignore[assignment]  # a kind that pinfold lacks

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.peer: EventPair | None = None

    @property
    def signals(self) -> int:
        return 0 if self.peer is not None else EVENTPAIR_PEER_CLOSED

    def on_zero_handles(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.peer = None
            peer.signals_changed()
        super().on_zero_handles()


def event(process: Process) -> int:
    """zx_event_create: a handle, with an event's default rights."""
    with process.kernel.lock:
        return process.add(Event(process.kernel), zx.ZX_DEFAULT_EVENT_RIGHTS).value


def event_pair(process: Process) -> tuple[int, int]:
    """zx_eventpair_create: a handle to each."""
    with process.kernel.lock:
        one, other = EventPair(process.kernel), EventPair(process.kernel)
        one.peer, other.peer = other, one
        return (
            process.add(one, _EVENTPAIR_RIGHTS).value,
            process.add(other, _EVENTPAIR_RIGHTS).value,
        )
