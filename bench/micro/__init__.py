"""Micro benchmarks of the Python side, under pytest-benchmark: compile, swap, decide. Run by `make bench` only.

In:     `bench/micro/test_*.py`; `mesh` makes the documents they work on.
Out:    rows of the report.
Fails:  CalledProcessError when a benchmark fails: they compare what they get, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.rounds import Row

FOLDER = Path(__file__).parent


def run(rounds: int, seconds: float, *, large: bool) -> list[Row]:
    """Runs each of them for so many seconds and at least so many rounds, in a process of its own."""
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "benchmarks.json"
        words = [f"--benchmark-json={file}", f"--benchmark-min-rounds={rounds}", f"--benchmark-max-time={seconds}"]
        words += [] if large else ["-k", "not 1000"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER), *words]
        subprocess.run(command, cwd=FOLDER.parents[1], check=True, stdout=sys.stderr)
        found = json.loads(file.read_text())["benchmarks"]
    return [
        Row(
            group="micro",
            params=each["params"] or {},
            subject="meshdp",
            metric=each["name"].partition("[")[0].removeprefix("test_"),
            unit="ms",
            rounds=each["stats"]["rounds"],
            median=round(each["stats"]["median"] * 1e3, 4),
            min=round(each["stats"]["min"] * 1e3, 4),
            ratio_to_floor=None,
        )
        for each in found
    ]
