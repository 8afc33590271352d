"""Memory in one run of real frames: huge pages, all there, and looked up."""

from __future__ import annotations

import errno
import gc
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import BadState, NoMemory, NotSupported, PinfoldError
from pinfold.host import probe
from pinfold.testing import FailNth, HostCalls, HostState, check_books, check_extents
from pinfold.units import GIB
from tests.buses.phys_machine import (
    HUGE,
    PAGE,
    RW,
    FailCall,
    OtherMapping,
    huge_pages,
    huge_pages_to_ourselves,
    needs_phys,
    pinned,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

READ = pf.Perm.READ
ONE = pf.AddrForm.CONTIGUOUS

pytestmark = needs_phys


@pytest.fixture
def one_huge_page(phys: pf.Bti) -> Iterator[None]:
    """Free, and given back to the machine at the end; what uses it goes before."""
    del phys
    with huge_pages(1):
        yield


@pytest.mark.usefixtures("one_huge_page")
@pytest.mark.parametrize("pages", [1, 3, HUGE // PAGE])
def test_a_contiguous_object_is_one_run_of_frames(phys: pf.Bti, pages: int) -> None:
    """As another mapping of the same file shows, and in every form."""
    size, before = pages * PAGE, pinned()
    with (
        pf.Vmo.contiguous(phys, size, alignment=HUGE) as vmo,
        OtherMapping(vmo) as other,
        phys.pin(vmo, perms=RW, form=ONE) as pmt,
        phys.pin(vmo, perms=READ) as by_page,
    ):
        assert (vmo.size, len(pmt.extents), len(pmt.addrs)) == (size, 1, 1)
        first = int(pmt.addrs[0])
        assert first % HUGE == 0
        assert (other.frames() == np.arange(first, first + size, PAGE, dtype=np.uint64)).all()
        assert (by_page.addrs == other.frames()).all()
        check_extents(pmt.extents, size, phys.limits)
        assert vmo.statistics().contiguous
        assert pinned() > before
    assert pinned() == before


@pytest.mark.usefixtures("one_huge_page")
def test_its_bytes_are_read_written_and_viewed_like_any_others(phys: pf.Bti) -> None:
    """Linux does not write such files, and maps them in whole huge pages alone."""
    with pf.Vmo.contiguous(phys, 5 * PAGE) as vmo:
        assert vmo.read() == bytes(5 * PAGE)
        vmo.write(b"device", 2 * PAGE - 3)
        assert vmo.read(2 * PAGE - 3, 6) == b"device"
        vmo.write(b"", 0)
        array = vmo.array("u4", PAGE, 3 * PAGE)
        array[:] = 7
        assert vmo.read(4 * PAGE - 4, 8) == b"\7\0\0\0" + bytes(4)
        vmo.zero(PAGE, 2 * PAGE)
        assert vmo.read(PAGE, PAGE) == bytes(PAGE)
        assert int(array[-1]) == 7
        del array
        shown = vmo.view(4 * PAGE, PAGE)
        shown[:3] = b"end"
        assert (len(shown), bytes(vmo.read(4 * PAGE, 3))) == (PAGE, b"end")
        shown.release()
        with vmo.duplicate(vmo.rights & ~pf.Right.WRITE) as reader:
            seen = reader.view(4 * PAGE, PAGE)
            assert seen.readonly
            assert (len(seen), bytes(seen[:3])) == (PAGE, b"end")
            seen.release()
        del shown, seen
        gc.collect()
        with vmo.child(pf.VmoChild.SLICE, 3 * PAGE, 2 * PAGE) as part:
            part.write(b"slice", PAGE)
            assert vmo.read(4 * PAGE, 5) == b"slice"
            with phys.pin(part, perms=READ, form=ONE) as pmt, phys.pin(vmo, perms=READ) as all_:
                assert int(pmt.addrs[0]) == int(all_.addrs[3])
        with pf.Vmo(5 * PAGE) as target:
            target.write(vmo.read())
            assert target.read() == vmo.read()


@pytest.mark.usefixtures("one_huge_page")
def test_what_it_cannot_is_refused_by_name(phys: pf.Bti, process: pf.Process) -> None:
    """Linux would map a whole huge page, over whatever is beside it."""
    options = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
    with pf.Vmo.contiguous(phys, PAGE) as vmo:
        with pytest.raises(NotSupported, match="huge pages") as caught:
            process.root.map(vmo, options)
        assert (caught.value.limit, caught.value.remedy is not None) == (HUGE, True)
        with pytest.raises(NotSupported):
            vmo.decommit()
        with pytest.raises((NotSupported, BadState, PinfoldError)):
            vmo.resize(2 * PAGE)
        check_books(process.kernel)


@pytest.mark.usefixtures("one_huge_page")
def test_it_is_contiguous_for_simulated_devices_too(phys: pf.Bti, process: pf.Process) -> None:
    """One object, pinned for devices of several buses."""
    with (
        pf.open_bus("stub") as stub,
        stub.initiator(1) as other,
        pf.Vmo.contiguous(phys, 4 * PAGE) as vmo,
        other.pin(vmo, perms=RW, form=ONE) as simulated,
        phys.pin(vmo, perms=RW, form=ONE) as real,
    ):
        other.master().write(int(simulated.addrs[0]) + 3 * PAGE, b"stub")
        assert vmo.read(3 * PAGE, 4) == b"stub"
        assert len(real.extents) == len(simulated.extents) == 1


def test_its_pages_cannot_be_taken_before_they_are_touched(phys: pf.Bti) -> None:
    """All are allocated when it is made: a touch that found none would end the process (SIGBUS)."""
    with huge_pages(2):
        vmo = pf.Vmo.contiguous(phys, HUGE)
        rest = []
        while any(kind.free for kind in probe.huge_pages()):
            rest.append(pf.Vmo.contiguous(phys, PAGE))
        assert rest
        with pytest.raises(NoMemory):
            pf.Vmo.contiguous(phys, PAGE)
        vmo.view()[:] = b"x" * HUGE
        assert vmo.read(HUGE - 1, 1) == b"x"
        gc.collect()
        for made in (vmo, *rest):
            made.close()


def test_several_huge_pages_are_one_run_or_none_is_given(phys: pf.Bti) -> None:
    """Neighbours if they happen to be: looked up, never assumed."""
    size = 3 * HUGE - PAGE
    with huge_pages(12):
        before = HostState.now()
        with ExitStack() as made:
            said = ""
            try:
                vmo = made.enter_context(pf.Vmo.contiguous(phys, size))
            except NoMemory as error:
                said = str(error)
            else:
                pmt = made.enter_context(phys.pin(vmo, perms=READ))
                other = made.enter_context(OtherMapping(vmo))
                assert (np.diff(other.frames()) == PAGE).all()
                assert len(pmt.extents) == 1
            assert not said or ("side by side" in said and "nr_hugepages" in said)
        gc.collect()
        assert before.difference(HostState.now()) == []


@pytest.mark.slow
def test_a_larger_run_is_one_huge_page_of_a_larger_size(phys: pf.Bti) -> None:
    """1 GiB, where the machine can set one aside now."""
    with (
        huge_pages(1, GIB),
        pf.Vmo.contiguous(phys, 3 * HUGE, alignment=4 * HUGE) as vmo,
        OtherMapping(vmo) as other,
        phys.pin(vmo, perms=READ, form=ONE) as pmt,
    ):
        assert int(pmt.addrs[0]) % (4 * HUGE) == 0
        assert (np.diff(other.frames()) == PAGE).all()


def test_without_free_huge_pages_it_says_what_the_owner_can_do(phys: pf.Bti) -> None:
    """The command, with the number and the file. pinfold never runs it."""
    with huge_pages_to_ourselves():
        if any(kind.free for kind in probe.huge_pages()):
            pytest.skip("this machine has huge pages to give")
        total = {kind.size: kind.total for kind in probe.huge_pages()}[HUGE]
        before = HostState.now()
        with pytest.raises(NoMemory, match="too few huge pages are free") as caught:
            pf.Vmo.contiguous(phys, PAGE)
        with pytest.raises(NoMemory) as beyond:
            pf.Vmo.contiguous(phys, 64 * GIB)
        assert before.difference(HostState.now()) == []
    file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    assert caught.value.remedy == f"as root: echo {total + 1} > {file}"
    assert "0 of 2 MiB" in str(caught.value.available)
    assert caught.value.asked == PAGE
    assert "or ask for less" in str(beyond.value.remedy)


def test_without_hugetlbfs_it_is_not_supported(phys: pf.Bti) -> None:
    """A kernel that was built without it has no such folder."""
    with FailCall("listdir", errno.ENOENT), pytest.raises(NotSupported, match="huge pages"):
        pf.Vmo.contiguous(phys, PAGE)


def test_other_buses_make_it_as_before(process: pf.Process) -> None:
    """Simulated runs need no huge page."""
    with (
        pf.open_bus("sim") as bus,
        bus.initiator(1) as bti,
        pf.Vmo.contiguous(bti, 3 * HUGE) as vmo,
    ):
        assert vmo.object.pages.backing.grain == PAGE
        assert not bus.limits.real_frames


@pytest.mark.usefixtures("one_huge_page")
def test_whatever_call_fails_nothing_is_left(phys: pf.Bti, process: pf.Process) -> None:
    """And the same call works afterwards: the page is free again."""
    gc.collect()
    with HostCalls() as seen:
        pf.Vmo.contiguous(phys, 2 * PAGE).close()
    making = seen.names[: len(seen.names) - 2]
    assert "fallocate" in making
    before = HostState.now()
    for n in range(1, len(making) + 1):
        for code in (errno.ENOMEM, errno.EIO):
            with FailNth(n, code), suppress(PinfoldError):
                pf.Vmo.contiguous(phys, 2 * PAGE).close()
            assert before.difference(HostState.now()) == [], (making[n - 1], code)
            pf.Vmo.contiguous(phys, 2 * PAGE).close()
            check_books(process.kernel)
