"""A process that is dropped and has not ended: who keeps it, and what its finaliser does."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pinfold import Kernel, Process, Vmo
from pinfold.errors import AlreadyExists, InvalidArgs
from pinfold.objects.process import current_process
from pinfold.testing import HostState
from pinfold.units import MIB
from tests.memory.host_ranges import reads as byte_at
from tests.objects.vmar.world import FAULTS, READ, RW, STREAM, P, kernel_maps


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Each test drops what it made: the host has what it had before."""
    gc.collect()
    before = HostState.now()
    yield
    gc.collect()
    assert before.difference(HostState.now()) == []


def drop(make: Callable[[], Any]) -> None:
    """Make it, drop it, and have the collector find it."""
    make()
    gc.collect()


def with_a_root(kernel: Kernel) -> int:
    return Process(kernel, name="dropped").root.base


def with_a_mapping(kernel: Kernel) -> int:
    process = Process(kernel, name="dropped")
    with Vmo(P, process=process) as vmo:
        return process.root.map(vmo, RW).address


def with_a_mapping_that_follows(kernel: Kernel) -> int:
    process = Process(kernel, name="dropped")
    with Vmo(P, process=process) as vmo:
        return process.root.map(vmo, RW | STREAM | FAULTS).address


@pytest.mark.parametrize("make", [with_a_root, with_a_mapping, with_a_mapping_that_follows])
@pytest.mark.parametrize("kept", [True, False], ids=["its kernel stays", "its kernel goes too"])
def test_a_dropped_process_gives_its_address_space_back(
    make: Callable[[Kernel], int], *, kept: bool
) -> None:
    """With one warning, which says where it was made; after some hundred there would be no more."""
    kernel = Kernel()
    with pytest.warns(ResourceWarning) as caught:
        drop(lambda: make(kernel if kept else Kernel()))
    (only,) = caught
    assert "'dropped' was dropped and had not ended" in str(only.message)
    assert __file__ in str(only.message)
    assert kernel.objects() == []


def test_a_process_with_nothing_to_end_is_dropped_in_silence(
    recwarn: pytest.WarningsRecorder,
) -> None:
    kernel = Kernel()
    drop(lambda: Process(kernel))
    ended = Process(kernel)
    assert ended.root.alive
    ended.exit()
    del ended
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert kernel.objects() == []


def a_handle(process: Process) -> Any:
    return process.root.duplicate()


def the_root(process: Process) -> Any:
    return process.root


def a_mapping(process: Process) -> Any:
    with Vmo(P, process=process) as vmo:
        vmo.write(b"kept")
        return process.root.map(vmo, READ)


def a_view(process: Process) -> Any:
    return a_mapping(process).view()


@pytest.mark.parametrize("hold", [a_handle, the_root, a_mapping, a_view])
def test_whoever_holds_a_part_of_it_keeps_the_process(hold: Callable[[Process], Any]) -> None:
    """Nothing is unmapped under a user because somebody else dropped the process."""
    kernel = Kernel()

    def make() -> tuple[Any, int]:
        process = Process(kernel)
        return hold(process), process.root.base

    held, base = make()
    gc.collect()
    (process,) = (found for found in kernel.objects() if isinstance(found, Process))
    assert process.alive
    assert [line[2] for line in kernel_maps(base, base + P)] != []
    if hold is a_view:
        assert bytes(held[:4]) == b"kept"
    if hold is a_mapping:
        assert byte_at(held.address) == ord("k")
    process.exit()
    del held


def test_the_default_process_stays() -> None:
    """Nobody but pinfold holds it."""
    koid = current_process().koid
    gc.collect()
    assert current_process().koid == koid


def test_a_process_dropped_while_another_thread_is_inside_ends_right_after() -> None:
    """A finaliser never waits for the lock."""
    kernel = Kernel()
    base = with_a_root(kernel)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with kernel.lock:
            inside.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    try:
        with pytest.warns(ResourceWarning):
            gc.collect()
        still_there = kernel_maps(base, base + P)
    finally:
        leave.set()
        holder.join()
    assert still_there != []
    assert kernel.objects() == []


def test_a_forked_child_ends_nothing_of_its_parents() -> None:
    """What the child has is a copy, and the books are the parent's."""
    process = Process(Kernel())
    assert process.root.alive
    pid = os.fork()
    if pid == 0:
        try:
            sys.unraisablehook = lambda _: os._exit(2)
            del process
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert process.root.alive
    process.exit()


# Reserving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wish",
    [
        {"size": (1 << 64) + 4 * P},
        {"size": MIB, "address": (1 << 64) + MIB},
        {"size": MIB, "address": 0},
        {"size": P + 1},
    ],
)
def test_a_root_that_no_process_can_have(wish: dict[str, int]) -> None:
    """A number that the C library would cut is refused: a map would meet somebody else's memory."""
    process = Process(Kernel())
    with pytest.raises(InvalidArgs) as caught:
        process.reserve_root(**wish)
    assert caught.value.limit is not None
    assert process.reserve_root(size=MIB).size == MIB  # it can still have another
    process.exit()


def test_what_is_in_the_way_of_a_root_is_left_alone() -> None:
    first, second = Process(Kernel()), Process(Kernel())
    base = first.reserve_root(size=MIB).base
    with pytest.raises(AlreadyExists):
        second.reserve_root(size=MIB, address=base)
    first.exit()
    second.exit()
