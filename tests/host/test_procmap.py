"""The mappings of a range: what the kernel answers, and what the text says, are the same."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pinfold.host import calls, mm, probe, procmap
from pinfold.host.abi import PROT_EXEC, PROT_READ, PROT_WRITE
from pinfold.units import PAGE_SIZE, HostVa
from tests.memory.locking import intercepted, make_area, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 16


@pytest.fixture
def area() -> Iterator[HostVa]:
    """Pages of several protections: none, read, all but execute, all; then a hole; then some."""
    start = make_area(PAGES)
    for page, prot in enumerate((0, PROT_READ, PROT_READ | PROT_WRITE, 7)):
        mm.protect(HostVa(start + page * PAGE_SIZE), PAGE_SIZE, prot)
    mm.unmap(HostVa(start + 4 * PAGE_SIZE), 4 * PAGE_SIZE)
    yield start
    mm.unmap(HostVa(start - PAGE_SIZE), (PAGES + 2) * PAGE_SIZE)


@pytest.fixture(params=["asked", "read"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """By the kernel's answer where it gives one, and by the text as on older kernels."""
    if request.param == "asked":
        yield "asked"
    else:
        with intercepted(refuse("ioctl", number=errno.ENOTTY)):
            yield "read"


def test_what_the_mappings_of_a_range_allow(area: HostVa, way: str) -> None:
    del way
    found = procmap.mappings(area, area + PAGES * PAGE_SIZE)
    spans = [
        ((vma.start - area) // PAGE_SIZE, (vma.stop - area) // PAGE_SIZE, vma.prot) for vma in found
    ]
    assert spans[:4] == [
        (0, 1, 0),
        (1, 2, PROT_READ),
        (2, 3, PROT_READ | PROT_WRITE),
        (3, 4, PROT_READ | PROT_WRITE | PROT_EXEC),
    ]
    assert spans[4] == (8, 16, PROT_READ | PROT_WRITE)
    assert len(spans) == 5


def test_ranges_between_and_beyond(area: HostVa, way: str) -> None:
    del way
    hole = area + 4 * PAGE_SIZE
    assert procmap.mappings(hole, hole + 4 * PAGE_SIZE) == []
    assert procmap.mappings(hole, hole) == []
    assert [v.prot for v in procmap.mappings(hole, hole + 4 * PAGE_SIZE + 1)] == [3]
    assert procmap.mappings(1 << 62, (1 << 62) + PAGE_SIZE) == []
    assert procmap.mappings(area + 1, area + 2)[0].start == area


def test_both_ways_agree_about_everything() -> None:
    """The mappings do not change meanwhile but for what reading them takes."""
    lines = {(line.start, line.stop) for line in probe.mappings()}
    asked = {(vma.start, vma.stop) for vma in procmap.mappings(0, 1 << 63)}
    assert len(lines ^ asked) <= 4
    assert len(asked) > 20


def test_another_refusal_is_told(area: HostVa) -> None:
    with intercepted(refuse("ioctl", number=errno.EIO)), pytest.raises(OSError, match="injected"):
        procmap.mappings(area, area + 1)
    with intercepted(refuse("open")), pytest.raises(OSError, match="injected"):
        procmap.mappings(area, area + 1)
    assert calls.set_interceptor(None) is None
