"""Peers that join the benchmark by a driver, and what an interrupted run keeps.

In:      the floor's relay as the peer's binary, a driver written here; one round of a tiny form.
Limits:  needs root and two processors; skipped with a reason otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import test_bench

ROOT = test_bench.ROOT
TINY = ("--rounds", "1", "--seconds", "0.2", "--connections", "4", "--without", "nginx", "haproxy", "envoy")
DRIVER = f"""#!{sys.executable}
import json, os, sys
binary, file = sys.argv[1:]
place = json.load(open(file))
if place["taken"] == "tcp":
    print("this peer carries no bytes", file=sys.stderr)
    sys.exit(69)
listen = "%(address)s:%(port)d" % place["listen"]
source = [place["dial_from"] + ":0"] if place["dial_from"] else []
os.execv(binary, [binary, listen, place["upstreams"][0], *source])
"""

pytestmark = test_bench.pytestmark


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, str]]:
    """The peer's binary and its driver, where the proxies' user finds them, named in the environment."""
    with tempfile.TemporaryDirectory(prefix="mdp-peer-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        source = ROOT / "bench" / "floor" / "relay.c"
        subprocess.run(["cc", "-O2", "-std=gnu17", "-o", str(folder / "relay"), str(source)], check=True)
        (folder / "driver").write_text(DRIVER)
        (folder / "driver").chmod(0o755)
        yield {"BENCH_PEER_OUR_RELAY": str(folder / "relay"), "BENCH_PEER_OUR_RELAY_DRIVER": str(folder / "driver")}


def test_a_peer_joins_by_its_driver_and_one_that_fails_is_named(programs: dict[str, str], tmp_path: Path) -> None:
    broken = {
        "BENCH_PEER_BROKEN": "/bin/true",
        "BENCH_PEER_BROKEN_DRIVER": "/bin/false",
        "BENCH_PEER_ALONE": "/bin/true",
    }
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "http1", "tcp_bulk", *TINY, "--results", str(tmp_path)]
    environment = {**os.environ, **programs, **broken}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 1, done.stderr  # somebody has no figure
    found: dict[str, Any] = json.loads((tmp_path / "part.json").read_text())
    joined = [row for row in found["rows"] if row["subject"] == "our-relay"]
    assert {row["params"]["path"] for row in joined} == {"inbound", "outbound"}
    assert all(row["ratio_to_floor"] > 0 for row in joined if row["metric"] == "cpu_per_request")
    method = found["method"]
    assert method["absent"] == {"tcp_bulk, inbound, 1 connections: our-relay": "this peer carries no bytes"}
    assert "BENCH_PEER_ALONE_DRIVER is not set" in method["failed"].pop("peer alone")
    assert {name.rpartition(": ")[2] for name in method["failed"]} == {"broken"}
    assert len(method["failed"]) == 3  # both ways of http1, and the bytes
    assert all("it exited with 1" in reason for reason in method["failed"].values())
    # It is a column of the goals, and what has no figure is said on the page.
    assert "our-relay" in next(line for line in done.stdout.splitlines() if line.startswith("| what"))
    assert "no figure for peer alone: BENCH_PEER_ALONE_DRIVER" in done.stdout
    assert "not in tcp_bulk, inbound, 1 connections: our-relay: this peer carries no bytes" in done.stdout


def test_an_interrupted_run_keeps_what_it_has_measured(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "bench" / "run.py"),
        "tcp_bulk",
        "pair_http1",
        *TINY,
        "--results",
        str(tmp_path),
    ]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    assert running.stderr is not None
    for line in running.stderr:
        said.append(line)
        if "part 2 of 2: pair_http1, about" in line:
            running.send_signal(signal.SIGTERM)
            break
    _, rest = running.communicate(timeout=120)
    assert running.returncode == 130, "".join(said) + rest
    found = json.loads((tmp_path / "part.json").read_text())
    assert {row["group"] for row in found["rows"]} == {"tcp_bulk"}
    assert found["method"]["took_s"]["tcp_bulk"] > 0
    assert any("estimated: " in line for line in said) and any("tcp_bulk took " in line for line in said)
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"mdpb-{running.pid}-" not in left
