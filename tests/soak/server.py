"""The application of the soak: answers with what it was asked, over HTTP/1.1, HTTP/2, WebSocket and TCP.

In:     8080: HTTP/1.1; the answer's `X-Nonce` is the request's, its body too. `Upgrade: websocket` echoes frames.
        9000: every byte again, until the end of the stream, then the end.
        9001: HTTP/2 with prior knowledge: calls of gRPC, whose messages come back as they go.
Limits: the standard library, PyPI `h2` and tests/support/http2.py, which lie beside it: it runs as a workload.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from http2 import Served

HTTP_PORT, TCP_PORT, GRPC_PORT = 8080, 9000, 9001
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def main() -> None:
    """Serve both ports."""
    threading.Thread(target=accept, args=(TCP_PORT, echo), daemon=True).start()
    threading.Thread(target=accept, args=(GRPC_PORT, answer_calls), daemon=True).start()
    accept(HTTP_PORT, answer_requests)


def accept(port: int, serve: Callable[[socket.socket], None]) -> None:
    """One thread a connection."""
    with socket.create_server(("0.0.0.0", port), backlog=256) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=run, args=(connection, serve), daemon=True).start()


def run(connection: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """A connection that breaks ends alone."""
    with connection, contextlib.suppress(OSError):
        serve(connection)


def echo(connection: socket.socket) -> None:
    """Every byte again."""
    while piece := connection.recv(65536):
        connection.sendall(piece)
    connection.shutdown(socket.SHUT_WR)


class Calls:
    """What `Served` tells of its calls: nothing is kept."""

    calls: deque[object] = deque(maxlen=1)


def answer_calls(connection: socket.socket) -> None:
    """What comes goes back; the end has a status."""
    Served(Calls(), connection).run()


def answer_requests(connection: socket.socket) -> None:
    """One answer a request, in order."""
    with connection.makefile("rb") as stream:
        while request := read_head(stream):
            body = stream.read(int(request.get(b"content-length", b"0")))
            if b"sec-websocket-key" in request:
                return talk(connection, stream, request)
            head = b"HTTP/1.1 200 OK\r\nX-Nonce: %b\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % (request.get(b"x-nonce", b"-"), len(body)) + body)
    return None


def read_head(stream: BinaryIO) -> dict[bytes, bytes]:
    """A head's fields in lower case; empty at the end of the stream."""
    if not stream.readline():
        return {}
    fields = {b"": b""}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    return fields


def talk(connection: socket.socket, stream: BinaryIO, request: dict[bytes, bytes]) -> None:
    """WebSocket (RFC 6455): each message again, until a close frame."""
    accepted = base64.b64encode(hashlib.sha1(request[b"sec-websocket-key"] + WEBSOCKET_GUID).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    connection.sendall(head + accepted + b"\r\n\r\n")
    while (message := read_frame(stream)) is not None:
        connection.sendall(frame(message))


def frame(message: bytes) -> bytes:
    """A binary message in one frame from a server: not masked."""
    size = len(message)
    return b"\x82" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + message


def read_frame(stream: BinaryIO) -> bytes | None:
    """One message; None for a close frame or the end."""
    head = stream.read(2)
    if len(head) < 2 or head[0] & 0x0F == 8:
        return None
    size = head[1] & 0x7F
    if size == 126:
        size = int.from_bytes(stream.read(2), "big")
    mask = stream.read(4) if head[1] & 0x80 else bytes(4)
    covered = stream.read(size)
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(covered))


if __name__ == "__main__":
    main()
