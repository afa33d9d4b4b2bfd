"""HTTP/2 frames as bytes, right or wrong, and one end of a connection that reads and writes nothing else.

In:     a connected socket; frames that a test has made. Out: `Peer.frames`: what came back, in order.
Limits: sends whatever it is told; credits come only from `credit`, acknowledgements of SETTINGS and PING by itself.
Source: RFC 9113 section 4.1 and 6, RFC 7541 (field blocks are read by PyPI `hpack`).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import hpack

from tests.support.pair import PATIENCE_S

MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
Fields = Iterable[tuple[str | bytes, str | bytes]]


@dataclass(frozen=True)
class Frame:
    """One frame that was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8])


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Any frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def number(kind: int, stream: int, value: int) -> bytes:
    """RST_STREAM or WINDOW_UPDATE."""
    return frame(kind, 0, stream, value.to_bytes(4))


def settings(*pairs: tuple[int, int]) -> bytes:
    """SETTINGS with these parameters."""
    return frame(SETTINGS, payload=b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in pairs))


def goaway(last: int, code: int = NO_ERROR) -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, payload=last.to_bytes(4) + code.to_bytes(4))


def integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """An integer of RFC 7541 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value >= 0x80:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes(out) + bytes([value])


def raw(value: str | bytes) -> bytes:
    """Text as its bytes."""
    return value.encode("latin-1") if isinstance(value, str) else value


def block(fields: Fields, first: int = 0) -> bytes:
    """A field block of literals with literal names, never indexed, never Huffman: every byte is what the test says.

    `first`: 0x40 to have them stored in the table.
    """
    out = b""
    for name, value in fields:
        out += bytes([first]) + text(name) + text(value)
    return out


def text(value: str | bytes) -> bytes:
    """A string of RFC 7541 5.2, as it is."""
    return integer(len(raw(value)), 7) + raw(value)


def head(stream: int, fields: Fields, *, end: bool = True, flags: int = 0) -> bytes:
    """A whole HEADERS frame."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0) | flags, stream, block(fields))


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    """A DATA frame."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def request_fields(
    path: str = "/", *fields: tuple[str | bytes, str | bytes], method: str = "GET", authority: str = "server"
) -> list[tuple[str | bytes, str | bytes]]:
    """The fields of a good request."""
    return [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path), *fields]


class Peer:
    """One end of a connection."""

    def __init__(self, connected: socket.socket, authority: str = "server") -> None:
        self.socket = connected
        self.authority = authority
        self.frames: list[Frame] = []
        self.heads: dict[int, list[list[tuple[bytes, bytes]]]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.credits = False  # whether DATA is given back at once
        self.answers = True  # whether SETTINGS and PING are acknowledged
        self.ended = ""
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self._rest = bytearray()
        self._blocks: dict[int, bytes] = {}

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self, *pairs: tuple[int, int], as_client: bool = True) -> None:
        """The preface and SETTINGS."""
        self.send((MAGIC if as_client else b"") + settings(*pairs))

    def send(self, *pieces: bytes) -> None:
        """Send; a peer that is gone already is no failure here."""
        with contextlib.suppress(OSError):
            for piece in pieces:
                self.socket.sendall(piece)

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
        if self.ended:
            return False
        self.socket.settimeout(timeout_s)
        try:
            received = self.socket.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError:
            self.ended = "reset"
            return False
        finally:
            self.socket.settimeout(PATIENCE_S)
        if not received:
            self.ended = "fin"
            return False
        self._rest += received
        while len(self._rest) >= 9 and len(self._rest) >= (size := 9 + int.from_bytes(self._rest[:3])):
            found = Frame(
                self._rest[3], self._rest[4], int.from_bytes(self._rest[5:9]) & 0x7FFF_FFFF, bytes(self._rest[9:size])
            )
            del self._rest[:size]
            self.frames.append(found)
            self._take(found)
        return True

    def drain(self, timeout_s: float = PATIENCE_S) -> str:
        """Read to the end of the connection; how it ended."""
        self.wait(lambda: False, timeout_s)
        return self.ended or "open"

    def _take(self, found: Frame) -> None:
        if found.kind == SETTINGS and not found.flags & ACK and self.answers:
            self.send(frame(SETTINGS, ACK))
        elif found.kind == PING and not found.flags & ACK and self.answers:
            self.send(frame(PING, ACK, payload=found.payload))
        elif found.kind == DATA:
            self.bodies.setdefault(found.stream, bytearray()).extend(found.payload)
            if self.credits and found.payload:
                self.send(number(WINDOW_UPDATE, 0, len(found.payload)))
                if not found.flags & END_STREAM:
                    self.send(number(WINDOW_UPDATE, found.stream, len(found.payload)))
        elif found.kind in (HEADERS, CONTINUATION):
            self._blocks[found.stream] = self._blocks.get(found.stream, b"") + found.payload
            if found.flags & END_HEADERS:
                self._blocks[found.stream], whole = b"", self._blocks[found.stream]
                fields = [(raw(name), raw(value)) for name, value in self._decoder.decode(whole, raw=True)]
                self.heads.setdefault(found.stream, []).append(fields)

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """What came of a kind (and on a stream)."""
        return [each for each in self.frames if each.kind == kind and stream in (None, each.stream)]

    def status(self, stream: int) -> int:
        """The final status of an answer, 0 before it."""
        statuses = [int(dict(fields).get(b":status", b"0")) for fields in self.heads.get(stream, [])]
        return next((status for status in statuses if status >= 200), 0)

    def has_ended(self, stream: int) -> bool:
        """Whether END_STREAM came."""
        return any(
            each.stream == stream and each.kind in (DATA, HEADERS) and each.flags & END_STREAM for each in self.frames
        )

    def reset_code(self, stream: int) -> int | None:
        """With which code a stream was reset, if it was."""
        found = self.of(RST_STREAM, stream)
        return found[0].code if found else None

    def is_over(self, stream: int) -> bool:
        """Nothing more will come on it."""
        return self.has_ended(stream) or self.reset_code(stream) is not None or bool(self.ended)

    def ask(self, stream: int, path: str = "/", nonce: bytes = b"-", timeout_s: float = PATIENCE_S) -> bool:
        """A good request on a stream; whether its own answer came whole."""
        self.send(head(stream, request_fields(path, ("x-nonce", nonce), authority=self.authority)))
        self.wait(lambda: self.is_over(stream), timeout_s)
        return (
            self.status(stream) == 200
            and self.has_ended(stream)
            and bytes(self.bodies.get(stream, b"")) == b"nonce:" + nonce
        )
