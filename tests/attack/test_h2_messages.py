"""Heads and bodies over HTTP/2, and what an HTTP/1.1 application gets of them.

Source: attack cases H2-08, H2-12, H2-14, H2-26, H2-27, H2-31, H2-34, H2-36; RFC 9113 8, RFC 8441.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attack.conftest import Arena
from tests.support import frames, wire
from tests.support.frames import END_HEADERS, END_STREAM, block, data, frame, head, integer, request_fields
from tests.support.h2_arena import H2Arena
from tests.support.mesh import position
from tests.support.origin import pattern

GET = request_fields("/never")
POST = request_fields("/never", method="POST")
SECRET = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hosts, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {hosts: ["secret.example"]}}]}]
"""


def test_u5_a_malformed_head_is_counted_and_has_a_line(h2: H2Arena) -> None:
    side = h2.pair.client if h2.way == "outbound" else h2.pair.server
    before, at = Arena.counted(side, (0,)), position(side)
    with h2.open() as peer:
        for stream in (1, 3, 5):
            peer.send(head(stream, [*GET, ("X-Upper", "x")]))
        assert peer.wait(lambda: all(peer.reset_code(stream) == frames.PROTOCOL_ERROR for stream in (1, 3, 5)))
        assert peer.ask(7, nonce=b"after"), peer.frames

    def malformed() -> list[dict[str, Any]]:
        with side.log.open() as log:
            log.seek(at)
            lines = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]
        return [line for line in lines if line["response_code_details"].startswith("malformed_request")]

    assert h2.origin.wait(lambda: len(malformed()) >= 3, 3)
    assert [(line["response_code"], line["protocol"]) for line in malformed()] == [(0, "HTTP/2")] * 3
    assert Arena.counted(side, (0,)) - before == 3


def test_h2_08_names_of_length_zero(h2: H2Arena) -> None:
    h2.stream_fault(lambda at: head(at, [*GET, ("", "x")]))
    h2.stream_fault(lambda at: head(at, [*GET, ("", "")]))
    # A value may be empty (RFC 9110 5.5).
    h2.accept(
        head(1, request_fields("/empty", ("x-empty", ""))), lambda request: equal(request.values(b"x-empty"), [b""])
    )


def equal(found: object, wanted: object) -> None:
    assert found == wanted


@pytest.mark.parametrize("name", ["x-bomb", "cookie"])
def test_h2_12_bombs(h2: H2Arena, name: str) -> None:
    reference = integer(62, 7, 0x80)
    stored = block([(name, "a" * (3_900 if name == "x-bomb" else 1))], first=0x40)
    first = frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, block(GET) + stored + reference * 12_000)
    with h2.open() as peer:
        before = h2.origin.received()
        peer.send(first)
        assert peer.wait(lambda: peer.is_over(1)) and peer.status(1) == 431, peer.frames
        assert peer.ask(3, nonce=b"after"), "one is answered"
        for at in range(5, 5 + 2 * 2_000, 2):
            peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, at, block(GET) + reference * 12_000))
            if peer.of(frames.GOAWAY) or peer.ended:
                break
            peer.pump(0.001)
        peer.drain()
        assert [each.code for each in peer.of(frames.GOAWAY)] == [frames.ENHANCE_YOUR_CALM], (
            "more and more of them are cut, and a peer that is made to wait is not idle"
        )
        assert h2.origin.received() - before < 1_000
    h2.arena.healthy()


@pytest.mark.parametrize("fields", [[("x-large", "a" * 15_000)] * 5, [(f"x-{number}", "a") for number in range(300)]])
def test_h2_14_a_head_above_the_limit_leaves_the_next_one_whole(h2: H2Arena, fields: list[tuple[str, str]]) -> None:
    # What the large head stores in the table is there for the next one.
    whole = block(GET) + block([("x-kept", "of the first")], first=0x40) + block(fields)
    pieces = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
    first = frame(frames.HEADERS, END_STREAM | (END_HEADERS if len(pieces) == 1 else 0), 1, pieces[0])
    for index, piece in enumerate(pieces[1:], 2):
        first += frame(frames.CONTINUATION, END_HEADERS if index == len(pieces) else 0, 1, piece)
    with h2.open() as peer:
        before = h2.origin.received()
        peer.send(first)
        assert peer.wait(lambda: peer.is_over(1)) and peer.status(1) == 431, (peer.frames, peer.heads)
        assert h2.origin.received() == before
        nonce = wire.nonce()
        second = block(request_fields("/second", ("x-nonce", nonce))) + integer(62, 7, 0x80)
        peer.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 3, second))
        assert peer.wait(lambda: peer.is_over(3)) and bytes(peer.bodies[3]) == b"nonce:" + nonce
        assert h2.origin.requests[-1].values(b"x-kept") == [b"of the first"]
    h2.arena.healthy()


def test_h2_26_trailers_that_do_not_end_the_stream(h2: H2Arena) -> None:
    h2.stream_fault(
        lambda at: head(at, POST, end=False) + data(at, b"body") + head(at, [("x-sum", "1")], end=False), in_body=True
    )


@pytest.mark.parametrize(
    "trailers",
    [[(":path", "/other")], [(":status", "200")], [("X-Upper", "1")], [("connection", "close")], [("x", "a\r\nb")]],
    ids=["path", "status", "upper", "connection", "crlf"],
)
def test_h2_27_trailers_with_what_trailers_have_not(h2: H2Arena, trailers: list[tuple[str, str]]) -> None:
    h2.stream_fault(lambda at: head(at, POST, end=False) + data(at, b"body") + head(at, trailers), in_body=True)


def test_h2_27_three_blocks(h2: H2Arena) -> None:
    h2.stream_fault(
        lambda at: head(at, POST, end=False) + head(at, [("x-a", "1")], end=False) + head(at, [("x-b", "2")]),
        in_body=True,
    )


@pytest.mark.parametrize(
    ("length", "body"), [("5", b"1234"), ("3", b"1234"), ("1", b"")], ids=["less", "more", "nothing"]
)
def test_h2_31_lengths_are_kept(h2: H2Arena, length: str, body: bytes) -> None:
    fields = request_fields("/never", ("content-length", length), method="POST")
    h2.stream_fault(lambda at: head(at, fields, end=False) + data(at, body, end=True), in_body=True)
    if not body:
        h2.stream_fault(lambda at: head(at, fields))


def test_h2_31_a_body_where_none_was_declared(h2: H2Arena) -> None:
    # The head alone was a whole request for an HTTP/1.1 application; what comes later never gets there.
    fields = request_fields("/none", ("content-length", "0"), method="POST")
    with h2.open() as peer:
        peer.send(head(1, fields, end=False), data(1, b"GET /smuggled HTTP/1.1\r\n\r\n"))
        assert peer.wait(lambda: peer.is_over(1)), peer.frames
        assert peer.ask(3, nonce=b"after")
    assert h2.origin.requests[-1].nonce == b"after"
    h2.arena.healthy()


@pytest.mark.parametrize("value", ["+4", "4,4", "0x4", "4 4", "18446744073709551616", "-0", ""])
def test_h2_31_lengths_that_are_none(h2: H2Arena, value: str) -> None:
    fields = request_fields("/never", ("content-length", value), method="POST")
    h2.stream_fault(lambda at: head(at, fields, end=False) + data(at, b"1234", end=True))


def test_h2_31_lengths_of_answers_without_a_body(h2: H2Arena) -> None:
    h2.origin.canned[b"not-modified"] = [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\nX-Nonce: %NONCE%\r\n\r\n"]
    with h2.open() as peer:
        peer.send(head(1, request_fields("/bytes/70", method="HEAD")))
        assert peer.wait(lambda: peer.is_over(1)) and peer.has_ended(1)
        assert (peer.status(1), dict(peer.heads[1][-1])[b"content-length"], peer.bodies.get(1)) == (200, b"70", None)
        peer.send(head(3, request_fields("/canned/not-modified")))
        assert peer.wait(lambda: peer.is_over(3)) and peer.has_ended(3) and peer.status(3) == 304
        assert peer.ask(5, nonce=b"after")
    h2.arena.healthy()


def test_h2_31_a_length_that_is_not_kept_aborts_the_http1_upstream(h2: H2Arena) -> None:
    faults, nonce = len(h2.origin.faults), wire.nonce()
    fields = request_fields("/echo", ("content-length", "10"), ("x-nonce", nonce), method="POST")

    def there() -> bool:
        return any(
            nonce in each.received and each.received.endswith(b"\r\n\r\n12345") for each in h2.origin.connections
        )

    with h2.open() as peer:
        peer.send(head(1, fields, end=False), data(1, b"12345"))
        assert h2.origin.wait(there)
        peer.send(data(1, end=True))
        assert peer.wait(lambda: peer.is_over(1)) and not peer.has_ended(1)
        assert h2.origin.wait(lambda: h2.origin.faults[faults:] == ["cut in body"]), h2.origin.faults[faults:]
    h2.arena.healthy()


def test_h2_34_extended_connect_that_breaks_its_rules(h2: H2Arena) -> None:
    """It is announced (decision 0112); the bridge itself is tests/e2e/test_http2_websocket.py."""
    fields = [(":method", "CONNECT"), (":protocol", "websocket"), *request_fields("/upgrade")[1:]]
    h2.stream_fault(lambda at: head(at, [*GET, (":protocol", "websocket")]))
    h2.stream_fault(lambda at: head(at, [field for field in fields if field[0] != ":path"], end=False))
    h2.stream_fault(lambda at: head(at, [*fields, ("content-length", "5")], end=False))
    for protocol in ("h2c", "web socket", ""):
        h2.stream_fault(
            lambda at: head(at, [fields[0], (":protocol", protocol), *fields[2:]], end=False)  # noqa: B023 - used at once
        )


@pytest.fixture
def guarded(h2: H2Arena) -> Iterator[None]:
    h2.pair.configure(SECRET)
    yield
    h2.pair.configure("# none\n")


def test_h2_36_another_host_on_the_same_connection_is_judged_by_what_it_is(h2: H2Arena, guarded: None) -> None:
    with h2.open() as peer:
        assert peer.ask(1, nonce=b"first")
        before = len(h2.origin.requests)
        for at, host in ((3, "secret.example"), (5, "SECRET.example")):
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")]
            peer.send(head(at, fields))
            assert peer.wait(lambda: peer.is_over(at)), peer.frames  # noqa: B023 - used at once
            assert peer.status(at) in (403, 421), (host, peer.heads[at])
        assert len(h2.origin.requests) == before
        assert peer.ask(7, nonce=b"last")
    h2.arena.healthy()


def test_bodies_in_pieces_of_every_size(h2: H2Arena) -> None:
    whole = pattern(3_000)
    for size in (1, 7, 1_000, 3_000):
        pieces = [data(1, whole[at : at + size]) for at in range(0, len(whole), size)]
        with h2.open() as peer:
            peer.send(head(1, request_fields("/echo", method="POST"), end=False), *pieces, data(1, end=True))
            assert peer.wait(lambda: peer.is_over(1)) and bytes(peer.bodies[1]) == whole, (size, peer.frames[-2:])
