"""One flood beside honest clients: what both get, what it costs, and whether that is within the bounds.

In:     a name of `ATTACKS`, seconds; the C programs of bench/floor as application and as honest clients.
Out:    `Result`; `faults` says what is out of bounds.
Limits: the attacker has `SHARE` of one processor. Honest clients ask `RATE` times a second, straight at the attacked sidecar and
        through the pair. A latency below `QUIET_US` is within bounds on any machine: below it, another process's turn is seen.
        Processor time of the sidecar is above what the honest clients alone cost it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.attack.floods.attacks import ATTACKS
from tests.support import wire
from tests.support.origin import Origin
from tests.support.pair import AUTO_PORT, HTTP_PORT, PATIENCE_S, SERVER_IP, SERVICE_IP, Pair, Side, pair

ROOT = Path(__file__).resolve().parents[3]
FLOOR = ROOT / "bench" / "floor"
SHARE = 0.1
RATE, CLIENTS, WARM_MS = 100, 4, 300
MOST_P99, MOST_MEMORY, MOST_COST = 3.0, 64 << 20, 10.0
QUIET_US = 20_000
# Everything measured, the attacker too, goes before what else the machine does: it is one session.
AHEAD, USUAL = "-19", "0"


@dataclass
class Result:
    """What one flood did."""

    attack: str
    ids: str
    seconds: float
    errors: int
    p99_us: int
    idle_p99_us: int
    through_pair_p99_us: int
    idle_through_pair_p99_us: int
    memory_bytes: int
    sidecar_cpu_s: float
    attacker_cpu_s: float
    connections: int
    cut: int
    sent_bytes: int

    @property
    def cost(self) -> float:
        """The sidecar's processor time for the attacker's."""
        return self.sidecar_cpu_s / max(self.attacker_cpu_s, 0.001)

    def faults(self) -> list[str]:
        """What is out of bounds, in words."""
        found = [f"{self.errors} errors of honest clients"] if self.errors else []
        for p99, idle in ((self.p99_us, self.idle_p99_us), (self.through_pair_p99_us, self.idle_through_pair_p99_us)):
            if p99 > max(MOST_P99 * idle, QUIET_US):
                found.append(f"p99 {p99} us, {idle} us without the flood")
        if self.memory_bytes > MOST_MEMORY:
            found.append(f"{self.memory_bytes >> 20} MiB more than before")
        if self.cost > MOST_COST:
            found.append(f"{self.cost:.1f} times the attacker's processor time")
        return found

    def as_row(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"cost": round(self.cost, 2), "faults": self.faults()}


@dataclass
class Honest:
    """What honest clients saw."""

    errors: int
    p99_us: int
    through_pair_p99_us: int
    cpu_s: float


class Stage:
    """A pair with a fast application, and what honest clients get without any flood."""

    def __init__(self, made: Pair, folder: Path, idle_s: float) -> None:
        self.pair = made
        self._folder = folder
        self._idle_s = idle_s / 2
        self._base = resident(made.server)
        # What else the machine does is not to make the bounds wider.
        self.idle = min((self.quiet() for _ in range(2)), key=lambda found: found.p99_us)

    def quiet(self) -> Honest:
        """Honest clients alone."""
        return self.honest(self._idle_s)

    def run(self, name: str, seconds: float) -> Result:
        """One flood."""
        attack, side = ATTACKS[name], self.pair.server
        peak, over = [0], threading.Event()
        watching = threading.Thread(target=self._watch, args=(peak, over))
        watching.start()
        asked = {
            "address": SERVER_IP,
            "port": AUTO_PORT if attack.large else HTTP_PORT,
            "attack": name,
            "share": SHARE,
            "seconds": seconds + 1.0,
        }
        words = [*self._as_sidecar(), sys.executable, "-m", "tests.attack.floods.attacker", json.dumps(asked)]
        attacker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            found = self.honest(seconds)
            said = json.loads(attacker.communicate(timeout=30)[0])
        finally:
            over.set()
            watching.join()
            attacker.kill()
            attacker.wait()
        assert side.process is not None and side.process.poll() is None, side.log.read_text()[-3000:]
        own = self.idle.cpu_s * (seconds / self._idle_s)
        return Result(
            attack=name,
            ids=attack.ids,
            seconds=seconds,
            errors=found.errors,
            p99_us=found.p99_us,
            idle_p99_us=self.idle.p99_us,
            through_pair_p99_us=found.through_pair_p99_us,
            idle_through_pair_p99_us=self.idle.through_pair_p99_us,
            memory_bytes=max(0, peak[0] - self._base),
            sidecar_cpu_s=round(max(0.0, found.cpu_s - own), 3),
            attacker_cpu_s=round(said["cpu_s"] * seconds / (seconds + 1.0), 3),
            connections=said["connections"],
            cut=said["cut"],
            sent_bytes=said["bytes"],
        )

    def honest(self, seconds: float) -> Honest:
        """Honest clients alone, or beside whatever else happens."""
        loads = [self._load(address, seconds) for address in (SERVER_IP, SERVICE_IP)]
        for load in loads:
            assert load.stdout is not None and load.stdout.readline() == "ready\n"
        spent = cpu_s(self.pair.server)
        for load in loads:
            assert load.stdin is not None
            load.stdin.write("go\n")
            load.stdin.flush()
        ends = [load.communicate(timeout=seconds + 30)[0] for load in loads]
        spent = cpu_s(self.pair.server) - spent
        found = [json.loads(end.splitlines()[-1]) for end in ends]
        return Honest(sum(each["errors"] for each in found), found[0]["p99_us"], found[1]["p99_us"], spent)

    def _load(self, address: str, seconds: float) -> subprocess.Popen[str]:
        """Towards the server's address as the sidecar's user: not captured. Towards the service: through both sidecars."""
        before = self._as_sidecar() if address == SERVER_IP else self._inside()
        words = [
            *before,
            str(self._folder / "load"),
            f"{address}:{HTTP_PORT}",
            "server",
            str(CLIENTS),
            str(WARM_MS),
            str(int(seconds * 1000)),
            "rate",
            str(RATE),
        ]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.pair.client.namespace}"]

    def _as_sidecar(self) -> list[str]:
        return [*self._inside(), "setpriv", f"--reuid={wire.SIDECAR_UID}", "--clear-groups"]

    def _watch(self, peak: list[int], over: threading.Event) -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], resident(self.pair.server))


@contextlib.contextmanager
def staged(idle_s: float) -> Iterator[Stage]:
    """A pair, its applications, and a measurement without any flood."""
    with ahead(), tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        for name in ("backend", "load"):
            subprocess.run(["cc", "-O2", "-o", str(Path(folder) / name), str(FLOOR / f"{name}.c")], check=True)
        words = [
            "nsenter",
            f"--net=/run/netns/{made.server.namespace}",
            str(Path(folder) / "backend"),
            f"0.0.0.0:{HTTP_PORT}",
        ]
        backend = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        large = Origin(made.server, [AUTO_PORT])
        try:
            await_listening(made.client, (SERVER_IP, HTTP_PORT))
            yield Stage(made, Path(folder), idle_s)
            for side in (made.client, made.server):
                assert json.loads(side.admin("/stats"))["panics"] == 0
        finally:
            backend.kill()
            backend.wait()
            large.stop()


def await_listening(client: Side, address: tuple[str, int]) -> None:
    """Wait until the application answers through the sidecar in front of it."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), wire.connect_uncaptured(client, address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
            if connection.recv(12) == b"HTTP/1.1 200":
                return
        assert time.monotonic() < until, "the application does not start"
        time.sleep(0.02)


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """Where the kernel shares processors among sessions, ours has a large share; elsewhere nothing changes."""
    session = Path("/proc/self/autogroup")
    with contextlib.suppress(OSError):
        session.write_text(AHEAD)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            session.write_text(USUAL)


def resident(side: Side) -> int:
    """What a sidecar holds, in bytes."""
    assert side.process is not None
    return int(Path(f"/proc/{side.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(side: Side) -> float:
    """What a sidecar has used of a processor, by the kernel's own clock for it (clock_getcpuclockid)."""
    assert side.process is not None
    return time.clock_gettime((~side.process.pid << 3) | 2)
