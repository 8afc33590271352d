# The programs of the machine that the rig uses, and the one error by which it gives up.
#
# What is missing is said with the Debian package that has it: nothing is installed from here.
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "busybox": "busybox-static",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
    "ldd": "libc-bin",
    "setpriv": "util-linux",
    "lz4": "lz4",
    "zstd": "zstd",
}
"""Program to Debian package."""

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where Debian puts mke2fs, and an ordinary user's PATH does not look."""


class RigError(Exception):
    """The rig cannot do it; the text says why and, where there is one, the remedy."""


def say(text: str) -> None:
    """One line of the rig's own, on stderr: stdout is the guest's."""
    print(f"rig: {text}", file=sys.stderr, flush=True)


def tool(name: str) -> str:
    """The path of a program.

    Raises:
      RigError: it is not installed; names the package.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise RigError(f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return found


def output(
    *command: str, given: bytes | None = None, cwd: Path | None = None, check: bool = True
) -> bytes:
    """What a program prints. ``check=False`` takes what it printed although it failed.

    Raises:
      RigError: it is not installed, or it failed; with the end of what it had to say.
    """
    done = subprocess.run(
        [tool(command[0]), *command[1:]],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if check and done.returncode:
        told = done.stderr.decode(errors="replace").strip()[-2000:]
        raise RigError(f"{' '.join(command[:3])} failed ({done.returncode}): {told}")
    return done.stdout
