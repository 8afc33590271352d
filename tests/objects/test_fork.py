"""A forked child shares the parent's memory, and must not touch its pins."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pinfold as pf

# Each scenario is a program of its own: pytest's process has threads and fixtures of no concern.
PRELUDE = """
import gc, os, sys, warnings
import pinfold as pf
from pinfold.errors import WrongProcess
from pinfold.host import probe
warnings.simplefilter("error")
PAGE = pf.PAGE_SIZE
RW = pf.Perm.READ | pf.Perm.WRITE
bus = pf.open_bus("sim", anchor=pf.Anchor.MLOCK)
bti = bus.initiator(1)
vmo = pf.Vmo(4 * PAGE, resizable=True)
vmo.write(b"parent")
pmt = bti.pin(vmo, perms=RW)
at = int(pmt.addrs[0])
locked = probe.process_memory().locked

def child(body):
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException as error:
            print("child:", repr(error))
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def refused(call):
    try:
        call()
    except WrongProcess:
        return True
    raise AssertionError(f"{call} worked in the child")
"""

ENDING = """
assert probe.process_memory().locked == locked
assert vmo.pin_count() == 1
assert bti.statistics().pins == 1
assert bti.master().read(at, 6) == b"parent"
pmt.unpin()
for thing in (vmo, bti, bus):
    thing.close()
print("ok")
"""


def run(body: str) -> None:
    program = PRELUDE + textwrap.dedent(body) + ENDING
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "ok\n", done.stdout + done.stderr


def test_a_child_that_drops_everything_unpins_nothing() -> None:
    """Neither finalisers nor the collector reach the parent's pins, and nothing is warned of."""
    run("""
        def body():
            global pmt, vmo, bti, bus
            del pmt, vmo, bti, bus
            gc.collect()
        assert child(body) == 0
    """)


def test_a_child_is_refused_by_name() -> None:
    """The memory is shared: a decommit in the child would empty the parent's pinned pages."""
    run("""
        def body():
            refused(pmt.unpin)
            refused(lambda: bti.pin(vmo, perms=RW))
            refused(vmo.decommit)
            refused(vmo.zero)
            refused(lambda: vmo.resize(0))
            refused(lambda: vmo.write(b"child"))
            refused(vmo.read)
            refused(bti.release_quarantine)
            refused(vmo.close)
            refused(bti.statistics)
            refused(lambda: pf.Vmo(PAGE, process=pf.current_process().__class__(bti.kernel)))
        assert child(body) == 0
    """)


def test_a_child_can_have_a_kernel_of_its_own() -> None:
    """What the child makes itself is the child's."""
    run("""
        def body():
            with pf.open_bus("sim") as own, own.initiator(1) as device, pf.Vmo(PAGE) as memory:
                memory.write(b"child")
                with device.pin(memory, perms=RW) as token:
                    assert device.master().read(int(token.addrs[0]), 5) == b"child"
        assert child(body) == 0
    """)


def test_a_fork_while_another_thread_holds_the_lock() -> None:
    """The child does not hang on a lock whose holder it does not have."""
    run("""
        import threading
        inside, leave = threading.Event(), threading.Event()
        def hold():
            with bti.kernel.lock:
                inside.set()
                leave.wait()
        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait()
        def body():
            refused(pmt.unpin)
            with pf.Vmo(PAGE) as memory:
                memory.write(b"own")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
            status = child(body)
        leave.set()
        holder.join()
        assert status == 0
    """)


def test_the_parents_lock_is_its_own() -> None:
    """os.fork in this very process leaves the parent's kernel alone."""
    kernel = pf.Kernel()
    process = pf.Process(kernel)
    with process, pf.Vmo(pf.PAGE_SIZE) as vmo:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if kernel.lost else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert not kernel.lost
        vmo.write(b"on")
    process.exit()


def test_a_childs_device_does_not_reach_the_parents_memory() -> None:
    """The port was made before the fork; the parent unpins, and the page may be anybody's."""
    run("""
        for name in ("sim", "stub"):
            with pf.open_bus(name) as other, other.initiator(2) as device, pf.Vmo(PAGE) as target:
                token = device.pin(target, perms=RW)
                port, to = device.master(), int(token.addrs[0])
                unpinned, tell = os.pipe()
                pid = os.fork()
                if pid == 0:
                    os.close(tell)
                    try:
                        os.read(unpinned, 1)
                        refused(lambda: port.write(to, b"stray"))
                        refused(lambda: port.read(to, 5))
                        refused(lambda: port.fetch(to, 5))
                        refused(lambda: port.read_into(to, memoryview(bytearray(5))))
                        refused(lambda: port.copy(to, to + 64, 5))
                    except BaseException as error:
                        print("child:", name, repr(error), flush=True)
                        os._exit(1)
                    os._exit(0)
                os.close(unpinned)
                token.unpin()
                os.write(tell, b"!")
                assert os.waitpid(pid, 0)[1] == 0
                os.close(tell)
                assert target.read() == bytes(PAGE)
    """)
