"""A physical object that could not be made left a descriptor behind.

Simulated device memory was made for the first object that shows some, and stayed although the
object did not come about: a descriptor each time, and addresses at which no real window could be
put any more.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import OutOfRange, PinfoldError
from pinfold.testing import FailNth, HostCalls, HostState

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000


@pytest.fixture
def resource(process: pf.Process) -> Iterator[pf.Resource]:
    """Two pages of device memory of which nothing was shown."""
    with pf.Resource(DEVICE, 2 * PAGE, process=process) as made:
        yield made


def test_whatever_call_fails_no_descriptor_is_left(resource: pf.Resource) -> None:
    """Source: SQLite's way, every host call in turn."""
    with HostCalls() as calls:
        pf.Vmo.physical(resource, DEVICE, PAGE).close()
    needed = len(calls.names)
    assert needed
    for number in range(1, needed + 1):
        for code in (errno.EMFILE, errno.ENOMEM, errno.EIO):
            with pf.Process(pf.Kernel()) as process:
                with pf.Resource(DEVICE, PAGE) as fresh:
                    before = HostState.now()
                    plan = FailNth(number, code)
                    try:
                        with plan:
                            made = pf.Vmo.physical(fresh, DEVICE, PAGE)
                    except PinfoldError:
                        assert before.difference(HostState.now()) == [], plan.refused
                        pf.Vmo.physical(fresh, DEVICE, PAGE).close()
                    else:
                        made.close()
                process.exit()


def test_a_window_can_be_put_where_no_object_came_about(resource: pf.Resource) -> None:
    """The addresses are still free for a real window."""
    with pytest.raises(PinfoldError), FailNth(2, errno.EMFILE):
        pf.Vmo.physical(resource, DEVICE, PAGE)
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    try:
        with pf.Resource(DEVICE, PAGE, fd=fd):
            pass
    finally:
        os.close(fd)


def test_a_part_that_the_file_does_not_have_leaves_no_descriptor(process: pf.Process) -> None:
    """The descriptor of the part is closed when it turns out that the file ends before it."""
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    try:
        with pf.Resource(DEVICE, 2 * PAGE, fd=fd, process=process) as window:
            before = HostState.now()
            with pytest.raises(OutOfRange):
                pf.Vmo.physical(window, DEVICE + PAGE, PAGE)
            assert before.difference(HostState.now()) == []
    finally:
        os.close(fd)
