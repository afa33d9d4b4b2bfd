"""Connections whose beginnings are looked at: services without a declared protocol, and TLS flights cut anywhere.

Out:    `opened`: a mesh with applications that speak HTTP, bytes, or first, and impatient sidecars; `Client`, a TLS
        client whose first flight is sent in the pieces it is given.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.support import wire
from tests.support.mesh import Mesh, Opaque, opened_mesh
from tests.support.pair import AUTO_PORT, BASE, HTTP_PORT, SERVER_IP, service

T = TypeVar("T")
SHY_PORT, MYSQL_PORT = 9093, 3306  # undeclared and well known, with applications that speak first
TALKER_IP = "10.96.0.3"
IDLE_MS, HANDSHAKE_MS, DETECTION_MS = 3_000, 1_500, 600
GREETING = b"220 ready\r\n"
SERVICES = service("talker", TALKER_IP, shy=SHY_PORT, eager=MYSQL_PORT)


@dataclass
class Sniffing:
    """The mesh and the applications that speak first."""

    mesh: Mesh
    shy: Opaque
    eager: Opaque

    def connect(self, direction: str, port: int) -> socket.socket:
        """A connection by either way, also to the ports of the applications that speak first."""
        pair = self.mesh.pair
        if port not in (SHY_PORT, MYSQL_PORT):
            return wire.connect(pair, direction, port)
        if direction == "outbound":
            return pair.client.connect((TALKER_IP, port))
        return wire.connect_uncaptured(pair.client, (SERVER_IP, port))

    def configure(self, documents: str) -> None:
        """Documents beside the services, in force on both sides."""
        self.mesh.pair.configure(SERVICES + documents)

    @contextlib.contextmanager
    def detection_timeout(self, text: str) -> Iterator[None]:
        """MeshConfig's `protocolDetectionTimeout`, in force on both sides."""
        self._settings(BASE.replace("accessLogFile", f"protocolDetectionTimeout: {text}, accessLogFile"))
        try:
            yield
        finally:
            self._settings(BASE)

    def _settings(self, base: str) -> None:
        self.mesh.pair.replace("base.yaml", base, self.mesh.pair.client, self.mesh.pair.server)

    def received(self) -> tuple[int, int]:
        """How much the applications have got: bytes of the one, connections of the opaque ones."""
        opaque = (self.mesh.opaque, self.shy, self.eager)
        return self.mesh.origin.received(), sum(len(each.peers) for each in opaque)

    def arrived(self, data: bytes) -> bool:
        """Whether some connection brought the HTTP application exactly these bytes; waited for."""
        connections = self.mesh.origin.connections
        return self.mesh.origin.wait(lambda: any(bytes(one.received) == data for one in connections[-8:]))


@contextlib.contextmanager
def opened() -> Iterator[Sniffing]:
    """A mesh of its own; HTTP on the HTTP and the undeclared port, bytes on the TCP port."""
    limits = {"idle_ms": IDLE_MS, "handshake_ms": HANDSHAKE_MS}
    with opened_mesh((HTTP_PORT, AUTO_PORT), limits) as mesh:
        talkers = [Opaque(mesh.pair.server, port) for port in (SHY_PORT, MYSQL_PORT)]
        for talker in talkers:
            talker.greeting = GREETING
        made = Sniffing(mesh, *talkers)
        made.configure("")
        yield made
        for talker in talkers:
            talker.stop()
        for side in (mesh.pair.client, mesh.pair.server):
            assert "panicked" not in side.log.read_text()


class Client:
    """TLS over memory, so that the bytes on the wire may be cut, changed and looked at."""

    def __init__(self, folder: Path, alpn: list[str], *, certificate: bool = True, only_1_3: bool = False) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder / "root-cert.pem")
        context.check_hostname = False
        if only_1_3:
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        if certificate:
            context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
        if alpn:
            context.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="w.example.com")
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.hello = self.outgoing.read()

    def records(self, size: int) -> bytes:
        """The ClientHello in records of at most so many bytes (RFC 8446 5.1)."""
        body = self.hello[5:]
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        return b"".join(self.hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)

    def shake(self, connection: socket.socket) -> None:
        """The rest of the handshake, after the ClientHello has been sent."""
        self._drive(connection, self.tls.do_handshake)

    def ask(self, connection: socket.socket, data: bytes) -> bytes:
        """What comes back first for these bytes; nothing when the peer closes."""
        self.tls.write(data)
        try:
            return self._drive(connection, lambda: self.tls.read(65536))
        except (ssl.SSLError, OSError, EOFError):
            return b""

    def _drive(self, connection: socket.socket, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                connection.sendall(self.outgoing.read())
                came = connection.recv(65536)
                if not came:
                    raise EOFError from None
                self.incoming.write(came)
                continue
            connection.sendall(self.outgoing.read())
            return done
