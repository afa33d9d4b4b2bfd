"""How a command reaches the process that runs a mesh: a socket in the state folder that only its owner may open.

In:      one request, a line of JSON with a `verb`, from a process of the same user or root.
Out:     one answer, a line of JSON: the verb's own, or `{"error": …, "hint": …, "exit_code": …}`.
Limits:  LINE_LIMIT_BYTES each way, CALLERS_LIMIT callers at once, TIMEOUT_S for a call; verbs answer at once and never
         wait for the mesh.
Fails:   `ask` raises what the mesh said, or Unreachable; `ControlSocket` never ends the mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meshdp.control.frames import listening
from meshdp.errors import MeshdpError, Refused, Unreachable, UsageError

LINE_LIMIT_BYTES = 4 * 1024 * 1024
CALLERS_LIMIT = 16
TIMEOUT_S = 10.0

Call = dict[str, Any]
Verb = Callable[[Call], Call]


class ControlSocket:
    """Answers commands in the process of `meshdp up`."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._callers = 0
        self._server: asyncio.Server | None = None

    async def open(self, path: Path) -> None:
        """Listens; what a process that fell left behind is replaced."""
        self._server = await asyncio.start_unix_server(self._serve, sock=listening(path), limit=LINE_LIMIT_BYTES)

    def close(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers += 1
        try:
            if self._callers <= CALLERS_LIMIT and _uid_of(writer) in (0, os.geteuid()):
                line = await asyncio.wait_for(reader.readline(), TIMEOUT_S)
                writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), TIMEOUT_S)
        except (OSError, ValueError, TimeoutError):
            pass  # the caller has gone, is silent, or sends more than a line may hold
        finally:
            self._callers -= 1
            writer.close()

    def _answer(self, line: bytes) -> Call:
        try:
            call = json.loads(line)
        except (ValueError, RecursionError):
            return _described(UsageError("expected one line of JSON"))
        if not isinstance(call, dict) or (verb := self._verbs.get(str(call.get("verb")))) is None:
            return _described(UsageError(f"expected a verb: {', '.join(sorted(self._verbs))}"))
        try:
            return verb(call)
        except MeshdpError as error:
            return _described(error)


def ask(path: Path, verb: str, **fields: object) -> Call:
    """Asks the process that runs a mesh.

    Raises:
        Unreachable: nobody answers.
        MeshdpError: what it said.
    """
    call = json.dumps({"verb": verb, **fields}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(call)
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline(LINE_LIMIT_BYTES))
    except (OSError, ValueError) as error:
        hint = "run it as the user who started the mesh; see whether it is up: meshdp ps"
        raise Unreachable(f"the mesh does not answer on {path}: {error}", hint) from error
    if "error" in answer:
        kinds: dict[int, type[MeshdpError]] = {1: Refused, 2: UsageError, 3: Unreachable}
        raise kinds.get(answer.get("exit_code", 1), MeshdpError)(answer["error"], answer.get("hint"))
    return dict(answer)


def _described(error: MeshdpError) -> Call:
    return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _uid_of(writer: asyncio.StreamWriter) -> int:
    """Who called, as the kernel says."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if peer is not None:
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return int(_CREDENTIALS.unpack(credentials)[1])
    return -1


_CREDENTIALS = struct.Struct("3i")  # process, user, group
