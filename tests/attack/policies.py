"""Policies and requests for the tables of policy: what is put in force, and what one request came to.

Out:    `policy`, `peer_authentication`, `mesh_config`: documents; `Judged`: the verdict, and what reached the application.
Limits: the pair of the module; `outbound` calls come as `spiffe://cluster.local/ns/default/sa/client`, `inbound` ones in plaintext.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from tests.support import wire
from tests.support.mesh import Mesh
from tests.support.origin import Request
from tests.support.pair import HTTP_PORT

CLIENT = "cluster.local/ns/default/sa/client"


@dataclass
class Judged:
    """What became of one request."""

    status: int
    reached: list[Request] = field(default_factory=list)
    answer: wire.Answer | None = None


def judged(mesh: Mesh, data: bytes, direction: str = "inbound", port: int = HTTP_PORT) -> Judged:
    """Sends one request on a connection of its own; a request that is refused reaches nobody."""
    before = len(mesh.origin.requests)
    with wire.connect(mesh.pair, direction, port) as connection:
        wire.send_pieces(connection, [data])
        heard = wire.listen(connection, 1, 5)
    reached = mesh.origin.requests[before:]
    status = heard.statuses[0] if heard.statuses else 0
    assert (status == 200) == bool(reached), (data, heard.raw, reached)
    return Judged(status, reached, heard.answers[0] if heard.answers else None)


def head(target: str, *fields: str, host: str = "server", method: str = "GET") -> bytes:
    """A request with exactly these lines, one character a byte."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"X-Nonce: {wire.nonce().decode()}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def policy(action: str, rules: str, name: str = "p", selector: str = "{app: server}", more: str = "") -> str:
    """An AuthorizationPolicy; rules in flow style."""
    return (
        f"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default{more}}}\n"
        f"spec: {{selector: {{matchLabels: {selector}}}, action: {action}, rules: {rules}}}\n"
    )


def to(operation: str) -> str:
    """Rules of one operation."""
    return f"[{{to: [{{operation: {{{operation}}}}}]}}]"


def source(text: str) -> str:
    """Rules of one source."""
    return f"[{{from: [{{source: {{{text}}}}}]}}]"


def when(key: str, values: str) -> str:
    """Rules of one condition."""
    return f"[{{when: [{{key: '{key}', {values}}}]}}]"


def peer_authentication(mode: str) -> str:
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: default}\n"
        f"spec: {{mtls: {{mode: {mode}}}}}\n"
    )


def in_force(mesh: Mesh, *documents: str) -> None:
    """Puts documents in force on the server's side, with one that changes its version and nothing else."""
    marker = policy("AUDIT", to("ports: ['1']"), name=f"marker-{next(_MARKERS)}")
    mesh.pair.configure("".join(documents) + marker)


_MARKERS = itertools.count()
