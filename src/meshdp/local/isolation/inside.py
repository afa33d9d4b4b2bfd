"""Asks questions from inside an instance's network: HTTP answers of its sidecar, ports that something listens on.

In:      the process number of anything inside.
Out:     answers, or nothing when nobody answers.
Limits:  16 MiB an answer, 2 s a question.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
from pathlib import Path
from typing import NamedTuple

from meshdp.local.isolation import doors

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
QUESTION_TIMEOUT_S = 2.0
ADMIN_PORT = 15000
READINESS_PORT = 15021


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes


async def ask(pid: int, port: int, path: str) -> Answer | None:
    """GETs from 127.0.0.1 inside; None when there is no whole answer in time."""
    try:
        connection = doors.socket_in(pid, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
    connection.setblocking(False)
    try:
        return await asyncio.wait_for(_exchange(connection, port, path), QUESTION_TIMEOUT_S)
    except (OSError, TimeoutError, http.client.HTTPException):
        return None
    finally:
        connection.close()


async def ready(pid: int) -> bool:
    """The sidecar there says that it serves."""
    answer = await ask(pid, READINESS_PORT, "/healthz/ready")
    return answer is not None and answer.status == http.client.OK


def listening_ports(pid: int) -> set[int]:
    """Every TCP port that something inside listens on."""
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        rows = (line.split() for line in lines)
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTEN}
    return found


async def _exchange(connection: socket.socket, port: int, path: str) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    received = bytearray()
    while len(received) < ANSWER_LIMIT_BYTES and (piece := await loop.sock_recv(connection, 1 << 16)):
        received += piece
    response = http.client.HTTPResponse(_Received(bytes(received)))  # type: ignore[arg-type]  # needs makefile alone
    response.begin()
    return Answer(response.status, response.read())


class _Received:
    """Bytes in the shape of the socket that the standard library's parser expects."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._received)


_LISTEN = "0A"
