"""The frames of the feed and of certificate sockets: a length, a kind of one letter, a body.

In:      a stream of bytes from a sidecar.
Out:     `Frame`s in their order, and the bytes of one; `listening` for sockets that their owner alone may open.
Limits:  FRAME_LIMIT_BYTES of kind and body.
Fails:   ProtocolError, after which the stream means nothing any more and is closed.
Source:  docs/feed.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

FRAME_LIMIT_BYTES = 64 * 1024 * 1024


class ProtocolError(ValueError):
    """What a peer sent is not the feed's protocol; a sentence about what was expected."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its kind (one letter) and its body."""

    kind: str
    body: bytes

    @classmethod
    def of(cls, kind: str, **fields: str) -> Frame:
        """A frame with a JSON object of text fields."""
        return cls(kind, json.dumps(fields).encode())

    def encode(self) -> bytes:
        """The frame as bytes: length of kind and body, kind, body."""
        return struct.pack(">I", len(self.body) + 1) + self.kind.encode() + self.body

    def fields(self) -> dict[str, str]:
        """The body's JSON object with its text fields."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"expected a JSON body in {self.kind}") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"expected a JSON object in {self.kind}")
        return {name: text for name, text in value.items() if isinstance(text, str)}


def listening(path: Path) -> socket.socket:
    """A socket that only our user may connect to, in the place of what a process that fell left there.

    Raises:
        OSError: it cannot be made there.
    """
    if path.is_socket():
        path.unlink()  # of a process that fell; anything else is somebody's, and binding says so
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


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
