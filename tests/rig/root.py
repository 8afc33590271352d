# The guest's root: this interpreter, with the distributions that the tests need, on a read-only
# ext4 image.
#
# Files keep the paths that they have here, so that the virtual environment works unchanged. All
# is compiled beforehand: the guest could not write the result anywhere, and would compile it at a
# twentieth of this machine's speed, in every run.
from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from tests.rig.initramfs import static_busybox
from tests.rig.tools import RigError, output

DISTRIBUTIONS = ("numpy", "sortedcontainers", "pytest", "pytest-timeout", "hypothesis")
"""What the tests in the guest import, less the package itself: that travels with each run."""

_LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
"""Folders of the standard library and of distributions that no test in the guest opens."""

_EMPTY = ("checkout", "dev", "out", "proc", "rig", "run", "sys", "tmp")
"""Where init.sh mounts something."""

_USERS = """\
root:x:0:0:root:/tmp:/bin/sh
user:x:1000:1000:user:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/tmp:/bin/sh
"""
_GROUPS = "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"

_SEARCHED = re.compile(r"/(usr/)?lib(64|/x86_64-linux-gnu)?")
"""Where Debian's dynamic linker looks without a cache."""


def distributions() -> dict[str, importlib.metadata.Distribution]:
    """`DISTRIBUTIONS` and what they need here, by normalised name.

    Raises:
      RigError: one is not installed in this interpreter.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    open_names = list(DISTRIBUTIONS)
    while open_names:
        name = re.sub(r"[-_.]+", "-", open_names.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in DISTRIBUTIONS:
                raise RigError(
                    f"{name} is not installed in {sys.prefix}: run `make test`"
                ) from None
            continue  # a requirement of another platform or Python
        for requirement in found[name].requires or ():
            needed, _, marker = requirement.partition(";")
            if "extra" not in marker:
                open_names.append(re.split(r"[^\w.-]", needed.strip(), maxsplit=1)[0])
    return found


def key() -> list[object]:
    """What decides whether an image is still right."""
    stamps = []
    for path in (Path(sys.executable).resolve(), static_busybox()):
        about = path.stat()
        stamps.append((str(path), about.st_size, about.st_mtime_ns))
    versions = sorted((name, made.version) for name, made in distributions().items())
    made_by = Path(__file__).read_text()
    return [made_by, sys.version, sys.prefix, sys.base_prefix, stamps, versions]


def covered() -> list[str]:
    """Folders of the image that init.sh has to uncover again, for it mounts over them."""
    ours = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    return sorted(path for path in ours if path.split("/")[1] in _EMPTY)


class Stage:
    """The image's files, before they are one."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._programs: list[Path] = []

    def put(self, source: Path, at: str | None = None) -> None:
        """Copy a file or symbolic link to where it is here, or to ``at``. Once more is nothing."""
        folder = Path(os.path.realpath(source.parent))
        target = Path(f"{self.top}{at or folder / source.name}")
        if os.path.lexists(target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
        if not source.is_symlink():
            with source.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    self._programs.append(source)

    def tree(self, source: Path) -> None:
        """Copy a folder to where it is here, less `_LEFT_OUT` and what was made from C."""
        for folder, folders, names in os.walk(source):
            folders[:] = [n for n in folders if n not in _LEFT_OUT and not n.startswith("config-")]
            for name in names:
                if not name.endswith((".pyc", ".a")):
                    self.put(Path(folder, name))

    def libraries(self) -> None:
        """Add what the programs so far are linked with."""
        # One program that is not for this machine must not hide what the others need.
        told = output("ldd", *map(str, self._programs), check=False).decode()
        for name, path in set(re.findall(r"^\s+(\S+) (?:=> (/\S+) )?\(0x", told, re.MULTILINE)):
            found = Path(path or name)
            if not found.is_absolute():
                continue  # the kernel's own
            real = Path(os.path.realpath(found))
            self.put(real)
            for wanted in {str(found), f"/usr/lib/{found.name}"}:
                linked = Path(f"{self.top}{os.path.realpath(Path(wanted).parent)}", found.name)
                searched = _SEARCHED.fullmatch(str(Path(wanted).parent))
                if searched and not os.path.lexists(linked):
                    linked.parent.mkdir(parents=True, exist_ok=True)
                    linked.symlink_to(real)

    def python(self) -> None:
        """Add this interpreter, its environment and the distributions, compiled."""
        for standard in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
            if Path(standard).is_relative_to(sys.base_prefix):
                self.tree(Path(standard))
        for executable in _links(Path(sys.executable)):
            self.put(executable)
        configuration = Path(sys.prefix, "pyvenv.cfg")
        if configuration.exists():
            self.put(configuration)
        for made in distributions().values():
            for file in made.files or ():
                path = Path(os.path.normpath(str(made.locate_file(file))))
                if (
                    not _LEFT_OUT.intersection(file.parts)
                    and path.suffix != ".pyc"
                    and path.exists()
                ):
                    self.put(path)

    def compile(self) -> None:
        """Compile every module. Unchecked: nobody can change a file in the image."""
        output(
            sys.executable,
            *("-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(self.top), "-p", "/", str(self.top)),
            check=False,  # lib2to3's and numpy's templates are no modules
        )

    def system(self) -> None:
        """Add busybox under all of its names, and what a system has besides."""
        busybox = static_busybox()
        self.put(busybox, "/usr/bin/busybox")
        for name in output(str(busybox), "--list").decode().split():
            link = self.top / "usr/bin" / name
            if not os.path.lexists(link):
                link.symlink_to("busybox")
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.top / "usr" / name).mkdir(exist_ok=True)
            (self.top / name).symlink_to(f"usr/{name}")
        for name in _EMPTY:
            (self.top / name).mkdir(exist_ok=True)
        (self.top / "etc").mkdir(exist_ok=True)
        (self.top / "etc/passwd").write_text(_USERS)
        (self.top / "etc/group").write_text(_GROUPS)
        (self.top / "etc/hosts").write_text("127.0.0.1 localhost rig\n")


def _links(path: Path) -> list[Path]:
    """``path`` and what it leads to, link by link."""
    found = [path]
    while found[-1].is_symlink():
        found.append(Path(os.path.normpath(found[-1].parent / os.readlink(found[-1]))))
    return found


def write(image: Path, stage: Path) -> None:
    """Make the image.

    Args:
      image: the file, made anew.
      stage: an empty folder for the image's files; the caller removes it.

    Raises:
      RigError: a program or a distribution is missing, or the image cannot be made.
    """
    stage.chmod(0o755)  # becomes the root's own
    made = Stage(stage)
    made.python()
    made.libraries()
    made.system()
    made.compile()
    block = 4096  # of the file system, not of any memory
    sizes = [
        os.lstat(Path(folder, name)).st_size
        for folder, _, names in os.walk(stage)
        for name in names
    ]
    files = len(sizes) + sum(len(folders) + 1 for _, folders, _ in os.walk(stage))
    blocks = sum(-(-size // block) for size in sizes) + files + 4096
    output(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(block), "-m", "0"),
        *("-O", "^has_journal,^resize_inode", "-N", str(files + 512), "-E", "root_owner=0:0"),
        *("-d", str(stage), str(image), str(blocks + blocks // 20)),
    )
