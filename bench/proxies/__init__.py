"""Configurations of other proxies, one module each: a `Role` and a folder with certificates become the text of a file.

Each is set as its users would for speed: one worker, keep-alive on both sides, no access log, TLS 1.3 with AES-128-GCM
and P-256, no resumption, circuit breakers out of the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Role:
    """A place in a scenario: where to listen and send, on which side TLS is, as whom to dial, bytes or requests.

    upstream: `IP:PORT`, several joined by commas. tls: "client", "server" or "". source: where to dial from, or "".
    h2_taken, h2_dialled: HTTP/2 on that side. grpc: the requests are gRPC's. policies: two rules as meshdp has them.
    """

    port: int
    upstream: str
    tls: str = ""
    source: str = ""
    tcp: bool = False
    h2_taken: bool = False
    h2_dialled: bool = False
    grpc: bool = False
    workers: int = 1

    @property
    def policies(self) -> bool:
        """Requests to the application are checked."""
        return bool(self.source) and not self.tcp

    @property
    def upstreams(self) -> list[str]:
        """Every address requests may go to."""
        return self.upstream.split(",")

    def with_workers(self, count: int) -> Role:
        """The same with more workers."""
        return replace(self, workers=count)
