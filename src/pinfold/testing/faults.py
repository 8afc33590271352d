# Failing host calls on purpose. Source: SQLite's way, fail the n-th allocation, for every n.
#
# Each of these is installed in the one seam that every host call passes (host/calls.py), for the
# length of a `with` block, in all threads.
from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

from pinfold.host import calls

if TYPE_CHECKING:
    from types import TracebackType


class HostCalls:
    """Records the names of the host calls made in the block, and lets them through."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Each call's name, in order, refused ones included."""
        self._former: calls.Interceptor | None = None

    def __enter__(self) -> Self:
        self._former = calls.set_interceptor(self._see)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        calls.set_interceptor(self._former)

    def _see(self, name: str) -> None:
        self.names.append(name)
        if self._refuses(len(self.names)):
            raise OSError(self._errno, os.strerror(self._errno))

    _errno = errno.ENOMEM

    def _refuses(self, number: int) -> bool:
        del number
        return False

    @property
    def refused(self) -> list[str]:
        """The names of the calls that were refused."""
        return [name for number, name in enumerate(self.names, 1) if self._refuses(number)]


class FailNth(HostCalls):
    """Refuses the n-th host call of the block, counted from 1, and lets the others through.

    Args:
      n: which.
      error: the errno it fails with.
    """

    def __init__(self, n: int, error: int = errno.ENOMEM) -> None:
        super().__init__()
        self.n = n
        self._errno = error

    def _refuses(self, number: int) -> bool:
        return number == self.n


class FailFrom(FailNth):
    """Refuses the n-th host call of the block and every one after it: undoing fails as well."""

    def _refuses(self, number: int) -> bool:
        return number >= self.n
