# Claim: to pin 1 GiB of committed memory and have an address for each of its pages takes at most
# three times what numpy takes to write down such a list.
#
# The subject is pin, .addrs and unpin; the floor is one numpy.arange from the first address to the
# last. The same array made in two steps (count, then multiply) is there for comparison, and so is
# the pin of an object that has a small pin in each of its parts, which costs the books more.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.measure import Row, Scale, Subject, against, interleave
from bench.rig import RW, rig
from pinfold import PAGE_SIZE, Bti, Vmo
from pinfold.units import GIB, MIB, human_size

_START = 1 << 32
_CROWD = 1024  # small pins, spread evenly


def _pin(bti: Bti, vmo: Vmo, size: int) -> Subject:
    pages = size // PAGE_SIZE

    def subject(count: int) -> None:
        for _ in range(count):
            with bti.pin(vmo, 0, size, perms=RW) as pmt:
                if len(pmt.addrs) != pages:
                    raise RuntimeError("a pin gave the wrong number of addresses")
            del pmt  # its addresses with it: the floor never holds two lists either

    return subject


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    size = scale.pick(GIB, MIB)
    pages = size // PAGE_SIZE

    def one_step(count: int) -> None:
        for _ in range(count):
            np.arange(_START, _START + size, PAGE_SIZE, dtype=np.uint64)

    def two_steps(count: int) -> None:
        for _ in range(count):
            np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_SIZE)

    with rig() as made:
        bti = made.bti(1)
        vmo = made.vmo(size)
        subjects = {"pin": _pin(bti, vmo, size), "one": one_step, "two": two_steps}
        alone = interleave(subjects, scale)
        step = max(pages // _CROWD, 1)
        crowd = [
            bti.pin(vmo, page * PAGE_SIZE, PAGE_SIZE, perms=RW) for page in range(0, pages, step)
        ]
        crowded = interleave({"pin": subjects["pin"], "one": one_step}, scale)
        for pmt in crowd:
            pmt.unpin()
    what = f"pin {human_size(size)} + addrs + unpin"
    yield against("addresses", what, alone["pin"], "numpy.arange", alone["one"], scale, at_most=3)
    yield against("addresses", what, alone["pin"], "arange(n) * page", alone["two"], scale)
    yield against(
        "addresses",
        f"{what}, beside {len(crowd):,} small pins",
        crowded["pin"],
        "numpy.arange",
        crowded["one"],
        scale,
    )
