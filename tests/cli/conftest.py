"""What the tests of `pinfold copy` begin and end with."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from pinfold.testing import HostState
from pinfold.units import PAGE_SIZE
from tests.cli.copies import random_file

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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Of 64 pages and a bit."""
    random_file(tmp_path / "a", 64 * PAGE_SIZE + 100)
    return tmp_path / "a"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A file that is there, and is to be as it was afterwards."""
    path = tmp_path / "b"
    path.write_bytes(b"former")
    before = path.stat()
    yield path
    assert path.read_bytes() == b"former"
    after = path.stat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_mtime_ns,
    )
