"""What the acts stand on: a running Bookinfo, its policies to change, its workloads to send from, its link to tap.

In:      the state folder of a mesh that `meshdp up` runs, the folder that its files were copied to.
Out:     replies, recordings, admin answers: evidence, never an opinion.
Limits:  a change of policy is in force everywhere within 30 s, however busy the machine is.
Fails:   MeshdpError when the mesh does not do what a walk cannot go on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from meshdp.demo import capture
from meshdp.errors import MeshdpError
from meshdp.local.control import ask
from meshdp.local.isolation import inside, kernel, namespaces
from meshdp.local.isolation.namespaces import Holder
from meshdp.local.state import Folder, InstanceState, MeshState, instance_named

CHANGE_TIMEOUT_S = 30.0
EVIDENCE_TIMEOUT_S = 10.0
POLICY_FILE = "current.yaml"

T = TypeVar("T")


class Reply(msgspec.Struct, frozen=True):
    """What came back for a request; status 0 and an error when nothing did."""

    status: int
    headers: dict[str, str]
    body: str
    error: str

    def __str__(self) -> str:
        return f"{self.status} {self.body.strip()[:60]!r}" if self.status else self.error


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to be sent from inside a workload."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)


class Recorded(NamedTuple):
    """A recording and the streams in it."""

    path: Path
    streams: list[capture.Stream]


class Stage:
    """One running Bookinfo."""

    def __init__(self, folder: Folder, files: Path) -> None:
        self.files = files
        self._folder = folder

    @property
    def mesh(self) -> MeshState:
        """The mesh as it is now."""
        state = self._folder.read()
        if state is None:
            raise MeshdpError("the mesh went away during the walk", "start it again: meshdp demo")
        return state

    def instance(self, name: str) -> InstanceState:
        """One instance as it is now."""
        return instance_named(self.mesh, name)

    def apply(self, step: str) -> float:
        """Puts a step's policies in force everywhere, by writing the watched file; the seconds it took."""
        before = self.mesh.documents
        began = time.monotonic()
        current, wanted = self.files / "policies" / POLICY_FILE, (self.files / "steps" / f"{step}.yaml").read_bytes()
        if current.exists() and current.read_bytes() == wanted:
            before = ""  # nothing new to read: what there is only has to be in force
        fresh = current.with_name(f".{POLICY_FILE}")
        fresh.write_bytes(wanted)
        fresh.rename(current)
        if not wait_for(lambda: self._settled_after(before), CHANGE_TIMEOUT_S):
            raise MeshdpError(f"{step} was not in force after {CHANGE_TIMEOUT_S:.0f} s", "see `meshdp ps`")
        return time.monotonic() - began

    def renew(self) -> int:
        """Has every sidecar renew its certificate now, and waits until all have another one; how many they are."""
        before = self._serials()
        ask(self._folder.control, "certs-rotate")
        if not wait_for(lambda: self._renewed_since(before), CHANGE_TIMEOUT_S):
            raise MeshdpError(f"no new certificates after {CHANGE_TIMEOUT_S:.0f} s", "see `meshdp certs show`")
        return len(before)

    def send(self, workload: str, *wanted: Wanted) -> list[Reply]:
        """Sends requests from inside a workload, as its application would."""
        done = subprocess.run(self._probe(workload, wanted, hold=False), capture_output=True, text=True, check=False)
        replies = [msgspec.json.decode(line, type=Reply) for line in done.stdout.splitlines()]
        if len(replies) != len(wanted):
            raise MeshdpError(f"cannot send from {workload}: {done.stderr.strip()}")
        return replies

    def get(self, workload: str, url: str) -> Reply:
        """Sends one GET from inside a workload."""
        return self.send(workload, Wanted(url))[0]

    @contextlib.contextmanager
    def holding(self, workload: str, url: str) -> Iterator[Reply]:
        """Sends one GET and keeps its connection open while the body runs."""
        command = self._probe(workload, (Wanted(url),), hold=True)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            line = process.stdout.readline()
            try:
                yield msgspec.json.decode(line, type=Reply)
            finally:
                process.stdin.close()

    @contextlib.contextmanager
    def recording(self, workload: str, name: str) -> Iterator[Callable[[], Recorded]]:
        """Records the workload's side of the link while the body runs; call what is given afterwards."""
        path = self.files / f"{name}.pcap"
        with capture.recording(self.mesh.link.pid, self.instance(workload).port_name, path):
            yield lambda: Recorded(path, capture.streams(capture.read_pcap(path)))

    def command_in(self, workload: str, script: str, words: str) -> list[str]:
        """The command line that runs one of Bookinfo's own scripts inside a workload, as its application would."""
        command = [sys.executable, "-P", "-m", "meshdp", "exec", "--mesh", self._folder.mesh, workload]
        return [*command, "--", "python3", str(self.files / script), words]

    def admin(self, workload: str, path: str) -> Any:
        """The JSON that a sidecar's admin port answers; None when it does not."""
        answer = asyncio.run(inside.ask(self.instance(workload).holder.pid, inside.ADMIN_PORT, path))
        if answer is None or answer.status != 200:
            return None
        try:
            return json.loads(answer.body)
        except ValueError:
            return None

    def connections(self, workload: str) -> list[dict[str, Any]]:
        """The rows of a sidecar's live connections."""
        found = self.admin(workload, "/connections")
        rows = found.get("connections") if isinstance(found, dict) else found
        return rows if isinstance(rows, list) else []

    def rules(self, workload: str) -> str:
        """What `iptables-save` prints in a workload's namespace."""
        holder = self.instance(workload).holder
        return namespaces.run_inside(Holder(holder.pid, holder.started), ["iptables-save", "-t", "nat"])

    def sockets(self, workload: str) -> str:
        """The kernel's table of TCP sockets in a workload's namespace."""
        return Path(f"/proc/{self.instance(workload).holder.pid}/net/tcp").read_text()

    def sidecar_uid(self, workload: str) -> int | None:
        """The user that a workload's sidecar runs as, in the machine's numbers; None while there is none."""
        try:
            status = Path(f"/proc/{self.instance(workload).sidecar_pid}/status").read_text()
        except OSError:
            return None
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))

    def sidecar_log(self, workload: str) -> str:
        """Everything that a workload's sidecar has written."""
        instance = self.instance(workload)
        return self._folder.logs_of(instance.namespace, instance.name)[1].read_text(errors="replace")

    def application_log(self, workload: str) -> str:
        """Everything that a workload's application has written."""
        instance = self.instance(workload)
        return self._folder.logs_of(instance.namespace, instance.name)[0].read_text(errors="replace")

    def kill_sidecar(self, workload: str) -> float:
        """Ends a workload's sidecar with SIGKILL, as whoever runs the mesh may; when, in seconds since boot."""
        os.kill(self.instance(workload).sidecar_pid, signal.SIGKILL)
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def started_again(self, workload: str, before: InstanceState) -> float | None:
        """When the sidecar that took the place of an earlier one was started, in seconds since boot."""
        pid = self.instance(workload).sidecar_pid
        started = kernel.started_at(pid) if pid not in (0, before.sidecar_pid) else None
        return None if started is None else started / os.sysconf("SC_CLK_TCK")

    def sidecars(self, workload: str, before: InstanceState) -> str:
        """The sidecar of then and the one of now, as evidence."""
        now = self.instance(workload)
        return f"process {before.sidecar_pid}, now {now.sidecar_pid}, {now.restarts - before.restarts} restart(s)"

    def service_address(self, workload: str, name: str) -> str:
        """Where a service's name leads inside a workload, as its hosts file says."""
        instance = self.instance(workload)
        lines = (self._folder.files_of(instance.namespace, instance.name) / "hosts").read_text().splitlines()
        return next((line.split()[0] for line in lines if name in line.split()[1:]), "")

    def _probe(self, workload: str, wanted: tuple[Wanted, ...], *, hold: bool) -> list[str]:
        requests = [{"method": each.method, "url": each.url, "headers": each.headers} for each in wanted]
        return self.command_in(workload, "probe.py", json.dumps({"requests": requests, "hold": hold}))

    def _serials(self) -> dict[str, str]:
        """The certificate that each sidecar has."""
        return {row["workload"]: row["serial"] for row in ask(self._folder.control, "certs")["workloads"]}

    def _renewed_since(self, before: dict[str, str]) -> bool:
        return all(serial and serial != before[name] for name, serial in self._serials().items())

    def _settled_after(self, documents: str) -> bool:
        """The mesh has read something new, and every sidecar has acknowledged what follows from it."""
        mesh = self.mesh
        return mesh.settled and mesh.documents != documents


def wait_for(found: Callable[[], T], timeout_s: float = EVIDENCE_TIMEOUT_S) -> T:
    """Asks again and again until the answer is something, or time is up; the last answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return answer


_POLL_S = 0.01
