"""What goes wrong with bare VFIO, and does not here: each with the device as the witness."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.dialects import aix
from pinfold.errors import BadState
from pinfold.host import calls
from tests.vfio.real import BOTH, READ, WRITE, edu

if TYPE_CHECKING:
    from collections.abc import Callable

P = pf.PAGE_SIZE

pytestmark = pytest.mark.vfio("edu1")


def test_memory_nobody_has_written_is_what_the_device_sees_later(
    process: pf.Process, vfio_edu64: str
) -> None:
    """A read-only mapping of it would pin the kernel's one page of zeros for good."""
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        with found.bti.pin(vmo, perms=READ) as pmt:
            driver.copy_to_device(pmt, 8)
            assert driver.load(8) == bytes(8)
            vmo.write(b"written!")
            driver.copy_to_device(pmt, 8)
        assert driver.load(8) == b"written!"


def test_the_processs_own_memory_is_what_the_device_sees_later(
    process: pf.Process, vfio_edu64: str
) -> None:
    """The same of an anonymous private mapping, which is granted where it is."""
    user = mmap.mmap(-1, P, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = calls.address_of(memoryview(user))
    with edu(vfio_edu64) as (found, driver):
        memory, where = aix.Xmem(), aix.Out()
        assert aix.xmattach(address, P, memory, aix.USER_ADSPACE) == aix.XMEM_SUCC
        assert aix.xmempin(address, P, memory) == 0
        handle = aix.d_map_init(found.bti, 0, 0, 0)
        assert isinstance(handle, aix.d_handle_t)
        assert aix.d_map_page(handle, 0, address, where, memory) == aix.DMA_SUCC
        user[:8] = b"in place"
        driver.copy_to_device(where.value, 8)
        assert driver.load(8) == b"in place"
        aix.d_unmap_page(handle, where.value)
        assert aix.xmemunpin(address, P, memory) == 0
        assert aix.xmdetach(memory) == aix.XMEM_SUCC
        aix.d_map_clear(handle)
    user.close()


@pytest.mark.parametrize(
    "take",
    [lambda vmo: vmo.decommit(0, P), lambda vmo: vmo.resize(0)],
    ids=["decommit", "shrink"],
)
def test_memory_under_a_grant_is_not_given_back(
    process: pf.Process, vfio_edu64: str, take: Callable[[pf.Vmo], None]
) -> None:
    """Linux would let the device go on writing to a page that nobody else can see."""
    with edu(vfio_edu64) as (found, driver), pf.Vmo(2 * P, resizable=True) as vmo:
        driver.store(b"DMA!")
        with found.bti.pin(vmo, perms=WRITE) as pmt:
            with pytest.raises(BadState):
                take(vmo)
            driver.copy_from_device(pmt, 4)
            assert vmo.read(0, 4) == b"DMA!"
        take(vmo)


def test_unmapping_memory_under_a_grant_leaves_it_the_devices(
    process: pf.Process, vfio_edu64: str
) -> None:
    """A mapping of the process comes and goes; what is granted stays where the object has it."""
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        root = process.reserve_root(size=1 << 30)
        mapping = root.map(vmo, pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE)
        driver.store(b"DMA!")
        with found.bti.pin(vmo, perms=BOTH) as pmt:
            root.unmap(mapping.address, P)
            driver.copy_from_device(pmt, 4)
            assert vmo.read(0, 4) == b"DMA!"
            again = root.map(vmo, pf.VmOption.PERM_READ)
            assert bytes(again.view()[:4]) == b"DMA!"


def test_memory_that_is_closed_under_a_grant_stays_the_devices(
    process: pf.Process, vfio_edu64: str
) -> None:
    """The last handle goes; the pin keeps the pages."""
    with edu(vfio_edu64) as (found, driver):
        vmo = pf.Vmo(P)
        vmo.write(b"kept")
        pmt = found.bti.pin(vmo, perms=READ)
        vmo.close()
        driver.copy_to_device(pmt, 4)
        assert driver.load(4) == b"kept"
        pmt.unpin()
