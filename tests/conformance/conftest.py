"""The totals of the cases at the end of a run that had them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .report import table

if TYPE_CHECKING:
    from .runner import Result

RESULTS: pytest.StashKey[list[Result]] = pytest.StashKey()


@pytest.fixture
def results(request: pytest.FixtureRequest) -> list[Result]:
    """Where the tests of the cases put what they came to."""
    return request.config.stash.setdefault(RESULTS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print them, if there are any."""
    found = config.stash.get(RESULTS, [])
    if found:
        terminalreporter.section("Zircon conformance")
        for line in table(found):
            terminalreporter.line(line)
