"""A name was looked at to the end of the size that was given, though 31 bytes are kept.

With a size beyond the end of the buffer the call was refused. Zircon cuts the size first, and never
looks at the rest: C programs pass the size of some larger structure.
"""

from __future__ import annotations

import pytest

from pinfold.dialects import zx
from tests.dialects import things
from tests.dialects.refused import name_of

pytestmark = pytest.mark.usefixtures("process")


def name(number: int) -> bytes:
    buffer = bytearray(zx.ZX_MAX_NAME_LEN)
    found = zx.zx_object_get_property(number, zx.ZX_PROP_NAME, buffer, len(buffer))
    assert found == zx.ZX_OK
    return bytes(buffer).rstrip(b"\0")


@pytest.mark.parametrize("kind", ["vmo", "bti"])
@pytest.mark.parametrize(
    ("there", "size"), [(40, 100), (31, 32), (31, 1 << 40), (32, (1 << 64) - 1)]
)
def test_a_name_is_cut_before_it_is_read(kind: str, there: int, size: int) -> None:
    """Source: zx_object_set_property, ZX_PROP_NAME, in Zircon's kernel: cut to 31, then read."""
    number = things.ALL[kind]()
    assert name_of(zx.zx_object_set_property(number, zx.ZX_PROP_NAME, b"n" * there, size)) == "OK"
    assert name(number) == b"n" * 31


@pytest.mark.parametrize(("there", "size"), [(0, 1), (30, 31), (30, 100)])
def test_a_name_that_is_not_all_there_is_refused(there: int, size: int) -> None:
    """Of what is kept every byte has to be there."""
    number = things.vmo()
    former = name(number)
    found = zx.zx_object_set_property(number, zx.ZX_PROP_NAME, b"n" * there, size)
    assert name_of(found) == "INVALID_ARGS"
    assert name(number) == former
