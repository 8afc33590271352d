"""The Python in the documentation runs, in order, and says what the page says it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

from pinfold import Kernel, Process

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# A block that is no Python to be run is fenced as something else: text, console.
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HAS_BLOCKS = [page for page in PAGES if FENCE.search(page.read_text(encoding="utf-8"))]


def run_block(source: str, names: dict[str, Any], page: Path, line: int) -> None:
    """A session is compared with what it shows; anything else must only not fail."""
    where = f"{page.name}:{line}"
    if not source.lstrip().startswith(">>>"):
        # The right line in a traceback: the block starts where it starts in the page.
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        exec(code, names)  # noqa: S102 - the page is ours, and running it is the test
        return
    session = doctest.DocTestParser().get_doctest(source, names, where, str(page), line - 1)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    runner.run(session, out=report.append, clear_globs=False)
    names.update(session.globs)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", HAS_BLOCKS, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_in_order(page: Path) -> None:
    """One namespace a page, one kernel a page; at its end nothing is pinned and nothing leaked."""
    text = page.read_text(encoding="utf-8")
    kernel = Kernel()
    process = Process(kernel, name=page.stem)
    names: dict[str, Any] = {"__name__": f"blocks_of_{page.stem}"}
    with process:
        try:
            for block in FENCE.finditer(text):
                run_block(block[1], names, page, text.count("\n", 0, block.start(1)) + 1)
            left = kernel.statistics()
        finally:
            process.exit()
    assert (left.ledger.pins, left.handles, left.leaks) == (0, 0, 0)


def test_the_tutorial_is_among_the_pages_that_run() -> None:
    assert ROOT / "docs" / "tutorial.md" in HAS_BLOCKS
