"""`pinfold copy`: what is copied, where to, and what it says."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.cli.plan import Options
from pinfold.host import abi, calls
from pinfold.units import KIB, MIB, PAGE_SIZE
from tests.cli.copies import (
    COMMAND,
    SLOWLY,
    Looking,
    command,
    copied,
    loop_device,
    random_file,
    segments,
)

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_file_and_what_is_said_of_it(tmp_path: Path) -> None:
    """One line on stdout; on stderr, which is no terminal here, a line for each tenth."""
    content = random_file(tmp_path / "a", 40 * PAGE_SIZE + 17)
    done = command(tmp_path / "a", tmp_path / "b", *SLOWLY, "--verify")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").read_bytes() == content
    assert done.stdout.startswith(f"{tmp_path}/a -> {tmp_path}/b: 160.0 KiB in ")
    assert done.stdout.endswith("/s, verified\n")
    lines = done.stderr.splitlines()
    tenths = [f"{ten}%" for ten in range(10, 101, 10)]
    assert [line.split()[1].rstrip(":") for line in lines] == [*tenths, "the", *tenths]
    assert lines[9] == "copied 100%: 160.0 KiB of 160.0 KiB"
    assert lines[10] == "syncing the copy"
    assert lines[-1] == "verified 100%: 160.0 KiB of 160.0 KiB"


def test_the_result_as_json(tmp_path: Path) -> None:
    """And nothing beside it."""
    random_file(tmp_path / "a", 3 * MIB + 1)
    sizes = ["--buffer", "256K", "--chunk", "64K"]
    done = command(tmp_path / "a", tmp_path / "b", "--json", "--buffered", *sizes)
    assert done.returncode == 0
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report.pop("seconds") > 0
    assert report == {
        "ok": True,
        "source": str(tmp_path / "a"),
        "target": str(tmp_path / "b"),
        "plan": {
            "size": 3 * MIB + 1,
            "buffer": 256 * KIB,
            "chunk": 64 * KIB,
            "depth": 16,
            "limit": None,
            "source_direct": False,
            "target_direct": False,
        },
        "copied": 3 * MIB + 1,
        "replaced": False,
        "verified": False,
    }


def test_a_failure_as_json(tmp_path: Path) -> None:
    """And for people, as without it."""
    done = command(tmp_path / "a", tmp_path / "b", "--json")
    assert done.returncode == 2
    said = f"{tmp_path}/a: No such file or directory"
    assert done.stderr == f"pinfold: {said}\n"
    assert json.loads(done.stdout) == {
        "ok": False,
        "source": str(tmp_path / "a"),
        "target": str(tmp_path / "b"),
        "error": said,
        "status": 2,
    }


@pytest.mark.parametrize("place", ["disk", "tmpfs"])
@pytest.mark.parametrize("direct", [True, False])
def test_files_of_any_size_on_any_file_system(place: str, direct: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Tails that are no page or no block, fewer bytes than a chunk, more than the buffer, none."""
    above = {"disk": str(tmp_path), "tmpfs": "/dev/shm"}[place]  # noqa: S108 - it is a tmpfs

    @settings(max_examples=40)
    @given(
        size=st.one_of(
            st.integers(0, 9 * PAGE_SIZE),
            st.builds(
                lambda pages, more: max(pages * PAGE_SIZE + more, 0),
                st.integers(0, 40),
                st.sampled_from([-513, -512, -1, 0, 1, 511, 512]),
            ),
        ),
        options=st.builds(
            lambda chunk, chunks, depth, verify: Options(
                chunk * chunks * PAGE_SIZE, chunk * PAGE_SIZE, depth, direct, verify
            ),
            st.integers(1, 3),
            st.integers(2, 5),
            st.sampled_from([1, 2, 3, 8]),
            st.booleans(),
        ),
    )
    def check(size: int, options: Options) -> None:
        with tempfile.TemporaryDirectory(dir=above) as folder:
            source, target = Path(folder, "a"), Path(folder, "b")
            content = random_file(source, size)
            looking = Looking()
            report = copied(source, target, options, looking)
            assert target.read_bytes() == content
            assert report.copied == size
            assert sorted(os.listdir(folder)) == ["a", "b"]
            places = [at for stage, at in looking.seen if stage == "copy"]
            assert places == sorted(places)
            assert not size or places[-1] == size

    check()


@settings(max_examples=30)
@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9000)), max_size=8),
    end=st.integers(0, 40 * PAGE_SIZE),
    verify=st.booleans(),
)
def test_holes_stay_holes(runs: list[tuple[int, int]], end: int, verify: bool) -> None:  # noqa: FBT001
    """The same parts hold data, and no more of the disk is used. Source: lseek(2), SEEK_DATA."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a"), Path(folder, "b")
        with source.open("wb") as file:
            for page, size in runs:
                file.seek(page * PAGE_SIZE + size % 700)
                file.write(b"x" * size)
            file.truncate(max(end, file.seek(0, os.SEEK_END)))
            os.fsync(file.fileno())  # before that, not all of its blocks are counted
        report = copied(source, target, Options(4 * PAGE_SIZE, PAGE_SIZE, 2, verify=verify))
        assert target.read_bytes() == source.read_bytes()
        assert segments(target) == segments(source)
        assert report.copied == sum(stop - start for start, stop in segments(source))
        assert target.stat().st_blocks <= source.stat().st_blocks


def test_many_small_runs(tmp_path: Path) -> None:
    """Every second page is a hole."""
    with (tmp_path / "a").open("wb") as file:
        for page in range(0, 600, 2):
            file.seek(page * PAGE_SIZE)
            file.write(page.to_bytes(2, "little") * (PAGE_SIZE // 2))
    looking = Looking()
    options = Options(chunk=16 * PAGE_SIZE, verify=True)
    report = copied(tmp_path / "a", tmp_path / "b", options, looking)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert segments(tmp_path / "b") == segments(tmp_path / "a")
    assert report.copied == 300 * PAGE_SIZE
    assert sum(stage == "copy" for stage, _ in looking.seen) == -(-300 // 16)


def test_only_the_tail_goes_through_the_page_cache(tmp_path: Path) -> None:
    """Of what was copied past it, the kernel keeps the last page and no other."""
    random_file(tmp_path / "a", 100 * PAGE_SIZE + 10)
    report = copied(tmp_path / "a", tmp_path / "b", Options())
    if not report.plan.target_direct:
        pytest.skip("this file system takes no direct I/O")
    with (tmp_path / "b").open("rb") as file:
        size = 101 * PAGE_SIZE
        address = calls.mmap(0, size, abi.PROT_READ, abi.MAP_SHARED, file.fileno(), 0)
        cached = [page for page, flags in enumerate(calls.mincore(address, size, 101)) if flags & 1]
        calls.munmap(address, size)
    assert cached == [100]


def test_a_file_of_nothing_but_a_hole(tmp_path: Path) -> None:
    """A terabyte, at once."""
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 1 << 40)
    done = command(tmp_path / "a", tmp_path / "b", "--verify", "-q")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").stat().st_size == 1 << 40
    assert (tmp_path / "b").stat().st_blocks == 0
    assert "1 TiB of it holes, verified" in done.stdout


def test_a_directory_gets_the_file(tmp_path: Path) -> None:
    content = random_file(tmp_path / "a", 5000)
    (tmp_path / "folder").mkdir()
    for name in ("folder", "folder/"):
        report = copied(tmp_path / "a", Path(tmp_path, name))
        assert report.target == str(tmp_path / "folder" / "a")
    assert (tmp_path / "folder" / "a").read_bytes() == content


def test_the_mode_of_a_new_file(tmp_path: Path) -> None:
    """As in cp: the source's, less the umask, and without set-user-ID."""
    random_file(tmp_path / "a", 1)
    for mode, umask, expected in [(0o4755, 0o022, 0o755), (0o666, 0o027, 0o640), (0o444, 0, 0o444)]:
        (tmp_path / "a").chmod(mode)
        (tmp_path / "b").unlink(missing_ok=True)
        former = os.umask(umask)
        try:
            copied(tmp_path / "a", tmp_path / "b")
        finally:
            assert os.umask(former) == umask
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == expected


def test_a_file_that_is_replaced_keeps_its_mode_and_its_owner(tmp_path: Path) -> None:
    """But it is another file: who has the former one open, or linked, still has it."""
    content = random_file(tmp_path / "a", 5000)
    (tmp_path / "b").write_bytes(b"former")
    (tmp_path / "b").chmod(0o640)
    os.link(tmp_path / "b", tmp_path / "link")
    if os.geteuid() == 0:
        os.chown(tmp_path / "b", 12, 34)
    before = (tmp_path / "b").stat()
    report = copied(tmp_path / "a", tmp_path / "b")
    after = (tmp_path / "b").stat()
    assert report.replaced
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert (tmp_path / "b").read_bytes() == content
    assert (tmp_path / "link").read_bytes() == b"former"


def test_links_are_followed_on_both_sides(tmp_path: Path) -> None:
    """What DST points to is replaced, beside it and not beside the link."""
    content = random_file(tmp_path / "a", 5000)
    (tmp_path / "from").symlink_to("a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(b"former")
    (tmp_path / "to").symlink_to("folder/b")
    copied(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to").is_symlink()
    assert (tmp_path / "folder" / "b").read_bytes() == content
    assert not (tmp_path / "folder" / "b").is_symlink()


def test_a_path_from_here(tmp_path: Path) -> None:
    """With no directory in it."""
    random_file(tmp_path / "a", 5000)
    done = subprocess.run(
        [*COMMAND, "a", "b", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").stat().st_size == 5000


def test_a_block_device(tmp_path: Path) -> None:
    """It has no holes, and its size is where it ends."""
    content = random_file(tmp_path / "image", 300 * KIB)
    with loop_device(tmp_path / "image") as device:
        report = copied(Path(device), tmp_path / "b", Options(verify=True))
    assert (tmp_path / "b").read_bytes() == content
    assert report.copied == len(content)


REFUSALS = {
    "nowhere b": "No such file or directory",
    "a/ b": "Not a directory",
    "folder b": "is a directory; name a regular file",
    "fifo b": "is a FIFO, which has no size",
    "/dev/null b": "is a character device",
    "a missing/b": "there is no directory missing; make it first",
    "a missing/": "missing/ is no directory that is there",
    "a taken": "taken/a is a directory; a file does not replace one",
    "a a": "a and a are the same file",
    "a hard": "a and hard are the same file",
    "a soft": "a and soft are the same file",
    "a .": "a and ./a are the same file",
    "a dangling": "dangling is a symbolic link to nothing",
    "a around": "around is a loop of symbolic links",
    "a fifo": "fifo is no regular file",
    "a /dev/null": "/dev/null is no regular file",
    "a /proc/b": "no file can be made in /proc",
    "a b --chunk 5000": "a chunk of 5000 bytes is not whole pages of",
    "a b --buffer 4096": "does not hold two chunks",
    "a b --buffer 1M --chunk 1M": "does not hold two chunks of 1 MiB",
    "large b --chunk 64M": "two chunks of 64 MiB are more than the 32 MiB that are pinned by",
    "a b --depth 0": "a depth of 0 is not from 1 to 4096",
}


@pytest.mark.parametrize("arguments", REFUSALS)
def test_what_is_refused(arguments: str, tmp_path: Path) -> None:
    """Exit status 2, one line that says why, and every name is as it was."""
    random_file(tmp_path / "a", 5000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo")
    os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 30)
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "around").symlink_to("around")
    before = sorted((path.name, path.lstat()[:7]) for path in tmp_path.rglob("*"))
    done = subprocess.run(
        [*COMMAND, *arguments.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert REFUSALS[arguments] in done.stderr
    assert done.stderr.startswith("pinfold: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted((path.name, path.lstat()[:7]) for path in tmp_path.rglob("*")) == before


def test_a_name_that_cannot_be_printed(tmp_path: Path) -> None:
    """A line stays a line."""
    name = os.fsdecode(b"a\nb\xff")
    random_file(tmp_path / name, 10)
    done = command(tmp_path / name, tmp_path / "b", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/a\\nb\\udcff -> ")
    done = command(tmp_path / "b" / name, tmp_path / "b")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_what_was_settled_is_told(tmp_path: Path) -> None:
    """Before the first byte."""
    random_file(tmp_path / "a", 192 * KIB)
    sizes = ["--buffer", "1M", "--chunk", "64K"]
    done = command(tmp_path / "a", tmp_path / "b", "-q", "-v", "--buffered", *sizes)
    assert done.stderr.splitlines() == [
        "source: 192 KiB, through the page cache",
        "copy:   through the page cache",
        "buffer: 192 KiB, pinned once for each file",
        "chunks: 64 KiB, up to 16 under way on each side",
    ]


def test_the_demo_and_the_help_do_without_a_ring() -> None:
    """To load the command loads no bus."""
    program = (
        "import sys, pinfold.cli.main; "
        "assert not any(m.startswith('pinfold.buses') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
