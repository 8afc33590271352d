"""A buffer that is there for Python and not for the processor was an error of the host.

ctypes makes buffers over any address. Of one over memory that may not be accessed, or is not mapped
any more, the system call says EFAULT: for Zircon's callers that is NOT_FOUND, and it came out as an
internal error that named no argument.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

import pinfold as pf
from pinfold.dialects import zx
from pinfold.errors import NotFound
from tests.dialects import things
from tests.dialects.refused import name_of
from tests.dialects.things import PAGE, ok

pytestmark = pytest.mark.usefixtures("process")

SIZES = [1, PAGE, 128 * PAGE]
"""The last is more than what is moved under the kernel's lock."""


def out_of_reach(size: int, *, readable: int = 0) -> Any:
    """A buffer of memory that may not be accessed, but for its first ``readable`` pages."""
    root, memory = zx.zx_vmar_root_self(), things.vmo(max(size, PAGE))
    address = ok(zx.zx_vmar_map, root, 0, 0, memory, 0, max(size, PAGE))
    if readable:
        rw = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE
        first = ok(zx.zx_vmar_map, root, rw, 0, memory, 0, max(size, PAGE))
        assert zx.zx_vmar_protect(root, 0, first + readable * PAGE, size - readable * PAGE) == 0
        address = first
    return (ctypes.c_char * size).from_address(address)


@pytest.mark.parametrize("size", SIZES)
def test_the_calls_say_not_found(size: int) -> None:
    """Source: zx_vmo_read, zx_vmo_write: the buffer is an invalid pointer."""
    number, buffer = things.vmo(size), out_of_reach(size)
    assert name_of(zx.zx_vmo_write(number, buffer, 0, size)) == "NOT_FOUND"
    assert zx.zx_vmo_write(number, b"x", 0, 1) == zx.ZX_OK
    assert name_of(zx.zx_vmo_read(number, buffer, 0, size)) == "NOT_FOUND"


@pytest.mark.parametrize("size", SIZES)
def test_the_objects_say_not_found(size: int) -> None:
    buffer = out_of_reach(size)
    with pf.Vmo(size) as vmo:
        with pytest.raises(NotFound):
            vmo.write(buffer)
        vmo.write(b"x")
        with pytest.raises(NotFound):
            vmo.read_into(buffer)
        assert vmo.read(0, 1) == b"x"


@pytest.mark.parametrize("pages", [4, 128])
def test_a_buffer_of_which_a_part_is_there_is_not_all_there(pages: int) -> None:
    """What was moved up to there may have been moved. Source: as above."""
    size = pages * PAGE
    number, buffer = things.vmo(size), out_of_reach(size, readable=2)
    assert name_of(zx.zx_vmo_write(number, buffer, 0, size)) == "NOT_FOUND"
    assert zx.zx_vmo_write(number, bytes(size), 0, size) == zx.ZX_OK
    assert name_of(zx.zx_vmo_read(number, buffer, 0, size)) == "NOT_FOUND"
    assert name_of(zx.zx_vmo_read(number, buffer, 0, 2 * PAGE)) == "OK"
