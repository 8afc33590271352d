"""The vectors of the reference, as data: calls in order, what each returns, and what is true then.

Eight pages may be pinned. ``w`` is the world: ``w.a`` system space, ``w.u`` user space.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import aix
from pinfold.host import mm
from pinfold.objects.object import ObjectType
from pinfold.units import HostVa
from tests.memory.locking import intercepted, refuse

from .world import P, World

if TYPE_CHECKING:
    from collections.abc import Callable

SUCC, FAIL = aix.XMEM_SUCC, aix.XMEM_FAIL
USER, SYSTEM = aix.USER_ADSPACE, aix.SYS_ADSPACE


@dataclass(frozen=True)
class Vector:
    """One row: its number in the reference, and steps: what is done, and what it gives."""

    number: int
    what: str
    steps: tuple[tuple[Callable[[World], Any], Any], ...]

    def __str__(self) -> str:
        return f"{self.number}: {self.what}"


def vector(number: int, what: str, *steps: tuple[Callable[[World], Any], Any]) -> Vector:
    return Vector(number, what, steps)


def stopped(call: Callable[[], object]) -> str:
    """What a call that AIX would not have survived says."""
    with pytest.raises((aix.KernelAssertion, aix.WouldWait)) as caught:
        call()
    return type(caught.value).__name__


def interrupted(call: Callable[[], object]) -> object:
    with aix.interrupt_environment():
        return call()


def attach(w: World, start: int, count: int = P, flag: int = USER) -> int:
    w.dp = w.attached(start, count, flag)
    return 0


def attach_twice(w: World) -> int:
    """Two descriptors of the same page of system space."""
    w.dp, w.second = w.attached(w.a, P, SYSTEM), w.attached(w.a, P, SYSTEM)
    return 0


def read_only(w: World) -> int:
    """The first page of user memory may be read, and not written."""
    mm.protect(HostVa(w.u), P, 1)
    return 0


def writable(w: World) -> int:
    mm.protect(HostVa(w.u), P, 3)
    return 0


def evicted(w: World) -> int:
    """The first page of user memory is not in memory any more."""
    mm.unmap(HostVa(w.u), P)
    mm.reserve_at(HostVa(w.u), P)
    mm.protect(HostVa(w.u), P, 3)
    assert not any(mm.resident(HostVa(w.u), P))
    return 0


def unpaged(pages: int) -> Callable[[World], int]:
    """So many pages of paging space, all in all."""

    def set_it(w: World) -> int:
        w.kernel.paging_space = pages * P
        return 0

    return set_it


def paged(w: World) -> int:
    """Pages of paging space that are spoken for."""
    return w.kernel.counted.statistics().paging_space_used // P


def delete_segment(w: World) -> int:
    """Nothing is left of it but what is attached."""
    w.mapping.unmap()
    w.vmo.close()
    return len(w.kernel.objects(ObjectType.VMO))


def broken(call: Callable[[World], int]) -> Callable[[World], int]:
    """The call, where the backing store cannot be read."""

    def run(w: World) -> int:
        with intercepted(refuse("madvise", number=errno.EIO)):
            return call(w)

    return run


VECTORS = (
    vector(
        1,
        "one byte of a page",
        (lambda w: aix.pin(w.a, 1), 0),
        (lambda w: w.short(w.a, 2), [1, 0]),
        (lambda w: aix.unpin(w.a, 1), 0),
    ),
    vector(
        2,
        "two bytes of two pages",
        (lambda w: aix.pin(w.a + P - 1, 2), 0),
        (lambda w: w.short(w.a, 3), [1, 1, 0]),
        (lambda w: aix.unpin(w.a, P + 1), 0),
    ),
    vector(
        3,
        "no length, a negative one, an undefined range",
        (lambda w: aix.pin(w.a, 0), aix.EINVAL),
        (lambda w: aix.pin(w.a, -1), aix.EINVAL),
        (lambda w: aix.pin(w.a + 16 * P, 10), aix.EINVAL),
        (lambda w: w.held, 0),
    ),
    vector(4, "user space is not defined", (lambda w: aix.pin(w.u, 10), aix.EINVAL)),
    vector(
        5,
        "one page more than the limit",
        (lambda w: aix.pin(w.a, 9 * P), aix.ENOMEM),
        (lambda w: w.short(w.a, 9), [0] * 9),
        (lambda w: w.held, 0),
    ),
    vector(
        6,
        "counts nest",
        (lambda w: (aix.pin(w.a, P), aix.pin(w.a, P)), (0, 0)),
        (lambda w: aix.unpin(w.a, P), 0),
        (lambda w: (w.short(w.a), w.held), ([1], 1)),
        (lambda w: aix.unpin(w.a, P), 0),
    ),
    vector(
        7,
        "an unpin stops at the first page that is not pinned",
        (lambda w: (aix.pin(w.a, P), aix.pin(w.a + 2 * P, P)), (0, 0)),
        (lambda w: aix.unpin(w.a, 3 * P), aix.EINVAL),
        (lambda w: w.short(w.a, 3), [0, 0, 1]),
        (lambda w: aix.unpin(w.a + 2 * P, P), 0),
    ),
    vector(8, "what was never pinned", (lambda w: aix.unpin(w.a, P), aix.EINVAL)),
    vector(
        9,
        "not at interrupt level",
        (lambda w: stopped(lambda: interrupted(lambda: aix.pin(w.a, P))), "KernelAssertion"),
        (lambda w: w.held, 0),
    ),
    vector(
        10,
        "the counters are separate",
        (lambda w: aix.ltpin(w.a, P), 0),
        (lambda w: aix.unpin(w.a, P), aix.EINVAL),
        (lambda w: (w.counts(w.a), w.held), ([(0, 1)], 1)),
        (lambda w: aix.ltunpin(w.a, P), 0),
    ),
    vector(
        11,
        "ltpin of nothing",
        (lambda w: aix.ltpin(w.a, 0), 0),
        (lambda w: (w.counts(w.a), w.held), ([(0, 0)], 0)),
        (lambda w: aix.ltpin(w.a, -1), aix.EINVAL),
    ),
    vector(
        12,
        "a long-term pin gives paging space back",
        (unpaged(4), 0),
        (lambda w: w.vmo.commit(0, 4 * P), None),
        (paged, 4),
        (lambda w: aix.ltpin(w.a, 2 * P), 0),
        (paged, 2),
        (lambda w: aix.ltunpin(w.a, P), 0),
        (paged, 3),
        (lambda w: w.vmo.commit(4 * P, P), None),
        (lambda w: stopped(lambda: aix.ltunpin(w.a + P, P)), "WouldWait"),
        (lambda w: (w.counts(w.a + P), paged(w)), ([(0, 1)], 4)),
        (lambda w: w.vmo.decommit(4 * P, P), None),
        (lambda w: aix.ltunpin(w.a + P, P), 0),
    ),
    vector(
        13,
        "ltunpin of what is not pinned",
        (lambda w: stopped(lambda: aix.ltunpin(w.a, P)), "KernelAssertion"),
    ),
    vector(
        14,
        "attaching a used descriptor, or nothing",
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xmattach(w.u + P, P, w.dp, USER), FAIL),
        (lambda w: (w.dp.vaddr == w.u, w.dp.aspace_id), (True, aix.XMEM_PROC)),
        (lambda w: aix.xmattach(w.u, 0, w.second, USER), FAIL),
        (lambda w: w.second.aspace_id, aix.XMEM_INVAL),
    ),
    vector(
        15,
        "what was detached cannot be used",
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xmdetach(w.dp), SUCC),
        (lambda w: aix.xmemin(w.u, w.a, 1, w.dp), FAIL),
        (lambda w: w.dp.aspace_id, aix.XMEM_INVAL),
    ),
    vector(
        16,
        "outside the space, and a hole in it",
        (lambda w: aix.xmempin((1 << 63) - P, P, w.attached(w.u, P)), aix.EFAULT),
        (lambda w: aix.xmempin(w.a, P, w.attached(w.u, P)), aix.EFAULT),
        (lambda w: aix.xmempin(w.u, P, aix.xmem_global), aix.EFAULT),
        (lambda w: aix.xmempin(w.a + 16 * P, P, aix.xmem_global), aix.EINVAL),
        (lambda w: aix.xmempin(16, 1, w.attached(w.u, P)), aix.EINVAL),
    ),
    vector(
        17,
        "copying at interrupt level",
        (lambda w: attach(w, w.u), 0),
        (evicted, 0),
        (lambda w: interrupted(lambda: aix.xmemin(w.u, w.a, 8, w.dp)), FAIL),
        (lambda w: (aix.xmempin(w.u, P, w.dp), aix.pin(w.a, P)), (0, 0)),
        (lambda w: interrupted(lambda: aix.xmemin(w.u, w.a, 8, w.dp)), SUCC),
        (lambda w: (aix.unpin(w.a, P), aix.xmemunpin(w.u, P, w.dp)), (0, 0)),
    ),
    vector(
        18,
        "the direction of a transfer, and read-only memory",
        (read_only, 0),
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xlate_pin(w.dp, w.u, P, aix.B_READ), FAIL),
        (lambda w: (w.held, w.dp.aspace_id), (0, aix.XMEM_PROC)),
        (lambda w: aix.xlate_pin(w.dp, w.u, P, aix.B_WRITE), 0),
        (lambda w: aix.xlate_unpin(w.dp, w.u, P), 0),
        (writable, 0),
    ),
    vector(
        19,
        "a list that lasts",
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xlate_create(w.dp, w.u, P, aix.XLATE_ALLOC | aix.XLATE_PERSISTENT), SUCC),
        (lambda w: aix.xlate_pin(w.dp, w.u, P, aix.B_READ), 0),
        (lambda w: aix.xlate_unpin(w.dp, w.u, P), 0),
        (lambda w: aix.xlate_pin(w.dp, w.u, P, aix.B_READ), 0),
        (lambda w: aix.xlate_unpin(w.dp, w.u, P), 0),
        (lambda w: aix.xlate_remove(w.dp), SUCC),
        (lambda w: aix.xlate_remove(w.dp), FAIL),
    ),
    vector(
        20,
        "a list for one pin",
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xlate_pin(w.dp, w.u, P, aix.B_READ), 0),
        (lambda w: aix.xlate_unpin(w.dp, w.u, P), 0),
        (lambda w: aix.xlate_remove(w.dp), FAIL),
    ),
    vector(
        21,
        "no paging space",
        (unpaged(1), 0),
        (lambda w: attach(w, w.u, 2 * P), 0),
        (lambda w: aix.xlate_pin(w.dp, w.u, 2 * P, aix.B_READ), aix.ENOSPC),
        (lambda w: (w.short(w.u, 2), w.held), ([0, 0], 0)),
        (lambda w: aix.pin(w.a, 2 * P), aix.ENOSPC),
        (lambda w: w.held, 0),
    ),
    vector(
        22,
        "a real address is for what is pinned",
        (lambda w: attach(w, w.u), 0),
        (lambda w: aix.xmemdma(w.dp, w.u + 5, 0), FAIL),
        (lambda w: aix.xmempin(w.u, P, w.dp), 0),
        (lambda w: aix.xmemdma(w.dp, w.u + 5, 0) % P, 5),
        (lambda w: aix.xmemdma(w.dp, w.u, 0) > 0, True),
        (lambda w: aix.xmemunpin(w.u, P, w.dp), 0),
    ),
    vector(
        23,
        "a segment is kept until the last detach",
        (attach_twice, 0),
        (delete_segment, 1),
        (lambda w: aix.xmdetach(w.dp), SUCC),
        (lambda w: len(w.kernel.objects(ObjectType.VMO)), 1),
        (lambda w: aix.xmdetach(w.second), SUCC),
        (lambda w: len(w.kernel.objects(ObjectType.VMO)), 0),
    ),
    vector(
        24,
        "the backing store cannot be read",
        (broken(lambda w: aix.pin(w.a, 2 * P)), aix.EIO),
        (lambda w: (w.short(w.a, 2), w.held), ([0, 0], 0)),
        (lambda w: aix.pin(w.a, 2 * P), 0),
        (lambda w: aix.unpin(w.a, 2 * P), 0),
    ),
)


@pytest.mark.parametrize("row", VECTORS, ids=str)
def test_vector(tight: World, row: Vector) -> None:
    for number, (step, expected) in enumerate(row.steps, 1):
        found = step(tight)
        assert found == expected, f"step {number}: {found!r}"


def test_every_vector_is_here() -> None:
    assert [row.number for row in VECTORS] == list(range(1, 25))
