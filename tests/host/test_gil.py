"""The GIL is let go while the kernel works, so that a driver's other threads go on."""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from pinfold.host import abi, calls, mm, probe
from pinfold.units import MIB, HostVa, human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS


def private(size: int) -> HostVa:
    return HostVa(calls.mmap(0, size, READ_WRITE, PRIVATE, -1, 0))


@pytest.fixture
def handover() -> Iterator[Callable[[Callable[[], object]], bool]]:
    """Says whether another thread gets to run while a function runs.

    With a switch interval of an hour, no thread is ever made to give the GIL up. The other thread
    waits for it; so it runs if, and only if, the function lets it go.
    """
    start, ran = threading.Semaphore(0), threading.Event()
    over = False

    def other() -> None:
        while True:
            start.acquire()
            if over:
                return
            ran.set()

    thread = threading.Thread(target=other)
    former = sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(3600)

    def hands_over(function: Callable[[], object]) -> bool:
        ran.clear()
        start.release()
        early = ran.is_set()
        function()
        return ran.is_set() and not early

    yield hands_over
    sys.setswitchinterval(former)
    over = True
    start.release()
    thread.join()


LONG: Final = 32 * MIB
LOCK_AT_LEAST: Final = 4 * MIB
"""Bytes; locking fewer may be over before another thread is awake."""
TURNS: Final = 200
"""A call may end before the other thread is awake; that it never is awake in time is unlikely."""


def test_the_handover_fixture_sees_a_call_that_keeps_the_gil(
    handover: Callable[[Callable[[], object]], bool],
) -> None:
    """`ctypes.PyDLL` keeps it: the other thread never runs, however long the call is."""
    keeping: Any = ctypes.PyDLL(None).memset
    keeping.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    address = private(LONG)
    assert not any(handover(lambda: keeping(address, 1, LONG)) for _ in range(5))
    mm.unmap(address, LONG)


def lockable() -> int:
    """Bytes that this process may lock, up to `LONG`."""
    limit = probe.memlock_limit()
    if limit is None or probe.may_exceed_memlock():
        return LONG
    return min(LONG, limit - probe.process_memory().locked)


@pytest.mark.parametrize("name", ["populate_write", "populate_read", "lock", "resident"])
def test_a_long_call_on_memory_lets_the_gil_go(
    name: str, handover: Callable[[Callable[[], object]], bool]
) -> None:
    """A commit of many GiB takes seconds; the other threads of a driver must not stand still."""
    call = getattr(mm, name)
    size = lockable() if name == "lock" else LONG
    if size < LOCK_AT_LEAST:
        pytest.skip(f"RLIMIT_MEMLOCK leaves {human_size(size)}, and there is no CAP_IPC_LOCK")
    fd = mm.create_memfd("gil", LONG)
    done = False
    for _ in range(TURNS):
        address = mm.map_shared(fd, 0, LONG, READ_WRITE)
        done = handover(partial(call, address, size))
        mm.unmap(address, LONG)
        mm.punch(fd, 0, LONG)
        if done:
            break
    calls.close(fd)
    assert done


@pytest.mark.parametrize("name", ["memset", "memmove", "fallocate", "munmap", "pwrite", "preadv"])
def test_a_long_call_lets_the_gil_go(
    name: str, handover: Callable[[Callable[[], object]], bool]
) -> None:
    fd = mm.create_memfd("gil", LONG)
    buffer = memoryview(bytearray(LONG))
    done = False
    for _ in range(TURNS):
        address = private(LONG)
        calls.memset(address, 1, LONG)
        acts: dict[str, Callable[[], object]] = {
            "memset": partial(calls.memset, address, 2, LONG),
            "memmove": partial(calls.memmove, address, address + LONG // 2, LONG // 2),
            "fallocate": lambda: calls.fallocate(fd, 0, 0, LONG),
            "munmap": partial(calls.munmap, address, LONG),
            "pwrite": lambda: calls.pwrite(fd, buffer, 0),
            "preadv": lambda: calls.preadv(fd, buffer, 0),
        }
        done = handover(acts[name])
        if name != "munmap":
            mm.unmap(address, LONG)
        mm.punch(fd, 0, LONG)
        if done:
            break
    calls.close(fd)
    assert done
