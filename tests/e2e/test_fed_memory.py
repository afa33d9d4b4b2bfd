"""What a fed sidecar holds after ten thousand requests: all its processes, by proportional set size.

In:     a mesh of `meshdp up`: a caller that asks over kept connections, a server, mutual TLS between their sidecars.
Out:    printed: what each of the two holds.
Limits: `BOUND_KB`; a build without the link-time pass has larger code, of which only what runs is resident.
Source: issue 4, figures; DESIGN section 7.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.measure import memory_kb
from tests.support.local_mesh import Meshdp

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

REQUESTS, CONNECTIONS = 10_000, 16
BOUND_KB = 24_000
PATIENCE_S = 120

SERVER = """\
import socket, threading
def serve(connection):
    said = b""
    while piece := connection.recv(65536):
        *whole, said = (said + piece).split(b"\\r\\n\\r\\n")
        connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok" * len(whole))
listener = socket.create_server(("0.0.0.0", 8080), backlog=64)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
ASKER = """\
import socket, sys
connections = [socket.create_connection(("server", 80), 60) for _ in range(int(sys.argv[2]))]
for number in range(int(sys.argv[1]) // len(connections)):
    for connection in connections:
        connection.sendall(b"GET /open HTTP/1.1\\r\\nHost: server\\r\\n\\r\\n")
    for connection in connections:
        answer = b""
        while not answer.endswith(b"\\r\\n\\r\\nok"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200"), answer
print("answered", (number + 1) * len(connections))
"""
FILE = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: memory}
spec:
  resources: [services.yaml]
  workloads:
  - {name: server, serviceAccount: server, labels: {app: server}, command: [python3, server.py]}
  - {name: caller, serviceAccount: caller, command: [sleep, infinity]}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Meshdp]:
    tmp_path.chmod(0o755)
    meshdp = Meshdp(tmp_path)
    for name, text in (("server.py", SERVER), ("services.yaml", SERVICES), ("mesh.yaml", FILE)):
        (tmp_path / name).write_text(text)
    try:
        started = meshdp("up", "-f", str(tmp_path / "mesh.yaml"), "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield meshdp
    finally:
        meshdp("down", "--mesh", "memory")


def test_a_fed_sidecar_holds_at_most_24_mb_after_ten_thousand_requests(mesh: Meshdp) -> None:
    asked = ("exec", "caller", "--", "python3", "-c", ASKER, str(REQUESTS), str(CONNECTIONS))
    done = mesh(*asked, timeout_s=PATIENCE_S)
    assert done.stdout == f"answered {REQUESTS}\n", done.stdout + done.stderr
    sidecars = {row["name"]: row["sidecar_pid"] for row in mesh.state_of("memory")["instances"]}
    held = {name: sum(map(memory_kb, family(pid))) for name, pid in sidecars.items()}
    print(held)
    assert set(held) == {"server", "caller"}
    assert all(2_000 < kb <= BOUND_KB for kb in held.values()), held


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]
