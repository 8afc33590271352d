"""One memory object, three ways to its bytes: a mapping, a view, and a device.

Run it: python examples/map_memory.py. It shows that they are the same memory, that a mapping can be
replaced without a moment in which nothing is there, and that memory in use cannot be taken away.
"""

import pinfold as pf
from pinfold.errors import BadState


def main() -> None:
    read_write = pf.VmOption.PERM_READ | pf.VmOption.PERM_WRITE
    with (
        pf.Process(name="example") as process,
        pf.open_bus("sim") as bus,
        bus.initiator(1) as bti,
        pf.Vmo(4 * pf.PAGE_SIZE, resizable=True, name="shared") as vmo,
        pf.Vmo(pf.PAGE_SIZE, name="other") as other,
    ):
        # A mapping is at a real address, in a region that nothing else is placed in.
        mapping = process.root.map(vmo, read_write)
        through_mapping = mapping.view()
        through_mapping[:5] = b"hello"
        print(f"mapped at {mapping.address:#x}: {bytes(vmo.view(0, 5))!r} through a view")

        with bti.pin(vmo, 0, pf.PAGE_SIZE, perms=pf.Perm.WRITE) as pmt:
            bti.master().write(int(pmt.addrs[0]), b"HELLO")
            assert bytes(through_mapping[:5]) == b"HELLO"
            print("and the device wrote to the same page")

            # The device may be writing: the page cannot be given back, however it is asked for.
            for take_away in (vmo.decommit, lambda: vmo.resize(0)):
                try:
                    take_away()
                except BadState as error:
                    print(f"refused: {error.message}")
                else:
                    raise AssertionError("pinned memory was given back")

        # Somebody looks through the mapping: it cannot be unmapped under them.
        try:
            mapping.unmap()
        except BadState as error:
            print(f"refused: {error.message}")
        else:
            raise AssertionError("a mapping went away under a view")
        del through_mapping

        # The first page now shows another object. In one step: a reader never meets a hole.
        root = process.root
        over = pf.VmOption.SPECIFIC_OVERWRITE | read_write
        replaced = root.map(other, over, offset=mapping.address - root.base)
        assert replaced.address == mapping.address
        assert bytes(replaced.view(0, 5)) == bytes(5)
        assert bytes(vmo.read(0, 5)) == b"HELLO"
        print(f"replaced at {replaced.address:#x}; the memory behind it is untouched")
    process.exit()
    print("ok")


if __name__ == "__main__":
    main()
