# The benchmarks still run. Nothing here is about time: `--once` measures nothing.
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ("pins", "addresses", "copy", "access", "map", "bytes", "uring")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m bench`` from the root of the tree, a dropped handle being an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_claim_runs_once(claim: str) -> None:
    """Source: bench/README.md, "Running it": --once shows that a benchmark works."""
    done = bench("--once", "--json", "--only", claim)

    assert done.stderr == ""
    assert done.returncode == 0
    out: dict[str, Any] = json.loads(done.stdout)
    assert out["errors"] == {}
    assert out["rows"]
    assert {row["claim"] for row in out["rows"]} == {claim}
    assert all(row["met"] is None for row in out["rows"])
    assert {"date", "kernel", "cpu", "python", "collector"} <= set(out["header"])


def test_the_table_has_every_claim() -> None:
    """Source: bench/README.md, "Running it"."""
    done = bench("--once")

    assert done.stderr == ""
    assert done.returncode == 0
    for claim in CLAIMS:
        assert claim in done.stdout


def test_an_unknown_claim_is_refused() -> None:
    """Source: bench/README.md, "Running it": --only names one of the claims."""
    done = bench("--only", "nonsense")

    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_a_broken_benchmark_fails_the_run() -> None:
    """Source: bench/README.md, "Running it": 1 when a benchmark breaks, its traceback shown."""
    program = (
        "import sys\n"
        "from bench import __main__ as program\n"
        "def broken(scale):\n"
        "    raise RuntimeError('broken on purpose')\n"
        "program.CLAIMS['pins'] = broken\n"
        "sys.argv = ['bench', '--once', '--only', 'pins', '--only', 'bytes']\n"
        "sys.exit(program.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert "Vmo.read of 4 KiB" in done.stdout
