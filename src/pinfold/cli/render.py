# What the command shows to people. Plain where the output is no terminal; NO_COLOR is respected.
from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pinfold.units import human_size

if TYPE_CHECKING:
    from pinfold.cli.demo import DemoReport, Step

_WIDTH_WITHOUT_TERMINAL = 110


def show_demo(report: DemoReport) -> None:
    """Print a demo's report, on one screen."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    wall = "an IOMMU in software" if report.isolates else "no IOMMU"
    console.print(Text.assemble(("pinfold demo", "bold"), f" on the {report.bus} bus: {wall}"))
    console.print(Text(f"{report.file}", style="dim"))
    console.print(Text(f"{human_size(report.size)}, SHA-256 {report.sha256}\n", style="dim"))

    console.print(Text("Pin, grant, move, take back", style="bold"))
    for step in report.steps:
        _show_step(console, step)
    console.print(Text("\nThe wall", style="bold"))
    for step in report.wall:
        _show_step(console, step)

    console.print(Text("\nWhile the engine was at work", style="bold"))
    console.print(_objects(report))
    console.print(
        f"At most {human_size(report.peak_pinned_bytes)} pinned at once. Left afterwards: "
        + ", ".join(f"{count} {name}" for name, count in report.left.items())
        + "."
    )
    verdict = ("Every step did what it should.", "green")
    if not report.ok:
        verdict = ("Something did not do what it should.", "bold red")
    console.print(Text(*verdict))


def _show_step(console: Console, step: Step) -> None:
    mark = ("ok  ", "green") if step.ok else ("BAD ", "bold red")
    line = Text.assemble("  ", mark, step.title, (f"  {step.seconds * 1e3:.1f} ms", "dim"))
    console.print(line)
    console.print(Text(f"      {step.result}", style="" if step.ok else "red"))
    for part in (step.fault or "").splitlines():
        console.print(Text(f"      {part}", style="yellow"), soft_wrap=False)


def _objects(report: DemoReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("object")
    table.add_column("name")
    for name in ("size", "pins", "handles"):
        table.add_column(name, justify="right")
    table.add_column("facts")
    table.add_column("to pin", justify="right")
    for row in report.objects:
        size = "" if row.size is None else human_size(row.size)
        took = "" if row.seconds is None else f"{row.seconds * 1e3:.2f} ms"
        table.add_row(row.kind, row.name, size, str(row.pins), str(row.handles), row.note, took)
    return table
