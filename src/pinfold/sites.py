# Where in the caller's code something was made.
#
# A leak report without a line number is a rumour, so every handle and every pin remembers the
# place that made it. It has to be cheap enough to be always on: taking a site stores the code
# object and the instruction index, and the line number is worked out only when somebody asks.
from __future__ import annotations

import sys
from os.path import dirname, join
from types import CodeType

Site = tuple[CodeType, int]
"""A code object and the offset of an instruction in it; see `describe`."""

_PACKAGE = dirname(__file__)

# Frames of these rooms stand between a caller and the act; a driver or a device model is itself
# the caller, so its rooms are not among them.
_SKIPPED = tuple(join(_PACKAGE, room, "") for room in ("objects", "memory", "buses", "dialects"))


_is_ours: dict[str, bool] = {}  # by file name: a dict look-up is a third of a startswith


def caller(depth: int = 1) -> Site:
    """The innermost frame outside pinfold's own object rooms.

    ``depth`` frames are passed over unseen: the callers that are known to be ours.
    """
    frame = sys._getframe(depth)  # noqa: SLF001 - inspect's own way costs a hundred times more
    while True:
        code = frame.f_code
        ours = _is_ours.get(code.co_filename)
        if ours is None:
            ours = _is_ours[code.co_filename] = code.co_filename.startswith(_SKIPPED)
        if not ours:
            return code, frame.f_lasti
        outer = frame.f_back
        if outer is None:
            return code, frame.f_lasti
        frame = outer


def describe(site: Site | None) -> str:
    """``path/to/file.py:12 in function``, or ``(unknown place)``."""
    if site is None:
        return "(unknown place)"
    code, lasti = site
    line = code.co_firstlineno
    for start, stop, number in code.co_lines():
        if start <= lasti < stop and number is not None:
            line = number
    return f"{code.co_filename}:{line} in {code.co_qualname}"
