"""Instructions that a request costs our sidecar, with the usual mesh and with the large one.

In:     a `Setting`, the scenarios of group `scale`, valgrind.
Out:    rows: user-space instructions per request of the worker thread, and the large mesh as a multiple of the small.
Limits: counted by callgrind on the whole sidecar, in the measured time, without the kernel's. The
        worker is the busiest thread. Virtual machines seldom have a processor's own counters: none is asked for.
Fails:  `Uncounted` when valgrind is missing or says no number.
Source: spec/performance.md 4.2: exact, and of own code only.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench import documents
from bench.measure import Load
from bench.rounds import Row, figure_row
from bench.scenarios import Scenario
from bench.sidecars import Sidecars
from bench.stage import PROXY_UID
from bench.traffic import LARGE, OWN, Setting, described

METRIC, UNIT = "instructions_per_request", "instr"
CONNECTIONS = 64
WARM_MS = 1500  # a sidecar under callgrind is fifty times slower: until every connection was used
READINGS = 3
READY_LIMIT_S = 120
TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


class Uncounted(RuntimeError):
    """There is no number."""


def count(setting: Setting, scenario: Scenario) -> list[Row]:
    """Both meshes on one path."""
    if shutil.which("valgrind") is None:
        raise Uncounted("valgrind is not installed: scripts/debian-packages installs it")
    params = described(scenario, CONNECTIONS)
    found: dict[str, list[float]] = {}
    for name, variant in ((OWN, documents.USUAL), (LARGE, "large")):
        setting.say(f"{scenario.group} {params}: instructions of {name}")
        found[name] = _readings(setting, scenario, setting.sidecars(variant))
    rows = [figure_row(scenario.group, params, (name, METRIC, UNIT), values) for name, values in found.items()]
    multiple = statistics.median(found[LARGE]) / statistics.median(found[OWN])
    return [*rows, figure_row(scenario.group, params, (LARGE, f"{METRIC}_over_{OWN}", "×"), [multiple])]


def _readings(setting: Setting, scenario: Scenario, sidecars: Sidecars) -> list[float]:
    (end,) = scenario.roles
    folder = setting.folder / f"instructions-{end}-{sidecars.variant.large}"
    folder.mkdir()
    folder.chmod(0o777)  # the sidecar writes its counts as its own user
    words = ["valgrind", "--tool=callgrind", "--quiet", "--instr-atstart=no", "--separate-threads=yes"]
    words += ["--combine-dumps=no", f"--callgrind-out-file={folder / 'count'}"]
    with ExitStack() as running:
        process = sidecars.start_under(end, words)
        running.callback(sidecars.lane.stop, process)
        sidecars.await_ready(end, limit_s=READY_LIMIT_S)
        _tell(process.pid, "--instr=on")
        return [_reading(setting, scenario, sidecars, process.pid, folder) for _ in range(READINGS)]


def _reading(setting: Setting, scenario: Scenario, sidecars: Sidecars, pid: int, folder: Path) -> float:
    shape = (CONNECTIONS, WARM_MS, setting.amount.run_ms)
    load = Load(sidecars.lane, setting.programs, scenario.aim, shape)
    _tell(pid, "--zero")
    seen = load.run()
    before = set(folder.iterdir())
    _tell(pid, "--dump")
    threads = [TOTAL.search(each.read_text()) for each in set(folder.iterdir()) - before]
    counts = [int(total.group(1)) for total in threads if total]
    if not counts or not seen["requests"]:
        raise Uncounted(f"callgrind wrote no count into {folder} for {seen['requests']:.0f} requests")
    return max(counts) / seen["requests"]


def _tell(pid: int, what: str) -> None:
    done = subprocess.run(
        ["callgrind_control", what, str(pid)],
        capture_output=True,
        text=True,
        check=False,
        user=PROXY_UID,
        group=PROXY_UID,
    )
    if done.returncode != 0 or "OK." not in done.stdout:
        raise Uncounted(f"callgrind_control {what}: expected OK, found {(done.stdout + done.stderr).strip()!r}")
