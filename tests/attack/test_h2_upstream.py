"""Faults of an HTTP/2 upstream: its stream or its connection dies, whoever asked gets 502 or 503, and nobody else notices.

In:     a server that breaks rules (`Upstream`): as the application behind the server's sidecar in plaintext, and as the
        server's sidecar itself, over mutual TLS, before the client's.
Source: attack case H2-35, mirroring H2-03 to H2-08, H2-11 to H2-22, H2-26 to H2-29, H2-31, H2-33, DG-01 to DG-04, DG-10, DG-15.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.attack.conftest import Arena
from tests.support import frames, wire
from tests.support.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    Peer,
    block,
    data,
    frame,
    head,
    integer,
    number,
    request_fields,
    settings,
)
from tests.support.h2_upstream import OK, Script, Upstream, answer, mesh_server, raw_head
from tests.support.mesh import position
from tests.support.pair import SERVER_IP, UNCAPTURED_PORT, Side, service

PLAIN_PORT, SERVICE = 9099, "10.96.0.9"
SERVICES = service("faulty", SERVICE, http2=PLAIN_PORT, http2_peer=UNCAPTURED_PORT)
GOOD = block([OK])
INITIAL_WINDOW_SIZE = 4


@dataclass
class Faulty:
    """An upstream, and how to ask for it."""

    arena: Arena
    upstream: Upstream
    way: str

    def open(self, *settings: tuple[int, int]) -> Peer:
        """A client's connection that leads to it, with these of its own settings."""
        address = (SERVER_IP, PLAIN_PORT) if self.way == "plain" else (SERVICE, UNCAPTURED_PORT)
        client = self.arena.pair.client
        peer = Peer(
            wire.connect_uncaptured(client, address) if self.way == "plain" else client.connect(address), "faulty"
        )
        peer.greet(*settings)
        peer.credits = True
        return peer

    def old(self, data: bytes) -> wire.Heard:
        """The same over HTTP/1.1."""
        address = (SERVER_IP, PLAIN_PORT) if self.way == "plain" else (SERVICE, UNCAPTURED_PORT)
        client = self.arena.pair.client
        with wire.connect_uncaptured(client, address) if self.way == "plain" else client.connect(address) as connection:
            wire.send_pieces(connection, [data])
            return wire.listen(connection, 1)

    def stream_fault(self, script: Script, *, begun: bool = False) -> None:
        """Only the stream that the fault is on ends; a client of HTTP/1.1 gets 502 or 503, or sees its answer cut."""
        self._prepare(script)
        with self.open() as peer:
            self._hold(peer)
            connections = len(self.upstream.connections)
            peer.send(head(3, request_fields("/bad", authority="faulty")))
            self._sees_a_fault(peer, begun)
            heard = self.old(b"GET /bad HTTP/1.1\r\nHost: faulty\r\n\r\n")
            assert heard.statuses in ([502], [503]) or (begun and heard.answers and not heard.answers[0].complete), (
                heard
            )
            self.upstream.release.set()
            assert peer.wait(lambda: peer.has_ended(1)) and bytes(peer.bodies[1]) == b"released", peer.frames
            assert peer.ask(5, nonce=(nonce := wire.nonce())), (nonce, peer.frames)
            assert len(self.upstream.connections) == connections, "the connection goes on"
        self.arena.healthy()

    def connection_fault(
        self, script: Script, codes: tuple[int, ...] = (frames.PROTOCOL_ERROR,), *, begun: bool = False
    ) -> None:
        """The upstream connection ends with GOAWAY and one of the codes; its requests get 502 or 503 or are cut, the next one is served by another."""
        self._prepare(script)
        with self.open() as peer:
            self._hold(peer)
            doomed = next(
                each for each in self.upstream.live if any(path[b":path"] == b"/held" for path in each.fields.values())
            )
            peer.send(head(3, request_fields("/bad", authority="faulty")))
            self._sees_a_fault(peer, begun)
            assert peer.wait(lambda: peer.is_over(1)) and not peer.has_ended(1), (
                "what was under way is cut, not completed"
            )
            assert self.arena.origin.wait(lambda: bool(doomed.peer.ended)), "the connection ends"
            said = doomed.peer.of(frames.GOAWAY)
            assert said and said[-1].code in codes, (said, codes, doomed.peer.frames[-3:])
            nonce = wire.nonce()
            assert peer.ask(5, nonce=nonce), (peer.frames, "the client's connection goes on")
            assert not peer.of(frames.GOAWAY)
        self.arena.healthy()

    @property
    def side(self) -> Side:
        """Whose sidecar has it as its upstream."""
        return self.arena.pair.server if self.way == "plain" else self.arena.pair.client

    def recorded(self, path: str, at: int) -> dict[str, Any]:
        """The line of that sidecar's access log for a path, waited for."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            with self.side.log.open() as log:
                log.seek(at)
                lines = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]
            found[:] = [line for line in lines if line["path"] == path]
            return bool(found)

        assert self.arena.origin.wait(there, 3), path
        return found[0]

    def _prepare(self, script: Script) -> None:
        self.upstream.scripts[b"/bad"] = script
        self.upstream.release.clear()

    @staticmethod
    def _hold(peer: Peer) -> None:
        peer.send(head(1, request_fields("/held", authority="faulty")))
        assert peer.wait(lambda: peer.status(1) == 200), peer.frames

    @staticmethod
    def _sees_a_fault(peer: Peer, begun: bool) -> None:
        assert peer.wait(lambda: peer.is_over(3)), peer.frames
        refused = peer.status(3) in (502, 503)
        assert refused or (begun and peer.reset_code(3) is not None and not peer.has_ended(3)), (
            peer.frames,
            peer.heads,
        )
        assert not peer.ended


@pytest.fixture(scope="module")
def served(attacked: Arena) -> Iterator[dict[str, Upstream]]:
    attacked.pair.configure(SERVICES)
    server = attacked.pair.server
    made = {
        "plain": Upstream(server, PLAIN_PORT),
        "mtls": Upstream(server, UNCAPTURED_PORT, mesh_server(attacked.pair)),
    }
    yield made
    for each in made.values():
        each.stop()
    attacked.pair.configure("# none\n")


@pytest.fixture(params=["plain", "mtls"])
def faulty(attacked: Arena, served: dict[str, Upstream], request: pytest.FixtureRequest) -> Faulty:
    return Faulty(attacked, served[request.param], request.param)


def test_a_good_upstream_serves(faulty: Faulty) -> None:
    with faulty.open() as peer:
        for at in (1, 3, 5):
            assert peer.ask(at, nonce=wire.nonce()), peer.frames
    assert faulty.old(b"GET / HTTP/1.1\r\nHost: faulty\r\nX-Nonce: a\r\n\r\n").answers[0].body == b"nonce:a"


def large(at: int) -> bytes:
    """80 KiB of fields."""
    whole = GOOD + block([(f"x-{number}", "a" * 1_000) for number in range(80)])
    pieces = [whole[start : start + 16_000] for start in range(0, len(whole), 16_000)]
    out = frame(frames.HEADERS, END_STREAM, at, pieces[0])
    return out + b"".join(
        frame(frames.CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, at, piece) for piece in pieces[1:]
    )


def test_dg_15_what_an_http2_upstream_gets_of_an_http1_request(faulty: Faulty) -> None:
    seen: list[dict[bytes, bytes]] = []
    lines = [
        "POST /mapped HTTP/1.1", "Host: faulty", "X-Mixed: Kept", "Connection: x-hop, keep-alive", "X-Hop: gone", "Keep-Alive: timeout=5",
        "TE: trailers, gzip", "Transfer-Encoding: chunked", "Proxy-Connection: close",
    ]  # fmt: skip
    heard = faulty.old("\r\n".join([*lines, "", "2", "ab", "0", "X-Trailer: t", "", ""]).encode())
    assert heard.statuses == [200], heard
    for connection in faulty.upstream.connections:
        seen += [fields for fields in connection.fields.values() if fields[b":path"] == b"/mapped"]
    got = seen[-1]
    assert (got[b":method"], got[b":authority"], got[b"x-mixed"]) == (b"POST", b"faulty", b"Kept")
    gone = {b"host", b"connection", b"x-hop", b"keep-alive", b"transfer-encoding", b"proxy-connection", b"upgrade"}
    assert not gone & set(got) and got.get(b"te") in (None, b"trailers"), got
    assert all(name == name.lower() for name in got)


def test_h2_35_an_upstream_that_says_nothing_is_waited_for_no_longer_than_the_bound(faulty: Faulty) -> None:
    faulty.upstream.scripts[b"/silent"] = lambda at: b""
    with faulty.open() as peer:
        peer.send(head(1, request_fields("/silent", authority="faulty")))
        assert peer.wait(lambda: peer.is_over(1)), peer.frames
        assert peer.status(1) in (503, 504) and peer.ask(3, nonce=b"after")
        cancelled = [each for served in faulty.upstream.connections for each in served.peer.of(frames.RST_STREAM)]
        assert cancelled and cancelled[-1].code == frames.CANCEL, "the upstream is told that nobody waits any more"


HEADS: dict[str, Script] = {
    "h2_08 empty name": lambda at: answer(at, ("", "x")),
    "dg_01 cr": lambda at: answer(at, ("x-a", "a\rb")),
    "dg_01 crlf": lambda at: answer(at, ("x-a", "a\r\nset-cookie: b")),
    "dg_01 nul": lambda at: answer(at, ("x-a", "a\0b")),
    "dg_02 upper": lambda at: answer(at, ("X-Upper", "1")),
    "dg_02 space": lambda at: answer(at, ("x a", "1")),
    "dg_02 crlf": lambda at: answer(at, ("x\r\na", "1")),
    "dg_03": lambda at: answer(at, ("x-a", " a")),
    "dg_04 transfer-encoding": lambda at: answer(at, ("transfer-encoding", "chunked")),
    "dg_04 connection": lambda at: answer(at, ("connection", "close")),
    "dg_10 no status": lambda at: head(at, [("x-a", "1")]),
    "dg_10 two": lambda at: answer(at, (":status", "200")),
    "dg_10 letters": lambda at: head(at, [(":status", "2x0")]),
    "dg_10 short": lambda at: head(at, [(":status", "20")]),
    "dg_10 late": lambda at: head(at, [("x-a", "1"), OK]),
    "dg_10 of a request": lambda at: answer(at, (":path", "/")),
    "dg_10 switching": lambda at: head(at, [(":status", "101")]),
    "h2_14 large": large,
    "h2_12 bomb": lambda at: frame(frames.HEADERS, END_HEADERS | END_STREAM, at, GOOD + block([("x-bomb", "a" * 3_900)], 0x40) + integer(62, 7, 0x80) * 12_000),
    "h2_21 interim that ends": lambda at: head(at, [(":status", "100")]),
    "h2_31 length and an end": lambda at: answer(at, ("content-length", "5")),
    "h2_31 length that is none": lambda at: answer(at, ("content-length", "+5"), end=False),
    "h2_17 update of zero": lambda at: number(frames.WINDOW_UPDATE, at, 0),
    "data before the head": lambda at: data(at, b"x", end=True),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_h2_35_heads_that_break_rules(faulty: Faulty, name: str) -> None:
    faulty.stream_fault(HEADS[name])


BODIES: dict[str, Script] = {
    "h2_26 trailers that do not end": lambda at: answer(at, end=False) + data(at, b"a") + head(at, [("x-a", "1")], end=False),
    "h2_27 pseudo in trailers": lambda at: answer(at, end=False) + data(at, b"a") + head(at, [OK]),
    "h2_27 crlf in trailers": lambda at: answer(at, end=False) + data(at, b"a") + head(at, [("x", "a\r\nb")]),
    "h2_19 beyond our window": lambda at: answer(at, end=False) + data(at, bytes(16_384)) * 40,
    "h2_31 less": lambda at: answer(at, ("content-length", "5"), end=False) + data(at, b"1234", end=True),
    "h2_31 more": lambda at: answer(at, ("content-length", "3"), end=False) + data(at, b"1234", end=True),
    "h2_17 window above the largest": lambda at: answer(at, end=False) + number(frames.WINDOW_UPDATE, at, (1 << 31) - 1),
    "reset": lambda at: answer(at, end=False) + data(at, b"part") + number(frames.RST_STREAM, at, frames.INTERNAL_ERROR),
    "reset without an error": lambda at: answer(at, end=False) + data(at, b"part") + number(frames.RST_STREAM, at, frames.NO_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_h2_35_bodies_that_break_rules(faulty: Faulty, name: str) -> None:
    faulty.stream_fault(BODIES[name], begun=True)


CALM = (frames.ENHANCE_YOUR_CALM,)
FATAL: dict[str, tuple[Script, tuple[int, ...]]] = {
    "h2_04 continuations": (lambda at: raw_head(at, [OK], END_STREAM) + frame(frames.CONTINUATION, 0, at, b"") * 300, CALM),
    "h2_05 settings": (lambda at: settings() * 20_000, CALM),
    "h2_05 acknowledgements": (lambda at: frame(frames.SETTINGS, ACK) * 20_000, (*CALM, frames.PROTOCOL_ERROR)),
    "h2_06 pings": (lambda at: frame(frames.PING, payload=bytes(8)) * 20_000, CALM),
    "h2_11 priorities": (lambda at: frame(frames.PRIORITY, 0, at, bytes([0, 0, 0, 0, 9])) * 40_000, CALM),
    "h2_28 unknown": (lambda at: frame(0x77, 0, 0, b"what") * 40_000, CALM),
    "h2_13 index 0": (lambda at: frame(frames.HEADERS, END_HEADERS | END_STREAM, at, b"\x80"), (frames.COMPRESSION_ERROR,)),
    "h2_13 table": (lambda at: frame(frames.HEADERS, END_HEADERS | END_STREAM, at, b"\x3f\xe2\xff\x03" + GOOD), (frames.COMPRESSION_ERROR,)),
    "h2_15 even": (lambda at: head(2, [OK]), (frames.PROTOCOL_ERROR,)),
    "h2_16 ping": (lambda at: frame(frames.PING, payload=bytes(7)), (frames.FRAME_SIZE_ERROR,)),
    "h2_16 reset": (lambda at: frame(frames.RST_STREAM, 0, at, bytes(3)), (frames.FRAME_SIZE_ERROR,)),
    "h2_16 settings": (lambda at: frame(frames.SETTINGS, payload=bytes(5)), (frames.FRAME_SIZE_ERROR,)),
    "h2_16 large": (lambda at: frame(frames.HEADERS, END_HEADERS, at, bytes(16_385)), (frames.FRAME_SIZE_ERROR,)),
    "h2_17 window": (lambda at: number(frames.WINDOW_UPDATE, 0, (1 << 31) - 1), (frames.FLOW_CONTROL_ERROR,)),
    "h2_18 initial window": (lambda at: settings((4, 1 << 31)), (frames.FLOW_CONTROL_ERROR,)),
    "h2_20 padding": (lambda at: frame(frames.HEADERS, END_HEADERS | PADDED, at, bytes([99]) + GOOD), (frames.PROTOCOL_ERROR,)),
    "h2_21 data idle": (lambda at: data(at + 200, b"x"), (frames.PROTOCOL_ERROR,)),
    "h2_21 reset idle": (lambda at: number(frames.RST_STREAM, at + 200, 8), (frames.PROTOCOL_ERROR,)),
    "h2_21 head idle": (lambda at: head(at + 200, [OK]), (frames.PROTOCOL_ERROR,)),
    "h2_22 push": (lambda at: frame(frames.PUSH_PROMISE, END_HEADERS, at, (2).to_bytes(4) + block(request_fields())), (frames.PROTOCOL_ERROR,)),
    "h2_22 push on": (lambda at: settings((2, 1)), (frames.PROTOCOL_ERROR,)),
    "h2_33": (lambda at: raw_head(at, [OK], 0) + data(at, b"x"), (frames.PROTOCOL_ERROR,)),
    "frame of HTTP/1": (lambda at: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (frames.FRAME_SIZE_ERROR, frames.PROTOCOL_ERROR)),
}  # fmt: skip


@pytest.mark.parametrize("name", FATAL)
def test_h2_35_connections_that_break_rules(faulty: Faulty, name: str) -> None:
    script, codes = FATAL[name]
    faulty.connection_fault(script, codes)


BEGUN: dict[str, tuple[Script, tuple[int, ...]]] = {
    "h2_07 empty data": (lambda at: answer(at, end=False) + data(at) * 20_000, CALM),
    "h2_20 padding": (lambda at: answer(at, end=False) + frame(frames.DATA, PADDED, at, b"\x09hello"), (frames.PROTOCOL_ERROR,)),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGUN)
def test_h2_35_answers_that_end_their_connection(faulty: Faulty, name: str) -> None:
    script, codes = BEGUN[name]
    faulty.connection_fault(script, codes, begun=True)


def test_h2_25_a_refusal_after_an_interim_answer_repeats_nothing(faulty: Faulty) -> None:
    """Who has said anything has begun with the request: it is not sent again, least of all without its body."""
    bodies = 0

    def refuse(at: int) -> bytes:
        nonlocal bodies
        bodies += 1
        interim = head(at, [(":status", "103")], end=False)
        room = frame(frames.WINDOW_UPDATE, 0, at, (1 << 20).to_bytes(4, "big"))
        return interim + room + frame(frames.RST_STREAM, 0, at, (7).to_bytes(4, "big"))

    faulty.upstream.scripts[b"/bad"] = refuse
    heard = faulty.old(b"POST /bad HTTP/1.1\r\nHost: faulty\r\nContent-Length: 9\r\n\r\n" + b"a" * 9)
    assert bodies == 1, "it was sent once"
    assert 200 not in heard.statuses, heard
    faulty.arena.healthy()


def test_a_reset_is_noticed_while_the_answer_waits_for_its_reader(faulty: Faulty) -> None:
    faulty.upstream.scripts = {b"/slow": lambda stream: answer(stream, end=False) + data(stream, b"x" * 10_000)}
    at = position(faulty.side)
    with faulty.open((INITIAL_WINDOW_SIZE, 10)) as peer:
        peer.credits = False
        peer.send(head(1, request_fields("/slow", authority="faulty")))
        assert peer.wait(lambda: len(peer.bodies.get(1, b"")) == 10), (peer.frames[-4:], peer.bodies)
        (served, stream), *_ = [
            (each, stream)
            for each in faulty.upstream.live
            for stream, fields in each.fields.items()
            if fields[b":path"] == b"/slow"
        ]
        served.peer.send(number(frames.RST_STREAM, stream, frames.INTERNAL_ERROR))
        assert peer.wait(lambda: peer.reset_code(1) is not None, 5), peer.frames
    # At the idle bound it would have been `idle_timeout`.
    line = faulty.recorded("/slow", at)
    assert line["response_code_details"] == "upstream_closed_mid_response", line
