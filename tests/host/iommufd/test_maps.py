"""Mapping and unmapping through an iommufd: what is asked, and what each refusal means."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pinfold.buses.vfio.iommufd import IommufdContainer
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
from pinfold.host import abi_iommufd as abi
from pinfold.host import calls, iommufd, mm, probe
from pinfold.host.abi import F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE
from pinfold.memory.backing import Backing
from pinfold.memory.files import adopted
from pinfold.rights import Perm
from pinfold.testing import FailNth
from pinfold.units import PAGE_SIZE
from tests.host.filled import filled

if TYPE_CHECKING:
    pass

from tests.host.iommufd.model import DEVICE, IOAS, IOVA, READ, SIZE, WRITE, Model


@pytest.mark.parametrize(
    ("perms", "flags"), [(READ, 0x5), (WRITE, 0x3), (READ | WRITE, 0x7)], ids=["r", "w", "rw"]
)
def test_a_memory_file_goes_by_its_descriptor(
    container: IommufdContainer, model: Model, perms: int, flags: int
) -> None:
    """Source: iommu_ioas_map_file."""
    with filled() as pinned:
        file = pinned.memfd
        assert file is not None
        fd, start = file
        container.map(pinned, IOVA, perms)
        assert model.mapped == {IOVA: (SIZE, (flags, IOAS, fd, start, SIZE, IOVA))}
        container.unmap(IOVA, SIZE)
    assert model.seen == ["ioas_map_file", "ioas_unmap"]


def test_it_goes_by_its_address_where_the_kernel_knows_no_other_way(model: Model) -> None:
    """Source: iommu_ioas_map; ENOTTY for a request that the kernel does not have."""
    model.refuse[abi.IOMMU_IOAS_MAP_FILE] = errno.ENOTTY
    container = IommufdContainer(DEVICE)
    assert not container.takes_files
    with filled() as pinned:
        container.map(pinned, IOVA, READ)
        assert model.mapped == {IOVA: (SIZE, (0x5, IOAS, 0, pinned.host_address, SIZE, IOVA))}
        container.unmap(IOVA, SIZE)
    assert model.seen[-2:] == ["ioas_map", "ioas_unmap"]
    container.close()


@pytest.mark.parametrize("ours", [True, False], ids=["our own", "adopted"])
@pytest.mark.parametrize("perms", [READ, WRITE, READ | WRITE], ids=["r", "w", "rw"])
def test_what_may_not_be_written_is_not_written_by_its_descriptor(
    container: IommufdContainer, model: Model, perms: int, *, ours: bool
) -> None:
    """The kernel would let the device write to it: IOAS_MAP_FILE does not look at seals."""
    fd = mm.create_memfd("sealed", SIZE)
    calls.pwrite(fd, b"!" * SIZE, 0)
    mm.seal(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_WRITE)
    backing = Backing("memfd", calls.dup(fd), SIZE, writable=False) if ours else adopted(fd)
    calls.close(fd)
    with filled(backing=backing) as pinned:
        container.map(pinned, IOVA, perms)
        container.unmap(IOVA, SIZE)
    by_descriptor = ours and not perms & WRITE
    assert model.seen == ["ioas_map_file" if by_descriptor else "ioas_map", "ioas_unmap"]


def test_a_permission_that_no_iommu_tells_apart_is_refused(
    container: IommufdContainer, model: Model
) -> None:
    with filled() as pinned:
        with pytest.raises(NotSupported, match="fetch"):
            container.map(pinned, IOVA, READ | Perm.EXECUTE)
        with pytest.raises(InvalidArgs, match="permits nothing"):
            container.map(pinned, IOVA, 0)
    assert model.seen == []


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (errno.EEXIST, AlreadyExists, "did not map"),
        (errno.EBUSY, Unavailable, "try again"),
        (errno.EFAULT, HostError, "keep the memory mapped"),
        (errno.EINVAL, HostError, "addresses that the bus reports"),
        (errno.EOVERFLOW, HostError, "Value too large"),
    ],
)
def test_what_each_refusal_to_map_means(
    container: IommufdContainer, model: Model, error: int, kind: type[PinfoldError], text: str
) -> None:
    model.refuse = {abi.IOMMU_IOAS_MAP_FILE: error}
    with filled() as pinned, pytest.raises(kind, match=text) as caught:
        container.map(pinned, IOVA, READ)
    assert isinstance(caught.value.__cause__, OSError)
    assert "map 0x4000 bytes of a buffer at 0x10000" in str(caught.value)
    assert not model.mapped


@pytest.mark.parametrize("bound", [True, False], ids=["limited", "not limited"])
def test_no_memory_is_the_limit_where_one_counts(
    container: IommufdContainer,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    *,
    bound: bool,
) -> None:
    """The limit counts the pins of all the user's processes, so what of it is left is not known."""
    model.refuse = {abi.IOMMU_IOAS_MAP_FILE: errno.ENOMEM}
    monkeypatch.setattr(probe, "may_exceed_memlock", lambda: not bound)
    monkeypatch.setattr(probe, "memlock_limit", lambda: PAGE_SIZE)
    with filled() as pinned, pytest.raises(NoMemory, match="map 0x4000") as caught:
        container.map(pinned, IOVA, READ)
    error = caught.value
    assert isinstance(error, LimitReached) == bound
    if bound:
        assert (error.asked, error.available, error.limit) == (SIZE, PAGE_SIZE, PAGE_SIZE)
        assert "CAP_IPC_LOCK" in str(error)


def test_a_limit_that_cannot_be_read_is_said(container: IommufdContainer, model: Model) -> None:
    model.refuse = {abi.IOMMU_IOAS_MAP_FILE: errno.ENOMEM}
    with filled() as pinned, FailNth(2, errno.EIO), pytest.raises(HostError, match="limit"):
        container.map(pinned, IOVA, READ)


def test_unmapping_what_is_not_there_or_a_part_is_refused(
    container: IommufdContainer, model: Model
) -> None:
    """Source: iommu_ioas_unmap: no splitting, no truncating."""
    with filled() as pinned:
        container.map(pinned, IOVA, READ)
        for iova, size in ((IOVA, PAGE_SIZE), (IOVA + SIZE, SIZE)):
            with pytest.raises(HostError, match="whole and once") as caught:
                container.unmap(iova, size)
            assert caught.value.errno == errno.ENOENT
        assert IOVA in model.mapped
        container.unmap(IOVA, SIZE)


def test_unmapping_again_what_is_gone_is_no_error(
    container: IommufdContainer, model: Model
) -> None:
    """The first try was broken off after the kernel had done it."""
    with filled() as pinned:
        container.map(pinned, IOVA, READ)
        container.unmap(IOVA, SIZE)
        container.unmap(IOVA, SIZE, again=True)
        model.refuse = {abi.IOMMU_IOAS_UNMAP: errno.EIO}
        with pytest.raises(HostError):
            container.unmap(IOVA, SIZE, again=True)


def test_what_a_signal_handler_raises_is_no_refusal(
    container: IommufdContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TimeoutError is an OSError, and may come when the kernel has mapped."""
    real = iommufd.map_file

    def mapped_and_interrupted(*request: int) -> None:
        real(*request)
        raise TimeoutError

    monkeypatch.setattr(iommufd, "map_file", mapped_and_interrupted)
    with filled() as pinned, pytest.raises(TimeoutError):
        container.map(pinned, IOVA, READ)


def test_unmapping_another_number_of_bytes_is_an_error(
    container: IommufdContainer, model: Model
) -> None:
    """Somebody else has the iommufd, and neither of us can know what the device reaches."""
    model.mapped = {IOVA: (PAGE_SIZE, ())}
    with pytest.raises(BadState, match="another number") as caught:
        container.unmap(IOVA, SIZE)
    assert (caught.value.asked, caught.value.available) == (SIZE, PAGE_SIZE)
