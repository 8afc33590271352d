# python -m bench: one benchmark a claim, and a table at the end.
#
# A missed goal does not change the exit status: on a shared machine that would be a coin toss. A
# benchmark that breaks does.
from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator

from bench import access, addresses, aix, bytes_io, copying, mapping, pins, report, uring, zircon
from bench.measure import Row, Scale

CLAIMS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "pins": pins.run,
    "addresses": addresses.run,
    "copy": copying.run,
    "access": access.run,
    "map": mapping.run,
    "bytes": bytes_io.run,
    "zircon": zircon.run,
    "aix": aix.run,
    "uring": uring.run,
}


def main() -> int:
    """Run what was asked for; 1 if a benchmark broke."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="The speed claims.")
    parser.add_argument(
        "--once", action="store_true", help="tiny sizes, no rounds: does it all still work?"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--only", action="append", choices=CLAIMS, metavar="NAME", help=", ".join(CLAIMS)
    )
    arguments = parser.parse_args()
    scale = Scale(once=arguments.once)
    facts = report.header(once=arguments.once)
    rows: list[Row] = []
    errors: dict[str, str] = {}
    for name, run in CLAIMS.items():
        if arguments.only and name not in arguments.only:
            continue
        if sys.stderr.isatty():
            print(f"{name} ...", file=sys.stderr)
        try:
            rows.extend(run(scale))
        except Exception:  # the other claims still have something to say
            errors[name] = traceback.format_exc()
    if arguments.json:
        report.print_json(facts, rows, errors)
    else:
        report.print_table(facts, rows)
    for name, text in errors.items():
        print(f"\n{name} broke:\n{text}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
