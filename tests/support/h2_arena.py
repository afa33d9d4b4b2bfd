"""What an attack over HTTP/2 is asked: which stream or connection ends and how, that nothing went upstream, and that all else goes on.

In:     the pair with its strict HTTP/1.1 application (`Arena` of tests/attack/conftest.py), a way in, frames.
Out:    `H2Arena`: `stream_fault`, `connection_fault`, `accept`; each checks its case whole, byte by byte and cut (U7).
Limits: ways are `outbound` (plaintext into the client's sidecar, HTTP/2 over mutual TLS between the two), `inbound` (plaintext into the
        server's) and `mtls` (our own TLS client with a certificate of the mesh into the server's); no IPv6 before M5 (U8).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from tests.support import frames, wire
from tests.support.frames import Peer, data, head, request_fields
from tests.support.origin import Origin, Request
from tests.support.pair import HTTP_PORT, Pair

WAYS = ("outbound", "inbound", "mtls")
ALPN = ["istio-h2", "istio", "h2"]
SERVER_NAME = "outbound_.9080_._.server.default.svc.cluster.local"
# What may end the pieces of a case: the bytes, and the pause between them.
Cut = tuple[str, list[bytes], float]


class Healthy(Protocol):
    """What of an arena is needed here."""

    pair: Pair
    origin: Origin

    def healthy(self) -> None: ...


def cuts(sent: bytes, way: str) -> Iterator[Cut]:
    """U7 in short: whole by every way; inbound also one byte a segment (the first 120), and cut in two at a place that differs from case to case."""
    yield "whole", [sent], 0
    if way != "inbound":
        return
    most = min(len(sent), 120)
    yield (
        "bytewise",
        [sent[index : index + 1] for index in range(most)] + ([sent[most:]] if len(sent) > most else []),
        0.0001,
    )
    at = 1 + sum(sent) % max(1, len(sent) - 1)
    if at < len(sent):
        yield f"cut at {at}", [sent[:at], sent[at:]], 0.002


class H2Arena:
    """One way into the pair."""

    def __init__(self, arena: Healthy, way: str) -> None:
        self.arena = arena
        self.pair = arena.pair
        self.origin = arena.origin
        self.way = way

    def socket(self, port: int = HTTP_PORT, alpn: Iterable[str] = ALPN) -> socket.socket:
        """A connection by this way."""
        if self.way == "mtls":
            return over_tls(self.pair, wire.connect(self.pair, "inbound", port), alpn)
        return wire.connect(self.pair, self.way, port)

    def open(self, *settings: tuple[int, int], port: int = HTTP_PORT) -> Peer:
        """A connection that has greeted, and was greeted."""
        peer = Peer(self.socket(port))
        peer.greet(*settings)
        assert peer.wait(lambda: bool(peer.of(frames.SETTINGS))), "no SETTINGS come"
        return peer

    def stream_fault(
        self,
        sent: bytes | Callable[[int], bytes],
        codes: tuple[int, ...] = (frames.PROTOCOL_ERROR,),
        *,
        statuses: tuple[int, ...] = (400,),
        in_body: bool = False,
    ) -> None:
        """The stream is reset with one of the codes or answered with one of the statuses, and only it; nothing of it is ever complete upstream.

        `sent`: the frames of stream 3, or what makes them of its number.
        """
        wrong = sent(3) if callable(sent) else sent
        for cut, pieces, pause_s in cuts(wrong, self.way):
            with self.open() as peer:
                told = (self.way, cut, wrong[:200])
                self._begin(peer, 1)
                before, requests = self.origin.received(), len(self.origin.requests)
                wire.send_pieces(peer.socket, pieces, pause_s)
                assert peer.wait(lambda: peer.is_over(3)), (told, peer.frames)
                assert peer.reset_code(3) in codes or peer.status(3) in statuses, (told, peer.frames, peer.heads)
                assert not peer.of(frames.GOAWAY) and not peer.ended, (told, peer.frames)
                assert in_body or self.origin.received() == before, (told, self.origin.requests[requests:])
                assert self.origin.requests[requests:] == [], told
                self._end(peer, 1)
                nonce = wire.nonce()
                assert peer.ask(5, nonce=nonce), (told, peer.frames)
        self.arena.healthy()

    def connection_fault(
        self,
        sent: bytes,
        codes: tuple[int, ...] = (frames.PROTOCOL_ERROR,),
        *,
        after: bytes = b"",
        upstream: bool = False,
        greeted: bool = True,
    ) -> None:
        """The connection ends with GOAWAY and one of the codes; nothing goes upstream, and a second connection does not notice."""
        with self.open() as other:
            self._begin(other, 1)
            for cut, pieces, pause_s in cuts(sent, self.way):
                with self.open() if greeted else Peer(self.socket()) as peer:
                    told = (self.way, cut, sent[:200])
                    before, requests = self.origin.received(), len(self.origin.requests)
                    wire.send_pieces(peer.socket, [*pieces, after] if after else pieces, pause_s)
                    assert peer.drain() != "open", (told, peer.frames)
                    said = peer.of(frames.GOAWAY)
                    assert said and said[-1].code in codes, (told, peer.frames, peer.ended)
                    assert upstream or self.origin.received() == before, (told, self.origin.requests[requests:])
            self._end(other, 1)
        self.arena.healthy()

    def accept(self, sent: bytes, check: Callable[[Request], None], *, status: int = 200, stream: int = 1) -> None:
        """The request on the stream is answered so, and the application understood what `check` says."""
        for cut, pieces, pause_s in cuts(sent, self.way):
            with self.open() as peer:
                told = (self.way, cut, sent[:200])
                before, faults = len(self.origin.requests), len(self.origin.faults)
                wire.send_pieces(peer.socket, pieces, pause_s)
                assert peer.wait(lambda: peer.is_over(stream)), (told, peer.frames)
                assert (peer.status(stream), peer.has_ended(stream)) == (status, True), (told, peer.frames, peer.heads)
                found = self.origin.requests[before:]
                assert len(found) == 1, (told, found)
                check(found[0])
                assert self.origin.faults[faults:] == [], told
                nonce = wire.nonce()
                assert peer.ask(stream + 2, nonce=nonce), told
        self.arena.healthy()

    @staticmethod
    def _begin(peer: Peer, stream: int) -> None:
        """A call that goes on both ways while something else happens."""
        peer.send(head(stream, request_fields("/duplex", method="POST"), end=False), data(stream, b"begun"))
        assert peer.wait(lambda: bytes(peer.bodies.get(stream, b"")) == b"begun"), peer.frames

    @staticmethod
    def _end(peer: Peer, stream: int) -> None:
        peer.send(data(stream, b" and ended", end=True))
        assert peer.wait(lambda: peer.is_over(stream)) and peer.has_ended(stream), peer.frames
        assert bytes(peer.bodies[stream]) == b"begun and ended", peer.bodies


def over_tls(pair: Pair, connected: socket.socket, alpn: Iterable[str] = ALPN) -> socket.socket:
    """Mutual TLS as the client's workload, by OpenSSL."""
    credentials = pair.folder / "credentials-client"
    context = ssl.create_default_context(cafile=str(credentials / "root-cert.pem"))
    context.check_hostname = False  # a mesh certificate names an identity, not a host
    context.load_cert_chain(credentials / "cert-chain.pem", credentials / "key.pem")
    context.set_alpn_protocols(list(alpn))
    return context.wrap_socket(connected, server_hostname=SERVER_NAME)
