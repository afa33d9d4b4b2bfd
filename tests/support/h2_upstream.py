"""An HTTP/2 application, or the sidecar in front of one, that breaks every rule it is told to.

In:     a side and a port, over mutual TLS where a context is given; frames for paths (`scripts`).
Out:    `Upstream.connections`: every frame that came on each, and how it ended.
Limits: `/held` gets its head at once and its end with `release`; other paths are answered with their nonce once they are whole.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial

from tests.support import frames
from tests.support.frames import END_STREAM, MAGIC, Peer, block, data, frame, head, settings
from tests.support.listening import Listening
from tests.support.pair import PATIENCE_S, Pair, Side

Script = Callable[[int], bytes]
OK = (":status", "200")


class Upstream(Listening):
    """Runs until `stop`."""

    def __init__(self, side: Side, port: int, context: ssl.SSLContext | None = None) -> None:
        self.scripts: dict[bytes, Script] = {}
        self.greeting = settings()
        self.connections: list[Served] = []
        self.release = threading.Event()
        self._context = context
        super().__init__(side, [port])

    def stop(self) -> None:
        """Close everything: once it returns, no connection of this application is left for the next one's requests."""
        super().stop()
        for each in self.connections:
            each.stopped = True
        self.join(2 * PATIENCE_S)

    @property
    def live(self) -> list[Served]:
        """Connections that have not ended."""
        return [each for each in self.connections if not each.peer.ended]

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        return partial(self._serve, accepted)

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), accepted:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                accepted = self._context.wrap_socket(accepted, server_side=True)
            served = Served(self, accepted)
            self.connections.append(served)
            served.run()


class Served:
    """One connection."""

    def __init__(self, upstream: Upstream, accepted: socket.socket) -> None:
        self.peer = Peer(accepted)
        self.stopped = False
        self.fields: dict[int, dict[bytes, bytes]] = {}
        self._upstream = upstream
        self._seen = 0
        self._held: list[int] = []

    def run(self) -> None:
        """Serve until the sidecar ends it, or the test does."""
        with self.peer:
            self._serve()
            with contextlib.suppress(OSError):
                self.peer.socket.shutdown(socket.SHUT_WR)
                self.peer.socket.settimeout(PATIENCE_S)
                while self.peer.socket.recv(1 << 18):
                    pass  # until the sidecar has ended it too

    def _serve(self) -> None:
        self._greet()
        while not (self.peer.ended or self.stopped):
            self.peer.pump(0.02)
            fresh, self._seen = self.peer.frames[self._seen :], len(self.peer.frames)
            for each in fresh:
                self._take(each)
            if self._held and self._upstream.release.is_set():
                self.peer.send(*[data(stream, b"released", end=True) for stream in self._held])
                self._held.clear()

    def _greet(self) -> None:
        magic = b""
        while len(magic) < len(MAGIC):
            magic += (piece := self.peer.socket.recv(len(MAGIC) - len(magic)))
            if not piece:
                raise ConnectionError("no preface")
        assert magic == MAGIC, magic
        self.peer.send(self._upstream.greeting)

    def _take(self, each: frames.Frame) -> None:
        if each.kind == frames.HEADERS and each.stream not in self.fields:
            self.fields[each.stream] = dict(self.peer.heads[each.stream][0])
            path = self.fields[each.stream][b":path"]
            if path in self._upstream.scripts:
                self.peer.send(self._upstream.scripts[path](each.stream))
            elif path == b"/held":
                self.peer.send(head(each.stream, [OK], end=False))
                self._held.append(each.stream)
        path = self.fields.get(each.stream, {}).get(b":path")
        whole = each.kind in (frames.HEADERS, frames.DATA) and each.flags & END_STREAM
        if whole and path not in self._upstream.scripts and path != b"/held":
            nonce = self.fields[each.stream].get(b"x-nonce", b"-")
            self.peer.send(
                head(each.stream, [OK, ("x-nonce", nonce)], end=False), data(each.stream, b"nonce:" + nonce, end=True)
            )


def mesh_server(pair: Pair) -> ssl.SSLContext:
    """The server's workload as a TLS server, by OpenSSL."""
    credentials = pair.folder / "credentials-server"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(credentials / "root-cert.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(credentials / "cert-chain.pem", credentials / "key.pem")
    context.set_alpn_protocols(["h2"])  # as an Istio sidecar selects
    return context


def answer(stream: int, *fields: tuple[str | bytes, str | bytes], end: bool = True) -> bytes:
    """A head with 200 and these fields."""
    return head(stream, [OK, *fields], end=end)


def raw_head(stream: int, fields: list[tuple[str | bytes, str | bytes]], flags: int) -> bytes:
    """A HEADERS frame with these flags."""
    return frame(frames.HEADERS, flags, stream, block(fields))
