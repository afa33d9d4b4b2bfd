"""A WebSocket application that sends every message back, strict in everything else: the peer that the Autobahn cases expect.

In:     the port to listen on, as the only argument.
Limits: messages of MESSAGE_SIZE bytes; no compression; the protocol itself is `wsproto`'s; ended by SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Message, Ping, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

MESSAGE_SIZE = 32 << 20
READ_SIZE = 65_536


class Conversation:
    """One connection: bytes in, bytes out."""

    def __init__(self) -> None:
        self.ended = False
        self._socket = WSConnection(ConnectionType.SERVER)
        self._text = ""
        self._bytes = b""

    def hear(self, chunk: bytes) -> bytes:
        """What to answer to these bytes."""
        answer = b""
        try:
            self._socket.receive_data(chunk or None)
            for event in self._socket.events():
                answer += self._answer(event)
        except RemoteProtocolError as fault:
            self.ended = True
            with contextlib.suppress(LocalProtocolError):  # no handshake, or closed already
                answer += self._socket.send(fault.event_hint or CloseConnection(code=1002))
        return answer

    def _answer(self, event: Event) -> bytes:
        if isinstance(event, Request):
            return self._socket.send(AcceptConnection())
        if isinstance(event, Ping):
            return self._socket.send(event.response())
        if isinstance(event, CloseConnection):
            self.ended = True
            # Where both have closed already there is nothing to send.
            with contextlib.suppress(LocalProtocolError):
                return self._socket.send(event.response())
            return b""
        return self._echo(event) if isinstance(event, TextMessage | BytesMessage) else b""

    def _echo(self, event: TextMessage | BytesMessage) -> bytes:
        if isinstance(event, TextMessage):
            self._text += event.data
        else:
            self._bytes += event.data
        if len(self._text) + len(self._bytes) > MESSAGE_SIZE:
            self.ended = True
            return self._socket.send(CloseConnection(code=1009))
        if not event.message_finished:
            return b""
        whole: Message = (
            TextMessage(data=self._text) if isinstance(event, TextMessage) else BytesMessage(data=self._bytes)
        )
        self._text, self._bytes = "", b""
        return self._socket.send(whole)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    conversation = Conversation()
    with contextlib.suppress(OSError), contextlib.closing(writer):
        while not conversation.ended:
            chunk = await reader.read(READ_SIZE)
            writer.write(conversation.hear(chunk))
            await writer.drain()
            if not chunk:
                return


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
