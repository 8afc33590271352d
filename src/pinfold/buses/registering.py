# What the kernel's refusals mean where io_uring is to hold pages: of a ring, and of a registration.
#
# The kernel takes a ring apart a moment after it was closed, and until then all of it counts
# against the limit on locked memory: whatever was registered in it and, from Linux 6.14 on, the
# ring itself. Nothing tells when that is over, so what the limit objects to is tried again.
#
# Source: io_uring_setup(2), io_uring_register(2), ERRORS; sysctl kernel.io_uring_disabled; the
# moment is some 10 ms, measured on 6.18.
from __future__ import annotations

import errno
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from pinfold.errors import AccessDenied, LimitReached, NotSupported, PinfoldError
from pinfold.host import probe
from pinfold.memory.hosterrors import from_host, translated
from pinfold.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pinfold.bus import PinnedRange
    from pinfold.host.uring import Ring

_T = TypeVar("_T")

_ABSENT: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_DENIED: Final = (errno.EPERM, errno.EACCES)
_RECENT: Final = 1.0
"""Seconds in which a ring that was closed may still count."""
_PATIENCE: Final = 0.2
"""Seconds in which it is tried again."""
_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02
"""Seconds between two attempts, at first and at most."""

closed_lately: Final[deque[float]] = deque(maxlen=1)
"""When this process last closed a ring, by time.monotonic(); empty once that was waited for."""


def close(ring: Ring) -> None:
    """Close a ring. Raises HostError; it is closed all the same."""
    closed_lately.append(time.monotonic())
    with translated("close an io_uring"):
        ring.close()


def patiently(step: Callable[[], _T]) -> _T:
    """Make a ring or a registration. Where the limit objects, and a ring that was just closed may
    be why, try again for `_PATIENCE`. Raises OSError, the kernel's."""
    ends, pause = 0.0, _PAUSE
    while True:
        try:
            return step()
        except OSError as error:
            now = time.monotonic()
            if not ends and error.errno == errno.ENOMEM and _may_still_count(now):
                ends = now + _PATIENCE
            if now >= ends or error.errno != errno.ENOMEM:
                if ends:
                    closed_lately.clear()
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _may_still_count(now: float) -> bool:
    if not closed_lately or now - closed_lately[0] > _RECENT:
        return False
    try:
        return not probe.may_exceed_memlock() and probe.memlock_limit() is not None
    except OSError:  # `_limit` finds that out as well, and notes it on the error
        return False


def is_refusal(error: OSError) -> bool:
    """True of the kernel's own word. What a signal handler raises may be an OSError, too: a
    TimeoutError, which no call here is answered with."""
    return error.errno is not None and not isinstance(error, TimeoutError)


def of_ring(error: OSError) -> PinfoldError:
    """Of a ring with a sparse table."""
    if error.errno in _ABSENT:
        return NotSupported(
            f"this kernel has no io_uring with sparse tables: {error.strerror}",
            remedy="use Linux 5.19 or later, with CONFIG_IO_URING",
        )
    if error.errno in _DENIED:
        return AccessDenied(
            "this process may not use io_uring",
            remedy="see the sysctl kernel.io_uring_disabled, and what the seccomp profile of a "
            "container allows",
        )
    if error.errno == errno.ENOMEM:
        return _limit("make an io_uring", error, 0)
    return from_host("make an io_uring", error)


def of_buffers(pinned: PinnedRange, error: OSError) -> PinfoldError:
    """Of a registration: the kernel was to pin a range."""
    what = f"register {human_size(pinned.size)} of {pinned.what}"
    if error.errno == errno.EFAULT and not pinned.writable:
        return NotSupported(
            f"{what}: io_uring pins memory for writing, and this may not be written",
            remedy="copy it into memory of its own",
        )
    if error.errno in (errno.EFAULT, errno.EOPNOTSUPP) and pinned.memfd is None:
        return NotSupported(
            f"{what}: Linux does not pin that memory for long (it shows a file, or a device)",
            remedy="copy it into memory of its own",
        )
    if error.errno in (errno.ENOMEM, errno.EPERM):
        return _limit(what, error, pinned.size)
    return from_host(what, error, asked=pinned.size)


def _limit(what: str, error: OSError, asked: int) -> PinfoldError:
    """ENOMEM is two stories: no memory, or the limit, which is compared with what all processes of
    the user hold. Nobody tells that; what this process holds is told."""
    plain = from_host(what, error, asked=asked or None)
    try:
        if probe.may_exceed_memlock():
            return plain
        limit = probe.memlock_limit()
        held = probe.process_memory().pinned
    except OSError as second:
        plain.add_note(f"which limits hold could not be read: {second}")
        return plain
    left = 0 if limit is None else max(limit - held, 0)
    return LimitReached(
        f"{what}: it would pass the limit on locked memory. By user io_uring counts what is "
        "registered and, since Linux 6.14, its rings; for a moment also what was closed",
        asked=asked or None,
        available=left if asked > left else None,  # else others hold it
        limit=limit,
        holder=f"this process has {human_size(held)} pinned" if held else None,
        remedy="raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=), grant CAP_IPC_LOCK, or unpin "
        "something",
    )
