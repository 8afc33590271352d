"""What is made of a kernel that is given: without QEMU, on kernels and modules of a few bytes."""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import TYPE_CHECKING

import pytest

from tests.rig.kernels import Kernel, bootable, modules_in_order
from tests.rig.tools import RigError, output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PVH = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)
ELF = b"\x7fELF" + bytes(60)


def big_image(payload: bytes) -> bytes:
    """A bzImage around a packed kernel."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 32, len(payload))
    return bytes(setup) + bytes(32) + payload + bytes(100)


def sized(packed: bytes) -> bytes:
    """With four bytes of its unpacked size behind it: gzip ends with them, others get them."""
    return packed + struct.pack("<I", len(ELF + PVH))


def lz4(data: bytes) -> bytes:
    """In the frame that the kernel's build makes."""
    try:
        return output("lz4", "-lc", given=data)
    except RigError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lambda elf: sized(lzma.compress(elf)), lambda elf: sized(lz4(elf))],
    ids=["gzip", "xz", "lz4"],
)
def test_a_kernel_that_qemu_can_enter_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    assert bootable(big_image(pack(ELF + PVH))) == ELF + PVH


def test_a_kernel_without_that_entry_stays_as_it_was() -> None:
    """QEMU refuses such a kernel unpacked, and boots it packed."""
    image = big_image(gzip.compress(ELF))
    assert bootable(image) == image


def test_a_packing_that_is_not_known_is_left_to_the_guest() -> None:
    image = big_image(b"BZh9" + bytes(64))
    assert bootable(image) == image


def test_a_broken_packing_is_left_to_the_guest(capsys: pytest.CaptureFixture[str]) -> None:
    image = big_image(gzip.compress(ELF + PVH)[:-12])
    assert bootable(image) == image
    assert "the guest unpacks its kernel itself" in capsys.readouterr().err


def test_an_unpacked_kernel_is_taken_as_it_is() -> None:
    assert bootable(ELF) == ELF


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(2000)], ids=["empty", "other"])
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(RigError, match="neither a bzImage nor an ELF kernel"):
        bootable(image)


def module(*needs: str) -> bytes:
    """A module as far as its .modinfo goes."""
    return b"license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """Files have hyphens where the names that others have for them have underscores."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "vfio-pci.ko").write_bytes(module("vfio-pci-core", "irqbypass"))
    (tmp_path / "deep/vfio-pci-core.ko.xz").write_bytes(lzma.compress(module("vfio")))
    (tmp_path / "deep/vfio.ko.gz").write_bytes(gzip.compress(module()))
    (tmp_path / "irqbypass.ko").write_bytes(module())
    (tmp_path / "unwanted.ko").write_bytes(module())
    image = tmp_path / "vmlinux"
    image.write_bytes(ELF)
    release, loaded = Kernel(image=image, modules=tmp_path).unpack(tmp_path / "kernel")
    assert release == "vmlinux"
    assert list(loaded) == ["vfio", "vfio_pci_core", "irqbypass", "vfio_pci"]
    assert loaded["vfio"] == module()


def test_a_module_without_a_file_is_taken_for_built_in() -> None:
    assert modules_in_order({}, ["ext4"]) == {}


def test_another_kernel_has_another_key(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(ELF)
    before = Kernel(image=image).key()
    assert Kernel(image=image).key() == before
    image.write_bytes(ELF + PVH)
    assert Kernel(image=image).key() != before


def test_a_package_without_a_kernel_is_refused(tmp_path: Path) -> None:
    deb = tmp_path / "other.deb"
    deb.write_bytes(b"no package")
    with pytest.raises(RigError, match="dpkg-deb"):
        Kernel(deb=deb).unpack(tmp_path / "kernel")
