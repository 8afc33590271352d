"""To protect a page took time for every run of permissions that the mapping had.

A thousand alternate pages took a million steps, with the kernel's lock held: every device and every
other thread of the program waited meanwhile.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pinfold as pf

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

PAGE = pf.PAGE_SIZE
READ = pf.VmOption.PERM_READ
RW = READ | pf.VmOption.PERM_WRITE
RUNS = 3000

Run = tuple[int, int, int]


def work_of(act: Callable[[], object]) -> int:
    """How many lines of Python it runs: work, whatever the machine and its load."""
    count = 0

    def step(_frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
        return step

    former = sys.gettrace()
    sys.settrace(step)
    try:
        act()
    finally:
        sys.settrace(former)
    return count


def modelled(protections: list[int], base: int) -> list[Run]:
    """The runs of a mapping whose pages have those permissions."""
    runs: list[Run] = []
    for page, prot in enumerate(protections):
        start = base + page * PAGE
        if runs and runs[-1][2] == prot:
            runs[-1] = (runs[-1][0], start + PAGE, prot)
        else:
            runs.append((start, start + PAGE, prot))
    return runs


def test_the_work_of_a_protect_does_not_grow_with_the_runs(process: pf.Process) -> None:
    """And after each hundred the runs are those of a model, page by page."""
    pages = 2 * RUNS
    root = process.root
    with pf.Vmo(pages * PAGE) as vmo, root.map(vmo, RW) as mapping:
        base = mapping.address
        model = [3] * pages

        def protect(page: int, count: int = 1, options: pf.VmOption = READ) -> None:
            model[page : page + count] = [1 if options == READ else 3] * count
            root.protect(base + page * PAGE, count * PAGE, options)

        def runs() -> list[Run]:
            (piece,) = root.object.region.pieces(base, base + pages * PAGE)
            return piece.runs

        for page in range(0, 40, 2):
            protect(page)
        few = work_of(lambda: protect(40))
        for page in range(42, pages, 2):
            protect(page)
            if page % 600 == 0:
                assert runs() == modelled(model, base)
        assert len(runs()) == pages
        for page in (1, pages // 2 + 1, pages - 1):
            assert work_of(lambda: protect(page)) < 8 * few  # noqa: B023 - called at once
            assert runs() == modelled(model, base)
        protect(101, 3, RW)
        protect(pages - 4, 4, RW)
        protect(0, 7, READ)
        assert runs() == modelled(model, base)
        protect(0, pages, RW)
        assert runs() == [(base, base + pages * PAGE, 3)]
