"""A pair of sidecars with one application for each protocol, and programs of others in either namespace.

In:     a `Pair`; whether its server side is said to be meshdp's.
Out:    `Rig`: start a program in a namespace, run one to its end, where a way leads.
Limits: programs are ended by pid when the rig ends; what they say is kept in `folder/programs.log`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.interop.tools import ROOT
from tests.support import wire
from tests.support.pair import CLIENT_IP, SERVER_IP, SERVICE_IP, Pair, Side, pair

HTTP, TCP, AUTO = 9080, 9091, 9092
HTTP2, GRPC, GRPC_GO, WEBSOCKET, GRPC_RESET = 9093, 9094, 9095, 9096, 9097
PORTS = {
    "http": HTTP,
    "tcp": TCP,
    "auto": AUTO,
    "http2": HTTP2,
    "grpc": GRPC,
    "grpc-go": GRPC_GO,
    "http-ws": WEBSOCKET,
    "grpc-reset": GRPC_RESET,
}
SERVICE = "server.default.svc.cluster.local"
LISTENING_S = 20.0
ENDING_S = 5.0

# By which way a judge meets its peer: straight, through two sidecars, or in plaintext through the server's alone.
WAYS = ("direct", "outbound", "inbound")

DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: default, labels: {{app: client, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}}}}
spec: {{serviceAccountName: client}}
status: {{podIP: {client}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: default, labels: {{app: server, security.istio.io/tlsMode: istio{mark}}}}}
spec: {{serviceAccountName: server}}
status: {{podIP: {server}}}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: default}}
spec: {{clusterIP: {service}, selector: {{app: server}}, ports: [{ports}]}}
---
apiVersion: meshdp.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{accessLogFile: /dev/stdout, accessLogEncoding: JSON}}
"""


def documents(*, meshdp: bool) -> str:
    """The mesh; the server is an Istio sidecar where it is not meshdp's."""
    ports = ", ".join(f"{{name: {name}, port: {port}, targetPort: {port}}}" for name, port in PORTS.items())
    mark = ', meshdp.io/sidecar: "true"' if meshdp else ""
    return DOCUMENTS.format(client=CLIENT_IP, server=SERVER_IP, service=SERVICE_IP, ports=ports, mark=mark)


class Rig:
    """The pair and the programs beside it."""

    def __init__(self, made: Pair) -> None:
        self.pair = made
        self.folder = made.folder
        self._log = made.folder / "programs.log"
        self._running: list[subprocess.Popen[bytes]] = []

    def where(self, way: str) -> tuple[Side, str]:
        """From which side a way begins, and to which address it leads."""
        address = {"direct": "127.0.0.1", "outbound": SERVICE_IP, "inbound": SERVER_IP}[way]
        return (self.pair.server if way == "direct" else self.pair.client), address

    def run(self, way: str, words: Sequence[str], timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a judge to its end, with what it said."""
        side, _ = self.where(way)
        command = entered(side, words, as_sidecar=way == "inbound")
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env=_environment()
        )

    def start(
        self, side: Side, words: Sequence[str], port: int, *, as_sidecar: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a program and wait until it listens."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                entered(side, words, as_sidecar=as_sidecar),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        self._running.append(process)
        until = time.monotonic() + LISTENING_S
        while not _listens(side, port):
            assert process.poll() is None and time.monotonic() < until, f"{words}: nothing on {port}\n{self.said()}"
            time.sleep(0.02)
        return process

    def said(self) -> str:
        """The end of what the programs have said."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def close(self) -> None:
        """End the programs."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def opened_rig(*, meshdp: bool = True) -> Iterator[Rig]:
    """A pair of its own, its documents in force on both sides."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    # Not pytest's folder: nobody but root may enter that, and a sidecar is not root.
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        made.replace("base.yaml", documents(meshdp=meshdp), made.client, made.server)
        rig = Rig(made)
        try:
            yield rig
        finally:
            rig.close()
        for side in (made.client, made.server):
            assert "panicked" not in side.log.read_text(), side.log.read_text()[-3000:]


def entered(side: Side, words: Sequence[str], *, as_sidecar: bool) -> list[str]:
    """A command line in a namespace; as the sidecar's user its connections are not captured."""
    user = ["setpriv", f"--reuid={wire.SIDECAR_UID}", f"--regid={wire.SIDECAR_UID}", "--clear-groups"]
    return ["nsenter", f"--net=/run/netns/{side.namespace}", *(user if as_sidecar else []), *words]


def python(module: str, *words: str) -> list[str]:
    """The command line of a module of this folder."""
    return [sys.executable, "-m", f"tests.interop.{module}", *words]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def _listens(side: Side, port: int) -> bool:
    try:
        side.inside(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close())
    except OSError:
        return False
    return True
