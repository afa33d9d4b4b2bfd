"""Turns sections into canonical bytes, digests and transactions.

In:     section structs, made by the other modules of this package.
Out:    `Snapshot`, whose transactions `meshdp.supervise` and the feed hand to the engine.
Source: docs/snapshot.md; read by native/model/src/snapshot.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from meshdp.compiler.digest import sha256

SCHEMA = 2

Section = msgspec.Struct


class Mesh(msgspec.Struct, frozen=True):
    """Section `mesh`."""

    trust_domain: str
    trust_domain_aliases: list[str]
    validate_trust_domain: bool
    outbound_policy: Literal["ALLOW_ANY", "REGISTRY_ONLY"]
    path_normalization: Literal["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]
    protocol_detection_timeout_ms: int
    min_tls_version: Literal["1.2", "1.3"]


class Self(msgspec.Struct, frozen=True):
    """Section `workload`: who the receiver is."""

    name: str
    namespace: str
    service_account: str
    identity: str
    labels: dict[str, str]
    canonical_name: str
    canonical_revision: str
    addresses: list[str]
    cluster_id: str


class Peer(msgspec.Struct, frozen=True):
    """One caller the inbound side can name."""

    address: str
    identity: str
    workload: str
    namespace: str
    canonical_name: str
    canonical_revision: str


class Peers(msgspec.Struct, frozen=True):
    """Section `peers/<block>`."""

    peers: list[Peer]


class Telemetry(msgspec.Struct, frozen=True):
    """Section `telemetry`."""

    access_log: Literal["off", "text", "json"]


class Chain(msgspec.Struct, frozen=True):
    """One filter chain; the first that matches is taken."""

    name: str
    transport: Literal["tls", "raw", "any"]
    application: list[str]
    terminate: bool
    protocol: Literal["http", "tcp"]


class Inbound(msgspec.Struct, frozen=True):
    """Section `inbound/<port>` or `inbound/passthrough`."""

    port: int
    service: str
    service_name: str
    service_namespace: str
    mode: Literal["STRICT", "PERMISSIVE", "DISABLE"]
    protocol: Literal["http", "http2", "tcp", "auto"]
    inspect_tls: bool
    inspect_http: bool
    chains: list[Chain]


class Value(msgspec.Struct, frozen=True):
    """One value of a predicate."""

    kind: Literal["exact", "prefix", "suffix", "present", "regex", "cidr", "template"]
    value: str


class Predicate(msgspec.Struct, frozen=True):
    """One condition of a rule; any of its values matches."""

    field: str
    name: str
    negate: bool
    values: list[Value]


class Rule(msgspec.Struct, frozen=True):
    """One of `from_`, one of `to`, all of `when`."""

    from_: list[list[Predicate]] = msgspec.field(name="from")
    to: list[list[Predicate]]
    when: list[Predicate]


class Policy(msgspec.Struct, frozen=True):
    """One policy that selects this workload."""

    namespace: str
    name: str
    action: Literal["ALLOW", "DENY", "AUDIT"]
    dry_run: bool
    where: str
    rules: list[Rule]


class Authz(msgspec.Struct, frozen=True):
    """Section `authz`."""

    policies: list[Policy]


class TokenHeader(msgspec.Struct, frozen=True):
    """A header that carries a token behind a prefix."""

    name: str
    prefix: str


class ClaimHeader(msgspec.Struct, frozen=True):
    """A header that is made of a claim."""

    header: str
    claim: list[str]


class TokenRule(msgspec.Struct, frozen=True):
    """Which tokens of one issuer are accepted."""

    namespace: str
    name: str
    where: str
    issuer: str
    audiences: list[str]
    jwks: str
    jwks_uri: str
    discovery: str
    timeout_ms: int
    headers: list[TokenHeader]
    params: list[str]
    cookies: list[str]
    forward: bool
    payload_header: str
    claim_headers: list[ClaimHeader]
    space_delimited: list[str]


class Authn(msgspec.Struct, frozen=True):
    """Section `authn`."""

    rules: list[TokenRule]


class Weighted(msgspec.Struct, frozen=True):
    """A cluster and its share."""

    key: str
    weight: int


class Route(msgspec.Struct, frozen=True):
    """One routing rule."""

    name: str
    match: dict[str, str]
    clusters: list[Weighted]


class ServiceRoutes(msgspec.Struct, frozen=True):
    """Section `service/<namespace>/<host>/<port>`."""

    host: str
    namespace: str
    name: str
    port: int
    protocol: Literal["http", "http2", "tcp", "auto"]
    addresses: list[str]
    domains: list[str]
    rules: list[Route]


class Origination(msgspec.Struct, frozen=True):
    """TLS begun for the application; files are named, never carried."""

    refused: str
    sni: str
    names: list[str]
    authorities: str
    certificate: str
    key: str
    verify: bool


class Cluster(msgspec.Struct, frozen=True):
    """Section `cluster/<key>`."""

    key: str
    host: str
    namespace: str
    name: str
    port: int
    protocol: Literal["http", "http2", "tcp", "auto"]
    h2_upgrade: bool
    balance: Literal["LEAST_REQUEST"]
    sni: str
    identities: list[str]
    connect_timeout_ms: int
    origination: Origination | None


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of a cluster."""

    address: str
    port: int
    mtls: bool
    tls_mode: Literal["istio", "disabled"]
    identity: str
    workload: str
    namespace: str
    canonical_name: str
    canonical_revision: str
    locality: str
    network: str
    weight: int
    health: Literal["HEALTHY", "UNHEALTHY"]
    capabilities: list[str]


class Endpoints(msgspec.Struct, frozen=True):
    """Section `endpoints/<key>`."""

    endpoints: list[Endpoint]


class Snapshot:
    """One workload's compiled configuration: canonical bytes by section name, and their digest."""

    __slots__ = ("digest", "sections")

    def __init__(self, sections: Mapping[str, bytes]) -> None:
        self.sections: Mapping[str, bytes] = MappingProxyType(dict(sorted(sections.items())))
        self.digest = _digest(self.sections)

    def transaction(self, base: Snapshot | None) -> bytes:
        """What turns `base` into this snapshot; None sends the whole."""
        before: Mapping[str, bytes] = {} if base is None else base.sections
        put = {name: msgspec.Raw(body) for name, body in self.sections.items() if before.get(name) != body}
        change = {
            "schema": SCHEMA,
            "base": "" if base is None else base.digest,
            "put": put,
            "drop": sorted(before.keys() - self.sections.keys()),
            "digest": self.digest,
        }
        return _ENCODER.encode(change)

    def section(self, name: str) -> object:
        """One section as plain data, for showing and testing."""
        return msgspec.json.decode(self.sections[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def encoded(sections: Mapping[str, Section]) -> dict[str, bytes]:
    """Encodes structs canonically: sorted keys, no white space, every field."""
    return {name: _ENCODER.encode(section) for name, section in sections.items()}


def _digest(sections: Mapping[str, bytes]) -> str:
    whole = sha256()
    for name, body in sections.items():
        whole.update(f"{name}\0{sha256(body).hexdigest()}\n".encode())
    return whole.hexdigest()


_ENCODER = msgspec.json.Encoder(order="sorted")
