"""The soak itself: a mesh under load, changed all the time, and one report of what that cost.

In:     minutes, a folder.
Out:    `Report`: counts of each protocol, changes made, what processes held before and after; `ok` when nothing was lost
        and nothing has grown.
Limits: 20 swaps, 5 rotations and 3 kills for each 3 minutes (in less than that, once), spread evenly; 15 s of load before the baseline.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2
import hpack
import hyperframe

from meshdp.local.isolation import inside
from tests.soak import measure
from tests.support import http2
from tests.support.local_mesh import Meshdp, wait_until

SWAPS, ROTATIONS, KILLS = 20, 5, 3
WARM_S = 15.0
ROUND_MINUTES = 3.0
# One round in every test run.
SHORT_MINUTES = 1.4
PATIENCE_S = 90.0
MESH = "soak"
FILE = f"""\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {{name: {MESH}}}
spec:
  resources: [services.yaml, policies]
  workloads:
  - {{name: front, serviceAccount: front, command: [python3, load.py, out]}}
  - {{name: back, serviceAccount: back, labels: {{app: back}}, command: [python3, server.py], replicas: 2}}
  - {{name: bystander, serviceAccount: bystander, labels: {{app: bystander}}, command: [python3, server.py]}}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: back}
spec: {selector: {app: back}, ports: [{name: http, port: 8080}, {name: tcp, port: 9000}, {name: grpc, port: 9001}]}
---
apiVersion: v1
kind: Service
metadata: {name: bystander}
spec: {selector: {app: bystander}, ports: [{name: http, port: 8080}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""
FLIP = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: flip, namespace: default}}
spec:
  selector: {{matchLabels: {{app: back}}}}
  action: DENY
  rules: [{{to: [{{operation: {{ports: ["8080"], paths: ["{path}", "/never-{number}"]}}}}]}}]
"""


class Soak:
    """One run. `go` does it all; the mesh is gone afterwards."""

    def __init__(self, folder: Path, minutes: float, say: Callable[[str], None]) -> None:
        self.meshdp = Meshdp(folder)
        self.minutes = minutes
        self._say = say
        self._out = folder / "out"
        self._swaps = 0
        self._rotations = 0
        self._recoveries: list[float] = []

    def go(self) -> dict[str, Any]:
        """Runs it; the report."""
        self._write_files()
        started = self.meshdp("up", "-f", str(self.meshdp.folder / "mesh.yaml"), "--detach")
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            self._warm_up()
            before = measure.held(self._processes())
            self._say(f"baseline {before}")
            self._resume()
            self._change_everything()
            self._pause()
            after = self._settled(before)
            return self._report(before, after)
        finally:
            self.meshdp("down", "--mesh", MESH)

    def _write_files(self) -> None:
        folder = self.meshdp.folder
        folder.chmod(0o755)
        for name in ("server.py", "load.py"):
            shutil.copy(Path(__file__).with_name(name), folder / name)
        shutil.copy(Path(http2.__file__), folder / "http2.py")
        for package in (h2, hpack, hyperframe):
            shutil.copytree(Path(str(package.__file__)).parent, folder / package.__name__)
        for name in ("policies", "out"):
            (folder / name).mkdir()
        (self._out / "pause").touch()  # until everything serves
        (folder / "mesh.yaml").write_text(FILE)
        (folder / "services.yaml").write_text(SERVICES)
        self._flip(0)

    def _warm_up(self) -> None:
        """The same load as later: pools and buffers reach their size before anything is measured."""
        self._resume()
        time.sleep(WARM_S)
        self._flip(1)
        self._flip(0)
        self._pause()

    def _pause(self) -> None:
        """Has the load close what it has open, and waits until its sidecar has seen it; pools stay as they are."""
        (self._out / "pause").touch()
        wait_until(lambda: not self._connections(), PATIENCE_S)

    def _resume(self) -> None:
        (self._out / "pause").unlink()

    def _connections(self) -> int:
        return len(json.loads(self._ask(self._instance("front"), "/connections"))["connections"])

    @staticmethod
    def _ask(row: dict[str, Any], path: str) -> str:
        answer = asyncio.run(inside.ask(row["holder"]["pid"], inside.ADMIN_PORT, path))
        assert answer is not None, f"the admin port of {row['name']} does not answer"
        return answer.body.decode()

    def _change_everything(self) -> None:
        """Swaps, rotations and kills, spread over the time."""
        end = time.monotonic() + self.minutes * 60
        changes = list(self._changes())
        pause_s = (end - time.monotonic()) / len(changes)
        for number, change in enumerate(changes):
            due = end - (len(changes) - number) * pause_s
            time.sleep(max(0.0, due - time.monotonic()))
            change()
            lost = self._load()
            self._say(f"{number + 1}/{len(changes)} {getattr(change, '__name__', change)} {lost['faults'][-1:]}")
        time.sleep(max(0.0, end - time.monotonic()))

    def _changes(self) -> Iterator[Callable[[], None]]:
        """Each round has them all, mixed evenly."""
        for _ in range(max(1, round(self.minutes / ROUND_MINUTES))):
            due = [((index + 0.5) / SWAPS, self._swap) for index in range(SWAPS)]
            due += [((index + 0.4) / ROTATIONS, self._rotate) for index in range(ROTATIONS)]
            due += [((index + 0.6) / KILLS, self._kill) for index in range(KILLS)]
            yield from (change for _, change in sorted(due, key=lambda each: each[0]))

    def _swap(self) -> None:
        self._swaps += 1
        self._flip(self._swaps)

    def _flip(self, number: int) -> None:
        """Another policy, in force everywhere before this returns."""
        path = "/guarded" if number % 2 else "/other"
        staged = self.meshdp.folder / "staged.yaml"
        staged.write_text(FLIP.format(path=path, number=number))
        before = self._state()
        staged.replace(self.meshdp.folder / "policies" / "flip.yaml")
        if before:
            wait_until(lambda: self._follows(before["documents"]), PATIENCE_S)

    def _follows(self, documents: str) -> bool:
        now = self._state()
        return now["documents"] != documents and bool(now["settled"])

    def _kill(self) -> None:
        """The sidecar of a workload that nobody asks anything."""
        before = self._instance("bystander")
        killed = time.monotonic()
        os.kill(before["sidecar_pid"], signal.SIGKILL)
        wait_until(lambda: self._instance("bystander")["restarts"] > before["restarts"], PATIENCE_S)
        wait_until(lambda: self._instance("bystander")["phase"] == "ready" and self._state()["settled"], PATIENCE_S)
        self._recoveries.append(round(time.monotonic() - killed, 3))

    def _rotate(self) -> None:
        """New certificates for every sidecar, in use before this returns.

        A new root is another matter: when the old one goes, streams that stand on it are cut (`--settle`).
        """
        self._rotations += 1
        before = self._serials()
        done = self.meshdp("certs", "rotate", "--mesh", MESH, timeout_s=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: not self._serials() & before, PATIENCE_S)

    def _serials(self) -> set[str]:
        """What is asked of the engines themselves."""
        rows = [row for row in self._instances() if row["sidecar"]]
        return {str(json.loads(self._ask(row, "/certs"))["certificate"]["serial"]) for row in rows}

    def _state(self) -> dict[str, Any]:
        path = self.meshdp.state / MESH / "state.json"
        return self.meshdp.state_of(MESH) if path.exists() else {}

    def _instances(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._state()["instances"]
        return found

    def _instance(self, name: str) -> dict[str, Any]:
        return next(row for row in self._instances() if row["name"] == name)

    def _processes(self) -> dict[str, int]:
        """The sidecars on the path, and the process that runs the mesh."""
        found = {row["name"]: row["sidecar_pid"] for row in self._instances() if row["name"] != "bystander"}
        return found | {"up": self._state()["supervisor"]["pid"]}

    def _settled(self, before: dict[str, measure.Held]) -> dict[str, measure.Held]:
        """What is held once what is kept for a while is gone (a pooled connection: 60 s)."""
        until = time.monotonic() + PATIENCE_S
        while measure.grown(before, after := measure.held(self._processes())) and time.monotonic() < until:
            time.sleep(0.5)
        return after

    def _load(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._out / "load.json").read_text())
        return found

    def _report(self, before: dict[str, measure.Held], after: dict[str, measure.Held]) -> dict[str, Any]:
        since = time.time() + 0.5  # what has just ended is counted a moment later
        wait_until(lambda: self._load()["at"] > since, PATIENCE_S)
        load = self._load()
        kinds = {name: counted for name, counted in load.items() if isinstance(counted, dict) and name != "statuses"}
        lost = sum(each["asked"] - each["answered"] for each in kinds.values())
        broken = sum(each["lost"] for each in kinds.values())
        mixed = sum(each["mixed"] for each in kinds.values())
        grown = measure.grown(before, after)
        return {
            "ok": not (lost or broken or mixed or grown),
            "minutes": self.minutes,
            "asked": sum(each["asked"] for each in kinds.values()),
            "lost": lost,
            "broken": broken,
            "mixed": mixed,
            "grown": grown,
            "swaps": self._swaps,
            "rotations": self._rotations,
            "kills": self._recoveries,
            "kinds": kinds,
            "statuses": load["statuses"],
            "faults": load["faults"],
            "before": {name: vars(held) for name, held in before.items()},
            "after": {name: vars(held) for name, held in after.items()},
            "python": sys.version.split()[0],
        }
