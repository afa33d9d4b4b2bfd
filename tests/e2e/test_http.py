"""HTTP/1.1 through two real sidecars: what goes in comes out, byte for byte, and what is ours is said to be ours.

In:     raw bytes from the client namespace; `Origin` records what the application received.
Source: RFC 9110, RFC 9112; istio-semantics D.6 (denials); DESIGN section 5.
"""

from __future__ import annotations

import re

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get, position
from tests.support.origin import pattern
from tests.support.pair import AUTO_PORT, CLIENT_IP, HTTP_PORT, SERVER_IP, SERVICE_IP

BASE_POLICY = "# none\n"
SIZES = [1, 1_000, 4_096, 65_537, 1_000_000, 10_000_000]


def test_keep_alive(mesh: Mesh) -> None:
    connections = len(mesh.origin.connections)
    with wire.connect(mesh.pair, "outbound") as connection:
        for _ in range(200):
            nonce = wire.nonce()
            connection.sendall(b"GET / HTTP/1.1\r\nHost: server\r\nX-Nonce: %b\r\n\r\n" % nonce)
            assert [answer.body for answer in wire.listen(connection, 1).answers] == [b"nonce:" + nonce]
    assert len(mesh.origin.connections) - connections <= 1, "one pooled connection carries them all"


def test_pipelining(mesh: Mesh) -> None:
    targets = ["/", "/echo", "/slow/20", "/bytes/3000"] * 25
    pieces = [get(target, *(["Content-Length: 3"] if target == "/echo" else [])) for target in targets]
    data = b"".join(
        piece + (b"abc" if target == "/echo" else b"") for piece, target in zip(pieces, targets, strict=True)
    )
    heard = mesh.ask(data, count=len(targets), timeout_s=20)
    assert heard.statuses == [200] * len(targets)
    nonces = [re.search(rb"X-Nonce: (\S+)", piece)[1] for piece in pieces]  # type: ignore[index]
    assert [answer.value(b"x-nonce") for answer in heard.answers] == nonces


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_bodies_both_ways(mesh: Mesh, direction: str, framing: str, size: int) -> None:
    body = pattern(size)
    with wire.connect(mesh.pair, direction) as connection:
        if framing == "length":
            connection.sendall(get("/echo", f"Content-Length: {size}", method="POST") + body)
        else:
            connection.sendall(get("/echo", "Transfer-Encoding: chunked", method="POST"))
            for start in range(0, size, 30_000):
                piece = body[start : start + 30_000]
                connection.sendall(b"%X\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
        heard = wire.listen(connection, 1, 20)
    assert heard.statuses == [200]
    assert heard.answers[0].body == body


@pytest.mark.parametrize("size", [0, *SIZES])
@pytest.mark.parametrize("kind", ["bytes", "chunks", "until-close"])
def test_responses(mesh: Mesh, kind: str, size: int) -> None:
    at = position(mesh.pair.client)
    heard = mesh.ask(get(f"/{kind}/{size}"), count=1, timeout_s=20)
    assert (heard.statuses, heard.answers[0].complete) == ([200], True), heard.ended
    assert heard.answers[0].body == pattern(size)
    line = mesh.logged(mesh.pair.client, at, lambda line: line["path"] == f"/{kind}/{size}")
    assert line["response_code_details"] == "completed"


def test_truncated_response_is_seen(mesh: Mesh) -> None:
    for head in (b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"):
        mesh.origin.canned[b"close-cut"] = [b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", b"5\r\nhello\r\n"]
        heard = mesh.ask(get("/canned/close-cut"), count=None)
        assert (heard.statuses, heard.answers[0].complete) == ([200], False)


def test_continue(mesh: Mesh) -> None:
    with wire.connect(mesh.pair, "outbound") as connection:
        connection.sendall(get("/continue", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        heard = wire.listen(connection, 1)
        assert [answer.body for answer in heard.answers] == [b"hello"]
        connection.sendall(get())
        assert wire.listen(connection, 1).statuses == [200], "the connection lives on"


def test_head(mesh: Mesh) -> None:
    with wire.connect(mesh.pair, "outbound") as connection:
        for _ in range(3):
            connection.sendall(get("/echo", "Content-Length: 5", method="HEAD", body=b"hello"))
            heard = wire.listen(connection, 1, head=True)
            assert heard.statuses == [200]
            assert heard.answers[0].value(b"content-length") == b"5"
        connection.sendall(get())
        assert wire.listen(connection, 1).answers[0].body.startswith(b"nonce:")


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_early_response(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction) as connection:
        connection.sendall(get("/early", "Content-Length: 10000000", method="POST") + pattern(300_000))
        heard = wire.listen(connection, 1)
        assert (heard.statuses, heard.answers[0].body) == ([413], b"early")
        assert heard.answers[0].value(b"connection") == b"close", "what ends without a word meets the next request"
    assert mesh.status(direction=direction) == 200


def test_large_head(mesh: Mesh) -> None:
    lines = [f"X-Header-{index}: {'v' * 1_100}" for index in range(50)]
    assert mesh.ask(get("/", *lines)).statuses == [200]
    received = mesh.origin.requests[-1]
    assert [f"{name.decode()}: {value.decode()}" for name, value in received.fields][2:52] == lines


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_upgrade(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction) as connection:
        connection.sendall(get("/upgrade", "Connection: Upgrade", "Upgrade: loud") + b"early ")
        connection.sendall(b"words")
        heard = b""
        while not heard.endswith(b"EARLY WORDS"):
            heard += connection.recv(4096)
        assert heard.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: loud\r\n" in heard.lower()
        connection.shutdown(1)
        assert connection.recv(4096) == b"BYE"
        assert connection.recv(4096) == b""


def test_connection_close(mesh: Mesh) -> None:
    heard = mesh.ask(get("/", "Connection: close"), count=None)
    assert (heard.statuses, heard.ended) == ([200], "fin")
    assert heard.answers[0].value(b"connection") == b"close"


def test_fields_are_forwarded_exactly(mesh: Mesh) -> None:
    lines = [
        "ACCEPT: */*",
        "x-a: 1",
        "X-A: 2",
        "Cookie: a=b; c=d; e",
        "X-Empty:",
        'X-Quoted: "a, b"',
        "Via: 1.1 x",
    ]
    heard = mesh.ask(get("/path%20with?query=1&2", *lines))
    assert heard.statuses == [200]
    found = mesh.origin.requests[-1]
    assert found.target == b"/path%20with?query=1&2"
    told = [name.decode() + ":" + (" " + value.decode() if value else "") for name, value in found.fields]
    assert told[2 : 2 + len(lines)] == lines
    added = [name.decode() for name, _ in found.fields[2 + len(lines) :]]
    assert added == ["x-forwarded-proto", "x-request-id", "x-forwarded-client-cert"]


def test_response_fields_are_forwarded_exactly(mesh: Mesh) -> None:
    fields = b"X-Case: A\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nServer: mine\r\n"
    mesh.origin.canned[b"fields"] = [b"HTTP/1.1 299 My Own Words\r\n" + fields + b"Content-Length: 2\r\n\r\nok"]
    heard = mesh.ask(get("/canned/fields"))
    assert heard.raw.startswith(b"HTTP/1.1 299 My Own Words\r\n" + fields)


def test_client_certificate_header(mesh: Mesh) -> None:
    own = rb'By=spiffe://cluster\.local/ns/default/sa/server;Hash=[0-9a-f]{64};Subject="";URI=spiffe://cluster\.local/ns/default/sa/client'
    mesh.ask(get())
    assert re.fullmatch(own, mesh.origin.requests[-1].value(b"x-forwarded-client-cert") or b"")
    mesh.ask(get("/", "X-Forwarded-Client-Cert: URI=spiffe://earlier"))
    assert re.fullmatch(
        b"URI=spiffe://earlier," + own, mesh.origin.requests[-1].value(b"x-forwarded-client-cert") or b""
    )
    mesh.ask(get("/", "X-Forwarded-Client-Cert: URI=spiffe://forged"), direction="inbound")
    assert mesh.origin.requests[-1].values(b"x-forwarded-client-cert") == [], "plaintext proves nothing"


def test_peer_address_at_the_application(mesh: Mesh) -> None:
    mesh.ask(get())
    assert {connection.peer[0] for connection in mesh.origin.connections} == {"127.0.0.6"}


def test_request_id_is_kept_or_made(mesh: Mesh) -> None:
    mesh.ask(get("/", "X-Request-Id: mine"))
    assert mesh.origin.requests[-1].value(b"x-request-id") == b"mine"
    mesh.ask(get())
    assert re.fullmatch(rb"[0-9a-f-]{36}", mesh.origin.requests[-1].value(b"x-request-id") or b"")


DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secrets, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/secret"]}}]}]
"""
EMPTY_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: default}
spec:
  clusterIP: 10.96.0.9
  selector: {app: nobody}
  ports: [{name: http, port: 9080}]
"""
REGISTRY_ONLY = """
apiVersion: meshdp.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
"""


def test_denial(mesh: Mesh) -> None:
    mesh.pair.configure(DENY)
    at = position(mesh.pair.server)
    heard = mesh.ask(get("/secret"), get("/open"), count=2)
    assert heard.statuses == [403, 200]
    assert heard.answers[0].body == b"RBAC: access denied"
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/secret")
    assert line["response_code_details"] == "rbac_denied"
    assert re.search(
        r"ns\[default\]-policy\[no-secrets\].* at .*policies.yaml:2", line["connection_termination_details"]
    )
    mesh.pair.configure(BASE_POLICY)
    assert mesh.status("/secret") == 200, "the test of the test: it was the policy"


def test_no_healthy_upstream(mesh: Mesh) -> None:
    mesh.pair.configure(EMPTY_SERVICE)
    with mesh.pair.client.connect(("10.96.0.9", HTTP_PORT)) as connection:
        connection.sendall(get("/", host="nobody"))
        heard = wire.listen(connection, 1)
    mesh.pair.configure(BASE_POLICY)
    assert [(answer.status, answer.body) for answer in heard.answers] == [(503, b"no healthy upstream")]


def test_unknown_destination_passes_through(mesh: Mesh) -> None:
    # Not the service's address: a port of the server that no service names, in plaintext to a permissive port.
    with mesh.pair.client.connect((SERVER_IP, AUTO_PORT)) as connection:
        connection.sendall(get("/", host="example.com"))
        assert wire.listen(connection, 1).statuses == [200]
    assert mesh.origin.requests[-1].values(b"x-forwarded-client-cert") == []


def test_registry_only(mesh: Mesh) -> None:
    base = mesh.pair.configuration / "base.yaml"
    before = base.read_text()
    kept, _, _ = before.rpartition("---")
    mesh.pair.replace("base.yaml", kept + "---" + REGISTRY_ONLY, mesh.pair.client)
    try:
        with mesh.pair.client.connect((SERVICE_IP, HTTP_PORT)) as connection:
            connection.sendall(get("/", host="unknown.example.com"))
            assert wire.listen(connection, 1).statuses == [502]
        assert mesh.status() == 200
    finally:
        mesh.pair.replace("base.yaml", before, mesh.pair.client)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def test_http2_preface_on_a_port_of_unknown_protocol(mesh: Mesh) -> None:
    """Whoever sends the preface in one piece is taken at its word, and is answered by us."""
    with wire.connect(mesh.pair, "outbound", AUTO_PORT) as connection:
        connection.sendall(PREFACE)
        assert connection.recv(9)[3] == 4, "SETTINGS"


def test_body_sizes_are_logged(mesh: Mesh) -> None:
    for side in (mesh.pair.client, mesh.pair.server):
        at = position(side)
        assert mesh.ask(get("/echo/sizes", "Content-Length: 5", method="POST") + b"hello").statuses == [200]
        line = mesh.logged(side, at, lambda line: line["path"] == "/echo/sizes")
        assert (line["bytes_received"], line["bytes_sent"]) == (5, 5)


def test_source_address_is_kept_for_policy_and_log(mesh: Mesh) -> None:
    at = position(mesh.pair.server)
    mesh.ask(get("/who"))
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/who")
    assert line["downstream_remote_address"].startswith(CLIENT_IP + ":")
    assert line["source_principal"] == "spiffe://cluster.local/ns/default/sa/client"
