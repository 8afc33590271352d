"""Where every test that needs a device must run, a skip is a failure; elsewhere it is a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.__main__ import CHECKOUT
from tests.vfio import guest

if TYPE_CHECKING:
    from pathlib import Path

MARKED = """
import pytest

@pytest.mark.vfio("edu0")
def test_one():
    assert BODY

def test_other():
    pytest.skip("no matter")
"""

ITSELF = "import pytest\npytest.skip('not here', allow_module_level=True)\n"


def outcome(test: str, tmp_path: Path, **environment: str) -> tuple[int, str]:
    """pytest's status and its words on a file of tests."""
    folder = tmp_path / environment.pop("folder", "vfio")
    folder.mkdir(exist_ok=True)
    (folder / "test_it.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = vfio\n")
    kept = {n: v for n, v in os.environ.items() if not n.startswith("PINFOLD_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "tests.vfio.plugin", str(folder)],
        cwd=CHECKOUT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_without_a_device_a_test_is_skipped_and_says_how_to_run_it(tmp_path: Path) -> None:
    status, told = outcome(MARKED, tmp_path)
    assert status == pytest.ExitCode.OK
    assert "2 skipped" in told
    assert "no device is bound to vfio-pci: run make test-vfio" in told


def test_a_device_that_is_not_bound_is_not_taken(tmp_path: Path) -> None:
    """An address is there: someone meant it to be used, and forgot to hand it over."""
    status, told = outcome(MARKED, tmp_path, PINFOLD_VFIO_EDU0="ffff:ff:1f.7")
    assert status == pytest.ExitCode.OK
    assert "edu0, ffff:ff:1f.7, is bound to no driver, not to vfio-pci" in told


def test_where_it_is_required_a_skip_fails_and_only_where_it_is_marked(tmp_path: Path) -> None:
    status, told = outcome(MARKED, tmp_path, PINFOLD_REQUIRE_VFIO="1")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "1 skipped, 1 error" in told
    assert "skipped, where every vfio test must run: no device is bound to vfio-pci" in told


def test_where_it_is_required_a_module_may_not_skip_itself(tmp_path: Path) -> None:
    assert outcome(ITSELF, tmp_path)[0] == pytest.ExitCode.NO_TESTS_COLLECTED
    status, told = outcome(ITSELF, tmp_path, PINFOLD_REQUIRE_VFIO="1")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "skipped, where every vfio test must run: not here" in told


def test_a_test_that_the_guest_would_never_see_fails(tmp_path: Path) -> None:
    """It would be skipped here and not be collected there."""
    status, told = outcome(MARKED, tmp_path, folder="elsewhere")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "make test-vfio does not collect" in told


def test_the_guest_collects_what_the_plugin_thinks() -> None:
    folders = " ".join(f"tests/{name}" for name in guest.FOLDERS)
    assert f"\nGUEST_TESTS := {folders}\n" in (CHECKOUT / "Makefile").read_text()
