"""What a process has cost, by its own accounting, and what a load saw.

In:     process ids, a lane, where to send requests.
Out:    nanoseconds of CPU, bytes of memory, `Load` results.
Source: proc(5): `schedstat` counts what the scheduler gave each thread, kernel work for it included; `smaps_rollup` is
        the proportional set size, in which a page shared by two processes counts half for each.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.stage import APPLICATION_UID, OTHER_CPU, Lane


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of all threads of these processes so far."""
    return sum(
        int(stat.read_text().split()[0]) for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process."""
    return _rollup(pid, "Pss:")


def rss_bytes(pid: int) -> int:
    """Resident set size of one process: as though it shared with nobody."""
    return _rollup(pid, "Rss:")


def private_bytes(pid: int) -> int:
    """Anonymous memory of one process: its heap and stacks, no files."""
    return _rollup(pid, "Pss_Anon:")


def _rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} for process {pid}")


def stolen() -> tuple[int, int]:
    """Ticks taken away by the machine below ours, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a load goes, and as whom: the proxy's user passes the rules of the client's end."""

    address: str
    host: str
    uid: int = APPLICATION_UID


@dataclass(frozen=True, slots=True)
class Result:
    """One measured load."""

    requests: int
    errors: int
    rps: float
    p50_us: int
    p99_us: int


class Load:
    """A load generator that is warm: all connections are open, used and idle."""

    def __init__(self, lane: Lane, program: Path, aim: Aim, shape: tuple[int, int, int]) -> None:
        connections, warm_ms, run_ms = shape
        words = [str(program), aim.address, aim.host, str(connections), str(warm_ms), str(run_ms)]
        self._lane = lane
        self._process: subprocess.Popen[str] = lane.start("client", words, aim.uid, OTHER_CPU)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the load towards {aim.address} did not start:\n{lane.log()}")

    def run(self) -> Result:
        """The measured part. Raises when an answer was wrong: such a run is no figure."""
        said, _ = self._process.communicate("go\n", timeout=120)
        found = json.loads(said)
        if found["errors"]:
            raise RuntimeError(f"{found['errors']} wrong answers of {found['requests']} in lane {self._lane.name}")
        rps = found["requests"] / found["seconds"]
        return Result(found["requests"], found["errors"], rps, found["p50_us"], found["p99_us"])

    def close(self) -> None:
        """Closes the connections without a measured part."""
        self._lane.stop(self._process)


def measured(load: Load, pids: list[int]) -> tuple[Result, list[float]]:
    """Runs a load; CPU microseconds per request of each process."""
    before = [cpu_ns([pid]) for pid in pids]
    result = load.run()
    return result, [(cpu_ns([pid]) - was) / 1e3 / result.requests for pid, was in zip(pids, before, strict=True)]


def attempt(function: Callable[[], None]) -> bool:
    """Whether a function ran without a socket error."""
    try:
        function()
    except OSError:
        return False
    return True
