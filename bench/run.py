"""`make bench`: what meshdp costs, as ratios to a relay that parses nothing and, on request, to other proxies.

In:     options below. Needs root, two processors, a C compiler and a release build.
Out:    a table, or JSON with `-o json`: method, machine, every figure with its spread.
Limits: the proxy under test has processor 0 for itself, load and application share processor 1.
Fails:  with a sentence where something is missing; a run with a wrong answer is no figure and ends the program.
Source: spec/performance.md section 4; DESIGN section 7.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# ruff: noqa: E402 - the programme is called by its path, so its package is found here first
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from bench import footprint, machine, peers, relays, report
from bench.measure import Aim
from bench.rounds import FLOOR, Comparison, Contender, Plan, compare
from bench.sidecars import PLAIN_HOST, SERVICE_HOST, SERVICE_IP, Sidecars
from bench.stage import PLAIN_IP, PLAIN_PORT, PORT, PROXY_UID, SERVER_IP, Lane, lane

AIMS = {
    "inbound": Aim(f"{SERVER_IP}:{PORT}", SERVICE_HOST, PROXY_UID),  # as the proxy's user: past the client's rules
    "outbound": Aim(f"{PLAIN_IP}:{PLAIN_PORT}", PLAIN_HOST),
    "pair": Aim(f"{SERVICE_IP}:{PORT}", SERVICE_HOST),
}
ENDS = {"inbound": ["server"], "outbound": ["client"], "pair": ["server", "client"]}
CONNECTIONS = {"inbound": [16, 64], "outbound": [16, 64], "pair": [1, 16, 64]}
PARTS = ("inbound", "outbound", "pair", "memory", "start")


def main(words: Sequence[str] | None = None) -> int:
    """Measures what was asked for and prints it."""
    chosen = _options().parse_args(words)
    chosen.parts = chosen.parts or list(PARTS)
    if unknown := set(chosen.parts) - set(PARTS):
        print(f"bench knows no part {', '.join(sorted(unknown))}; it knows {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0 or (os.cpu_count() or 1) < 2:
        print("bench needs root (for network namespaces) and two processors", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    with tempfile.TemporaryDirectory(prefix="meshdp-bench-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        found = _measure(chosen, folder)
    found["machine"] = machine.describe()
    found["method"] = report.METHOD
    print(json.dumps(found, indent=2, default=_plain) if chosen.output == "json" else report.table(found))
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per line (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time per contender and round (2)")
    parser.add_argument("--starts", type=int, default=20, help="starts to take the median of (20)")
    parser.add_argument("--connections", type=int, nargs="+", help="instead of the usual numbers")
    parser.add_argument("--peers", action="store_true", help="nginx, HAProxy and Envoy too, where installed")
    parser.add_argument("-o", dest="output", choices=["table", "json"], default="table")
    return parser


def _measure(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    programs = relays.compile_programs(folder)
    plan = Plan(chosen.rounds, 300, int(chosen.seconds * 1000), programs["load"])
    found: dict[str, Any] = {"comparisons": []}
    with ExitStack() as stack:
        own = stack.enter_context(lane("own", folder, programs["backend"]))
        floor = stack.enter_context(lane(FLOOR, folder, programs["backend"]))
        sidecars = Sidecars(own, folder)
        stack.callback(sidecars.close)
        others = {name: stack.enter_context(lane(name, folder, programs["backend"])) for name in _peers(chosen)}
        for scenario in (part for part in chosen.parts if part in AIMS):
            with ExitStack() as running:
                contenders = [_relays(floor, programs["relay"], scenario, running), _own(sidecars, scenario, running)]
                contenders += [_peer(name, each, scenario, running) for name, each in others.items()]
                counts = chosen.connections or CONNECTIONS[scenario]
                found["comparisons"] += [_compare(scenario, count, contenders, plan) for count in counts]
        if "memory" in chosen.parts:
            found["memory"] = footprint.footprint(sidecars, programs["load"])
        if "start" in chosen.parts:
            found["start"] = footprint.starts(sidecars, chosen.starts)
    return found


def _compare(scenario: str, connections: int, contenders: Sequence[Contender], plan: Plan) -> Comparison:
    print(f"{scenario}, {connections} connections …", file=sys.stderr, flush=True)
    return compare(scenario, AIMS[scenario], connections, contenders, plan)


def _peers(chosen: argparse.Namespace) -> list[str]:
    return peers.installed() if chosen.peers else []


def _relays(floor: Lane, program: Path, scenario: str, running: ExitStack) -> Contender:
    processes = relays.start_relays(floor, program, scenario)
    for process in processes:
        running.callback(floor.stop, process)
    return Contender(FLOOR, floor, [process.pid for process in processes])


def _own(sidecars: Sidecars, scenario: str, running: ExitStack) -> Contender:
    processes = [sidecars.ready(end) for end in ENDS[scenario]]
    for process in processes:
        running.callback(sidecars.lane.stop, process)
    return Contender("meshdp", sidecars.lane, [process.pid for process in processes])


def _peer(name: str, where: Lane, scenario: str, running: ExitStack) -> Contender:
    processes = peers.start(name, where, scenario)
    for process in processes:
        running.callback(where.stop, process)
    return Contender(name, where, [process.pid for process in processes])


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)


if __name__ == "__main__":
    sys.exit(main())
