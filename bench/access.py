# Claim: to translate and check a small access takes under 2 us.
#
# What is timed is a whole access of 64 bytes by a software device, the bytes' own move and the
# Python call included, at device addresses drawn at random over 1 grant, over 1,000, and over more
# grants than the bus's lookaside buffer has entries, so that nearly every access searches. The
# floor is the same bytes through a memoryview, unchecked.
from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import cycle, islice

from bench.measure import Row, Scale, Subject, Timing, absolute, against, interleave, time_text
from bench.rig import RW, rig
from pinfold import PAGE_SIZE, Pmt

_BYTES = 64
_DRAWN = 65_536
_DATA = bytes(range(_BYTES))
_GOAL = 2e-6


def run(scale: Scale) -> Iterator[Row]:
    """The rows of this claim."""
    for grants in (1, scale.pick(1_000, 10), scale.pick(65_536, 100)):
        timings = _over(scale, grants)
        for name in ("read", "write"):
            plain = timings[f"plain {name}"]
            checks = timings[name].best - plain.best
            yield absolute(
                "access",
                f"{name} of {_BYTES} bytes, random over {grants:,} grant(s)",
                timings[name],
                scale,
                below=_GOAL,
                why=f"{time_text(max(checks, 1e-9))} more than the move of the bytes alone",
            )
            yield against(
                "access",
                f"{name} of {_BYTES} bytes, random over {grants:,} grant(s)",
                timings[name],
                "memoryview slice",
                plain,
                scale,
            )


def _over(scale: Scale, grants: int) -> dict[str, Timing]:
    with rig() as made:
        bti = made.bti(1)
        vmo = made.vmo(grants * PAGE_SIZE)
        pins: list[Pmt] = [
            bti.pin(vmo, page * PAGE_SIZE, PAGE_SIZE, perms=RW) for page in range(grants)
        ]
        draw = random.Random(grants)  # noqa: S311 - a pattern to be repeated, not a secret
        drawn = [
            (draw.randrange(grants), draw.randrange(PAGE_SIZE - _BYTES)) for _ in range(_DRAWN)
        ]
        addresses = [int(pins[page].addrs[0]) + inside for page, inside in drawn]
        offsets = [page * PAGE_SIZE + inside for page, inside in drawn]
        master, view = bti.master(), vmo.view()
        read, write = master.read, master.write
        # Each round goes on where the last one stopped: begun anew, it would meet warm caches.
        # Writes walk in another order: on the heels of the reads they would find the lookaside
        # buffer filled for them.
        reads, writes = cycle(addresses), cycle(draw.sample(addresses, _DRAWN))
        plain_reads, plain_writes = cycle(offsets), cycle(offsets)

        def plain_read(count: int) -> None:
            for at in islice(plain_reads, count):
                view[at : at + _BYTES].tobytes()

        def plain_write(count: int) -> None:
            for at in islice(plain_writes, count):
                view[at : at + _BYTES] = _DATA

        def checked_read(count: int) -> None:
            for address in islice(reads, count):
                read(address, _BYTES)

        def checked_write(count: int) -> None:
            for address in islice(writes, count):
                write(address, _DATA)

        subjects: dict[str, Subject] = {
            "read": checked_read,
            "plain read": plain_read,
            "write": checked_write,
            "plain write": plain_write,
        }
        timings = interleave(subjects, scale, seconds=3)
        for pmt in pins:
            pmt.unpin()
    return timings
