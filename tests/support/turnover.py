"""A mesh whose certificates turn over: two services and a stranger, traffic that must not notice, clients of its authority.

Out:    `write_files`, `Load` (requests without pause from inside a workload), `leaf_of` and `connected` (mutual TLS from
        outside the mesh with a certificate of its own authority).
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshdp.control.authority import Authority
from meshdp.local.isolation import kernel
from tests.support.local_mesh import Meshdp

SERVER = """\
import http.server, socketserver, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", 1 << 16
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
echo = socketserver.ThreadingTCPServer(("0.0.0.0", 9000), Echo)
threading.Thread(target=echo.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
FILE = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: turnover}
spec:
  resources: [services.yaml]
  workloads:
  - {name: web, serviceAccount: web, labels: {app: web}, command: [python3, server.py]}
  - {name: back, serviceAccount: back, labels: {app: back}, command: [python3, server.py]}
  - {name: stranger, command: [sleep, infinity], sidecar: false}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: back}
spec: {selector: {app: back}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
"""
# Keep-alive and fresh connections side by side; every answer must be the one to its own request.
LOAD = """\
import http.client, json, os, sys, threading, time
stop, failures, served = sys.argv[1], [], [0] * 4
def ask(number):
    connection, count = None, 0
    while not os.path.exists(stop):
        count += 1
        path = f"/{number}/{count}"
        try:
            if connection is None or (number % 2 and count % 5 == 0):
                connection = http.client.HTTPConnection("back", 80, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            if (answer.status, body) != (200, path):
                failures.append([time.time(), path, answer.status, body])
            served[number] += 1
        except Exception as error:
            failures.append([time.time(), path, 0, repr(error)])
            connection = None
        time.sleep(0.002)
threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps({"failures": failures[:20], "failed": len(failures), "served": sum(served)}))
"""
GET = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).status)"


def write_files(folder: Path) -> Path:
    """The mesh file and what it names."""
    (folder / "server.py").write_text(SERVER)
    (folder / "services.yaml").write_text(SERVICES)
    (folder / "mesh.yaml").write_text(FILE)
    folder.chmod(0o755)
    return folder / "mesh.yaml"


class Load:
    """Requests from `web` to `back` as long as the block lasts; `result` says what became of them."""

    def __init__(self, mesh: Meshdp) -> None:
        self._mesh = mesh
        self._stop = mesh.folder / "stop"
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self._stop.unlink(missing_ok=True)
        self._running = self._mesh.start("exec", "web", "--", "python3", "-c", LOAD, str(self._stop))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.touch()
        said, _ = self._running.communicate(timeout=30)
        self.result = json.loads(said.splitlines()[-1])


def status(mesh: Meshdp, workload: str, url: str) -> subprocess.CompletedProcess[str]:
    """One request from inside a workload."""
    return mesh("exec", workload, "--", "python3", "-c", GET, url)


def admin(mesh: Meshdp, workload: str, path: str) -> Any:
    """An admin page of a sidecar."""
    script = f"import json, http.client as h; c = h.HTTPConnection('127.0.0.1', 15000); c.request('GET', {path!r}); "
    return json.loads(mesh.python(workload, script + "print(c.getresponse().read().decode())").stdout)


def readiness(mesh: Meshdp, workload: str) -> tuple[int, str]:
    """What the readiness port says."""
    script = "import http.client as h; c = h.HTTPConnection('127.0.0.1', 15021); c.request('GET', '/healthz/ready'); "
    said = mesh.python(workload, script + "r = c.getresponse(); print(r.status, r.read().decode())").stdout
    code, _, body = said.partition(" ")
    return int(code), body


def leaf_of(authority: Authority, identity: str, folder: Path) -> ssl.SSLContext:
    """A client of the mesh, with a certificate for an identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    chain = authority.sign(request.public_bytes(serialization.Encoding.PEM), identity)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "client.pem"
    path.write_bytes(secret + chain.encode())
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["istio-http/1.1", "istio"])
    context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def connected(mesh: Meshdp, context: ssl.SSLContext | None = None, port: int = 8080) -> Iterator[socket.socket]:
    """A connection from the stranger straight to `back`."""
    rows = mesh.rows()
    with kernel.network_of(rows["default/stranger"]["pid"]):
        plain = socket.socket()
    plain.settimeout(10)
    plain.connect((rows["default/back"]["address"], port))
    with contextlib.closing(context.wrap_socket(plain) if context is not None else plain) as connection:
        yield connection


def serial_shown(connection: socket.socket) -> str:
    """The serial number of the certificate that the other end has shown."""
    assert isinstance(connection, ssl.SSLSocket)
    raw = connection.getpeercert(binary_form=True)
    assert raw is not None
    serial = x509.load_der_x509_certificate(raw).serial_number
    return serial.to_bytes((serial.bit_length() // 8) + 1, "big").hex().removeprefix("00")
