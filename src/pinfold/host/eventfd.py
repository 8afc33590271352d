# Eventfds: a counter in the kernel that a device's interrupt adds to, and that can be waited for.
from __future__ import annotations

import os
import select
from typing import Final

from pinfold.host import calls

_WIDTH: Final = 8


def create() -> int:
    """A new eventfd at 0; reading it never waits."""
    calls.intercept("eventfd")
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def take(fd: int) -> int:
    """What was added since it was last taken; 0 for nothing."""
    calls.intercept("read")
    try:
        return int.from_bytes(os.read(fd, _WIDTH), "little")
    except BlockingIOError:
        return 0


def add(fd: int) -> None:
    """Add one, for whoever waits on it."""
    calls.intercept("write")
    os.eventfd_write(fd, 1)


def wait(fd: int, timeout: float | None) -> bool:
    """Wait until something is added, ``timeout`` seconds at most, for ever with None.

    False when nothing was.
    """
    calls.intercept("poll")
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))))
