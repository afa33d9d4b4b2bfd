"""The whole benchmark in a tiny form: one round, floor and meshdp alone. It must not rot; its figures mean nothing here.

Limits:  needs root and two processors; skipped with a reason otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Kernels are left out: they need Cython, which `make bench` installs.
GROUPS = (
    "http1 http1_tls pair_http1 pair_h2 grpc tcp_bulk tls_bulk handshake connect_warm latency peers_4_16 workers_2 scale"
    " memory start micro"
).split()
KEYS = ["group", "params", "subject", "metric", "unit", "rounds", "median", "min", "ratio_to_floor"]
SPREAD = ["max", "ratio_low", "ratio_high"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors"),
    pytest.mark.skipif(
        importlib.util.find_spec("meshdp._native") is None, reason="the engine is not built: make build"
    ),
]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("results")
    amount = ("--rounds", "1", "--seconds", "0.2", "--starts", "1", "--connections", "4")
    done = bench(*GROUPS, *amount, "--without", "nginx", "haproxy", "envoy", "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (results / "part.md").read_text() == done.stdout
    found: dict[str, Any] = json.loads((results / "part.json").read_text())
    found["file"] = str(results / "part.json")
    return found


def test_a_report_has_rows_of_one_shape_and_says_where_it_comes_from(report: dict[str, Any]) -> None:
    assert set(report) == {"commit", "machine", "method", "rows", "file"}
    assert [list(row) for row in report["rows"] if list(row) != [*KEYS, *SPREAD]] == []
    assert all(
        row["median"] >= row["min"] > 0 for row in report["rows"] if row["metric"] != "bytes_per_idle_connection"
    )
    assert report["method"]["failed"] == {}


def test_floor_and_meshdp_are_in_every_group(report: dict[str, Any]) -> None:
    subjects: dict[str, set[str]] = {}
    for row in report["rows"]:
        subjects.setdefault(row["group"], set()).add(row["subject"])
    both = {"floor", "meshdp"}
    large = "meshdp, 1000 services"
    assert subjects == {
        **dict.fromkeys(GROUPS, both),
        "http1": both | {"direct"},
        "scale": both | {large},
        "memory": both | {"meshdp, directory"},
        "start": both,
        "micro": {"meshdp"},
    }


def test_instructions_of_the_large_mesh_are_counted(report: dict[str, Any]) -> None:
    rows = [row for row in report["rows"] if row["metric"].startswith("instructions_per_request")]
    found = {(row["params"]["path"], row["subject"], row["metric"]): row["median"] for row in rows}
    for path in ("inbound", "outbound"):
        small = found[path, "meshdp", "instructions_per_request"]
        large = found[path, "meshdp, 1000 services", "instructions_per_request"]
        assert 1_000 < small < 1_000_000
        assert found[path, "meshdp, 1000 services", "instructions_per_request_over_meshdp"] == pytest.approx(
            large / small, rel=0.001
        )


def test_ratios_are_to_the_floor(report: dict[str, Any]) -> None:
    rows = [row for row in report["rows"] if row["ratio_to_floor"] is not None]
    assert {row["ratio_to_floor"] for row in rows if row["subject"] == "floor"} == {1.0}
    for row in (row for row in rows if row["subject"] == "meshdp"):
        floor = next(
            each["median"]
            for each in rows
            if (each["subject"], each["group"], each["params"], each["metric"])
            == ("floor", row["group"], row["params"], row["metric"])
        )
        assert row["ratio_to_floor"] == pytest.approx(row["median"] / floor, rel=0.01, abs=0.001)


def test_a_report_is_rendered_with_the_goals_beside(report: dict[str, Any], tmp_path: Path) -> None:
    done = bench("--render", report["file"])
    assert done.returncode == 0, done.stderr
    assert "| TCP over mTLS bulk through the pair" in done.stdout
    assert report["machine"]["processor"] in done.stdout
    # One figure changed: the page follows the report.
    changed = json.loads(Path(report["file"]).read_text())
    for row in changed["rows"]:
        row["median"] = 4321.0 if row["metric"] == "exec_to_ready" else row["median"]
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    assert "| exec to ready" in done.stdout and "| 4321 " not in done.stdout
    assert "| 4321 " in bench("--render", str(tmp_path / "changed.json")).stdout


def test_a_part_that_does_not_exist_is_said() -> None:
    done = bench("everything")
    assert done.returncode == 2
    assert "pair_h2" in done.stderr
