"""Keeps requests, a download and a WebSocket going from inside a workload until a line comes, then says how it went.

In:      JSON on the command line: {"url", "per_second", "keep_alive", "download", "websocket"}; the last two may be "".
         A line on standard input, or its end, ends all of it.
Out:     "ready" once each has been tried; in the end one JSON object: {"answered", "failed", "errors", "seconds",
         "p50_ms", "p99_ms", "answers", "download": {"bytes", "error"}, "websocket": {"echoed", "error"}}. "answers" are
         [seconds since boot, status] of each request where connections are not kept, status 0 where none came.
Limits:  open loop, up to WORKERS requests at once; the download must count up from 0, each echo must be what was sent.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

WORKERS = 4
TIMEOUT_S = 5.0
ECHO_PAUSE_S = 0.05
ERRORS_KEPT = 5
USER_AGENT = "bookinfo-load"


class Requests:
    """One URL, again and again, on schedule."""

    def __init__(self, wanted: dict[str, Any], ended: threading.Event) -> None:
        self._url = urlsplit(wanted["url"])
        self._keep_alive = bool(wanted["keep_alive"])
        self._gap_s = WORKERS / wanted["per_second"]
        self._ended = ended
        self._latencies: list[float] = []
        self._answers: list[tuple[float, int]] = []
        self._errors: list[str] = []
        self._began = time.monotonic()

    def run(self, number: int, tried: Callable[[], None]) -> None:
        """One worker; a late one catches up, so that the rate holds."""
        connection = self._connection()
        due = time.monotonic() + self._gap_s * number / WORKERS
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += self._gap_s
            if not self._exchange(connection) or not self._keep_alive:
                connection.close()
                connection = self._connection()
            tried()
        connection.close()

    def found(self) -> dict[str, Any]:
        """What became of them."""
        good = sorted(self._latencies)
        return {
            "answered": len(good),
            "failed": len(self._errors),
            "errors": self._errors[:ERRORS_KEPT],
            "seconds": time.monotonic() - self._began,
            "p50_ms": statistics.median(good) * 1e3 if good else 0.0,
            "p99_ms": good[int(len(good) * 0.99)] * 1e3 if good else 0.0,
            "answers": [] if self._keep_alive else sorted(self._answers),
        }

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._url.hostname or "", self._url.port or 80, timeout=TIMEOUT_S)

    def _exchange(self, connection: http.client.HTTPConnection) -> bool:
        began = time.monotonic()
        status, error = 0, ""
        try:
            connection.request("GET", self._url.path, headers={"User-Agent": USER_AGENT})
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException) as failure:
            error = repr(failure)
        self._answers.append((time.clock_gettime(time.CLOCK_BOOTTIME), status))
        if status == http.client.OK:
            self._latencies.append(time.monotonic() - began)
        else:
            self._errors.append(error or f"status {status}")
        return status != 0


class Download:
    """One long answer, every number of it compared."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self.found: dict[str, Any] = {"bytes": 0, "error": ""}

    def run(self, tried: Callable[[], None]) -> None:
        """Reads to the end."""
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port or 80, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self._url.path)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise http.client.HTTPException(f"status {response.status}")
            self._compare(response, tried)
        except (OSError, http.client.HTTPException) as error:
            self.found["error"] = repr(error)
        finally:
            connection.close()
            tried()

    def end(self) -> None:
        """Asks the service to come to an end, from a connection of its own."""
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port or 80, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"{self._url.path}/end")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            self.found["error"] = self.found["error"] or f"cannot end it: {error!r}"
        finally:
            connection.close()

    def _compare(self, response: http.client.HTTPResponse, tried: Callable[[], None]) -> None:
        number, rest = 0, b""
        while piece := response.read1(1 << 16):
            data = rest + piece
            whole = len(data) // 8
            if struct.unpack(f">{whole}Q", data[: whole * 8]) != tuple(range(number, number + whole)):
                raise http.client.HTTPException(f"wrong bytes after {number * 8}")
            number, rest = number + whole, data[whole * 8 :]
            self.found["bytes"] += len(piece)
            tried()
        if not response.isclosed():
            raise http.client.HTTPException("no last chunk")


class WebSocket:
    """One connection on which numbers go out and must come back."""

    def __init__(self, url: str, ended: threading.Event) -> None:
        self._url = urlsplit(url)
        self._ended = ended
        self.found: dict[str, Any] = {"echoed": 0, "error": ""}

    def run(self, tried: Callable[[], None]) -> None:
        """Opens it, uses it until the end, and closes it as RFC 6455 section 7 has it."""
        try:
            address = (self._url.hostname or "", self._url.port or 80)
            with socket.create_connection(address, TIMEOUT_S) as connection:
                self._open(connection)
                while not self._ended.wait(ECHO_PAUSE_S):
                    self._exchange(connection, _TEXT, f"message {self.found['echoed']}".encode())
                    self.found["echoed"] += 1
                    tried()
                self._exchange(connection, _CLOSE, struct.pack(">H", 1000))
        except (OSError, http.client.HTTPException) as error:
            self.found["error"] = repr(error)
        finally:
            tried()

    def _open(self, connection: socket.socket) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {self._url.path} HTTP/1.1", f"Host: {self._url.netloc}", "Connection: Upgrade"]
        lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _exactly(connection, 1)
        if not head.startswith(b"HTTP/1.1 101"):
            raise http.client.HTTPException(f"no switch: {head[:60]!r}")

    def _exchange(self, connection: socket.socket, kind: int, body: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        connection.sendall(bytes([0x80 | kind, 0x80 | len(body)]) + mask + masked)
        wanted = bytes([0x80 | kind, len(body)]) + body
        if (got := _exactly(connection, len(wanted))) != wanted:
            raise http.client.HTTPException(f"sent {wanted!r}, got {got!r}")


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise http.client.HTTPException(f"the connection ended after {len(data)} of {size} bytes")
        data += piece
    return data


def main() -> None:
    """Runs all of them, each in threads of its own."""
    wanted = json.loads(sys.argv[1])
    ended = threading.Event()
    requests, download = Requests(wanted, ended), Download(wanted["download"])
    websocket = WebSocket(wanted["websocket"], ended)
    parts: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(requests.run, (each,)) for each in range(WORKERS)]
    parts += [(download.run, ())] if wanted["download"] else []
    parts += [(websocket.run, ())] if wanted["websocket"] else []
    tried = [threading.Event() for _ in parts]
    threads = [
        threading.Thread(target=run, args=(*own, done.set), daemon=True)
        for (run, own), done in zip(parts, tried, strict=True)
    ]
    for thread in threads:
        thread.start()
    for done in tried:
        done.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    ended.set()
    if wanted["download"]:
        download.end()
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
    print(json.dumps({**requests.found(), "download": download.found, "websocket": websocket.found}), flush=True)


_TEXT, _CLOSE = 1, 8

if __name__ == "__main__":
    main()
