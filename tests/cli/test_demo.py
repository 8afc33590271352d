"""`pinfold demo`: the main job, run as a user runs it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.cli import demo
from pinfold.cli.demo import DemoReport, Step

if TYPE_CHECKING:
    from pathlib import Path


def pinfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pinfold.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


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
    assert "was granted until" in faults[2]
    assert faults[3] is None
    assert "quarantined" in wall[3]["result"]


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 70_001])
def test_files_of_any_size(size: int, tmp_path: Path) -> None:
    """Odd sizes leave a tail that is not a page."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert report_of(str(path))["size"] == size


def test_people_get_one_screen() -> None:
    """Plain text where the output is no terminal; the verdict comes last."""
    done = pinfold("demo")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) < 50
    assert all(len(line) <= 110 for line in lines)
    assert lines[-1] == "Every step did what it should."
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("bad", ["nowhere", "folder", "empty"])
def test_a_file_that_cannot_be_moved_is_a_usage_error(bad: str, tmp_path: Path) -> None:
    """Exit status 2 and one line that says what is wrong."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    done = pinfold("demo", str(tmp_path / bad))
    assert done.returncode == 2
    assert done.stderr.startswith("pinfold: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


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
