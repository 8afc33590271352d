# Which mappings this process has in a range of addresses, and what they allow.
#
# Linux 6.11 and later answer for one mapping at a time (PROCMAP_QUERY), which costs by the mappings
# in the range. Before that there is only the text of /proc/self/maps, which costs by all of them.
#
# Source: Documentation/filesystems/proc.rst; <linux/fs.h>.
from __future__ import annotations

import errno
import os
from struct import Struct
from typing import Final, NamedTuple

from pinfold.host import calls, probe
from pinfold.host.abi import (
    PROCMAP_QUERY,
    PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)

_QUERY: Final = Struct("=9Q4I2Q")
"""struct procmap_query: its size, flags, address; then what is answered."""
_PERMS: Final = PROT_READ | PROT_WRITE | PROT_EXEC  # which are the answer's three lowest flags


class Vma(NamedTuple):
    """One mapping: ``[start, stop)``, and what may be done there, bits of PROT_*."""

    start: int
    stop: int
    prot: int


def mappings(start: int, stop: int) -> list[Vma]:
    """The mappings that have addresses in ``[start, stop)``, ascending, whole.

    Not atomic: another thread may map or unmap meanwhile.
    """
    fd = calls.open_file("/proc/self/maps", os.O_RDONLY)
    try:
        return _asked(fd, start, stop)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
    finally:
        calls.close(fd)
    return [
        Vma(
            line.start,
            line.stop,
            line.readable * PROT_READ | line.writable * PROT_WRITE | line.executable * PROT_EXEC,
        )
        for line in probe.mappings(start, stop)
    ]


def _asked(fd: int, start: int, stop: int) -> list[Vma]:
    found: list[Vma] = []
    at, answer = start, bytearray(_QUERY.size)
    while at < stop:
        _QUERY.pack_into(
            answer, 0, _QUERY.size, PROCMAP_QUERY_COVERING_OR_NEXT_VMA, at, *([0] * 12)
        )
        try:
            calls.ioctl(fd, PROCMAP_QUERY, answer)
        except OSError as error:
            if error.errno == errno.ENOENT:  # there is none from here on
                break
            raise
        _, _, _, low, high, flags, *_ = _QUERY.unpack_from(answer)
        if low >= stop:
            break
        found.append(Vma(low, high, flags & _PERMS))
        at = high
    return found
