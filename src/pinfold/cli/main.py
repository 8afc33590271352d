# The ``pinfold`` command. Each subcommand does its work in a module of its own and returns a
# record; here are only arguments, output and the exit status.
#
# Exit status:
#
#   0  everything was as it should be
#   1  it was started, and something was not: a step, the host, a file that changed, the output
#   2  nothing was started: a usage error, or a file that cannot be read or does not fit in memory
from __future__ import annotations

import enum
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
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


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        typer.echo(f"pinfold {version('pinfold')}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
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

    Exits with 0 only if every step did what it should, and with 2 if it could not be started: no
    such file, or one that does not fit in memory twice.
    """
    try:
        report = demo_job.run(file, bus.value)
    except demo_job.UnusableFile as error:
        _give_up(str(error), 2)
    except (demo_job.FileChanged, PinfoldError) as error:
        _give_up(str(error), 1)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        show_demo(report)
    raise typer.Exit(0 if report.ok else 1)


def _give_up(message: str, status: int) -> NoReturn:
    typer.echo(f"pinfold: {message}", err=True)
    raise typer.Exit(status)


@contextmanager
def _delivered() -> Iterator[None]:
    """Output that cannot be written ends the command with 1: in one line, or none if nobody reads.

    The job has no OSError of its own: what the host and the file system say is translated.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # None where the command was started without one
                sys.stdout.flush()
    except OSError as error:
        # What is still buffered would fail once more at exit, with a message of the interpreter's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            typer.echo(f"pinfold: cannot write the output: {error.strerror}", err=True)
        sys.exit(1)


def run() -> None:
    """The entry point."""
    with _delivered():
        app()


if __name__ == "__main__":
    run()
