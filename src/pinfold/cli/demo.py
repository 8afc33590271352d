# The main job, from end to end: pin pages of a memory object, grant a device access to exactly
# those, let the device move real data, take the access back. Then the wall, tried from outside.
#
# Nothing is staged: the file is real, the memory is real, the bytes are moved by device models that
# know device addresses and nothing else, and each step is judged by what is in memory afterwards.
from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from pinfold.bus import Fault
from pinfold.cli.text import counted, fault_text, sized
from pinfold.devices.copier import Copier
from pinfold.devices.edu import Edu
from pinfold.drivers.copier import CopierDriver
from pinfold.drivers.edu import EduDriver
from pinfold.errors import BadState
from pinfold.host import probe
from pinfold.objects.bti import Bti
from pinfold.objects.iommu import Iommu, open_bus
from pinfold.objects.kernel import Kernel
from pinfold.objects.pmt import Pmt
from pinfold.objects.process import Process
from pinfold.objects.vmo import Vmo
from pinfold.rights import Perm, describe_perms
from pinfold.units import KIB, MIB, PAGE_SIZE, human_size, page_count, page_up

EDU_SHARE: Final = 256 * KIB
"""Bytes that go through edu, whose own memory is 4 KiB and which moves 2 KiB at a time."""

CHUNK: Final = 4 * MIB


class UnusableFile(ValueError):
    """The file that was named cannot be moved; nothing was started."""


class FileChanged(RuntimeError):
    """The file did not stay as it was, so there is nothing to compare memory with."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, and whether it came out as it should."""

    title: str
    ok: bool
    result: str
    seconds: float
    fault: str | None = None
    """The fault record, where a device was stopped."""


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object, as it stood while the file was being moved."""

    kind: str
    name: str
    size: int | None
    pins: int
    handles: int
    note: str
    seconds: float | None
    """What it took to pin; None for what is no pin."""


@dataclass(slots=True)
class DemoReport:
    """What the demo did."""

    file: str
    size: int
    sha256: str
    bus: str
    isolates: bool
    steps: list[Step] = field(default_factory=list)
    wall: list[Step] = field(default_factory=list)
    objects: list[ObjectRow] = field(default_factory=list)
    peak_pinned_bytes: int = 0
    left: dict[str, int] = field(default_factory=dict)
    """Objects, pins and leaks of the kernel after everything was closed; all 0 but the process."""

    @property
    def ok(self) -> bool:
        """True when every step did what it should and nothing was left."""
        return all(step.ok for step in self.steps + self.wall) and not any(self.left.values())

    def as_dict(self) -> dict[str, Any]:
        """The report for ``--json``; sizes in bytes, times in seconds."""
        return {"ok": self.ok, **asdict(self)}


def default_file() -> Path:
    """The running Python's shared library, or its executable where it has none."""
    directory, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    if directory and name:
        library = Path(directory, name)
        if library.is_file() and library.suffix != ".a":
            return library
    return Path(os.path.realpath(sys.executable))


def run(path: Path | None, bus_name: str) -> DemoReport:
    """Do it all.

    Args:
      path: the file to move; `default_file` if None.
      bus_name: ``sim`` or ``stub``.

    Raises:
      UnusableFile: it cannot be read, is empty, or does not fit in memory twice.
      FileChanged: it changed while it was being read.
      What pinning it raises: NoMemory, where other programs were faster.
    """
    path = path or default_file()
    try:
        size = path.stat().st_size
        if not path.is_file() or not size:
            raise UnusableFile(f"{path} is empty or no regular file")
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from error
    # Before the first byte is read: 40 GiB take a minute, and to fill memory ends some process.
    needed, available = 2 * page_up(size), probe.available_memory()
    if needed > available:
        raise UnusableFile(
            f"{path} and its copy need {human_size(needed)} of memory, "
            f"and {human_size(available)} is available"
        )
    hashed = hashlib.sha256()
    for data in _contents(path, size):
        hashed.update(data)

    kernel = Kernel()
    process = Process(kernel, name="demo")
    try:
        with process, open_bus(bus_name) as iommu:
            isolates = iommu.limits.isolates
            report = DemoReport(str(path), size, hashed.hexdigest(), bus_name, isolates)
            _Demo(iommu, path, size, report).run()
    finally:
        process.exit()
    statistics = kernel.statistics()
    report.peak_pinned_bytes = statistics.ledger.peak_bytes
    report.left = {
        "objects": statistics.objects,
        "pins": statistics.ledger.pins,
        "leaks": statistics.leaks,
    }
    return report


def _contents(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file, which are ``size``: a file in sysfs says 4096 and has what it likes."""
    changed = f"{path} changed while it was being read: {counted(size, 'byte')} at first, then "
    done = 0
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                done += len(data)
                if done > size:
                    raise FileChanged(f"{changed}more")
                yield data
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from error
    if done < size:
        raise FileChanged(f"{changed}{done}")


class _Demo:
    """The steps, with what they share."""

    def __init__(self, iommu: Iommu, path: Path, size: int, report: DemoReport) -> None:
        self.iommu = iommu
        self.path = path
        self.size = size
        self.report = report

    def run(self) -> None:
        """Both halves: the job, then the wall."""
        with (
            self.iommu.initiator(0x10, address_bits=28, name="edu") as edu_bti,
            self.iommu.initiator(0x20, name="copier") as copier_bti,
            Vmo(self.size, name="source") as source,
            Vmo(self.size, name="target") as target,
        ):
            edu = Edu(edu_bti.master())
            with (
                EduDriver(edu, edu_bti) as edu_driver,
                CopierDriver(Copier(copier_bti.master()), copier_bti) as copier,
            ):
                self._step("load the file into a memory object", lambda: self._load(source))
                self._step(
                    f"edu, a 28-bit device, moves {sized(self._share)} of it",
                    lambda: self._by_edu(edu_driver, edu_bti, source, target),
                )
                self._step(
                    "a scatter-gather engine moves all of it",
                    lambda: self._by_copier(copier, copier_bti, source, target),
                )
                self._wall(edu_driver, edu_bti)

    # The job ------------------------------------------------------------------------------------

    @property
    def _share(self) -> int:
        return min(self.size, EDU_SHARE)

    def _load(self, source: Vmo) -> tuple[bool, str]:
        source.commit()  # asks the host first: a write past its memory would end some process
        loaded, at = hashlib.sha256(), 0
        for data in _contents(self.path, self.size):
            source.write(data, at)
            loaded.update(data)
            at += len(data)
        if loaded.hexdigest() != self.report.sha256:
            raise FileChanged(f"{self.path} changed while it was being read: its bytes are others")
        good = _digest(source, self.size) == self.report.sha256
        pages = counted(page_count(self.size), "page")
        return good, f"{sized(self.size)} in {pages}, SHA-256 {_verdict(good)}"

    def _by_edu(self, driver: EduDriver, bti: Bti, source: Vmo, target: Vmo) -> tuple[bool, str]:
        share = -(-self._share // PAGE_SIZE) * PAGE_SIZE
        with (
            bti.pin(source, 0, share, perms=Perm.READ) as reading,
            bti.pin(target, 0, share, perms=Perm.WRITE) as writing,
        ):
            transfers = driver.transfer(reading, writing, self._share)
            highest = int(max(reading.addrs.max(), writing.addrs.max()))
        good = _digest(source, self._share) == _digest(target, self._share)
        moved = counted(transfers, "DMA transfer")
        return (
            good,
            f"{moved}, no page above {highest:#x}, SHA-256 {'equal' if good else 'differs'}",
        )

    def _by_copier(
        self, driver: CopierDriver, bti: Bti, source: Vmo, target: Vmo
    ) -> tuple[bool, str]:
        target.zero()
        start = perf_counter()
        with bti.pin(source, perms=Perm.READ) as reading:
            between = perf_counter()
            with bti.pin(target, perms=Perm.WRITE) as writing:
                pinned = perf_counter()
                done = driver.copy(writing, reading, self.size)
                took = perf_counter() - pinned
                times = {reading: between - start, writing: pinned - between}
                self._list_objects(source, target, times)
        good = _digest(target, self.size) == self.report.sha256
        rate = human_size(int(self.size / took))
        work = counted(done.descriptors, "descriptor")
        return good, f"{work}, {rate}/s, SHA-256 {_verdict(good)}"

    def _list_objects(self, source: Vmo, target: Vmo, pins: dict[Pmt, float]) -> None:
        """The objects as they stand while the pins are live; ``pins`` with the time each took."""
        rows = self.report.objects
        for vmo in (source, target):
            facts = vmo.statistics()
            note = "all committed and pinned"
            if not facts.committed == facts.pinned == facts.size:
                note = f"{human_size(facts.committed)} committed, {human_size(facts.pinned)} pinned"
            rows.append(
                ObjectRow("vmo", facts.name, facts.size, facts.pins, facts.handles, note, None)
            )
        for bti in {pmt.object.bti: None for pmt in pins}:
            row = ObjectRow(
                "bti",
                bti.name,
                None,
                len(bti.pins),
                bti.handle_count,
                f"device {bti.space.initiator:#x}, {bti.space.address_bits}-bit",
                None,
            )
            rows.append(row)
        for pmt, seconds in pins.items():
            pin = pmt.statistics()
            first = pmt.extents.first
            perms = describe_perms(int(pin.perms))
            note = f"{perms} at {first:#x}"
            if pin.extents > 1:
                note = f"{perms}, {counted(pin.extents, 'extent')}"
            name = pmt.object.vmo.name
            handles = pmt.object.handle_count
            rows.append(ObjectRow("pmt", name, pin.size, 1, handles, note, seconds))

    # The wall -----------------------------------------------------------------------------------

    def _wall(self, driver: EduDriver, bti: Bti) -> None:
        """Four ways a driver goes wrong. With an IOMMU each is stopped and on record."""
        with Vmo(PAGE_SIZE, name="page") as page:
            page.write(b"keep out" * (PAGE_SIZE // 8))
            before = page.read()
            driver.store(b"STRAY!!!")

            def written() -> bool:
                return page.read() != before

            pmt = bti.pin(page, perms=Perm.READ)
            at = int(pmt.addrs[0])
            self._attempt(
                "write to memory granted for reading",
                lambda: driver.copy_from_device(at, 8),
                written,
            )
            self._attempt(
                "read past the end of the grant",
                lambda: driver.copy_to_device(at + PAGE_SIZE, 1),
                # edu reads zeros where it is stopped; without an IOMMU it reads what is there.
                lambda: not self.report.isolates or driver.load(1) != bytes(1),
            )
            pmt.unpin()
            page.write(before)
            self._attempt("write after unpin", lambda: driver.copy_from_device(at, 8), written)
            page.write(before)
            self._step("drop a token without unpin", lambda: self._drop(bti, page), wall=True)

    def _attempt(self, title: str, access: Callable[[], None], moved: Callable[[], bool]) -> None:
        """One stray access: what the bus made of it, and what is in memory afterwards."""
        faults = self.iommu.faults
        total = faults.total
        start = perf_counter()
        access()
        took = perf_counter() - start
        fault: Fault | None = faults[-1] if faults.total > total else None
        isolates = self.report.isolates
        if fault is None:
            through = moved()
            ok = through and not isolates
            result = "went through" if through else "not on record, yet nothing moved"
            result += "" if isolates else ": no IOMMU"
        elif isolates:
            ok = not moved()
            result = "stopped, not a byte moved" if ok else "on record, yet bytes moved"
        else:
            ok, result = True, "no memory at that address"
        text = None if fault is None else fault_text(fault)
        self.report.wall.append(Step(title, ok, result if ok else f"WRONG: {result}", took, text))

    def _drop(self, bti: Bti, page: Vmo) -> tuple[bool, str]:
        """Drop a token: quarantine holds the pages until the driver says the device is quiet."""
        pmt = bti.pin(page, perms=Perm.WRITE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the drop is what is being shown
            del pmt
        quarantined = bti.statistics().quarantined == 1 and page.pin_count() == 1
        refused = _refuses(lambda: bti.pin(page, perms=Perm.READ)) and _refuses(page.decommit)
        released = bti.release_quarantine() == 1 and page.pin_count() == 0
        page.decommit()
        ok = quarantined and refused and released
        return ok, (
            "quarantined, pins refused; released"
            if ok
            else f"quarantined {quarantined}, refused {refused}, released {released}"
        )

    def _step(self, title: str, act: Callable[[], tuple[bool, str]], *, wall: bool = False) -> None:
        start = perf_counter()
        ok, result = act()
        steps = self.report.wall if wall else self.report.steps
        steps.append(Step(title, ok, result if ok else f"WRONG: {result}", perf_counter() - start))


def _digest(vmo: Vmo, size: int) -> str:
    """SHA-256 of the first bytes of a memory object."""
    total = hashlib.sha256()
    for at in range(0, size, CHUNK):
        total.update(vmo.read(at, min(CHUNK, size - at)))
    return total.hexdigest()


def _verdict(good: bool) -> str:  # noqa: FBT001 - the answer to one question
    return "as on disk" if good else "NOT as on disk"


def _refuses(act: Callable[[], object]) -> bool:
    """True when the call says that the state is wrong for it."""
    try:
        act()
    except BadState:
        return True
    return False
