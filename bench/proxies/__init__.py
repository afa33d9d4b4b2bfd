"""Configurations of other proxies, one module each: a `Role` and a folder with certificates become the text of a file.

Each is set as its users would for speed: one worker, keep-alive on both sides, no access log, TLS 1.3 with AES-128-GCM
and P-256, no resumption, circuit breakers out of the way.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A place in a scenario: where to listen and send, on which side TLS is, as whom to dial, bytes or requests.

    tls: "client", "server" or "". source: an address to dial from, or "". policies: two rules as meshdp has them.
    """

    port: int
    upstream: str
    tls: str = ""
    source: str = ""
    tcp: bool = False

    @property
    def policies(self) -> bool:
        """Requests to the application are checked."""
        return bool(self.source) and not self.tcp
