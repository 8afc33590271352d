"""A ring, memory and a file, for the tests of io_uring."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pinfold.host import calls, mm
from pinfold.host.uring import Ring
from pinfold.testing import HostState
from pinfold.units import PAGE_SIZE, HostVa
from tests.host.rings import PAGES, RW, SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ring() -> Iterator[Ring]:
    """Eight entries, sixteen slots."""
    before = HostState.now()
    made = Ring(8, 16)
    yield made
    made.close()
    assert before.difference(HostState.now()) == []


@pytest.fixture
def memory() -> Iterator[HostVa]:
    """Committed shared memory."""
    fd = mm.create_memfd("ring", SIZE)
    address = mm.map_shared(fd, 0, SIZE, RW)
    calls.close(fd)
    mm.populate_write(address, SIZE)
    yield address
    mm.unmap(address, SIZE)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file whose page n is full of the byte n."""
    path = tmp_path / "data"
    path.write_bytes(b"".join(bytes([n]) * PAGE_SIZE for n in range(PAGES)))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)
