"""A buffer of Python objects was a buffer like any other.

Its bytes are pointers that the interpreter will follow: a read into an array of objects put
whatever the memory held in their place, and the next look at the array ended the process, or worse.
A write copied the addresses of live objects to where a device can read them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import pinfold as pf
from pinfold.dialects import zx
from pinfold.errors import WrongType
from tests.dialects import things

PAGE = pf.PAGE_SIZE

pytestmark = pytest.mark.usefixtures("process")


class Named(ctypes.Structure):
    """A structure with a pointer to an object in it."""

    _fields_ = (("number", ctypes.c_uint64), ("what", ctypes.py_object))


OBJECTS: dict[str, Any] = {
    "an array of objects": np.zeros(4, object),
    "none": np.zeros((), object),
    "two dimensions": np.zeros((2, 2), object),
    "records with an object": np.zeros(2, [("number", "u8"), ("what", object)]),
    "records in records": np.zeros(2, [("inner", [("what", object)]), ("number", "u8")]),
    "records with an array of objects": np.zeros(2, [("what", object, (2,))]),
    "a py_object": ctypes.py_object(),
    "an array of py_object": (ctypes.py_object * 4)(),
    "a structure with a py_object": Named(),
    "an array of those": (Named * 2)(),
    "a memoryview of objects": memoryview(np.zeros(4, object)),  # type: ignore[arg-type]  # it is one
}
"""All of them null, so that even a write into one would harm nothing."""


@pytest.mark.parametrize("name", OBJECTS)
def test_a_call_takes_no_buffer_of_objects(name: str) -> None:
    """C could not have passed such a pointer: it is Python's own error."""
    buffer = OBJECTS[name]
    number, size = things.vmo(), memoryview(buffer).nbytes
    for call in (zx.zx_vmo_read, zx.zx_vmo_write):
        with pytest.raises(TypeError):
            call(number, buffer, 0, size)
    with pytest.raises(TypeError):
        zx.zx_object_get_info(number, zx.ZX_INFO_HANDLE_VALID, buffer, size, None, None)
    with pytest.raises(TypeError):
        zx.zx_object_get_property(number, zx.ZX_PROP_VMO_CONTENT_SIZE, buffer, size)
    with pytest.raises(TypeError):
        zx.zx_object_set_property(number, zx.ZX_PROP_NAME, buffer, size)
    with pytest.raises(TypeError):
        zx.zx_vmo_op_range(number, zx.ZX_VMO_OP_LOCK, 0, 4 * PAGE, buffer, size)


@pytest.mark.parametrize("name", OBJECTS)
def test_a_memory_object_takes_no_buffer_of_objects(vmo: pf.Vmo, name: str) -> None:
    buffer: Any = OBJECTS[name]
    with pytest.raises(WrongType):
        vmo.read_into(buffer)
    with pytest.raises(WrongType):
        vmo.write(buffer)
    assert vmo.committed_ranges() == []


PLAIN: dict[str, Any] = {
    "a field called O": np.zeros(2, [("O", "u8"), ("<O", "u4")]),
    "a structure called O": np.zeros(1, [("O", [("O", "f8")])]),
    "complex numbers": np.zeros(2, "c16"),
    "bytes": np.zeros(2, "S8"),
    "doubles": (ctypes.c_double * 2)(),
    "pointers that are numbers": (ctypes.c_void_p * 2)(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_only_looks_like_objects_is_a_buffer(vmo: pf.Vmo, name: str) -> None:
    """The name of a field says nothing of what is in it."""
    buffer: Any = PLAIN[name]
    size = memoryview(buffer).nbytes
    assert vmo.read_into(buffer) == size
    assert vmo.write(buffer) == size
    number = things.vmo()
    assert zx.zx_vmo_write(number, buffer, 0, size) == zx.ZX_OK
    assert zx.zx_vmo_read(number, buffer, 0, size) == zx.ZX_OK
