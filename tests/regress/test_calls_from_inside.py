"""Who is inside a lock, a table or a fork, from the instant that it is so."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pinfold as pf
from pinfold.memory.locks import KernelLock
from tests.programs import run

FORK = """
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
kernel = pf.Kernel()
from pinfold.dialects import aix
inside, go_on = threading.Event(), threading.Event()
with aix.Process(kernel) as process:
    vmo = pf.Vmo(PAGE_SIZE)
    start = int(process.root.map(vmo, 3).address)

    def interceptor(name):
        if name == "mlock":
            inside.set()
            go_on.wait()

    def pin():
        with process:
            assert aix.pin(start, PAGE_SIZE) == 0

    thread = threading.Thread(target=pin)
    calls.set_interceptor(interceptor)
    thread.start()
    inside.wait()
    calls.set_interceptor(None)
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(aix.pin(start, PAGE_SIZE))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    go_on.set()
    thread.join()
    assert aix.unpin(start, PAGE_SIZE) == 0
print(json.dumps(status))
vmo.close()
process.exit()
"""


def test_a_fork_in_the_middle_of_a_pin_does_not_hang_the_child() -> None:
    """The table's lock was the parent's, and was waited for."""
    assert run(FORK) == 22


def test_a_lock_is_its_owner_s_from_the_instant_it_is_taken() -> None:
    """A signal between taking it and noting the owner found a stranger's lock, and waited."""
    lock = KernelLock()
    inner: Any = lock._lock  # noqa: SLF001 - that instant
    inner.acquire()
    try:
        assert lock.held_here
        lock.settle()  # a finaliser: it leaves its work to whoever holds the lock
    finally:
        inner.release()
    assert not lock.held_here


def test_what_is_logged_while_something_is_pinned_is_told_after_that() -> None:
    """A handler that pins, or waits for who does, hung: it ran inside the table's lock."""
    kernel, told = pf.Kernel(), list[bool]()
    table = kernel.counted._lock  # noqa: SLF001 - nobody else could say

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            told.append(table.held_here)

    handler = Handler()
    logger = logging.getLogger("pinfold")
    logger.addHandler(handler)

    def find() -> list[Any]:
        kernel.lock.tell(lambda: logger.warning("something"))
        return []

    try:
        with pf.Process(kernel):
            kernel.counted.pin(find, owner="test")
    finally:
        logger.removeHandler(handler)
    assert told == [False]


def test_two_calls_on_one_descriptor_wait_for_each_other() -> None:
    """Both made a list, and the pins of one of them could not be undone any more."""
    from pinfold.dialects import aix

    page = aix.PAGE_SIZE
    with aix.Process(pf.Kernel()) as process:
        buffer, dp = bytearray(9 * page), aix.Xmem()
        assert aix.xmattach(buffer, 9 * page, dp, aix.USER_ADSPACE) == aix.XMEM_SUCC
        for _ in range(60):
            results: list[int] = []
            starts = [dp.vaddr, dp.vaddr + 4 * page]

            def pin(start: int, results: list[int] = results) -> None:
                with process:
                    results.append(aix.xlate_pin(dp, start, page, aix.B_READ))

            threads = [threading.Thread(target=pin, args=(start,)) for start in starts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(results) == [0, aix.EINVAL]  # the list is the first one's
            for start in starts:
                aix.xlate_unpin(dp, start, page)
            assert process.kernel.ledger.pinned_bytes == 0
        assert aix.xmdetach(dp) == aix.XMEM_SUCC
        process.exit()
