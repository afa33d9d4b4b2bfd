"""Opaque connections through two real sidecars, and what a wire between them shows.

In:     bytes from the client namespace; a packet socket on the link; TLS clients with and without a mesh certificate.
Source: istio-semantics A.5 (loops), B.2 (ALPN), B.3 (which connections a mode takes); DESIGN section 5.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get, position
from tests.support.origin import pattern
from tests.support.pair import AUTO_PORT, HTTP_PORT, SERVER_IP, SERVICE_IP, TCP_PORT


def read_all(connection: socket.socket, timeout_s: float = 10) -> bytes:
    """Everything until the end."""
    connection.settimeout(timeout_s)
    heard = bytearray()
    while chunk := connection.recv(1 << 20):
        heard += chunk
    return bytes(heard)


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_half_close_by_the_client(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
        connection.sendall(b"Ehello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"bye", "the other direction goes on after the half-close"


def test_half_close_by_the_server(mesh: Mesh) -> None:
    with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
        connection.sendall(b"G100000\n")
        assert len(read_all(connection)) == 100_000
        # The server has ended its side; ours still works.
        connection.sendall(b"x")
        connection.shutdown(socket.SHUT_WR)


def test_server_speaks_first(mesh: Mesh) -> None:
    mesh.opaque.greeting = b"220 ready\r\n"
    try:
        with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
            assert connection.recv(11, socket.MSG_WAITALL) == b"220 ready\r\n"
    finally:
        mesh.opaque.greeting = b""


def test_bulk_is_equal(mesh: Mesh) -> None:
    size = 50 * 1024 * 1024
    with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
        connection.sendall(b"G%d\n" % size)
        heard = read_all(connection, 30)
    block = pattern(1 << 20)
    assert len(heard) == size
    assert all(heard[start : start + len(block)] == block for start in range(0, size, len(block)))
    with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
        connection.sendall(b"S" + heard)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection, 30) == b"%d" % size


def test_bytes_both_ways_at_once_are_equal(mesh: Mesh) -> None:
    sent = pattern(5_000_000)
    with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
        connection.sendall(b"E")
        sender = threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        heard = read_all(connection, 20)
        sender.join()
    assert heard == sent + b"bye"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_a_reader_that_stalls_holds_back_the_writer(mesh: Mesh, direction: str) -> None:
    sent = pattern(40_000_000)
    with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(b"E")
        sender = threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        time.sleep(1)  # every buffer on the way fills, in both directions
        heard = read_all(connection, 20)
        sender.join()
    assert heard == sent + b"bye"


DENY_PORT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-tcp, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {ports: ["9091"]}}]}]
"""


def test_denial(mesh: Mesh) -> None:
    mesh.pair.configure(DENY_PORT)
    at, before = position(mesh.pair.server), len(mesh.opaque.peers)
    for direction in wire.DIRECTIONS:
        # Where this process comes late to the end of its connect, the denial has come already.
        with suppress(ConnectionResetError), wire.connect(mesh.pair, direction, TCP_PORT) as connection:
            wire.send_pieces(connection, [b"Ehello"])
            assert wire.listen(connection).raw == b""
    line = mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "rbac_denied")
    assert "policy[no-tcp]" in line["connection_termination_details"]
    assert len(mesh.opaque.peers) == before, "the application was not even connected to"
    mesh.pair.configure("# none\n")
    with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
        connection.sendall(b"Ehello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello", "the test of the test: it was the policy"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_sniffing_finds_http(mesh: Mesh, direction: str) -> None:
    at = position(mesh.pair.server)
    with wire.connect(mesh.pair, direction, AUTO_PORT) as connection:
        wire.send_pieces(connection, [bytes([byte]) for byte in get("/sniffed")], 0.001)
        assert wire.listen(connection, 1).statuses == [200]
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/sniffed")
    assert line["protocol"] == ("HTTP/2" if direction == "outbound" else "HTTP/1.1"), "sidecars share HTTP/2"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
@pytest.mark.parametrize("first", [b"\x00\x01\x02binary", b"get / http/1.1\r\n\r\n", b"HELO there\r\n"])
def test_sniffing_lets_other_bytes_through(mesh: Mesh, direction: str, first: bytes) -> None:
    with wire.connect(mesh.pair, direction, AUTO_PORT) as connection:
        connection.sendall(first)
        seen = mesh.origin.wait(lambda: any(bytes(one.received) == first for one in mesh.origin.connections[-3:]))
        assert seen, [bytes(one.received) for one in mesh.origin.connections[-3:]]


@pytest.mark.parametrize("port", [15001, 15006])
@pytest.mark.parametrize("address", ["127.0.0.1", "own"])
def test_capture_ports_are_refused(mesh: Mesh, port: int, address: str) -> None:
    for side, name in ((mesh.pair.client, "outbound"), (mesh.pair.server, "inbound")):
        target = side.address if address == "own" else address
        with side.connect((target, port)) as connection:
            wire.send_pieces(connection, [get()])
            assert wire.listen(connection).raw == b""
        assert side.process is not None and side.process.poll() is None, name
    assert mesh.status() == 200


@pytest.mark.parametrize("port", [15001, 15006])
def test_capture_ports_are_refused_from_the_peer(mesh: Mesh, port: int) -> None:
    with wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, port)) as connection:
        wire.send_pieces(connection, [get()])
        assert wire.listen(connection).raw == b""
    assert mesh.status() == 200


@contextmanager
def capture(mesh: Mesh) -> Iterator[list[bytes]]:
    """Every frame on the link between the two sides."""
    frames: list[bytes] = []
    tap = mesh.pair.server.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    tap.settimeout(0.2)
    done = threading.Event()

    def read() -> None:
        while True:
            try:
                frame, address = tap.recvfrom(65536)
            except TimeoutError:
                if done.is_set():  # and everything that had come has been read
                    return
                continue
            if address[0] != "lo":
                frames.append(frame)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield frames
    finally:
        done.set()
        reader.join()
        tap.close()


def test_the_wire_shows_tls_1_3_and_nothing_else(mesh: Mesh) -> None:
    secret = "a-path-that-only-the-two-applications-know"
    mesh.pair.client.stop()
    mesh.pair.client.start(mesh.pair.configuration)  # no pooled connection: the handshake is on the wire
    with capture(mesh) as frames:
        assert mesh.status("/" + secret) == 200
        with wire.connect(mesh.pair, "outbound", TCP_PORT) as connection:
            connection.sendall(b"E" + secret.encode())
            assert connection.recv(len(secret), socket.MSG_WAITALL) == secret.encode()
        with mesh.pair.client.connect((SERVER_IP, 9999 - 1)) as connection:
            wire.send_pieces(connection, [b"GET /plaintext-control HTTP/1.1\r\n\r\n"])
            wire.listen(connection, None, 0.3)
    seen = b"".join(frames)
    assert secret.encode() not in seen
    assert b"HTTP/1.1 200" not in seen
    payloads = [frame[54:] for frame in frames]
    assert any(b"\x16\x03\x01" in frame and b"outbound_.9080_._.server.default" in frame for frame in frames), (
        "ClientHello"
    )
    assert any(b"\x00\x2b\x00\x02\x03\x04" in payload for payload in payloads), "the ServerHello chooses TLS 1.3"
    assert b"plaintext-control" in seen, "the test of the test: the tap does see plaintext"


def client_context(mesh: Mesh, alpn: list[str], *, certificate: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    folder: Path = mesh.pair.folder / "credentials-client"
    context.load_verify_locations(folder / "root-cert.pem")
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def try_tls(mesh: Mesh, port: int, alpn: list[str], *, certificate: bool = True) -> bytes:
    """What a TLS client gets for one request: the status line's beginning, or the failure."""
    raw = wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, port))
    try:
        with client_context(mesh, alpn, certificate=certificate).wrap_socket(raw) as connection:
            connection.sendall(get("/tls") if port != TCP_PORT else b"Eecho")
            return connection.recv(12)
    except (ssl.SSLError, OSError) as failure:
        return type(failure).__name__.encode()
    finally:
        raw.close()


def try_plain(mesh: Mesh, port: int) -> bytes:
    """What a plaintext client gets for one request."""
    with wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, port)) as connection:
        wire.send_pieces(connection, [get("/plain") if port != TCP_PORT else b"Eecho"])
        try:
            return connection.recv(12)
        except OSError as failure:
            return type(failure).__name__.encode()


def mode(word: str) -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {word}}}}}
"""


OK = b"HTTP/1.1 200"
MESH_HTTP, MESH_TCP = ["istio-http/1.1", "istio", "http/1.1"], ["istio-peer-exchange", "istio"]


def test_permissive_takes_both(mesh: Mesh) -> None:
    mesh.pair.configure(mode("STRICT"))
    mesh.pair.configure(mode("PERMISSIVE"))
    assert try_plain(mesh, HTTP_PORT) == OK
    assert try_plain(mesh, TCP_PORT) == b"echo"
    assert try_tls(mesh, HTTP_PORT, MESH_HTTP) == OK
    assert try_tls(mesh, TCP_PORT, MESH_TCP) == b"echo"
    assert try_tls(mesh, AUTO_PORT, MESH_HTTP) == OK
    assert try_tls(mesh, HTTP_PORT, MESH_HTTP, certificate=False) not in (OK, b"echo")
    # Without a mesh ALPN it is the application's own TLS: handed on as it came, and this application speaks none.
    assert try_tls(mesh, TCP_PORT, []) not in (OK, b"echo")
    assert mesh.status() == 200


def test_strict_takes_only_the_mesh(mesh: Mesh) -> None:
    mesh.pair.configure(mode("STRICT"))
    before = mesh.origin.received()
    peers = len(mesh.opaque.peers)
    for port in (HTTP_PORT, TCP_PORT, AUTO_PORT):
        assert try_plain(mesh, port) in (b"", b"ConnectionResetError"), port
        assert try_tls(mesh, port, MESH_HTTP, certificate=False) not in (OK, b"echo"), port
    assert mesh.origin.received() == before
    assert len(mesh.opaque.peers) == peers
    assert try_tls(mesh, HTTP_PORT, MESH_HTTP) == OK
    assert try_tls(mesh, TCP_PORT, MESH_TCP) == b"echo"
    assert try_tls(mesh, TCP_PORT, []) == b"echo", "B.3: STRICT asks for a certificate, not for an ALPN"
    assert mesh.status() == 200


def test_disable_takes_plaintext(mesh: Mesh) -> None:
    mesh.pair.configure(mode("DISABLE"))
    assert try_plain(mesh, HTTP_PORT) == OK
    assert try_plain(mesh, TCP_PORT) == b"echo"
    assert try_tls(mesh, HTTP_PORT, MESH_HTTP) != OK
    assert mesh.status() == 200, "the client's side follows: it goes in plaintext (B.4)"
    mesh.pair.configure("# none\n")


def test_certificate_of_another_root(mesh: Mesh) -> None:
    from meshdp.control.authority import Authority

    mesh.pair.configure(mode("STRICT"))
    own = mesh.pair.authority
    mesh.pair.authority = Authority.open(mesh.pair.folder / "foreign", "test")
    try:
        stranger = mesh.pair.certify("stranger", "spiffe://cluster.local/ns/default/sa/client")
    finally:
        mesh.pair.authority = own
    raw = wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, HTTP_PORT))
    context = client_context(mesh, MESH_HTTP, certificate=False)
    context.load_cert_chain(stranger / "cert-chain.pem", stranger / "key.pem")
    at = position(mesh.pair.server)
    heard = b""
    try:
        with context.wrap_socket(raw) as connection:
            connection.sendall(get())
            heard = connection.recv(12)
    except (ssl.SSLError, OSError):
        pass
    assert heard == b""
    mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "downstream_tls_untrusted")
    mesh.pair.configure("# none\n")


def test_service_address_of_a_tcp_port_reaches_the_application(mesh: Mesh) -> None:
    with mesh.pair.client.connect((SERVICE_IP, TCP_PORT)) as connection:
        connection.sendall(b"Ehello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
    assert mesh.opaque.peers[-1][0] == "127.0.0.6"
