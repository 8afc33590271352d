"""`pinfold copy` where something fails: for real, wherever it can be had.

Real here: a full file system (a small tmpfs), a medium that cannot be read (a loop device whose
file was cut), one that cannot be written (a loop device in a full tmpfs), a source that others
write to, a byte that is changed on the medium, signals, limits. What cannot be had on purpose, a
rename or a sync that is refused, is injected at the seam of the host.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pinfold.cli.destination import Refused
from pinfold.cli.plan import Options
from pinfold.errors import HostError, NoSpace, PinfoldError
from pinfold.host import calls
from pinfold.objects.file_initiator import FileInitiator
from pinfold.units import KIB, MIB
from tests.cli.copies import (
    COMMAND,
    SMALL,
    a_disk,
    command,
    copied,
    loop_device,
    mounted,
    random_file,
)
from tests.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pinfold.bus import FileBatch

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def inject() -> Iterator[Callable[[str, int], None]]:
    """``inject(call, errno)``: each such call of the host is refused."""
    wanted: dict[str, int] = {}

    def intercept(name: str) -> None:
        if name in wanted:
            raise OSError(wanted[name], os.strerror(wanted[name]))

    former = calls.set_interceptor(intercept)
    yield wanted.__setitem__
    calls.set_interceptor(former)


def test_the_order_that_makes_it_all_or_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, then synced with its mode, then renamed, then the directory is synced."""
    events: list[tuple[str, object]] = []
    source.chmod(0o600 | 0o044)

    def look(name: str) -> None:
        (unfinished,) = (*tmp_path.glob(".pinfold-copy-*"), *tmp_path.glob("b"))
        complete = unfinished.read_bytes() == source.read_bytes()
        events.append((name, (unfinished.name == "b", complete, unfinished.stat().st_mode & 0o777)))

    real = FileInitiator.sync

    def sync(self: FileInitiator) -> None:
        look("before sync")
        real(self)
        events.append(("synced", None))

    monkeypatch.setattr(FileInitiator, "sync", sync)
    former = calls.set_interceptor(lambda name: look(name) if name in ("rename", "fsync") else None)
    try:
        copied(source, tmp_path / "b")
    finally:
        calls.set_interceptor(former)
    assert events == [
        ("before sync", (False, True, 0o644)),
        ("synced", None),
        ("rename", (False, True, 0o644)),
        ("fsync", (True, True, 0o644)),
    ]


# A full file system --------------------------------------------------------------------------


def test_a_full_file_system_is_known_before_the_first_byte(tmp_path: Path) -> None:
    """ENOSPC, with how much was wanted and how much there is."""
    random_file(tmp_path / "a", 4 * MIB)
    full = tmp_path / "full"
    with mounted(full, "-t", "tmpfs", "-o", "size=1m", "none"):
        done = command(tmp_path / "a", full)
        assert os.listdir(full) == []
    assert done.returncode == 1
    assert done.stderr == (
        f"pinfold: no room for {full}/a: 4 MiB wanted, 0 bytes written, 1 MiB free; "
        "free space in that file system\n"
    )


def test_a_file_system_that_is_full_in_the_middle(
    tmp_path: Path, inject: Callable[[str, int], None]
) -> None:
    """As where none can set blocks aside: what is injected is that; then ENOSPC is real."""
    random_file(tmp_path / "a", 4 * MIB)
    full = tmp_path / "full"
    inject("fallocate", errno.EOPNOTSUPP)
    with mounted(full, "-t", "tmpfs", "-o", "size=1m", "none"):
        (full / "b").write_bytes(b"former")
        with pytest.raises(NoSpace) as caught:
            copied(tmp_path / "a", full / "b", Options(256 * KIB, 64 * KIB))
        assert os.listdir(full) == ["b"]
        assert (full / "b").read_bytes() == b"former"
    found = re.search(r"(\d+) KiB written", str(caught.value))
    assert found
    assert 0 < int(found[1]) < 1024


def test_a_file_that_is_larger_than_the_limit(tmp_path: Path, target: Path) -> None:
    """RLIMIT_FSIZE."""
    random_file(tmp_path / "a", 100_000)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 50; exec "$@"', "bash", *COMMAND, tmp_path / "a", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"pinfold: give {target} its size of 97.7 KiB: File too large\n"


# A medium that fails -------------------------------------------------------------------------


def test_a_medium_that_cannot_be_read(tmp_path: Path, target: Path) -> None:
    """EIO from where the file behind a loop device was cut."""
    image = tmp_path / "image"
    random_file(image, MIB)
    with loop_device(image) as device:
        os.truncate(image, MIB // 2)
        done = command(device, target, "-q", "--chunk", "64K")
    assert done.returncode == 1
    assert done.stderr == f"pinfold: read {device} at byte {MIB // 2}: Input/output error\n"


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_a_medium_that_cannot_be_written(kind: str, tmp_path: Path) -> None:
    """A file system on a loop device whose file finds no room."""
    random_file(tmp_path / "a", 8 * MIB)
    small = tmp_path / "small"
    with mounted(small, "-t", "tmpfs", "-o", "size=2m", "none"):
        image = small / "image"
        with a_disk(image, kind), loop_device(image) as device, mounted(tmp_path / "there", device):
            listed = os.listdir(tmp_path / "there")
            done = command(tmp_path / "a", tmp_path / "there" / "b", "-q")
            assert os.listdir(tmp_path / "there") == listed
    assert done.returncode == 1
    # Linux says that the device is full, or that it failed, which depends on how far the data got.
    assert re.fullmatch(r"pinfold: .*(there/b: 8 MiB wanted|Input/output error).*\n", done.stderr)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("rename", "rename the copy to {}: Input/output error"),
        ("ftruncate", "give {} its size"),
        ("fallocate", "write {} at byte 0: Input/output error"),
    ],
)
def test_a_call_that_is_refused(
    call: str, said: str, source: Path, target: Path, inject: Callable[[str, int], None]
) -> None:
    """Nothing is left but what was there."""
    inject(call, errno.EIO)
    with pytest.raises(HostError) as caught:
        copied(source, target)
    assert said.format(target) in str(caught.value)


def test_a_directory_that_is_not_synced(
    source: Path, tmp_path: Path, inject: Callable[[str, int], None]
) -> None:
    """The copy is in place, and the message says what may become of it."""
    inject("fsync", errno.EIO)
    with pytest.raises(HostError, match="is complete, but a power cut may undo it"):
        copied(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


def test_every_call_of_the_host_refused_in_turn(source: Path, target: Path) -> None:
    """Each is an error that tells of it, and after each nothing is left. Up to where the pins are
    taken back: a device that could not be shut out keeps its memory, and the bus with it."""
    names: list[str] = []
    new = target.with_name("c")
    calls.set_interceptor(names.append)
    try:
        copied(source, new, Options(verify=True))
    finally:
        calls.set_interceptor(None)
    new.unlink()
    *_, revoked, _ = (at for at, name in enumerate(names) if name == "io_uring_register")
    tried = Counter(names[:revoked])
    assert tried["io_uring_enter"] > 4

    for name, count in tried.items():
        for number in range(count):
            left = iter([False] * number + [True])
            fired: list[str] = []

            def refuse(
                called: str,
                name: str = name,
                left: Iterator[bool] = left,
                fired: list[str] = fired,
            ) -> None:
                if called == name and next(left, False):
                    fired.append(called)
                    raise OSError(errno.EIO, "injected")

            calls.set_interceptor(refuse)
            try:
                error = outcome(lambda: copied(source, new, Options(verify=True)))
            finally:
                calls.set_interceptor(None)
            if not fired:  # how often the kernel is asked for what has ended depends on the disk
                assert name == "io_uring_enter"
                assert error is None
                new.unlink()
                continue
            assert error is not None, (name, number)
            assert "injected" in str(error), (name, number)
            assert sorted(path.name for path in source.parent.iterdir()) == ["a", "b"]


def outcome(act: Callable[[], object]) -> Exception | None:
    """The error that it ends with."""
    try:
        act()
    except (PinfoldError, Refused) as error:
        return error
    return None


# What is protected ---------------------------------------------------------------------------


def test_a_file_that_is_append_only(source: Path, target: Path) -> None:
    """Nobody may rename over it; known before the copy."""
    if os.geteuid() or subprocess.run(["chattr", "+a", target], check=False).returncode:
        pytest.skip("no attributes of files here")
    try:
        done = command(source, target)
    finally:
        subprocess.run(["chattr", "-a", target], check=True)
    assert done.returncode == 2
    remedy = "ask lsattr, and take that off with chattr"
    assert done.stderr == f"pinfold: {target} is append-only or immutable; {remedy}\n"


def test_a_program_that_runs(source: Path, tmp_path: Path) -> None:
    """cp may not write to it (ETXTBSY); what runs keeps its file."""
    program = tmp_path / "sleep"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        done = command(source, program, "-q")
        child.kill()
    assert done.returncode == 0, done.stderr
    assert program.read_bytes() == source.read_bytes()


def test_what_is_anothers_in_a_sticky_directory(tmp_path: Path) -> None:
    """As in /tmp: they may write to it, and not replace it."""
    if os.geteuid() != 0:
        pytest.skip("files of others are made by root")
    random_file(tmp_path / "a", 5000)
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "b").touch()
    (tmp_path / "b").chmod(0o666)
    tmp_path.chmod(0o1777)
    program = """
        from pinfold.cli.copying import copy_file
        from pinfold.cli.destination import Refused
        from pinfold.cli.plan import Options
        from tests.cli.copies import Looking

        os.chdir(sys.argv[1])
        copy_file("a", "b", Options(), Looking())  # root may; and it loads what nobody may not load
        give_up_privileges()
        try:
            copy_file("a", "b", Options(), Looking())
        except Refused as error:
            print(json.dumps(str(error)))
    """
    assert run(program, str(tmp_path)).startswith("b is another user's in a directory with the")


# An output that cannot be written ------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("why", ["No space left on device", "Broken pipe"])
def test_a_result_that_cannot_be_written(
    why: str, options: list[str], source: Path, tmp_path: Path
) -> None:
    """The status is 1, and DST is there: so the message says it."""
    with a_bad_output(why) as output:
        done = subprocess.run(
            [*COMMAND, source, tmp_path / "b", "-q", *options],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    place = f"{tmp_path}/b is complete and in place"
    assert done.stderr == f"pinfold: cannot write the output: {why}; {place}\n"
    assert (tmp_path / "b").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("why", ["No space left on device", "Broken pipe"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("a b", 1), ("a nowhere/b", 2), ("a nowhere/b --json", 2), ("a new -q", 0)],
)
def test_errors_that_cannot_be_written(
    arguments: str, status: int, why: str, source: Path, target: Path
) -> None:
    """Nor can the progress, which ends the copy. The exit status alone says what is so."""
    assert target.name == "b"
    with a_bad_output(why) as output:
        done = subprocess.run(
            [*COMMAND, *arguments.split()],
            cwd=source.parent,
            stdout=output if "--json" in arguments else subprocess.DEVNULL,
            stderr=output,
            check=False,
        )
    assert done.returncode == status


@contextmanager
def a_bad_output(why: str) -> Iterator[int]:
    """A descriptor that takes no byte."""
    if why == "Broken pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    yield writing
    os.close(writing)


# A kernel that stops short -------------------------------------------------------------------


def test_transfers_that_end_short_are_gone_on_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kernel stops short when it is asked to, so each is given less than was meant: real
    transfers of real bytes, of which at most 1000 are moved at once."""
    real = FileInitiator.submit

    def short(self: FileInitiator, wanted: list[tuple[bool, int, int, int]]) -> FileBatch:
        return real(self, [(w, address, min(size, 1000), at) for w, address, size, at in wanted])

    monkeypatch.setattr(FileInitiator, "submit", short)
    for options in (SMALL, Options(verify=True)):
        copied(source, tmp_path / "b", options)
        assert (tmp_path / "b").read_bytes() == source.read_bytes()
