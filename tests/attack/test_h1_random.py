"""H1-67, bounded: requests broken at random never make the application see anything but what was answered.

In:     seeds of valid pipelines, mutated by bytes, tokens and lines; a fixed random sequence.
Fails:  the strict application faults bytes that a sidecar forwarded, the answers do not pair with what it understood, or h11 or
        llhttp read those bytes otherwise (U6).
Limits: `MUTATIONS` in each direction; `MESHDP_MUTATIONS` sets another number, `MESHDP_SEED` another sequence.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import time
from pathlib import Path

from tests.attack.conftest import SMUGGLED, Arena, request
from tests.support import wire
from tests.support.pair import PATIENCE_S

MUTATIONS = int(os.environ.get("MESHDP_MUTATIONS", "700"))
SEED = int(os.environ.get("MESHDP_SEED", "20260701"))

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"5\r\n", b"\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding:chunked", b"Connection: close\r\n", b"Connection: keep-alive, x-nonce\r\n", b"Expect: 100-continue\r\n",
    b"Host: other\r\n", b"Upgrade: loud\r\nConnection: upgrade\r\n", b"\x85", b"\xa0", b"\xff", b"%00", b"/../", b"//", b"#", b"?",
    b"GET ", b"POST ", b"HEAD ", b"chunked", b";a=b", b'"', b"\\", b"-1", b"0x5", b"99999999999999999999", SMUGGLED.replace(b"smuggled", b"inserted"),
]  # fmt: skip


def seeds() -> list[bytes]:
    """Valid pipelines of two or three requests, each with a nonce of its own."""
    chunked = request(
        "/echo", "Transfer-Encoding: chunked", method="POST", body=b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    length = request("/echo", "Content-Length: 11", method="POST", body=b"hello world")
    return [
        request() + request("/second"),
        length + request("/second"),
        chunked + request("/second"),
        request("/a/b?c=d", "X-Other: a, b", "Cookie: c=d") + chunked + length,
    ]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to three changes."""
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
        low, high = min(at, other), max(at, other)
        match chance.randrange(6):
            case 0:
                data = data[:at] + chance.choice(TOKENS) + data[at:]
            case 1:
                data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 2:
                data = data[:low] + data[min(high, low + chance.randint(1, 12)) :]
            case 3:
                lines = data.split(b"\r\n")
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                data = b"\r\n".join(lines)
            case 4:
                lines = data.split(b"\r\n")
                chance.shuffle(lines) if len(lines) < 6 else lines.pop(chance.randrange(len(lines)))
                data = b"\r\n".join(lines)
            case _:
                data = data[:at] + data[at:other].swapcase() + data[max(at, other) :]
        data = data or b"\r\n"
    return data


def test_h1_67_random_mutations(arena: Arena) -> None:
    chance = random.Random(f"{SEED} {arena.direction}")
    had = len(arena.origin.connections)
    for number in range(MUTATIONS):
        data = mutate(chance.choice(seeds()), chance)
        faults = len(arena.origin.faults)
        cut = chance.randrange(len(data))
        pieces = [data[:cut], data[cut:]] if chance.random() < 0.3 else [data]
        for quiet_s in (
            0.01,
            1,
            PATIENCE_S,
        ):  # a client that ends its side gives its request up: on a slow machine it was too early
            seen, answers, raw = understood_and_answered(arena, pieces, quiet_s)
            if seen == answers:
                break
        told = (number, arena.direction, data, raw)
        assert seen == answers, (told, arena.origin.requests[-seen:])
        assert all(fault.startswith("cut in") for fault in arena.origin.faults[faults:]), (
            told,
            arena.origin.faults[faults:],
        )
        if number % 100 == 0:
            arena.healthy()
    for connection in arena.origin.connections[had:]:
        arena.agreed(connection)


def understood_and_answered(arena: Arena, pieces: list[bytes], quiet_s: float) -> tuple[int, int, bytes]:
    """How many requests the application understood and how many were answered, on a connection that ends after silence."""
    before = len(arena.origin.requests)
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, pieces, 0.001)
        connection.settimeout(quiet_s)
        raw = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while chunk := connection.recv(65536):
                raw += chunk
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        raw += read_to_end(connection)
    answers = raw.count(b"HTTP/1.1 200 ") + raw.count(b"HTTP/1.1 101 ")
    return len(arena.origin.requests) - before, answers, raw


def read_to_end(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE_S)
    heard = b""
    try:
        while chunk := connection.recv(65536):
            heard += chunk
    except ConnectionResetError:
        pass
    return heard


def test_u4_nothing_is_left_behind(arena: Arena) -> None:
    """Descriptors come back to where they were, and memory stays, after a hundred refused and a hundred cut requests."""
    sides = (arena.pair.client, arena.pair.server)
    pids = [side.process.pid for side in sides if side.process is not None]
    arena.healthy()
    time.sleep(0.3)
    before = [descriptors(pid) for pid in pids]
    memory = [resident_bytes(pid) for pid in pids]
    for _ in range(100):
        arena.send([request("/", "Content-Length: x") + SMUGGLED])
        with wire.connect(arena.pair, arena.direction) as connection:
            wire.send_pieces(connection, [request("/echo", "Content-Length: 100", method="POST", body=b"cut")])
    assert arena.origin.wait(lambda: all(descriptors(pid) <= had + 4 for pid, had in zip(pids, before, strict=True)))
    grown = [resident_bytes(pid) - had for pid, had in zip(pids, memory, strict=True)]
    assert max(grown) < 2 * 1024 * 1024, grown


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
