"""`python -m tests.attack.floods [NAME...] [--seconds 10] [-o json]`: the floods in one table (`make attack`).

Out:    one row for each flood; exit code 1 when one is out of bounds.
Limits: needs root for its namespaces, and a C compiler for its clients.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.attack.floods.attacks import ATTACKS
from tests.attack.floods.measure import Result, staged

COLUMNS = (
    "flood",
    "id",
    "errors",
    "p99 ms",
    "idle",
    "pair p99 ms",
    "idle",
    "MiB",
    "our s",
    "its s",
    "ratio",
    "conns",
    "cut",
    "",
)
IDLE_S = 5.0


def row(found: Result) -> tuple[str, ...]:
    """One line of the table."""
    return (
        found.attack,
        found.ids,
        str(found.errors),
        f"{found.p99_us / 1000:.1f}",
        f"{found.idle_p99_us / 1000:.1f}",
        f"{found.through_pair_p99_us / 1000:.1f}",
        f"{found.idle_through_pair_p99_us / 1000:.1f}",
        f"{found.memory_bytes / (1 << 20):.1f}",
        f"{found.sidecar_cpu_s:.2f}",
        f"{found.attacker_cpu_s:.2f}",
        f"{found.cost:.1f}",
        str(found.connections),
        str(found.cut),
        "; ".join(found.faults()) or "ok",
    )


def main() -> int:
    """Run them and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack.floods", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (all): {', '.join(ATTACKS)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each (10)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    args = parser.parse_args()
    if unknown := set(args.names) - set(ATTACKS):
        parser.error(f"no such flood: {', '.join(sorted(unknown))}")
    results = []
    with staged(IDLE_S) as stage:
        for name in args.names or ATTACKS:
            results.append(stage.run(name, args.seconds))
            print(*row(results[-1]), file=sys.stderr, flush=True)
    if args.output == "json":
        print(json.dumps([found.as_row() for found in results], indent=1))
    else:
        rows = [COLUMNS, *(row(found) for found in results)]
        widths = [max(len(line[at]) for line in rows) for at in range(len(COLUMNS))]
        for line in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return int(any(found.faults() for found in results))


if __name__ == "__main__":
    sys.exit(main())
