"""Raw bytes through the pair from the client namespace, and the answers to them, read strictly.

In:     a `Pair`, a direction, bytes and how they are cut into segments.
Out:    `Answer`s and how the connection ended.
Limits: `outbound` goes application → sidecar → mutual TLS → sidecar → application; `inbound` goes in plaintext straight to the
        server's sidecar, from a socket that belongs to uid 1337 and is therefore not captured on the client's side.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tests.support.pair import HTTP_PORT, PATIENCE_S, SERVER_IP, SERVICE_IP, Pair, Side

SYS_SETRESUID = {"x86_64": 117, "aarch64": 147}[os.uname().machine]
SIDECAR_UID = 1337
DIRECTIONS = ("outbound", "inbound")
SHORT_PAUSE_S, PACED_S = 0.005, 0.4
T = TypeVar("T")
_NONCES = itertools.count(1)


@dataclass
class Answer:
    """One response."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    complete: bool = True

    def value(self, name: bytes) -> bytes | None:
        """The value of the only field of this name."""
        values = [value for other, value in self.fields if other.lower() == name]
        assert len(values) < 2, (name, values)
        return values[0] if values else None


@dataclass
class Heard:
    """Everything that came back on one connection."""

    answers: list[Answer] = field(default_factory=list)
    ended: str = "open"
    raw: bytes = b""

    @property
    def statuses(self) -> list[int]:
        """The final statuses in order."""
        return [answer.status for answer in self.answers if answer.status >= 200 or answer.status == 101]


def nonce() -> bytes:
    """A value no other request carries."""
    return b"n%d" % next(_NONCES)


def connect(pair: Pair, direction: str, port: int = HTTP_PORT) -> socket.socket:
    """A connection to the server's port by either way."""
    if direction == "outbound":
        connection = pair.client.connect((SERVICE_IP, port))
    else:
        connection = connect_uncaptured(pair.client, (SERVER_IP, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def connect_uncaptured(side: Side, address: tuple[str, int]) -> socket.socket:
    """A connection that the redirection rules leave alone: its owner is the sidecar's user."""
    return side.inside(as_sidecar(lambda: socket.create_connection(address, timeout=PATIENCE_S)))


def as_sidecar(function: Callable[[], T]) -> Callable[[], T]:
    """The function as the sidecar's user; for `inside`, whose thread ends with the call."""

    def changed() -> T:
        # The raw call changes this thread alone.
        user = ctypes.c_long(SIDECAR_UID)
        if ctypes.CDLL(None, use_errno=True).syscall(SYS_SETRESUID, user, user, user) != 0:
            raise OSError(ctypes.get_errno(), "setresuid")
        return function()

    return changed


def send_pieces(connection: socket.socket, pieces: Iterable[bytes], pause_s: float = 0.002) -> None:
    """Send each piece in a segment of its own; a peer that has answered and closed already is no failure here.

    Hundreds of short pauses are long on a machine that is busy: after `PACED_S` they are left out, or a peer would rightly have
    waited long enough for the rest. A pause that a test means, and not only the cut, is longer than `SHORT_PAUSE_S`.
    """
    began = time.monotonic()
    try:
        for index, piece in enumerate(pieces):
            if index and (pause_s > SHORT_PAUSE_S or time.monotonic() - began < PACED_S):
                time.sleep(pause_s)
            connection.sendall(piece)
    except OSError:
        pass


def cuts(data: bytes, samples: int = 5) -> Iterator[tuple[str, list[bytes], float]]:
    """U7: whole, one byte a segment (long inputs: their first 160 bytes), and cut in two at sampled offsets."""
    yield "whole", [data], 0
    head = [data[index : index + 1] for index in range(min(len(data), 160))]
    yield "bytewise", [*head, *([data[160:]] if len(data) > 160 else [])], 0.0001
    step = max(1, len(data) // (samples + 1))
    for offset in range(step, len(data), step):
        yield f"cut at {offset}", [data[:offset], data[offset:]], 0.002


def listen(
    connection: socket.socket, count: int | None = None, timeout_s: float = PATIENCE_S, *, head: bool = False
) -> Heard:
    """Read answers until so many final ones have come (None: until the connection ends)."""
    heard = Heard()
    reader = _Reader(connection, heard, time.monotonic() + timeout_s)
    try:
        while count is None or len(heard.statuses) < count:
            answer = reader.answer(head=head)
            if answer is None:
                break
            heard.answers.append(answer)
    except TimeoutError:
        heard.ended = "silent"
    return heard


def ask(pair: Pair, direction: str, data: bytes, count: int | None = 1, timeout_s: float = PATIENCE_S) -> Heard:
    """Send and listen on a connection of its own."""
    with connect(pair, direction) as connection:
        send_pieces(connection, [data])
        return listen(connection, count, timeout_s)


class _Reader:
    def __init__(self, connection: socket.socket, heard: Heard, until: float) -> None:
        self._connection = connection
        self._heard = heard
        self._until = until
        self._unread = b""

    def answer(self, *, head: bool) -> Answer | None:
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                assert not self._unread, f"cut inside a head: {self._unread!r}"
                return None
        text, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = text.split(b"\r\n")
        assert re.fullmatch(rb"HTTP/1\.1 [1-5][0-9][0-9] [ -~]*", first), first
        fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        answer = Answer(int(first[9:12]), fields)
        if answer.status >= 200 and answer.status not in (204, 304) and not head:
            answer.complete = self._body(answer)
        return answer

    def _body(self, answer: Answer) -> bool:
        length, coding = answer.value(b"content-length"), answer.value(b"transfer-encoding")
        assert length is None or coding is None, answer.fields
        if coding is not None:
            return self._chunks(answer)
        if length is None:
            while self._more():
                pass
            answer.body, self._unread = self._unread, b""
            return self._heard.ended == "fin"
        while len(self._unread) < int(length) and self._more():
            pass
        answer.body, self._unread = self._unread[: int(length)], self._unread[int(length) :]
        return len(answer.body) == int(length)

    def _chunks(self, answer: Answer) -> bool:
        body = bytearray()
        while True:
            while b"\r\n" not in self._unread:
                if not self._more():
                    answer.body = bytes(body)
                    return False
            line, _, self._unread = self._unread.partition(b"\r\n")
            size = int(line, 16)
            while len(self._unread) < size + 2:
                if not self._more():
                    answer.body = bytes(body) + self._unread
                    return False
            body += self._unread[:size]
            assert self._unread[size : size + 2] == b"\r\n"
            self._unread = self._unread[size + 2 :]
            if size == 0:
                answer.body = bytes(body)
                return True

    def _more(self) -> bool:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            chunk = self._connection.recv(1 << 20)
        except TimeoutError:
            raise
        except OSError:
            self._heard.ended = "reset"
            return False
        if not chunk:
            self._heard.ended = "fin"
            return False
        self._heard.raw += chunk
        self._unread += chunk
        return True
