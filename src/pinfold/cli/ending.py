# The signals that ask a command to end: noted, and asked for where the command can stop.
#
# An exception in the middle of a pin would leave pages held, and in the middle of a rename nobody
# would know how it ended. What no signal may do either is to end the process when the work is done
# and has not been told: the exit status would say the opposite of what is so.
#
# All signals are meant that end a process unless it does something about them, see signal(7). Not
# those of a fault of the program's own (SIGSEGV): after them nothing can be tidied up. One that is
# ignored when the command starts, as in nohup, stays ignored; one with a handler is somebody's.
from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_OTHERS: Final = {
    signal.SIGKILL, signal.SIGSTOP,  # cannot be caught
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT,
    signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH,
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip
"""Signals that end no process, or that end it whatever it does."""


def name_of(number: int) -> str:
    """``SIGINT``; real-time signals have none but their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Signals:
    """Notes the first of them, in ``received``: a context manager, for the main thread.

    Args:
      to_the_end: the process ends soon after the block: further ones are ignored until it has.
        Without it whoever handled them before does so again.
    """

    def __init__(self, *, to_the_end: bool = False) -> None:
        self.received: int | None = None
        self._to_the_end = to_the_end
        self._former: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = self.received or number

    def __enter__(self) -> Self:
        for number in signal.valid_signals() - _OTHERS:
            former = signal.getsignal(number)
            # Python, or who started it, may have a handler for SIGINT: it would be an exception.
            if former is signal.SIG_DFL or (number == signal.SIGINT and callable(former)):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_IGN if self._to_the_end else former)
