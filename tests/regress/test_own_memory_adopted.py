"""pinfold's own memory could be adopted as if it were somebody else's.

A descriptor of an object's memfd is found in /proc/self/fd. `Vmo.from_fd` over it made a second
object over the same pages, with books of its own: memory that was pinned through the one could be
given away through the other, while a device was using it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import pinfold as pf
from pinfold.errors import InvalidArgs
from pinfold.testing import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = pf.PAGE_SIZE
DEVICE = 0x8000_0000

pytestmark = pytest.mark.usefixtures("process")

WAYS: dict[str, Callable[[int], int]] = {
    "its own number": os.dup,
    "opened anew": lambda fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
    "opened for reading": lambda fd: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY),
}

KINDS: dict[str, Callable[[], pf.Vmo]] = {
    "plain": lambda: pf.Vmo(4 * PAGE),
    "resizable": lambda: pf.Vmo(4 * PAGE, resizable=True),
    "discardable": lambda: pf.Vmo(4 * PAGE, discardable=True),
}


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest) -> Iterator[pf.Vmo]:
    """An object of pinfold's."""
    with KINDS[request.param]() as made:
        made.write(b"keep me")
        yield made


@pytest.fixture(params=WAYS)
def descriptor(request: pytest.FixtureRequest, own: pf.Vmo) -> Iterator[int]:
    """A descriptor of its memory, such as /proc/self/fd has it."""
    fd = WAYS[request.param](own.object.pages.backing.fd)
    yield fd
    os.close(fd)


ADOPTIONS: dict[str, Callable[[int], object]] = {
    "from_fd": pf.Vmo.from_fd,
    "from_file": lambda fd: pf.Vmo.from_file(f"/proc/self/fd/{fd}"),
    "Resource": lambda fd: pf.Resource(DEVICE, 4 * PAGE, fd=fd),
}


@pytest.mark.parametrize("name", ADOPTIONS)
def test_pinfolds_own_memory_is_not_adopted(own: pf.Vmo, descriptor: int, name: str) -> None:
    """Nothing is left of the attempt, and the object is as it was: it can still shrink, or not."""
    before = HostState.now()
    with pytest.raises(InvalidArgs):
        ADOPTIONS[name](descriptor)
    assert before.difference(HostState.now()) == []
    assert own.read(0, 7) == b"keep me"
    if own.object.resizable:
        own.resize(PAGE)


def test_nor_is_device_memory_that_it_made_up() -> None:
    with (
        pf.Resource(DEVICE, PAGE) as resource,
        pf.Vmo.physical(resource, DEVICE, PAGE) as vmo,
    ):
        fd = os.dup(vmo.object.pages.backing.fd)
        try:
            with pytest.raises(InvalidArgs):
                pf.Vmo.from_fd(fd)
        finally:
            os.close(fd)


def test_a_copy_is_not_adopted_either() -> None:
    """A snapshot has memory of its own, which is pinfold's too."""
    with pf.Vmo(PAGE) as root, root.child(pf.VmoChild.SNAPSHOT, 0, PAGE) as copy:
        fd = os.dup(copy.object.pages.backing.fd)
        try:
            with pytest.raises(InvalidArgs):
                pf.Vmo.from_fd(fd)
        finally:
            os.close(fd)


def test_what_was_made_elsewhere_is_adopted_as_often_as_one_likes() -> None:
    """Two objects over the caller's memory know of each other's pins."""
    fd = os.memfd_create("outside", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGE)
    try:
        with pf.Vmo.from_fd(fd) as one, pf.Vmo.from_fd(fd) as two:
            one.write(b"both")
            assert two.read(0, 4) == b"both"
    finally:
        os.close(fd)
