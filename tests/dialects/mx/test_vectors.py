"""The vectors of the reference, as data: a set-up, calls in order, and what each gives.

Pages of ordinary memory are not next to each other: the bus is `stub`. ``b`` is a device's
authority, ``m`` the memory object of the set-up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import Out, mx

from . import things
from .things import PAGE, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Hands:
    """The handles that a vector works with, and what a pin has given."""

    b: int = 0
    m: int = 0
    r: int = 0
    addrs: Any = None
    at: list[int] = field(default_factory=list)
    """Addresses of mappings."""

    def pin(self, offset: int, size: int, perms: int = READ, room: int = 64) -> tuple[str, int]:
        """The status of a pin, and how many addresses it has."""
        found, addrs = things.attempt(self.b, self.m, offset, size, perms, room)
        if found == "OK":
            self.addrs = addrs
        return found, len(addrs)

    def decommit(self, pages: int = 1) -> str:
        return things.decommit(self.m, 0, pages * PAGE)

    def unpin(self, count: int) -> str:
        return things.unpin(self.b, self.addrs[:count])

    def set_size(self, size: int) -> str:
        return things.named(mx.mx_vmo_set_size(self.m, size))

    def map(self, flags: int, offset: int = 0) -> str:
        out = Out()
        found = mx.mx_vmar_map(self.r, offset, self.m, 0, PAGE, flags, out)
        if out.value is not None:
            self.at.append(out.value)
        return things.named(found)

    def protect(self, flags: int) -> str:
        return things.named(mx.mx_vmar_protect(self.r, self.at[0], PAGE, flags))

    def close(self, which: str) -> str:
        number = self.b if which == "b" else self.m
        return things.named(mx.mx_handle_close(number))


@dataclass(frozen=True)
class Vector:
    """One row: its number, the memory that it begins with, and steps with what they give."""

    number: int
    what: str
    memory: Callable[[], int]
    steps: tuple[tuple[Callable[[Hands], Any], Any], ...]
    strict: Literal["docs", "kernel"] | None = None

    def __str__(self) -> str:
        return f"{self.number}: {self.what}" + (f" ({self.strict})" if self.strict else "")


def with_a_hole() -> int:
    """Two pages, of which the second has no memory."""
    made = things.vmo(2 * PAGE, committed=False)
    things.fine(mx.mx_vmo_op_range, made, mx.MX_VMO_OP_COMMIT, 0, PAGE, None, 0)
    return made


def read_only() -> int:
    """A handle that lacks WRITE."""
    return things.without(mx.MX_RIGHT_WRITE, things.vmo())


def clone() -> int:
    """A copy of committed memory, nothing of which has been written."""
    source = things.vmo(PAGE)
    made: int = things.ok(mx.mx_vmo_clone, source, mx.MX_VMO_CLONE_COPY_ON_WRITE, 0, PAGE)
    things.fine(mx.mx_handle_close, source)
    return made


def device_memory() -> int:
    """A page of registers."""
    made: int = things.ok(mx.mx_vmo_create_physical, mx.root_resource(), 0xC000_0000, PAGE)
    return made


def three() -> int:
    return things.vmo(3 * PAGE)


SPECIFIC = mx.MX_VM_FLAG_SPECIFIC

VECTORS = (
    Vector(1, "one address a page", three, ((lambda h: h.pin(0, 3 * PAGE), ("OK", 3)),)),
    Vector(
        2,
        "too little room: nothing is pinned",
        three,
        (
            (lambda h: h.pin(0, 3 * PAGE, READ, 2), ("BUFFER_TOO_SMALL", 0)),
            (lambda h: h.decommit(3), "OK"),
        ),
    ),
    Vector(
        3,
        "contiguous memory has one address",
        things.contiguous,
        (
            (lambda h: h.pin(0, 3 * PAGE, READ | WRITE, 1), ("OK", 1)),
            (lambda h: int(h.addrs[0]) % PAGE, 0),
        ),
    ),
    Vector(
        4,
        "a size to the byte",
        lambda: things.vmo(5000 * PAGE // 4096),
        (
            (lambda h: h.pin(0, 5000 * PAGE // 4096), ("OK", 2)),
            (lambda h: h.pin(0, 2 * PAGE), ("OUT_OF_RANGE", 0)),
        ),
    ),
    Vector(
        5,
        "a page without memory",
        with_a_hole,
        ((lambda h: h.pin(0, 2 * PAGE), ("NOT_FOUND", 0)), (lambda h: h.decommit(), "OK")),
    ),
    Vector(
        6,
        "permissions that there are not",
        read_only,
        (
            (lambda h: h.pin(0, PAGE, 0), ("INVALID_ARGS", 0)),
            (lambda h: h.pin(0, PAGE, 8), ("INVALID_ARGS", 0)),
            (lambda h: h.pin(0, PAGE, 8 | WRITE), ("ACCESS_DENIED", 0)),
        ),
    ),
    Vector(
        7,
        "alignment before handles",
        three,
        ((lambda h: things.attempt(0, 0, 1)[0], "INVALID_ARGS"),),
    ),
    Vector(
        8,
        "as the page has it",
        three,
        (
            (lambda h: h.pin(0, PAGE), ("OK", 1)),
            (lambda h: h.pin(0, PAGE), ("ALREADY_BOUND", 0)),
        ),
    ),
    Vector(
        8,
        "as the kernel has it",
        three,
        (
            (lambda h: {h.pin(0, PAGE) for _ in range(31)}, {("OK", 1)}),
            (lambda h: h.pin(0, PAGE), ("UNAVAILABLE", 0)),
        ),
        "kernel",
    ),
    Vector(
        9,
        "an unpin names all that the pin gave",
        three,
        (
            (lambda h: h.pin(0, 3 * PAGE), ("OK", 3)),
            (lambda h: h.unpin(2), "INVALID_ARGS"),
            (lambda h: h.unpin(3), "OK"),
            (lambda h: h.unpin(3), "INVALID_ARGS"),
        ),
    ),
    Vector(
        10,
        "what is pinned stays",
        three,
        (
            (lambda h: h.pin(0, PAGE), ("OK", 1)),
            (lambda h: h.decommit(), "BAD_STATE"),
            (lambda h: h.set_size(0), "BAD_STATE"),
            (lambda h: h.set_size(4 * PAGE), "OK"),
        ),
    ),
    Vector(
        11,
        "the last handle to the device takes its pins along",
        three,
        (
            (lambda h: h.pin(0, PAGE), ("OK", 1)),
            (lambda h: h.close("b"), "OK"),
            (lambda h: h.decommit(), "OK"),
        ),
    ),
    Vector(
        12,
        "the last handle to the memory does not",
        three,
        (
            (lambda h: h.pin(0, PAGE), ("OK", 1)),
            (lambda h: h.close("m"), "OK"),
            (lambda h: h.unpin(1), "OK"),
        ),
    ),
    Vector(13, "a clone that nobody wrote", clone, ((lambda h: h.pin(0, PAGE), ("NOT_FOUND", 0)),)),
    Vector(14, "device memory", device_memory, ((lambda h: h.pin(0, PAGE), ("NOT_SUPPORTED", 0)),)),
    Vector(
        15,
        "two mappings in one place",
        three,
        (
            (lambda h: h.map(READ | SPECIFIC), "OK"),
            (lambda h: h.map(READ | SPECIFIC), "NO_MEMORY"),
        ),
    ),
    Vector(16, "writable and not readable", three, ((lambda h: h.map(WRITE), "INVALID_ARGS"),)),
    Vector(
        17,
        "no more than was allowed when it was mapped",
        read_only,
        (
            (lambda h: h.map(READ), "OK"),
            (lambda h: h.protect(READ | WRITE), "ACCESS_DENIED"),
        ),
    ),
    Vector(
        18,
        "a hole is unmapped",
        three,
        ((lambda h: things.named(mx.mx_vmar_unmap(h.r, h.at[0], PAGE)), "OK"),),
        "kernel",
    ),
)


@pytest.mark.parametrize("row", VECTORS, ids=str)
def test_vector(row: Vector) -> None:
    with mx.Process(pf.Kernel(seed=2, strict=row.strict)) as process:
        hands = Hands(b=things.bti(), m=row.memory(), r=things.region())
        if row.number == 18:
            hands.at.append(things.info(hands.r, mx.MX_INFO_VMAR).base)
        for number, (step, expected) in enumerate(row.steps, 1):
            found = step(hands)
            assert found == expected, f"step {number}: {found!r}"
        process.exit()
    assert process.kernel.statistics().ledger.pins == 0


def test_every_vector_is_here() -> None:
    assert sorted({row.number for row in VECTORS}) == list(range(1, 19))


def test_the_addresses_of_a_pin_are_not_neighbours() -> None:
    """The vectors want a bus on which ordinary memory is scattered."""
    with mx.Process(pf.Kernel(seed=2)) as process:
        addrs = things.pin(things.bti(), three(), 0, 3 * PAGE)
        assert (np.diff(addrs) != PAGE).all()
        process.exit()
