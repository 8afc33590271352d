# The bytes of whatever a caller has them in.
from __future__ import annotations

import re
from typing import Any

from pinfold.errors import InvalidArgs, WrongType


def flat(buffer: Any) -> memoryview:
    """The bytes of anything with the buffer protocol, numpy arrays and empty ones included.

    Raises:
      WrongType: it has no buffer, or one of Python objects.
      InvalidArgs: its bytes do not lie next to each other, in order.
    """
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise WrongType(f"{type(buffer).__name__} has no buffer") from error
    if holds_objects(view):
        raise WrongType(
            "the buffer holds Python objects, whose bytes are addresses",
            remedy="copy it to an array of numbers",
        )
    if not view.c_contiguous:
        raise InvalidArgs(
            "the bytes of the buffer do not lie next to each other",
            remedy="copy it first: numpy.ascontiguousarray",
        )
    return view.cast("B") if view.nbytes else memoryview(b"")


def holds_objects(view: memoryview) -> bool:
    """True for an array of Python objects: to write there is to have Python follow any address."""
    code = view.format
    return "O" in code and "O" in re.sub(":[^:]*:", "", code)  # fields have names, between colons
