"""The reference pages are made from the code, the same on every run, and leave nothing out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pinfold
from pinfold import errors
from pinfold.dialects import aix
from pinfold.errors import PinfoldError
from tests.catalogue import ROWS
from tests.stage import Case

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def generate() -> Callable[[Path], list[Path]]:
    """`generate` of docs/generate.py, which is a program and no module of a package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Path], list[Path]] = module.generate
    return found


def test_every_run_writes_the_same(generate: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    once = [page.read_bytes() for page in generate(tmp_path / "once")]
    again = [page.read_bytes() for page in generate(tmp_path / "again")]
    assert once == again


def test_the_error_page_has_every_row_and_every_class(
    generate: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    """Each case with its class and built-in; no path of the machine that made the page."""
    generate(tmp_path)
    text = (tmp_path / "errors.md").read_text(encoding="utf-8")
    for row in ROWS:
        start = f"| `{row.status.value}` | {row.when} | "
        assert start in text
        if isinstance(row, Case):
            line = text[text.index(start) :].partition("\n")[0]
            assert f"| `{row.error.__name__}` |" in line
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, PinfoldError):
            assert f"| `{name}` | `{kind.status.value}` |" in text
    assert str(ROOT) not in text


def test_the_api_page_has_every_public_name(
    generate: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    generate(tmp_path)
    lines = (tmp_path / "api.md").read_text(encoding="utf-8").splitlines()
    for name in pinfold.__all__:
        assert f"### {name}" in lines
    assert "### Handle" in lines


def test_no_public_name_is_without_a_word_of_explanation(
    generate: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    """A heading is followed by more than a signature."""
    generate(tmp_path)
    text = (tmp_path / "api.md").read_text(encoding="utf-8")
    bare = []
    for part in text.split("\n### ")[1:]:
        name, _, body = part.partition("\n")
        prose = [line for line in body.splitlines() if line and line[0] not in "`# |"]
        if not prose:
            bare.append(name)
    assert bare == []


def test_the_page_of_services_has_every_one_of_them(
    generate: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    """And every class: whatever of the dialect is called, and its results as a list."""
    generate(tmp_path)
    text = (tmp_path / "aix_services.md").read_text(encoding="utf-8")
    elsewhere = {"Out", "Process", "d_handle_t"}
    callables = {name for name in aix.__all__ if callable(getattr(aix, name))}
    headings = {line[4:] for line in text.splitlines() if line.startswith("### ")}
    assert headings == callables - elsewhere
    assert "- `EINVAL`: `length` is negative or 0" in text
