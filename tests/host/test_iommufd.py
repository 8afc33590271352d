"""iommufd's requests and the container that makes them, on machines without an iommufd.

`Model` stands for the kernel: it takes the structures apart by the header's words, keeps what was
mapped, and refuses what the header says is refused, or what a test has it refuse. What the real
kernel does is in tests/vfio/test_iommufd.py, which needs a guest that has it.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from pinfold.bus import Anchor
from pinfold.buses.vfio.iommufd import IommufdContainer, missing
from pinfold.errors import (
    AccessDenied,
    AlreadyExists,
    BadState,
    HostError,
    InvalidArgs,
    LimitReached,
    NoMemory,
    NotSupported,
    PinfoldError,
    Unavailable,
    WrongProcess,
)
from pinfold.host import abi_iommufd as abi
from pinfold.host import calls, iommufd, mm, probe
from pinfold.host.abi import F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE
from pinfold.host.pci import PciAddress, PciDevice
from pinfold.memory.backing import Backing
from pinfold.memory.files import adopted
from pinfold.rights import Perm
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState
from pinfold.units import PAGE_SIZE, ByteRange
from tests.host.filled import filled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ, WRITE = int(Perm.READ), int(Perm.WRITE)
SIZE: Final = 4 * PAGE_SIZE
IOVA: Final = 0x10000
IOAS: Final = 7
NUMBER: Final = 3
RANGES: Final[tuple[tuple[int, int], ...]] = ((0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 48) - 1))

NAMES: Final = {
    value: name.lower().removeprefix("iommu_").removeprefix("vfio_device_")
    for name, value in vars(abi).items()
    if name.isupper() and value >= abi.VFIO_DEVICE_BIND_IOMMUFD
}


class Model:
    """A kernel with one device. ``refuse`` has the errno of each request that it refuses."""

    def __init__(self) -> None:
        self.refuse: dict[int, int] = {}
        self.seen: list[str] = []
        self.mapped: dict[int, tuple[int, tuple[int, ...]]] = {}
        """By address: how long, and the fields of the request after its own length."""
        self.ranges = RANGES
        self.hardware = (1, 1 << 34)
        """What kind of IOMMU it has, and the capability register of Intel's."""
        self.attached = False
        self.spaces: set[int] = set()

    def ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        """In place of fcntl's."""
        os.fstat(fd)
        name = NAMES[request]
        self.seen.append(name)
        if request in self.refuse:
            raise OSError(self.refuse[request], os.strerror(self.refuse[request]))
        (length,) = struct.unpack_from("=I", argument)
        assert length == len(argument), name
        getattr(self, name)(argument)
        return 0

    def bind_iommufd(self, argument: bytearray) -> None:
        _, flags, iommu, _ = struct.unpack("=IIiI", argument)
        os.fstat(iommu)
        assert flags == 0
        struct.pack_into("=I", argument, 12, NUMBER)

    def ioas_alloc(self, argument: bytearray) -> None:
        self.spaces.add(IOAS)
        struct.pack_into("=I", argument, 8, IOAS)

    def attach_iommufd_pt(self, argument: bytearray) -> None:
        assert struct.unpack("=III", argument)[1:] == (0, IOAS)
        assert not self.mapped, "what is mapped before pins nothing"
        self.attached = True

    def detach_iommufd_pt(self, argument: bytearray) -> None:
        assert struct.unpack("=II", argument)[1] == 0
        self.attached = False

    def destroy(self, argument: bytearray) -> None:
        self.spaces.remove(struct.unpack("=II", argument)[1])
        self.mapped.clear()

    def ioas_iova_ranges(self, argument: bytearray) -> None:
        _, ioas, room, reserved, table, _ = struct.unpack("=IIIIQQ", argument)
        assert (ioas, reserved, self.attached) == (IOAS, 0, True)
        struct.pack_into("=I", argument, 8, len(self.ranges))
        if room < len(self.ranges):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        struct.pack_into("=Q", argument, 24, PAGE_SIZE)
        memory = calls.buffer_at(table, 16 * len(self.ranges))
        for at, (first, last) in enumerate(self.ranges):
            struct.pack_into("=QQ", memory, 16 * at, first, last)

    def get_hw_info(self, argument: bytearray) -> None:
        _, flags, device, room, table, _ = struct.unpack("=IIIIQI4x", argument)
        assert (flags, device, room, self.attached) == (0, NUMBER, 24, True)
        kind, register = self.hardware
        struct.pack_into("=IIQQ", calls.buffer_at(table, room), 0, 0, 0, register, 0)
        struct.pack_into("=I", argument, 24, kind)

    def ioas_map(self, argument: bytearray) -> None:
        self._map(argument, "=IIIIQQQ")

    def ioas_map_file(self, argument: bytearray) -> None:
        self._map(argument, "=IIIiQQQ")

    def _map(self, argument: bytearray, layout: str) -> None:
        _, *fields = struct.unpack(layout, argument)
        flags, *_, length, iova = fields
        if not flags & (abi.IOMMU_IOAS_MAP_READABLE | abi.IOMMU_IOAS_MAP_WRITEABLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        assert flags & abi.IOMMU_IOAS_MAP_FIXED_IOVA
        assert self.attached
        self.mapped[iova] = length, tuple(fields)

    def ioas_unmap(self, argument: bytearray) -> None:
        _, ioas, iova, length = struct.unpack("=IIQQ", argument)
        assert ioas == IOAS
        found = [
            at for at, (size, _) in self.mapped.items() if iova <= at < at + size <= iova + length
        ]
        if not found:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        struct.pack_into("=Q", argument, 16, sum(self.mapped.pop(at)[0] for at in found))


DEVICE: Final = PciDevice(
    address=PciAddress(0, 0, 5, 0),
    vendor=0x1234,
    device=0x11E8,
    class_code=0xFF00,
    driver="vfio-pci",
    group=5,
    cdev="/dev/null",
)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Its descriptors are real ones, of a device that does nothing; none may be left in the end."""
    made = Model()
    monkeypatch.setattr(iommufd, "IOMMU", "/dev/null")
    monkeypatch.setattr(iommufd, "fcntl", SimpleNamespace(ioctl=made.ioctl))
    before = HostState.now()
    yield made
    assert before.difference(HostState.now()) == []


@pytest.fixture
def container(model: Model) -> Iterator[IommufdContainer]:
    made = IommufdContainer(DEVICE)
    model.seen.clear()
    yield made
    made.close()


def refusing(name: str, error: int) -> Callable[[str], None]:
    """An interceptor that refuses every call of that name."""

    def see(called: str) -> None:
        if called == name:
            raise OSError(error, os.strerror(error))

    return see


@pytest.fixture
def intercept() -> Iterator[Callable[[Callable[[str], None]], None]]:
    yield lambda see: (calls.set_interceptor(see), None)[1]
    calls.set_interceptor(None)


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


# Mapping and unmapping ---------------------------------------------------------------------------


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


def test_unmapping_another_number_of_bytes_is_an_error(
    container: IommufdContainer, model: Model
) -> None:
    """Somebody else has the iommufd, and neither of us can know what the device reaches."""
    model.mapped = {IOVA: (PAGE_SIZE, ())}
    with pytest.raises(BadState, match="another number") as caught:
        container.unmap(IOVA, SIZE)
    assert (caught.value.asked, caught.value.available) == (SIZE, PAGE_SIZE)
