# The cache: kernels, initramfs and root images, each under a key of all that it was made from.
#
# An image is made beside the others and renamed when it is whole, so that what has a name is
# right, whenever a build was broken off. One build at a time; running guests need no lock, because
# what they have open stays theirs when it is removed.
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig import initramfs, root
from tests.rig.kernels import Kernel, debian
from tests.rig.tools import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEPT = 4
"""Images of a kind that stay: two branches and two kernels can take turns without a rebuild."""

_MAKERS = ("init.sh", "initramfs.py", "kernels.py")


@dataclass(frozen=True)
class Images:
    """What a guest boots from."""

    kernel: Path
    initrd: Path
    root: Path
    release: str
    """The kernel, for people."""


def cache_folder() -> Path:
    """$PINFOLD_RIG_CACHE, else pinfold-rig in $XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("PINFOLD_RIG_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pinfold-rig")


def digest(key: object) -> str:
    """A name for what was made from ``key``."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def ready(cache: Path, kernel: Kernel | None, *, anew: bool = False) -> Images:
    """The images, made where they are not there yet.

    Args:
      cache: where they are kept.
      kernel: a kernel of the caller's; None for Debian's.
      anew: make them whatever there is.

    Raises:
      RigError: something is missing here, or cannot be had; says what to do.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache):
        chosen = kernel or debian(cache)
        # What makes them is a part of what they are made from.
        makers = [Path(__file__).with_name(n).read_text() for n in _MAKERS]
        busybox = initramfs.static_busybox().stat()
        key = [chosen.key(), makers, busybox.st_size, busybox.st_mtime_ns]
        booted = _made(cache, "kernel", key, lambda folder: _boot_files(folder, chosen), anew=anew)
        rooted = _made(cache, "root", root.key(), _root_files, anew=anew)
    release = (booted / "release").read_text()
    return Images(booted / "kernel", booted / "initrd", rooted / "root.img", release)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made(cache: Path, kind: str, key: object, make: Callable[[Path], None], *, anew: bool) -> Path:
    """The folder of that key: the one that is there, or a new one."""
    final = cache / f"{kind}-{digest(key)}"
    if final.exists() and not anew:
        final.touch()  # in use: not the first to go
        return final
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as scratch:
        folder = Path(scratch, kind)
        folder.mkdir()
        make(folder)
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
    say(f"made the {kind} image in {time.monotonic() - start:.1f} s")
    old = sorted(cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
    for folder in old[:-_KEPT]:
        shutil.rmtree(folder)
    return final


def _boot_files(folder: Path, kernel: Kernel) -> None:
    release, modules = kernel.unpack(folder / "kernel")
    (folder / "initrd").write_bytes(initramfs.archive(modules))
    (folder / "release").write_text(release)


def _root_files(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as stage:
        root.write(folder / "root.img", Path(stage))
