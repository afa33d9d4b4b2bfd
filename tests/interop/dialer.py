"""A transparent TLS client: takes plaintext on a port and carries its bytes over mutual TLS, for a judge that has no mesh certificate.

In:     a side to dial from, its credentials, an address, the SNI and the ALPN list to offer.
Out:    `Dialer.port`, on the side's loopback; `selected` is what the last handshake chose.
Limits: a thread with an event loop of its own, as the sidecar's user, so that its connections are not captured; one pair of
        copies for each connection, at most READ_SIZE bytes in flight each way; an end or a reset is passed on as an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path

from tests.support.pair import Side
from tests.support.wire import as_sidecar

READ_SIZE = 65_536
STARTING_S, CLOSING_S = 10.0, 1.0


class Dialer:
    """Runs until `stop`."""

    def __init__(self, side: Side, credentials: Path, address: tuple[str, int], sni: str, alpn: list[str]) -> None:
        self.port = 0
        self.selected: str | None = None
        self._address = address
        self._sni = sni
        self._context = ssl.create_default_context(cafile=str(credentials / "root-cert.pem"))
        self._context.check_hostname = False  # a mesh certificate names an identity, not a host
        self._context.load_cert_chain(credentials / "cert-chain.pem", credentials / "key.pem")
        self._context.set_alpn_protocols(alpn)
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=side.inside, args=(as_sidecar(self._run),), daemon=True)
        self._thread.start()
        assert self._listening.wait(STARTING_S), "the dialer does not listen"

    def stop(self) -> None:
        """End every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # what was aborted closes its socket in the next turn
        self._loop.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(
                *self._address, ssl=self._context, server_hostname=self._sni
            )
            writers.append(far_writer)
            self.selected = far_writer.get_extra_info("ssl_object").selected_alpn_protocol()
            await _first_to_end(_copy(reader, far_writer), _copy(far_reader, writer))
            await _closed(writer)
        except OSError:
            pass
        finally:
            for each in writers:
                each.transport.abort()


async def _first_to_end(*copies: Coroutine[None, None, None]) -> None:
    running = [asyncio.ensure_future(copy) for copy in copies]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in running:
            copy.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """What was written is sent before the end."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), CLOSING_S)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(READ_SIZE):
            writer.write(chunk)
            await writer.drain()
