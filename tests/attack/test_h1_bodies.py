"""HTTP/1 bodies, H1-31 to H1-35: nothing of a body is ever read as a message, on either side of the proxy.

In:     raw bytes, by both ways in; `arena` checks the post-conditions after every one of them.
Source: RFC 9112 6.3, 7.1 and 9.3, RFC 9110 6.5; attack cases 2.1.
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import SMUGGLED, Arena, request
from tests.support import wire
from tests.support.origin import Request


def chunked(body: bytes, method: str = "POST", target: str = "/echo") -> bytes:
    return request(target, "Transfer-Encoding: chunked", method=method, body=body)


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello" + SMUGGLED + b"0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
    ],
)
def test_h1_31_chunk_longer_than_its_size(arena: Arena, body: bytes) -> None:
    arena.refuse(chunked(body), in_body=True)


def test_h1_31_upstream_of_a_broken_body_is_never_reused(arena: Arena) -> None:
    arena.origin.drop_connections()
    connections, requests = len(arena.origin.connections), len(arena.origin.requests)
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [chunked(b"5\r\nhello\r\n")])
        assert arena.origin.wait(lambda: any(b"hello" in c.received for c in arena.origin.connections[connections:]))
        wire.send_pieces(connection, [b"5\r\nhello!\r\n0\r\n\r\n" + SMUGGLED])
        heard = wire.listen(connection)
    assert (heard.statuses, heard.ended) == ([400], "fin")
    begun = next(c for c in arena.origin.connections[connections:] if b"hello" in c.received)
    assert arena.origin.wait(lambda: begun.ended != "")
    assert arena.origin.requests[requests:] == []
    assert b"0\r\n\r\n" not in begun.received, "an aborted body is never completed"


BROKEN_RESPONSES = {
    "chunk longer than its size": (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk size": (b"Transfer-Encoding: chunked\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"),
    "last chunk": (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\0X"),
}


@pytest.mark.parametrize("fault", BROKEN_RESPONSES)
def test_h1_31_broken_chunks_from_the_upstream(arena: Arena, fault: str) -> None:
    head, body = BROKEN_RESPONSES[fault]
    for key, pieces in ((b"whole", [head + body]), (b"pieces", [head, body])):
        arena.origin.canned[key] = [b"HTTP/1.1 200 OK\r\n" + pieces[0], *pieces[1:]]
        heard = arena.send([request(f"/canned/{key.decode()}", "Connection: close")])
        assert heard.ended in ("fin", "reset")
        # Either nothing of it was passed on, or the cut can be seen.
        assert heard.statuses == [502] or not heard.answers[0].complete, heard
        carrier = next(c for c in reversed(arena.origin.connections) if b"/canned/" + key in c.received)
        assert arena.origin.wait(lambda carrier=carrier: carrier.ended != ""), "a broken upstream is not kept"


@pytest.mark.parametrize(
    "end",
    [
        b"0\r\nXX",
        b"0\r\n\0\0",
        b"0\r\n\r\x00",
        b"0\r\n\n\n",
        b"0\r\n \r\n\r\n",
        b"0\r\n:\r\n\r\n",
        b"0\r\nno-colon\r\n\r\n",
    ],
)
def test_h1_32_bytes_in_place_of_the_final_line_end(arena: Arena, end: bytes) -> None:
    arena.refuse(chunked(b"5\r\nhello\r\n" + end), in_body=True)


def test_h1_32_nul_behind_the_last_chunk(arena: Arena) -> None:
    before = len(arena.origin.requests)
    heard = arena.send([chunked(b"5\r\nhello\r\n0\r\n\r\n") + b"\0" + SMUGGLED])
    assert (heard.statuses, heard.ended) == ([200, 400], "fin")
    assert [found.body for found in arena.origin.requests[before:]] == [b"hello"]


TRAILERS = [
    "Content-Length: 50", "Transfer-Encoding: chunked", "Host: other", "Authorization: Bearer x", "Cookie: a=b",
    "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Client-Cert: By=spiffe://a;URI=spiffe://b", "X-Ordinary: a",
]  # fmt: skip


@pytest.mark.parametrize("trailer", TRAILERS)
def test_h1_33_trailers_never_become_fields(arena: Arena, trailer: str) -> None:
    name = trailer.partition(":")[0].lower().encode()
    told = {b"transfer-encoding": [b"chunked"], b"host": [b"server"]}

    def check(requests: list[Request]) -> None:
        assert [found.body for found in requests] == [b"hello"]
        if name != b"x-forwarded-client-cert":
            assert requests[0].values(name) == told.get(name, [])
        assert b"spiffe://a" not in requests[0].head
        assert trailer.encode() not in arena.origin.connections[requests[0].connection].received[-200:]

    arena.accept(chunked(b"5\r\nhello\r\n0\r\n" + trailer.encode() + b"\r\n\r\n"), check)


def test_h1_33_pseudo_header_as_a_trailer(arena: Arena) -> None:
    arena.refuse(chunked(b"5\r\nhello\r\n0\r\n:path: /other\r\n\r\n"), in_body=True)


def test_h1_33_endless_trailers(arena: Arena) -> None:
    arena.refuse(chunked(b"5\r\nhello\r\n0\r\n" + b"X-Trailer: aaaaaaaaaaaaaaaa\r\n" * 700 + b"\r\n"), in_body=True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_h1_34_body_on_a_method_that_has_none(arena: Arena, method: str, framing: str) -> None:
    body = SMUGGLED
    if framing == "length":
        first = request("/", f"Content-Length: {len(body)}", method=method, body=body)
    else:
        first = chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), method, "/")
    for _, pieces, pause_s in wire.cuts(first + request("/second")):
        before = len(arena.origin.requests)
        with wire.connect(arena.pair, arena.direction) as connection:
            wire.send_pieces(connection, pieces, pause_s)
            assert wire.listen(connection, 1, head=method == "HEAD").statuses == [200]
            assert arena.origin.wait(lambda before=before: len(arena.origin.requests) >= before + 2)
        found = arena.origin.requests[before:]
        assert [(one.method.decode(), one.target, one.body) for one in found] == [
            (method, b"/", body),
            ("GET", b"/second", b""),
        ]


DENIAL = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {paths: ["/secret*"]}}]}]
"""


@pytest.fixture
def denied(arena: Arena) -> Arena:
    arena.pair.configure(DENIAL)
    return arena


@pytest.mark.parametrize("size", [1, 1_000, 200_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_h1_35_body_of_a_denied_request(denied: Arena, framing: str, size: int) -> None:
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    if framing == "length":
        first = request("/secret", f"Content-Length: {len(body)}", method="POST", body=body)
    else:
        first = chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), target="/secret")
    for _, pieces, pause_s in wire.cuts(first + request("/second"), samples=3):
        before = len(denied.origin.requests)
        heard = denied.send(pieces, pause_s, 2)
        assert heard.answers[0].body == b"RBAC: access denied"
        found = [one.target for one in denied.origin.requests[before:]]
        if denied.direction == "outbound" and len(heard.statuses) == 1:
            # The client's own sidecar got the answer before it had sent the body: it does not go on with it (H1-47).
            assert (heard.statuses, heard.ended, found) == ([403], "fin", [])
        else:
            assert (heard.statuses, found) == ([403, 200], [b"/second"])


def test_h1_35_body_too_large_to_drain(denied: Arena) -> None:
    body = SMUGGLED * 20_000
    before = len(denied.origin.requests)
    heard = denied.send(
        [request("/secret", f"Content-Length: {len(body)}", method="POST", body=body), request("/second")]
    )
    found = [one.target for one in denied.origin.requests[before:]]
    if denied.direction == "outbound" and len(heard.statuses) == 2:
        # On a busy machine the body is with the server's sidecar, which reads it away, before the answer is back.
        assert (heard.statuses, found) == ([403, 200], [b"/second"])
        return
    assert (heard.statuses, heard.ended, found) == ([403], "fin", [])
    assert heard.answers[0].value(b"connection") == b"close"


def test_h1_35_the_same_without_the_policy_is_served(arena: Arena) -> None:
    """The test of the test: it is the policy that denied."""
    arena.pair.configure("# none\n")
    heard = arena.send([request("/secret", "Content-Length: 3", method="POST", body=b"abc")], 0, 1)
    assert heard.statuses == [200]


def test_u7_heads_that_arrive_in_pieces_do_not_mix(arena: Arena) -> None:
    """Between two pieces of one head the worker reads other heads, requests and responses."""
    arena.origin.canned[b"slow-head"] = [
        b"HTTP/1.1 200 OK\r\nX-No",
        b"nce: %NONCE%\r\nContent-Length: 2\r\n\r",
        b"\nok",
    ]
    first, second = request("/canned/slow-head"), request("/canned/slow-head")
    with wire.connect(arena.pair, arena.direction) as one, wire.connect(arena.pair, arena.direction) as other:
        for index in range(max(len(first), len(second))):
            one.sendall(first[index : index + 1])
            other.sendall(second[index : index + 1])
            if index % 8 == 0:
                arena.canary(arena.direction)
        for connection in (one, other):
            heard = wire.listen(connection, 1)
            assert [answer.body for answer in heard.answers] == [b"ok"], heard
