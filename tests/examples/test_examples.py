"""Every example runs, with warnings as errors, and says that it is content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path) -> None:
    """Each checks its own outcome and ends with ok."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert done.stderr == ""


def test_there_are_examples() -> None:
    """An empty folder would pass the test above."""
    assert len(EXAMPLES) >= 3
