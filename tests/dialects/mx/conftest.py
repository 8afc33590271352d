"""Processes for the tests of Magenta's calls; at their end nothing may be left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.testing import check_books

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .things import Strict


def _current(kernel: pf.Kernel) -> Iterator[pf.Process]:
    made = pf.Process(kernel, name="magenta")
    with made:
        yield made
        check_books(kernel)
    made.exit()
    assert kernel.objects() == []
    books = kernel.statistics().ledger
    assert (books.pins, books.pinned_bytes, books.requested_bytes) == (0, 0, 0)


@pytest.fixture(params=[None, "docs", "kernel"])
def strict(request: pytest.FixtureRequest) -> Iterator[Strict]:
    """Whom the kernel of the current process follows."""
    for _ in _current(pf.Kernel(seed=2, strict=request.param)):
        yield request.param


@pytest.fixture
def process() -> Iterator[pf.Process]:
    """A current process, of a kernel that follows the pages."""
    yield from _current(pf.Kernel(seed=2))
