"""The client of the soak: asks over every protocol at once, and counts what was lost and what was mixed up.

In:     the folder it writes to; `pause` and `stop` files there. While `pause` exists it closes what it has open.
Out:    `load.json` there, again every half second: counters for each protocol, the first faults in words.
Limits: the standard library, PyPI `h2` and tests/support/http2.py, which lie beside it; paced, so that the machine has room for what else goes on.
        A fault is final: every answer must come, whole, and be the one to its own question.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from http2 import Client, Stream
from server import GRPC_PORT, HTTP_PORT, TCP_PORT, WEBSOCKET_GUID, read_frame, read_head

HOST = "back"
PACE_S = 0.02
TIMEOUT_S = 20.0
FAULTS_KEPT = 20

folder = Path(sys.argv[1])
numbers = itertools.count(1)


class Counts:
    """What one protocol has done."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.lost = 0
        self.mixed = 0
        self.bytes = 0


NAMES = ("http", "http_fresh", "guarded", "http2", "grpc_stream", "grpc", "websocket", "tcp", "tcp_fresh")
counts = {name: Counts() for name in NAMES}
statuses: dict[str, int] = {}
faults: list[str] = []


def paused() -> bool:
    return (folder / "pause").exists() or stopped()


def stopped() -> bool:
    return (folder / "stop").exists()


def keep(name: str, session: Callable[[Counts], None]) -> None:
    """Runs sessions of one kind, one after the other; what breaks one is a loss."""
    found = counts[name]
    while not stopped():
        if paused():
            time.sleep(0.05)
            continue
        try:
            session(found)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is one loss, and is reported
            found.lost += 1
            fault(f"{name}: {type(failure).__name__}: {failure}")
            time.sleep(0.2)


def fault(text: str) -> None:
    if len(faults) < FAULTS_KEPT:
        faults.append(f"{time.strftime('%H:%M:%S')} {text[:400]}")


def connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def fresh_nonce() -> bytes:
    return b"n%d-%d" % (next(numbers), os.getpid())


def ask(connection: socket.socket, stream: object, found: Counts, path: str = "/open") -> str:
    """One request; its answer must carry its nonce and its body. The status."""
    nonce, body = fresh_nonce(), random.randbytes(random.choice((0, 0, 10, 1000, 20_000)))
    method = "POST" if body else "GET"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Nonce: {nonce.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    found.asked += 1
    connection.sendall(head.encode() + body)
    first = stream.readline()  # type: ignore[attr-defined]
    if not first:
        raise ConnectionError("the connection ended instead of an answer")
    status = first.split(b" ")[1].decode()
    fields = read_head(Rest(stream))
    answer = stream.read(int(fields.get(b"content-length", b"0")))  # type: ignore[attr-defined]
    found.bytes += len(answer)
    statuses[status] = statuses.get(status, 0) + 1
    if status == "200":
        found.answered += 1
        if (fields.get(b"x-nonce"), answer) != (nonce, body):
            found.mixed += 1
            fault(f"asked as {nonce!r}, answered as {fields.get(b'x-nonce')!r}")
    return status


class Rest:
    """A stream whose first line has been read."""

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._first = True

    def readline(self) -> bytes:
        if self._first:
            self._first = False
            return b"-\n"
        return self._stream.readline()  # type: ignore[attr-defined,no-any-return]


def http(found: Counts) -> None:
    """A connection that is kept, for up to 500 requests."""
    with connect(HTTP_PORT) as connection, connection.makefile("rb") as stream:
        for _ in range(500):
            if paused():
                return
            status = ask(connection, stream, found)
            if status != "200":
                raise ConnectionError(f"status {status}")
            time.sleep(PACE_S)


def http_fresh(found: Counts) -> None:
    """A connection for one request."""
    with connect(HTTP_PORT) as connection, connection.makefile("rb") as stream:
        status = ask(connection, stream, found)
        if status != "200":
            raise ConnectionError(f"status {status}")
    time.sleep(2 * PACE_S)


def guarded(found: Counts) -> None:
    """What a policy denies half of the time: 200 or 403, on a connection that is kept, and nothing else."""
    with connect(HTTP_PORT) as connection, connection.makefile("rb") as stream:
        while not paused():
            status = ask(connection, stream, found, "/guarded")
            if status == "403":
                found.answered += 1
            elif status != "200":
                raise ConnectionError(f"status {status}")
            time.sleep(PACE_S)


def http2(found: Counts) -> None:
    """Ten requests at once on a connection that is kept, again and again."""
    with Client(connect(HTTP_PORT), HOST) as client:
        while not (paused() or client.goaways):
            asked: list[tuple[Stream, bytes, bytes]] = []
            for _ in range(10):
                nonce, body = fresh_nonce(), random.randbytes(random.choice((0, 10, 1000, 20_000)))
                fields = (("x-nonce", nonce.decode()), ("content-length", str(len(body))))
                stream = client.begin("/open", *fields, method="POST", end=not body)
                if body:
                    client.send(stream, body, end=True)
                found.asked += 1
                asked.append((stream, nonce, body))
            client.wait(lambda: all(stream.over for stream, _, _ in asked), TIMEOUT_S)  # noqa: B023 - used at once
            for stream, nonce, body in asked:
                if stream.status != 200 or not stream.ended:
                    raise ConnectionError(f"stream {stream.id}: {stream.heads} {stream.reset} {client.goaways}")
                compare(found, (nonce, body), (stream.value(b"x-nonce"), stream.data))
                del client.streams[stream.id]
            time.sleep(5 * PACE_S)


def grpc(found: Counts) -> None:
    """A connection for fifty calls of one message."""
    with Client(connect(GRPC_PORT), HOST) as client:
        for _ in range(50):
            if paused() or client.goaways:
                return
            nonce, text = fresh_nonce(), message()
            found.asked += 1
            call = client.call("/echo/unary", ("x-nonce", nonce.decode()))
            client.send(call, text, end=True)
            client.wait(lambda: call.over, TIMEOUT_S)  # noqa: B023 - used at once
            finish(client, call)
            compare(found, (nonce, text), (dict(call.heads[0]).get(b"x-nonce"), call.data))
            del client.streams[call.id]
            time.sleep(PACE_S)


def grpc_stream(found: Counts) -> None:
    """One call both ways for as long as the soak lasts."""
    with Client(connect(GRPC_PORT), HOST) as client:
        call = client.call("/echo/stream")
        while not paused():
            text = message()
            found.asked += 1
            client.send(call, text)
            if not client.wait(lambda: len(call.data) >= len(text), TIMEOUT_S):  # noqa: B023 - used at once
                raise ConnectionError(f"a message does not come back: {call.reset} {call.trailers} {client.goaways}")
            compare(found, text, call.data)
            call.data = b""
            time.sleep(PACE_S)
        client.send(call, b"", end=True)
        client.wait(lambda: call.over, TIMEOUT_S)
        finish(client, call)


def finish(client: Client, call: Stream) -> None:
    """A call that ended as it should."""
    if not call.ended or call.trailer(b"grpc-status") != b"0":
        raise ConnectionError(f"call {call.id}: {call.heads} {call.trailers} {call.reset} {client.goaways}")


def message() -> bytes:
    """One message of gRPC, which no other is like."""
    text = fresh_nonce() + b":" + random.randbytes(random.choice((0, 100, 3_000, 40_000)))
    return b"\0" + len(text).to_bytes(4) + text


def compare(found: Counts, wanted: object, got: object) -> None:
    """An answer that has come, and whether it is the one to its question."""
    found.answered += 1
    if wanted != got:
        found.mixed += 1
        fault(f"{str(got)[:80]} instead of {str(wanted)[:80]}")


def websocket(found: Counts) -> None:
    """One WebSocket for as long as the soak lasts."""
    with connect(HTTP_PORT) as connection, connection.makefile("rb") as stream:
        key = base64.b64encode(random.randbytes(16))
        connection.sendall(
            b"GET /socket HTTP/1.1\r\nHost: back\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        accepted = read_head(stream).get(b"sec-websocket-accept")
        if accepted != base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()):
            raise ConnectionError("the upgrade was not accepted")
        while not paused():
            message = fresh_nonce() + b":" + random.randbytes(random.choice((0, 100, 3000)))
            found.asked += 1
            connection.sendall(masked(message))
            answer = read_frame(stream)
            if answer is None:
                raise ConnectionError("the socket ended")
            found.answered += 1
            found.mixed += answer != message
            found.bytes += len(answer)
            time.sleep(2 * PACE_S)
        connection.sendall(b"\x88\x80" + bytes(4))


def masked(message: bytes) -> bytes:
    """A binary message in one frame from a client (RFC 6455 section 5.3)."""
    size, mask = len(message), random.randbytes(4)
    head = b"\x82" + (bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big"))
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(message))


def tcp(found: Counts) -> None:
    """One stream for as long as the soak lasts: what comes back is what was sent, byte for byte, to the very end."""
    with connect(TCP_PORT) as connection:
        sent, received = hashlib.sha256(), hashlib.sha256()
        while not paused():
            piece = random.randbytes(random.choice((1, 100, 5_000, 60_000)))
            found.asked += 1
            sent.update(piece)
            connection.sendall(piece)
            answer = read_exactly(connection, len(piece))
            received.update(answer)
            found.bytes += len(answer)
            found.answered += 1
            found.mixed += answer != piece
            time.sleep(PACE_S)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1):
            found.mixed += 1
        found.mixed += sent.digest() != received.digest()


def tcp_fresh(found: Counts) -> None:
    """A stream for one message, ended by the client's half-close."""
    with connect(TCP_PORT) as connection:
        piece = fresh_nonce() + random.randbytes(2_000)
        found.asked += 1
        connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        answer = read_exactly(connection, len(piece))
        found.answered += 1
        found.mixed += answer != piece or connection.recv(1) != b""
    time.sleep(2 * PACE_S)


def read_exactly(connection: socket.socket, size: int) -> bytes:
    answer = bytearray()
    while len(answer) < size:
        piece = connection.recv(size - len(answer))
        if not piece:
            raise ConnectionError(f"the stream ended {size - len(answer)} bytes early")
        answer += piece
    return bytes(answer)


def write() -> None:
    """The counters, in one step."""
    now = {name: vars(found) for name, found in counts.items()} | {"statuses": statuses, "faults": faults}
    staged = folder / "load.json.new"
    staged.write_text(json.dumps(now | {"at": time.time(), "ended": not any(each.is_alive() for each in threads)}))
    staged.replace(folder / "load.json")


KINDS = [("http", http)] * 4 + [("http_fresh", http_fresh)] * 2 + [("guarded", guarded)]
KINDS += [("http2", http2)] * 2 + [("grpc", grpc)] + [("grpc_stream", grpc_stream)] * 2
KINDS += [("websocket", websocket)] * 3 + [("tcp", tcp)] * 3 + [("tcp_fresh", tcp_fresh)] * 2
threads = [threading.Thread(target=keep, args=kind, daemon=True) for kind in KINDS]

if __name__ == "__main__":
    for thread in threads:
        thread.start()
    while True:
        with contextlib.suppress(OSError, RuntimeError):
            write()
        time.sleep(0.5)
