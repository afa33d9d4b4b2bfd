"""Serves configuration and certificates to the sidecars of this machine, one Unix socket each.

In:      snapshots from `configuration`, certificate requests from sidecars.
Out:     transactions, certificates; what each sidecar says is in force.
Limits:  frames of at most 64 MiB; one transaction in flight, answered within 10 s; one connection per sidecar, the
         newest; the last 8 snapshots are kept as bases for short transactions.
Fails:   a peer that breaks the protocol is disconnected and reported; it reconnects and is told again.
Source:  docs/feed.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshdp.compiler.snapshot import Snapshot
from meshdp.control.authority import Authority, RequestRefused
from meshdp.local.isolation.rights import SIDECAR_ID

FRAME_LIMIT_BYTES = 64 * 1024 * 1024
ANSWER_TIMEOUT_S = 10.0
BASES_KEPT = 8


class ProtocolError(ValueError):
    """What a peer sent is not the feed's protocol; a sentence about what was expected."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its kind (one letter) and its body."""

    kind: str
    body: bytes

    def encode(self) -> bytes:
        """The frame as bytes: length of kind and body, kind, body."""
        return struct.pack(">I", len(self.body) + 1) + self.kind.encode() + self.body

    def fields(self) -> dict[str, str]:
        """The body's JSON object with its text fields."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise ProtocolError(f"expected a JSON body in {self.kind}") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"expected a JSON object in {self.kind}")
        return {name: text for name, text in value.items() if isinstance(text, str)}


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None when the peer has closed between frames."""
    try:
        head = await reader.readexactly(5)
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise ProtocolError("expected a whole frame before the end") from cut
        return None
    length = struct.unpack(">I", head[:4])[0]
    if not 1 <= length <= FRAME_LIMIT_BYTES:
        raise ProtocolError(f"expected a frame of 1 to {FRAME_LIMIT_BYTES} bytes, found {length}")
    try:
        body = await reader.readexactly(length - 1)
    except asyncio.IncompleteReadError as cut:
        raise ProtocolError("expected a whole frame before the end") from cut
    return Frame(chr(head[4]), body)


class Feed:
    """One sidecar's feed. `in_force` and `refusal` are what the sidecar said last; `changed` is called after each."""

    def __init__(self, workload: str, authority: Authority, changed: Callable[[], None]) -> None:
        self.workload = workload
        self.in_force = ""
        self.refusal = ""
        self._authority = authority
        self._changed = changed
        self._identity = ""
        self._wanted: Snapshot | None = None
        self._bases: deque[Snapshot] = deque(maxlen=BASES_KEPT)
        self._refused_whole = ""
        self._whole_next = False
        self._server: asyncio.Server | None = None
        self._session: _Session | None = None

    @property
    def wanted(self) -> str:
        """The digest that the sidecar should have in force."""
        return self._wanted.digest if self._wanted is not None else ""

    @property
    def settled(self) -> bool:
        """The sidecar is here and has what it should have."""
        return self._session is not None and self._wanted is not None and self.in_force == self._wanted.digest

    async def open(self, path: Path, reader: int | None = SIDECAR_ID) -> None:
        """Listens in a folder of its own that only our user and the group `reader`, the sidecar's, may enter."""
        path.parent.mkdir(mode=0o700, parents=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        for owned, mode in ((path, 0o660), (path.parent, 0o710)):
            if reader is not None:
                os.chown(owned, -1, reader)  # the folder stays ours, so that it can be removed after a crash
                owned.chmod(mode)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_READ_AHEAD_BYTES)

    def offer(self, snapshot: Snapshot, identity: str) -> None:
        """Makes a snapshot the wanted one and sends it as soon as nothing is in flight."""
        self._identity = identity
        if self._wanted is not None and self._wanted.digest == snapshot.digest:
            return
        self._wanted = snapshot
        self._bases.append(snapshot)
        self.refusal = ""
        self._push()

    async def close(self) -> None:
        """Stops listening and drops the sidecar's connection."""
        if self._server is not None:
            self._server.close()
        if self._session is not None:
            self._session.drop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(writer)
        try:
            await self._converse(reader, session)
        except ProtocolError as error:
            self.refusal = f"the sidecar broke the feed's protocol: {error}"
            self._changed()
        except ConnectionError:
            pass  # it comes back
        finally:
            session.drop()
            if self._session is session:
                self._session = None
                self._changed()

    async def _converse(self, reader: asyncio.StreamReader, session: _Session) -> None:
        hello = await read_frame(reader)
        if hello is None:
            return
        self._greet(hello, session)
        while (frame := await read_frame(reader)) is not None:
            match frame.kind:
                case "C":
                    self._sign(frame.body, session)
                case "A":
                    self._acknowledged(frame.fields(), session)
                case "N":
                    self._refused(frame.fields(), session)
                case _:
                    raise ProtocolError(f"expected C, A or N, found {frame.kind!r}")

    def _greet(self, hello: Frame, session: _Session) -> None:
        if hello.kind != "H":
            raise ProtocolError(f"expected H first, found {hello.kind!r}")
        said = hello.fields()
        if said.get("workload") != self.workload:
            raise ProtocolError(f"expected workload {self.workload}, found {said.get('workload')!r}")
        if self._session is not None:
            self._session.drop()
        self._session = session
        self._refused_whole, self._whole_next = "", False
        self.in_force = said.get("digest", "")
        self._changed()
        self._push()

    def _sign(self, request: bytes, session: _Session) -> None:
        if not self._identity:
            session.send("E", {"message": "the workload's identity is not known yet"})
            return
        try:
            chain = self._authority.sign(request, self._identity)
        except RequestRefused as refused:
            session.send("E", {"message": str(refused)})
            return
        session.send("K", {"chain": chain, "bundle": self._authority.bundle})

    def _acknowledged(self, said: dict[str, str], session: _Session) -> None:
        session.answered(said.get("digest", ""))
        self.in_force = said.get("digest", "")
        self.refusal = ""
        self._changed()
        self._push()

    def _refused(self, said: dict[str, str], session: _Session) -> None:
        digest, whole = said.get("digest", ""), session.flying_whole
        session.answered(digest)
        self.refusal = said.get("reason", "no reason given")
        # What is refused even as a whole is not sent again; anything else is, whole this time.
        self._refused_whole = digest if whole else ""
        self._whole_next = True
        self.in_force = said.get("in_force", "")
        self._changed()
        self._push()

    def _push(self) -> None:
        """Sends what is wanted, unless it is there, in flight, or was refused."""
        session, wanted = self._session, self._wanted
        if session is None or wanted is None or session.flying or self.settled:
            return
        if wanted.digest == self._refused_whole:
            return
        known = (kept for kept in self._bases if kept.digest == self.in_force)
        base = None if self._whole_next else next(known, None)
        self._whole_next = False
        session.fly(wanted.digest, Frame("T", wanted.transaction(base)), whole=base is None)


class _Session:
    """One connection of a sidecar: what is in flight on it, and since when."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._deadline: asyncio.TimerHandle | None = None
        self.flying = ""
        self.flying_whole = False

    def fly(self, digest: str, frame: Frame, *, whole: bool) -> None:
        """Sends a transaction and gives up on the connection when no answer comes."""
        self.flying, self.flying_whole = digest, whole
        self._deadline = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, self.drop)
        self._writer.write(frame.encode())

    def answered(self, digest: str) -> None:
        """Notes the answer to what is in flight."""
        if digest != self.flying:
            raise ProtocolError(f"expected an answer for {self.flying or 'nothing'}, found {digest}")
        self.flying = ""
        if self._deadline is not None:
            self._deadline.cancel()

    def send(self, kind: str, body: dict[str, str]) -> None:
        """Sends a small message."""
        self._writer.write(Frame(kind, json.dumps(body).encode()).encode())

    def drop(self) -> None:
        """Closes the connection; nothing in flight is waited for any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        with contextlib.suppress(OSError):
            self._writer.close()


_READ_AHEAD_BYTES = 256 * 1024
