"""Envoy as an Istio sidecar on one side of the pair, ours on the other: Envoy judges our ALPN, SNI, certificates and framing, and we its.

In:     `beside_envoy`, once with Envoy at the client and once at the server.
Fails:  a request is refused, changed, sent in plaintext, or an identity that is not the expected one is taken.
Source: istio-semantics B.2 (ALPN, SNI), B.3 (inbound chains), C (identities); DESIGN section 5.
"""

from __future__ import annotations

import re
import socket
import threading

import pytest

from tests.interop.envoy import Beside
from tests.interop.rig import AUTO, HTTP, TCP
from tests.support import wire
from tests.support.mesh import get, position
from tests.support.origin import pattern
from tests.support.sidecar import until

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""
DENY_CLIENT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {paths: [/denied]}}]
"""
NOTHING = "# none\n"
ours_at_the_server = pytest.mark.parametrize("beside_envoy", ["client"], indirect=True)
CLIENT = rb"URI=spiffe://cluster\.local/ns/default/sa/client"


@pytest.mark.parametrize("port", [HTTP, AUTO])
def test_http1_keeps_its_connection(beside_envoy: Beside, port: int) -> None:
    """AUTO: the server side tells HTTP from bytes by the ALPN of the ClientHello alone."""
    with wire.connect(beside_envoy.pair, "outbound", port) as connection:
        for _ in range(20):
            nonce = wire.nonce()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: server\r\nX-Nonce: %b\r\n\r\n" % nonce)
            heard = wire.listen(connection, 1)
            assert [(answer.status, answer.body) for answer in heard.answers] == [(200, b"nonce:" + nonce)]


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_http1_bodies_both_ways(beside_envoy: Beside, framing: str, size: int) -> None:
    body = pattern(size)
    if framing == "length":
        request = get("/echo", f"Content-Length: {size}", method="POST") + body
    else:
        pieces = [body[start : start + 30_000] for start in range(0, size, 30_000)]
        request = get("/echo", "Transfer-Encoding: chunked", method="POST")
        request += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    heard = beside_envoy.ask(request, timeout_s=20)
    assert (heard.statuses, heard.answers[0].complete) == ([200], True)
    assert heard.answers[0].body == body


def test_http1_pipelining_and_head(beside_envoy: Beside) -> None:
    targets = ["/", "/bytes/3000", "/chunks/3000", "/slow/20"] * 5
    heard = beside_envoy.ask(b"".join(get(target) for target in targets), count=len(targets), timeout_s=20)
    assert heard.statuses == [200] * len(targets)
    with wire.connect(beside_envoy.pair, "outbound") as connection:
        connection.sendall(get("/echo", method="HEAD"))
        assert wire.listen(connection, 1, head=True).statuses == [200]


def test_the_identities_are_shown_to_the_application(beside_envoy: Beside) -> None:
    """Only after a handshake in which both sides have shown a certificate is there such a header."""
    assert beside_envoy.ask(get("/shown")).statuses == [200]
    shown = beside_envoy.origin.requests[-1].values(b"x-forwarded-client-cert")
    assert len(shown) == 1 and re.search(CLIENT, shown[0]), shown
    assert re.match(rb"By=spiffe://cluster\.local/ns/default/sa/server;Hash=[0-9a-f]{64};", shown[0])


@ours_at_the_server
def test_strict_takes_envoys_connections(beside_envoy: Beside) -> None:
    beside_envoy.pair.configure(STRICT)
    try:
        assert [beside_envoy.status(f"/strict/{number}") for number in range(3)] == [200] * 3
        assert _echoed(beside_envoy, TCP, b"strict") == b"strictbye"
        assert _echoed(beside_envoy, TCP, b"plain", direction="inbound") == b"", "the test of the test: it is in force"
    finally:
        beside_envoy.pair.configure(NOTHING)


@ours_at_the_server
def test_policy_knows_envoys_identity(beside_envoy: Beside) -> None:
    beside_envoy.pair.configure(DENY_CLIENT)
    try:
        assert [beside_envoy.status("/denied"), beside_envoy.status("/allowed")] == [403, 200]
    finally:
        beside_envoy.pair.configure(NOTHING)
    at = position(beside_envoy.pair.server)
    assert beside_envoy.status("/logged") == 200
    line = beside_envoy.logged(beside_envoy.pair.server, at, lambda line: line["path"] == "/logged")
    assert line["source_principal"] == "spiffe://cluster.local/ns/default/sa/client"
    assert line["requested_server_name"] == "outbound_.9080_._.server.default.svc.cluster.local"


def test_tcp_half_closes(beside_envoy: Beside) -> None:
    assert _echoed(beside_envoy, TCP, b"hello") == b"hellobye"
    assert _echoed(beside_envoy, TCP, pattern(4_000_000)) == pattern(4_000_000) + b"bye"


def test_tcp_the_server_speaks_first(beside_envoy: Beside) -> None:
    beside_envoy.opaque.greeting = b"220 ready\r\n"
    try:
        with wire.connect(beside_envoy.pair, "outbound", TCP) as connection:
            assert connection.recv(11, socket.MSG_WAITALL) == b"220 ready\r\n"
    finally:
        beside_envoy.opaque.greeting = b""


def test_bytes_on_an_auto_port(beside_envoy: Beside) -> None:
    with wire.connect(beside_envoy.pair, "outbound", AUTO) as connection:
        connection.sendall(b"\0\1\2 not HTTP")
        origin = beside_envoy.origin
        assert origin.wait(lambda: any(bytes(c.received) == b"\0\1\2 not HTTP" for c in origin.connections))


def test_websocket_upgrade(beside_envoy: Beside) -> None:
    request = get("/upgrade", "Connection: Upgrade", "Upgrade: websocket")
    with wire.connect(beside_envoy.pair, "outbound") as connection:
        connection.sendall(request)
        heard = connection.recv(4096)
        assert heard.startswith(b"HTTP/1.1 101 "), heard
        connection.sendall(b"words")
        while not heard.endswith(b"WORDS"):
            heard += connection.recv(4096)


def test_another_identity_is_refused(beside_envoy: Beside) -> None:
    before = beside_envoy.origin.received()
    _recertify(beside_envoy, "impostor")
    try:
        assert beside_envoy.status() == 503
        assert _echoed(beside_envoy, TCP, b"hello") == b""
        assert beside_envoy.origin.received() == before, "nothing was sent to the impostor's application"
    finally:
        _recertify(beside_envoy, "server")
    assert beside_envoy.status() == 200, "the test of the test: it was the identity"


def _recertify(mesh: Beside, account: str) -> None:
    """Another identity for the server's side, and a fresh Envoy: it has read its files again, and has no connection."""
    server = mesh.pair.server
    serial = server.serial() if mesh.at == "client" else ""
    mesh.pair.certify("server", f"spiffe://cluster.local/ns/default/sa/{account}")
    if mesh.at == "client":
        until(lambda: server.serial() != serial, "the new certificate is in use")
    mesh.restart()


def _echoed(mesh: Beside, port: int, sent: bytes, direction: str = "outbound") -> bytes:
    """What comes back until the end, when our side ends after these bytes."""
    heard = bytearray()
    with wire.connect(mesh.pair, direction, port) as connection:

        def send() -> None:
            wire.send_pieces(connection, [b"E" + sent])
            try:
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                return  # refused, and closed already

        sender = threading.Thread(target=send)
        sender.start()
        try:
            while chunk := connection.recv(1 << 20):
                heard += chunk
        except ConnectionResetError:
            pass
        sender.join()
    return bytes(heard)
