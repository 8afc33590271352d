# The bytes of whatever a caller has them in.
from __future__ import annotations

from typing import Any

from pinfold.errors import InvalidArgs, WrongType


def flat(buffer: Any) -> memoryview:
    """The bytes of anything with the buffer protocol, numpy arrays and empty ones included.

    Raises:
      WrongType: it has no buffer.
      InvalidArgs: its bytes do not lie next to each other, in order.
    """
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise WrongType(f"{type(buffer).__name__} has no buffer") from error
    if not view.c_contiguous:
        raise InvalidArgs(
            "the bytes of the buffer do not lie next to each other",
            remedy="copy it first: numpy.ascontiguousarray",
        )
    return view.cast("B") if view.nbytes else memoryview(b"")
