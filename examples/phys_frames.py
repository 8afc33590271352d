"""Real physical addresses, for a device that no IOMMU stands before.

The pages are held in place by the kernel itself for as long as they are pinned, so the addresses
stay true. Nothing is protected: a device that is told a wrong address writes to anybody's memory.
That is why it takes CAP_SYS_ADMIN, and why this example only prints what a device would be told.
"""

from __future__ import annotations

import pinfold as pf
from pinfold.errors import AccessDenied, NoMemory, NotSupported, OutOfReach

READ = pf.Perm.READ


def main() -> None:
    """Pin memory, and say where it is; where that is not to be had, say why."""
    try:
        bus = pf.open_bus("phys")
    except (AccessDenied, NotSupported) as error:
        print(f"not here: {error}")
        return
    assert not bus.limits.isolates
    with bus, bus.initiator(1, name="card") as card, pf.Vmo(64 * pf.PAGE_SIZE) as vmo:
        with card.pin(vmo, perms=READ) as pmt:
            print(f"{len(pmt.addrs)} pages in {len(pmt.extents)} extent(s), held by", end=" ")
            print(pmt.statistics().anchor.value)
            for extent in pmt.extents[:3]:
                print(f"  {extent}")
            with card.pin(vmo, perms=READ) as again:  # the same pages are in the same place
                assert (again.addrs == pmt.addrs).all()

        with bus.initiator(2, address_bits=16, name="old card") as old:
            try:
                old.pin(vmo, perms=READ)
            except OutOfReach as error:
                print(f"refused: {error}")
            else:
                raise AssertionError("no page of a program's is in the first 64 KiB")

        try:
            ring = pf.Vmo.contiguous(card, 4 * pf.PAGE_SIZE, name="ring")
        except (NoMemory, NotSupported) as error:  # huge pages are the machine owner's to set aside
            print(f"no run of frames: {error}")
        else:
            with ring, card.pin(ring, perms=READ, form=pf.AddrForm.CONTIGUOUS) as pmt:
                print(f"contiguous: {pmt.extents[0]}")


if __name__ == "__main__":
    main()
    print("ok")
