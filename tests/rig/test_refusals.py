"""What the rig says where it cannot: the reason, the remedy, and the status 125. No QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.rig.__main__ import CHECKOUT, RIG_FAILED
from tests.rig.tools import PACKAGES, RigError, output, tool

if TYPE_CHECKING:
    from pathlib import Path


def rig(*arguments: str, cache: Path, path: str | None = None) -> tuple[int, str]:
    """Status and stderr of `python -m tests.rig`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rig", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "PINFOLD_RIG_CACHE": str(cache), "PATH": path or os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run"], "no command"),
        (["run", "--bind", "edu7", "--", "true"], "there is no device edu7: edu0, edu1, nvme"),
        (["run", "--kernel", "/nowhere", "--", "true"], "there is no /nowhere"),
        (["build", "--kernel-deb", "/nowhere"], "there is no /nowhere"),
        (["build", "--modules", "/"], "give it, too"),
        (["build", "--kernel", __file__, "--kernel-deb", __file__], "two kernels"),
        (["run", "--env", "NAME", "--", "true"], "NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], reason: str, tmp_path: Path) -> None:
    status, told = rig(*arguments, cache=tmp_path / "cache")
    assert (status, reason in told) == (RIG_FAILED, True), told
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_missing_program_is_named_with_its_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.rig.tools.SBIN", ())
    with pytest.raises(
        RigError, match=f"^{name} is not installed: apt-get install {PACKAGES[name]}$"
    ):
        tool(name)


def test_a_machine_without_the_programs_says_what_to_install(tmp_path: Path) -> None:
    """And leaves nothing half-made behind."""
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF")
    cache = tmp_path / "cache"
    status, told = rig("build", "--kernel", str(kernel), cache=cache, path=str(tmp_path))
    assert status == RIG_FAILED
    assert "rig: busybox is not installed: apt-get install busybox-static" in told
    assert [left.name for left in cache.iterdir()] == ["lock"]


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(RigError, match=r"sh -c .* failed \(3\): so it is"):
        output("sh", "-c", "echo so it is >&2; exit 3")
