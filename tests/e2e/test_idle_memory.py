"""What idle mutual TLS connections cost the sidecar that serves them.

In:     a TLS client with the mesh's certificate, one request on each of `CONNECTIONS` connections, opened one after the other.
Limits: `BOUND_BYTES` each, measured as the growth of anonymous resident memory after a base of `BASE` connections; page sizes, allocator
        and build profile move it by about a tenth. When all come at once it is more (docs/performance.md says how much).
"""

from __future__ import annotations

import resource
import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import HTTP_PORT, SERVER_IP

BASE, CONNECTIONS = 100, 1_000
BOUND_BYTES = 9_600


def test_what_an_idle_mutual_tls_connection_costs(mesh: Mesh) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4_096:
        pytest.skip("needs 4,096 file descriptors")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4_096), hard))
    server = mesh.pair.server
    assert server.process is not None
    pid = server.process.pid
    context = client_context(mesh)
    held: list[ssl.SSLSocket] = []
    try:
        held += asked(mesh, context, BASE)
        time.sleep(1)  # memory is given back after a few calm tenths of a second
        before = anonymous_bytes(pid)
        held += asked(mesh, context, CONNECTIONS)
        bound = before + CONNECTIONS * BOUND_BYTES
        mesh.origin.wait(lambda: anonymous_bytes(pid) < bound)
        each = (anonymous_bytes(pid) - before) / CONNECTIONS
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"{each:.0f} bytes for each of {CONNECTIONS} idle connections")
    assert 1_000 < each <= BOUND_BYTES, f"{each:.0f} bytes for each idle connection"


def client_context(mesh: Mesh) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    folder: Path = mesh.pair.folder / "credentials-client"
    context.load_verify_locations(folder / "root-cert.pem")
    context.check_hostname = False
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
    return context


def asked(mesh: Mesh, context: ssl.SSLContext, count: int) -> list[ssl.SSLSocket]:
    """So many connections that have each carried one request, made one after the other."""

    def one() -> ssl.SSLSocket:
        raw = socket.create_connection((SERVER_IP, HTTP_PORT), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = context.wrap_socket(raw)
        connection.sendall(get())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        return connection

    return mesh.pair.client.inside(wire.as_sidecar(lambda: [one() for _ in range(count)]))


def anonymous_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon:"))) * 1024
