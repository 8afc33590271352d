# What the guest's kernel starts from: a cpio archive with busybox, the modules and a script.
#
# Source: Documentation/driver-api/early-userspace/buffer-format.rst in Linux ("newc").
# Written here and not by cpio(1), because the archive needs a device node, /dev/console, and an
# ordinary user may not make one. Without it init has neither input nor output.
from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.tools import RigError, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONSOLE = (5, 1)
"""Device number. Source: Documentation/admin-guide/devices.txt in Linux."""


class Cpio:
    """One archive, in memory. All of it is root's."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._names: set[str] = set()

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """Add an entry, after the folders that it is in. A name once more is nothing."""
        if name in self._names:
            return
        folder = name.rpartition("/")[0]
        if folder:
            self.add(folder, stat.S_IFDIR | 0o755)
        self._names.add(name)
        inode, path = len(self._names), name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._data += _padded(header) + _padded(data)

    def ended(self) -> bytes:
        """The whole archive; nothing is added after this."""
        self.add("TRAILER!!!", 0)
        return bytes(self._data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def archive(modules: Mapping[str, bytes]) -> bytes:
    """The guest's initramfs.

    Args:
      modules: name to the unpacked module, each after those it needs.

    Raises:
      RigError: there is no static busybox.
    """
    made = Cpio()
    for name in ("dev", "proc", "sys", "new", "image"):
        made.add(name, stat.S_IFDIR | 0o755)
    made.add("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE)
    made.add("bin/busybox", stat.S_IFREG | 0o755, static_busybox().read_bytes())
    made.add("init", stat.S_IFREG | 0o755, Path(__file__).with_name("init.sh").read_bytes())
    made.add("modules.list", stat.S_IFREG | 0o644, "".join(f"{n}\n" for n in modules).encode())
    for name, module in modules.items():
        made.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, module)
    return made.ended()


def static_busybox() -> Path:
    """busybox, which must run where no library is.

    Raises:
      RigError: it is not installed, or needs a dynamic linker.
    """
    path = Path(tool("busybox"))
    if b"/ld-linux" in path.read_bytes()[:4096]:
        raise RigError(f"{path} is not static: apt-get install busybox-static")
    return path
