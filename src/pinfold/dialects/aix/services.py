# How a kernel service is called: results, the environment, and what AIX would not have survived.
#
# Two families return in two ways: pin and its kin a positive errno, the cross-memory services
# XMEM_SUCC or XMEM_FAIL. Both are a decorator here, over functions that raise pinfold's errors.
#
# Most services are for the process environment alone. AIX has no error for a call from the wrong
# one: the system stops. So it does here, with an exception that is no status.
from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from pinfold.dialects.aix import numbers as aix
from pinfold.dialects.calling import pointed, syscalls, u64
from pinfold.errors import Status
from pinfold.objects.addresses import address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

P = ParamSpec("P")


class KernelAssertion(RuntimeError):
    """AIX would have stopped here: the caller broke a rule for which there is no error."""


class WouldWait(RuntimeError):
    """AIX would wait here until there is paging space again. Nothing has changed."""


class DriverBug(RuntimeWarning):
    """Allowed, and wrong: memory was unpinned that a device can still reach, or left pinned."""


# The environment ----------------------------------------------------------------------------------

_interrupted: ContextVar[bool] = ContextVar("pinfold_aix_interrupt", default=False)


@contextmanager
def interrupt_environment() -> Iterator[None]:
    """The block runs at interrupt level: what might wait, or fault a page in, is not allowed.

    It follows the thread or task, as the current process does.
    """
    token = _interrupted.set(True)
    try:
        yield
    finally:
        _interrupted.reset(token)


def in_interrupt() -> bool:
    """True inside `interrupt_environment`."""
    return _interrupted.get()


def process_only(what: str) -> None:
    """Raise `KernelAssertion` at interrupt level."""
    if _interrupted.get():
        raise KernelAssertion(f"{what} may be called in the process environment only")


# Results ------------------------------------------------------------------------------------------

_ERRNO: Final[Mapping[Status, int]] = {
    Status.INTERNAL: aix.EIO,
    Status.NOT_SUPPORTED: aix.EINVAL,
    Status.NO_RESOURCES: aix.ENOMEM,
    Status.NO_MEMORY: aix.ENOMEM,
    Status.INVALID_ARGS: aix.EINVAL,
    Status.BAD_HANDLE: aix.EINVAL,
    Status.WRONG_TYPE: aix.EINVAL,
    Status.OUT_OF_RANGE: aix.EFAULT,
    Status.BUFFER_TOO_SMALL: aix.EINVAL,
    Status.BAD_STATE: aix.EINVAL,
    Status.NOT_FOUND: aix.EINVAL,
    Status.ALREADY_EXISTS: aix.EINVAL,
    Status.ALREADY_BOUND: aix.EINVAL,
    Status.UNAVAILABLE: aix.ENOMEM,
    Status.TIMED_OUT: aix.EIO,
    Status.CANCELED: aix.EIO,
    Status.ACCESS_DENIED: aix.EFAULT,
    Status.IO: aix.EIO,
    Status.NO_SPACE: aix.ENOSPC,
}
"""For services that are told which space an address is in: outside of it is EFAULT."""

_ERRNO_OF_SYSTEM: Final = {**_ERRNO, Status.OUT_OF_RANGE: aix.EINVAL}
"""For services that know system space only: an address elsewhere is not defined."""

_FAILS: Final = dict.fromkeys(Status, aix.XMEM_FAIL)

STATUSES: Final = {"described": _ERRNO, "system": _ERRNO_OF_SYSTEM, "xmem": _FAILS}
"""From pinfold's reactions to AIX's results, for each family of services."""


def service(family: str) -> Callable[[Callable[P, int | None]], Callable[P, int]]:
    """The decorator of a service of a family; one that returns None has succeeded: 0.

    What the kernel has no memory for in the service itself is ENOMEM, or XMEM_FAIL.
    """
    statuses = STATUSES[family]
    return syscalls(statuses, no_memory=statuses[Status.NO_MEMORY])


# Arguments ----------------------------------------------------------------------------------------


def address(value: Any) -> tuple[int, memoryview | None]:
    """A ``caddr_t``: an address; or a buffer, which stands for the address of its first byte.

    Raises:
      OverflowError: no unsigned 64-bit number.
      TypeError: neither a number nor a buffer.
    """
    try:
        return u64(value), None
    except TypeError:  # no number, so perhaps what is to be found at one
        view = pointed(value)
    if view is None:
        raise TypeError("an address is a number, or a buffer")
    return address_of(view), view
