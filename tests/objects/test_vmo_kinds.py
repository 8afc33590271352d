"""Memory objects that are more than anonymous memory: contiguous, device memory, files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pinfold as pf
from pinfold.errors import (
    AccessDenied,
    HostError,
    InvalidArgs,
    NotSupported,
    OutOfRange,
    Unavailable,
    WrongType,
)

if TYPE_CHECKING:
    from pathlib import Path

PAGE = pf.PAGE_SIZE
R = pf.Right

pytestmark = pytest.mark.usefixtures("process")


def test_contiguous_memory_is_committed_and_in_one_run(any_bus: pf.Iommu) -> None:
    """Source: zx_vmo_create_contiguous."""
    alignment = 64 * PAGE
    with (
        any_bus.initiator(1) as bti,
        pf.Vmo.contiguous(bti, 5 * PAGE, alignment=alignment) as vmo,
    ):
        assert vmo.statistics().committed == 5 * PAGE
        assert vmo.statistics().contiguous
        with bti.pin(vmo, perms=pf.Perm.READ) as pmt:
            assert np.diff(pmt.addrs).tolist() == [PAGE] * 4
            if any_bus.bus.name == "stub":
                assert pmt.addrs[0] % alignment == 0
        vmo.write(b"x" * 5 * PAGE)
        vmo.zero()
        assert vmo.statistics().committed == 5 * PAGE
        with pytest.raises(NotSupported):
            vmo.decommit()
        with pytest.raises(Unavailable):
            vmo.resize(PAGE)


@pytest.mark.parametrize(
    ("size", "alignment"), [(0, PAGE), (PAGE + 1, PAGE), (PAGE, 3 * PAGE), (PAGE, 1)]
)
def test_contiguous_arguments(bti: pf.Bti, size: int, alignment: int) -> None:
    """Source: zx_vmo_create_contiguous INVALID_ARGS."""
    with pytest.raises(InvalidArgs):
        pf.Vmo.contiguous(bti, size, alignment=alignment)


def test_contiguous_needs_map_on_the_bti(bti: pf.Bti) -> None:
    """Source: zx_vmo_create_contiguous ACCESS_DENIED."""
    with bti.duplicate(R.READ) as less, pytest.raises(AccessDenied):
        pf.Vmo.contiguous(less, PAGE)


def test_device_memory_is_shared_by_every_window(process: pf.Process) -> None:
    """Source: zx_vmo_create_physical. Two windows on the same addresses show the same bytes."""
    base = 0xFE00_0000
    with (
        pf.Resource(base, 4 * PAGE, name="bar") as resource,
        pf.Vmo.physical(resource, base, 4 * PAGE) as whole,
        pf.Vmo.physical(resource, base + 2 * PAGE, PAGE) as part,
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
    ):
        whole.view()[2 * PAGE : 2 * PAGE + 3] = b"reg"
        assert bytes(part.view()[:3]) == b"reg"
        with pytest.raises(NotSupported):
            part.read()
        with pytest.raises(NotSupported):
            part.commit()
        with bti.pin(part, perms=pf.Perm.READ, form=pf.AddrForm.CONTIGUOUS) as pmt:
            assert pmt.addrs.tolist() == [base + 2 * PAGE]
            assert bti.master().read(base + 2 * PAGE, 3) == b"reg"


def test_device_memory_outlives_the_resource_handle() -> None:
    """The window keeps what it shows; when the last is gone, so is the memory."""
    resource = pf.Resource(0xFE00_0000, PAGE)
    vmo = pf.Vmo.physical(resource, 0xFE00_0000, PAGE)
    resource.close()
    assert vmo.view()[0] == 0
    vmo.close()
    with pf.Resource(0xFE00_0000, PAGE) as again, pf.Vmo.physical(again, 0xFE00_0000, PAGE):
        pass


@pytest.mark.parametrize(
    ("address", "size", "error"),
    [
        (0xFE00_0000, 0, InvalidArgs),
        (0xFE00_0000, PAGE - 1, InvalidArgs),
        (0xFE00_0001, PAGE, OutOfRange),
        (0xFE00_0000, 5 * PAGE, OutOfRange),
        (0xFDFF_F000, PAGE, OutOfRange),
    ],
)
def test_device_memory_arguments(address: int, size: int, error: type[Exception]) -> None:
    """Source: zx_vmo_create_physical; the range is checked before the alignment of the address."""
    if address & (PAGE - 1):
        error = InvalidArgs
    with pf.Resource(0xFE00_0000, 4 * PAGE) as resource, pytest.raises(error):
        pf.Vmo.physical(resource, address, size)


def test_device_memory_needs_a_resource_of_its_kind() -> None:
    """Source: zx_vmo_create_physical WRONG_TYPE."""
    with pf.Resource(0, 1, kind=5) as system, pytest.raises(WrongType):
        pf.Vmo.physical(system, 0, PAGE)


def test_a_real_window(tmp_path: Path) -> None:
    """A resource over a descriptor: a BAR or /dev/mem in earnest, a file here."""
    path = tmp_path / "bar"
    path.write_bytes(b"-" * PAGE + b"window" + b"-" * (PAGE - 6))
    with path.open("r+b") as file:
        with (
            pf.Resource(0x8000_0000, 2 * PAGE, fd=file.fileno()) as resource,
            pf.Vmo.physical(resource, 0x8000_0000 + PAGE, PAGE) as vmo,
            pf.open_bus("sim") as bus,
            bus.initiator(1) as bti,
            bti.pin(vmo, perms=pf.Perm.READ | pf.Perm.WRITE) as pmt,
        ):
            master = bti.master()
            assert master.read(int(pmt.addrs[0]), 6) == b"window"
            master.write(int(pmt.addrs[0]), b"WINDOW")
        with pf.Resource(0x8000_0000, 4 * PAGE, fd=file.fileno()) as long:
            with pytest.raises(OutOfRange) as caught:
                pf.Vmo.physical(long, 0x8000_0000, 4 * PAGE)
            assert caught.value.limit == 2 * PAGE
    assert path.read_bytes()[PAGE : PAGE + 6] == b"WINDOW"


def test_a_window_on_a_file_that_shrinks_is_an_error_and_not_a_signal(
    tmp_path: Path, bti: pf.Bti
) -> None:
    """A real window is safe to map only where nobody can cut what is behind it."""
    path = tmp_path / "bar"
    path.write_bytes(bytes(2 * PAGE))
    with (
        path.open("r+b") as file,
        pf.Resource(0x8000_0000, 2 * PAGE, fd=file.fileno()) as resource,
        pf.Vmo.physical(resource, 0x8000_0000, 2 * PAGE) as vmo,
        bti.pin(vmo, perms=pf.Perm.READ) as pmt,
    ):
        os.truncate(path, PAGE)
        with pytest.raises(HostError):
            bti.master().read(int(pmt.addrs[1]), 1)


def test_an_adopted_memfd_is_shared_and_sealed() -> None:
    """Memory that a device writes to must not be cut by whoever else holds the file."""
    fd = os.memfd_create("theirs", os.MFD_ALLOW_SEALING)
    os.write(fd, b"theirs")
    os.ftruncate(fd, 2 * PAGE)
    with pf.Vmo.from_fd(fd) as vmo:
        assert vmo.read(0, 6) == b"theirs"
        vmo.write(b"ours", 8)
        assert os.pread(fd, 4, 8) == b"ours"
        assert vmo.view()[0] == ord("t")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, PAGE)
    os.close(fd)


def test_a_descriptor_that_cannot_hold_memory() -> None:
    """Pipes have no pages, an empty file has none yet, a closed number is nothing."""
    reading, writing = os.pipe()
    with pytest.raises(NotSupported):
        pf.Vmo.from_fd(reading)
    os.close(reading)
    os.close(writing)
    with pytest.raises(HostError) as caught:
        pf.Vmo.from_fd(reading)
    assert caught.value.errno == 9
    fd = os.memfd_create("empty")
    with pytest.raises(InvalidArgs):
        pf.Vmo.from_fd(fd)
    os.close(fd)


def test_a_file_is_read_only_unless_asked(tmp_path: Path, bti: pf.Bti) -> None:
    """Its last page reads as zeros beyond the file, and cannot be written there."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * (PAGE + 10))
    with pf.Vmo.from_file(path) as vmo:
        assert vmo.size == 2 * PAGE
        assert vmo.read(PAGE, 16) == b"a" * 10 + bytes(6)
        assert R.WRITE not in vmo.rights
        with pytest.raises(AccessDenied):
            vmo.write(b"x")
        with pytest.raises(NotSupported):
            vmo.view()  # a file that others can cut
        with bti.pin(vmo, perms=pf.Perm.READ) as pmt:
            assert bti.master().read(int(pmt.addrs[1]), 12) == b"a" * 10 + bytes(2)
    with pf.Vmo.from_file(path, writable=True) as vmo:
        vmo.write(b"B", PAGE)
        with pytest.raises(OutOfRange) as caught:
            vmo.write(b"xx", PAGE + 9)
        assert caught.value.limit == PAGE + 10
        with bti.pin(vmo, perms=pf.Perm.WRITE) as pmt:
            bti.master().write(int(pmt.addrs[0]), b"D")
    assert path.read_bytes() == b"D" + b"a" * (PAGE - 1) + b"B" + b"a" * 9


def test_a_file_that_shrinks_is_an_error_and_not_a_signal(tmp_path: Path, bti: pf.Bti) -> None:
    """Through a mapping this would be SIGBUS; for a device as for a reader it is an EIO."""
    path = tmp_path / "data"
    path.write_bytes(b"a" * 3 * PAGE)
    with pf.Vmo.from_file(path) as vmo, bti.pin(vmo, perms=pf.Perm.READ) as pmt:
        os.truncate(path, PAGE)
        with pytest.raises(HostError) as caught:
            vmo.read()
        assert caught.value.errno == 5
        with pytest.raises(HostError):
            bti.master().read(int(pmt.addrs[2]), 1)


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    """HostError carries the kernel's errno."""
    with pytest.raises(HostError, match="nowhere") as caught:
        pf.Vmo.from_file(tmp_path / "nowhere")
    assert caught.value.errno == 2
    assert isinstance(caught.value, OSError)
