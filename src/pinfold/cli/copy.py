# `pinfold copy`, as people meet it: sizes as they write them, and how far it has come. The copy
# itself is in `copying`, and the signals that end it between two chunks are in `ending`.
from __future__ import annotations

import re
from contextlib import suppress
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from pinfold.cli.copying import CopyReport, Interrupted, copy_file
from pinfold.cli.text import one_line, sized
from pinfold.units import GIB, KIB, MIB, TIB, human_size

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Task

    from pinfold.cli.ending import Signals
    from pinfold.cli.plan import Options, Plan

_UNITS: Final = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_WIDTH: Final = 78
_NARROW: Final = 48
"""Columns; on less there is no room for figures beside the bar."""

_REFRESH: Final = 0.1
"""Seconds between two looks of the bar."""

_WORDS: Final = {"copy": "copied", "verify": "verified"}


def size_of(text: str) -> int:
    """Bytes, of what a person writes: ``4096``, ``64K``, ``1MiB``. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+)(?:([KMGT])(?:iB)?)?", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no size: write 65536, 64K or 64KiB")
    number, unit = found.groups(default="")
    return int(number) * _UNITS[unit.upper()]


def run(
    source: str, target: str, options: Options, signals: Signals, *, verbose: bool, quiet: bool
) -> CopyReport:
    """Copy, and show how far it has come: on the error output, a bar on a terminal, else lines.

    Args:
      signals: noted already; what comes after the rename changes nothing.
      verbose: say what was settled before the first byte.
      quiet: show nothing.

    Raises what `copy_file` does; Interrupted by a signal; OSError where the progress cannot be
    written, and then the destination is as it was.
    """
    with _Progress(signals, verbose=verbose, quiet=quiet) as progress:
        return copy_file(source, target, options, progress)


def summary(report: CopyReport) -> str:
    """What was done, in one line."""
    size = report.plan.size
    rate = human_size(int(report.copied / report.seconds))
    text = f"{report.source} -> {report.target}: {sized(size)} in {report.seconds:.2f} s"
    if report.copied:
        text += f", {rate}/s"
    if report.copied < size:
        text += f", {sized(size - report.copied)} of it holes"
    if report.verified:
        text += ", verified"
    return one_line(text)


class _Amount(ProgressColumn):
    """How much of how much. As wide at the end as at the start, so that the bar stays where it
    is."""

    def render(self, task: Task) -> Text:
        """``305.4 MiB of 4 GiB``."""
        return Text(f"{sized(int(task.completed)):>10} of {sized(int(task.total or 0))}")


class _Rate(ProgressColumn):
    """How fast, and how much longer."""

    def render(self, task: Task) -> Text:
        """``820.1 MiB/s, 0:03 left``; nothing within the first second."""
        elapsed = perf_counter() - task.fields["began"]
        if elapsed < 1 or not task.completed:
            return Text(" " * 24)
        rate = task.completed / elapsed
        minutes, seconds = divmod(round(((task.total or 0) - task.completed) / rate), 60)
        return Text(f"{human_size(int(rate)):>10}/s{f'{minutes}:{seconds:02}':>7} left")


class _Progress:
    """Shows how far a copy has come; see `copying.Watch`."""

    def __init__(self, signals: Signals, *, verbose: bool, quiet: bool) -> None:
        self._signals = signals
        self._verbose = verbose
        self._quiet = quiet
        self._size = 0
        self._stage = ""
        self._tenths = 0
        self._shown = 0.0
        self._bar: Progress | None = None

    def planned(self, plan: Plan) -> None:
        """See `copying.Watch.planned`."""
        self._size = plan.size
        if self._verbose:
            typer.echo("\n".join(_plan_text(plan)), err=True)
        console = Console(stderr=True, highlight=False)
        if self._quiet or not console.is_terminal or console.is_dumb_terminal:
            return
        # Two columns are for the ^C that a terminal shows: in the next line it would stay.
        console.width = min(console.width - 2, _WIDTH)
        whole = Column(no_wrap=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description:6} {task.percentage:3.0f}%", table_column=whole),
            BarColumn(bar_width=None),
        ]
        if console.width >= _NARROW:
            columns.append(_Amount(table_column=whole))
        if console.width >= _WIDTH:
            columns.append(_Rate(table_column=whole))
        self._bar = Progress(
            *columns,
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar.start()

    def at(self, stage: str, done: int) -> None:
        """See `copying.Watch.at`."""
        first, self._stage = stage != self._stage, stage
        if self._bar is not None:
            self._on_terminal(self._bar, done, first=first)
        elif not self._quiet:
            self._in_lines(done, first=first)

    def check(self) -> None:
        """See `copying.Watch.check`."""
        if self._signals.received is not None:
            raise Interrupted(self._signals.received)

    def _on_terminal(self, bar: Progress, done: int, *, first: bool) -> None:
        if first:
            for task in bar.task_ids:
                bar.remove_task(task)
            bar.add_task(self._stage, total=self._size, began=perf_counter())
        now = monotonic()
        if first or now - self._shown >= _REFRESH:
            self._shown = now
            bar.update(bar.task_ids[0], completed=done, refresh=True)

    def _in_lines(self, done: int, *, first: bool) -> None:
        """A line at every tenth of the file."""
        if self._stage == "sync":
            typer.echo("syncing the copy", err=True)
            return
        if first:
            self._tenths = 0
        tenths = 10 * done // self._size if self._size else 10
        if tenths > self._tenths:
            self._tenths = tenths
            word = _WORDS[self._stage]
            typer.echo(f"{word} {10 * tenths}%: {sized(done)} of {sized(self._size)}", err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            # The copy may be in place already: a terminal that is gone does not make it fail.
            with suppress(OSError):
                self._bar.stop()


def _plan_text(plan: Plan) -> list[str]:
    past, through = "past the page cache", "through the page cache"
    lines = [
        f"source: {sized(plan.size)}, {past if plan.source_direct else through}",
        f"copy:   {past if plan.target_direct else through}",
        f"buffer: {human_size(plan.buffer)}, pinned once for each file",
        f"chunks: {human_size(plan.chunk)}, up to {plan.depth} under way on each side",
    ]
    if plan.limit is not None:
        limit = f"RLIMIT_MEMLOCK is {human_size(plan.limit)}"
        lines.append(f"limit:  {limit} for both pins, so the buffer is smaller")
    return lines
