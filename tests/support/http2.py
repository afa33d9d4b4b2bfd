"""HTTP/2 by an implementation that is not ours (PyPI `h2`): a client on a connected socket, and an application.

In:     a socket, or a namespace side and ports. Out: `Client.streams` and `Application.calls`: everything each side saw.
Limits: one thread per connection of the application; windows as h2 has them, so that flow control is met.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.exceptions

if TYPE_CHECKING:  # the soak's workloads have this file alone
    from tests.support.pair import Side

Fields = list[tuple[bytes, bytes]]
PATIENCE_S = 20.0  # as tests/support/pair.py has it


@dataclass
class Stream:
    """One stream as its client sees it, or its server."""

    id: int
    heads: list[Fields] = field(default_factory=list)
    data: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The final status; 0 before it."""
        statuses = [int(dict(head)[b":status"]) for head in self.heads]
        return next((status for status in statuses if status >= 200), 0)

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.ended or self.reset is not None

    def value(self, name: bytes) -> bytes | None:
        """A field of the last head."""
        return dict(self.heads[-1]).get(name) if self.heads else None

    def trailer(self, name: bytes) -> bytes | None:
        """A trailer, or the field of a head that ended the stream."""
        return dict(self.trailers).get(name, self.value(name))


class Client:
    """A client's connection."""

    def __init__(self, connected: socket.socket, authority: str = "server") -> None:
        self.socket = connected
        self.authority = authority
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream] = {}
        self.goaways: list[int] = []
        self.closed = False
        self._rest = bytearray()
        self.connection.initiate_connection()
        self.flush()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what h2 has to say."""
        self.socket.sendall(self.connection.data_to_send())

    def begin(
        self,
        path: str = "/",
        *fields: tuple[str, str],
        method: str = "GET",
        end: bool = True,
        authority: str | None = None,
    ) -> Stream:
        """Send a head."""
        head = [(":method", method), (":scheme", "http"), (":authority", authority or self.authority), (":path", path)]
        stream = Stream(self.connection.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.connection.send_headers(stream.id, [*head, *fields], end_stream=end)
        self.flush()
        return stream

    def begin_connect(self, authority: str) -> Stream:
        """Ask for a tunnel."""
        stream = Stream(self.connection.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.connection.send_headers(stream.id, [(":method", "CONNECT"), (":authority", authority)])
        self.flush()
        return stream

    def call(self, path: str, *fields: tuple[str, str], end: bool = False) -> Stream:
        """Begin a call of gRPC."""
        return self.begin(
            path, ("content-type", "application/grpc"), ("te", "trailers"), *fields, method="POST", end=end
        )

    def send(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Send body bytes, as the windows allow."""
        while data or end:
            room = min(
                self.connection.local_flow_control_window(stream.id), self.connection.max_outbound_frame_size, len(data)
            )
            if data and room == 0:
                assert self.pump(PATIENCE_S), "no window comes"
                if stream.over:
                    return
                continue
            last = room == len(data)
            self.connection.send_data(stream.id, data[:room], end_stream=end and last)
            self.flush()
            data = data[room:]
            if last:
                return

    def end_with(self, stream: Stream, *trailers: tuple[str, str]) -> None:
        """Send trailers."""
        self.connection.send_headers(stream.id, list(trailers), end_stream=True)
        self.flush()

    def cancel(self, stream: Stream, code: int = 8) -> None:
        """Reset a stream."""
        self.connection.reset_stream(stream.id, code)
        stream.reset = code
        self.flush()

    def ask(self, path: str = "/", *fields: tuple[str, str], body: bytes = b"", method: str = "GET") -> Stream:
        """A request and its whole answer."""
        stream = self.begin(path, *fields, method=method, end=not body)
        if body:
            self.send(stream, body, end=True)
        self.wait(lambda: stream.over)
        return stream

    def wait(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Read until it holds; whether it did before the connection ended or the time was over."""
        until = time.monotonic() + timeout_s
        while not condition():
            left = until - time.monotonic()
            if left <= 0 or not self.pump(left):
                return condition()
        return True

    def pump(self, timeout_s: float) -> bool:
        """Read once; false when nothing came."""
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return False
        for frames in frames_of(data, self._rest):
            for event in self.connection.receive_data(frames):
                self._take(event)
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(int(event.error_code or 0))
            # h2 takes the first GOAWAY for the end; RFC 9113 6.8 has streams go on.
            self.connection.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            return
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        note(self.connection, stream, event)


def frames_of(data: bytes, rest: bytearray) -> Iterator[bytes]:
    """The whole frames of what was received, one by one; what is left waits in `rest`."""
    rest += data
    while len(rest) >= 9 and len(rest) >= 9 + int.from_bytes(rest[:3]):
        size = 9 + int.from_bytes(rest[:3])
        yield bytes(rest[:size])
        del rest[:size]


def note(connection: h2.connection.H2Connection, stream: Stream, event: h2.events.Event) -> None:
    """Keep what an event says of a stream."""
    if isinstance(
        event, h2.events.ResponseReceived | h2.events.InformationalResponseReceived | h2.events.RequestReceived
    ):
        stream.heads.append([(bytes(name), bytes(value)) for name, value in event.headers or []])
    elif isinstance(event, h2.events.DataReceived):
        stream.data += event.data or b""
        with contextlib.suppress(h2.exceptions.ProtocolError):  # a stream that was reset takes no credit
            connection.acknowledge_received_data(event.flow_controlled_length or 0, stream.id)
    elif isinstance(event, h2.events.TrailersReceived):
        stream.trailers = [(bytes(name), bytes(value)) for name, value in event.headers or []]
    elif isinstance(event, h2.events.StreamEnded):
        stream.ended = True
    elif isinstance(event, h2.events.StreamReset):
        stream.reset = int(event.error_code or 0)


@dataclass
class Call:
    """One request as the application saw it."""

    stream: Stream
    served: Served
    unsent: bytes = b""
    unsent_ends: Fields | None = None

    @property
    def path(self) -> bytes:
        """Its target."""
        return dict(self.stream.heads[0])[b":path"]

    def value(self, name: bytes) -> bytes | None:
        """A field of its head."""
        return dict(self.stream.heads[0]).get(name)


class Application:
    """An application that speaks HTTP/2 with prior knowledge; the path says how it answers.

    `/echo` sends every piece back as it comes, and at the end what trailers it got, and the status of a call; `/fail` ends a call with status 5 at once; `/hang`
    says nothing; `/reset` resets after a head and some data; `/refuse` refuses the stream; everything else is answered with its nonce.
    """

    def __init__(self, side: Side, ports: list[int]) -> None:
        self.calls: list[Call] = []
        self.connections: list[Served] = []
        self._running: list[threading.Thread] = []
        self._listeners = side.inside(lambda: [socket.create_server(("0.0.0.0", port), backlog=128) for port in ports])
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Close everything; once it returns, no sidecar has a connection left that leads here."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for served in self.connections:
            served.cut()
        for thread in self._running:
            thread.join(PATIENCE_S)

    def called(self, path: bytes, timeout_s: float = PATIENCE_S) -> Call:
        """The last call of a path, waited for."""
        until = time.monotonic() + timeout_s
        while True:
            found = [call for call in list(self.calls) if call.path == path]
            if found:
                return found[-1]
            assert time.monotonic() < until, (path, [call.path for call in self.calls])
            time.sleep(0.005)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            served = Served(self, accepted)
            self.connections.append(served)
            self._running.append(threading.Thread(target=served.run, daemon=True))
            self._running[-1].start()


class Served:
    """One connection of the application."""

    def __init__(self, application: Application, accepted: socket.socket) -> None:
        self.application = application
        self.socket = accepted
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.calls: dict[int, Call] = {}
        self.lock = threading.Lock()

    def cut(self) -> None:
        """End the connection; it is over once the peer has ended it too."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def run(self) -> None:
        """Serve until the peer is gone."""
        with self.socket, contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            with self.lock:
                self.connection.initiate_connection()
                self.socket.sendall(self.connection.data_to_send())
            while data := self.socket.recv(1 << 18):
                with self.lock:
                    for event in self.connection.receive_data(data):
                        self._take(event)
                    self._send_waiting()
                    self.socket.sendall(self.connection.data_to_send())

    def go_away(self) -> None:
        """Say that no further stream is taken."""
        with self.lock:
            self.connection.close_connection()
            self.socket.sendall(self.connection.data_to_send())

    def say(self, call: Call, data: bytes, trailers: Iterable[tuple[bytes, bytes]] | None = None) -> None:
        """Send body bytes, and the end with trailers."""
        with self.lock:
            call.unsent += data
            call.unsent_ends = None if trailers is None else list(trailers)
            self._send_waiting()
            self.socket.sendall(self.connection.data_to_send())

    def _take(self, event: h2.events.Event) -> None:
        stream_id = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.RequestReceived):
            call = Call(Stream(int(stream_id or 0)), self)
            self.calls[call.stream.id] = call
            note(self.connection, call.stream, event)
            self.application.calls.append(call)
            self._begin(call)
        elif stream_id in self.calls:
            call = self.calls[stream_id]
            had = len(call.stream.data)
            note(self.connection, call.stream, event)
            self._go_on(call, call.stream.data[had:], isinstance(event, h2.events.StreamEnded))

    def _begin(self, call: Call) -> None:
        stream = call.stream
        nonce = call.value(b"x-nonce") or b"-"
        head = [(b":status", b"200"), (b"x-nonce", nonce)]
        if call.value(b"content-type") == b"application/grpc":
            head.append((b"content-type", b"application/grpc"))
        if call.path.startswith(b"/echo"):
            self.connection.send_headers(stream.id, head)
        elif call.path.startswith(b"/fail"):
            self.connection.send_headers(stream.id, [*head, (b"grpc-status", b"5")], end_stream=True)
        elif call.path.startswith(b"/reset"):
            self.connection.send_headers(stream.id, head)
            self.connection.send_data(stream.id, b"part")
            self.connection.reset_stream(stream.id, 2)
        elif call.path.startswith(b"/refuse"):
            self.connection.reset_stream(stream.id, 7)
        elif not call.path.startswith(b"/hang"):
            body = b"nonce:" + nonce
            self.connection.send_headers(stream.id, [*head, (b"content-length", b"%d" % len(body))])
            self.connection.send_data(stream.id, body, end_stream=True)

    def _go_on(self, call: Call, data: bytes, ended: bool) -> None:
        if call.path.startswith(b"/echo") and call.stream.reset is None:
            call.unsent += data
            if ended:
                told = [(b"told-" + name, value) for name, value in call.stream.trailers]
                status = [(b"grpc-status", b"0")] if call.value(b"content-type") == b"application/grpc" else []
                call.unsent_ends = status + told

    def _send_waiting(self) -> None:
        for call in list(self.calls.values()):
            stream = call.stream
            if stream.reset is not None:
                continue
            with contextlib.suppress(h2.exceptions.ProtocolError):  # the peer has reset it meanwhile
                while call.unsent:
                    window = self.connection.local_flow_control_window(stream.id)
                    room = min(window, self.connection.max_outbound_frame_size, len(call.unsent))
                    if room == 0:
                        break
                    self.connection.send_data(stream.id, call.unsent[:room])
                    call.unsent = call.unsent[room:]
                if call.unsent or call.unsent_ends is None:
                    continue
                if call.unsent_ends:
                    self.connection.send_headers(stream.id, call.unsent_ends, end_stream=True)
                else:
                    self.connection.end_stream(stream.id)
                call.unsent_ends = None
                if stream.ended:
                    del self.calls[stream.id]  # a connection may have very many
