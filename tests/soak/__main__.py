"""`python -m tests.soak --minutes 30 --report FILE`: the long form of the soak. Exit code 0 only if nothing was lost."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Soak


def main() -> int:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load runs (30)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the report goes besides standard output")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        report = Soak(Path(folder), args.minutes, lambda line: print(line, file=sys.stderr, flush=True)).go()
    text = json.dumps(report, indent=1)
    print(text)
    if args.report:
        args.report.write_text(text + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
