# What the kernel's refusals mean where io_uring is to hold pages: of a ring, and of a registration.
#
# Source: io_uring_setup(2), io_uring_register(2), ERRORS; sysctl kernel.io_uring_disabled.
from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pinfold.errors import AccessDenied, LimitReached, NotSupported, PinfoldError
from pinfold.host import probe
from pinfold.memory.hosterrors import from_host
from pinfold.units import human_size

if TYPE_CHECKING:
    from pinfold.bus import PinnedRange

_ABSENT: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_DENIED: Final = (errno.EPERM, errno.EACCES)


def of_ring(error: OSError) -> PinfoldError:
    """Of a ring with a sparse table. From Linux 6.14 on it counts as locked memory, too."""
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
        f"{what}: it would pass the limit on locked memory, which io_uring counts by user, "
        "its rings included",
        asked=asked or None,
        available=left if asked > left else None,  # else others hold it
        limit=limit,
        holder=f"this process has {human_size(held)} pinned" if held else None,
        remedy="raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=), grant CAP_IPC_LOCK, or unpin "
        "something",
    )
