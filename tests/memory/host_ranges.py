"""What the tests of host address ranges share: looks at real memory, and a model of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pinfold.host import calls, mm
from pinfold.memory.mapped import Lease, Mapped
from pinfold.memory.reservation import AddressSpace
from pinfold.sites import caller
from pinfold.units import PAGE_SIZE
from tests.user_memory import load

PAGES = 24
FILE_PAGES = 16


def reads(address: int) -> int | None:
    """The byte at ``address``, or None where reading it would fault."""
    found = load(address)
    return None if found is None else found[0]


def a_file(first: int) -> int:
    """A memfd whose page i is filled with ``first + i``."""
    fd = mm.create_memfd("regions", FILE_PAGES * PAGE_SIZE)
    for page in range(FILE_PAGES):
        calls.pwrite(fd, bytes([first + page]) * PAGE_SIZE, page * PAGE_SIZE)
    return fd


class Counted(Mapped):
    """Remembers the file's number, so that a piece can be told from another's."""

    __slots__ = ("number",)

    def __init__(self, fd: int, number: int, reach: int | None = None) -> None:
        super().__init__(fd, reach=reach)
        self.number = number

    def shows(self, page: int) -> bool:
        """True when a page of the file may be shown."""
        return self.reach is None or page * PAGE_SIZE < self.reach


@dataclass
class Model:
    """Every page: which mapping shows which page of its file, with what permissions."""

    pages: dict[int, tuple[Counted, int, int]] = field(default_factory=dict)

    def pieces(self) -> dict[int, int]:
        """How many separate ranges each mapping has, by id."""
        counts: dict[int, int] = {}
        for page, (mapped, at, _) in self.pages.items():
            before = self.pages.get(page - 1)
            if before is None or before[0] is not mapped or before[1] != at - 1:
                counts[id(mapped)] = counts.get(id(mapped), 0) + 1
        return counts


def check(space: AddressSpace, model: Model, every: list[Counted]) -> None:
    """The books, the model and what the processor would see are the same."""
    base = space.base
    seen: dict[int, tuple[Mapped, int, int]] = {}
    for piece in space.root.pieces(space.base, space.stop):
        assert piece.runs[0][0] == piece.start
        assert piece.runs[-1][1] == piece.stop
        for low, high, prot in piece.runs:
            for address in range(low, high, PAGE_SIZE):
                at = (piece.offset + address - piece.start) // PAGE_SIZE
                seen[(address - base) // PAGE_SIZE] = (piece.mapped, at, prot)
    assert seen == model.pages
    for page in range(PAGES):
        entry = model.pages.get(page)
        readable = entry is not None and entry[2] & 1 and entry[0].shows(entry[1])
        expected = entry[0].number + entry[1] if entry is not None and readable else None
        assert reads(base + page * PAGE_SIZE) == expected
    counts = model.pieces()
    for mapped in every:
        assert mapped.pieces == counts.get(id(mapped), 0)


def lend(space: AddressSpace, mapped: Mapped, low: int, high: int, needs: int) -> memoryview:
    start, stop = space.base + low * PAGE_SIZE, space.base + high * PAGE_SIZE
    lease = Lease(start, stop, needs, caller(2))

    def over(_: object) -> None:
        mapped.leases.discard(lease)
        space.lease_over(lease)

    return space.lend(mapped, lease, over)


@contextmanager
def interrupting(
    owner: Any, name: str, *, done: bool = True
) -> Iterator[pytest.ExceptionInfo[KeyboardInterrupt]]:
    """Expects a Ctrl-C, which comes right after the first call of a function, or in place of it."""
    act, left = getattr(owner, name), [1]

    def call(*arguments: Any) -> Any:
        first, left[0] = left[0], 0
        result = act(*arguments) if done or not first else None
        if first:
            raise KeyboardInterrupt
        return result

    setattr(owner, name, call)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            yield caught
    finally:
        setattr(owner, name, act)
