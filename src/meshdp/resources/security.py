"""Who may speak to whom: PeerAuthentication, AuthorizationPolicy, RequestAuthentication.

In:     raw documents, from `decode`; `validate` holds what istiod's webhook refuses.
Out:    resources read by `meshdp.compiler.listeners` and `.authz`.
Source: istio/api security/v1; spec/istio-semantics.md B.1 and D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec

from meshdp.resources.meta import Resource
from meshdp.resources.shape import Shape
from meshdp.resources.tokens import JwtRule

Action = Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"]
Mode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]

DRY_RUN = "istio.io/dry-run"


class Selector(Shape, frozen=True):
    """Selects workloads; empty selects all."""

    match_labels: dict[str, str] = {}


class PolicyTargetReference(Shape, frozen=True):
    """Attaches a policy to a gateway; sidecars ignore such policies."""

    group: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""


class MutualTls(Shape, frozen=True):
    """One mode."""

    mode: Mode = "UNSET"


class PeerAuthenticationSpec(Shape, frozen=True):
    """`port_level_mtls` keys are target ports, as text."""

    selector: Selector = Selector()
    mtls: MutualTls = MutualTls()
    port_level_mtls: dict[str, MutualTls] = msgspec.field(name="portLevelMtls", default_factory=dict)


class Source(Shape, frozen=True):
    """Conditions on the caller; all that are given must hold."""

    principals: list[str] = []
    not_principals: list[str] = []
    request_principals: list[str] = []
    not_request_principals: list[str] = []
    namespaces: list[str] = []
    not_namespaces: list[str] = []
    service_accounts: list[str] = []
    not_service_accounts: list[str] = []
    trust_domains: list[str] = []
    not_trust_domains: list[str] = []
    ip_blocks: list[str] = []
    not_ip_blocks: list[str] = []
    remote_ip_blocks: list[str] = []
    not_remote_ip_blocks: list[str] = []


class Operation(Shape, frozen=True):
    """Conditions on the request; all that are given must hold."""

    hosts: list[str] = []
    not_hosts: list[str] = []
    ports: list[str] = []
    not_ports: list[str] = []
    methods: list[str] = []
    not_methods: list[str] = []
    paths: list[str] = []
    not_paths: list[str] = []


class From(Shape, frozen=True):
    """One alternative source."""

    source: Source | None = None


class To(Shape, frozen=True):
    """One alternative operation."""

    operation: Operation | None = None


class When(Shape, frozen=True):
    """One condition by key."""

    key: str = ""
    values: list[str] = []
    not_values: list[str] = []


class Rule(Shape, frozen=True):
    """One of `from`, one of `to`, all of `when`."""

    from_: list[From] = msgspec.field(name="from", default_factory=list)
    to: list[To] = []
    when: list[When] = []


class Provider(Shape, frozen=True):
    """The external authorizer of a CUSTOM policy."""

    name: str = ""


class AuthorizationPolicySpec(Shape, frozen=True):
    """The policy as written."""

    selector: Selector = Selector()
    target_ref: PolicyTargetReference | None = None
    target_refs: list[PolicyTargetReference] = []
    rules: list[Rule] = []
    action: Action = "ALLOW"
    provider: Provider | None = None


class RequestAuthenticationSpec(Shape, frozen=True):
    """The rules as written; no rules ask for no token."""

    selector: Selector = Selector()
    target_ref: PolicyTargetReference | None = None
    target_refs: list[PolicyTargetReference] = []
    jwt_rules: list[JwtRule] = []


@dataclass(frozen=True, slots=True)
class PeerAuthentication(Resource):
    """Which TLS a workload demands. A broken one counts as STRICT for what it selects."""

    KIND: ClassVar[str] = "PeerAuthentication"

    spec: PeerAuthenticationSpec


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy(Resource):
    """Who may do what. A broken one denies everything for what it selects."""

    KIND: ClassVar[str] = "AuthorizationPolicy"

    spec: AuthorizationPolicySpec

    @property
    def dry_run(self) -> bool:
        return self.meta.annotations.get(DRY_RUN, "false") in TRUE_WORDS

    @property
    def targets_gateway(self) -> bool:
        return self.spec.target_ref is not None or bool(self.spec.target_refs)


@dataclass(frozen=True, slots=True)
class RequestAuthentication(Resource):
    """Which tokens are accepted. A broken one denies everything for what it selects."""

    KIND: ClassVar[str] = "RequestAuthentication"

    spec: RequestAuthenticationSpec

    @property
    def targets_gateway(self) -> bool:
        return self.spec.target_ref is not None or bool(self.spec.target_refs)


# Go's strconv.ParseBool
TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "FALSE", "false", "False"})
