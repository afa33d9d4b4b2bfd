"""One pair of sidecars for the whole catalogue, and the post-conditions that hold after every case.

Out:    `arena`: `refuse`, `accept`, and what they check: U1 (alive, no panic), U2 (a canary on a fresh connection within a second), U3
        (the next request on pooled connections gets its own nonce), U4 (in the end, descriptors are back), U5 (each refusal is counted once; in the end each counted request
        has exactly one line in the log), U6 (`agreed`: h11 and llhttp read what was forwarded as the application does), U7 (whole, bytewise, cut), U8 (both directions).
Limits: U8 without IPv6, which is not captured before M5; on sockets, U7 cuts at sampled offsets (`wire.cuts`); every offset is tried on the parsers in native/proto.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import h2_arena, readers, wire
from tests.support.mesh import Mesh, opened_mesh
from tests.support.origin import Connection, Origin, Request
from tests.support.pair import AUTO_PORT, HTTP_PORT, TCP_PORT, Pair, Side, pair

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: server\r\nX-Nonce: smuggled\r\n\r\n"
# Of a message that comes whole within the first read, not one byte goes upstream before all of it is judged.
FIRST_READ = 4_000
HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS = 3_000, 3_000
KEEPALIVE_MS = 4_000
CANARIES = 5
READ_ON_S = 1.0  # `LINGER_TIMEOUT` of native/engine/src/http/reply.rs
# Connections to an application that stay for the next request: as many as a client may have streams.
POOLED = 100


class Arena:
    """The pair, its application, and one direction to attack it from."""

    def __init__(self, made: Pair, origin: Origin) -> None:
        self.pair = made
        self.origin = origin
        self.direction = "outbound"
        self._read = {side.name: 0 for side in (made.client, made.server)}

    def refuse(
        self, data: bytes, statuses: tuple[int, ...] = (400,), *, tail: bytes = SMUGGLED, in_body: bool = False
    ) -> None:
        """The bytes are answered with one refusal and a close; nothing of them, nor what is behind them, gets through.

        A fault in a body (`in_body`) cut into segments may be seen only after the head has gone upstream: then the message must
        never become complete there.
        """
        counted_before, sent = self.counted(self.attacked_side, statuses), 0
        for cut, pieces, pause_s in wire.cuts(data + tail):
            sent += 1
            bytes_before, requests_before = self.origin.received(), len(self.origin.requests)
            began = time.monotonic()
            heard = self.send(pieces, pause_s)
            told = (self.direction, cut, data[:200], heard.raw, heard.ended)
            assert len(heard.statuses) == 1 and heard.statuses[0] in statuses, told
            # Who goes on sending for longer than a refusal is read on (on a machine that stood still) is reset.
            assert heard.ended == "fin" or (heard.ended == "reset" and time.monotonic() - began > READ_ON_S), told
            if not in_body or (cut == "whole" and len(data) < FIRST_READ):
                assert self.origin.received() == bytes_before, (told, self.origin.requests[requests_before:])
            assert self.origin.requests[requests_before:] == [], told
            if in_body:
                self.origin.wait(self.origin.is_calm)  # what had gone upstream of it is not counted as the next one's
        rose = self.counted(self.attacked_side, statuses) - counted_before
        assert rose == sent, (self.direction, data[:200], f"{rose} counted of {sent}")
        self.healthy()

    def accept(self, data: bytes, check: Callable[[list[Request]], None], statuses: tuple[int, ...] = (200,)) -> None:
        """The bytes are answered so, and the application understood what `check` says, however they are cut."""
        for cut, pieces, pause_s in wire.cuts(data):
            before, faults = len(self.origin.requests), len(self.origin.faults)
            heard = self.send(pieces, pause_s, len(statuses))
            told = (self.direction, cut, data[:200], heard.raw, heard.ended)
            assert heard.statuses == list(statuses), told
            requests = self.origin.requests[before:]
            check(requests)
            assert self.origin.faults[faults:] == [], told
        self.healthy()

    def send(self, pieces: list[bytes], pause_s: float = 0, count: int | None = None) -> wire.Heard:
        """Send on a connection of its own; without a count, until the sidecar closes it."""
        with wire.connect(self.pair, self.direction) as connection:
            wire.send_pieces(connection, pieces, pause_s)
            return wire.listen(connection, count)

    @property
    def attacked_side(self) -> Side:
        """Whose sidecar the direction meets first."""
        return self.pair.client if self.direction == "outbound" else self.pair.server

    @staticmethod
    def counted(side: Side, statuses: tuple[int, ...] = ()) -> int:
        """How many requests a sidecar has counted: with these statuses, or whatever became of them.

        An answer is heard a moment before it is counted; a refusal's end is heard after it.
        """
        rows = [row for row in side.admin("/stats/prometheus").splitlines() if row.startswith("istio_requests_total{")]
        wanted = [f'response_code="{status}"' for status in statuses]
        return sum(int(row.rpartition(" ")[2]) for row in rows if not wanted or any(word in row for word in wanted))

    @staticmethod
    def descriptors(side: Side) -> int:
        """How many files a sidecar has open."""
        assert side.process is not None
        return len(os.listdir(f"/proc/{side.process.pid}/fd"))

    def at_most(self, side: Side, most: int) -> None:
        """U4: no more files than these are open, or will soon be."""
        assert self.origin.wait(lambda: self.descriptors(side) <= most), (side.name, self.descriptors(side), most)

    def log_lines(self, at: int, until: str) -> list[str]:
        """The lines that the attacked sidecar's access log has got since, the first of which with these words is the last."""
        found: list[str] = []

        def there() -> bool:
            with self.attacked_side.log.open("rb") as log:
                log.seek(at)
                found[:] = log.read().decode("utf-8").split("\n")[:-1]  # a carriage return would stay and be seen
            return any(until in line for line in found)

        assert self.origin.wait(there), found[-3:]
        return found

    def settled(self, side: Side) -> None:
        """U5 for all that was ever asked: exactly one line for each request that was counted, each line whole."""

        def logged() -> int:
            lines = side.log.read_bytes().split(b"\n")
            assert not any(b"\r" in line for line in lines)
            # Connections that brought no request have lines of their own, without a protocol.
            return sum(json.loads(line)["protocol"] is not None for line in lines if line.startswith(b'{"start_time"'))

        assert self.origin.wait(lambda: logged() == self.counted(side)), (side.name, logged(), self.counted(side))

    def understood(self, connection: Connection) -> tuple[list[readers.Message], bytes]:
        """What the strict application took from a connection, up to a request whose body it did not read or that asked for another
        protocol, and the bytes that were that."""
        messages, end = [], 0
        for one in self.origin.requests:
            if one.connection == connection.number:
                if one.values(b"upgrade") or one.target.startswith((b"/duplex", b"/early", b"/continue")):
                    break
                messages.append(readers.Message(one.method, one.target, (one.values(b"host") or [b""])[0], one.body))
                end = one.end
        return messages, bytes(connection.received[:end])

    def agreed(self, connection: Connection) -> list[readers.Message]:
        """U6: two other parsers read on a connection what our application has read there."""
        ours, data = self.understood(connection)
        for reader in (readers.by_h11, readers.by_llhttp):
            assert reader(data) == ours, (reader.__name__, data)
        return ours

    def healthy(self) -> None:
        """U1, U2 and U3, by both ways in."""
        for side in (self.pair.client, self.pair.server):
            assert side.process is not None and side.process.poll() is None, side.log.read_text()[-3000:]
            self._nothing_panicked(side)
        for direction in wire.DIRECTIONS:
            self.canary(direction)
        assert all(found.target != b"/smuggled" for found in self.origin.requests)

    def canary(self, direction: str) -> None:
        """A fresh connection is served with its own answer, and within a second: one of `CANARIES`, for the machine may stand still."""
        took: list[float] = []
        while not took or (took[-1] >= 1 and len(took) < CANARIES):
            nonce, started = wire.nonce(), time.monotonic()
            heard = wire.ask(self.pair, direction, request(nonce=nonce))
            assert [answer.body for answer in heard.answers] == [b"nonce:" + nonce], (direction, nonce, heard)
            took.append(time.monotonic() - started)
        assert took[-1] < 1, (direction, took)

    def _nothing_panicked(self, side: Side) -> None:
        with side.log.open() as log:
            log.seek(self._read[side.name])
            fresh = log.read()
            self._read[side.name] = log.tell()
        assert "panicked" not in fresh, fresh


def request(
    target: str = "/", *fields: str, method: str = "GET", body: bytes = b"", nonce: bytes | None = None
) -> bytes:
    """A request head with a Host, a nonce and these lines, and then these bytes."""
    nonce = wire.nonce() if nonce is None else nonce
    lines = [f"{method} {target} HTTP/1.1", "Host: server", f"X-Nonce: {nonce.decode()}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.fixture(scope="package")
def attacked() -> Iterator[Arena]:
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    limits = {"head_ms": HEAD_TIMEOUT_MS, "idle_ms": IDLE_TIMEOUT_MS}
    # Not pytest's folder: nobody but root may enter that, and a sidecar is not root.
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder), "# none\n", limits) as made:
        origin = Origin(made.server, [HTTP_PORT])
        arena = Arena(made, origin)
        arena.healthy()
        descriptors = {side.name: arena.descriptors(side) for side in (made.client, made.server)}
        yield arena
        for side in (made.client, made.server):
            arena.settled(side)
            # U4: what is above is pooled for a minute.
            arena.at_most(side, descriptors[side.name] + POOLED)
            ended = side.process.poll() if side.process is not None else 0
            assert ended is None, f"{side.name} has ended ({ended}):\n{side.log.read_text()[-3000:]}"
            assert json.loads(side.admin("/stats"))["panics"] == 0
        origin.stop()


@pytest.fixture(scope="package")
def patient() -> Iterator[Mesh]:
    """Another pair, whose sidecars wait as long as they do by default, but ask silent peers for a sign of life soon."""
    with opened_mesh((HTTP_PORT, AUTO_PORT), {"keepalive_ms": KEEPALIVE_MS}) as opened:
        yield opened
        for side in (opened.pair.client, opened.pair.server):
            assert json.loads(side.admin("/stats"))["panics"] == 0


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A pair of its own for a module that stops, starves and kills sidecars."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        opened = Mesh(made, Origin(made.server, [HTTP_PORT]), TCP_PORT)
        yield opened
        opened.stop()
        assert "panicked" not in made.client.log.read_text() + made.server.log.read_text()


@pytest.fixture(params=wire.DIRECTIONS)
def arena(attacked: Arena, request: pytest.FixtureRequest) -> Iterator[Arena]:
    attacked.direction = request.param
    yield attacked
    attacked.healthy()


@pytest.fixture(params=h2_arena.WAYS)
def h2(attacked: Arena, request: pytest.FixtureRequest) -> h2_arena.H2Arena:
    """The same pair, attacked over HTTP/2; every case asks itself whether all is well afterwards."""
    return h2_arena.H2Arena(attacked, request.param)
