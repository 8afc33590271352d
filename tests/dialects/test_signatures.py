"""What help and inspect say of a call: the parameters of its page, and that it returns a status.

Source: the calling convention of the dialects: a zx_status_t, as an int.
"""

from __future__ import annotations

import inspect
import pydoc
import typing
from typing import TYPE_CHECKING, Any

import pytest

from pinfold.dialects import zx

if TYPE_CHECKING:
    from collections.abc import Callable

NO_STATUS = {"zx_process_self", "zx_vmar_root_self", "zx_status_get_string"}
"""They return a handle, or a string, as in C."""

CALLS = sorted(
    name
    for name in dir(zx)
    if name.startswith("zx_") and inspect.isfunction(getattr(zx, name)) and name not in NO_STATUS
)


def test_there_are_calls() -> None:
    assert {"zx_vmo_create", "zx_bti_pin", "zx_vmar_map", "zx_object_wait_one"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_says_that_it_returns_an_int(name: str) -> None:
    call: Callable[..., Any] = getattr(zx, name)
    found = inspect.signature(call)
    assert found.return_annotation in ("int", int)
    assert call.__annotations__["return"] in ("int", int)
    shown = pydoc.plain(pydoc.render_doc(call)).replace("'", "")
    assert ") -> int" in shown
    assert "-> None" not in shown
    assert found.parameters
    assert call.__name__ == name
    assert call.__doc__


@pytest.mark.parametrize("name", CALLS)
def test_the_parameters_are_those_of_the_call(name: str) -> None:
    """What inspect shows can be passed by name."""
    call: Callable[..., Any] = getattr(zx, name)
    parameters = inspect.signature(call).parameters
    assert list(parameters) == list(inspect.signature(inspect.unwrap(call)).parameters)
    if name == "zx_vmo_create":
        assert list(parameters) == ["size", "options", "out"]
        assert call(size=0, options=1 << 31, out=None) == zx.ZX_ERR_INVALID_ARGS


def test_annotations_of_another_function_are_its_own() -> None:
    """The decorator does not change what it wraps."""
    inner = inspect.unwrap(zx.zx_vmo_create)
    assert inner.__annotations__["return"] in ("None", None)
    assert typing.get_overloads(inner) == []
