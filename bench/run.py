"""`make bench`: what meshdp costs, beside a relay that parses nothing and beside nginx, HAProxy and Envoy.

In:     options below. Needs root, two processors, a C compiler and a release build.
Out:    `bench/results/latest.json` and `.md` after a whole run; `part.*` after a part or a quick one; tables on stdout.
Limits: the proxy under test has processor 0 for itself, load and application share processor 1.
        What was measured is in `part.*` at any time: an interrupted run keeps it, and exits with ENDED.
Fails:  with a sentence where something is missing; exit code 1 when a contender answered wrongly or a part failed.
Source: spec/performance.md section 4; DESIGN section 7.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

# ruff: noqa: E402 - the programme is called by its path, so its package is found here first
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from bench import footprint, instructions, kernels, machine, micro, pace, peers, relays, report, traffic
from bench.proxies import drivers
from bench.report import Report
from bench.rounds import FLOOR
from bench.scenarios import PARTS as TRAFFIC
from bench.stage import ROOT, lane
from bench.traffic import DIRECT, Amount, Setting

PARTS = (*TRAFFIC, "memory", "start", "micro", "kernels")
RESULTS = ROOT / "bench" / "results"
DESCRIPTORS = 16384
ROUNDS, SECONDS, STARTS = 7, 1.2, 20
ENDED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Measures what was asked for, writes the report and prints it."""
    chosen = _options().parse_args(words)
    if chosen.render:
        print(report.read(chosen.render).markdown("../bench/README.md"), end="")
        return 0
    if unknown := set(chosen.parts) - set(PARTS):
        print(f"bench knows no part {', '.join(sorted(unknown))}; it knows {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        print("bench needs root (for network namespaces) and two processors", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
    whole = not (chosen.parts or chosen.quick or chosen.connections or chosen.without)
    found = Report(machine.describe(), machine.commit(), " ".join(words or sys.argv[1:]) or "no options")
    found.failed |= {f"peer {name}": fault for name, fault in drivers.named(os.environ)[1].items()}
    try:
        with tempfile.TemporaryDirectory(prefix="mdpb-") as made:
            folder = Path(made)
            folder.chmod(0o755)
            _measure(chosen, folder, found)
    except KeyboardInterrupt:
        sys.exit(ENDED)
    finally:
        found.write(chosen.results / "part")
    if whole:
        found.write(chosen.results / "latest")
    print(found.markdown(), end="")
    for name, reason in found.failed.items():
        print(f"no figure for {name}: {reason.splitlines()[0]}", file=sys.stderr)
    return 1 if found.failed else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="a look in about three minutes, not to be stated")
    parser.add_argument("--rounds", type=int, help="rounds of a line that must count (7)")
    parser.add_argument(
        "--seconds", type=float, help="measured time of a contender in a round (1.2; twice that for bulk and latency)"
    )
    parser.add_argument("--starts", type=int, help="starts to take the median of (20)")
    parser.add_argument("--connections", type=int, nargs="+", help="instead of the usual numbers")
    parser.add_argument("--without", nargs="+", default=[], choices=peers.known(), help="proxies to leave out")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the report goes")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the tables of a report; measures nothing")
    return parser


def _amount(chosen: argparse.Namespace) -> Amount:
    rounds, seconds, starts, connections = (3, 0.4, 5, (64,)) if chosen.quick else (ROUNDS, SECONDS, STARTS, ())
    return Amount(
        rounds=chosen.rounds or rounds,
        starts=chosen.starts or starts,
        warm_ms=200,
        run_ms=int((chosen.seconds or seconds) * 1000),
        connections=tuple(chosen.connections or connections),
        large=not chosen.quick and (chosen.rounds or rounds) >= rounds,  # a short look leaves them out
    )


def _measure(chosen: argparse.Namespace, folder: Path, found: Report) -> None:
    programs = relays.compile_programs(folder)
    others = [name for name in peers.installed() if name not in chosen.without]
    parts = chosen.parts or list(PARTS)
    with ExitStack() as stack:
        names = (DIRECT, FLOOR, *others)
        lanes = {name: stack.enter_context(lane(name, folder, programs, redirected=name != DIRECT)) for name in names}
        setting = Setting(folder, lanes, programs, _amount(chosen), _progress(), stack)
        setting.say(
            f"estimated: {pace.span(sum(pace.estimate(setting, part) for part in parts))} for {len(parts)} parts"
        )
        for part in parts:
            with pace.timed(setting, parts, part, found.took):
                try:
                    _measure_part(setting, part, found, lambda: found.write(chosen.results / "part"))
                except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as failure:
                    found.failed[part] = f"{type(failure).__name__}: {failure}"  # the other parts have figures
                    setting.say(f"{part} failed: {failure}")


def _measure_part(setting: Setting, part: str, found: Report, keep: Callable[[], None]) -> None:
    """keep: writes what there is, so that a run that is interrupted in any way has it."""
    if part in TRAFFIC:
        for name, compared in traffic.run(setting, part):
            found.rows += compared.rows
            found.refused[name] = compared.refused
            found.failed |= {f"{name}: {subject}": reason for subject, reason in compared.failed.items()}
            found.absent |= {f"{name}: {subject}": reason for subject, reason in compared.absent.items()}
            keep()
        for scenario in TRAFFIC[part] if part == "scale" else ():
            found.rows += instructions.count(setting, scenario)
    elif part == "memory":
        found.rows += footprint.memory(setting, max(1, setting.amount.rounds // 2), found.failed, found.absent)
    elif part == "start":
        found.rows += footprint.starts(setting, found.failed, found.absent)
    elif part == "kernels":
        setting.say("kernels: Rust, Cython and Python")
        found.rows += kernels.run(setting.folder, setting.amount.rounds)
    else:
        setting.say("micro: pytest-benchmark")
        found.rows += micro.run(setting.amount.rounds, setting.amount.run_ms / 1000, large=setting.amount.large)
    keep()


def _progress() -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
