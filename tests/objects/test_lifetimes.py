"""What must outlive what: descriptors under calls, device memory under accesses, pins."""

from __future__ import annotations

import errno
import gc
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import BadHandle, BadState, DmaFault, HostError, InvalidArgs
from pinfold.testing import FailFrom, check_books
from tests.stateful.test_races import At

if TYPE_CHECKING:
    from pathlib import Path

PAGE = pf.PAGE_SIZE
READ, WRITE = pf.Perm.READ, pf.Perm.WRITE
LONG = 1 << 20  # bytes: more than is moved under the kernel's lock


@pytest.mark.parametrize("call", ["pread", "pwrite", "madvise"])
def test_the_last_handle_is_closed_while_a_call_uses_the_memory(
    process: pf.Process, tmp_path: Path, call: str
) -> None:
    """Its descriptor must not become somebody else's file before the call is over."""
    vmo = pf.Vmo(LONG)
    fd = vmo.object.pages.backing.fd
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    opened: list[int] = []

    def close_and_open() -> None:
        vmo.close()
        opened.append(os.open(victim, os.O_RDWR))

    with At(call, close_and_open):
        if call == "pread":
            assert vmo.read() == bytes(LONG)
        elif call == "pwrite":
            vmo.write(b"x" * LONG)
        else:
            vmo.commit()
    assert opened != [fd]
    os.close(opened[0])
    assert victim.read_bytes() == b"untouched"
    assert not os.path.exists(f"/proc/self/fd/{fd}") or fd == opened[0]


def test_device_memory_collected_inside_an_access_to_it(
    process: pf.Process, kernel: pf.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an IOMMU a device may be anywhere; what it is writing to is not closed under it."""
    with pf.open_bus("stub") as bus, bus.initiator(1) as bti:
        resource = pf.Resource(0xFE00_0000, PAGE)
        pf.Vmo.physical(resource, 0xFE00_0000, PAGE).close()
        again: list[Any] = [resource, pf.Vmo.physical(resource, 0xFE00_0000, PAGE)]
        again.append(again)
        found = kernel.physmap.find(0xFE00_0000)
        assert found is not None
        backing = found[0].backing
        fd, find = backing.fd, kernel.physmap.find
        del resource

        def collecting(address: int) -> Any:
            found = find(address)
            with pytest.warns(ResourceWarning):
                gc.collect()
            monkeypatch.setattr(kernel.physmap, "find", find)
            return found

        gc.collect()
        gc.disable()
        try:
            del again
            monkeypatch.setattr(kernel.physmap, "find", collecting)
            bti.master().write(0xFE00_0000, b"EVIL")
        finally:
            gc.enable()
        # The access is over: now it is gone, and a device meets nothing.
        assert backing.closed
        assert not os.path.exists(f"/proc/self/fd/{fd}")
        with pytest.raises(DmaFault):
            bti.master().read(0xFE00_0000, 1)


def test_a_memfd_that_is_cut_while_it_is_adopted(process: pf.Process) -> None:
    """It is sealed first and measured after: its size is never more than there is."""
    for name in ("fstat", "fcntl"):
        fd = os.memfd_create("theirs", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4 * PAGE)
        with At(name, partial(os.ftruncate, fd, PAGE)), pf.Vmo.from_fd(fd) as vmo:
            assert vmo.size == os.fstat(fd).st_size
            assert bytes(vmo.view()) == bytes(vmo.size)
        os.close(fd)


def test_two_objects_over_one_file_share_their_pins(bti: pf.Bti) -> None:
    """A hole that is punched through one would be a hole under the device of the other."""
    fd = os.memfd_create("theirs", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    with pf.Vmo.from_fd(fd) as one, pf.Vmo.from_fd(fd) as two:
        one.write(b"x" * 2 * PAGE)
        with bti.pin(one, 0, PAGE, perms=READ) as pmt:
            with pytest.raises(BadState):
                two.decommit()
            two.zero()  # clears the pinned page in place
            assert two.committed_ranges() == [(0, PAGE)]
            assert bti.master().read(pmt.addrs[0], 1) == b"\0"
        two.decommit()
        assert one.committed_ranges() == []
    os.close(fd)


# Tokens -----------------------------------------------------------------------------------------


def test_a_pin_that_sticks_on_a_closed_bti_is_on_record(
    sim: pf.Iommu, kernel: pf.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can release it any more, and `Kernel.leaks` says so."""
    bti = sim.initiator(5)
    vmo = pf.Vmo(PAGE)
    pmt = bti.pin(vmo, perms=READ)
    space: Any = bti.object.space
    bti.close()

    def refuse(grant: object) -> None:
        raise RuntimeError("the IOMMU does not answer")

    monkeypatch.setattr(space, "revoke", refuse)
    with pytest.raises(RuntimeError):
        pmt.unpin()
    assert [leak.size for leak in kernel.leaks] == [PAGE]
    check_books(kernel)
    vmo.close()


def test_two_releases_at_once_release_each_pin_once(process: pf.Process) -> None:
    """Source: zx_bti_release_quarantine is OK whoever else is at it."""
    with (
        pf.open_bus("sim", anchor=pf.Anchor.MLOCK) as bus,
        bus.initiator(1) as bti,
        pf.Vmo(8 * PAGE) as vmo,
        ThreadPoolExecutor(1) as pool,
    ):
        pins = [bti.pin(vmo, page * PAGE, PAGE, perms=READ) for page in range(8)]
        for pmt in pins:
            pmt.close()
        others: list[int] = []
        with At("munlock", lambda: others.append(pool.submit(bti.release_quarantine).result())):
            mine = bti.release_quarantine()
        assert (mine, others) == (8, [0])
        assert bti.statistics().pins == 0


def test_a_bti_closed_while_its_quarantine_is_released_leaks_nothing(
    process: pf.Process, kernel: pf.Kernel
) -> None:
    """The release has begun: it is not on record as something that nobody can release."""
    with pf.open_bus("sim", anchor=pf.Anchor.MLOCK) as bus, pf.Vmo(PAGE) as vmo:
        bti = bus.initiator(1)
        bti.pin(vmo, perms=READ).close()
        with At("munlock", bti.close):
            bti.release_quarantine()
        assert kernel.leaks == []
        assert kernel.statistics().ledger.pins == 0
        check_books(kernel)


def test_unpin_of_a_handle_that_was_closed_a_moment_ago(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """It does not take the token out of quarantine: that is for a release to do."""
    pmt = bti.pin(vmo, perms=READ)
    token, entry = pmt.object, pmt._entry
    pmt.close()
    with pytest.raises(BadHandle):
        bti.object.unpin(token, entry)
    assert bti.statistics().quarantined == 1
    bti.release_quarantine()


def test_a_log_handler_may_ask_pinfold(bti: pf.Bti, vmo: pf.Vmo, kernel: pf.Kernel) -> None:
    """What is logged is logged outside the kernel's lock."""
    seen: list[int] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(kernel.statistics().ledger.pins)

    handler = Asking()
    logging.getLogger("pinfold").addHandler(handler)
    try:
        bti.pin(vmo, perms=READ).close()
    finally:
        logging.getLogger("pinfold").removeHandler(handler)
    assert seen == [1]
    bti.release_quarantine()


def test_memory_that_cannot_be_closed_at_the_last_unpin(sim: pf.Iommu, kernel: pf.Kernel) -> None:
    """The pin is gone, and so are the device's authority and the bus, whatever close said."""
    bti = sim.initiator(5)
    vmo = pf.Vmo(PAGE)
    pmt = bti.pin(vmo, perms=READ)
    vmo.close()
    bti.close()
    before = sim.object.users
    with FailFrom(1, errno.EIO), pytest.raises(HostError):
        pmt.unpin()
    assert kernel.statistics().ledger.pins == 0
    assert sim.object.users == before - 1


# Order of checks, where several things are wrong -------------------------------------------------


def test_alignment_is_checked_before_the_memorys_handle(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """Source: zx_bti_pin in Zircon's dispatcher, offset and size before the VMO is looked up."""
    closed = vmo.duplicate()
    closed.close()
    nothing: Any = 5
    for bad in (closed, nothing):
        with pytest.raises(InvalidArgs):
            bti.pin(bad, 1, PAGE, perms=READ)
        with pytest.raises((BadHandle, TypeError)):
            bti.pin(bad, 0, PAGE, perms=READ)


def test_rights_are_checked_before_the_range(bti: pf.Bti, vmo: pf.Vmo) -> None:
    """With the default size too."""
    with vmo.duplicate(pf.Right.MAP) as less, pytest.raises(PermissionError):
        bti.pin(less, 64 * PAGE, perms=READ)
    with pytest.raises(IndexError):
        bti.pin(vmo, 64 * PAGE, perms=READ)
    with pytest.raises(InvalidArgs):
        bti.pin(vmo, vmo.size, perms=READ)  # nothing is left from there on


def test_a_process_closes_the_newest_handle_first(kernel: pf.Kernel, process: pf.Process) -> None:
    """Source: process death in Zircon."""
    order: list[str] = []
    short = pf.Process(kernel, name="short")
    with short:
        made = [pf.Vmo(0, name=name) for name in ("first", "second", "third")]
    for vmo in made:
        target: Any = vmo.object
        real = target.pages.backing.close

        def closing(real: Any = real, name: str = target.name) -> None:
            order.append(name)
            real()

        target.pages.backing = _Closing(target.pages.backing, closing)
    short.exit()
    assert order == ["third", "second", "first"]


class _Closing:
    """A backing whose close is told of."""

    def __init__(self, backing: Any, close: Any) -> None:
        self._backing = backing
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backing, name)
