# The ``pinfold`` command. Each subcommand does its work in a module of its own and returns a
# record; here are only arguments, output and the exit status.
#
# Exit status:
#
#   0  everything was as it should be
#   1  it was started, and something was not: a step, the host, a file that changed, the output (of
#      a copy that is in place by then: the message says so)
#   2  nothing was started: a usage error, or a file that cannot be read or does not fit in memory,
#      or a place where no copy can be made
#   128 + n  a copy was ended by signal n
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
from typing import Annotated, NoReturn, TextIO

try:
    import typer
except ModuleNotFoundError:  # the command line is an extra, and says so instead of a traceback
    sys.exit("the pinfold command needs its extra: pip install 'pinfold[cli]'")

from pinfold.cli import copy as copy_job
from pinfold.cli import demo as demo_job
from pinfold.cli.copying import Differs, Interrupted
from pinfold.cli.destination import Refused
from pinfold.cli.ending import Signals
from pinfold.cli.plan import DEPTH, Options
from pinfold.cli.render import show_demo
from pinfold.cli.source import FileChanged
from pinfold.cli.text import one_line
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


@app.command()
def copy(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A regular file, or a block device.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="A file, or a directory to put it into.")
    ],
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read both back and compare them, before DST is there.")
    ] = False,
    buffered: Annotated[
        bool, typer.Option("--buffered", help="Go through the page cache: no O_DIRECT.")
    ] = False,
    buffer: Annotated[
        int | None,
        typer.Option(
            parser=copy_job.size_of,
            metavar="SIZE",
            help="Memory to pin, once for each file. By default 32MiB, or what RLIMIT_MEMLOCK "
            "allows.",
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            parser=copy_job.size_of,
            metavar="SIZE",
            help="Bytes of one read and one write at most: whole pages. By default 1MiB, or less "
            "in a small buffer; a buffer holds two or more.",
        ),
    ] = None,
    depth: Annotated[int, typer.Option(help="Chunks under way at once, on each side.")] = DEPTH,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how it will be copied.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, only the result.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object in the end, and no progress. Where something failed, "
            "ok is false in it.",
        ),
    ] = False,
) -> None:
    """Copy a file through pinned pages, by the kernel's own DMA (io_uring).

    DST appears when it is complete and on the medium, and at once: until then it
    is as it was, and the copy has a name that begins with .pinfold-copy- in the
    same directory. Whatever ends the copy early removes that, signals included;
    only after a kill -9, a crash or a power cut it is yours to remove.

    A new DST gets the mode of SRC, less the umask; one that is replaced keeps its
    mode, and its owner where you may give files away, but is another file: hard
    links to the former one keep what was there. Set-user-ID, set-group-ID and
    sticky bits are dropped. Symbolic links are followed, also that of DST, unless
    it leads nowhere. Holes stay holes. SRC must stay as it is meanwhile: a file
    that is written to, cut or appended to is an error.

    Exits with 0 when DST is in place, with 1 when something failed, with 2 if
    nothing was started, and with 128 and its number after a signal: 129 for
    SIGHUP, 130 for SIGINT, 131 for SIGQUIT, 143 for SIGTERM. Only with 0 has DST
    changed, unless the message says otherwise. A signal that comes when DST is in
    place already changes nothing, the exit status included.
    """
    names = {"source": source, "target": target} if as_json else None
    # The result is told within, so that no signal can end the command between the rename and that.
    with context.find_object(Signals) or Signals() as signals:
        try:
            report = copy_job.run(
                source,
                target,
                Options(buffer, chunk, depth, not buffered, verify),
                signals,
                verbose=verbose,
                quiet=quiet or as_json,
            )
        except Refused as error:
            _give_up(_whole(error), 2, names)
        except Interrupted as error:
            message = f"interrupted by {error}; nothing was changed"
            _give_up(_whole(error, message), 128 + error.signal, names)
        except (FileChanged, Differs, PinfoldError) as error:
            _give_up(_whole(error), 1, names)
        except OSError as error:  # the job has none of its own: see `_delivered`
            message = f"cannot write the progress: {error.strerror}; nothing was changed"
            _give_up(_whole(error, message), 1, names)
        told = json.dumps(report.as_dict(), indent=2) if as_json else copy_job.summary(report)
        try:
            typer.echo(told)
        except OSError as error:
            _to_nowhere(sys.stdout)
            message = f"cannot write the output: {error.strerror}"
            _give_up(f"{message}; {report.target} is complete and in place", 1)


def _whole(error: Exception, message: str | None = None) -> str:
    """The error, and what could not be undone after it."""
    return "; ".join((message or str(error), *getattr(error, "__notes__", ())))


def _give_up(message: str, status: int, names: dict[str, str] | None = None) -> NoReturn:
    """Say why, and exit. With ``names`` on the output as well, as JSON with these in it.

    Where neither can be written, the exit status still says it.
    """
    if names is not None:
        failed = {"ok": False, **names, "error": message, "status": status}
        try:
            typer.echo(json.dumps(failed, indent=2))
        except OSError:
            _to_nowhere(sys.stdout)
    _complain(message)
    raise typer.Exit(status)


def _complain(message: str) -> None:
    try:
        typer.echo(f"pinfold: {one_line(message)}", err=True)
    except OSError:
        _to_nowhere(sys.stderr)


def _to_nowhere(stream: TextIO) -> None:
    """Drop what it could not write, which would fail once more at exit: with a message of the
    interpreter's, and an exit status of its own."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, stream.fileno())
    os.close(null)


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
        _to_nowhere(sys.stdout)
        if error.errno != errno.EPIPE:
            _complain(f"cannot write the output: {error.strerror}")
        sys.exit(1)


def run() -> None:
    """The entry point."""
    with _delivered():
        app(obj=Signals(to_the_end=True))


if __name__ == "__main__":
    run()
