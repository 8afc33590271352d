"""Every public call, with every host call that it makes failing in turn.

Failing once: nothing remains granted, counted, mapped, reserved, locked or open, and the same call
works afterwards; where the call promises that nothing has changed, that is so before anything else
is done. Failing from then on, so that undoing fails as well: never reachable and unpinned.
Source: SQLite's malloc tests.
"""

from __future__ import annotations

import errno
import gc
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import PinfoldError
from pinfold.host import probe
from pinfold.testing import FailFrom, FailNth, HostCalls, HostState, check_books

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE


@dataclass
class Stage:
    """What an operation finds when it runs."""

    stack: ExitStack
    kernel: pf.Kernel
    process: pf.Process
    path: str
    fd: int
    held: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, thing: Any) -> Any:
        """Enter a context manager for the length of the stage."""
        self.held[name] = self.stack.enter_context(thing)
        return self.held[name]

    def __getitem__(self, name: str) -> Any:
        return self.held[name]


Setup = "Callable[[Stage], None]"
Operation = "Callable[[Stage], Any]"


def nothing(stage: Stage) -> None:
    """The operation makes what it needs."""


def a_vmo(stage: Stage) -> None:
    stage.keep("vmo", pf.Vmo(8 * PAGE, resizable=True)).write(b"x" * 8 * PAGE)


def a_locking_bus(stage: Stage) -> None:
    a_vmo(stage)
    stage.keep("bus", pf.open_bus("sim", anchor=pf.Anchor.MLOCK))
    stage.keep("bti", stage["bus"].initiator(1))


def a_plain_bus(stage: Stage) -> None:
    stage.keep("vmo", pf.Vmo(8 * PAGE))
    stage.keep("bus", pf.open_bus("sim"))
    stage.keep("bti", stage["bus"].initiator(1))


def a_resource(stage: Stage) -> None:
    stage.keep("resource", pf.Resource(0xFE00_0000, 4 * PAGE))


def a_locked_pin(stage: Stage) -> None:
    a_locking_bus(stage)
    stage.held["pmt"] = stage["bti"].pin(stage["vmo"], perms=RW)


def a_quarantined_pin(stage: Stage) -> None:
    a_locked_pin(stage)
    stage["pmt"].close()


def a_uring(stage: Stage) -> None:
    a_vmo(stage)
    stage.keep("bus", pf.open_bus("io_uring"))


def a_uring_device(stage: Stage) -> None:
    """With so few address bits that a pin is several buffers."""
    a_uring(stage)
    stage.keep("bti", stage["bus"].initiator(1, address_bits=28))


def a_uring_pin(stage: Stage) -> None:
    a_uring_device(stage)
    stage.held["pmt"] = stage["bti"].pin(stage["vmo"], perms=RW)


def a_uring_quarantine(stage: Stage) -> None:
    a_uring_pin(stage)
    stage["pmt"].close()


def a_port(stage: Stage) -> None:
    a_uring_pin(stage)
    stage.stack.callback(stage["pmt"].unpin)
    stage.held["master"] = stage["bti"].master()
    stage.held["at"] = int(stage["pmt"].addrs[0])


def a_disk(stage: Stage) -> None:
    a_uring(stage)
    stage.keep("bti", stage["bus"].file(stage.path, writable=True, depth=2))
    stage.held["at"] = int(stage.keep("pmt", stage["bti"].pin(stage["vmo"], perms=RW)).addrs[0])


def many(stage: Stage) -> None:
    """More than the depth, and some that are stopped."""
    at = stage["at"]
    wanted = [(write, at + page * PAGE, PAGE, 0) for page in range(9) for write in (False, True)]
    found = stage["bti"].transfer(wanted)
    assert found.moved.tolist() == [PAGE] * 16 + [0] * 2


def a_region(stage: Stage) -> None:
    a_vmo(stage)
    stage.held["root"] = stage.process.root
    stage["root"].map(stage["vmo"], OPTIONS).unmap()


def a_mapping(stage: Stage) -> None:
    a_region(stage)
    stage.held["mapping"] = stage["root"].map(stage["vmo"], OPTIONS)


def a_child_region(stage: Stage) -> None:
    a_region(stage)
    made = stage.keep("child", stage["root"].allocate(16 * PAGE, CAN_MAP))
    stage.held["mapping"] = made.map(stage["vmo"], OPTIONS)


def a_pin_in_place(stage: Stage) -> None:
    stage.keep("pinned", pf.pin(bytearray(3 * PAGE)))


OPTIONS = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
CAN_MAP = pf.VmOption.CAN_MAP_READ | pf.VmOption.CAN_MAP_WRITE


def exit_with_a_view(stage: Stage) -> None:
    """The addresses of a view outlive the process, until the view is gone."""
    view = stage["mapping"].view()
    try:
        stage.process.exit()
    finally:
        view.release()


def make_and_close(stage: Stage, make: Callable[[], Any]) -> None:
    """An operation that makes a handle; the handle is closed when the call is over."""
    stage.stack.callback(make().close)


OPERATIONS: dict[str, tuple[Callable[[Stage], None], Callable[[Stage], Any]]] = {
    "Vmo": (nothing, lambda s: make_and_close(s, lambda: pf.Vmo(4 * PAGE))),
    "Vmo resizable": (nothing, lambda s: make_and_close(s, lambda: pf.Vmo(PAGE, resizable=True))),
    "Vmo.from_fd": (nothing, lambda s: make_and_close(s, lambda: pf.Vmo.from_fd(s.fd))),
    "Vmo.from_file": (nothing, lambda s: make_and_close(s, lambda: pf.Vmo.from_file(s.path))),
    "Vmo.physical": (
        a_resource,
        lambda s: make_and_close(s, lambda: pf.Vmo.physical(s["resource"], 0xFE00_1000, PAGE)),
    ),
    "Vmo.contiguous": (
        a_plain_bus,
        lambda s: make_and_close(s, lambda: pf.Vmo.contiguous(s["bti"], 4 * PAGE)),
    ),
    "Vmo.read": (a_vmo, lambda s: s["vmo"].read()),
    "Vmo.write": (a_vmo, lambda s: s["vmo"].write(b"y" * PAGE)),
    "Vmo.commit": (a_plain_bus, lambda s: s["vmo"].commit()),
    "Vmo.decommit": (a_vmo, lambda s: s["vmo"].decommit()),
    "Vmo.zero": (a_vmo, lambda s: s["vmo"].zero(1, 3 * PAGE)),
    "Vmo.resize down": (a_vmo, lambda s: s["vmo"].resize(PAGE + 1)),
    "Vmo.resize up": (a_vmo, lambda s: s["vmo"].resize(64 * PAGE)),
    "Vmo.view": (a_vmo, lambda s: s["vmo"].view()[0]),
    "Vmo.committed_ranges": (a_vmo, lambda s: s["vmo"].committed_ranges()),
    "Vmo.statistics": (a_vmo, lambda s: s["vmo"].statistics()),
    "Resource": (
        nothing,
        lambda s: make_and_close(s, lambda: pf.Resource(0xFE00_0000, 4 * PAGE)),
    ),
    "open_bus": (nothing, lambda s: make_and_close(s, lambda: pf.open_bus("stub"))),
    "Bti.pin of absent pages": (
        a_plain_bus,
        lambda s: s.stack.callback(s["bti"].pin(s["vmo"], perms=RW).unpin),
    ),
    "Bti.pin with mlock": (
        a_locking_bus,
        lambda s: s.stack.callback(s["bti"].pin(s["vmo"], perms=RW).unpin),
    ),
    "Pmt.unpin with mlock": (a_locked_pin, lambda s: s["pmt"].unpin()),
    "Bti.release_quarantine": (a_quarantined_pin, lambda s: s["bti"].release_quarantine()),
    "Vmo.close": (a_vmo, lambda s: (s["vmo"].view()[0], s["vmo"].close())),
    "Process.root": (nothing, lambda s: s.process.root),
    "Process.reserve_root": (nothing, lambda s: s.process.reserve_root(size=pf.units.GIB)),
    "Process.exit": (a_mapping, lambda s: s.process.exit()),
    "Process.exit with a view": (a_mapping, exit_with_a_view),
    "Vmar.map": (a_region, lambda s: s["root"].map(s["vmo"], OPTIONS)),
    "Vmar.map all at once": (
        a_region,
        lambda s: s["root"].map(s["vmo"], OPTIONS | pf.VmOption.MAP_RANGE),
    ),
    "Vmar.allocate": (
        a_region,
        lambda s: make_and_close(
            s, lambda: s["root"].allocate(16 * PAGE, pf.VmOption.CAN_MAP_READ)
        ),
    ),
    "Vmar.map over a mapping": (
        a_mapping,
        lambda s: s["root"].map(s["vmo"], OPTIONS | pf.VmOption.SPECIFIC_OVERWRITE, size=4 * PAGE),
    ),
    "Vmar.destroy": (a_child_region, lambda s: s["child"].destroy()),
    "Mapping.view": (a_mapping, lambda s: s["mapping"].view()[0]),
    "Mapping.unmap": (a_mapping, lambda s: s["mapping"].unmap()),
    "Vmar.unmap a part": (
        a_mapping,
        lambda s: s["root"].unmap(s["mapping"].address + PAGE, PAGE),
    ),
    "Vmar.protect": (
        a_mapping,
        lambda s: s["root"].protect(s["mapping"].address + PAGE, PAGE, pf.VmOption.PERM_READ),
    ),
    "open_bus io_uring": (nothing, lambda s: make_and_close(s, lambda: pf.open_bus("io_uring"))),
    "initiator on io_uring": (a_uring, lambda s: make_and_close(s, lambda: s["bus"].initiator(1))),
    "Iommu.file": (a_uring, lambda s: make_and_close(s, lambda: s["bus"].file(s.path))),
    "Bti.pin on io_uring": (
        a_uring_device,
        lambda s: s.stack.callback(s["bti"].pin(s["vmo"], perms=RW).unpin),
    ),
    "Pmt.unpin on io_uring": (a_uring_pin, lambda s: s["pmt"].unpin()),
    "Bti.release_quarantine on io_uring": (
        a_uring_quarantine,
        lambda s: s["bti"].release_quarantine(),
    ),
    "Bti.master on io_uring": (a_uring_device, lambda s: s["bti"].master()),
    "BusMaster.read on io_uring": (a_port, lambda s: s["master"].read(s["at"], 6 * PAGE)),
    "BusMaster.write on io_uring": (a_port, lambda s: s["master"].write(s["at"], b"w" * 100)),
    "BusMaster.copy on io_uring": (a_port, lambda s: s["master"].copy(s["at"], s["at"] + PAGE, 9)),
    "FileInitiator.read": (a_disk, lambda s: s["bti"].read(s["at"], 2 * PAGE, at=0)),
    "FileInitiator.write": (a_disk, lambda s: s["bti"].write(s["at"] + 1, PAGE, at=3)),
    "FileInitiator.transfer": (a_disk, many),
    "FileInitiator.sync": (a_disk, lambda s: s["bti"].sync()),
    "FileInitiator.file_statistics": (a_disk, lambda s: s["bti"].file_statistics()),
    "PinnedBuffer.unpin": (a_pin_in_place, lambda s: s["pinned"].unpin()),
    "pin in place": (nothing, lambda s: s.stack.callback(pf.pin(bytearray(3 * PAGE)).unpin)),
}


ENDS = ("descriptor gone", "mapping gone", "GiB reserved")
"""What is ended is ended as far as the host lets: the rest is done, whatever one step says."""

WINDOW = "mapping left"
"""The window of a memory object stays with it, for the next call."""

MAY_CHANGE: dict[str, str | tuple[str, ...]] = {
    "Vmo.physical": "descriptor left open",  # the device memory stays with the resource
    "Vmo.commit": WINDOW,
    "Bti.pin of absent pages": WINDOW,
    "Bti.pin with mlock": WINDOW,
    "Bti.pin on io_uring": WINDOW,
    "Bti.master on io_uring": "descriptor left open",  # the memory file stays with the device
    "Vmo.close": ENDS,
    "Process.exit": ENDS,
    "Process.exit with a view": ENDS,
}
"""What a call that failed may leave otherwise than it was; every other call leaves nothing."""

CONSUMED = {
    "Pmt.unpin with mlock",
    "Pmt.unpin on io_uring",
    "Bti.release_quarantine on io_uring",
    "Bti.release_quarantine",
    "Vmo.close",
    "Process.exit",
    "Process.exit with a view",
}


def run(
    name: str, plan: HostCalls, *, again: bool
) -> tuple[BaseException | None, list[str], pf.Kernel]:
    """One operation under a plan: its error, what it left of the host, and the kernel after all."""
    setup, operation = OPERATIONS[name]
    kernel = pf.Kernel(seed=2)
    process = pf.Process(kernel, name=name)
    fd = os.memfd_create("outside", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 3 * PAGE)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"z" * (PAGE + 7))
        file.flush()
        gc.collect()
        before = HostState.now()
        error: BaseException | None = None
        with ExitStack() as stack, process:
            stage = Stage(stack, kernel, process, file.name, fd)
            setup(stage)
            ready = HostState.now()
            try:
                with plan:
                    operation(stage)
            except (PinfoldError, OSError, MemoryError) as caught:
                error = caught
            check_books(kernel)
            if again and error is not None:
                changed = [
                    line
                    for line in ready.difference(HostState.now())
                    if not line.startswith(MAY_CHANGE.get(name, ()))
                ]
                assert changed == [], f"{name}: the last of {plan.names} failed: {error!r}"
            if again and error is not None:
                settle(stage)
                setup_again(name, stage, operation)
                check_books(kernel)
            if not again:
                settle(stage)
        process.exit()
        gc.collect()
        left = before.difference(HostState.now())
    os.close(fd)
    return error, left, kernel


def settle(stage: Stage) -> None:
    """What a caller does after a failure: release whatever was put in quarantine."""
    bti = stage.held.get("bti")
    if bti is not None:
        bti.release_quarantine()


def setup_again(name: str, stage: Stage, operation: Callable[[Stage], Any]) -> None:
    """The same call once more, where its first failure left something to call it on."""
    if name not in CONSUMED:
        operation(stage)


def host_calls(name: str) -> list[str]:
    plan = HostCalls()
    error, left, _ = run(name, plan, again=False)
    assert error is None
    assert left == []
    return plan.names


@pytest.mark.parametrize("name", OPERATIONS)
def test_failing_once_leaves_nothing(name: str) -> None:
    """Whatever call fails, nothing remains, and the operation works when it is tried again."""
    names = host_calls(name)
    for n in range(1, len(names) + 1):
        for code in (errno.ENOMEM, errno.EIO):
            plan = FailNth(n, code)
            error, left, kernel = run(name, plan, again=True)
            where = f"{name}: {plan.refused} (call {n} of {names}) failed with {code}: {error!r}"
            assert error is None or isinstance(error, PinfoldError), where
            assert left == [], where
            ledger = kernel.statistics().ledger
            assert (ledger.pins, ledger.pinned_bytes) == (0, 0), where
            assert kernel.statistics().objects == 0, where
            assert kernel.leaks == [], where
            assert probe.process_memory().pinned == 0, where


@pytest.mark.parametrize("name", OPERATIONS)
def test_failing_from_then_on_never_lets_go_of_what_is_reachable(name: str) -> None:
    """With the undo failing too: pages may stay held, but nothing reachable is unpinned."""
    names = host_calls(name)
    for n in range(1, len(names) + 1):
        plan = FailFrom(n)
        error, _, kernel = run(name, plan, again=False)  # run() recounts the books at the failure
        assert error is None or isinstance(error, PinfoldError), (name, n, names, error)
        check_books(kernel)
