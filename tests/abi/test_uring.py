"""Every number and every struct of host/abi_uring.py, against the machine's headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from pinfold.host import abi_uring
from tests.abi.test_constants import COMPILER, INCLUDES, compiled

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

HEADERS: Final = f"{INCLUDES}#include <stddef.h>\n"

MACROS: Final = {
    "NR_IO_URING_SETUP": "__NR_io_uring_setup",
    "NR_IO_URING_ENTER": "__NR_io_uring_enter",
    "NR_IO_URING_REGISTER": "__NR_io_uring_register",
}
"""Where the header has the number under another name."""

NO_HEADER: Final = {"IORING_MAX_REG_BUFFERS", "MAX_BUFFER"}
"""Limits of the kernel's own; tests/host/test_uring_table.py tries what they mean."""

NUMBERS: Final = {
    name: value
    for name, value in vars(abi_uring).items()
    if name.isupper() and isinstance(value, int)
}

STRUCTS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "SQE": ("struct io_uring_sqe", {}),
    "CQE": ("struct io_uring_cqe", {}),
    "PARAMS": ("struct io_uring_params", {}),
    "RSRC_REGISTER": ("struct io_uring_rsrc_register", {}),
    "RSRC_UPDATE": ("struct io_uring_rsrc_update2", {}),
    "IOVEC": ("struct iovec", {"base": "iov_base", "length": "iov_len"}),
}
"""Each layout's struct, and the fields that have another name there."""


def test_every_layout_is_compared() -> None:
    """A layout that is new here has to be listed above."""
    layouts = {name for name, value in vars(abi_uring).items() if isinstance(value, np.dtype)}
    assert {name for name in layouts if name.isupper()} == STRUCTS.keys()
    assert NUMBERS.keys() >= NO_HEADER | MACROS.keys()


def test_every_number_is_what_the_header_says(tmp_path: Path) -> None:
    """Source: <linux/io_uring.h>, <asm/unistd.h>. Enumerators are no macros: all must be there."""
    names = sorted(NUMBERS.keys() - NO_HEADER)
    lines = "".join(
        f'    printf("{name} %llu\\n", (unsigned long long)({MACROS.get(name, name)}));\n'
        for name in names
    )
    found = compiled(f"{HEADERS}int main(void)\n{{\n{lines}    return 0;\n}}\n", tmp_path)
    assert {name: int(value) for name, value in found.items()} == {
        name: NUMBERS[name] for name in names
    }


def fields_of(layout: np.dtype[Any], names: dict[str, str]) -> dict[str, tuple[int, int]]:
    """C's path to each field, with its offset and its size; of an inner struct, to its fields."""
    found: dict[str, tuple[int, int]] = {}
    for name, (inner, offset, *_) in (layout.fields or {}).items():
        path = names.get(name, name)
        if inner.fields is None:
            found[path] = (offset, inner.itemsize)
        for below, (at, size) in fields_of(inner, {}).items():
            found[f"{path}.{below}"] = (offset + at, size)
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_a_layout_is_the_headers_struct(name: str, tmp_path: Path) -> None:
    """The offset and the size of every field, and the size of the whole."""
    struct, names = STRUCTS[name]
    layout: np.dtype[Any] = vars(abi_uring)[name]
    expected = fields_of(layout, names)
    lines = "".join(
        f'    printf("{path} %zu,%zu\\n", offsetof({struct}, {path}), '
        f"sizeof((({struct} *)0)->{path}));\n"
        for path in expected
    )
    source = (
        f"{HEADERS}int main(void)\n{{\n{lines}"
        f'    printf("whole %zu,0\\n", sizeof({struct}));\n    return 0;\n}}\n'
    )
    found = {
        path: tuple(int(part) for part in text.split(","))
        for path, text in compiled(source, tmp_path).items()
    }
    assert found == {**expected, "whole": (layout.itemsize, 0)}
