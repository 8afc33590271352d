# The ``pinfold`` command. Each subcommand does its work in a module of its own and returns a
# record; here are only arguments, output and the exit status.
#
# Exit status: 0 when everything was as it should be, 1 when it was not, 2 for a usage error.
from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

try:
    import typer
except ModuleNotFoundError:  # the command line is an extra, and says so instead of a traceback
    sys.exit("the pinfold command needs its extra: pip install 'pinfold[cli]'")

from pinfold.cli import demo as demo_job
from pinfold.cli.render import show_demo
from pinfold.errors import PinfoldError

app = typer.Typer(
    name="pinfold",
    help="Memory objects, pinned pages and device access.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class BusName(enum.StrEnum):
    """The buses that have software devices."""

    SIM = "sim"
    STUB = "stub"


@app.callback()
def _main() -> None:
    """Memory objects, pinned pages and device access."""


@app.command()
def demo(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="What to move; by default the running Python's own library.", show_default=False
        ),
    ] = None,
    bus: Annotated[
        BusName, typer.Option(help="sim: an IOMMU in software. stub: no IOMMU at all.")
    ] = BusName.SIM,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Move a real file by device DMA through pinned pages, and show the wall holding.

    Exits with 0 only if every step did what it should.
    """
    try:
        report = demo_job.run(file, bus.value)
    except demo_job.UnusableFile as error:
        _give_up(str(error), 2)
    except PinfoldError as error:
        _give_up(str(error), 1)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        show_demo(report)
    raise typer.Exit(0 if report.ok else 1)


def _give_up(message: str, status: int) -> NoReturn:
    typer.echo(f"pinfold: {message}", err=True)
    raise typer.Exit(status)


def run() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    run()
