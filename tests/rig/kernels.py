# The guest's kernel: where it comes from, and the modules that the guest loads.
#
# By default the kernel that Debian's linux-image-cloud-amd64 names today, downloaded with
# `apt-get download` and unpacked beside the images: nothing is installed, and root is not needed.
# A kernel at hand is taken with `--kernel-deb`, or with `--kernel` and `--modules`.
from __future__ import annotations

import gzip
import lzma
import os
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.tools import RigError, output, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

META_PACKAGE = "linux-image-cloud-amd64"

WANTED = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "ext4",
    "nvme",
    "iommufd",
    "vfio_iommu_type1",
    "vfio_pci",
)
"""What the guest loads, with what each needs. A name that no file has is built in, or not there:
then the guest says what it lacks, because only it can tell the two apart."""


@dataclass(frozen=True)
class Kernel:
    """A kernel, not yet unpacked: ``deb`` alone, or ``image`` with or without ``modules``."""

    deb: Path | None = None
    image: Path | None = None
    modules: Path | None = None

    def key(self) -> list[object]:
        """What makes it this kernel and no other."""
        sources = [self.deb, self.image, *(_module_files(self.modules).values())]
        return [_stamp(path) for path in sources if path is not None]

    def unpack(self, kernel: Path) -> tuple[str, dict[str, bytes]]:
        """Write what QEMU boots.

        Args:
          kernel: where to; made anew.

        Returns:
          Its name for people, and the modules to load, each after those it needs.

        Raises:
          RigError: not a kernel package, no module can be unpacked.
        """
        if self.image is not None:
            kernel.write_bytes(bootable(self.image.read_bytes()))
            return self.image.name, modules_in_order(_module_files(self.modules))
        assert self.deb is not None
        with tempfile.TemporaryDirectory(dir=kernel.parent) as scratch:
            tree = Path(scratch)
            output("dpkg-deb", "-x", str(self.deb), scratch)
            images = list(tree.glob("boot/vmlinuz-*"))
            if not images:
                raise RigError(f"{self.deb} has no kernel: give a linux-image package")
            kernel.write_bytes(bootable(images[0].read_bytes()))
            return images[0].name, modules_in_order(_module_files(tree))


def _stamp(path: Path) -> tuple[str, int, int]:
    about = path.stat()
    return str(path), about.st_size, about.st_mtime_ns


def debian(cache: Path) -> Kernel:
    """Debian's kernel of today; downloaded where it is not in ``cache`` yet.

    A machine without package lists or network goes on with the one that it has.

    Raises:
      RigError: no apt, no such package, no download.
    """
    have = sorted(cache.glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)
    told = output("apt-cache", "depends", META_PACKAGE, check=False).decode()
    named = re.search(r"Depends: (linux-image-\d\S+)", told)
    if named is None:
        if have:
            say(f"apt knows no {META_PACKAGE}: taking {have[-1].name}, downloaded earlier")
            return Kernel(deb=have[-1])
        raise RigError(f"apt knows no {META_PACKAGE}: apt-get update, or give --kernel-deb FILE")
    package = named.group(1)
    ready = [path for path in have if path.name.startswith(package + "_")]
    if ready:
        return Kernel(deb=ready[-1])
    say(f"downloading {package}")
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        # As root, apt would hand the download to a user who may not write here.
        settings = ("-qq", "-o", "APT::Sandbox::User=root")
        try:
            output("apt-get", "download", *settings, package, cwd=Path(scratch))
        except RigError as error:
            if not have:
                raise
            say(f"taking {have[-1].name}, downloaded earlier: {error}")
            return Kernel(deb=have[-1])
        (deb,) = Path(scratch).glob("*.deb")
        kept = cache / deb.name
        deb.replace(kept)
    for old in have:
        old.unlink()
    return Kernel(deb=kept)


# What QEMU boots ---------------------------------------------------------------------------------


def _gunzip(packed: bytes) -> bytes:
    stream = zlib.decompressobj(31)  # with gzip's header
    data = stream.decompress(packed)
    if not stream.eof:
        raise EOFError("it ends too early")
    return data


_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ\0": lambda packed: lzma.LZMADecompressor().decompress(packed),
    b"\x02\x21\x4c\x18": lambda packed: output("lz4", "-dc", given=packed[:-4]),
    b"\x28\xb5\x2f\xfd": lambda packed: output("zstd", "-dc", given=packed, check=False),
}
"""How a packed kernel begins, and what unpacks it. But for gzip's, which has it already, four bytes
behind it are its size unpacked: zstd fails at them, after it has written everything."""

_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0", re.DOTALL)
"""An ELF note of Xen's, type 18: the address at which QEMU enters an unpacked kernel (PVH)."""


def bootable(image: bytes) -> bytes:
    """The kernel inside a bzImage, if QEMU can enter it, else what was given.

    Unpacking takes this machine a moment and an emulated one seconds, at each start.

    Raises:
      RigError: it is no kernel of a PC.

    Source: Documentation/arch/x86/boot.rst in Linux: setup_sects, payload_offset and
    payload_length.
    """
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise RigError("neither a bzImage nor an ELF kernel")
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[start + offset :][:length]
    for magic, unpack in _UNPACK.items():
        if packed.startswith(magic):
            try:
                elf = unpack(packed)
            except (RigError, EOFError, zlib.error, lzma.LZMAError) as error:
                say(f"the guest unpacks its kernel itself, which is slow: {error}")
                return image
            return elf if elf[:4] == b"\x7fELF" and _PVH_NOTE.search(elf) else image
    return image


# Modules -----------------------------------------------------------------------------------------


def _module_files(top: Path | None) -> dict[str, Path]:
    """Every module below ``top``, by the name that other modules have for it."""
    if top is None:
        return {}
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            stem, dot, _ = name.partition(".ko")
            if dot and name.endswith((".ko", ".ko.xz", ".ko.gz", ".ko.zst")):
                found[stem.replace("-", "_")] = Path(folder, name)
    return found


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return output("zstd", "-dc", given=data) if path.suffix == ".zst" else data


def modules_in_order(files: dict[str, Path], wanted: Iterable[str] = WANTED) -> dict[str, bytes]:
    """What of ``wanted`` has a file, and what that needs, each after what it needs.

    Source: the field ``depends`` of a module's .modinfo, as modprobe's depmod reads it.
    """
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in files:
            return
        module = _module(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", b"\0" + module)
        for needed in needs.group(1).decode().split(",") if needs else ():
            load(needed.replace("-", "_"))
        loaded[name] = module

    for name in wanted:
        load(name)
    return loaded
