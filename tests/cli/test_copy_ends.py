"""`pinfold copy`: ended by signals, bound by limits, watched on a terminal."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from pinfold.units import KIB, MIB, human_size
from tests.cli.copies import COMMAND, SLOWLY, command, random_file
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 32 * MIB
"""In chunks of a page, one at a time: a tenth takes long enough to be met in the middle."""

pytestmark = pytest.mark.usefixtures("nothing_left")


ENDING = [
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU, signal.SIGRTMIN),
]


@contextmanager
def as_from_a_shell() -> Iterator[None]:
    """What is started meanwhile ignores no signal, as these tests may where they are a job in the
    background."""
    ignored = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def start(*arguments: str | Path, before: str = ":") -> subprocess.Popen[str]:
    """A slow copy, started; ``before`` is said to the shell."""
    whole = [*COMMAND, *map(str, arguments), *SLOWLY]
    with as_from_a_shell():
        return subprocess.Popen(
            ["bash", "-c", f'{before}; exec "$@"', "bash", *whole],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def await_line(output: IO[str] | None, line: str) -> None:
    """Read up to a line that starts so."""
    assert output is not None
    for got in output:
        if got.startswith(line):
            return
    raise AssertionError(f"it ended without saying {line!r}")


@pytest.mark.parametrize("former", [b"former", None])
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_in_the_middle(
    number: signal.Signals, former: bytes | None, tmp_path: Path
) -> None:
    """128 and its number, one line, and every name is as it was."""
    random_file(tmp_path / "a", LARGE)
    if former is not None:
        (tmp_path / "b").write_bytes(former)
    before = sorted((path.name, path.lstat()[:7]) for path in tmp_path.iterdir())
    with start(tmp_path / "a", tmp_path / "b") as child:
        await_line(child.stderr, "copied 10%")
        assert len(list(tmp_path.glob(".pinfold-copy-*"))) == 1
        child.send_signal(number)
        out, err = child.communicate()
    assert child.returncode == 128 + number
    assert err.splitlines()[-1] == f"pinfold: interrupted by {number.name}; nothing was changed"
    assert not any(line.startswith("copied 100%") for line in err.splitlines())
    assert out == ""
    assert sorted((path.name, path.lstat()[:7]) for path in tmp_path.iterdir()) == before


def test_a_signal_while_it_is_verified(tmp_path: Path) -> None:
    """The copy is complete, and still not there."""
    random_file(tmp_path / "a", LARGE)
    with start(tmp_path / "a", tmp_path / "b", "--verify") as child:
        await_line(child.stderr, "verified 10%")
        child.send_signal(signal.SIGTERM)
        child.communicate()
    assert child.returncode == 143
    assert os.listdir(tmp_path) == ["a"]


_SIGNALLED = """
import atexit, os, sys
from pinfold.cli.main import run
from pinfold.host import calls

call, first, last, *arguments = sys.argv[1:]
kill = lambda number: os.kill(os.getpid(), int(number))
calls.set_interceptor(lambda name: kill(first) if name == call else None)
atexit.register(kill, last)
sys.argv = ["pinfold", *arguments]
run()
"""


def signalled(
    call: str, first: signal.Signals, last: signal.Signals, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """A copy that gets a signal at a call of the host, and one when its process is at its end."""
    whole = ["-c", _SIGNALLED, call, str(int(first)), str(int(last)), "copy", *map(str, arguments)]
    with as_from_a_shell():
        return subprocess.run(
            [sys.executable, "-W", "error", *whole], capture_output=True, text=True, check=False
        )


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_after_the_rename(number: signal.Signals, tmp_path: Path) -> None:
    """DST is in place, so it is told; the directory is still synced, and the status is 0."""
    content = random_file(tmp_path / "a", 5000)
    (tmp_path / "b").write_bytes(b"former")
    done = signalled("fsync", number, number, tmp_path / "a", tmp_path / "b", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/a -> {tmp_path}/b: ")
    assert done.stderr == ""
    assert (tmp_path / "b").read_bytes() == content


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("last", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_changes_nothing(
    first: signal.Signals, last: signal.Signals, source: Path, target: Path
) -> None:
    """The exit status tells of the first, which was answered."""
    done = signalled("fallocate", first, last, source, target, "-q", "--json")
    assert done.returncode == 128 + first
    said = f"interrupted by {first.name}; nothing was changed"
    assert done.stderr == f"pinfold: {said}\n"
    assert json.loads(done.stdout)["error"] == said


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup, or in the background of a script."""
    content = random_file(tmp_path / "a", LARGE // 8)
    with start(tmp_path / "a", tmp_path / "b", before="trap '' INT") as child:
        await_line(child.stderr, "copied 10%")
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
    assert child.returncode == 0, err
    assert (tmp_path / "b").read_bytes() == content


def test_a_kill_leaves_the_destination_as_it_was(tmp_path: Path) -> None:
    """Nobody is asked, so the unfinished file stays; only its owner can read it. Another copy is
    not in its way."""
    random_file(tmp_path / "a", LARGE)
    (tmp_path / "b").write_bytes(b"former")
    with start(tmp_path / "a", tmp_path / "b") as child:
        await_line(child.stderr, "copied 10%")
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "b").read_bytes() == b"former"
    (left,) = tmp_path.glob(".pinfold-copy-*")
    assert left.stat().st_mode & 0o777 == 0o600
    assert command(tmp_path / "a", tmp_path / "b", "-q").returncode == 0
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    left.unlink()


def test_who_reads_the_progress_goes_away(tmp_path: Path) -> None:
    """Then the copy ends, as other commands do, and leaves nothing."""
    random_file(tmp_path / "a", LARGE)
    with start(tmp_path / "a", tmp_path / "b") as child:
        await_line(child.stderr, "copied 10%")
        assert child.stderr is not None
        child.stderr.close()
        child.wait()
        assert child.stdout is not None
        assert child.stdout.read() == ""
    assert child.returncode == 1
    assert os.listdir(tmp_path) == ["a"]


# Limits --------------------------------------------------------------------------------------

_AS_NOBODY = """
    import filecmp
    from typer.testing import CliRunner
    from pinfold.cli.main import app

    folder, limit, *arguments = sys.argv[1:]
    os.chdir(folder)
    # Nobody may not read where Python is: what is loaded late is loaded now.
    assert CliRunner().invoke(app, ["copy", "-v", "--buffer", "1M", "a", "b"]).exit_code == 0
    os.unlink("b")
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (int(limit), int(limit)))
    if os.geteuid() == 0:
        # The kernel counts by user, and goes on for a moment after a process has ended: nobody
        # else is this one.
        os.setgroups([])
        os.setgid(65534)
        os.setuid(1_000_000 + os.getpid())
    done = CliRunner().invoke(app, ["copy", "a", "b", *arguments])
    if not isinstance(done.exception, (SystemExit, type(None))):
        raise done.exception
    same = os.path.exists("b") and filecmp.cmp("a", "b", shallow=False)
    print(json.dumps([done.exit_code, done.stdout, done.stderr, same, sorted(os.listdir())]))
"""


def as_nobody(folder: Path, limit: int, *arguments: str) -> tuple[int, str, str, bool]:
    """Copy ``a`` to ``b`` as an ordinary user with so much memory to lock."""
    random_file(folder / "a", 20 * MIB + 300)
    os.chmod(folder, 0o777)  # noqa: S103 - for nobody, who has no way to it but from inside
    os.chmod(folder / "a", 0o644)
    status, out, err, same, names = run(_AS_NOBODY, str(folder), str(limit), *arguments)
    assert names == (["a", "b"] if status == 0 else ["a"])
    return status, out, err, same


@pytest.mark.parametrize("limit", [64 * KIB, 1 * MIB, 8 * MIB])
def test_an_ordinary_user_pins_what_the_limit_allows(limit: int, tmp_path: Path) -> None:
    """By default a copy works under a limit that a buffer of the usual size would pass, and
    ``--verbose`` says that it is smaller, and why."""
    status, out, err, same = as_nobody(tmp_path, limit, "-q", "-v", "--verify")
    assert status == 0, err
    assert same
    assert "verified" in out
    assert f"limit:  RLIMIT_MEMLOCK is {human_size(limit)} for both pins" in err
    status, out, err, same = as_nobody(tmp_path, limit, "--json")
    plan = json.loads(out)["plan"]
    assert plan["limit"] == limit
    assert 2 * plan["buffer"] < limit
    if limit >= MIB:  # the rings are charged as well, a little
        assert 2 * plan["buffer"] > limit * 3 // 4


@pytest.mark.parametrize("buffer", ["8MiB", "4MiB"])
def test_a_buffer_that_does_not_fit_is_refused(buffer: str, tmp_path: Path) -> None:
    """8 MiB passes the limit at the first file; 4 MiB at the second, which is charged as well."""
    status, out, err, _ = as_nobody(tmp_path, 8 * MIB, "--buffer", buffer)
    assert status == 1
    assert out == ""
    assert "would pass the limit on locked memory" in err
    assert "limit 0x800000" in err
    assert "raise RLIMIT_MEMLOCK" in err
    assert "CAP_IPC_LOCK" in err
    assert "choose a smaller --buffer or --chunk" in err
    assert err.count("\n") == 1


def test_a_chunk_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Two of them are the least."""
    status, _, err, _ = as_nobody(tmp_path, 8 * MIB, "--chunk", "4MiB")
    assert status == 1
    assert "choose a smaller --buffer or --chunk" in err


def test_no_memory_may_be_locked_at_all(tmp_path: Path) -> None:
    """Not even for a ring: nothing is started."""
    status, out, err, _ = as_nobody(tmp_path, 0)
    assert status == 1
    assert out == ""
    assert "raise RLIMIT_MEMLOCK" in err
    assert err.count("\n") == 1


def test_what_an_ordinary_user_may_replace(tmp_path: Path) -> None:
    """As in cp: what they may write to. It is theirs then, with the mode that it had."""
    if os.geteuid() != 0:
        pytest.skip("files of others are made by root")
    random_file(tmp_path / "a", 5000)
    os.chmod(tmp_path, 0o777)  # noqa: S103 - for nobody, who has no way to it but from inside
    for name, mode in (("a", 0o644), ("open", 0o666), ("closed", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    program = """
        import stat
        from pinfold.cli.copying import copy_file
        from pinfold.cli.destination import Refused
        from pinfold.cli.plan import Options
        from tests.cli.copies import Looking

        os.chdir(sys.argv[1])
        copy_file("a", "warm", Options(), Looking())  # loads what nobody may not load
        os.unlink("warm")
        give_up_privileges()
        copy_file("a", "open", Options(), Looking())
        found = os.stat("open")
        try:
            copy_file("a", "closed", Options(), Looking())
        except Refused as error:
            said = str(error)
        print(json.dumps([found.st_uid, stat.S_IMODE(found.st_mode), found.st_size, said]))
    """
    assert run(program, str(tmp_path)) == [
        65534,
        0o666,
        5000,
        "closed may not be written to; change its mode, or remove it",
    ]
    assert (tmp_path / "closed").stat().st_size == 0


# A terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120, 50, 30])
def test_a_bar_on_a_terminal(columns: int, tmp_path: Path) -> None:
    """It grows, it is not wider than 80 columns, and it is gone in the end."""
    random_file(tmp_path / "a", LARGE // 4)
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    arguments = ["a", "b", "--verify", *SLOWLY]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=its,
        env=environment,
        cwd=tmp_path,
        text=True,
    ) as child:
        os.close(its)
        written = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(1 << 16):
                    written += data
            except OSError as error:  # Linux's way to say that the other end was closed
                if error.errno != errno.EIO:
                    raise
        assert child.stdout is not None
        summary = child.stdout.read()
    assert child.returncode == 0
    text = written.decode()
    assert summary.startswith("a -> b: 8 MiB in ")
    shown = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))
    bars = [line for line in shown if "%" in line]
    assert {line.split()[0] for line in bars} == {"copy", "sync", "verify"}
    tenths = [int(line.split()[1].rstrip("%")) for line in bars if line.startswith("copy")]
    assert tenths == sorted(tenths)
    assert len(set(tenths)) > 2
    assert max(map(len, shown)) <= min(columns, 80)
    assert all(("of 8 MiB" in line) is (columns >= 50) for line in bars)
    assert text.endswith("\x1b[2K")  # the line is cleared
    assert "\x1b[?25h" in text  # the cursor is back
