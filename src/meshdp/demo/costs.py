"""What processes cost: CPU for each request, memory, by the kernel's own accounting.

In:      a `Stage`, traffic to send. Out: `Measured`, `Weight`.
Source:  proc(5): `schedstat` counts nanoseconds of every living thread, `stat` ticks of all there were, kernel work
         for them included; `smaps_rollup` has the proportional set size. Where that may not be read, the resident size
         of `statm` stands for it: it is larger.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from meshdp.demo import traffic
from meshdp.demo.stage import Stage
from meshdp.demo.traffic import Load, Outcome


@dataclass(frozen=True, slots=True)
class Weight:
    """The memory of one process, and how it was told."""

    size_mb: float
    how: str

    def __str__(self) -> str:
        return f"{self.size_mb:.1f} MB, {self.how}"


@dataclass(frozen=True, slots=True)
class Measured:
    """Traffic, and what it cost: microseconds for each request in every sidecar, and in the application of details."""

    outcome: Outcome
    cpu_us: dict[str, float]
    application_us: float


def measured(stage: Stage, workload: str, load: Load, requests: int) -> Measured:
    """Sends about so many requests from a workload."""
    instances = {each.name: each for each in stage.mesh.instances if each.sidecar_pid}
    application = instances["details-v1"].pid
    with traffic.running(stage, workload, load) as going:
        before = {name: cpu_ns(each.sidecar_pid) for name, each in instances.items()}
        application_before = whole_cpu_ns(application)
        time.sleep(requests / load.per_second)  # the traffic's own schedule
        outcome = going.end()
    answered = max(1, outcome.answered)
    cpu_us = {name: (cpu_ns(each.sidecar_pid) - before[name]) / 1e3 / answered for name, each in instances.items()}
    return Measured(outcome, cpu_us, (whole_cpu_ns(application) - application_before) / 1e3 / answered)


def whole_cpu_ns(pid: int) -> int:
    """CPU time of a process so far, ended threads included, in steps of a clock tick; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[_USER]) + int(fields[_SYSTEM])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process so far; 0 when it is gone."""
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(stat.read_text().split()[0])
        except OSError:
            continue  # a thread that has ended since
    return total


def memory(pid: int) -> Weight:
    """The memory of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        size_kb = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return Weight(size_kb * 1024 / 1e6, "proportional set size")
    except (OSError, StopIteration):
        pass
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return Weight(0.0, "the process is gone")
    return Weight(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "resident set size, shared pages included")


_USER, _SYSTEM = 11, 12  # fields of /proc/PID/stat after the name
