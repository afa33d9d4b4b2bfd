"""A small mesh to be attacked from inside and from beside: three workloads, run with the rights asked for.

Out:    `Captured`: sockets inside a workload, programs run there as its application, what its sidecar counted.
Limits: every answer of the service names it, the connection's source and where it arrived, so that a captured connection (source
        127.0.0.6, the sidecar's) is told from one that went past.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from meshdp.local.isolation import doors, inside, namespaces
from meshdp.local.isolation.namespaces import Holder
from tests.support.local_mesh import Done, Meshdp, wait_until
from tests.support.ordinary import folder_for
from tests.support.pair import PATIENCE_S

NAME = "captured"
SIDECAR_SOURCE = "127.0.0.6"

SERVICE = """\
import socket, sys, threading
name = sys.argv[1]
def serve(connection, peer):
    with connection:
        connection.settimeout(10)
        try:
            said = connection.recv(65536)
        except OSError:
            return
        body = f"{name} {peer[0]} {connection.getsockname()[1]}".encode()
        print("served", peer, said[:40], flush=True)
        head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall((head if b"HTTP/1" in said else b"") + body)
def accept(listener):
    while True:
        threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
def echo(udp):
    while True:
        data, peer = udp.recvfrom(2048)
        udp.sendto(f"{name} {peer[0]}".encode(), peer)
listeners = [socket.create_server(("0.0.0.0", port)) for port in (80, 9000, 9001, 15008)]
listeners.append(socket.create_server(("::1", 80), family=socket.AF_INET6))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", 5353))
threading.Thread(target=echo, args=(udp,), daemon=True).start()
for listener in listeners[1:]:
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
accept(listeners[0])
"""
MESH = f"""\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {{name: {NAME}}}
spec:
  resources: [services.yaml, policies]
  workloads:
  - {{name: web, serviceAccount: web, labels: {{app: web}}, command: [python3, service.py, web]}}
  - {{name: client, serviceAccount: client, command: [sleep, infinity]}}
  - {{name: stranger, command: [python3, service.py, stranger], sidecar: false}}
"""
# Port 9001 belongs to no service.
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp-raw, port: 9000}]}
"""


class Captured:
    """The running mesh."""

    def __init__(self, meshdp: Meshdp) -> None:
        self.meshdp = meshdp
        self.mode = meshdp.mode

    def state(self) -> dict[str, Any]:
        return self.meshdp.state_of(NAME)

    def instance(self, workload: str) -> dict[str, Any]:
        found: dict[str, Any] = next(row for row in self.state()["instances"] if row["name"] == workload)
        return found

    def address(self, workload: str) -> str:
        return str(self.instance(workload)["address"])

    def service(self) -> str:
        """The service's virtual address."""
        hosts = (self.meshdp.state / NAME / "files" / "default.client" / "hosts").read_text()
        return next(line.split()[0] for line in hosts.splitlines() if "web.default" in line.split())

    def open(
        self, workload: str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, number: int = 0
    ) -> socket.socket:
        """A socket made inside a workload's network, by the test: its traffic is an application's."""
        made = doors.socket_in(self.instance(workload)["holder"]["pid"], family, kind, number)
        made.settimeout(PATIENCE_S)
        return made

    def ask(self, workload: str, address: tuple[str, int], said: bytes = b"hello", family: int = socket.AF_INET) -> str:
        """Connects from a workload, says something, and gives what came until the end: an error's name if that is how it ended."""
        with self.open(workload, family) as connection:
            try:
                connection.connect(address)
                connection.sendall(said)
                heard = b""
                while piece := connection.recv(65536):
                    heard += piece
            except OSError as error:
                return type(error).__name__
        return heard.decode(errors="replace")

    def get(self, workload: str, address: tuple[str, int], host: str = "web", family: int = socket.AF_INET) -> str:
        """One HTTP request; the answer with its head."""
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        return self.ask(workload, address, request.encode(), family)

    def run(self, workload: str, script: str, *words: str) -> Done:
        """Runs Python inside a workload, with an application's rights."""
        return self.meshdp("exec", "--mesh", NAME, workload, "--", "python3", "-c", script, *words)

    def stats(self, workload: str) -> dict[str, Any]:
        answer = asyncio.run(inside.ask(self.instance(workload)["holder"]["pid"], inside.ADMIN_PORT, "/stats"))
        assert answer is not None and answer.status == 200
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def ended(self, workload: str, direction: str, reason: str) -> int:
        """How many connections the sidecar has ended for a reason."""
        return int(self.stats(workload)["connections"][direction]["ended"].get(reason, 0))

    def log(self, workload: str) -> str:
        return self.meshdp("logs", "--mesh", NAME, workload).stdout

    def tool(self, workload: str, *command: str) -> str:
        """One of the machine's tools in a workload's network, with the rights of whoever made the mesh."""
        holder = self.instance(workload)["holder"]
        return namespaces.run_inside(Holder(holder["pid"], holder["started"]), list(command))

    @contextmanager
    def policy(self, text: str) -> Iterator[None]:
        """Has documents in force everywhere while the body runs."""
        file = self.meshdp.folder / "policies" / "now.yaml"
        self._change(lambda: self.meshdp.make(file, text))
        try:
            yield
        finally:
            self._change(file.unlink)

    def _change(self, act: Any) -> None:
        before = self.state()["documents"]
        act()
        wait_until(lambda: (now := self.state())["documents"] != before and now["settled"])


@contextmanager
def captured(mode: str) -> Iterator[Captured]:
    """Starts the mesh with these rights; everything is gone at the end."""
    with folder_for(mode) as folder:
        meshdp = Meshdp(folder, mode)
        for name, text in (("service.py", SERVICE), ("services.yaml", SERVICES), ("mesh.yaml", MESH)):
            meshdp.make(folder / name, text)
        meshdp.make(folder / "policies" / "README", "policies of the test at hand")
        (folder / "policies").chmod(0o755)
        started = meshdp("up", "-f", str(folder / "mesh.yaml"), "--detach")
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            assert meshdp.state_of(NAME)["rights"] == mode
            yield Captured(meshdp)
        finally:
            with contextlib.suppress(Exception):
                meshdp("down", "--mesh", NAME)
