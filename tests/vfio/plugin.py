# The mark ``vfio``: what it asks for, and that nothing that has it is skipped in silence.
#
# A plugin and not a conftest, because tests of other folders have the mark, too: hooks of a
# conftest see only the tests beside it. tests/conftest.py loads it.
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vfio.guest import DEVICES, FOLDERS, excused, required, why_not

if TYPE_CHECKING:
    from collections.abc import Generator

FIXTURES = {"vfio_edu": "edu0", "vfio_edu64": "edu1", "vfio_nvme": "nvme"}
"""Fixture to device: a test that uses one has the mark by that."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a device, before `-m` chooses."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if not FIXTURES.keys().isdisjoint(names) and item.get_closest_marker("vfio") is None:
            item.add_marker(pytest.mark.vfio(*(FIXTURES[n] for n in names if n in FIXTURES)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose devices are not there. Without names it needs all."""
    mark = item.get_closest_marker("vfio")
    if mark is not None:
        if item.path.parent.name not in FOLDERS:
            # Skipped here, and never collected there: it would run nowhere, and nobody would know.
            pytest.fail(f"make test-vfio does not collect {item.path.parent}: see {FOLDERS=}")
        for name in mark.args or DEVICES:
            reason = why_not(name)
            if reason is not None:
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip is a failure where all must run. What is expected to fail is not a skip."""
    report = yield
    marked = item.get_closest_marker("vfio") is not None
    if report.skipped and marked and required() and not hasattr(report, "wasxfail"):
        reason = _reason(report.longrepr)
        if not excused(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped, where every vfio test must run: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself: what marks it would have had is not known."""
    report = yield
    if report.skipped and required():
        report.outcome = "failed"
        report.longrepr = f"skipped, where every vfio test must run: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    """pytest keeps path, line and reason of a skip."""
    return (
        str(longrepr[2]).removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)
    )
