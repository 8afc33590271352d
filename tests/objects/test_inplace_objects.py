"""pin() of memory that an object owns: the object's books know of it."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import BadState, LimitReached
from pinfold.testing import check_books

PAGE = pf.PAGE_SIZE


@pytest.fixture(params=["view", "read-only view", "slice of a view", "mapping", "child mapping"])
def shown(request: pytest.FixtureRequest, process: pf.Process, vmo: pf.Vmo) -> memoryview:
    """The first two pages of the object, in each way that they can be shown."""
    if request.param == "view":
        return vmo.view(0, 2 * PAGE)
    if request.param == "read-only view":
        with vmo.duplicate(vmo.rights & ~pf.Right.WRITE) as reader:
            return reader.view(0, 2 * PAGE)
    if request.param == "slice of a view":
        return vmo.view()[: 2 * PAGE]
    region = process.root
    if request.param == "child mapping":
        options = pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE
        region = region.allocate(16 * PAGE, options)
    perms = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
    shown = region.map(vmo, perms).view(0, 2 * PAGE)
    if region is not process.root:
        region.close()
    return shown


def test_what_is_pinned_through_a_view_is_not_given_back(vmo: pf.Vmo, shown: memoryview) -> None:
    with pf.pin(shown[:1]):
        assert [vmo.pin_count(page * PAGE) for page in range(3)] == [1, 0, 0]
        with pytest.raises(BadState, match="may be using"):
            vmo.decommit(0, 4 * PAGE)
        vmo.decommit(PAGE, 3 * PAGE)
        check_books(vmo.kernel)
    assert vmo.pin_count(0) == 0
    vmo.decommit()


def test_a_page_that_a_device_has_as_well_is_charged_once(
    kernel: pf.Kernel, bti: pf.Bti, vmo: pf.Vmo, shown: memoryview
) -> None:
    """Each end frees what nobody else holds, whichever comes first."""
    for device_first in (True, False):
        token = bti.pin(vmo, 0, 2 * PAGE, perms=pf.Perm.READ)
        held = pf.pin(shown[: 2 * PAGE])
        assert kernel.ledger.pinned_bytes == 2 * PAGE
        check_books(kernel)
        ends = [token.unpin, held.unpin] if device_first else [held.unpin, token.unpin]
        ends[0]()
        assert kernel.ledger.pinned_bytes == 2 * PAGE
        assert vmo.pin_count(PAGE) == 1
        ends[1]()
        assert kernel.ledger.pinned_bytes == 0


def test_a_page_can_be_held_more_often_than_devices_may_pin_it(
    bti: pf.Bti, vmo: pf.Vmo, shown: memoryview
) -> None:
    held = [pf.pin(shown[:1]) for _ in range(40)]
    tokens = [bti.pin(vmo, 0, PAGE, perms=pf.Perm.READ) for _ in range(31)]
    assert vmo.pin_count(0) == 71
    with pytest.raises(pf.errors.Unavailable):
        bti.pin(vmo, 0, PAGE, perms=pf.Perm.READ)
    for end in (*(each.unpin for each in held), *(each.unpin for each in tokens)):
        end()
    assert vmo.pin_count(0) == 0


def test_a_resizable_object_does_not_lose_a_pinned_page(process: pf.Process) -> None:
    del process
    with pf.Vmo(4 * PAGE, resizable=True) as vmo:
        view = vmo.view(3 * PAGE, PAGE)
        held = pf.pin(view)
        with pytest.raises(BadState):
            vmo.resize(3 * PAGE)
        held.unpin()
        del view, held
        gc.collect()
        vmo.resize(3 * PAGE)


def test_a_refused_pin_leaves_the_object_as_it_was() -> None:
    small = pf.Kernel(max_pinned=2 * PAGE)
    with pf.Process(small) as process, pf.Vmo(4 * PAGE) as vmo:
        with pytest.raises(LimitReached):
            pf.pin(vmo.view())
        assert vmo.pin_count(0) == 0
        check_books(small)
        pf.pin(vmo.view(0, 2 * PAGE)).unpin()
        process.exit()


def test_memory_is_known_again_after_its_view_has_gone(process: pf.Process, vmo: pf.Vmo) -> None:
    """A read-only view has a mapping of its own; its addresses go to somebody else."""
    with vmo.duplicate(vmo.rights & ~pf.Right.WRITE) as reader:
        for _ in range(50):
            view = reader.view(0, 2 * PAGE)
            with pf.pin(view):
                assert vmo.pin_count(0) == 1
            del view
            other = mmap.mmap(-1, 2 * PAGE)
            with pf.pin(other):
                assert vmo.pin_count(0) == 0
            other.close()
    assert not process.kernel.lent or vmo.statistics().views


def test_memory_of_no_object_is_the_process_s_own(kernel: pf.Kernel, process: pf.Process) -> None:
    del process
    array = np.zeros(3 * PAGE, np.uint8)
    with pf.pin(array), pf.pin(array[:1]):
        check_books(kernel)
        assert kernel.own_memory is not None
        page = array.ctypes.data // PAGE
        assert kernel.own_memory.pages.pin_count(page) == 2
    assert kernel.own_memory.pages.pin_count(page) == 0
