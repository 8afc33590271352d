"""Fixtures of the tests of locked memory and of host address ranges."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pinfold.host import calls
from pinfold.memory.reservation import AddressSpace
from pinfold.memory.residency import Residency
from pinfold.units import PAGE_SIZE
from tests.memory.host_ranges import PAGES, a_file
from tests.memory.locking import give_back, locked, make_area

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pinfold.units import HostVa
    from tests.memory.locking import Intercept, Interceptor


@pytest.fixture
def area() -> Iterator[HostVa]:
    start = make_area()
    yield start
    give_back(start)


@pytest.fixture
def table(area: HostVa) -> Iterator[Residency]:
    """A table of its own; at the end no count, nothing unsettled, and VmLck as before."""
    before = locked()
    made = Residency()
    yield made
    assert made.statistics().locked_bytes == 0
    assert made.statistics().unsettled_bytes == 0
    assert made.count(area) == 0
    assert locked() == before


@pytest.fixture
def intercept() -> Iterator[Intercept]:
    """Installs a function that sees each host call, until the test ends or it installs None."""

    def install(interceptor: Interceptor | None) -> None:
        calls.set_interceptor(interceptor)

    yield install
    calls.set_interceptor(None)


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[int, int]]:
    fds = a_file(1), a_file(101)
    yield fds
    for fd in fds:
        calls.close(fd)


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    made = AddressSpace(PAGES * PAGE_SIZE)
    yield made
    made.close()


@pytest.fixture
def refuse_mmap() -> Iterator[list[int]]:
    """Refuse mmap with ENOMEM as often as the list says; the rest go through."""
    left = [0]

    def interceptor(name: str) -> None:
        if name == "mmap" and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    former = calls.set_interceptor(interceptor)
    yield left
    calls.set_interceptor(former)
