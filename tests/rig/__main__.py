"""Boot a throw-away guest that has an IOMMU, and run a command of this checkout in it.

python -m tests.rig build                        the images, where they are not there yet
python -m tests.rig run --bind edu0 -- python -m pytest tests/vfio
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.rig import boot, images
from tests.rig.kernels import Kernel
from tests.rig.machine import DEVICES, Machine
from tests.rig.tools import RigError, say

RIG_FAILED = 125
INTERRUPTED = 130
CHECKOUT = Path(__file__).resolve().parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The exit status is the command's; 124: it ran past its time; 125: the rig failed.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="make the images that are not there yet")
    build.add_argument("--anew", action="store_true", help="make them whatever there is")
    run = verbs.add_parser("run", help="boot a guest and run a command in it")
    for verb in (build, run):
        verb.add_argument("--kernel-deb", type=Path, metavar="FILE", help="a linux-image package")
        verb.add_argument("--kernel", type=Path, metavar="FILE", help="a vmlinux or bzImage")
        verb.add_argument("--modules", type=Path, metavar="DIR", help="its modules")
    option = run.add_argument
    option(
        "--bind",
        default="",
        metavar="NAMES",
        help=f"for vfio-pci: {','.join(DEVICES)}, or PCI addresses",
    )
    option("--user", action="store_true", help="run as uid 1000, who owns the bound groups")
    option("--memlock", type=int, metavar="KIB", help="RLIMIT_MEMLOCK of the command")
    option("--hugepages", type=int, default=0, metavar="N", help="reserve N pages of 2 MiB")
    option("--timeout", type=int, default=600, metavar="S", help="for the command (600)")
    option("--out", type=Path, metavar="DIR", help="for the files of /out, and the logs")
    option("--env", action="append", default=[], metavar="NAME=VALUE", help="set in the guest")
    option("--mem", type=int, default=1024, metavar="MIB", help="the guest's memory (1024)")
    option("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    option("--append", action="append", default=[], metavar="ARGS", help="for the kernel")
    option("--qemu-arg", action="append", default=[], metavar="ARGS", help="for QEMU")
    option("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    return parser


def _kernel(args: argparse.Namespace) -> Kernel | None:
    for path in (args.kernel_deb, args.kernel, args.modules):
        if path is not None and not path.exists():
            raise RigError(f"there is no {path}")
    if args.kernel is not None and args.kernel_deb is not None:
        raise RigError("--kernel and --kernel-deb are two kernels: give one")
    if args.modules is not None and args.kernel is None:
        raise RigError("--modules are those of --kernel: give it, too")
    if args.kernel is None and args.kernel_deb is None:
        return None
    return Kernel(deb=args.kernel_deb, image=args.kernel, modules=args.modules)


def _run(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise RigError("no command: python -m tests.rig run [options] -- COMMAND ...")
    names = tuple(name for name in args.bind.split(",") if name)
    for name in names:
        if name not in DEVICES and ":" not in name:
            raise RigError(f"there is no device {name}: {', '.join(DEVICES)}, or a PCI address")
    for pair in args.env:
        if "=" not in pair:
            raise RigError(f"--env {pair}: say which value, NAME=VALUE")
    environment = dict(pair.partition("=")[::2] for pair in args.env)
    job = boot.Job(
        command=tuple(command),
        checkout=CHECKOUT,
        timeout=args.timeout,
        bind=names,
        user=args.user,
        memlock=args.memlock,
        hugepages=args.hugepages,
        environment=environment,
    )
    machine = Machine(args.mem, args.accel, " ".join(args.append), tuple(args.qemu_arg))
    cache = images.cache_folder()
    ready = images.ready(cache, _kernel(args))
    out = args.out or cache / "last-run"
    boot.end_with_the_rig()
    status = boot.run(ready, job, machine, out)
    if status:
        say(f"the command ended with {status}; the guest's logs are in {out}")
    return status


def main() -> int:
    """Returns the exit status."""
    args = _parser().parse_args()
    try:
        if args.verb == "run":
            return _run(args)
        made = images.ready(images.cache_folder(), _kernel(args), anew=args.anew)
        say(f"{made.release}, {made.root}")
    except (RigError, OSError) as error:
        say(str(error))
        return RIG_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
