"""What the kernel's public tests assert, held against the dialect: one test a case."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.testing import HostState

from .known import EXCEPTIONS
from .runner import CASES, Verdict, run

if TYPE_CHECKING:
    from .runner import Result


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_a_case_holds_and_leaves_nothing_behind(
    case: dict[str, Any], results: list[Result]
) -> None:
    """Source: ``source`` of the case."""
    gc.collect()
    before = HostState.now()

    result = run(case)

    gc.collect()
    results.append(result)
    if result.verdict is Verdict.SKIPPED:
        pytest.skip(result.reason)
    if result.wrong:
        if case["id"] in EXCEPTIONS:
            pytest.xfail(f"{EXCEPTIONS[case['id']]}: {result.reason}")
        raise AssertionError(f"{case['title']}: {result.reason}") from result.error
    assert case["id"] not in EXCEPTIONS, "it passes: strike it out of known.py"
    assert before.difference(HostState.now()) == []


def test_the_known_exceptions_are_cases() -> None:
    """A reason for a case that is no more would hide nothing, and mislead."""
    assert EXCEPTIONS.keys() <= {case["id"] for case in CASES}
