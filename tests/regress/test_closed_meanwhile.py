"""`Vmo.statistics` looked the object up before it had the kernel's lock.

If another thread closed the last handle in between, it went on with a descriptor that was closed,
and that by then could be somebody else's file: its position was moved, and its size was told as the
memory of the object.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pinfold as pf
from pinfold.errors import BadHandle
from pinfold.memory.locks import KernelLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = pf.PAGE_SIZE

ACTS: dict[str, Callable[[pf.Vmo], object]] = {
    "statistics": lambda vmo: vmo.statistics(),
    "committed_ranges": lambda vmo: vmo.committed_ranges(),
    "read": lambda vmo: vmo.read(0, PAGE),
    "read to the end": lambda vmo: vmo.read(),
    "write": lambda vmo: vmo.write(b"x"),
    "commit": lambda vmo: vmo.commit(),
    "decommit": lambda vmo: vmo.decommit(),
    "zero": lambda vmo: vmo.zero(1, 2),
    "resize": lambda vmo: vmo.resize(PAGE),
    "set_stream_size": lambda vmo: vmo.set_stream_size(1),
    "view": lambda vmo: vmo.view().release(),
    "child": lambda vmo: vmo.child(pf.VmoChild.SNAPSHOT, 0, PAGE).close(),
}


@pytest.mark.parametrize("name", ACTS)
def test_what_was_closed_meanwhile_is_a_closed_handle(
    process: pf.Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The other thread closes the handle while this one waits for the kernel's lock."""
    kernel = process.kernel
    vmo = pf.Vmo(8 * PAGE, resizable=True, process=process)
    vmo.write(b"x" * PAGE)
    number = vmo.object.pages.backing.fd
    waits = threading.Event()
    found: list[object] = []

    def act() -> None:
        try:
            found.append(ACTS[name](vmo))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=act)
    enter: Any = KernelLock.__enter__

    def entering(lock: KernelLock) -> None:
        if threading.current_thread() is thread:
            waits.set()
        enter(lock)

    with kernel.lock:
        monkeypatch.setattr(KernelLock, "__enter__", entering)
        thread.start()
        waits.wait()
        vmo._entry.close_locked()  # what the other thread's close() does
        victim = os.open(tmp_path / "victim", os.O_RDWR | os.O_CREAT)
        assert victim == number  # the lowest number that is free
        os.pwrite(victim, b"theirs" * PAGE, 4 * PAGE)
        before = os.pread(victim, 16 * PAGE, 0)
    thread.join()
    try:
        assert [type(result) for result in found] == [BadHandle]
        assert os.lseek(victim, 0, os.SEEK_CUR) == 0
        assert os.pread(victim, 16 * PAGE, 0) == before
    finally:
        os.close(victim)
