"""Memory objects made from memory objects: what they share, and what a pin has to do with it.

Run it: python examples/memory_children.py. It needs no hardware and no privilege.
"""

import threading

import pinfold as pf
from pinfold.errors import BadState

PAGE = pf.PAGE_SIZE


def main() -> None:
    kernel = pf.Kernel()
    process = pf.Process(kernel, name="example")
    with (
        process,
        pf.open_bus("sim") as bus,
        bus.initiator(0x10) as bti,
        pf.Vmo(4 * PAGE, name="ring") as ring,
    ):
        ring.write(b"entry 0", offset=0)
        ring.write(b"entry 2", offset=2 * PAGE)

        # A snapshot is a copy, of committed pages only.
        with ring.child(pf.VmoChild.SNAPSHOT, 0, ring.size) as before:
            ring.write(b"changed", offset=0)
            assert before.read(0, 7) == b"entry 0"
            print(f"the snapshot has {before.committed_ranges()} committed")

            # A parent can wait until its last child is gone, whatever keeps it.
            assert not ring.signals & pf.Signal.ZERO_CHILDREN
            threading.Thread(target=before.close).start()
            ring.wait(pf.Signal.ZERO_CHILDREN)
            print("the last child is gone")

        # A slice and a reference are other names for the same pages. Hand a part of a buffer to
        # somebody as a slice, and the rest stays yours.
        with (
            ring.child(pf.VmoChild.SLICE, 2 * PAGE, 2 * PAGE) as half,
            ring.child(pf.VmoChild.REFERENCE | pf.VmoChild.NO_WRITE) as reader,
        ):
            half.write(b"ENTRY", offset=0)
            assert reader.read(2 * PAGE, 7) == b"ENTRY 2"
            assert not reader.rights & pf.Right.WRITE

            # What is pinned through one is pinned for all.
            with bti.pin(half, 0, PAGE, perms=pf.Perm.WRITE):
                assert ring.pin_count(2 * PAGE) == 1
                try:
                    ring.decommit(2 * PAGE, PAGE)
                except BadState as error:
                    print(f"refused: {error}")
                else:
                    raise AssertionError("a pinned page was given away")

        # And while a device may be writing there is no snapshot.
        with bti.pin(ring, perms=pf.Perm.WRITE):
            try:
                ring.child(pf.VmoChild.SNAPSHOT, 0, ring.size)
            except BadState:
                print("no snapshot while pages are pinned")

        # Memory that may be taken while nobody has locked it: a cache that can be made again.
        with pf.Vmo(PAGE, discardable=True, name="cache") as cache:
            cache.lock_memory()
            cache.write(b"expensive")
            cache.unlock_memory()
            print(f"under pressure {kernel.reclaim()} bytes were taken")
            assert cache.lock_memory().discarded_size == PAGE
            assert cache.read(0, 9) == bytes(9)
    process.exit()
    print("ok")


if __name__ == "__main__":
    main()
