"""`pinfold copy`: a source that is written to, and a copy that is not what was written."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pinfold.cli.copying import Differs, Interrupted
from pinfold.cli.destination import Unfinished
from pinfold.cli.plan import Options
from pinfold.cli.source import FileChanged
from pinfold.units import PAGE_SIZE
from tests.cli.copies import SMALL, Looking, a_disk, command, copied, loop_device, mounted, once

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("nothing_left")


# A source that changes -----------------------------------------------------------------------


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(0, 1))  # the clock of a file system may stand still for as long as this took


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (lambda path: os.truncate(path, 20 * PAGE_SIZE + 5), "ends at 81925"),
    "emptied": (lambda path: os.truncate(path, 0), "ends at "),
    "appended": (_append, "longer than it was"),
    "rewritten": (_rewrite, "was written to while it was being copied"),
}


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("stage", "verify"), [("copy", False), ("copy", True), ("sync", True), ("verify", True)]
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_is_written_to(
    change: str,
    stage: str,
    verify: bool,  # noqa: FBT001
    direct: bool,  # noqa: FBT001
    source: Path,
    target: Path,
) -> None:
    """Never a part of a file, and never a file that never was. After the copy, only a verification
    looks at the source."""
    act, said = CHANGES[change]
    options = Options(SMALL.buffer, SMALL.chunk, 1, direct, verify)
    with pytest.raises(FileChanged, match="copy it again while nobody writes to it") as caught:
        copied(source, target, options, once(stage, lambda: act(source)))
    assert said in str(caught.value)


def test_files_that_say_less_than_they_have(target: Path) -> None:
    """In /proc they say 0."""
    done = command("/proc/version", target)
    assert done.returncode == 1
    assert "longer than it was, or than it said: more than 0 bytes" in done.stderr


def test_files_that_say_more_than_they_have(target: Path) -> None:
    """In /sys they say a page."""
    short = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(short):
        pytest.skip(f"there is no {short}")
    done = command(short, target)
    assert done.returncode == 1
    assert f"shorter than it was: {PAGE_SIZE} bytes at first" in done.stderr


# Verification --------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("at", [0, 5000, 64 * PAGE_SIZE + 99])
def test_a_byte_that_is_another_on_the_medium(
    at: int,
    direct: bool,  # noqa: FBT001
    source: Path,
    target: Path,
) -> None:
    """Changed after the copy and before it is read back; it is named."""
    was = source.read_bytes()[at]

    def corrupt() -> None:
        (copy,) = source.parent.glob(".pinfold-copy-*")
        with copy.open("r+b") as file:
            file.seek(at)
            file.write(bytes([was ^ 0xFF]))

    options = Options(8 * PAGE_SIZE, PAGE_SIZE, 2, direct, verify=True)
    with pytest.raises(Differs) as caught:
        copied(source, target, options, once("sync", corrupt))
    assert f"{target} differs from {source} at byte {at}: {was ^ 0xFF:#04x} was read back" in str(
        caught.value
    )


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("at", [0, 64 * PAGE_SIZE])
def test_it_is_read_back_from_the_medium(
    at: int,
    direct: bool,  # noqa: FBT001
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not from the page cache, not even the tail: a byte is changed below the file system, in the
    file that is its disk."""
    content, image = source.read_bytes(), tmp_path / "image"
    real = Unfinished.forget_cached

    def corrupt(self: Unfinished) -> None:
        on_disk = image.read_bytes().index(content[at : at + 100])
        with image.open("r+b") as file:
            file.seek(on_disk + 3)
            file.write(bytes([content[at + 3] ^ 0xFF]))
        real(self)

    monkeypatch.setattr(Unfinished, "forget_cached", corrupt)
    with a_disk(image, "ext4"), loop_device(image) as device, mounted(tmp_path / "there", device):
        with pytest.raises(Differs, match=f"at byte {at + 3}: "):
            copied(source, tmp_path / "there" / "b", Options(direct=direct, verify=True))
        assert not (tmp_path / "there" / "b").exists()


def test_a_byte_in_what_was_a_hole(source: Path, target: Path) -> None:
    """Holes are compared where one side has none."""
    os.truncate(source, 200 * PAGE_SIZE)

    def corrupt() -> None:
        (copy,) = source.parent.glob(".pinfold-copy-*")
        with copy.open("r+b") as file:
            file.seek(150 * PAGE_SIZE)
            file.write(b"x")

    with pytest.raises(Differs, match=f"at byte {150 * PAGE_SIZE}: 0x78 was read back for 0x00"):
        copied(source, target, Options(verify=True), once("sync", corrupt))


def test_a_copy_that_is_cut(source: Path, target: Path) -> None:
    """Before it is read back."""

    def cut() -> None:
        (copy,) = source.parent.glob(".pinfold-copy-*")
        os.truncate(copy, 5000)

    with pytest.raises(Differs, match="it ends at byte 5000"):
        copied(source, target, Options(verify=True), once("sync", cut))


@pytest.mark.parametrize(
    ("stage", "verify"), [("copy", False), ("sync", False), ("sync", True), ("verify", True)]
)
def test_it_ends_when_it_is_asked_to(
    stage: str,
    verify: bool,  # noqa: FBT001
    source: Path,
    target: Path,
) -> None:
    """Up to the rename: who is told that nothing was changed may rely on it."""
    asked: list[int] = []

    class Asking(Looking):
        def check(self) -> None:
            if asked:
                raise Interrupted(asked[0])

    looking = Asking(lambda now, _: asked.append(signal.SIGINT) if now == stage else None)
    with pytest.raises(Interrupted, match="SIGINT"):
        copied(source, target, Options(verify=verify), looking)
    assert looking.seen[-1][0] == stage
