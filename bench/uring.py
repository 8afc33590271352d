# Claim: to pin and unpin memory on the io_uring bus costs at most 5 % more than the kernel's own
# calls. Beside it, what reads and copies of files through pinned pages cost, next to other ways.
#
# The floors are the same system calls through ctypes with arguments made beforehand, and no books:
# to register and to clear one slot a gigabyte; and a loop that keeps a ring full. The loop is there
# in C, too, where there is a compiler, and with the `liburing` of PyPI where that can be imported.
# Plain preadv and pwritev take no ring at all: one request at a time.
#
# Reads are of 4 KiB, at random, past the page cache, with 32 under way. They are as fast as the
# disk of a shared machine is at the moment; what is compared is made of neighbouring moments.
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from bench.measure import Row, Scale, Subject, Timing, against, interleave
from bench.rig import RW, address_of
from bench.rings import RawRing, binding_reads, c_reads
from pinfold import Kernel, Process, Vmo, open_bus
from pinfold.errors import NotSupported
from pinfold.objects.file_initiator import FileInitiator
from pinfold.objects.iommu import Iommu
from pinfold.transfers import TRANSFER
from pinfold.units import GIB, KIB, MIB, PAGE_SIZE, human_size

_DEPTH = 32
_READS = 1024
"""Of one batch."""
_BLOCK = 4 * KIB
_PIECE = 1 * MIB
"""Of a copy."""
_WITHIN = 1.05


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    with _opened() as (process, bus):
        for size in (1 * MIB, scale.pick(256 * MIB, 2 * MIB), scale.pick(GIB, 4 * MIB)):
            yield from _pins(scale, process, bus, size)
        with tempfile.TemporaryDirectory(dir=os.environ.get("PINFOLD_BENCH_DIR")) as folder:
            path = Path(folder, "source")
            _fill(path, scale.pick(256 * MIB, 2 * MIB))
            yield from _reads(scale, process, bus, path)
            yield from _copies(scale, process, bus, path)


@contextmanager
def _opened() -> Iterator[tuple[Process, Iommu]]:
    process = Process(Kernel())
    try:
        yield process, open_bus("io_uring", process=process)
    finally:
        process.exit()


def _fill(path: Path, size: int) -> None:
    noise = np.random.default_rng(1).bytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(noise)
        file.flush()
        os.fsync(file.fileno())


# Pins ---------------------------------------------------------------------------------------------


def _pins(scale: Scale, process: Process, bus: Iommu, size: int) -> Iterator[Row]:
    with ExitStack() as stack:
        bti = stack.enter_context(bus.initiator(1))
        vmo = stack.enter_context(Vmo(size, process=process))
        vmo.commit()
        ring = stack.enter_context(RawRing(1, slots=2))
        register, clear = ring.update(address_of(vmo.view()), size), ring.update(0, 0)

        def pinfold(count: int) -> None:
            for _ in range(count):
                bti.pin(vmo, perms=RW).unpin()

        def raw(count: int) -> None:
            for _ in range(count):
                register()
                clear()

        timings = interleave({"pinfold": pinfold, "raw": raw}, scale, seconds=6)
    extra = timings["pinfold"].best - timings["raw"].best
    yield against(
        "uring",
        f"pin + unpin of {human_size(size)}",
        timings["pinfold"],
        "register + clear by ctypes",
        timings["raw"],
        scale,
        at_most=_WITHIN,
        why=f"the books cost {extra * 1e6:.0f} us more, whatever the size",
    )


# Reads --------------------------------------------------------------------------------------------


def _reads(scale: Scale, process: Process, bus: Iommu, path: Path) -> Iterator[Row]:
    count = scale.pick(_READS, 64)
    blocks = path.stat().st_size // _BLOCK
    offsets = np.random.default_rng(2).integers(0, blocks, count).astype(np.uint64) * np.uint64(
        _BLOCK
    )
    with ExitStack() as stack:
        vmo = stack.enter_context(Vmo(_DEPTH * _BLOCK, process=process))
        vmo.commit()
        file = stack.enter_context(_direct(bus, path))
        at = int(stack.enter_context(file.pin(vmo, perms=RW)).addrs[0])
        fd = _descriptor(stack, path, os.O_RDONLY)
        wanted = np.zeros(count, dtype=TRANSFER)
        wanted["address"] = at + np.arange(count) % _DEPTH * _BLOCK
        wanted["size"], wanted["at"] = _BLOCK, offsets
        view = vmo.view()
        stack.callback(view.release)

        def pinfold(rounds: int) -> None:
            for _ in range(rounds):
                file.transfer(wanted).raise_first()

        def one_by_one(rounds: int) -> None:
            buffer = [view[:_BLOCK]]
            for offset in islice(cycle(offsets.tolist()), rounds * count):
                os.preadv(fd, buffer, offset)
            buffer[0].release()

        host = address_of(view)
        ring = stack.enter_context(RawRing(_DEPTH, slots=1))
        ring.update(host, len(view))()
        subjects: dict[str, Subject] = {
            "pinfold": pinfold,
            "ctypes": ring.reads(fd, host, _BLOCK, offsets),
            "preadv": one_by_one,
        }
        others: dict[str, Callable[[], Subject | None]] = {
            "C": lambda: c_reads(_DEPTH, fd, host, len(view), _BLOCK, offsets),
            "PyPI liburing": lambda: binding_reads(stack, _DEPTH, fd, _BLOCK, offsets),
        }
        for name, make in others.items():
            subject = make()
            if subject is not None:
                subjects[name] = subject
        timings = interleave(subjects, scale, seconds=12)
    for name, text in (
        ("ctypes", "a ring by ctypes"),
        ("C", "the same ring in C"),
        ("PyPI liburing", "PyPI's liburing"),
        ("preadv", "preadv, one at a time"),
    ):
        if name in timings:
            yield against(
                "uring",
                f"{count} reads of 4 KiB at depth {_DEPTH}",
                timings["pinfold"],
                text,
                timings[name],
                scale,
            )


def _direct(bus: Iommu, path: Path, *, writable: bool = False) -> FileInitiator:
    """Past the page cache where the file system has that: the table's `preadv` does the same."""
    try:
        return bus.file(path, depth=_DEPTH, writable=writable, direct=True)
    except NotSupported:
        return bus.file(path, depth=_DEPTH, writable=writable)


def _descriptor(stack: ExitStack, path: Path, flags: int) -> int:
    try:
        fd = os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError:  # a file system without direct I/O
        fd = os.open(path, flags, 0o600)
    stack.callback(os.close, fd)
    return fd


# Copies -------------------------------------------------------------------------------------------


def _copies(scale: Scale, process: Process, bus: Iommu, path: Path) -> Iterator[Row]:
    size = path.stat().st_size
    with ExitStack() as stack:
        vmo = stack.enter_context(Vmo(2 * 8 * _PIECE, process=process))
        vmo.commit()
        target = path.with_name("target")
        fd = _descriptor(stack, path, os.O_RDONLY)
        to = _descriptor(stack, target, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(to, 0, size)
        source = stack.enter_context(_direct(bus, path))
        sink = stack.enter_context(_direct(bus, target, writable=True))
        here = int(stack.enter_context(source.pin(vmo, perms=RW)).addrs[0])
        there = int(stack.enter_context(sink.pin(vmo, perms=RW)).addrs[0])
        view = vmo.view()
        stack.callback(view.release)

        def pinfold(count: int) -> None:
            for _ in range(count):
                _copy(source, sink, here, there, size)

        def plain(count: int) -> None:
            buffer = [view[:_PIECE]]
            for _ in range(count):
                for offset in range(0, size, _PIECE):
                    os.pwritev(to, [buffer[0][: os.preadv(fd, buffer, offset)]], offset)
                os.fsync(to)
            buffer[0].release()

        def cp(count: int) -> None:
            other = path.with_name("other")
            for _ in range(count):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                subprocess.run(["cp", "--reflink=never", path, other], check=True)
                with other.open("rb") as file:
                    os.fsync(file.fileno())

        subjects: dict[str, Subject] = {"pinfold": pinfold, "plain": plain}
        if shutil.which("cp"):
            subjects["cp"] = cp
        timings = interleave(subjects, scale, seconds=15)
        if target.read_bytes() != path.read_bytes():
            raise AssertionError("what was copied differs")
    yield _copied(scale, size, timings, "plain", "preadv and pwritev of 1 MiB")
    if "cp" in timings:
        yield _copied(scale, size, timings, "cp", "cp, then fsync")


def _copied(scale: Scale, size: int, timings: dict[str, Timing], name: str, text: str) -> Row:
    what = f"copy of a file of {human_size(size)}, on disk"
    return against("uring", what, timings["pinfold"], text, timings[name], scale)


def _copy(source: FileInitiator, sink: FileInitiator, here: int, there: int, size: int) -> None:
    """Two halves of the memory take turns: one is read into while the other is written from."""
    half = 8 * _PIECE
    starts = range(0, size, half)
    batches = []
    for index, start in enumerate(starts):
        inside = index % 2 * half
        pieces = [
            (inside + piece, min(_PIECE, size - start - piece), start + piece)
            for piece in range(0, min(half, size - start), _PIECE)
        ]
        if len(batches) == 2:
            batches.pop(0).finish().raise_first()
        source.transfer([(False, here + i, s, at) for i, s, at in pieces]).raise_first()
        batches.append(sink.submit([(True, there + i, s, at) for i, s, at in pieces]))
    for batch in batches:
        batch.finish().raise_first()
    sink.sync()


assert _BLOCK % PAGE_SIZE == 0  # noqa: S101 - what direct I/O asks for everywhere
