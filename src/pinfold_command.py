# The ``pinfold`` command before it is loaded. It is beside the package, not in it: to load the
# package takes a quarter of a second, and its own file comes first.
#
# ^C meanwhile ends the command at once, with the exit status that it has later, and without a
# traceback: nothing has been started. Where SIGINT is ignored, as in the background, it stays so.
from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    os._exit(128 + number)


def run() -> None:
    """The entry point. A copy takes the signal over before it starts; nothing else has to."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    from pinfold.cli import main

    main.run()
