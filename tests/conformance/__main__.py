"""``python -m tests.conformance [ID...]``: run the cases and print the totals.

The exit status is 1 if any is wrong.
"""

from __future__ import annotations

import faulthandler
import sys

from .known import EXCEPTIONS
from .report import column, table
from .runner import CASES, Verdict, run


def main(wanted: list[str]) -> int:
    """Run all cases, or those named."""
    unknown = set(wanted) - {case["id"] for case in CASES}
    if unknown:
        print(f"no such case: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    results = [run(case) for case in CASES if not wanted or case["id"] in wanted]
    print("\n".join(table(results)))
    mended = [r.case for r in results if r.verdict is Verdict.PASSED and r.case in EXCEPTIONS]
    for case in mended:
        print(f"known {case}: it passes; strike it out of known.py")
    return 1 if mended or any(column(result) == "failed" for result in results) else 0


if __name__ == "__main__":
    faulthandler.dump_traceback_later(600, exit=True)  # a wait that never ends is a failure, too
    sys.exit(main(sys.argv[1:]))
