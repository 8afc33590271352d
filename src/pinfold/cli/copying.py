# The copy itself: chunks of a file go through pinned pages, several on their way on both sides.
#
# Each file is a device of its own, so the memory is pinned twice: for the source, which writes to
# it, and for the destination, which reads from it. A chunk is read into a slot of it, and written
# from there once all of it is; then the slot takes the next. Reads are handed over ahead of the
# writes, and both are waited for in the order of the file: whichever device is slower has the rest
# queued.
#
# The order at the end is kept by `destination`. What ends a copy early ends it between two chunks:
# the pins are taken back first, which waits for what is under way, and then the file is removed.
from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from heapq import merge
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from pinfold.cli.destination import Unfinished, place_for
from pinfold.cli.ending import name_of
from pinfold.cli.runs import Run, joined, slotfuls_of
from pinfold.cli.source import Source
from pinfold.errors import DmaFault, HostError, LimitReached, NoSpace
from pinfold.memory.hosterrors import from_host
from pinfold.objects.iommu import Iommu, open_bus
from pinfold.objects.kernel import Kernel
from pinfold.objects.process import Process
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm
from pinfold.units import page_down

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.bus import FileBatch
    from pinfold.cli.plan import Options, Plan
    from pinfold.objects.file_initiator import FileInitiator
    from pinfold.transfers import Outcome


class Differs(RuntimeError):
    """What was written is not what is read back."""


class Interrupted(Exception):
    """A signal asked for the end; nothing of the copy is left."""

    def __init__(self, signal: int) -> None:
        self.signal = signal
        super().__init__(name_of(signal))


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied; sizes in bytes, times in seconds."""

    source: str
    target: str
    plan: Plan
    copied: int
    """Bytes that were written; what is missing to the file's size are holes."""
    replaced: bool
    verified: bool
    seconds: float
    """All of it, verification included."""

    def as_dict(self) -> dict[str, Any]:
        """The report for ``--json``."""
        return {"ok": True, **asdict(self)}


class Watch(Protocol):
    """Who looks on."""

    def planned(self, plan: Plan) -> None:
        """What will be done."""

    def at(self, stage: str, done: int) -> None:
        """``stage`` (copy, sync, verify) has come to this byte of the file."""

    def check(self) -> None:
        """Asked between two chunks. Raises Interrupted, if that is wanted."""


def copy_file(source: str, target: str, options: Options, watch: Watch) -> CopyReport:
    """Copy a file.

    Raises:
      Refused: it cannot be done so; nothing was touched.
      FileChanged: the source did not stay as it was.
      Differs: what is read back is something else.
      Interrupted: by ``watch``.
      LimitReached: memory cannot be pinned, or not as much as asked for.
      NoSpace, HostError, NotSupported, NoMemory: the host's.

    After any of them the destination is as it was, or was not, and nothing is left beside it.
    """
    start = perf_counter()
    process = Process(Kernel(), name="copy")
    try:
        with Source(source) as reading:
            options.check(reading.size)
            place = place_for(source, reading.found, target)
            with (
                process,
                open_bus("io_uring") as bus,
                Unfinished(place, reading.size, reading.found.st_mode) as writing,
            ):
                job = _Job(bus, reading, writing, options, watch)
                copied = job.run()
                writing.publish()
    finally:
        process.exit()
    return CopyReport(
        source,
        place.path,
        job.plan,
        copied,
        place.former is not None,
        options.verify,
        perf_counter() - start,
    )


class _Side(NamedTuple):
    """A file as a device, and where it has the buffer."""

    file: FileInitiator
    base: int
    path: str


class _Part(NamedTuple):
    """A slot's runs on their way: one, or several where there are many holes."""

    slot: int
    runs: list[Run]
    wanted: list[tuple[bool, int, int, int]]
    batch: FileBatch

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(run.size for run in self.runs)

    @property
    def stop(self) -> int:
        """Where the last run ends in the files."""
        return self.runs[-1].at + self.runs[-1].size


class _Job:
    """One copy, from a source that is open to a destination that is synced."""

    plan: Plan
    _vmo: Vmo
    _in: _Side
    _out: _Side

    def __init__(
        self, bus: Iommu, source: Source, target: Unfinished, options: Options, watch: Watch
    ) -> None:
        self._bus = bus
        self._source = source
        self._target = target
        self._options = options
        self._watch = watch

    def run(self) -> int:
        """Copy, sync, and verify if that is asked for; bytes written."""
        source, target, watch = self._source, self._target, self._watch
        with ExitStack() as stack:
            self._prepare(stack)
            watch.planned(self.plan)
            copied = self._copy()
            source.check_unchanged()
            watch.check()
            target.dress()
            watch.at("sync", source.size)
            self._sync()
            if self._options.verify:
                self._verify()
        watch.check()  # the last time: after this the copy is in place
        return copied

    def _sync(self) -> None:
        try:
            self._out.file.sync()
        except (NoSpace, HostError) as error:
            if isinstance(error.__cause__, OSError):  # it knows the file by a descriptor only
                raise self._target.refusal(error.__cause__, None) from error
            raise

    # Memory -------------------------------------------------------------------------------------

    def _prepare(self, stack: ExitStack) -> None:
        """Open both files as devices, and pin a buffer for both."""
        options = self._options
        direct = None if options.direct else False
        depth = 1 << options.depth.bit_length()  # a power of two above it: a chunk may be two
        source = stack.enter_context(
            self._bus.file(self._source.fd, direct=direct, depth=depth, name="source")
        )
        target = stack.enter_context(
            self._bus.file(self._target.fd, writable=True, direct=direct, depth=depth, name="copy")
        )
        most = options.most()
        while True:
            self.plan = options.plan(
                self._source.size,
                most,
                source_direct=source.file_statistics().direct,
                target_direct=target.file_statistics().direct,
            )
            try:
                self._pin(stack, source, target)
            except LimitReached as error:
                # Other processes of the user are charged with pins that we cannot see.
                most = self.plan.buffer // 2
                if options.buffer is None and most >= options.least:
                    continue
                remedy = f"{error.remedy}, or choose a smaller --buffer or --chunk"
                raise LimitReached(error.message, **dict(error.facts()), remedy=remedy) from error
            return

    def _pin(self, stack: ExitStack, source: FileInitiator, target: FileInitiator) -> None:
        with ExitStack() as attempt:
            vmo = attempt.enter_context(Vmo(self.plan.buffer, name="buffer"))
            # To verify, the destination is read back, into other slots.
            perms = Perm.READ | Perm.WRITE if self._options.verify else Perm.READ
            filled = attempt.enter_context(source.pin(vmo, perms=Perm.WRITE))
            emptied = attempt.enter_context(target.pin(vmo, perms=perms))
            self._in = _Side(source, int(filled.extents.first), self._source.path)
            self._out = _Side(target, int(emptied.extents.first), self._target.place.path)
            self._vmo = vmo
            stack.enter_context(attempt.pop_all())

    # One slot -----------------------------------------------------------------------------------

    def _start(self, side: _Side, slot: int, runs: list[Run], *, write: bool) -> _Part:
        """Hand runs over. A tail is apart, so that the rest can go past the page cache."""
        base, wanted = side.base + slot * self.plan.chunk, []
        for place, at, size in runs:
            whole, address = page_down(size), base + place
            if whole:
                wanted.append((write, address, whole, at))
            if whole < size:
                wanted.append((write, address + whole, size - whole, at + whole))
        return _Part(slot, runs, wanted, side.file.submit(wanted))

    def _finish(self, side: _Side, part: _Part) -> None:
        """Wait for runs, and go on with those where the kernel stopped short.

        Raises:
          FileChanged, Differs: the file ends before one does.
          NoSpace, HostError, DmaFault: it was refused.
        """
        outcomes = part.batch.finish()
        if outcomes.ok and outcomes.bytes_moved == part.size:
            return
        for wanted, outcome in zip(part.wanted, outcomes, strict=True):
            self._go_on(side, wanted, outcome)

    def _go_on(self, side: _Side, wanted: tuple[bool, int, int, int], outcome: Outcome) -> None:
        write, address, size, at = wanted
        done, before = 0, -1
        while True:
            done += outcome.moved
            if outcome.errno:
                raise self._refusal(side, outcome, at + done, write=write)
            if done == size:
                return
            if done == before:  # asked for the rest alone, and nothing came
                raise self._ended(side, at + done, write=write)
            before = done
            outcome = side.file.transfer([(write, address + done, size - done, at + done)])[0]

    def _refusal(self, side: _Side, outcome: Outcome, at: int, *, write: bool) -> Exception:
        if outcome.fault is not None:
            return DmaFault(outcome.fault)
        error = OSError(outcome.errno, os.strerror(outcome.errno))
        if write:
            return self._target.refusal(error, at)
        return from_host(f"read {side.path} at byte {at}", error)

    def _ended(self, side: _Side, at: int, *, write: bool) -> Exception:
        if write:
            return self._target.refusal(OSError(errno.EIO, "nothing was written"), at)
        if side is self._in:
            return self._source.cut(at)
        return Differs(f"{side.path} differs from {self._in.path}: it ends at byte {at}")

    # All of them --------------------------------------------------------------------------------

    def _copy(self) -> int:
        """Everything that is no hole, from one file to the other; how many bytes."""
        free = list(range(self.plan.slots))
        reading: deque[_Part] = deque()
        writing: deque[_Part] = deque()
        slotfuls, copied = slotfuls_of(self._reserved(), self.plan.chunk), 0
        while True:
            self._watch.check()
            while free and len(reading) < self.plan.depth and (runs := next(slotfuls, None)):
                reading.append(self._start(self._in, free.pop(), runs, write=False))
            if reading:
                part = reading.popleft()
                self._finish(self._in, part)
                writing.append(self._start(self._out, part.slot, part.runs, write=True))
                if free and len(writing) < self.plan.depth:
                    continue
            elif not writing:
                return copied
            part = writing.popleft()
            self._finish(self._out, part)
            free.append(part.slot)
            copied += part.size
            self._watch.at("copy", part.stop)

    def _verify(self) -> None:
        """Compare what both files hold now, where either has no hole: half the slots for each.

        Raises:
          Differs: at the byte that the message names.
          FileChanged: the source is not what was copied.
        """
        self._target.forget_cached()
        both = merge(self._source.segments(), self._source.segments(self._target.fd))
        slotfuls, half = slotfuls_of(joined(both), self.plan.chunk), self.plan.slots // 2
        free, pairs = list(range(half)), deque[tuple[_Part, _Part]]()
        while True:
            self._watch.check()
            while free and (runs := next(slotfuls, None)):
                slot = free.pop()
                ours = self._start(self._in, slot, runs, write=False)
                pairs.append((ours, self._start(self._out, slot + half, runs, write=False)))
            if not pairs:
                break
            ours, theirs = pairs.popleft()
            self._finish(self._in, ours)
            self._finish(self._out, theirs)
            self._compare(ours, theirs)
            free.append(ours.slot)
            self._watch.at("verify", ours.stop)
        self._source.check_unchanged()

    def _compare(self, ours: _Part, theirs: _Part) -> None:
        found = self._first_difference(ours, theirs)
        if found is None:
            return
        self._source.check_unchanged()  # then it is no wonder
        at, source, target = found
        raise Differs(
            f"{self._out.path} differs from {self._in.path} at byte {at}: {target:#04x} was read "
            f"back for {source:#04x}; try again, and look into the kernel's log and at the medium"
        )

    def _first_difference(self, ours: _Part, theirs: _Part) -> tuple[int, int, int] | None:
        """Where in the files, and both bytes. No error is raised here: it would keep the views, and
        they the memory."""
        chunk = self.plan.chunk
        first, second = (
            np.frombuffer(self._vmo.view(part.slot * chunk, chunk), dtype=np.uint8)
            for part in (ours, theirs)
        )
        for place, at, size in ours.runs:
            source, target = first[place : place + size], second[place : place + size]
            if not np.array_equal(source, target):
                here = int(np.flatnonzero(source != target)[0])
                return at + here, int(source[here]), int(target[here])
        return None

    def _reserved(self) -> Iterator[tuple[int, int]]:
        """What is to be copied, with blocks set aside for it as it comes up."""
        for start, stop in self._source.segments():
            self._target.reserve(start, stop - start)
            yield start, stop
