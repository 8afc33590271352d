"""iommufd's requests, and the container that makes them, opened and closed: see `Model`."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pinfold.bus import Anchor
from pinfold.buses.vfio.iommufd import IommufdContainer, missing
from pinfold.errors import (
    AccessDenied,
    BadState,
    HostError,
    NoMemory,
    NotSupported,
    PinfoldError,
    Unavailable,
    WrongProcess,
)
from pinfold.host import abi_iommufd as abi
from pinfold.host import calls, iommufd
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState
from pinfold.units import PAGE_SIZE, ByteRange
from tests.host.filled import filled

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.host.iommufd.model import DEVICE, IOAS, IOVA, READ, SIZE, Model, refusing

# The requests themselves -------------------------------------------------------------------------


def test_a_file_that_is_no_iommufd_knows_none_of_the_requests() -> None:
    """The real kernel's word: ENOTTY, whatever is in the structure."""
    fd = calls.open_file("/dev/null", os.O_RDWR)
    try:
        assert not iommufd.has_map_file(fd)
        assert iommufd.vtd_capabilities(fd, 1) is None
        for call in (
            lambda: iommufd.bind(fd, fd),
            lambda: iommufd.attach(fd, 1),
            lambda: iommufd.detach(fd),
            lambda: iommufd.alloc_ioas(fd),
            lambda: iommufd.destroy(fd, 1),
            lambda: iommufd.iova_ranges(fd, 1),
            lambda: iommufd.map_memory(fd, 1, 0, 0, PAGE_SIZE, 0),
            lambda: iommufd.map_file(fd, 1, fd, 0, 0, PAGE_SIZE, 0),
            lambda: iommufd.unmap(fd, 1, 0, PAGE_SIZE),
        ):
            with pytest.raises(OSError, match="Inappropriate ioctl") as caught:
                call()
            assert caught.value.errno == errno.ENOTTY
    finally:
        calls.close(fd)


def test_what_shuts_a_device_out_is_made_before_a_failure_is_injected(model: Model) -> None:
    fd = calls.open_file("/dev/null", os.O_RDWR)
    model.spaces.add(IOAS)
    model.mapped[IOVA] = SIZE, ()
    for call in (
        lambda: iommufd.detach(fd),
        lambda: iommufd.unmap(fd, IOAS, IOVA, SIZE),
        lambda: iommufd.destroy(fd, IOAS),
    ):
        with FailNth(1, errno.EIO), pytest.raises(OSError, match="Input/output"):
            call()
    assert model.seen == ["detach_iommufd_pt", "ioas_unmap", "destroy"]
    with FailNth(1, errno.EIO), pytest.raises(OSError, match="Input/output"):
        iommufd.alloc_ioas(fd)
    assert len(model.seen) == 3
    calls.close(fd)


def test_ranges_are_half_open_and_as_many_as_there_are(model: Model) -> None:
    """Source: iommu_ioas_iova_ranges: inclusive; EMSGSIZE where the array is too small."""
    model.ranges = tuple((at << 20, (at << 20) + 0xFFF) for at in reversed(range(100)))
    container = IommufdContainer(DEVICE)
    assert container.ranges() == tuple(
        ByteRange(at << 20, (at << 20) + 0x1000) for at in range(100)
    )
    assert container.limit() is None
    container.close()


@pytest.mark.parametrize(
    ("hardware", "larger"),
    [((1, 1 << 34), (2 << 20,)), ((1, 3 << 34), (2 << 20, 1 << 30)), ((1, 0), ()), ((2, -1), ())],
    ids=["2M", "2M 1G", "none", "not Intel's"],
)
def test_larger_pages_are_what_vtd_says(
    model: Model, hardware: tuple[int, int], larger: tuple[int, ...]
) -> None:
    """Source: Intel VT-d specification 11.4.2, SSLPS."""
    model.hardware = hardware[0], hardware[1] & (1 << 64) - 1
    container = IommufdContainer(DEVICE)
    assert container.page_sizes() == (PAGE_SIZE, *larger)
    container.close()


@pytest.mark.parametrize("error", [errno.ENOTTY, errno.EOPNOTSUPP])
def test_a_kernel_may_say_nothing_of_the_iommu(model: Model, error: int) -> None:
    """Linux 6.2 to 6.5 do not know the request, and not all drivers answer it."""
    model.refuse[abi.IOMMU_GET_HW_INFO] = error
    container = IommufdContainer(DEVICE)
    assert container.page_sizes() == (PAGE_SIZE,)
    container.close()


# Opening and closing -----------------------------------------------------------------------------


def test_the_device_is_attached_before_anything_is_mapped(model: Model) -> None:
    """Otherwise a mapping pins nothing. Source: the order at the top of the module."""
    container = IommufdContainer(DEVICE)
    assert model.seen == [
        "bind_iommufd",
        "ioas_alloc",
        "attach_iommufd_pt",
        "ioas_iova_ranges",
        "get_hw_info",
        "ioas_map_file",
    ]
    assert not model.mapped
    assert container.takes_files
    assert (container.name, container.anchor) == ("iommufd", Anchor.IOMMUFD)
    container.close()


def test_the_device_is_shut_out_before_anything_is_taken_apart(
    container: IommufdContainer, model: Model
) -> None:
    with filled() as pinned:
        container.map(pinned, IOVA, READ)
        model.seen.clear()
        with HostCalls() as made:
            container.close()
        assert made.names == ["iommufd_detach", "iommufd_destroy", "close", "close"]
        assert model.seen == ["detach_iommufd_pt", "destroy"]
    container.close()
    assert len(model.seen) == 2
    with pytest.raises(BadState, match="closed"):
        container.unmap(IOVA, SIZE)
    with pytest.raises(BadState, match="closed"):
        container.open_device()


@pytest.mark.parametrize("n", range(1, 5))
def test_closing_takes_every_step_whatever_is_refused(model: Model, n: int) -> None:
    """The fixture sees that no descriptor is left."""
    container = IommufdContainer(DEVICE)
    with FailNth(n, errno.EIO), pytest.raises(HostError, match=r"00:05\.0: Input/output"):
        container.close()
    assert not model.attached
    assert not model.spaces
    container.close()


def test_whatever_is_refused_while_opening_leaves_nothing_open(model: Model) -> None:
    with HostCalls() as made:
        IommufdContainer(DEVICE).close()
    total = made.names.index("iommufd_detach")
    before = HostState.now()
    for n in range(1, total + 1):
        for fail in (FailNth, FailFrom):
            with fail(n, errno.EIO), pytest.raises(HostError, match="Input/output"):
                IommufdContainer(DEVICE)
            assert before.difference(HostState.now()) == [], made.names[n - 1]
    model.spaces.clear()
    IommufdContainer(DEVICE).close()


def test_the_devices_descriptor_is_one_more(container: IommufdContainer) -> None:
    """Whoever asks closes it; the container keeps its own."""
    fd = container.open_device()
    calls.close(fd)
    calls.close(container.open_device())


def test_a_forked_childs_copies_are_closed_and_nothing_is_undone(
    container: IommufdContainer, model: Model
) -> None:
    """As a child would; that it is one is tried in the guest."""
    container.abandon()
    container.abandon()
    container.close()
    assert model.seen == []
    with pytest.raises(WrongProcess, match="forked"):
        container.unmap(IOVA, SIZE)


@pytest.mark.parametrize(
    ("name", "error", "kind", "text"),
    [
        ("open", errno.ENOENT, NotSupported, "no iommufd"),
        ("open", errno.EACCES, AccessDenied, "chown"),
        ("open", errno.EMFILE, PinfoldError, "Too many open files"),
        ("iommufd_bind", errno.EBUSY, Unavailable, "group"),
        ("iommufd_bind", errno.EINVAL, Unavailable, "in use"),
        ("iommufd_bind", errno.ENODEV, HostError, "No such device"),
        ("iommufd_alloc", errno.ENOMEM, NoMemory, "address space"),
        ("iommufd_attach", errno.EPERM, HostError, "remap interrupts"),
        ("iommufd_attach", errno.EBUSY, Unavailable, "reset"),
        ("iommufd_attach", errno.EADDRINUSE, HostError, "after the device is attached"),
        ("iommufd_ranges", errno.ENOMEM, NoMemory, "IOMMU"),
        ("iommufd_hw_info", errno.EIO, HostError, "IOMMU"),
        ("iommufd_has_map_file", errno.EIO, HostError, "IOMMU"),
    ],
)
def test_what_each_refusal_to_open_means(
    model: Model,
    intercept: Callable[[Callable[[str], None]], None],
    name: str,
    error: int,
    kind: type[PinfoldError],
    text: str,
) -> None:
    intercept(refusing(name, error))
    with pytest.raises(kind, match=text) as caught:
        IommufdContainer(DEVICE)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == error
    assert not model.mapped


def test_a_device_without_a_file_of_its_own_is_named(model: Model) -> None:
    device = replace(DEVICE, cdev=None)
    with pytest.raises(NotSupported, match="CONFIG_VFIO_DEVICE_CDEV"):
        IommufdContainer(device)
    assert isinstance(missing(device), NotSupported)
    assert model.seen == []


def test_what_is_missing_is_found_without_binding_anything(model: Model) -> None:
    assert missing(DEVICE) is None
    assert model.seen == []


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EACCES, errno.EBUSY])
def test_what_is_missing_is_said(
    model: Model, intercept: Callable[[Callable[[str], None]], None], error: int
) -> None:
    intercept(refusing("open", error))
    found = missing(DEVICE)
    assert isinstance(found, (NotSupported, AccessDenied, Unavailable))
    assert found.remedy
    assert model.seen == []


@pytest.mark.parametrize("n", range(1, 5))
def test_what_says_nothing_of_the_kernel_is_raised(model: Model, n: int) -> None:
    """And leaves nothing open: the fixture looks."""
    with FailFrom(n, errno.EIO), pytest.raises(HostError, match="Input/output"):
        missing(DEVICE)
    assert model.seen == []
