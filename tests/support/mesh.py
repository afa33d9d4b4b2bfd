"""A pair with its applications: what end-to-end tests ask of it.

Out:    `Mesh`: connections, requests, the access log as dictionaries, an opaque application.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.listening import Listening
from tests.support.origin import Origin
from tests.support.pair import HTTP_PORT, PATIENCE_S, TCP_PORT, Pair, Side, pair


class Mesh:
    """The pair, its HTTP application and its opaque one."""

    def __init__(self, made: Pair, origin: Origin, opaque_port: int) -> None:
        self.pair = made
        self.origin = origin
        self.opaque = Opaque(made.server, opaque_port)
        self._read = {side.name: 0 for side in (made.client, made.server)}

    def stop(self) -> None:
        """End the applications."""
        self.origin.stop()
        self.opaque.stop()

    def ask(
        self, *pieces: bytes, direction: str = "outbound", count: int | None = 1, timeout_s: float = PATIENCE_S
    ) -> wire.Heard:
        """Send on a connection of its own and read so many answers."""
        with wire.connect(self.pair, direction) as connection:
            wire.send_pieces(connection, pieces)
            return wire.listen(connection, count, timeout_s)

    def status(self, target: str = "/", direction: str = "outbound") -> int:
        """The status of one GET."""
        heard = self.ask(get(target), direction=direction)
        return heard.statuses[0] if heard.statuses else 0

    def log_since(self, side: Side, position: int) -> list[dict[str, Any]]:
        """The access log's lines behind a position."""
        with side.log.open() as log:
            log.seek(position)
            return [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]

    def logged(self, side: Side, position: int, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line for which it holds, waited for; an assertion shows all lines."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [line for line in self.log_since(side, position) if holds(line)]
            return bool(found)

        assert self.origin.wait(there), self.log_since(side, position)
        return found[0]


@contextlib.contextmanager
def opened_mesh(ports: Sequence[int] = (HTTP_PORT,), limits: dict[str, int] | None = None) -> Iterator[Mesh]:
    """A pair of its own with its applications, for a module that breaks things or needs other limits."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder), limits=limits) as made:
        opened = Mesh(made, Origin(made.server, list(ports)), TCP_PORT)
        yield opened
        opened.stop()


def get(target: str = "/", *fields: str, method: str = "GET", host: str = "server", body: bytes = b"") -> bytes:
    """A request with a nonce of its own."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"X-Nonce: {wire.nonce().decode()}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def position(side: Side) -> int:
    """Where the log ends now."""
    return side.log.stat().st_size


class Opaque(Listening):
    """A TCP application that says what each connection is to be: the first byte chooses.

    `E` echoes until the end and then says `bye`; `S` counts what it gets and answers with the count at the end;
    `G<size>\\n` sends so many bytes and closes; `H<size>\\n` sends them, ends its side and counts on; `R<size>\\n` sends them
    and resets (`R` alone: at once); with `greeting` set it speaks first.
    """

    def __init__(self, side: Side, port: int) -> None:
        self.greeting = b""
        self.peers: list[tuple[str, int]] = []
        self.resets = 0
        self.counted: list[int] = []
        super().__init__(side, [port])

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        self.peers.append(peer)
        return partial(self._serve, accepted)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), self._counting_resets():
            connection.sendall(self.greeting)
            kind = connection.recv(1)
            if kind == b"E":
                while chunk := connection.recv(65536):
                    connection.sendall(chunk)
                connection.sendall(b"bye")
            elif kind == b"S":
                count = 0
                while chunk := connection.recv(1 << 20):
                    count += len(chunk)
                connection.sendall(b"%d" % count)
            elif kind == b"H":
                connection.sendall(self._block(self._size(connection)))
                connection.shutdown(socket.SHUT_WR)
                self.counted.append(sum(iter(lambda: len(connection.recv(1 << 20)), 0)))
            elif kind == b"R":
                connection.sendall(self._block(self._size(connection)))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif kind == b"G":
                self._send(connection, self._size(connection))

    @contextlib.contextmanager
    def _counting_resets(self) -> Iterator[None]:
        try:
            yield
        except ConnectionResetError:
            self.resets += 1
            raise

    @staticmethod
    def _size(connection: socket.socket) -> int:
        size = b""
        connection.settimeout(0.5)  # `R` alone
        with contextlib.suppress(TimeoutError):
            while not size.endswith(b"\n"):
                size += connection.recv(1)
        connection.settimeout(None)
        return int(size or b"0")

    @staticmethod
    def _block(size: int) -> bytes:
        from tests.support.origin import pattern

        return pattern(size)

    @staticmethod
    def _send(connection: socket.socket, size: int) -> None:
        from tests.support.origin import pattern

        block = pattern(1 << 20)
        while size > 0:
            connection.sendall(block[: min(size, len(block))])
            size -= len(block)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
