"""A strict application: a raw-socket HTTP/1.1 origin that records every byte of every connection.

In:     a namespace side to listen in, ports; the path of a request says how it is answered (`ANSWERS`).
Out:    `Origin.requests` (what was understood, in order), `Origin.connections` (what was received, how it ended).
Limits: no leniency at all: what a second reader could read differently is recorded in `Origin.faults` and ends the connection.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tests.support.listening import Listening
from tests.support.pair import PATIENCE_S, Side

TOKEN = re.compile(rb"[0-9A-Za-z!#$%&'*+.^_`|~-]+")


class Malformed(Exception):
    """Bytes that a strict reader does not accept."""


class Ended(Exception):
    """The peer closed, `args[0]` says where."""


@dataclass
class Request:
    """One request as the origin understood it."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    head: bytes = b""
    connection: int = 0
    end: int = 0  # how many bytes of its connection had been read with it

    def value(self, name: bytes) -> bytes | None:
        """The value of the only field of this name."""
        values = self.values(name)
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the fields of this name."""
        return [value for other, value in self.fields if other.lower() == name]

    @property
    def nonce(self) -> bytes:
        """What the client wants to see again."""
        return (self.values(b"x-nonce") or [b"-"])[0]


@dataclass
class Connection:
    """One accepted connection: who, every byte, and how it ended."""

    number: int
    socket: socket.socket
    peer: tuple[str, int]
    received: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)
    taken: int = 0  # how many bytes belong to requests that were read whole
    ended: str = ""

    def read(self) -> int:
        """How many bytes have been understood."""
        return len(self.received) - len(self.unread)

    def is_calm(self) -> bool:
        """Between two requests, both sides open, and nothing waits to be read."""
        try:
            waiting = fcntl.ioctl(self.socket, termios.FIONREAD, b"\0\0\0\0")
            established = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\1"
        except (OSError, ValueError):
            return False  # it is ending just now
        return established and not any(waiting) and len(self.received) == self.taken

    def more(self, where: str) -> None:
        """Read once."""
        try:
            chunk = self.socket.recv(262144)
        except OSError:
            self.ended = "reset"
            raise Ended(where) from None
        if not chunk:
            self.ended = "fin"
            raise Ended(where)
        self.received += chunk
        self.unread += chunk

    def line(self, where: str) -> bytes:
        """One line without its CRLF; a CR or LF elsewhere is a fault."""
        while (end := self.unread.find(b"\n")) < 0:
            if len(self.unread) > 100_000:
                raise Malformed("endless line")
            self.more(where)
        line = bytes(self.unread[: end + 1])
        del self.unread[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise Malformed(f"line end in {where}: {line!r}")
        return line[:-2]

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.unread) < size:
            self.more("body")
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken


class Origin(Listening):
    """The application of the server side. Every answer carries the request's nonce."""

    def __init__(self, side: Side, ports: list[int]) -> None:
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self.faults: list[str] = []
        self.canned: dict[bytes, list[bytes]] = {}
        self.release = threading.Event()
        super().__init__(side, ports, backlog=512)

    def stop(self) -> None:
        """Close everything."""
        self.release.set()
        super().stop()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def drop_connections(self) -> None:
        """End what is kept alive, and wait until the sidecar has ended it too: its next request needs a fresh connection."""
        for connection in self.connections:
            if not connection.ended:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_WR)
        self.wait(lambda: all(connection.ended for connection in self.connections))

    def received(self) -> int:
        """How many bytes have come in all."""
        return sum(len(connection.received) for connection in self.connections)

    def is_calm(self) -> bool:
        """No request has begun on a connection that lives, and nothing waits there to be read."""
        return all(connection.ended or connection.is_calm() for connection in self.connections)

    @staticmethod
    def wait(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Poll until it holds; whether it did."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(len(self.connections), accepted, peer)
        self.connections.append(connection)
        return partial(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        try:
            while self._one(connection):
                pass
        except Ended as ended:
            if ended.args[0] != "between requests":
                self.faults.append(f"cut in {ended.args[0]}")
        except Malformed as fault:
            self.faults.append(str(fault))
        except OSError:
            connection.ended = connection.ended or "reset"
        finally:
            connection.ended = connection.ended or "closed"
            connection.socket.close()

    def _one(self, connection: Connection) -> bool:
        before = connection.read()
        request = read_head(connection)
        request.head = bytes(connection.received[before : connection.read()])
        answer = next((answer for path, answer in ANSWERS if request.target.startswith(path)), echo_nonce)
        if answer not in UNREAD:
            request.body = read_body(connection, request)
        request.end = connection.taken = connection.read()
        self.requests.append(request)
        goes_on = answer(self, connection, request)
        connection.taken = connection.read()
        return goes_on


def read_head(connection: Connection) -> Request:
    """The next head, whose every line is checked."""
    first = connection.line("between requests")
    parts = first.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or parts[2] != b"HTTP/1.1":
        raise Malformed(f"request line {first!r}")
    fields = []
    while line := connection.line("head"):
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Malformed(f"field {line!r}")
        fields.append((name, value.strip(b" \t")))
    return Request(parts[0], parts[1], fields, connection=connection.number)


def read_body(connection: Connection, request: Request) -> bytes:
    """The body by the one framing field there may be."""
    lengths, codings = request.values(b"content-length"), request.values(b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Malformed(f"two framings: {lengths} {codings}")
    if lengths:
        if not re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]):
            raise Malformed(f"length {lengths[0]!r}")
        return connection.exactly(int(lengths[0]))
    if not codings:
        return b""
    if codings[0] != b"chunked":
        raise Malformed(f"coding {codings[0]!r}")
    return read_chunks(connection)


def read_chunks(connection: Connection) -> bytes:
    """A chunked body without extensions and trailers: the proxy in front forwards none."""
    body = bytearray()
    while True:
        line = connection.line("chunk size")
        if not re.fullmatch(rb"[0-9a-f]{1,16}", line):
            raise Malformed(f"chunk size {line!r}")
        size = int(line, 16)
        body += connection.exactly(size)
        if connection.line("chunk end"):
            raise Malformed("bytes after a chunk, or a trailer")
        if size == 0:
            return bytes(body)


def response(request: Request, body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A complete answer with a length."""
    head = [b"HTTP/1.1 " + status, b"X-Nonce: " + request.nonce, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + (b"" if request.method == b"HEAD" else body)


def pattern(size: int) -> bytes:
    """Bytes that are not the same anywhere near each other."""
    block = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256))
    return (block * (size // len(block) + 1))[:size]


def echo_nonce(origin: Origin, connection: Connection, request: Request) -> bool:
    """The default: 200 with the nonce as its body."""
    connection.socket.sendall(response(request, b"nonce:" + request.nonce))
    return True


def echo_body(origin: Origin, connection: Connection, request: Request) -> bool:
    """The request's body again."""
    connection.socket.sendall(response(request, request.body))
    return True


def send_bytes(origin: Origin, connection: Connection, request: Request) -> bool:
    """/bytes/N: so many bytes with a length; /chunks/N: chunked; /until-close/N: ended by closing."""
    kind, size = request.target.split(b"/")[1:3]
    body = pattern(int(size))
    head = b"HTTP/1.1 200 OK\r\nX-Nonce: " + request.nonce
    if kind == b"bytes":
        connection.socket.sendall(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    elif kind == b"until-close":
        connection.socket.sendall(head + b"\r\n\r\n" + body)
        return False
    else:
        connection.socket.sendall(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 50_000):
            chunk = body[start : start + 50_000]
            connection.socket.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        connection.socket.sendall(b"0\r\n\r\n")
    return True


def send_stream(origin: Origin, connection: Connection, request: Request) -> bool:
    """A chunk every few milliseconds until `release` is set."""
    connection.socket.sendall(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Nonce: " + request.nonce + b"\r\n\r\n"
    )
    while not origin.release.wait(0.02):
        connection.socket.sendall(b"4\r\ntick\r\n")
    connection.socket.sendall(b"0\r\n\r\n")
    return True


def wait_then_echo(origin: Origin, connection: Connection, request: Request) -> bool:
    """/slow/MS."""
    time.sleep(int(request.target.split(b"/")[2]) / 1000)
    return echo_nonce(origin, connection, request)


def hold(origin: Origin, connection: Connection, request: Request) -> bool:
    """/hold/MS: nothing of the body is read before."""
    time.sleep(int(request.target.split(b"/")[2]) / 1000)
    request.body = read_body(connection, request)
    return echo_nonce(origin, connection, request)


def answer_early(origin: Origin, connection: Connection, request: Request) -> bool:
    """An answer before the body was read; then the connection is done for."""
    connection.socket.sendall(response(request, b"early", b"Connection: close", status=b"413 Content Too Large"))
    return False


def echo_at_once(origin: Origin, connection: Connection, request: Request) -> bool:
    """Each chunk of the body comes back as soon as it is there; the answer ends with the body."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Nonce: " + request.nonce
    connection.socket.sendall(head + b"\r\n\r\n")
    while size := int(connection.line("chunk size"), 16):
        connection.socket.sendall(b"%x\r\n%b\r\n" % (size, connection.exactly(size)))
        connection.line("chunk end")
    connection.line("chunk end")
    connection.socket.sendall(b"0\r\n\r\n")
    return True


def continue_first(origin: Origin, connection: Connection, request: Request) -> bool:
    """100, then the body, then the answer."""
    if request.values(b"expect"):
        connection.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.body = read_body(connection, request)
    return echo_body(origin, connection, request)


def switch_protocols(origin: Origin, connection: Connection, request: Request) -> bool:
    """101, then every byte comes back in capitals."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "
    connection.socket.sendall(switch + (request.values(b"upgrade") or [b"none"])[0] + b"\r\n\r\n")
    while True:
        if connection.unread:
            connection.socket.sendall(bytes(connection.unread).upper())
            connection.unread.clear()
        try:
            connection.more("between requests")
        except Ended:
            connection.socket.sendall(b"BYE")
            raise


def only_first(origin: Origin, connection: Connection, request: Request) -> bool:
    """An answer if nothing was asked on the connection before; otherwise it ends without one."""
    first = sum(earlier.connection == connection.number for earlier in origin.requests) == 1
    return first and echo_nonce(origin, connection, request)


def send_canned(origin: Origin, connection: Connection, request: Request) -> bool:
    """/canned/KEY: exactly the bytes the test laid down, piece by piece; KEY beginning with `close` ends the connection."""
    key = request.target.split(b"/")[2]
    for piece in origin.canned[key]:
        connection.socket.sendall(piece.replace(b"%NONCE%", request.nonce))
        time.sleep(0.01)
    return not key.startswith(b"close")


def reset_after(origin: Origin, connection: Connection, request: Request) -> bool:
    """/reset/KEY: the bytes the test laid down, and then a reset."""
    for piece in origin.canned[request.target.split(b"/")[2]]:
        connection.socket.sendall(piece)
        time.sleep(0.05)  # what a reset finds in a queue, it takes along
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


Answer = Callable[[Origin, Connection, Request], bool]
ANSWERS: list[tuple[bytes, Answer]] = [
    (b"/echo", echo_body),
    (b"/bytes/", send_bytes),
    (b"/chunks/", send_bytes),
    (b"/until-close/", send_bytes),
    (b"/stream", send_stream),
    (b"/slow/", wait_then_echo),
    (b"/hold/", hold),
    (b"/duplex", echo_at_once),
    (b"/early", answer_early),
    (b"/continue", continue_first),
    (b"/upgrade", switch_protocols),
    (b"/only-first", only_first),
    (b"/canned/", send_canned),
    (b"/reset/", reset_after),
]
# Answers that come before the body, or read it themselves.
UNREAD: tuple[Answer, ...] = (echo_at_once, answer_early, continue_first, switch_protocols, hold)
