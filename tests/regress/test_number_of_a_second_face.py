"""Leaving a handle to the table could close it.

A call by number makes a Python handle for the row, its face. `number_of` put another in its place,
the face was dropped, and its finaliser closed the row: the number that had just been given out
named nothing, or soon another object. The root region of a process was closed by asking for it.
"""

from __future__ import annotations

import gc

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.dialects.calling import face, number_of

PAGE = pf.PAGE_SIZE

pytestmark = pytest.mark.usefixtures("process")


def test_a_number_stays_open_when_its_face_is_replaced() -> None:
    """A dropped face would also be a ResourceWarning, which is an error here."""
    vmo = pf.Vmo(PAGE)
    size = Out()
    assert zx.zx_vmo_get_size(vmo.value, size) == zx.ZX_OK  # the row has a face from here on
    number = number_of(vmo)
    gc.collect()
    assert not vmo.closed
    assert zx.zx_handle_check_valid(number) == zx.ZX_OK
    del vmo
    gc.collect()
    assert zx.zx_vmo_get_size(number, size) == zx.ZX_OK
    assert size.value == PAGE
    assert zx.zx_handle_close(number) == zx.ZX_OK


def test_the_root_region_survives_being_asked_for(process: pf.Process) -> None:
    """Source: zx_vmar_root_self: the process keeps the handle."""
    root = process.root
    assert zx.zx_vmar_destroy(root.value) == zx.ZX_ERR_NOT_SUPPORTED  # any call by its number
    assert zx.zx_vmar_root_self() == root.value
    gc.collect()
    assert not root.closed
    assert process.root is root
    assert zx.zx_handle_check_valid(root.value) == zx.ZX_OK


def test_the_former_face_does_not_close_the_number_when_it_goes(process: pf.Process) -> None:
    """Somebody may still hold the face that was replaced; it goes without a trace."""
    vmo = pf.Vmo(PAGE)
    former = face(vmo.value)
    assert former is not vmo
    number = number_of(vmo)
    del former
    gc.collect()
    assert number in process.handles
    assert face(number) is vmo
    assert zx.zx_handle_close(number) == zx.ZX_OK
