"""The papers at the root: links that lead somewhere, and fragments that a release can collect."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAPERS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "changelog.d").glob("[!_+]*.md"))]
FRAGMENTS = sorted((ROOT / "changelog.d").glob("[+0-9]*"))

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_relative_links_lead_to_a_file(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if not (paper.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: fragment.name)
def test_a_fragment_is_of_a_kind_that_is_printed(fragment: Path) -> None:
    """A typing mistake in the name would drop the entry from the release notes."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    kinds = {kind["directory"] for kind in settings["tool"]["towncrier"]["type"]}
    assert fragment.suffixes[-1] == ".md"
    assert fragment.suffixes[-2].removeprefix(".") in kinds
    assert fragment.read_text(encoding="utf-8").strip()


def test_a_release_prints_every_fragment() -> None:
    """As `towncrier build --draft` has it."""
    ran = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0.0.0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for fragment in FRAGMENTS:
        assert fragment.read_text(encoding="utf-8").strip().splitlines()[0] in ran.stdout
