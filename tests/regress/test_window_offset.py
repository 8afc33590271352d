"""A device window could begin before its file.

``fd_offset`` was not looked at: with a negative one the first pages of the window were at negative
offsets of the file, which was found out by whichever call first touched one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import InvalidArgs
from pinfold.testing import HostState

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000


@pytest.fixture
def memory(process: pf.Process) -> Iterator[int]:
    """Two pages."""
    del process
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("offset", [-PAGE, -1, -(1 << 63), 1, PAGE - 1])
def test_a_window_begins_at_a_page_of_its_file(memory: int, offset: int) -> None:
    before = HostState.now()
    with pytest.raises(InvalidArgs):
        pf.Resource(DEVICE, 2 * PAGE, fd=memory, fd_offset=offset)
    assert before.difference(HostState.now()) == []
    with (
        pf.Resource(DEVICE, 2 * PAGE, fd=memory, fd_offset=0) as resource,
        pf.Vmo.physical(resource, DEVICE, 2 * PAGE) as vmo,
    ):
        assert vmo.size == 2 * PAGE
