"""Views: the memory itself, lent out."""

from __future__ import annotations

import os
from typing import Any

import pytest

import pinfold as pf
from pinfold.errors import (
    BadHandle,
    BadState,
    InvalidArgs,
    OutOfRange,
)
from pinfold.host import calls, process_vm

PAGE = pf.PAGE_SIZE
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


def test_a_view_is_the_memory_itself(vmo: pf.Vmo) -> None:
    """Written through one, read through the other."""
    view = vmo.view(PAGE, 16)
    view[:5] = b"hello"
    assert vmo.read(PAGE, 5) == b"hello"
    vmo.write(b"J", PAGE)
    assert bytes(view[:5]) == b"Jello"
    array = vmo.array("<u2", PAGE, 16)
    assert array.shape == (8,)
    assert array[0] == int.from_bytes(b"Je", "little")


def test_a_view_without_write_is_read_only(vmo: pf.Vmo) -> None:
    """The rights of the handle are those of the view."""
    with vmo.duplicate(R.READ | R.MAP) as less:
        view = less.view()
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        assert not less.array().flags.writeable


def test_a_view_keeps_the_memory_after_every_handle_is_closed(kernel: pf.Kernel) -> None:
    """And the memory goes with the last slice."""
    vmo = pf.Vmo(PAGE)
    vmo.write(b"kept")
    part = vmo.view()[1:3]
    before = kernel.statistics().objects
    vmo.close()
    assert bytes(part) == b"ep"
    assert kernel.statistics().objects == before
    del part
    assert kernel.statistics().objects == before - 1


def test_memory_cannot_shrink_under_a_view() -> None:
    """The process would die at the next touch; instead the error says where the view was made."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        view = vmo.view(2 * PAGE, PAGE)
        with pytest.raises(BadState) as caught:
            vmo.resize(2 * PAGE)
        assert __file__ in str(caught.value.holder)
        vmo.resize(3 * PAGE)
        vmo.resize(64 * PAGE)
        assert view[0] == 0
        del view
        vmo.resize(0)


def test_views_that_cannot_be(vmo: pf.Vmo) -> None:
    """Empty, past the end, of a closed handle."""
    with pytest.raises(InvalidArgs):
        vmo.view(0, 0)
    with pytest.raises(OutOfRange):
        vmo.view(PAGE, 4 * PAGE)
    other = vmo.duplicate()
    other.close()
    with pytest.raises(BadHandle):
        other.view()


# Read-only: a mapping of its own, which the kernel keeps anybody from writing through ------------


def test_a_read_only_view_is_so_all_the_way_down(vmo: pf.Vmo) -> None:
    """`memoryview.obj` leads behind a memoryview; there is nothing writable there either."""
    vmo.write(b"shown")
    with vmo.duplicate(R.READ | R.MAP) as less:
        view = less.view(0, 5)
    behind: Any = view.obj
    assert memoryview(behind).readonly
    with pytest.raises(TypeError):
        behind[0] = 1
    with pytest.raises(OSError, match="Bad address"):
        process_vm.write(os.getpid(), calls.address_of(view), b"x")
    assert bytes(view) == b"shown"


@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, 2 * PAGE + 5])
def test_a_read_only_view_may_begin_anywhere(vmo: pf.Vmo, offset: int) -> None:
    """A mapping begins at a page; what is shown begins where it was asked."""
    vmo.write(b"here", offset)
    with vmo.duplicate(R.READ | R.MAP) as less:
        assert bytes(less.view(offset, 4)) == b"here"
        assert less.view(offset).nbytes == 4 * PAGE - offset
        assert less.array("u1", offset, 4).tobytes() == b"here"


def test_a_read_only_view_outlives_its_handles_and_shows_what_others_write() -> None:
    """It keeps the memory, as a writable one does."""
    with pf.Vmo(PAGE) as vmo:
        less = vmo.duplicate(R.READ | R.MAP)
        view = less.view(8, 3)
        less.close()
        vmo.write(b"new", 8)
        assert bytes(view) == b"new"
        assert vmo.statistics().views == 1
    assert bytes(view[1:]) == b"ew"


def test_memory_cannot_shrink_under_a_read_only_view() -> None:
    """Nor under a slice of it, after the view itself is gone."""
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        with vmo.duplicate(R.READ | R.MAP) as less:
            part = less.view(2 * PAGE, PAGE)[1:2]
        with pytest.raises(BadState) as caught:
            vmo.resize(2 * PAGE)
        assert __file__ in str(caught.value.holder)
        assert part[0] == 0
        del part
        vmo.resize(0)
