# The kernel's log, read as it grows: /dev/kmsg.
#
# Source: Documentation/ABI/testing/dev-kmsg of Linux. One read gives one record; EAGAIN is the end
# for now, EPIPE says that records were overwritten before they were read, and the next read goes on
# with the oldest that is left. A reader that came to an end starts where the log was.
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from pinfold.host import calls

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH: Final = "/dev/kmsg"

_LONGEST: Final = 8192
"""Bytes that a record can have."""


class KernelLog:
    """What the kernel logs from now on.

    Raises:
      OSError: this process may not read the log, or there is none.
    """

    def __init__(self) -> None:
        self._fd = calls.open_file(PATH, os.O_RDONLY | os.O_NONBLOCK)
        try:
            calls.lseek(self._fd, 0, os.SEEK_END)
        except BaseException:
            self.close()
            raise

    def lines(self) -> Iterator[str]:
        """The messages since it was last read, oldest first."""
        while self._fd >= 0:
            try:
                calls.intercept("read")
                record = os.read(self._fd, _LONGEST)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue
                if error.errno == errno.EAGAIN:
                    return
                raise
            _prefix, _, rest = record.decode(errors="replace").partition(";")
            yield rest.partition("\n")[0]

    def close(self) -> None:
        """No more lines. Twice is once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            calls.close(fd)
