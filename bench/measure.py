"""What a process has cost, by its own accounting, and what a load saw.

In:     process ids, a lane, where to send requests.
Out:    nanoseconds of CPU, bytes of memory, what `Load` and `Bulk` saw.
Fails:  WrongAnswer.
Source: proc(5): `schedstat` counts what the scheduler gave each thread, kernel work for it included; `smaps` has the
        proportional set size, in which a page shared by two processes counts half for each.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.stage import APPLICATION_UID, OTHER_CPU, Lane

# Libraries that every program of a distribution uses.
SHARED_FOLDERS = ("/lib/", "/lib64/", "/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/")
CHECKED_BYTES = 64 * 1024 * 1024
STREAMS = 10


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of all threads of these processes so far."""
    return sum(
        int(stat.read_text().split()[0]) for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes of memory of a group of processes.

    alone: proportional set size as though no other program used their files: pages of what only they run (interpreter,
        packages, program) count whole, the distribution's libraries by their share. pss, rss: as the kernel says.
    anonymous: heaps and stacks.
    """

    alone: int
    pss: int
    rss: int
    anonymous: int


def weigh(pid: int, shared: Iterable[str] = SHARED_FOLDERS) -> Weight:
    """Weighs a process with its children, and theirs."""
    return _sum(_weigh_one(each, tuple(shared)) for each in family(pid))


def family(pid: int) -> list[int]:
    """A process and everything it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def _sum(weights: Iterable[Weight]) -> Weight:
    columns = zip(*((each.alone, each.pss, each.rss, each.anonymous) for each in weights), strict=True)
    return Weight(*map(sum, columns))


def _weigh_one(pid: int, shared: tuple[str, ...]) -> Weight:
    alone = pss = rss = anonymous = 0
    path = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ", 1)[0]:  # the first line of a mapping: addresses, rights, …, its file
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
        elif name in ("Rss", "Pss", "Anonymous"):
            size = int(rest.split()[0]) * 1024
            rss += size if name == "Rss" else 0
            pss += size if name == "Pss" else 0
            anonymous += size if name == "Anonymous" else 0
            own = path.startswith("/") and not path.startswith(shared)
            alone += size if name == ("Rss" if own else "Pss") else 0
    return Weight(alone, pss, rss, anonymous)


def stolen() -> tuple[int, int]:
    """Ticks taken away by the machine below ours, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


class WrongAnswer(RuntimeError):
    """A contender answered wrongly or not at all: what it did is no figure."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a load goes, and as whom: the proxy's user passes the rules of the client's end.

    fresh: each request has a connection of its own. rate: requests a second, whether or not earlier ones are answered.
    tls, hybrid: the load itself is a client of the mesh, with a certificate. grpc: the load speaks HTTP/2.
    """

    address: str
    host: str
    uid: int = APPLICATION_UID
    fresh: bool = False
    rate: int = 0
    tls: bool = False
    hybrid: bool = False
    grpc: bool = False


class Load:
    """A load generator that is warm: all connections are open, used and idle. shape: connections, warm_ms, run_ms.

    certificates: a folder, for a load that speaks TLS; without one the load is plain, whatever the aim says.
    """

    def __init__(
        self,
        lane: Lane,
        programs: Mapping[str, Path],
        aim: Aim,
        shape: tuple[int, int, int],
        certificates: Path | None = None,
    ) -> None:
        words = [aim.address, aim.host, *map(str, shape)]
        fresh = ["fresh"] if aim.fresh else []
        if certificates:
            words = [str(programs["tls-load"]), *words, str(certificates), *fresh, *(["hybrid"] if aim.hybrid else [])]
        else:
            words = [str(programs["load"]), *words, *fresh, *(["rate", str(aim.rate)] if aim.rate else [])]
        self._run = _Told(lane, words, aim)

    def run(self) -> dict[str, float]:
        """The measured part: requests, seconds, p50_us, p99_us. Raises when an answer was wrong."""
        return self._run.go()

    def close(self) -> None:
        """Closes the connections without a measured part."""
        self._run.close()


class Bulk:
    """A transfer that has begun, and whose first bytes were compared one by one with what was sent."""

    def __init__(self, lane: Lane, program: Path, aim: Aim, run_ms: int) -> None:
        self._run = _Told(lane, [str(program), "sink", aim.address, str(CHECKED_BYTES), str(run_ms)], aim)

    def run(self) -> dict[str, float]:
        """The measured part: bytes, seconds. Raises when the stream broke off."""
        return self._run.go()


class GrpcLoad:
    """h2load: unary calls, so many connections with so many streams each; a fixed number of calls."""

    def __init__(self, lane: Lane, aim: Aim, connections: int, calls: int) -> None:
        self._lane = lane
        self._words = [
            "h2load",
            f"--clients={connections}",
            f"--requests={calls}",
            f"--max-concurrent-streams={STREAMS}",
        ]
        self._words += ["--header=content-type: application/grpc", "--header=te: trailers"]
        self._words += [f"--header=:authority: {aim.host}", f"--data={lane.folder / 'pages' / 'call'}"]
        self._words += [f"http://{aim.address}/shop.Items/Get"]
        (lane.folder / "pages" / "call").write_bytes(b"\0\0\0\0\x1b" + b"q" * 27)
        self._uid = aim.uid

    def run(self) -> dict[str, float]:
        """Requests, seconds. Raises when a call failed."""
        process = self._lane.start("client", self._words, self._uid, OTHER_CPU)
        said, _ = process.communicate(timeout=120)
        self._lane.forget(process)
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
        took = re.search(r"finished in ([0-9.]+)(m?s)", said)
        if not done or not took or int(done.group(2)) + int(done.group(3)):
            raise WrongAnswer(f"h2load in lane {self._lane.name}: {said[-400:]}")
        seconds = float(took.group(1)) * (1e-3 if took.group(2) == "ms" else 1)
        return {"requests": float(done.group(1)), "seconds": seconds}


class _Told:
    """A program of the floor that prepares itself, says "ready", waits for a line and prints one line of JSON."""

    def __init__(self, lane: Lane, words: list[str], aim: Aim) -> None:
        self._lane = lane
        self._process: subprocess.Popen[str] = lane.start("client", words, aim.uid, OTHER_CPU)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise WrongAnswer(f"the load towards {aim.address} in lane {lane.name} did not start:\n{lane.log()}")

    def go(self) -> dict[str, float]:
        said, _ = self._process.communicate("go\n", timeout=120)
        self._lane.forget(self._process)
        found: dict[str, float] = json.loads(said)
        if found["errors"]:
            raise WrongAnswer(f"{found['errors']:.0f} wrong answers in lane {self._lane.name}: {found}")
        return found

    def close(self) -> None:
        self._lane.stop(self._process)
