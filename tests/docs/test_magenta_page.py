"""The page on Magenta's calls names every call, and each sentence of two pages has its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from pinfold.dialects import mx
from tests.dialects.mx import bti_table, vmar_table

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests" / "dialects" / "mx"
PAGE = (ROOT / "docs" / "magenta.md").read_text(encoding="utf-8")
ROWS = PAGE[PAGE.index("## Every call") :]
FIDELITY = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
SENTENCES = FIDELITY[FIDELITY.index("### Sentence by sentence: mx_bti_pin") :]
SENTENCES = SENTENCES.split("\n## ")[0]


def test_every_call_has_a_row() -> None:
    calls = {name for name in mx.__all__ if name.startswith("mx_") and callable(getattr(mx, name))}
    calls = {name for name in calls if not name.endswith("_t")}  # the structures
    loaders = {"mx_process_self", "mx_vmar_root_self", "mx_status_get_string"}
    assert {name for name in calls - loaders if f"`{name}`" not in ROWS} == set()
    assert loaders <= calls


def test_the_named_tests_are_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", ROWS))
    assert len(named) > 6
    assert {name for name in named if not (TESTS / name).exists()} == set()


def test_every_sentence_is_held_by_something() -> None:
    """A row of a table of errors, or a test; each of them exists, and no line has none."""
    rows = {
        f"{order}: {fault}"
        for order in (*bti_table.ORDERS, *vmar_table.ORDERS)
        for fault in order.faults
    }
    tests = {
        f"{path.name}::{node.name}"
        for path in TESTS.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    lines = [line for line in SENTENCES.splitlines() if line.startswith("| ")]
    claims = [line for line in lines if not line.startswith("| the page")]
    assert len(claims) > 40
    for line in claims:
        named = re.findall(r"`([^`]+)`", line.rsplit("|", 2)[1])
        assert named, line
        assert set(named) <= rows | tests, line


def test_every_error_of_the_two_pages_is_in_the_list() -> None:
    """Source: ERRORS of mx_bti_pin and mx_vmar_map."""
    pin, _, mapping = SENTENCES.partition("### Sentence by sentence: mx_vmar_map")
    for text, errors in (
        (
            pin,
            "BAD_HANDLE WRONG_TYPE ACCESS_DENIED NOT_FOUND BUFFER_TOO_SMALL INVALID_ARGS "
            "ALREADY_BOUND UNAVAILABLE NO_MEMORY",
        ),
        (mapping, "BAD_HANDLE WRONG_TYPE BAD_STATE INVALID_ARGS ACCESS_DENIED NO_MEMORY"),
    ):
        for error in errors.split():
            assert f"| {error}" in text, error
