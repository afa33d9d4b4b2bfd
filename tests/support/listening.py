"""What every application of a test does first: listen on ports of a side and give each connection a thread.

In:     a side of the pair, ports; a subclass says what becomes of a connection.
Out:    `Listening`: from its making until `stop`; `join` waits until its connections are over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from tests.support.pair import Side


class Listening:
    """Accepts from the moment it is made, so that a subclass prepares what its connections need before."""

    def __init__(self, side: Side, ports: Sequence[int], backlog: int = 128) -> None:
        self._running: list[threading.Thread] = []
        self._listeners = side.inside(
            lambda: [socket.create_server(("0.0.0.0", port), backlog=backlog) for port in ports]
        )
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening; what has been accepted goes on."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def join(self, timeout_s: float) -> None:
        """Wait until each connection is over, for so long at most."""
        for thread in self._running:
            thread.join(timeout_s)

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        """What a thread is to do with a connection; asked in the order in which they come."""
        raise NotImplementedError

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, peer = listener.accept()
            except OSError:
                return
            self._running.append(threading.Thread(target=self._admit(accepted, peer), daemon=True))
            self._running[-1].start()
