"""`pinfold demo`: the main job, run as a user runs it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pinfold import Vmo
from pinfold.cli import demo
from pinfold.cli.demo import DemoReport, Step
from pinfold.cli.main import app
from pinfold.cli.render import show_demo
from pinfold.drivers.copier import CopierDriver
from pinfold.drivers.copies import CopyReport
from pinfold.host import probe

COMMAND = [sys.executable, "-W", "error", "-m", "pinfold.cli.main"]


def pinfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


def on_a_terminal(columns: int, folder: Path, *arguments: str) -> str:
    """What the command writes to a pty of that width, colours taken away."""
    ours, its = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=its, env=environment, cwd=folder) as child:
        os.close(its)
        written = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(1 << 16):
                    written += data
            except OSError as error:  # Linux's way to say that the other end was closed
                if error.errno != errno.EIO:
                    raise
    assert child.returncode == 0
    text = written.decode()
    assert "\x1b[" in text
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def report_of(*arguments: str) -> dict[str, Any]:
    done = pinfold("demo", "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@pytest.mark.parametrize("bus", ["sim", "stub"])
def test_the_default_file_is_real_and_every_step_succeeds(bus: str) -> None:
    """With no argument: the running Python's own library, moved by DMA, hashed at both ends."""
    report = report_of("--bus", bus)
    assert report["ok"] is True
    content = demo.default_file().read_bytes()
    assert report["size"] == len(content) > 1 << 16
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["isolates"] is (bus == "sim")
    assert [step["ok"] for step in report["steps"]] == [True] * 3
    assert [step["ok"] for step in report["wall"]] == [True] * 4
    assert report["left"] == {"objects": 0, "pins": 0, "leaks": 0}
    assert report["peak_pinned_bytes"] >= 2 * len(content)
    assert {row["kind"] for row in report["objects"]} == {"vmo", "bti", "pmt"}


def test_each_stray_access_has_its_fault_record() -> None:
    """A write to a read-only grant, a byte past the end, an access after unpin."""
    wall = report_of()["wall"]
    faults = [step["fault"] for step in wall]
    assert "permits READ, not WRITE" in faults[0]
    assert "beyond the end of grant" in faults[1]
    assert "revoked" in faults[2]
    assert faults[3] is None
    assert "quarantined" in wall[3]["result"]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 70_001])
def test_files_of_any_size(size: int, tmp_path: Path) -> None:
    """Odd sizes leave a tail that is not a page."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert report_of(str(path))["size"] == size


@pytest.mark.parametrize("bus", ["sim", "stub"])
def test_people_get_one_screen(bus: str) -> None:
    """80 columns and 40 lines at most, plain where the output is no terminal; verdict last."""
    done = pinfold("demo", "--bus", bus)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert lines[-1] == "Every step did what it should."
    assert "\x1b" not in done.stdout
    head = next(line.split() for line in lines if line.startswith("  object"))
    assert head == ["object", "name", "size", "pins", "handles", "what", "to", "pin"]


@pytest.mark.parametrize("columns", [80, 120, 40])
def test_a_terminal_of_any_width_gets_lines_that_fit(columns: int, tmp_path: Path) -> None:
    """On a real terminal, a pty; folded where it is narrow, and never wider than 80 columns."""
    (tmp_path / "data").write_bytes(bytes(100_000))
    lines = on_a_terminal(columns, tmp_path, "demo", "data").splitlines()
    digest = next(line for line in lines if line.startswith("SHA-256 "))  # whole, to be copied
    assert max(len(line) for line in lines if line != digest) <= min(columns, 80)
    assert lines[-1] == "Every step did what it should."
    if columns >= 80:
        assert len(lines) <= 40


def test_counts_agree_with_their_nouns(tmp_path: Path) -> None:
    """One byte in one page, by one descriptor."""
    (tmp_path / "one").write_bytes(b"1")
    shown = pinfold("demo", str(tmp_path / "one")).stdout
    assert "1 byte in 1 page," in shown
    assert "moves 1 byte of it" in shown
    assert "1 descriptor," in shown
    assert "read of 1 byte at" in shown
    assert "(s)" not in shown
    assert re.search(r"\b1 (bytes|pages|descriptors|objects|pins)\b", shown) is None


@pytest.mark.parametrize("bad", ["nowhere", "folder", "empty", "sparse"])
def test_a_file_that_cannot_be_moved_is_a_usage_error(bad: str, tmp_path: Path) -> None:
    """Exit status 2 and one line that says what is wrong, before a byte of it is read."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", probe.available_memory())  # half of what it and a copy need
    done = pinfold("demo", str(tmp_path / bad))
    assert done.returncode == 2
    assert done.stderr.startswith("pinfold: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_file_in_sysfs_that_holds_less_than_it_says() -> None:
    """stat says one page for each of them. Exit status 1 and one line."""
    short = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not short.exists():
        pytest.skip(f"there is no {short}")
    done = pinfold("demo", str(short))
    assert done.returncode == 1
    assert "changed while it was being read" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("change", [b"", b"short", b"longer " * 9000, b"x" * 50_000])
def test_a_file_that_changes_between_two_looks(
    change: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptied, cut, grown, or other bytes of the same length; all handles are closed after it."""
    path = tmp_path / "data"
    path.write_bytes(bytes(50_000))
    real = Vmo.commit

    def commit(self: Vmo, *arguments: Any) -> None:
        path.write_bytes(change)  # after it was hashed, before it is loaded
        real(self, *arguments)

    monkeypatch.setattr(Vmo, "commit", commit)
    with pytest.raises(demo.FileChanged, match="changed while it was being read"):
        demo.run(path, "sim")


def test_memory_that_is_gone_meanwhile_is_asked_for_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough at first, none when the memory object is made: nothing is loaded. Exit status 1."""
    path = tmp_path / "data"
    path.touch()
    os.truncate(path, 256 << 20)
    left = iter([1 << 60])
    monkeypatch.setattr(probe, "available_memory", lambda: next(left, 0))
    written: list[int] = []
    monkeypatch.setattr(Vmo, "write", lambda _vmo, data, *_: written.append(len(data)))
    done = CliRunner().invoke(app, ["demo", str(path)])
    assert done.exit_code == 1
    assert done.stderr.startswith("pinfold: committing 256 MiB")
    assert done.stderr.count("\n") == 1
    assert written == []


def test_no_step_says_the_opposite_of_what_happened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that moves nothing: the step is bad, and its text says what is so."""

    def idle(*_: Any) -> CopyReport:
        return CopyReport(1, 0, 0)

    monkeypatch.setattr(CopierDriver, "copy", idle)
    report = demo.run(None, "sim")
    assert [step.ok for step in report.steps] == [True, True, False]
    assert report.steps[2].result.startswith("WRONG: ")
    assert "SHA-256 NOT as on disk" in report.steps[2].result
    show_demo(report)
    shown = capsys.readouterr().out
    assert "  BAD a scatter-gather engine moves all of it" in shown
    assert "SHA-256 as on disk" in shown  # of the step that loads
    assert shown.splitlines()[-1] == "Something did not do what it should."


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--json"], ["--help"], ["--version"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    """Exit status 1; no traceback, and nothing of the interpreter's own at exit."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "pinfold: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["demo"], ["demo", "--json"]])
def test_a_reader_that_went_away_is_no_news(arguments: list[str]) -> None:
    """As in ``pinfold demo | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as closed:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_the_version_is_the_packages() -> None:
    done = pinfold("--version")
    assert done.returncode == 0
    assert done.stdout == f"pinfold {metadata.version('pinfold')}\n"


def test_other_usage_errors() -> None:
    """An unknown bus, and no command at all."""
    assert pinfold("demo", "--bus", "isa").returncode == 2
    assert pinfold().returncode == 2


def test_one_bad_step_spoils_the_verdict() -> None:
    """Exit status 0 only if every step did what it should, and nothing is left."""
    good = Step("a", ok=True, result="", seconds=0)
    bad = Step("b", ok=False, result="", seconds=0)
    report = DemoReport("f", 1, "", "sim", isolates=True, steps=[good], wall=[good])
    assert report.ok
    spoiled = DemoReport("f", 1, "", "sim", isolates=True, steps=[good], wall=[good, bad])
    assert not spoiled.ok
    left = DemoReport("f", 1, "", "sim", isolates=True, steps=[good], wall=[], left={"pins": 1})
    assert not left.ok


def test_a_wall_with_a_hole_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict depends on what the bus does: on one that permits everything it is bad."""
    from pinfold.buses.sim import SimSpace

    real = SimSpace.translate

    def permissive(self: SimSpace, address: int, size: int, access: int) -> Any:
        grant = real(self, address, size, 0) if access == 0 else None
        if grant is None:
            found = self._space.blocks.find(address)
            if found is None:
                return real(self, address, size, access)
            found[2].view = found[2].pinned.shared_view
            return found[2]
        return grant

    monkeypatch.setattr(SimSpace, "translate", permissive)
    report = demo.run(None, "sim")
    assert [step.ok for step in report.wall] == [False, True, True, True]
    assert not report.ok
