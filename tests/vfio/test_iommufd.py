"""A device through an iommufd: what the kernel really does with the requests.

Debian's kernels have none, and there these tests skip. ``tests/rig/kernel/build`` makes one that
has: ``make test-vfio RIG="--kernel OUT/vmlinux"``.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import pinfold as pf
from pinfold.buses.vfio import VfioBus
from pinfold.buses.vfio.iommufd import IommufdContainer, missing
from pinfold.buses.vfio.open import choose, find_device
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    HostError,
    NotSupported,
    Unavailable,
)
from pinfold.host import calls, mm, probe, vfio
from pinfold.testing import HostCalls, HostState
from tests.host.filled import filled
from tests.programs import run
from tests.vfio.guest import NO_MAP_FILE
from tests.vfio.iommufd_space import IOVA, MARKS, container, pinned_bytes, takes_files
from tests.vfio.real import BOTH, READ, WRITE, edu, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = MARKS

P: Final = pf.PAGE_SIZE
MSI: Final = 0xFEE0_0000
"""Where interrupts are sent: no memory can be mapped there."""


@pytest.fixture(params=["file", "address"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Memory files by descriptor, and as on a kernel that does not know that request."""

    def see(name: str) -> None:
        if name == "iommufd_has_map_file":
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    if request.param == "file" and not takes_files():
        pytest.skip(NO_MAP_FILE)
    former = calls.set_interceptor(see if request.param == "address" else None)
    yield request.param
    calls.set_interceptor(former)


# Which one, and what it can do -------------------------------------------------------------------


def test_it_is_chosen_where_the_kernel_has_it(process: pf.Process, vfio_edu64: str) -> None:
    """And VFIO's own container where that is asked for, one after the other."""
    device = find_device(vfio_edu64)
    assert missing(device) is None
    assert choose(device) == "iommufd"
    with opened(vfio_edu64) as found:
        assert found.bus.container.name == "iommufd"
        assert found.bus.limits.anchor is pf.Anchor.IOMMUFD
    if Path(vfio.CONTAINER).exists():
        with pf.open_bus(f"vfio:{vfio_edu64}", backend="type1") as iommu:
            assert iommu.limits.anchor is pf.Anchor.VFIO
    with pf.open_bus(f"vfio:{vfio_edu64}", backend="iommufd") as iommu:
        assert iommu.limits.anchor is pf.Anchor.IOMMUFD


def test_the_ranges_are_the_iommus(process: pf.Process, vfio_edu64: str) -> None:
    """They lack the addresses of interrupts, and are those of Type1, as the page sizes are."""
    with container(vfio_edu64) as made:
        ranges = made.ranges()
        sizes = made.page_sizes()
        assert sizes[0] == P
        assert made.limit() is None
    assert ranges[0].start == 0
    assert not any(r.start <= MSI < r.stop for r in ranges)
    assert ranges == tuple(sorted(ranges))
    if Path(vfio.CONTAINER).exists():
        with pf.open_bus(f"vfio:{vfio_edu64}", backend="type1") as iommu:
            assert isinstance(iommu.bus, VfioBus)
            assert iommu.bus.page_sizes == sizes
            first, last = iommu.limits.apertures[0], iommu.limits.apertures[-1]
        assert (first.stop, last.stop) == (ranges[0].stop, ranges[-1].stop)


# What the device reaches -------------------------------------------------------------------------


def test_the_device_moves_bytes(process: pf.Process, vfio_edu64: str, way: str) -> None:
    """Of memory that nobody had written to when it was pinned: no zero page is in its place."""
    content = os.urandom(2 * P)
    with (
        edu(vfio_edu64) as (found, driver),
        pf.Vmo(2 * P) as source,
        pf.Vmo(3 * P) as target,
    ):
        before, locked = pinned_bytes(), probe.process_memory().locked
        with HostCalls() as made:
            come = found.bti.pin(source, perms=READ)
        assert ("iommufd_map_file" if way == "file" else "iommufd_map") in made.names
        with come, found.bti.pin(target, perms=WRITE) as go:
            assert pinned_bytes() - before == 5 * P
            assert probe.process_memory().locked == locked
            source.write(content)
            driver.transfer(come, go, destination_offset=100)
            assert target.read(100, 2 * P) == content
            assert target.read(0, 100) == bytes(100)
        assert pinned_bytes() == before
        assert found.bus.faults.total == 0


def test_what_is_revoked_is_out_of_reach_at_once(
    process: pf.Process, vfio_edu64: str, way: str
) -> None:
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        vmo.write(b"kept")
        driver.store(b"lost")
        with found.bti.pin(vmo, perms=BOTH) as pmt:
            at = int(pmt.addrs[0])
            driver.copy_to_device(at, 4, at=100)
        driver.copy_from_device(at, 4)
        assert vmo.read(0, 4) == b"kept"
        assert found.bus.faults[-1].reason is pf.FaultReason.REVOKED
        assert driver.load(4, at=100) == b"kept"


def test_what_is_to_be_read_is_not_written(process: pf.Process, vfio_edu64: str, way: str) -> None:
    """The other way round Intel's driver lets it: see tests/vfio/test_space.py."""
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        vmo.write(b"kept")
        driver.store(b"lost")
        with found.bti.pin(vmo, perms=READ) as pmt:
            driver.copy_from_device(int(pmt.addrs[0]), 4)
            assert vmo.read(0, 4) == b"kept"
        with found.bti.pin(vmo, perms=WRITE) as pmt:
            driver.copy_from_device(int(pmt.addrs[0]), 4)
            assert vmo.read(0, 4) == b"lost"


class Unmapped:
    """A memory file that this process has mapped nowhere, as a bus is given one."""

    what, writable = "a memory file", True

    def __init__(self, fd: int, size: int) -> None:
        self.memfd, self.size = (fd, 0), size

    @property
    def host_address(self) -> int:
        raise AssertionError("it has none")


def test_a_memory_file_needs_no_mapping(process: pf.Process, vfio_edu64: str) -> None:
    if not takes_files():
        pytest.skip(NO_MAP_FILE)
    fd = mm.create_memfd("nowhere", 2 * P)
    unmapped: Any = Unmapped(fd, 2 * P)
    with edu(vfio_edu64) as (found, driver):
        calls.pwrite(fd, b"out", P)
        found.bus.container.map(unmapped, IOVA, BOTH)
        driver.copy_to_device(IOVA + P, 3)
        driver.copy_from_device(IOVA, 3)
        assert calls.pread(fd, 3, 0) == b"out"
        found.bus.container.unmap(IOVA, 2 * P)
    calls.close(fd)


# What is refused ---------------------------------------------------------------------------------


def test_nothing_else_is_mapped_where_something_is(vfio_edu64: str, way: str) -> None:
    with container(vfio_edu64) as made, filled() as pinned:
        made.map(pinned, IOVA, READ)
        before = pinned_bytes()
        for iova in (IOVA, IOVA - P, IOVA + 3 * P):
            with pytest.raises(AlreadyExists):
                made.map(pinned, iova, READ)
        assert pinned_bytes() == before
        made.map(pinned, IOVA + 4 * P, READ)
        assert pinned_bytes() == before + 4 * P  # the same pages, charged again
        made.unmap(IOVA + 4 * P, 4 * P)
        made.unmap(IOVA, 4 * P)


@pytest.mark.parametrize("iova", [MSI, IOVA + 1, 1 << 63], ids=["interrupts", "unaligned", "high"])
def test_an_address_that_cannot_be_is_refused(vfio_edu64: str, way: str, iova: int) -> None:
    with container(vfio_edu64) as made, filled() as pinned:
        before = pinned_bytes()
        with pytest.raises(HostError, match="addresses that the bus reports") as caught:
            made.map(pinned, iova, READ)
        assert caught.value.errno == errno.EINVAL
        assert pinned_bytes() == before


def test_a_mapping_is_unmapped_whole_or_not_at_all(vfio_edu64: str) -> None:
    """Where Type1 says EINVAL, or that it has unmapped no bytes."""
    with container(vfio_edu64) as made, filled() as pinned:
        made.map(pinned, IOVA, READ)
        before = pinned_bytes()
        for iova, size in ((IOVA, P), (IOVA + P, 3 * P), (IOVA + 4 * P, P)):
            with pytest.raises(HostError, match="whole and once") as caught:
                made.unmap(iova, size)
            assert caught.value.errno == errno.ENOENT
        assert pinned_bytes() == before
        with pytest.raises(BadState, match="another number") as told:
            made.unmap(IOVA, 8 * P)
        assert (told.value.asked, told.value.available) == (8 * P, 4 * P)
        assert pinned_bytes() == before - 4 * P


def test_the_limit_is_on_pinned_memory(vfio_edu64: str) -> None:
    """Who has no CAP_IPC_LOCK pins as much as RLIMIT_MEMLOCK, each grant counted anew."""
    found = run(
        """
        with pf.open_bus(f"vfio:{sys.argv[1]}", backend="iommufd") as iommu:
            with iommu.initiator(iommu.bus.requester) as bti, pf.Vmo(32 * PAGE_SIZE) as vmo:
                give_up_privileges(memlock=16 * PAGE_SIZE)
                before = probe.process_memory().pinned
                with bti.pin(vmo, 0, 12 * PAGE_SIZE, perms=pf.Perm.READ) as pmt:
                    try:
                        bti.pin(vmo, 0, 5 * PAGE_SIZE, perms=pf.Perm.READ)
                    except LimitReached as error:
                        facts = told(error)
                    held = probe.process_memory().pinned - before
                bti.pin(vmo, 0, 16 * PAGE_SIZE, perms=pf.Perm.READ).unpin()
                print(json.dumps([facts, held, probe.process_memory().pinned - before]))
        """,
        vfio_edu64,
    )
    facts, held, after = found
    assert (facts["asked"], facts["available"], facts["limit"]) == (5 * P, 4 * P, 16 * P)
    assert "RLIMIT_MEMLOCK" in facts["text"]
    assert (held, after) == (12 * P, 0)


@pytest.mark.vfio("edu0", "edu1")
def test_the_limit_is_on_all_the_users_processes(vfio_edu: str, vfio_edu64: str) -> None:
    """What another process has pinned counts, and cannot be read."""
    found = run(
        """
        reading, told_reading = os.pipe()
        done_reading, done = os.pipe()
        child = os.fork()
        with pf.open_bus(f"vfio:{sys.argv[1 if child else 2]}", backend="iommufd") as iommu:
            with iommu.initiator(iommu.bus.requester) as bti, pf.Vmo(16 * PAGE_SIZE) as vmo:
                give_up_privileges(memlock=16 * PAGE_SIZE)
                if child == 0:
                    with bti.pin(vmo, 0, 12 * PAGE_SIZE, perms=pf.Perm.READ):
                        os.write(told_reading, b"!")
                        os.read(done_reading, 1)
                else:
                    os.read(reading, 1)
                    try:
                        bti.pin(vmo, 0, 5 * PAGE_SIZE, perms=pf.Perm.READ)
                    except LimitReached as error:
                        print(json.dumps(told(error)))
                    os.write(done, b"!")
                    os.waitpid(child, 0)
        """,
        vfio_edu,
        vfio_edu64,
    )
    assert (found["asked"], found["limit"]) == (5 * P, 16 * P)
    assert "available" not in found
    assert "other processes of this user" in found["holder"]


def test_who_may_not_open_the_device_is_told_how(vfio_edu64: str) -> None:
    found = run(
        """
        from pinfold.buses.vfio.iommufd import missing
        from pinfold.buses.vfio.open import choose, find_device
        os.chmod("/dev/iommu", 0o666)
        give_up_privileges()
        device = find_device(sys.argv[1])
        reason = missing(device)
        try:
            pf.open_bus(f"vfio:{sys.argv[1]}", backend="iommufd")
        except AccessDenied as error:
            print(json.dumps([choose(device), told(error), told(reason)]))
        """,
        vfio_edu64,
    )
    assert found[0] == ("type1" if Path(vfio.CONTAINER).exists() else "iommufd")
    for error in found[1:]:
        assert error["class"] == AccessDenied.__name__
        assert "chown" in error["text"]
        assert "/dev/vfio/devices/vfio" in error["text"]


def test_a_device_is_one_users_at_a_time(vfio_edu64: str) -> None:
    """By its own file or by its group's."""
    device = find_device(vfio_edu64)
    before = HostState.now()
    with container(vfio_edu64):
        with pytest.raises(Unavailable, match="in use"):
            IommufdContainer(device)
        with pytest.raises(OSError, match="busy"):
            calls.open_file(vfio.group_path(device.group or 0), os.O_RDWR)
    group = calls.open_file(vfio.group_path(device.group or 0), os.O_RDWR)
    with pytest.raises(Unavailable, match="in use"):
        IommufdContainer(device)
    calls.close(group)
    IommufdContainer(device).close()
    assert before.difference(HostState.now()) == []


def test_a_device_has_a_file_of_its_own(vfio_edu64: str) -> None:
    """Source: vfio.rst: vfio-dev in sysfs is there while a VFIO driver has the device."""
    device = find_device(vfio_edu64)
    assert device.cdev is not None
    assert Path(device.cdev).is_char_device()
    with pytest.raises(NotSupported, match="there is no"):
        IommufdContainer(replace(device, cdev="/dev/vfio/devices/none"))
