"""After every test of a copy, whatever happened in it, nothing is left: no file, no descriptor."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from pinfold.testing import HostState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No unfinished copy in the test's folder, and the host as it was."""
    gc.collect()
    before = HostState.now()
    yield
    gc.collect()
    assert before.difference(HostState.now()) == []
    assert list(tmp_path.rglob(".pinfold-copy-*")) == []
