"""Serves configuration and certificates to the sidecars of this machine, one Unix socket each.

In:      snapshots from `configuration`, certificate requests from sidecars.
Out:     transactions, certificates (`desk`); what each sidecar says is in force.
Limits:  frames of at most 64 MiB; UNREAD_LIMIT_BYTES of small answers that a sidecar does not read; one transaction in
         flight, answered within 10 s; one connection per sidecar, the newest that said hello, CONNECTIONS_LIMIT at all;
         the last 8 snapshots are bases for short transactions.
Fails:   a peer that breaks the protocol is disconnected and reported; it reconnects and is told again.
Source:  docs/feed.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from meshdp.compiler.snapshot import Snapshot
from meshdp.control.authority import Authority
from meshdp.control.desk import Desk
from meshdp.control.frames import Frame, ProtocolError, listening, read_frame
from meshdp.local.isolation.rights import SIDECAR_ID

ANSWER_TIMEOUT_S = 10.0
BASES_KEPT = 8
CONNECTIONS_LIMIT = 4  # one that ends, one that begins, and as many again: descriptors belong to the whole mesh
UNREAD_LIMIT_BYTES = 1024 * 1024


class Feed:
    """One sidecar's feed. `in_force` and `refusal` are what the sidecar said last; `changed` is called after each."""

    def __init__(self, workload: str, authority: Authority, changed: Callable[[], None]) -> None:
        self.workload = workload
        self.in_force = ""
        self.refusal = ""
        self.desk = Desk(workload, authority)
        self._changed = changed
        self._wanted: Snapshot | None = None
        self._bases: deque[Snapshot] = deque(maxlen=BASES_KEPT)
        self._refused_whole = ""
        self._whole_next = False
        self._server: asyncio.Server | None = None
        self._session: _Session | None = None
        self._connections = 0

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
        listener = listening(path)
        for owned, mode in ((path, 0o660), (path.parent, 0o710)):
            if reader is not None:
                os.chown(owned, -1, reader)  # the folder stays ours, so that it can be removed after a crash
                owned.chmod(mode)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_READ_AHEAD_BYTES)

    def offer(self, snapshot: Snapshot, identity: str) -> None:
        """Makes a snapshot the wanted one and sends it as soon as nothing is in flight."""
        self.desk.identity = identity
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
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_LIMIT:
                await self._converse(reader, session)
        except ProtocolError as error:
            self.refusal = f"the sidecar broke the feed's protocol: {error}"
            self._changed()
        except ConnectionError:
            pass  # it comes back
        finally:
            self._connections -= 1
            session.drop()
            if self._session is session:
                self._session = None
                self.desk.leave()
                self._changed()

    async def _converse(self, reader: asyncio.StreamReader, session: _Session) -> None:
        hello = await read_frame(reader)
        if hello is None:
            return
        self._greet(hello, session)
        while (frame := await read_frame(reader)) is not None:
            match frame.kind:
                case "C":
                    answer = self.desk.sign(frame.body)
                    session.send(answer)
                    if answer.kind == "E":
                        self._changed()
                    await asyncio.sleep(0)  # a request costs time: the others have their turn
                case "I":
                    self.desk.hear(frame)
                    self._changed()
                case "A":
                    self._acknowledged(frame.fields(), session)
                case "N":
                    self._refused(frame.fields(), session)
                case _:
                    raise ProtocolError(f"expected C, I, A or N, found {frame.kind!r}")

    def _greet(self, hello: Frame, session: _Session) -> None:
        if hello.kind != "H":
            raise ProtocolError(f"expected H first, found {hello.kind!r}")
        said = hello.fields()
        if said.get("workload") != self.workload:
            raise ProtocolError(f"expected workload {self.workload}, found {said.get('workload')!r}")
        if self._session is not None:
            self._session.drop()
        self._session = session
        self.desk.join(session.send)
        self._refused_whole, self._whole_next = "", False
        self.in_force = said.get("digest", "")
        self._changed()
        self._push()

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

    def send(self, frame: Frame) -> None:
        """Sends a small message; a peer that asks and does not read is let go."""
        if self._writer.transport.get_write_buffer_size() > UNREAD_LIMIT_BYTES and not self.flying:
            self.drop()
        else:
            self._writer.write(frame.encode())

    def drop(self) -> None:
        """Closes the connection; nothing in flight is waited for any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        with contextlib.suppress(OSError):
            self._writer.close()


_READ_AHEAD_BYTES = 256 * 1024
