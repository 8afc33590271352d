# What the command shows to people: one screen of 80 columns, and no wider on a wider one, where the
# times would only move away from what took them. A narrower terminal gets lines that are folded
# between words, and a table without its widest columns. Plain where the output is no terminal;
# NO_COLOR is respected.
from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from pinfold.cli.text import counted, sized

if TYPE_CHECKING:
    from pinfold.cli.demo import DemoReport, Step

_WIDTH: Final = 80
_INDENT: Final = 6  # of what belongs to a step: as wide as "  ok  "
_HEAD: Final = ("object", "name", "size", "pins", "handles", "what", "to pin")
_RIGHT: Final = ("size", "pins", "handles", "to pin")


def show_demo(report: DemoReport) -> None:
    """Print a demo's report, on one screen."""
    screen = _Screen()
    wall = "an IOMMU in software" if report.isolates else "no IOMMU"
    screen.line(f"pinfold demo on the {report.bus} bus: {wall}", style="bold")
    screen.whole(f"{report.file}, {sized(report.size)}")
    screen.whole(f"SHA-256 {report.sha256}")

    screen.line("\nPin, grant, move, take back", style="bold")
    for step in report.steps:
        screen.step(step)
        screen.line(step.result, indent=_INDENT, style="" if step.ok else "red")
    screen.line("\nThe wall: what a device must not do", style="bold")
    for step in report.wall:
        screen.step(step, step.result)
        for part in (step.fault or "").splitlines():
            screen.line(part, indent=_INDENT, style="yellow")

    screen.line("\nWhile the engine was at work", style="bold")
    screen.table(_HEAD, _rows(report))
    left = ", ".join(counted(count, name[:-1]) for name, count in report.left.items())
    screen.line(
        f"At most {sized(report.peak_pinned_bytes)} pinned at once. Left afterwards: {left}."
    )
    if report.ok:
        screen.line("Every step did what it should.", style="green")
    else:
        screen.line("Something did not do what it should.", style="bold red")


def _rows(report: DemoReport) -> list[tuple[str, ...]]:
    return [
        (
            row.kind,
            row.name,
            "" if row.size is None else sized(row.size),
            str(row.pins),
            str(row.handles),
            row.note,
            "" if row.seconds is None else _milliseconds(row.seconds),
        )
        for row in report.objects
    ]


def _milliseconds(seconds: float) -> str:
    took = seconds * 1e3
    return f"{took:.2f} ms" if took < 10 else f"{took:.1f} ms"


class _Screen:
    """Lines of text that end where they end: no padding, so that they can be copied."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self.width = _WIDTH
        if self._console.is_terminal:
            self.width = min(self._console.width, _WIDTH)

    def whole(self, text: str) -> None:
        """A line that a person may want to copy, so it is left to the terminal to fold."""
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def line(self, text: str, *, indent: int = 0, style: str = "") -> None:
        """One line, or several if it does not fit."""
        margin = " " * indent
        for part in text.splitlines():
            folded = textwrap.wrap(
                part,
                self.width,
                initial_indent=margin,
                subsequent_indent=margin,
                break_on_hyphens=False,
            )
            self._console.print(Text("\n".join(folded), style=style), soft_wrap=True)

    def step(self, step: Step, result: str = "") -> None:
        """A step's first line: how it went, what it was, and at the right what it took."""
        mark, style = ("  ok  ", "green") if step.ok else ("  BAD ", "bold red")
        took = _milliseconds(step.seconds)
        title = f"{step.title}: {result}" if result else step.title
        first, *rest = textwrap.wrap(title, self.width - _INDENT - len(took) - 1)
        gap = " " * (self.width - _INDENT - len(first) - len(took))
        line = Text.assemble((mark, style), first, gap, (took, "dim"))
        self._console.print(line, soft_wrap=True)
        for part in rest:
            self._console.print(Text(" " * _INDENT + part), soft_wrap=True)

    def table(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Columns as wide as what is in them; without the widest ones if they do not fit."""
        lines = [head, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = list(range(len(head)))
        while len(shown) > 1 and sum(widths[at] + 2 for at in shown) > self.width:
            shown.remove(max(shown, key=widths.__getitem__))
        for number, line in enumerate(lines):
            cells = (
                line[at].rjust(widths[at]) if head[at] in _RIGHT else line[at].ljust(widths[at])
                for at in shown
            )
            style = "dim" if number == 0 else ""
            self._console.print(Text("  " + "  ".join(cells).rstrip(), style=style), soft_wrap=True)
