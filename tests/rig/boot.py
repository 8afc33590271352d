# One guest from start to end: what is sent along, what it prints, what it leaves behind.
#
# One tar goes in as a disk: the checkout, the command and guest.sh. One tar comes back as another:
# /out, the kernel's log, and last the command's status. No status means that the guest died, and
# that is the rig's failure, never the command's.
from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tests.rig import root
from tests.rig.machine import DEVICES, NVME_BYTES, OUT_BYTES, Machine
from tests.rig.tools import RigError, output, say, tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.rig.images import Images

TIMED_OUT = 124
"""The status of a command that ran past its time."""

_LEFT_OUT = {
    ".git",
    ".venv",
    ".tox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    ".import_linter_cache",
    "_build",
    "node_modules",
}
"""Of the checkout, what the guest does not need."""

_BOOT_SECONDS = 120
_TEST_SECONDS = 300
_END_SECONDS = 60
_USER = 1000
_CONSOLE = "console.log"
_LOG = "qemu.log"
_KERNEL_LOG = "dmesg.log"
_READY = "rig: ready"
_FAILED = "rig: FAILED: "


@dataclass(frozen=True)
class Job:
    """What the guest is to do."""

    command: tuple[str, ...]
    checkout: Path
    timeout: int = 600
    """Seconds, for the command."""
    bind: tuple[str, ...] = ()
    """Names of `DEVICES`, or PCI addresses, for vfio-pci."""
    user: bool = False
    """Run as uid 1000, to whom the bound groups then belong; else as root."""
    memlock: int | None = None
    """RLIMIT_MEMLOCK in KiB; None leaves the kernel's."""
    hugepages: int = 0
    """Of 2 MiB, set aside before anything else uses memory."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def addresses(self) -> list[str]:
        """PCI addresses of ``bind``."""
        return [DEVICES.get(name, name) for name in self.bind]

    def variables(self) -> dict[str, str]:
        """The command's environment."""
        folder = str(Path(sys.executable).parent)
        return {
            "PATH": f"{folder}:/usr/sbin:/usr/bin",
            "HOME": "/tmp",  # noqa: S108 - the guest's own; nobody else is in it
            "USER": "user" if self.user else "root",
            "LANG": "C.UTF-8",
            "PYTHONPATH": "/checkout/src",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # The checkout is not the user's to write to; and all is twenty times slower, but what
            # hangs is to be named before the guest ends.
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
            "PYTEST_TIMEOUT": str(min(_TEST_SECONDS, self.timeout)),
            **{f"PINFOLD_VFIO_{name.upper()}": at for name, at in DEVICES.items()},
            **self.environment,
        }

    def pack(self, disk: Path) -> None:
        """Write the tar that goes in."""
        # Compiled here it takes a second. The result is valid there as long as a file's time is.
        folders = [str(self.checkout / name) for name in ("src", "tests")]
        output(sys.executable, "-m", "compileall", "-q", *folders, check=False)
        owner = str(_USER) if self.user else ""
        settings = {
            "TIMEOUT": str(self.timeout),
            "BIND": " ".join(self.addresses()),
            "OWNER": owner,
            "HUGEPAGES": str(self.hugepages),
        }
        exports = [
            f"export {name}={shlex.quote(value)}" for name, value in self.variables().items()
        ]
        launch = [f"ulimit -l {self.memlock}"] if self.memlock is not None else []
        run = "exec su -s /bin/sh user -c 'exec sh /rig/command'" if self.user else ". /rig/command"
        texts = {
            "guest.sh": Path(__file__).with_name("guest.sh").read_text(),
            "settings": "".join(f"{n}={shlex.quote(v)}\n" for n, v in settings.items()),
            "covered": "".join(f"{path}\n" for path in root.covered()),
            "launch": "\n".join([*launch, run, ""]),
            "command": "\n".join(
                [*exports, "cd /checkout", f"exec {shlex.join(self.command)}", ""]
            ),
        }
        # Whole sectors, as any tar; and names of any length in the one way that busybox reads.
        with tarfile.open(disk, "w", format=tarfile.GNU_FORMAT) as tar:
            for name, text in texts.items():
                _add(tar, name, text.encode(), 0o755, int(time.time()))
            tar.addfile(_folder("checkout"))
            for folder, folders_in, names in os.walk(self.checkout):
                folders_in[:] = sorted(set(folders_in) - _LEFT_OUT)
                for name in sorted(names):
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # an editor's, gone meanwhile
                        about = path.stat()
                        at = str(Path("checkout", path.relative_to(self.checkout)))
                        _add(tar, at, path.read_bytes(), about.st_mode & 0o777, int(about.st_mtime))


def _folder(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    return entry


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int, modified: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), mode | 0o444, modified
    tar.addfile(entry, io.BytesIO(data))


def run(images: Images, job: Job, machine: Machine, out: Path) -> int:
    """Boot a guest, run the command, bring back what it left.

    The command's stdout and stderr appear on ours as they come.

    Args:
      images: what to boot.
      job: what to do.
      machine: on what.
      out: a folder: gets the files of the guest's /out, and console.log, dmesg.log, qemu.log.

    Returns:
      The command's exit status, as a shell says it; 124 where it ran past its time.

    A crash of QEMU's own says nothing of the command (7.2 was seen to, in one run of some forty):
    the guest is started once more, and that is said.

    Raises:
      RigError: the guest did not boot, or died; with what it said last.
    """
    try:
        return _run_once(images, job, machine, out)
    except QemuCrashed as crash:
        say(f"{crash}; once more")
        return _run_once(images, job, machine, out)


class QemuCrashed(RigError):
    """The emulator itself was ended by a signal that only a bug of its own brings."""


def _run_once(images: Images, job: Job, machine: Machine, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    (out / _KERNEL_LOG).unlink(missing_ok=True)  # of another run: a guest that dies leaves none
    with tempfile.TemporaryDirectory(prefix="pinfold-rig-") as scratch:
        work = Path(scratch)
        job.pack(work / "in")
        for name, size in (("out", OUT_BYTES), ("nvme", NVME_BYTES)):
            with (work / name).open("wb") as disk:
                disk.truncate(size)
        try:
            in_time, ended_by = _guest(images, job, machine, work)
        finally:
            # Not written there in the first place: another guest may have the same folder.
            for name in (_CONSOLE, _LOG):
                if (work / name).exists():
                    shutil.copyfile(work / name, out / name)
        status = _bring_back(work / "out", out)
        told = _text(work / _CONSOLE)
        said = _text(work / _LOG)
    if status is not None:
        if status == TIMED_OUT:
            say(f"the command ran past its {job.timeout} s")
        return status
    if in_time and -ended_by in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL):
        raise QemuCrashed(f"QEMU crashed, by {signal.Signals(-ended_by).name} (logs in {out})")
    when = "while the command ran" if _READY in told else "before it was ready"
    why = told.partition(_FAILED)[2].partition("\n")[0].strip()
    # With its own words for it, the whole log is for whoever wants to look.
    rest = f": {why}" if why else f"\n{said[:2000]}{told[-3000:]}"
    how = "died" if in_time else "hung"
    raise RigError(f"the guest {how} {when} ({images.release}; logs in {out}){rest}")


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _guest(images: Images, job: Job, machine: Machine, work: Path) -> tuple[bool, int]:
    """Run QEMU to its end: False where it had to be ended, because it was late; and its status."""
    pipes = {name: os.pipe() for name in ("stdout", "stderr")}
    writing = {name: end for name, (_, end) in pipes.items()}
    # Killed, the rig can clean nothing up: then the kernel ends the guest.
    line = [tool("setpriv"), "--pdeathsig", "KILL", "--"]
    line += machine.command(images, work, work / _CONSOLE, writing)
    with (work / _LOG).open("wb") as log:
        guest = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=writing.values()
        )
    for end in writing.values():
        os.close(end)
    # Not the rig's own descriptors: QEMU would leave a terminal that does not block.
    pumps = [
        threading.Thread(target=_pump, args=(reading, getattr(sys, name).buffer, guest))
        for name, (reading, _) in pipes.items()
    ]
    for pump in pumps:
        pump.start()
    try:
        with suppress(subprocess.TimeoutExpired):
            return True, guest.wait(_BOOT_SECONDS)
        if _READY in _text(work / _CONSOLE):
            with suppress(subprocess.TimeoutExpired):
                return True, guest.wait(job.timeout + _END_SECONDS)
        return False, 0
    finally:
        guest.kill()
        guest.wait()
        for pump in pumps:
            pump.join()


def _pump(reading: int, stream: BinaryIO, guest: subprocess.Popen[bytes]) -> None:
    """Pass on what comes, as it comes."""
    with open(reading, "rb", buffering=0) as source:
        while data := source.read(1 << 16):
            try:
                stream.write(data)
                stream.flush()
            except BrokenPipeError:  # nobody listens any more, and the guest would wait for it
                guest.kill()


def _bring_back(disk: Path, out: Path) -> int | None:
    """Unpack what the guest left; its status, or None where it left none."""
    status = None
    with suppress(tarfile.ReadError), tarfile.open(disk, "r:") as tar:
        for entry in tar:
            name = entry.name
            source = tar.extractfile(entry) if entry.isfile() else None
            if source is None:
                continue
            if name == "status":
                status = int(source.read())
            elif name == "dmesg":
                (out / _KERNEL_LOG).write_bytes(source.read())
            elif name.startswith("out/") and ".." not in Path(name).parts:
                target = out / name.removeprefix("out/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file)
    return status


def end_with_the_rig() -> None:
    """Have SIGTERM and SIGHUP interrupt as Ctrl-C does, so that the guest is ended, too."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
