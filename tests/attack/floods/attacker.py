"""The attacker: one process that sends a script over and over on many connections, with a bounded share of a processor.

In:     a JSON line: address, port, attack, share, seconds.
Out:    a JSON line: processor time, connections made, bytes sent, connections that the other side ended.
Limits: one thread, sockets that never block; a connection whose script is sent or that has ended is made anew.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time

from tests.attack.floods.attacks import ATTACKS, Attack

TURN_S = 0.002
# How long a connection that has said all is left to the other side.
LINGER_S, KEPT_S = 0.1, 5.0


class Attacker:
    """Runs once."""

    def __init__(self, address: tuple[str, int], attack: Attack) -> None:
        self.address = address
        self.attack = attack
        self.selector = selectors.DefaultSelector()
        self.sent: dict[socket.socket, int] = {}
        self.waiting: dict[socket.socket, float] = {}
        self.made = self.bytes = self.cut = 0

    def run(self, seconds: float, share: float) -> dict[str, float]:
        """Sends until the time is over."""
        started, spent = time.monotonic(), time.process_time()
        while (now := time.monotonic()) < started + seconds:
            used = time.process_time() - spent
            if used > share * (now - started) + TURN_S:
                time.sleep(used / share - (now - started))
                continue
            self.give_up(now)
            if len(self.sent) < self.attack.connections:
                self.connect()
            self.turn()
        used = time.process_time() - spent
        return {"cpu_s": used, "connections": self.made, "bytes": self.bytes, "cut": self.cut}

    def connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect(self.address)
        self.made += 1
        self.sent[connection] = 0
        events = selectors.EVENT_WRITE | (selectors.EVENT_READ if self.attack.reads else 0)
        self.selector.register(connection, events)

    def turn(self) -> None:
        """What can be sent is sent, once on each connection."""
        for key, events in self.selector.select(TURN_S):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                if events & selectors.EVENT_READ and not connection.recv(1 << 16):
                    raise ConnectionResetError
                if events & selectors.EVENT_WRITE:
                    self.send(connection)
            except BlockingIOError:
                continue
            except OSError:
                self.cut += 1
                self.close(connection)

    def send(self, connection: socket.socket) -> None:
        script, done = self.attack.script, self.sent[connection]
        if script:
            count = connection.send(script[done : done + 65_536])
            self.bytes += count
            self.sent[connection] = done = done + count
        if done == len(script):
            self.has_said_all(connection)

    def has_said_all(self, connection: socket.socket) -> None:
        """The other side is let read it, before there is another connection."""
        self.waiting[connection] = time.monotonic() + (KEPT_S if self.attack.keeps else LINGER_S)
        if not self.attack.keeps:
            connection.shutdown(socket.SHUT_WR)
        if self.attack.reads:
            self.selector.modify(connection, selectors.EVENT_READ)
        else:
            self.selector.unregister(connection)

    def give_up(self, now: float) -> None:
        for connection in [each for each, until in self.waiting.items() if until < now]:
            self.close(connection)

    def close(self, connection: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        del self.sent[connection]
        self.waiting.pop(connection, None)
        connection.close()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    found = Attacker((asked["address"], asked["port"]), ATTACKS[asked["attack"]])
    print(json.dumps(found.run(asked["seconds"], asked["share"])))
