"""Whole guests: what comes back of a command, and what is said when none does.

They run where the images are ready, which `python -m tests.rig build` sees to: a test run
downloads no kernel.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig import images
from tests.rig.__main__ import CHECKOUT, INTERRUPTED, RIG_FAILED
from tests.rig.boot import TIMED_OUT
from tests.rig.tools import RigError, tool

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _ready() -> None:
    try:
        for name in ("qemu-system-x86_64", "mke2fs", "busybox"):
            tool(name)
    except RigError as missing:
        pytest.skip(str(missing))
    if not list(images.cache_folder().glob("linux-image-*.deb")):
        pytest.skip("no kernel for the guest yet: python -m tests.rig build")


def rig(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.rig", "run", "--out", str(out), *arguments]


def ran(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        rig(out, *arguments), cwd=CHECKOUT, capture_output=True, text=True, check=False
    )


def test_a_command_brings_back_its_output_its_status_and_its_files(tmp_path: Path) -> None:
    """As an ordinary user with a limit, whose devices are those that were bound for them."""
    options = ["--bind", "edu0", "--user", "--memlock", "64", "--hugepages", "12"]
    found = ran(
        tmp_path,
        *options,
        *("--env", "WORD=so it is", "--", "sh", "-c"),
        'id -u; ulimit -l; echo "$WORD" >&2; stat -c %u /dev/vfio/4; ls /dev/vfio;'
        "grep -c . tests/rig/init.sh > /out/lines; mkdir /out/in; echo 1 > /out/in/it;"
        "cat /proc/sys/vm/nr_hugepages; exit 3",
    )
    assert found.returncode == 3, found.stderr
    assert found.stdout.split() == ["1000", "64", "1000", "4", "vfio", "12"]
    assert "so it is" in found.stderr.split("\n")
    script = Path(CHECKOUT, "tests/rig/init.sh").read_text()
    assert int((tmp_path / "lines").read_text()) == len([x for x in script.split("\n") if x])
    assert (tmp_path / "in/it").read_text() == "1\n"
    assert "DMAR: IOMMU enabled" in (tmp_path / "dmesg.log").read_text()


def test_a_command_past_its_time_is_ended_and_its_files_come_back(tmp_path: Path) -> None:
    found = ran(tmp_path, "--timeout", "1", "--", "sh", "-c", "echo 1 > /out/file; sleep 600")
    assert found.returncode == TIMED_OUT
    assert "ran past its 1 s" in found.stderr
    assert (tmp_path / "file").read_text() == "1\n"


def test_a_guest_that_dies_is_the_rigs_failure(tmp_path: Path) -> None:
    """Never the command's, whose status nobody knows."""
    found = ran(tmp_path, "--", "reboot", "-f")
    assert found.returncode == RIG_FAILED
    assert "the guest died while the command ran" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bind", "0000:00:1e.0"], "no device at 0000:00:1e.0"),
        (["--bind", "edu0", "--append", "intel_iommu=off"], "vfio-pci does not take 0000:00:04.0"),
        (["--hugepages", "9999"], "of 9999 huge pages there are 4"),
        (["--qemu-arg=-device nothing"], "'nothing' is not a valid device model name"),
    ],
    ids=["no-device", "no-iommu", "no-memory", "no-machine"],
)
def test_a_guest_that_is_not_ready_says_why(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    found = ran(tmp_path, *arguments, "--", "true")
    assert (found.returncode, found.stdout) == (RIG_FAILED, "")
    assert "the guest died before it was ready" in found.stderr
    assert reason in found.stderr


def test_a_kernel_that_does_not_boot_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache of its own: both of its images are made anew for it."""
    monkeypatch.setenv("PINFOLD_RIG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" + bytes(60))
    found = ran(tmp_path, "--kernel", str(tmp_path / "vmlinux"), "--", "true")
    assert found.returncode == RIG_FAILED
    assert "the guest died before it was ready (vmlinux" in found.stderr
    made = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir())
    assert made == ["kernel", "lock", "root"]
    assert "made the root image" in found.stderr
    again = ran(tmp_path, "--kernel", str(tmp_path / "vmlinux"), "--", "true")
    assert "made the" not in again.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_a_crash_of_qemu_is_told_and_the_guest_started_once_more(
    times: int, tmp_path: Path
) -> None:
    """Once: a command that makes it crash each time is not tried for ever."""
    with subprocess.Popen(
        rig(tmp_path, "--", "sh", "-c", "echo up; sleep 1000000 & wait"),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        for _ in range(times):
            assert running.stdout.readline() == "up\n"
            (guest,) = _children(running.pid)
            os.kill(guest, signal.SIGSEGV)
        if times == 1:
            assert running.stdout.readline() == "up\n"
            running.terminate()
        said = running.stderr.read()
        status = running.wait()
    assert said.count("once more") == 1
    assert said.count("SIGSEGV") == times
    assert status == (INTERRUPTED if times == 1 else RIG_FAILED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_guest_outlives_its_rig(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        rig(tmp_path, "--", "sh", "-c", "echo up; sleep 600"),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        (guest,) = _children(running.pid)
        watched = os.pidfd_open(guest)
        running.send_signal(number)
        status = running.wait()
    # Readable when the process has ended; a test that waits for one that does not is stopped.
    ended, _, _ = select.select([watched], [], [])
    os.close(watched)
    assert ended == [watched]
    assert status == (INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL)


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
