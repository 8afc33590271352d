# What is printed: the facts about the machine, then the table. rich draws it where it is installed.
from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from time import perf_counter
from typing import Any

from bench.measure import Row

_COLUMNS = ("claim", "subject", "takes", "floor", "ratio or absolute", "goal", "met?")
_COLLECTOR = (
    "collected and frozen before the rounds and off inside them (as timeit does), "
    "but for the rows that say it is on"
)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError as error:
        return f"unknown ({error.strerror})"
    return platform.machine()


def _empty_call() -> float:
    """Nanoseconds for a call of a Python function that does nothing: what this CPU is good for."""

    def nothing() -> None:
        pass

    best = float("inf")
    for _ in range(20):
        start = perf_counter()
        for _ in range(10_000):
            nothing()
        best = min(best, perf_counter() - start)
    return best / 10_000 * 1e9


def header(*, once: bool) -> dict[str, str]:
    """The facts that a number means nothing without."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": platform.release(),
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} usable, "
        f"load {os.getloadavg()[0]:.1f} at the start",
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"{_empty_call():.0f} ns for an empty call",
        "numpy": metadata.version("numpy"),
        "collector": _COLLECTOR,
    }
    if once:
        facts["note"] = "--once: every operation ran, nothing was measured; the times mean nothing"
    return facts


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.met is None else "yes" if row.met else "NO"
    return row.claim, row.subject, row.value, row.floor, row.result, row.goal, verdict


def print_json(facts: dict[str, str], rows: list[Row], errors: dict[str, str]) -> None:
    """One object on standard output."""
    out: dict[str, Any] = {
        "header": facts,
        "rows": [asdict(row) for row in rows],
        "errors": errors,
    }
    json.dump(out, sys.stdout, indent=2)
    print()


def print_table(facts: dict[str, str], rows: list[Row]) -> None:
    """The header, the table, and why goals were missed."""
    for name, fact in facts.items():
        print(f"{name + ':':<11}{fact}")
    print()
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _print_plain(rows)
    else:
        # Into a pipe or a file rich takes 80 columns; our lines are what they are.
        console = Console() if sys.stdout.isatty() else Console(width=190)
        table = Table(*_COLUMNS)
        former = ""
        for row in rows:
            if former and former != row.claim:
                table.add_section()
            former = row.claim
            style = {True: "green", False: "red", None: ""}[row.met]
            table.add_row(*_cells(row), style=style)
        console.print(table, markup=False)
    missed = [row for row in rows if row.met is False]
    judged = [row for row in rows if row.met is not None]
    for row in missed:
        print(f"missed: {row.claim}: {row.subject}: {row.why}")
    if judged:
        print(f"{len(judged) - len(missed)} of {len(judged)} goals met, judged on the minima")


def _print_plain(rows: list[Row]) -> None:
    lines = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)))
