"""A feed that does what a test says: a real Unix socket for a real sidecar, certificates as good or bad as wanted.

In:      an authority, a folder for the socket.
Out:     `ScriptedFeed`: what the sidecar said, and `give`, `offer`, `refuse` for what it is told.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Sign = Callable[[bytes], "tuple[str, str] | None"]


class ScriptedFeed:
    """Answers each request with `sign(request)`: a chain and a bundle, or None for a refusal."""

    def __init__(self, path: Path, sign: Sign) -> None:
        self.path = path
        self.sign = sign
        self.in_use: list[dict[str, Any]] = []
        self.requests: list[float] = []
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> ScriptedFeed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Closing alone would leave both open for as long as the thread sits in them.
        for each in (self._listener, self._connection):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def push(self, kind: str, **fields: str) -> None:
        """Sends a frame that nobody asked for."""
        self.send(kind.encode(), json.dumps(fields).encode())

    def send(self, kind: bytes, body: bytes) -> None:
        """The same, with bytes that stay as they are."""
        assert self._connection is not None
        self._connection.sendall(struct.pack(">I", len(body) + 1) + kind + body)

    @property
    def greeted(self) -> bool:
        """A sidecar is connected."""
        return self._connection is not None

    def _accept(self) -> None:
        while True:
            try:
                self._connection, _ = self._listener.accept()
                self._serve(self._connection)
            except OSError:
                if self._listener.fileno() < 0:
                    return

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as frames:
            while len(head := frames.read(5)) == 5:
                kind, body = chr(head[4]), frames.read(struct.unpack(">I", head[:4])[0] - 1)
                if kind == "I":
                    self.in_use.append(json.loads(body))
                elif kind == "C":
                    self.requests.append(time.monotonic())
                    self._answer(body)

    def _answer(self, request: bytes) -> None:
        signed = self.sign(request)
        if signed is None:
            self.push("E", message="the authority refuses")
        else:
            self.push("K", chain=signed[0], bundle=signed[1])
