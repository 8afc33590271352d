"""Fixtures of the tests of locked memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pinfold.host import calls
from pinfold.memory.residency import Residency
from tests.memory.locking import give_back, locked, make_area

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.units import HostVa
    from tests.memory.locking import Intercept, Interceptor


@pytest.fixture
def area() -> Iterator[HostVa]:
    start = make_area()
    yield start
    give_back(start)


@pytest.fixture
def table(area: HostVa) -> Iterator[Residency]:
    """A table of its own; at the end no count, nothing unsettled, and VmLck as before."""
    before = locked()
    made = Residency()
    yield made
    assert made.statistics().locked_bytes == 0
    assert made.statistics().unsettled_bytes == 0
    assert made.count(area) == 0
    assert locked() == before


@pytest.fixture
def intercept() -> Iterator[Intercept]:
    """Installs a function that sees each host call, until the test ends or it installs None."""

    def install(interceptor: Interceptor | None) -> None:
        calls.set_interceptor(interceptor)

    yield install
    calls.set_interceptor(None)
