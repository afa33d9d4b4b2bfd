"""Signs certificate requests of one workload over one Unix socket, for a sidecar that runs on its own.

In:      a socket whose folder decides who may connect; connecting is the proof of the identity.
Out:     `K` or `E` for each `C`, over the feed's framing.
Limits:  CONNECTIONS_LIMIT connections at once; the bounds of `desk` for each.
Fails:   a peer that breaks the protocol is disconnected; it comes back.
Source:  docs/feed.md ("A socket for certificates alone").
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from meshdp.control.authority import Authority
from meshdp.control.desk import Desk
from meshdp.control.frames import ProtocolError, listening, read_frame

CONNECTIONS_LIMIT = 64


class Signer:
    """One identity's socket."""

    def __init__(self, authority: Authority, identity: str) -> None:
        self._desk = Desk(identity, authority)
        self._desk.identity = identity
        self._connections = 0

    async def serve(self, path: Path, owner: int | None = None) -> None:
        """Serves until cancelled. Only `owner` (our own user without one) may connect.

        Raises:
            OSError: the socket cannot be made there.
        """
        listener = listening(path)
        if owner is not None:
            os.chown(path, owner, owner, follow_symlinks=False)
        server = await asyncio.start_unix_server(self._converse, sock=listener)
        try:
            await server.serve_forever()
        finally:
            path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_LIMIT:
                await self._answer(reader, writer)
        except (ProtocolError, OSError):
            pass  # it comes back
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await read_frame(reader)
        while hello is not None and hello.kind == "H" and (frame := await read_frame(reader)) is not None:
            if frame.kind != "C":
                raise ProtocolError(f"expected C, found {frame.kind!r}")
            writer.write(self._desk.sign(frame.body).encode())
            await writer.drain()
