"""Whom a kernel follows where Zircon's pages and its kernel differ.

Source: zx_vmar_map: the page refuses what the kernel maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest

import pinfold as pf
from pinfold.dialects import Out, zx
from pinfold.errors import InvalidArgs

from . import things
from .refused import name_of
from .things import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Strict = Literal["docs", "kernel"] | None
RW = zx.ZX_VM_PERM_READ | zx.ZX_VM_PERM_WRITE


@pytest.fixture(params=[None, "kernel", "docs"])
def strict(request: pytest.FixtureRequest) -> Iterator[Strict]:
    """Whom the kernel of the current process follows."""
    whom: Strict = request.param
    kernel = pf.Kernel(strict=whom)
    assert kernel.strict == whom
    process = pf.Process(kernel)
    with process:
        yield whom
    process.exit()
    assert kernel.objects() == []


def mapped(vmo: int, size: int, options: int = RW) -> str:
    out = Out()
    return name_of(zx.zx_vmar_map(zx.zx_vmar_root_self(), options, 0, vmo, 0, size, out))


MAPS: dict[str, tuple[Callable[[], int], int, str]] = {
    "resizable": (lambda: things.vmo(PAGE, zx.ZX_VMO_RESIZABLE), PAGE, "NOT_SUPPORTED"),
    "beyond the end": (lambda: things.vmo(PAGE), 3 * PAGE, "BUFFER_TOO_SMALL"),
}
"""What is mapped, how many bytes, and what the page says to it without ALLOW_FAULTS."""


@pytest.mark.parametrize("name", MAPS)
def test_kernel_is_what_none_is(strict: Strict, name: str) -> None:
    """The page asks for ALLOW_FAULTS; the kernel does not."""
    make, size, page = MAPS[name]
    vmo = make()
    assert mapped(vmo, size) == (page if strict == "docs" else "OK")
    assert mapped(vmo, size, RW | zx.ZX_VM_ALLOW_FAULTS) == "OK"


@pytest.mark.parametrize("whom", ["kernels", "", "DOCS", True, 1, b"docs"])
def test_nobody_else_can_be_followed(whom: Any) -> None:
    with pytest.raises(InvalidArgs, match=r"strict is None, 'docs' or 'kernel'"):
        pf.Kernel(strict=whom)
