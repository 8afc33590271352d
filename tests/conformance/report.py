# What the cases came to, as a table by area and a line for each that is not as written.
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .known import EXCEPTIONS
from .runner import Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS: Final = ("cases", "passed", "failed", "known", "skipped", "either")


def column(result: Result) -> str:
    """What a case counts as: one column of the table."""
    if result.wrong:
        return "known" if result.case in EXCEPTIONS else "failed"
    if result.verdict is Verdict.SKIPPED:
        return "skipped"
    return "either" if result.either else "passed"


def table(results: Iterable[Result]) -> list[str]:
    """The totals, an area a line, and below them what is not as written.

    ``known`` are failures that are listed with their reasons; ``either`` are cases of which more
    than one outcome is right, whichever it was.
    """
    results = list(results)
    areas = list(dict.fromkeys(result.area for result in results))
    width = max(map(len, [*areas, "area"]), default=4)
    lines = ["  ".join(["area".ljust(width), *(name.rjust(7) for name in _COLUMNS)])]
    for area in [*areas, "all"]:
        mine = [result for result in results if area in (result.area, "all")]
        counts = [len(mine), *(sum(column(r) == name for r in mine) for name in _COLUMNS[1:])]
        lines.append("  ".join([area.ljust(width), *(f"{count:7}" for count in counts)]))
    for result in results:
        kind = column(result)
        if kind in ("failed", "skipped"):
            lines.append(f"{kind} {result.case}: {result.reason}")
        elif kind == "known":
            lines.append(f"known {result.case}: {EXCEPTIONS[result.case]}: {result.reason}")
        elif kind == "either":
            lines.append(f"either {result.case}: {result.reason or 'as written'}")
    return lines
