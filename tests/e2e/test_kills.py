"""SIGKILL of a sidecar fifty times under traffic: nothing passes it by, and it is back within a second each time.

In:      a mesh of `meshdp up`: a caller, a server under STRICT with a forbidden path, a stranger without a sidecar who tries
         to reach the server directly all the time.
Out:     printed: median and longest recovery, from the kill to the first 200 that was asked for after it.
Limits:  needs root; one minute.
Source:  attack case PR-03; goal G20; issue 4, figures.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshdp.demo import capture
from tests.support.local_mesh import Meshdp, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

KILLS = 50
RECOVERY_LIMIT_S = 1.0
MOST_LATE = KILLS // 25  # so often the machine may have stood still meanwhile
PORT = 8080

SERVER = """\
import http.server, socket, sys
log = open("accepted.log", "a", buffering=1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def setup(self):
        super().setup()
        print("accepted", self.client_address[0], self.client_address[1], file=log)
    def do_GET(self):
        print("asked", self.path, file=log)
        body = self.headers["x-nonce"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("0.0.0.0", 8080), Handler).serve_forever()
"""
ASKER = """\
import itertools, socket, sys, time
log = open(sys.argv[1] + ".log", "a", buffering=1)
host, pace_s = sys.argv[2], float(sys.argv[3])
for number in itertools.count():
    nonce = f"{sys.argv[1]}-{number}"
    path = "/secret" if number % 4 == 3 else "/open"
    started, answer = time.monotonic(), b""
    try:
        with socket.create_connection((host, 8080), 1) as connection:
            connection.settimeout(1)
            connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: server\\r\\nX-Nonce: {nonce}\\r\\nConnection: close\\r\\n\\r\\n".encode())
            while piece := connection.recv(4096):
                answer += piece
    except OSError as error:
        answer += b" " + type(error).__name__.encode()
    status = answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else answer.decode()[-40:].strip() or "closed"
    body = answer.partition(b"\\r\\n\\r\\n")[2]
    mixed = status == "200" and not nonce.encode().startswith(body)
    if status == "200" and body != nonce.encode():
        status = "cut"
    print(started, time.monotonic(), path, status, "MIXED" if mixed else "-", sep="|", file=log)
    time.sleep(pace_s)
"""
FILE = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: kills}
spec:
  resources: [services.yaml]
  workloads:
  - {name: server, serviceAccount: server, labels: {app: server}, command: [python3, server.py]}
  - {name: caller, serviceAccount: caller, command: [python3, asker.py, caller, server, "0.01"]}
  - {name: stranger, command: [python3, asker.py, stranger, SERVER-IP, "0.01"], sidecar: false}
"""
RESOURCES = """\
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{name: http, port: 8080}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secret}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/secret"]}}]}]
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Meshdp]:
    tmp_path.chmod(0o755)
    meshdp = Meshdp(tmp_path)
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "asker.py").write_text(ASKER)
    (tmp_path / "services.yaml").write_text(RESOURCES)
    path = tmp_path / "mesh.yaml"
    path.write_text(FILE.replace("SERVER-IP", address_of_server(tmp_path)))
    try:
        done = meshdp("up", "-f", str(path), "--detach")
        assert done.returncode == 0, done.stdout + done.stderr
        yield meshdp
    finally:
        meshdp("down", "--mesh", "kills")


def address_of_server(folder: Path) -> str:
    """Addresses follow from names, so the stranger's command line can hold the server's."""
    from meshdp.local.configuration import Configuration
    from meshdp.local.mesh_file import InstanceKey, load

    path = folder / "first.yaml"
    path.write_text(FILE)
    return Configuration(load(path)).addresses[InstanceKey("default", "server")]


def asked(folder: Path, name: str) -> list[tuple[float, float, str, str, str]]:
    """What an asker has seen: started, ended, path, status, whether an answer was another's."""
    lines = (folder / f"{name}.log").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.count("|") == 4]
    return [(float(row[0]), float(row[1]), row[2], row[3], row[4]) for row in rows]


def instance(up: Meshdp, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in up.state_of("kills")["instances"] if row["name"] == name)
    return found


def recovered(up: Meshdp, killed_s: float) -> float:
    """Seconds from a kill to the first 200 that the caller asked for after it."""
    while True:
        for started, ended, _, status, _ in reversed(asked(up.folder, "caller")[-400:]):
            if started > killed_s and status == "200":
                found = [row for row in asked(up.folder, "caller") if row[0] > killed_s and row[3] == "200"]
                return found[0][1] - killed_s if found else ended - killed_s
        assert time.monotonic() - killed_s < 30, "not back within 30 s:\n" + up("ps").stdout
        time.sleep(0.02)


def slowness() -> float:
    """How much longer than on an idle machine a program of this kind takes to start now: others may be at work."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-P", "-m", "meshdp", "sidecar"], capture_output=True, check=False)
    return (time.monotonic() - started) / IDLE_START_S


IDLE_START_S = 0.06


def test_pr_03_fifty_kills_of_a_sidecar_let_nothing_pass_and_cost_a_second_at_most(up: Meshdp, tmp_path: Path) -> None:
    server = instance(up, "server")
    wait_until(lambda: any(row[3] == "200" for row in asked(up.folder, "caller")))
    recoveries: list[tuple[float, str]] = []
    late: list[tuple[float, str]] = []
    pcap, link = tmp_path / "server.pcap", tmp_path / "link.pcap"
    link_pid = up.state_of("kills")["link"]["pid"]
    with (
        capture.recording(server["holder"]["pid"], "lo", pcap),
        capture.recording(link_pid, server["port_name"], link),
    ):
        for number in range(KILLS):
            name = ("server", "caller")[number % 2]
            pid = 0
            while not pid:
                pid = instance(up, name)["sidecar_pid"]
            killed_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            recoveries.append((recovered(up, killed_s), name))
            if recoveries[-1][0] > RECOVERY_LIMIT_S and recoveries[-1][0] > RECOVERY_LIMIT_S * slowness():
                late.append(recoveries[-1])
    report(up, recoveries)
    judge_traffic(up.folder)
    judge_packets(pcap, link, up)
    assert len(late) <= MOST_LATE, recoveries
    assert sum(instance(up, name)["restarts"] for name in ("server", "caller")) == KILLS


def report(up: Meshdp, recoveries: list[tuple[float, str]]) -> None:
    times = sorted(seconds for seconds, _ in recoveries)
    statuses: dict[str, int] = {}
    for row in asked(up.folder, "caller"):
        statuses[row[3]] = statuses.get(row[3], 0) + 1
    said = {"kills": len(times), "median_s": round(statistics.median(times), 3), "max_s": round(times[-1], 3)}
    print(json.dumps(said | {"caller saw": statuses}))


def judge_traffic(folder: Path) -> None:
    """The application's own word: who connected, and what was asked."""
    lines = (folder / "accepted.log").read_text().splitlines()
    sources = {line.split()[1] for line in lines if line.startswith("accepted")}
    assert sources == {"127.0.0.6"}, "somebody reached the application past its sidecar"
    assert not [line for line in lines if line == "asked /secret"], "a forbidden request reached the application"
    caller, stranger = asked(folder, "caller"), asked(folder, "stranger")
    assert not [row for row in caller if row[4] == "MIXED"]
    assert {row[3] for row in caller if row[2] == "/secret"} & {"403"}, "the policy was at work"
    assert "200" not in {row[3] for row in caller if row[2] == "/secret"}
    assert "200" not in {row[3] for row in stranger}
    assert len(stranger) > KILLS, "the stranger tried all along"


def judge_packets(pcap: Path, link: Path, up: Meshdp) -> None:
    """What the kernel saw: every connection to the application's port on loopback began at the sidecar's address, and
    nothing of a request was readable on the link but what the stranger sent."""
    port = f":{PORT}"
    on_loopback = capture.streams(capture.read_pcap(pcap))
    to_application = {each.source.rpartition(":")[0] for each in on_loopback if each.destination.endswith(port)}
    assert to_application == {"127.0.0.6"}
    stranger = instance(up, "stranger")["address"]
    on_link = capture.streams(capture.read_pcap(link))
    assert not [each for each in on_link if b"X-Nonce: caller-" in each.data], "a request of the caller in the clear"
    answered = [
        each for each in on_link if each.destination.startswith(f"{stranger}:") and b"HTTP/1.1 200" in each.data
    ]
    assert not answered, "the application answered somebody without an identity"
