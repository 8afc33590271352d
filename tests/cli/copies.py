"""What the tests of `pinfold copy` share: files, places that fail for real, and onlookers."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pinfold.cli.copying import CopyReport, copy_file
from pinfold.cli.plan import Options
from pinfold.units import MIB, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.cli.plan import Plan

COMMAND = [sys.executable, "-W", "error", "-m", "pinfold.cli.main", "copy"]
SMALL = Options(buffer=2 * PAGE_SIZE, chunk=PAGE_SIZE, depth=1)
"""The least at once, so that something can happen between two chunks."""
SLOWLY = ["--chunk", str(PAGE_SIZE), "--buffer", str(2 * PAGE_SIZE), "--depth", "1"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `pinfold copy` as a user does."""
    texts = [str(argument) for argument in arguments]
    return subprocess.run([*COMMAND, *texts], capture_output=True, text=True, check=False)


def random_file(path: Path, size: int) -> bytes:
    """A file of bytes that are not to be guessed; them."""
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    return content


def segments(path: Path) -> list[tuple[int, int]]:
    """The parts of a file that are no holes, as the kernel tells."""
    found, stop = [], 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while stop < size:
            try:
                start = os.lseek(file.fileno(), stop, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                break
            stop = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, stop))
    return found


class Looking:
    """Sees how far a copy has come, and may do something about it."""

    def __init__(self, act: Callable[[str, int], None] | None = None) -> None:
        self.act = act
        self.plans: list[Plan] = []
        self.seen: list[tuple[str, int]] = []

    def planned(self, plan: Plan) -> None:
        self.plans.append(plan)

    def at(self, stage: str, done: int) -> None:
        self.seen.append((stage, done))
        if self.act is not None:
            self.act(stage, done)

    def check(self) -> None:
        """Never asks for the end."""


def once(stage: str, act: Callable[[], object]) -> Looking:
    """Does something when a stage is first heard of."""
    done: list[str] = []

    def act_once(now: str, at: int) -> None:
        del at
        if now == stage and not done:
            done.append(now)
            act()

    return Looking(act_once)


def copied(
    source: Path, target: Path, options: Options = SMALL, looking: Looking | None = None
) -> CopyReport:
    """Copy in this process."""
    return copy_file(str(source), str(target), options, looking or Looking())


@contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[None]:
    """A file system at ``place``, where one may be mounted."""
    place.mkdir()
    _as_root("mount", *arguments, str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A block device over a file."""
    device = _as_root("losetup", "--find", "--show", str(image)).strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def a_disk(image: Path, kind: str) -> Iterator[None]:
    """A file that is the disk of a new file system; gone afterwards."""
    image.touch()
    os.truncate(image, 32 * MIB)
    if shutil.which("mke2fs") is None:
        pytest.skip("there is no mke2fs")
    subprocess.run(["mke2fs", "-q", "-t", kind, "-F", image], check=True)
    yield
    image.unlink()


def _as_root(*arguments: str) -> str:
    if os.geteuid() != 0:
        pytest.skip(f"{arguments[0]} needs root")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{arguments[0]}: {done.stderr.strip()}")
    return done.stdout
