# One class per reaction a caller may have, never one per cause.
#
# Each error is also the built-in that a Python user would expect, carries the facts as attributes,
# and has a `status` that a dialect maps to its own number. Where a fact is known the message prints
# it, in the order: what was asked, what there was, which limit, who holds it, what to do.
from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

from pinfold.rights import describe_rights

if TYPE_CHECKING:
    from collections.abc import Iterator


class Status(enum.Enum):
    """The reaction behind an error, in the words that the dialects translate."""

    INTERNAL = "INTERNAL"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    NO_RESOURCES = "NO_RESOURCES"
    NO_MEMORY = "NO_MEMORY"
    INVALID_ARGS = "INVALID_ARGS"
    BAD_HANDLE = "BAD_HANDLE"
    WRONG_TYPE = "WRONG_TYPE"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    BUFFER_TOO_SMALL = "BUFFER_TOO_SMALL"
    BAD_STATE = "BAD_STATE"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ALREADY_BOUND = "ALREADY_BOUND"
    UNAVAILABLE = "UNAVAILABLE"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    ACCESS_DENIED = "ACCESS_DENIED"
    IO = "IO"
    NO_SPACE = "NO_SPACE"


def _show(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class PinfoldError(Exception):
    """Base of every error that pinfold raises on purpose.

    Attributes:
      asked: what the caller wanted; usually bytes, or an offset.
      available: what there was.
      limit: the limit or border that objected.
      holder: who holds what was missing.
      remedy: what to do about it, as an imperative.

    Each is None where the error has no such fact.
    """

    status: ClassVar[Status] = Status.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        asked: object = None,
        available: object = None,
        limit: object = None,
        holder: object = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.asked = asked
        self.available = available
        self.limit = limit
        self.holder = holder
        self.remedy = remedy
        super().__init__(str(self))

    def facts(self) -> Iterator[tuple[str, object]]:
        """The facts this error has, as (name, value), in the order of the message."""
        for name in ("asked", "available", "limit", "holder"):
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def __str__(self) -> str:
        text = self.message
        facts = ", ".join(f"{name} {_show(value)}" for name, value in self.facts())
        if facts:
            text += f" ({facts})"
        if self.remedy:
            text += f"; {self.remedy}"
        return text


class InvalidArgs(PinfoldError, ValueError):
    """An argument is malformed, or two of them cannot go together."""

    status = Status.INVALID_ARGS


class OutOfRange(PinfoldError, IndexError):
    """The range leaves the object; ``limit`` is where the object ends."""

    status = Status.OUT_OF_RANGE


class WrongType(PinfoldError, TypeError):
    """The handle is good, but it is a handle to something else."""

    status = Status.WRONG_TYPE


class BadHandle(PinfoldError, ValueError):
    """The handle is closed, or was never one."""

    status = Status.BAD_HANDLE


class AccessDenied(PinfoldError, PermissionError):
    """A right or a permission is missing; ``missing`` has its bits.

    A `PermissionError`, with ``errno`` None: no system call was refused, we refused.
    """

    status = Status.ACCESS_DENIED

    def __init__(self, message: str, *, missing: int = 0, remedy: str | None = None) -> None:
        self.missing = missing
        if missing:
            message = f"{message}: {describe_rights(missing)} is missing"
        super().__init__(message, remedy=remedy)


class BadState(PinfoldError, RuntimeError):
    """The object is in the wrong state: destroyed, pinned, quarantined, lent out."""

    status = Status.BAD_STATE


class WrongProcess(BadState):
    """The object belongs to the process that this one was forked from."""


class NotPinned(BadState):
    """The page at the address ``asked`` is not pinned, so there is nothing to undo."""


class Unavailable(PinfoldError, RuntimeError):
    """Not now, or not for this object; a pin that raises this may succeed later."""

    status = Status.UNAVAILABLE


class NotSupported(PinfoldError, NotImplementedError):
    """This kind of object cannot do that, ever."""

    status = Status.NOT_SUPPORTED


class BufferTooSmall(PinfoldError, BufferError):
    """What the caller has room for is less than what there is (``asked``, ``available``)."""

    status = Status.BUFFER_TOO_SMALL


class TimedOut(PinfoldError, TimeoutError):
    """What was waited for had not happened by the deadline."""

    status = Status.TIMED_OUT


class Canceled(PinfoldError, RuntimeError):
    """The handle that was waited on was closed meanwhile."""

    status = Status.CANCELED


class NotFound(PinfoldError, LookupError):
    """Nothing is there."""

    status = Status.NOT_FOUND


class AlreadyExists(PinfoldError, FileExistsError):
    """Something is there already; ``holder`` names it."""

    status = Status.ALREADY_EXISTS


class AlreadyBound(PinfoldError, RuntimeError):
    """A page is in a pin of this device's already; ``asked`` is where it begins."""

    status = Status.ALREADY_BOUND


class NoMemory(PinfoldError, MemoryError):
    """The host has no memory left for this."""

    status = Status.NO_MEMORY


class LimitReached(NoMemory):
    """A limit objects: pins, locked memory, or a bus's address space (``limit``, ``remedy``)."""


class OutOfReach(LimitReached):
    """The device cannot put this address on the bus; ``extent`` is what it cannot reach."""

    def __init__(self, message: str, *, extent: object, limit: object, remedy: str) -> None:
        self.extent = extent
        super().__init__(message, asked=extent, limit=limit, remedy=remedy)


class NoResources(PinfoldError, MemoryError):
    """No gap of that size is left in an address region."""

    status = Status.NO_RESOURCES


class NoSpace(PinfoldError, OSError):
    """The file system or the backing store behind the memory is full."""

    status = Status.NO_SPACE


class HostError(PinfoldError, OSError):
    """The Linux kernel refused for a reason that has no better class; the cause is chained.

    ``errno`` is the kernel's.
    """

    status = Status.IO

    def __init__(self, message: str, error: OSError, *, remedy: str | None = None) -> None:
        super().__init__(f"{message}: {error.strerror}", remedy=remedy)
        self.errno = error.errno
        self.strerror = error.strerror


class DmaFault(PinfoldError, RuntimeError):
    """A device access was stopped; ``fault`` is the record that the bus kept of it."""

    status = Status.ACCESS_DENIED

    def __init__(self, fault: object) -> None:
        self.fault = fault
        super().__init__(str(fault))
