"""Granting and revoking on a real IOMMU: what the kernel says, and what was mapped.

Through VFIO's own container, which these tests ask past the bus; test_iommufd.py has the other.
"""

from __future__ import annotations

import errno
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import (
    AlreadyExists,
    BadState,
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotSupported,
    PinfoldError,
    Unavailable,
)
from pinfold.host import abi_vfio, calls, probe, vfio
from pinfold.testing import check_books, check_extents
from pinfold.testing.faults import FailNth, HostCalls
from tests.vfio import real
from tests.vfio.real import BOTH, READ, WRITE, faults_of

if TYPE_CHECKING:
    from pinfold.buses.vfio import VfioBus
    from pinfold.buses.vfio.type1 import Type1Container

P = pf.PAGE_SIZE
HUGE = 2 << 20

pytestmark = pytest.mark.vfio("edu1")

opened = partial(real.opened, backend="type1")
edu = partial(real.edu, backend="type1")


def container_fd(bus: VfioBus) -> int:
    """The descriptor, to ask the kernel past the bus."""
    made: Type1Container = bus.container  # type: ignore[assignment]
    return made._container  # noqa: SLF001 - what is asked is whether the bus tells the truth


def address_of(vmo: pf.Vmo) -> int:
    """Where a view of it is in this process, for as long as anything holds the memory."""
    return calls.address_of(vmo.view())


def test_the_limits_are_the_kernels(process: pf.Process, vfio_edu64: str) -> None:
    """Read, not guessed: the interrupt window of x86 is no place for a grant."""
    with opened(vfio_edu64) as found:
        limits, info = found.bus.limits, vfio.iommu_info(container_fd(found.bus))
        assert limits.page_size == limits.minimum_contiguity == P
        assert limits.isolates
        assert limits.anchor is pf.Anchor.VFIO
        assert limits.max_grants == info.available
        assert found.bus.page_sizes == info.page_sizes
        assert [window.stop for window in limits.apertures] == [
            window.stop for window in info.ranges
        ]
        assert limits.apertures[0].start == P  # address 0 is not given out
        assert not any(low <= 0xFEE0_0000 < high for low, high in limits.apertures)
        assert found.bti.statistics().anchor is pf.Anchor.VFIO


def test_a_grant_is_one_run_with_a_page_behind_it(process: pf.Process, vfio_edu64: str) -> None:
    """And the next one is not where the last one was."""
    with opened(vfio_edu64) as found, pf.Vmo(4 * P) as vmo:
        firsts = []
        for _ in range(3):
            with found.bti.pin(vmo, perms=READ) as pmt:
                check_extents(pmt.extents, vmo.size, found.bus.limits)
                assert len(pmt.extents) == 1
                firsts.append(int(pmt.addrs[0]))
        assert firsts == [P, P + 5 * P, P + 10 * P]


def test_a_large_grant_is_on_a_border_of_large_pages(process: pf.Process, vfio_edu64: str) -> None:
    """As far as the device reaches: the alignment is a wish, and the grant is not."""
    with (
        opened(vfio_edu64) as found,
        pf.Vmo(HUGE + P) as vmo,
        pf.Vmo(P) as small,
        found.bti.pin(small, perms=READ),
        found.bti.pin(vmo, perms=READ) as pmt,
    ):
        assert int(pmt.addrs[0]) % HUGE == 0
    with opened(vfio_edu64, address_bits=22) as found, pf.Vmo(HUGE) as vmo, pf.Vmo(P) as small:
        with found.bti.pin(vmo, perms=READ) as pmt:
            assert int(pmt.addrs[0]) == HUGE
        halves = [found.bti.pin(vmo, 0, size, perms=READ) for size in (HUGE // 2, HUGE // 2 + P)]
        with found.bti.pin(small, perms=READ) as in_the_way:
            assert HUGE < int(in_the_way.addrs[0]) < 2 * HUGE
            for half in halves:
                half.unpin()
            with found.bti.pin(vmo, perms=READ) as pmt:
                assert int(pmt.addrs[0]) == P


def test_unmapping_is_exact(process: pf.Process, vfio_edu64: str) -> None:
    """What is revoked is gone, its neighbours are there, and the charge goes with it."""
    with opened(vfio_edu64) as found, pf.Vmo(3 * P) as vmo:
        before = probe.process_memory().locked
        assert found.bus.statistics().grants == 0
        pins = [found.bti.pin(vmo, n * P, P, perms=READ) for n in range(3)]
        assert probe.process_memory().locked == before + 3 * P
        told = found.bus.statistics()
        assert (told.grants, told.granted_bytes, told.backend) == (3, 3 * P, "type1")
        assert (told.address, told.requester) == (vfio_edu64, found.bus.requester)
        assert told.faults_readable
        at = [int(pmt.addrs[0]) for pmt in pins]
        pins[1].unpin()
        assert probe.process_memory().locked == before + 2 * P
        assert vfio.unmap_dma(container_fd(found.bus), at[1], P) == 0  # nothing is there
        check_books(process.kernel)
        pins[0].unpin()
        pins[2].unpin()
        assert probe.process_memory().locked == before


def test_a_mapping_that_somebody_took_away_is_noticed(process: pf.Process, vfio_edu64: str) -> None:
    """The size that the kernel says is not the size that was mapped: the pin is kept, and told."""
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        pmt = found.bti.pin(vmo, perms=READ)
        at, fd = int(pmt.addrs[0]), container_fd(found.bus)
        assert vfio.unmap_dma(fd, at, P) == P
        with pytest.raises(BadState) as raised:
            pmt.unpin()
        assert (raised.value.asked, raised.value.available) == (P, 0)
        # Put back what was there, so that nothing is left over.
        vfio.map_dma(fd, address_of(vmo), at, P, abi_vfio.VFIO_DMA_MAP_FLAG_READ)
        assert found.bti.release_quarantine() == 1


def test_revoking_twice_is_allowed(process: pf.Process, vfio_edu64: str) -> None:
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        pmt = found.bti.pin(vmo, perms=READ)
        space = found.bti.object.space
        grant = space.live_grants()[0]
        space.revoke(grant)
        with HostCalls() as host:
            space.revoke(grant)
        assert host.names == []
        pmt.unpin()
        with pytest.raises(InvalidArgs):
            space.revoke(pf.bus.Grant(grant.pinned, 1, grant.extents))


def test_permissions_are_the_iommus(process: pf.Process, vfio_edu64: str) -> None:
    """What is to be read is not written, and EXECUTE is not known to it.

    What is to be written may be read all the same: Intel's driver in Linux 6.1 sets the bit for
    reading in every entry of its tables (seen; not on 6.18). Nobody outside the kernel can help it.
    """
    with edu(vfio_edu64) as (found, driver), pf.Vmo(P) as vmo:
        with pytest.raises(NotSupported, match="fetch"):
            found.bti.pin(vmo, perms=READ | pf.Perm.EXECUTE)
        driver.store(b"AAAA")
        with found.bti.pin(vmo, perms=READ) as pmt:
            at = int(pmt.addrs[0])
            (fault,) = faults_of(found.bus, lambda: driver.copy_from_device(at, 4))
            assert vmo.read(0, 4) == bytes(4)
            assert fault.reason is pf.FaultReason.NOT_PERMITTED
            assert fault.access == WRITE
        vmo.write(b"BBBB")
        with found.bti.pin(vmo, perms=WRITE) as pmt:
            at = int(pmt.addrs[0])
            stopped = faults_of(found.bus, lambda: driver.copy_to_device(at, 4))
            assert [fault.access for fault in stopped] == [READ] * len(stopped)
        assert bool(stopped) is (driver.load(4) != b"BBBB")


def test_the_initiator_is_the_requester(process: pf.Process, vfio_edu64: str) -> None:
    """00:05.0 is 0x28, and nobody else is on the bus."""
    with pf.open_bus(f"vfio:{vfio_edu64}", backend="type1") as iommu:
        bus = iommu.bus
        assert bus.requester == 0x28  # type: ignore[attr-defined]
        for number in (0, 1, 0x20, 1 << 40):
            with pytest.raises(InvalidArgs) as raised:
                iommu.initiator(number)
            assert raised.value.available == 0x28
        with iommu.initiator(0x28, address_bits=40) as one:
            with pytest.raises(InvalidArgs, match="40 address bits"):
                iommu.initiator(0x28)
            with pytest.raises(NotSupported):
                one.master()
        for bits in (1, P.bit_length() - 1):
            with pytest.raises(InvalidArgs, match="reaches none"):
                iommu.initiator(0x28, address_bits=bits)


def test_threads_grant_and_revoke_at_once(process: pf.Process, vfio_edu64: str) -> None:
    """The kernel's lock is not held meanwhile: the space has its own."""
    with opened(vfio_edu64) as found, pf.Vmo(8 * P) as vmo:
        failures: list[BaseException] = []

        def work(first: int) -> None:
            try:
                with process:
                    for _ in range(20):
                        found.bti.pin(vmo, first * P, 2 * P, perms=BOTH).unpin()
            except BaseException as error:  # told to the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert found.bti.object.space.live_grants() == []
        check_books(process.kernel)


# What the kernel may refuse -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, LimitReached, "no mapping left"),
        (errno.EEXIST, AlreadyExists, "did not map"),
        (errno.EBUSY, Unavailable, "try again"),
        (errno.ENOMEM, NoMemory, "memory"),
        (errno.EFAULT, HostError, "Bad address"),
        (errno.EINVAL, HostError, "Invalid argument"),
    ],
)
def test_a_refused_mapping_says_what_to_do(
    process: pf.Process, vfio_edu64: str, number: int, kind: type[PinfoldError], says: str
) -> None:
    """Each error has a class and a remedy; nothing is granted, and the next attempt works."""
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        found.bti.pin(vmo, perms=READ).unpin()  # so that the failure is the only call that is new
        with HostCalls() as host:
            found.bti.pin(vmo, perms=READ).unpin()
        at = host.names.index("vfio_map_dma") + 1
        with FailNth(at, number), pytest.raises(kind, match=says) as raised:
            found.bti.pin(vmo, perms=READ)
        assert raised.value.__cause__ is not None
        assert found.bti.statistics().pins == 0
        check_books(process.kernel)
        found.bti.pin(vmo, perms=READ).unpin()


def test_a_refused_unmapping_keeps_the_pages(process: pf.Process, vfio_edu64: str) -> None:
    """The pin is kept until the kernel agrees; UNMAP was made, so the second finds nothing."""
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        pmt = found.bti.pin(vmo, perms=READ)
        grant = found.bti.object.space.live_grants()[0]
        with FailNth(1, errno.EIO), pytest.raises(HostError, match="unmap"):
            found.bti.object.space.revoke(grant)
        assert found.bti.object.space.live_grants() == [grant]
        flags = abi_vfio.VFIO_DMA_MAP_FLAG_READ
        vfio.map_dma(container_fd(found.bus), address_of(vmo), grant.first, P, flags)
        pmt.unpin()


def test_a_container_has_only_so_many_mappings(process: pf.Process, vfio_edu64: str) -> None:
    """The kernel's own refusal, brought about by what is left of its limit."""
    with opened(vfio_edu64) as found, pf.Vmo(P) as vmo:
        limit = found.bus.limits.max_grants
        assert limit is not None
        fd = container_fd(found.bus)
        flags, base, address = abi_vfio.VFIO_DMA_MAP_FLAG_READ, 1 << 40, address_of(vmo)
        for number in range(limit):
            vfio.map_dma(fd, address, base + number * P, P, flags)
        with pytest.raises(LimitReached) as raised:
            found.bti.pin(vmo, perms=READ)
        assert raised.value.limit == limit
        assert raised.value.remedy
        assert "dma_entry_limit" in raised.value.remedy
        assert vfio.unmap_dma(fd, base, limit * P) == limit * P
        found.bti.pin(vmo, perms=READ).unpin()
