# What the guest's kernel starts from: a cpio archive with busybox, the modules and a script.
#
# Source: Documentation/driver-api/early-userspace/buffer-format.rst in Linux ("newc").
# Written here and not by cpio(1), because the archive needs a device node, /dev/console, and an
# ordinary user may not make one. Without it init has neither input nor output.
from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tests.rig.tools import RigError, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_CONSOLE = (5, 1)
"""Source: Documentation/admin-guide/devices.txt."""


class Cpio:
    """Writes one archive. Everything belongs to root; parents are added before their children."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._directories: set[str] = set()

    def _entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0]
        header = _MAGIC + b"".join(b"%08x" % field for field in fields) + path
        self._out.write(_padded(header))
        self._out.write(_padded(data))

    def _parents(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        if folder:
            self.directory(folder)

    def directory(self, name: str) -> None:
        """Add a folder, and those it is in. Once more is the same."""
        if name not in self._directories:
            self._parents(name)
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def character_device(self, name: str, device: tuple[int, int]) -> None:
        """Add a device node."""
        self._parents(name)
        self._entry(name, stat.S_IFCHR | 0o600, device=device)

    def end(self) -> None:
        """Close the archive; nothing may be added after it."""
        self._entry(_TRAILER, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def write(path: Path, modules: Mapping[str, bytes]) -> None:
    """Write the guest's initramfs.

    Args:
      path: the archive, made anew.
      modules: name to the unpacked module, each after those it needs.

    Raises:
      RigError: there is no static busybox.
    """
    busybox = static_busybox().read_bytes()
    with path.open("wb") as out:
        archive = Cpio(out)
        for name in ("dev", "proc", "sys", "new", "image"):
            archive.directory(name)
        archive.character_device("dev/console", _CONSOLE)
        archive.file("bin/busybox", busybox, 0o755)
        archive.file("init", Path(__file__).with_name("init.sh").read_bytes(), 0o755)
        archive.file("modules.list", "".join(f"{name}\n" for name in modules).encode())
        for name, module in modules.items():
            archive.file(f"modules/{name}.ko", module)
        archive.end()


def static_busybox() -> Path:
    """busybox, which must run where no library is.

    Raises:
      RigError: it is not installed, or needs a dynamic linker.
    """
    path = Path(tool("busybox"))
    if b"/ld-linux" in path.read_bytes()[:4096]:
        raise RigError(f"{path} is not static: apt-get install busybox-static")
    return path
