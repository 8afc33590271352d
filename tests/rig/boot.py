# One guest from start to end: what is sent along, what it prints, what it leaves behind.
#
# One tar goes in as a disk: the checkout, the command and guest.sh. One tar comes back as another:
# /out, the kernel's log, and last the command's status. No status means that the guest died, and
# that is the rig's failure, never the command's.
from __future__ import annotations

import io
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
_END_SECONDS = 60
_USER = 1000
_READY = b"rig: ready"
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
    """Of 2 MiB, reserved at boot."""
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
            # The checkout is not the user's to write to; and all is twenty times slower.
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
            "PYTEST_TIMEOUT": str(self.timeout),
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
            "HUGEPAGES": str(self.hugepages or ""),
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


@dataclass
class _Watched:
    """What has been seen of a guest so far."""

    console: bytearray = field(default_factory=bytearray)
    ready: bool = False
    late: bool = False


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

    Raises:
      RigError: the guest did not boot, or died; with what it said last.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pinfold-rig-") as scratch:
        work = Path(scratch)
        job.pack(work / "in")
        for name, size in (("out", OUT_BYTES), ("nvme", NVME_BYTES)):
            with (work / name).open("wb") as disk:
                disk.truncate(size)
        pad = (work / "in").stat().st_size
        os.truncate(work / "in", -(-pad // 512) * 512)
        append = f"{machine.append} hugepages={job.hugepages}" if job.hugepages else machine.append
        seen = _watch(
            Machine(machine.mebibytes, machine.accelerator, append, machine.arguments),
            images,
            work,
            job.timeout,
            out / "qemu.log",
        )
        (out / "console.log").write_bytes(seen.console)
        status = _bring_back(work / "out", out)
    said = (out / "qemu.log").read_text(errors="replace")
    if status is not None:
        if status == TIMED_OUT:
            say(f"the command ran past its {job.timeout} s")
        return status
    when = "while the command ran" if seen.ready else "before it was ready"
    how = "hung" if seen.late else "died"
    told = bytes(seen.console).decode(errors="replace")
    why = told.partition(_FAILED)[2].partition("\n")[0].strip()
    # With its own words for it, the whole log is for whoever wants to look.
    rest = f": {why}" if why else f"\n{said[:2000]}{told[-3000:]}"
    raise RigError(f"the guest {how} {when} ({images.release}; logs in {out}){rest}")


def _watch(machine: Machine, images: Images, work: Path, seconds: int, log: Path) -> _Watched:
    """Run QEMU to its end, or end it when it is late."""
    seen = _Watched()
    pipes = {name: os.pipe() for name in ("console", "stdout", "stderr")}
    with selectors.DefaultSelector() as selector, log.open("wb") as qemu_log:
        try:
            line = machine.command(images, work, {name: w for name, (_, w) in pipes.items()})
            # Killed, the rig can clean nothing up: then the kernel ends the guest.
            line = [tool("setpriv"), "--pdeathsig", "KILL", "--", *line]
            guest = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=qemu_log,
                stderr=qemu_log,
                pass_fds=[writing for _, writing in pipes.values()],
            )
        except BaseException:
            for reading, _ in pipes.values():
                os.close(reading)
            raise
        finally:
            for _, writing in pipes.values():
                os.close(writing)
        for name, (reading, _) in pipes.items():
            selector.register(reading, selectors.EVENT_READ, name)
        try:
            _follow(selector, seen, guest, seconds)
        finally:
            # On an interrupt, too: no guest outlives its rig.
            if guest.poll() is None and selector.get_map():
                guest.kill()
            guest.wait()
            for key in list(selector.get_map().values()):
                os.close(key.fd)
    return seen


def _follow(
    selector: selectors.BaseSelector, seen: _Watched, guest: subprocess.Popen[bytes], seconds: int
) -> None:
    """Pass on what the guest prints until it has closed everything."""
    deadline = time.monotonic() + _BOOT_SECONDS
    while selector.get_map():
        left = deadline - time.monotonic()
        if left <= 0 and not seen.late:
            seen.late = True
            guest.kill()
        for key, _ in selector.select(max(left, 0.1)):
            data = os.read(key.fd, 1 << 16)
            if not data:
                selector.unregister(key.fd)
                os.close(key.fd)
            elif key.data == "console":
                seen.console += data
                if not seen.ready and _READY in seen.console:
                    seen.ready = True
                    deadline = time.monotonic() + seconds + _END_SECONDS
            else:
                stream = getattr(sys, key.data).buffer
                stream.write(data)
                stream.flush()


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
                (out / "dmesg.log").write_bytes(source.read())
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
