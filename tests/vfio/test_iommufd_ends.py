"""A device through an iommufd: what is left when it is closed, and why it is done as it is."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import pytest

import pinfold as pf
from pinfold.buses.vfio.iommufd import IommufdContainer
from pinfold.buses.vfio.open import find_device
from pinfold.errors import (
    HostError,
)
from pinfold.host import abi_iommufd as abi
from pinfold.host import calls, iommufd, mm
from pinfold.host.abi import F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE
from pinfold.memory.files import adopted
from pinfold.testing import FailNth, HostCalls, HostState
from tests.host.filled import filled
from tests.programs import run
from tests.vfio.iommufd_space import IOVA, MARKS, container, pinned_bytes, takes_files
from tests.vfio.real import BOTH, READ, WRITE

if TYPE_CHECKING:
    pass

pytestmark = MARKS

P: Final = pf.PAGE_SIZE


def test_whatever_is_refused_while_opening_leaves_nothing(vfio_edu64: str) -> None:
    device = find_device(vfio_edu64)
    before = HostState.now()
    with HostCalls() as made:
        IommufdContainer(device).close()
    for n in range(1, made.names.index("iommufd_detach") + 1):
        with FailNth(n, errno.EIO), pytest.raises(HostError):
            IommufdContainer(device)
    assert before.difference(HostState.now()) == []
    IommufdContainer(device).close()


def test_closing_ends_every_mapping(vfio_edu64: str) -> None:
    """Live ones, too, and the device is free for the next."""
    with filled() as pinned:
        before = pinned_bytes()
        made = IommufdContainer(find_device(vfio_edu64))
        made.map(pinned, IOVA, BOTH)
        made.map(pinned, 2 * IOVA, READ)
        assert pinned_bytes() == before + 8 * P
        made.close()
        assert pinned_bytes() == before
        with container(vfio_edu64):
            assert pinned_bytes() == before


def test_a_childs_copies_change_nothing(vfio_edu64: str) -> None:
    """It closes them without a request; the parent's mapping stays."""
    found = run(
        """
        from pinfold.buses.vfio.iommufd import IommufdContainer
        from pinfold.buses.vfio.open import find_device
        from tests.host.filled import filled
        made = IommufdContainer(find_device(sys.argv[1]))
        with filled() as pinned:
            made.map(pinned, 1 << 40, 3)
            child = os.fork()
            if child == 0:
                made.abandon()
                made.close()
                open_ = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 50)
                         if os.path.lexists(f"/proc/self/fd/{fd}")]
                os._exit(any("vfio" in name or "iommu" in name for name in open_))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            held = probe.process_memory().pinned
            made.unmap(1 << 40, 4 * PAGE_SIZE)
            print(json.dumps([status, held, probe.process_memory().pinned]))
        made.close()
        """,
        vfio_edu64,
    )
    assert found == [0, 4 * P, 0]


# Why it is done as it is -------------------------------------------------------------------------


def test_without_a_device_a_mapping_pins_nothing() -> None:
    """The reason to attach first: this kernel takes a mapping of no memory at all."""
    iommu = iommufd.open_iommu()
    ioas = iommufd.alloc_ioas(iommu)
    before = pinned_bytes()
    hole = mm.reserve(P)
    iommufd.map_memory(iommu, ioas, hole, IOVA, P, abi.IOMMU_IOAS_MAP_READABLE)
    assert pinned_bytes() == before
    mm.unmap(hole, P)
    calls.close(iommu)


def test_a_sealed_file_is_kept_from_the_device(vfio_edu64: str) -> None:
    """The kernel would let it write, if it were asked by the descriptor."""
    fd = mm.create_memfd("sealed", 4 * P)
    mm.seal(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_WRITE)
    with container(vfio_edu64) as made, filled(backing=adopted(fd)) as pinned:
        with pytest.raises(HostError, match="writable") as caught:
            made.map(pinned, IOVA, WRITE)
        assert caught.value.errno == errno.EFAULT
        made.map(pinned, IOVA, READ)
        made.unmap(IOVA, 4 * P)
    if takes_files():
        iommu, device = (
            iommufd.open_iommu(),
            iommufd.open_device(find_device(vfio_edu64).cdev or ""),
        )
        iommufd.bind(device, iommu)
        ioas = iommufd.alloc_ioas(iommu)
        iommufd.attach(device, ioas)
        iommufd.map_file(iommu, ioas, fd, 0, IOVA, 4 * P, abi.IOMMU_IOAS_MAP_WRITEABLE)
        calls.close(device)
        calls.close(iommu)
    calls.close(fd)
