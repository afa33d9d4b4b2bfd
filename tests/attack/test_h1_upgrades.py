"""HTTP/1 messages that overtake one another: upgrades, CONNECT, expectations, early answers. H1-36, H1-39 to H1-42, H1-47.

In:     raw bytes by both ways in, canned answers of the application; `arena` checks the post-conditions after every one of them.
Source: RFC 9110 7.8, 9.3.6 and 10.1.1, RFC 9112 9.3; attack cases 2.1; decision 0092 (CONNECT).
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import SMUGGLED, Arena, request
from tests.attack.test_h1_bodies import DENIAL
from tests.support import wire
from tests.support.origin import Connection

UPGRADE = ("Connection: upgrade", "Upgrade: loud")
REFUSING = {
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "426": b"HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: other\r\nContent-Length: 2\r\n\r\nok",
    "404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nok",
}


def carrier_of(arena: Arena, mark: bytes) -> Connection:
    """The newest connection of the application on which these bytes came."""
    return next(one for one in reversed(arena.origin.connections) if mark in one.received)


@pytest.mark.parametrize("status", REFUSING)
def test_h1_36_bytes_behind_a_refused_upgrade_are_the_next_request(arena: Arena, status: str) -> None:
    """They wait until the answer is known, and are then judged by themselves: the policy sees them."""
    arena.pair.configure(DENIAL)
    arena.origin.canned[b"refuse"] = [REFUSING[status]]
    asked = request("/canned/refuse", *UPGRADE)
    for behind, statuses in (
        (request("/second"), [int(status), 200]),
        (request("/secret"), [int(status), 403]),
        (b"\x16\x03\x01 neither HTTP nor asked for", [int(status), 400]),
    ):
        before = len(arena.origin.requests)
        heard = arena.send([asked + behind], 0, 2)
        assert heard.statuses == statuses, (behind, heard)
        assert behind not in carrier_of(arena, b"/canned/refuse").received, "not one byte rides along"
        assert [one.target for one in arena.origin.requests[before:]] == [
            b"/canned/refuse",
            *([b"/second"] if statuses[1] == 200 else []),
        ]


def test_h1_36_bytes_behind_an_upgrade_wait_for_the_101(arena: Arena) -> None:
    """As long as the application has not switched, it has the request's head and nothing else."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: loud\r\n\r\n"
    arena.origin.canned[b"close-late"] = [b"", switch]
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [request("/canned/close-late", *UPGRADE) + b"too early"])
        heard = wire.listen(connection, 1)
        carrier = carrier_of(arena, b"/canned/close-late")
        assert heard.statuses == [101]
        assert arena.origin.wait(lambda: carrier.ended != "")
    assert carrier.received.count(b"too early") <= 1, "once switched they may pass, once"
    head = bytes(carrier.received).partition(b"\r\n\r\n")[0]
    assert b"too early" not in head


@pytest.mark.parametrize("target", ["server:9080", "server:443", "10.99.0.2:9080", "[::1]:80"])
def test_h1_39_connect_with_early_data(arena: Arena, target: str) -> None:
    """No HTTP port is a tunnel (decision 0092): the request is refused, and what rides behind it goes nowhere."""
    host = b"Host: " + target.encode() + b"\r\n"
    arena.refuse(b"CONNECT " + target.encode() + b" HTTP/1.1\r\n" + host + b"\r\n")
    arena.refuse(b"CONNECT " + target.encode() + b" HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n\r\nearly")


def test_h1_39_an_upstream_that_tunnels_unasked_does_not_tunnel(arena: Arena) -> None:
    """A 200 without a length to a GET is a body until close, whatever rides behind the request."""
    arena.origin.canned[b"close-tunnel"] = [b"HTTP/1.1 200 Connection Established\r\n\r\n"]
    heard = arena.send([request("/canned/close-tunnel") + request("/second", "Connection: close")], 0)
    assert heard.statuses[0] == 200
    behind = carrier_of(arena, b"/canned/close-tunnel").received.partition(b"/canned/close-tunnel")[2]
    assert behind.endswith(b"\r\n\r\n") and behind.count(b"\r\n\r\n") == 1, behind


@pytest.mark.parametrize(
    "target", ["/", "server", "http://server:80", "server:", ":80", "u@server:80", "server:99999", ""]
)
def test_h1_40_connect_to_what_is_no_authority(arena: Arena, target: str) -> None:
    arena.pair.configure(DENIAL)  # the server's policy has path rules; a request without a path passes none of them
    arena.refuse(b"CONNECT " + target.encode() + b" HTTP/1.1\r\nHost: server\r\n\r\n")


def expecting(target: str, *fields: str, body: bytes = b"") -> bytes:
    return request(target, "Expect: 100-continue", *fields, method="POST", body=body)


def test_h1_41_expectation_with_the_body_at_once(arena: Arena) -> None:
    """The application's 100 is handed on or not, the final answer is the request's own, and both connections live on."""
    data = expecting("/continue", "Content-Length: 5", body=b"hello") + request("/second", nonce=b"paired")
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [data])
        heard = wire.listen(connection, 2)
    assert heard.statuses == [200, 200]
    assert [one.body for one in heard.answers if one.status == 200] == [b"hello", b"nonce:paired"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_h1_41_final_status_without_a_100(arena: Arena, framing: str) -> None:
    """The application refuses without having read the body: the client's connection ends, the upstream's is not reused."""
    arena.origin.drop_connections()
    fields = "Content-Length: 5" if framing == "length" else "Transfer-Encoding: chunked"
    before = len(arena.origin.requests)
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [expecting("/early", fields)])
        heard = wire.listen(connection)
    assert (heard.statuses, heard.ended) == ([413], "fin")
    assert heard.answers[-1].value(b"connection") == b"close"
    carrier = carrier_of(arena, b"/early")
    assert arena.origin.wait(lambda: carrier.ended != "")
    arena.canary(arena.direction)
    assert [one.target for one in arena.origin.requests[before:] if one.connection == carrier.number] == [b"/early"]


def test_h1_41_silent_upstream_with_an_expectation(arena: Arena) -> None:
    """Nobody sends 100: a client that sends its body all the same is served, one that waits for ever is answered 408."""
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [expecting("/echo", "Content-Length: 5"), b"hello"], 0.3)
        assert [one.body for one in wire.listen(connection, 1).answers] == [b"hello"]
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [expecting("/echo", "Content-Length: 5")])
        assert wire.listen(connection, None).statuses == [408]


@pytest.mark.parametrize(
    "expectation",
    [
        "Expect: x",
        "Expect: 100-continue\r\nExpect: 100-continue",
        "Expect: 100-continue, x",
        "Expect: \x0b100-continue",
    ],
)
def test_h1_42_other_expectations(arena: Arena, expectation: str) -> None:
    arena.refuse(request("/echo", expectation, "Content-Length: 5", method="POST", body=b"hello"), (400, 417))


def test_h1_42_white_space_before_an_expectation(arena: Arena) -> None:
    arena.refuse(request("/echo", " Expect: 100-continue", "Content-Length: 5", method="POST", body=b"hello"))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_h1_47_answer_before_the_body_ends(arena: Arena, framing: str) -> None:
    """The answer is handed on, the upload stops, and neither connection carries another request."""
    arena.origin.drop_connections()
    fields = "Content-Length: 5000000" if framing == "length" else "Transfer-Encoding: chunked"
    part = b"x" * 100_000
    piece = part if framing == "length" else b"%x\r\n%b\r\n" % (len(part), part)
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [request("/early", fields, method="POST"), piece, SMUGGLED], 0.01)
        heard = wire.listen(connection)
    assert (heard.statuses, heard.answers[-1].body) == ([413], b"early")
    assert heard.answers[-1].value(b"connection") == b"close"
    carrier = carrier_of(arena, b"/early")
    assert arena.origin.wait(lambda: carrier.ended != ""), "an upload that was cut does not keep its connection"
    assert len(carrier.received) < 5_000_000


def test_h1_47_answer_to_a_whole_request_keeps_both_connections(arena: Arena) -> None:
    """The control: where the body had ended, the same application answers many requests on one connection."""
    arena.origin.drop_connections()
    connections = len(arena.origin.connections)
    with wire.connect(arena.pair, arena.direction) as connection:
        for _ in range(3):
            wire.send_pieces(connection, [request("/echo", "Content-Length: 5", method="POST", body=b"hello")])
            assert wire.listen(connection, 1).statuses == [200]
    assert len(arena.origin.connections) - connections == 1
