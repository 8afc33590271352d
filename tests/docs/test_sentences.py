"""The tables that name a test for each sentence of a page name tests that there are.

And the page of the AIX services names each of them, and files of tests that there are.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

from pinfold.dialects import aix

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
FIDELITY = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
SERVICES = (ROOT / "docs" / "aix.md").read_text(encoding="utf-8")

NAME = re.compile(r"`([\w/]+\.py)::(?:` `)?(\w+)(?:\[([\w-]+)\])?`")
"""`file::test`, or in two pieces, between which a page may break the line."""
BORDER = re.compile(r"(?<!\\)\|")


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next of its level."""
    level = heading.partition(" ")[0]
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each table, without their heads, by the last heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in BORDER.split(line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {heading: rows[2:] for heading, rows in found.items()}


@cache
def functions(path: Path) -> frozenset[str]:
    """The test functions of a file."""
    if not path.is_file():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = (node.name for node in body if isinstance(node, ast.FunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


@cache
def cases() -> frozenset[str]:
    """The conformance cases."""
    text = (TESTS / "conformance" / "zircon_cases.json").read_text(encoding="utf-8")
    return frozenset(case["id"] for case in json.loads(text))


def wrong(cell: str) -> list[str]:
    """What a cell names that there is not; or that it names nothing."""
    named = NAME.findall(cell)
    if not named:
        return [f"no test: {cell}"]
    bad = [f"{path}::{name}" for path, name, _ in named if name not in functions(TESTS / path)]
    for path, _, case in named:
        if case and not (path.startswith("conformance/") and case in cases()):
            bad.append(f"{path}[{case}]")
    if len(named) != cell.count("::"):
        bad.append(f"not a name: {cell}")
    return bad


SENTENCES = tables(section(FIDELITY, "## Sentence by sentence"))


def test_there_are_tables() -> None:
    """One for each page; more may come."""
    assert {"AIX: `pin`", "AIX: `xlate_pin`", "Zircon: `zx_bti_pin`"} <= set(SENTENCES)
    assert min(map(len, SENTENCES.values())) > 15


@pytest.mark.parametrize("page", SENTENCES)
def test_every_sentence_names_tests_that_there_are(page: str) -> None:
    assert [len(row) for row in SENTENCES[page]] == [2] * len(SENTENCES[page])
    assert [bad for _, shown in SENTENCES[page] for bad in wrong(shown)] == []


@pytest.mark.parametrize(
    "cell",
    [
        "—",
        "",
        "`dialects/test_bti.py`",
        "`test_the_first_fault_decides`",
        "`dialects/test_bti.py::test_of_nothing`",
        "`dialects/test_bti.py::` `test_of_nothing`",
        "`dialects/test_no_file.py::test_the_first_fault_decides`",
        "`dialects/test_bti.py::attempt`",
        "`docs/test_sentences.py::functions`",
        "`conformance/test_cases.py::test_a_case_holds_and_leaves_nothing_behind[bti-999]`",
        "`dialects/test_bti.py::test_the_first_fault_decides[bti-027]`",
        "`dialects/test_bti.py::test_the_first_fault_decides`, `dialects/test_bti.py::made_up`",
        "`dialects/test_bti.py::test_the_first_fault_decides`, dialects/test_bti.py::made_up",
    ],
)
def test_what_names_no_test_is_found_out(cell: str) -> None:
    """A made-up name, or none."""
    assert wrong(cell)


def test_a_good_name_is_good() -> None:
    good = "`docs/test_sentences.py::test_a_good_name_is_good`"
    case = "`conformance/test_cases.py::` `test_a_case_holds_and_leaves_nothing_behind[bti-027]`"
    assert wrong(good) == wrong(case) == wrong(f"{good}, {case} (both)") == []


# The page of the services -------------------------------------------------------------------------


def test_every_service_has_a_row() -> None:
    """Whatever of the dialect can be called is a service, but for the classes and two more."""
    rows = [
        row for table in tables(section(SERVICES, "## Every service")).values() for row in table
    ]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    others = {"interrupt_environment", "xmem_global"}
    services = {
        name
        for name in aix.__all__
        if callable(getattr(aix, name)) and not isinstance(getattr(aix, name), type)
    }
    assert named == services - others


def test_the_named_test_files_are_there() -> None:
    rows = [
        row for table in tables(section(SERVICES, "## Every service")).values() for row in table
    ]
    named = {name for row in rows for name in re.findall(r"`(test_\w+\.py)`", row[-1])}
    assert len(named) > 4
    assert {name for name in named if not (TESTS / "dialects" / "aix" / name).is_file()} == set()
    assert all("test_" in row[-1] for row in rows)
