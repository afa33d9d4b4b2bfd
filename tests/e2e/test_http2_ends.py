"""How shared upstream connections end: a peer that wants HTTP/1.1 instead, a sidecar that stops.

In:     an application whose every frame and byte a test sees (`Upstream`, `Either`), behind a sidecar of its own.
Source: RFC 9113 6.8, 7 (HTTP_1_1_REQUIRED); attack case PR-01.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support import frames, wire
from tests.support.frames import Peer, goaway, number
from tests.support.h2_upstream import Upstream
from tests.support.mesh import opened_mesh
from tests.support.pair import SERVER_IP, Pair, Side

HTTP_1_1_REQUIRED = 13
RESET_PORT, GOAWAY_PORT, DRAIN_PORT, ONCE_PORT = 9087, 9088, 9089, 9086


@pytest.fixture(scope="module")
def made() -> Iterator[Pair]:
    with opened_mesh() as mesh:
        yield mesh.pair


class Either(Upstream):
    """Speaks both versions, as the first bytes say; `heads` of HTTP/1.1 are answered with 200."""

    def __init__(self, side: Side, port: int) -> None:
        self.heads: list[bytes] = []
        super().__init__(side, port)

    def _serve(self, accepted: socket.socket) -> None:
        if accepted.recv(3, socket.MSG_PEEK) == b"PRI":
            return super()._serve(accepted)
        with contextlib.suppress(OSError), accepted:
            received = b""
            while data := accepted.recv(1 << 16):
                received += data
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    self.heads.append(head.partition(b"\r\n")[0])
                    accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
        return None


def open_to(made: Pair, port: int) -> Peer:
    peer = Peer(wire.connect_uncaptured(made.client, (SERVER_IP, port)), "server")
    peer.greet()
    peer.credits = True
    return peer


@pytest.mark.parametrize("way", ["reset", "goaway"])
def test_a_peer_that_wants_http11_gets_it_where_nothing_is_done_twice(made: Pair, way: str) -> None:
    port = RESET_PORT if way == "reset" else GOAWAY_PORT
    application = Either(made.server, port)
    refusal = {"reset": lambda stream: number(frames.RST_STREAM, stream, HTTP_1_1_REQUIRED)}
    refusal["goaway"] = lambda _stream: goaway(0, HTTP_1_1_REQUIRED)
    application.scripts[b"/old"] = refusal[way]
    try:
        with open_to(made, port) as peer:
            peer.send(frames.head(1, frames.request_fields("/old")))
            assert peer.wait(lambda: peer.is_over(1)), peer.frames
            assert (peer.status(1), bytes(peer.bodies[1])) == (200, b"old"), (peer.frames, peer.heads)
            assert application.heads == [b"GET /old HTTP/1.1"]
            # It is remembered, for all requests and callers.
            begun = len(application.connections)
        with open_to(made, port) as peer:
            peer.send(frames.head(1, frames.request_fields("/other", method="POST")))
            assert peer.wait(lambda: peer.is_over(1)) and peer.status(1) == 200, peer.frames
            assert application.heads[1:] == [b"POST /other HTTP/1.1"]
            assert len(application.connections) == begun
    finally:
        application.stop()


def test_what_may_have_been_done_is_not_repeated_over_http11(made: Pair) -> None:
    application = Either(made.server, ONCE_PORT)
    application.scripts[b"/once"] = lambda stream: number(frames.RST_STREAM, stream, HTTP_1_1_REQUIRED)
    try:
        with open_to(made, ONCE_PORT) as peer:
            peer.send(frames.head(1, frames.request_fields("/once", method="POST")))
            assert peer.wait(lambda: peer.is_over(1)) and peer.status(1) == 503, (peer.frames, peer.heads)
            assert application.heads == []
            peer.send(frames.head(3, frames.request_fields("/once", method="POST")))
            assert peer.wait(lambda: peer.is_over(3)) and peer.status(3) == 200, (peer.frames, peer.heads)
            assert application.heads == [b"POST /once HTTP/1.1"], "the next one goes the way that was asked for"
    finally:
        application.stop()


def test_pr_01_a_sidecar_that_stops_says_goaway_upstream() -> None:
    with opened_mesh() as mesh:
        made = mesh.pair
        application = Upstream(made.server, DRAIN_PORT)
        with open_to(made, DRAIN_PORT) as peer:
            peer.send(frames.head(1, frames.request_fields("/held")))
            assert peer.wait(lambda: peer.status(1) == 200), peer.frames
            assert made.server.process is not None
            made.server.process.send_signal(signal.SIGTERM)
            assert peer.wait(lambda: bool(peer.of(frames.GOAWAY))), peer.frames
            application.release.set()
            assert peer.wait(lambda: peer.has_ended(1)) and bytes(peer.bodies[1]) == b"released", peer.frames
        assert made.server.process.wait(10) == 0
        (served,) = application.connections
        assert mesh.origin.wait(lambda: bool(served.peer.ended), 5)
        assert served.peer.ended == "fin", "not cut"
        assert [each.code for each in served.peer.of(frames.GOAWAY)] == [frames.NO_ERROR], served.peer.frames
        application.stop()
