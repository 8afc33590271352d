"""Resources over a real window: what everybody finds at its addresses, and for how long.

Source: zx_vmo_create_physical; the descriptor is ours.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import AlreadyExists, NotFound, OutOfRange
from pinfold.objects.resource import ResourceKind
from pinfold.testing import HostState

from .test_resource import BASE, PAGE, bytes_at, put_at

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture
def bar() -> Iterator[int]:
    """The descriptor of a real window of four pages, each full of its own digit.

    A memfd: what somebody could cut could not be viewed.
    """
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.write(fd, b"".join(bytes([48 + page]) * PAGE for page in range(4)))
    yield fd
    os.close(fd)


def test_a_real_window_is_closed_with_its_last_user(bar: int) -> None:
    """The resource, one made from it, and what shows it keep the descriptor; the file stays."""
    before = HostState.now()
    window = pf.Resource(BASE, 4 * PAGE, fd=bar)
    part = window.child(ResourceKind.MMIO, BASE + PAGE, PAGE)
    window.close()
    shown = pf.Vmo.physical(part, BASE + PAGE, PAGE)
    part.close()
    with pf.Resource(BASE, 4 * PAGE) as stranger:
        assert bytes_at(stranger, BASE + 2 * PAGE) == b"2222"
        shown.close()
        assert bytes_at(stranger, BASE + 2 * PAGE) == bytes(4)
    assert before.difference(HostState.now()) == []
    assert os.pread(bar, 4, PAGE) == b"1111"


def test_a_real_window_may_begin_inside_its_file(bar: int) -> None:
    """As the part of /dev/mem that belongs to one device does."""
    with pf.Resource(BASE, 2 * PAGE, fd=bar, fd_offset=2 * PAGE) as made:
        assert bytes_at(made, BASE) == b"2222"
        assert bytes_at(made, BASE + PAGE) == b"3333"
        put_at(made, BASE + PAGE, b"here")
        with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
            assert bti.master().read(BASE + PAGE - 1, 5) == b"2here"
    assert os.pread(bar, 4, 3 * PAGE) == b"here"


def test_the_descriptor_of_a_window_may_be_closed(bar: int) -> None:
    """The window has one of its own: a number that is somebody else's now is nothing to it."""
    copy = os.dup(bar)
    made = pf.Resource(BASE, PAGE, fd=copy)
    os.close(copy)
    with made:
        assert bytes_at(made, BASE) == b"0000"


def test_two_things_cannot_be_at_one_address(bar: int) -> None:
    """Neither two windows, nor one where simulated memory was shown and may still be."""
    with pf.Resource(BASE, 2 * PAGE, fd=bar):
        with pytest.raises(AlreadyExists) as caught:
            pf.Resource(BASE + PAGE, 2 * PAGE, fd=bar)
        assert caught.value.asked == BASE + PAGE
        assert caught.value.remedy is not None
        with pf.Resource(BASE + 2 * PAGE, 2 * PAGE, fd=bar, fd_offset=2 * PAGE) as beside:
            assert bytes_at(beside, BASE + 3 * PAGE) == b"3333"
            with (
                pf.Resource(BASE, 4 * PAGE) as both,
                pytest.raises(OutOfRange) as out,
            ):
                pf.Vmo.physical(both, BASE + PAGE, 2 * PAGE)
            assert out.value.limit == BASE + 2 * PAGE
    with pf.Resource(BASE, 4 * PAGE) as made:
        put_at(made, BASE + PAGE, b"mine")
        with pytest.raises(AlreadyExists):
            pf.Resource(BASE, 2 * PAGE, fd=bar)
        with pf.Resource(BASE + 2 * PAGE, PAGE, fd=bar):
            assert bytes_at(made, BASE + 2 * PAGE) == b"0000"


def test_a_window_is_as_long_as_its_file_when_it_is_shown(bar: int) -> None:
    """A BAR does not know its size: what is asked for and not there is an error, then."""
    with pf.Resource(BASE, 64 * PAGE, fd=bar) as made:
        assert bytes_at(made, BASE + 3 * PAGE) == b"3333"
        with pytest.raises(OutOfRange) as caught:
            pf.Vmo.physical(made, BASE, 5 * PAGE)
        assert caught.value.limit == 4 * PAGE
    with pytest.raises(OutOfRange):
        pf.Resource(BASE, PAGE, fd=bar, fd_offset=5 * PAGE)


def test_taken_addresses_leave_no_window_behind(bar: int) -> None:
    """The descriptor is closed again, and the addresses are simulated."""
    with pf.Resource(BASE, PAGE, exclusive=True) as made:
        before = HostState.now()
        with pytest.raises(NotFound):
            pf.Resource(BASE, PAGE, fd=bar)
        assert before.difference(HostState.now()) == []
        assert bytes_at(made, BASE) == bytes(4)
