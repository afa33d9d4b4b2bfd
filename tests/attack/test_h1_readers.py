"""H1-65, H1-67 and H1-68 on sockets: what a sidecar lets through, every other reader reads as our own does.

In:     gadgets, mutations and valid pipelines through the sidecars; then the very bytes that the application got, to h11, to llhttp
        (U6) and to real servers.
Limits: http.server always; Node.js, HAProxy and nginx where they are installed (at least one more is, or the test says so). nginx does
        not tell bodies. Bytes behind an upgrade, and the answers that do not read a body, are left out.
Source: attack cases 2.1 and 3.2, U6.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from tests.attack.conftest import Arena, request
from tests.attack.test_h1_random import SEED, mutate, seeds
from tests.support import readers, wire
from tests.support.origin import Connection

GADGETS = 140  # in each direction
NAMES = [
    "Transfer-Encoding",
    "transfer-encoding",
    "Content-Length",
    "Transfer_Encoding",
    "Content_Length",
    "Transfer-Encodin\x67",
]
VALUES = [
    "chunked",
    "chunke\x64",
    "4",
    "x",
    "chunked, identity",
    "identity, chunked",
    '"chunked"',
    "chunked;q=1",
    "0004",
    "+4",
    "4, 4",
    "4 ",
]
JOINS = [
    ": ",
    ":",
    " : ",
    "\t:",
    ":\t",
    ": \x0b",
    ":\x0c",
    ": \xa0",
    ":\r\n ",
    ":\r ",
    ":\n ",
    ": \x85",
    "\x00: ",
    "::",
    ": \t ",
]


def gadget(chance: random.Random) -> bytes:
    """A request whose framing is contradicted by a line that some reader takes for framing."""
    line = chance.choice(NAMES) + chance.choice(JOINS) + chance.choice(VALUES)
    if chance.random() < 0.3:
        line = chance.choice(["X: y\r", "X: y\n", "X: y\r\n ", "\x00", " ", "X-", "X: y\x0b"]) + line
    smuggled = b"GET /inner HTTP/1.1\r\nHost: server\r\n\r\n"
    if chance.random() < 0.5:
        body = b"0\r\n\r\n" + smuggled
        own = f"Content-Length: {len(body)}"
    else:
        body = b"4\r\nabcd\r\n0\r\n\r\n" + smuggled
        own = "Transfer-Encoding: chunked"
    lines = [own, line] if chance.random() < 0.5 else [line, own]
    return request("/echo", *lines, method="POST", body=body)


@pytest.fixture
def passed(arena: Arena) -> list[Connection]:
    """The connections of the application that carry what got through."""
    arena.pair.configure("# none\n")
    arena.origin.drop_connections()
    had = len(arena.origin.connections)
    chance = random.Random(f"{SEED} readers {arena.direction}")
    inputs = [gadget(chance) for _ in range(GADGETS)] + seeds() * 3 + [mutate(data, chance) for data in seeds() * 25]
    for data in inputs:
        with wire.connect(arena.pair, arena.direction) as connection:
            wire.send_pieces(connection, [data + request("/last", "Connection: close")])
            wire.listen(connection, None, 0.3)
    arena.healthy()
    arena.origin.drop_connections()
    return arena.origin.connections[had:]


def test_h1_65_h1_67_three_parsers_agree_on_what_got_through(arena: Arena, passed: list[Connection]) -> None:
    """U6, and the other way round: something did get through, and something did not."""
    compared, inner = 0, 0
    for connection in passed:
        ours = arena.agreed(connection)
        compared += len(ours)
        inner += sum(one.target == b"/inner" for one in ours)
    assert compared > 100, "the pipelines got through"
    assert inner < GADGETS, "and not every gadget"


def test_h1_68_real_servers_agree_on_what_got_through(arena: Arena, passed: list[Connection]) -> None:
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, readers.servers(Path(folder)) as running:
        compared = 0
        for connection in passed:
            ours, data = arena.understood(connection)
            for server in running if ours else []:
                read = server.read(data)
                assert len(read) == len(ours), (server.name, read, ours, data)
                for (method, target, host, body), mine in zip(read, ours, strict=True):
                    assert (method, target, host) == (mine.method, mine.target, mine.host), (server.name, data)
                    assert body is None or body == mine.body, (server.name, data)
            compared += len(ours)
        assert compared > 100
        if len(running) < 2:
            pytest.skip(f"only {[server.name for server in running]} is installed here; it agrees")


def test_the_readers_can_disagree() -> None:
    """The test of the test: they tell two bodies apart, and refuse what is malformed."""
    first, second = (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n" + body for body in (b"abc", b"abd"))
    for reader in (readers.by_h11, readers.by_llhttp):
        assert reader(first) != reader(second)
        assert reader(first + first) == reader(first) * 2
        with pytest.raises(readers.Refused):
            reader(b"GET / HTTP/1.1\r\nHost: a\r\nX-\0: b\r\n\r\n")
