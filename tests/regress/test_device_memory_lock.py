"""Device memory was looked up by address without the physical map's lock.

A device looks for its bytes with that lock alone, and a look-up sorts what was entered since the
last one. Two threads that sorted at once could lose a window: a device write went to nothing, or to
the simulated memory behind it, or an access ended with an IndexError inside the library.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.memory.locks import held_by_this_thread
from pinfold.memory.ranges import RangeMap

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = pf.PAGE_SIZE
BASE = 0x8000_0000
FAR = BASE + (256 << 20)


@pytest.fixture
def memory(process: pf.Process) -> Iterator[int]:
    """A file behind windows."""
    del process
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("name", ["find", "overlapping", "insert", "pop"])
def test_the_windows_are_looked_at_with_the_physical_maps_lock(
    kernel: pf.Kernel, memory: int, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Source: memory/physmap.py, `find`: the caller holds the lock for as long as it looks."""
    windows = kernel.devices._real  # noqa: SLF001 - whose lock it is, is what is tested
    original = getattr(RangeMap, name)
    without: list[str] = []

    def seen(map_: RangeMap[Any], *args: Any) -> Any:
        if map_ is windows and not held_by_this_thread(kernel.physmap.lock):
            without.append(name)
        return original(map_, *args)

    monkeypatch.setattr(RangeMap, name, seen)
    with (
        pf.Resource(BASE, 4 * PAGE, fd=memory) as resource,
        pf.Resource(FAR, PAGE, fd=memory) as other,
        pf.Vmo.physical(resource, BASE, PAGE) as vmo,
        pf.Vmo.physical(other, FAR, PAGE),
        pf.open_bus("stub") as bus,
        bus.initiator(1) as bti,
        bti.pin(vmo, perms=pf.Perm.READ) as pmt,
    ):
        bti.master().read(int(pmt.addrs[0]), 4)
    assert without == []


@pytest.mark.slow
def test_a_device_finds_its_window_while_others_come_and_go(
    process: pf.Process, memory: int
) -> None:
    """Bounded rounds, with the threads made to change places all the time."""
    os.pwrite(memory, b"here", 0)
    failed: list[BaseException] = []
    done = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with (
            pf.Resource(FAR, PAGE, fd=memory) as resource,
            pf.Vmo.physical(resource, FAR, PAGE),
            pf.open_bus("stub") as bus,
            bus.initiator(1) as bti,
        ):
            master = bti.master()

            def device() -> None:
                try:
                    while not done.is_set():
                        assert master.read(FAR, 4) == b"here"
                except BaseException as error:
                    failed.append(error)

            threads = [threading.Thread(target=device) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(1500):
                    _come_and_go(process, memory)
            finally:
                done.set()
                for thread in threads:
                    thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


def _come_and_go(process: pf.Process, memory: int) -> None:
    made = [
        pf.Resource(BASE + i * PAGE, PAGE, fd=memory, fd_offset=PAGE, process=process)
        for i in range(3)
    ]
    pf.Vmo.physical(made[0], BASE, PAGE, process=process).close()
    for resource in made:
        resource.close()
