"""The page that a driver author works from names every call, and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from pinfold.dialects import zx

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "zircon.md").read_text(encoding="utf-8")
ROWS = PAGE[PAGE.index("## Every call") :]


def test_every_call_has_a_row() -> None:
    calls = {name for name in zx.__all__ if name.startswith("zx_") and callable(getattr(zx, name))}
    calls = {name for name in calls if not name.endswith("_t")}  # the structures
    loaders = {"zx_process_self", "zx_vmar_root_self", "zx_status_get_string"}
    missing = {name for name in calls - loaders if f"`{name}`" not in ROWS}
    assert missing == set()
    assert loaders <= calls


def test_the_named_tests_are_there() -> None:
    """A name with a star stands for at least one file."""
    named = set(re.findall(r"`(test_[\w*]+\.py)`", ROWS))
    assert len(named) > 10
    missing = {name for name in named if not list((ROOT / "tests").glob(f"*/{name}"))}
    assert missing == set()
