"""Mesh-wide settings: Istio's MeshConfig.

In:     the `mesh` key of ConfigMap `istio` in the root namespace, or a document `kind: MeshConfig`,
        `apiVersion: meshdp.io/v1alpha1` whose `spec` has Istio's fields.
Out:    `MeshConfig`, read by the compiler.
Limits: the annotation `meshdp.io/validate-trust-domain: "false"` stands for istiod's PILOT_SKIP_VALIDATE_TRUST_DOMAIN.
Source: istio/api mesh/v1alpha1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from meshdp.documents import Path
from meshdp.resources.meta import Key, Resource
from meshdp.resources.shape import LooseShape, Problem, Shape, nearest

VALIDATE_TRUST_DOMAIN = "meshdp.io/validate-trust-domain"
DEFAULT_ROOT_NAMESPACE = "istio-system"
DEFAULT_TRUST_DOMAIN = "cluster.local"


class OutboundTrafficPolicy(Shape, frozen=True):
    """What happens to unknown destinations."""

    mode: Literal["ALLOW_ANY", "REGISTRY_ONLY"] = "ALLOW_ANY"


class PathNormalization(Shape, frozen=True):
    """How paths are normalised before policy and forwarding; DEFAULT is BASE."""

    normalization: Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"] = "DEFAULT"


class MeshTls(LooseShape, frozen=True):
    """TLS between workloads."""

    min_protocol_version: Literal["TLS_AUTO", "TLSV1_2", "TLSV1_3"] = "TLS_AUTO"


class MeshSpec(LooseShape, frozen=True):
    """The fields honoured now; `decode` names the others that Istio knows."""

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    trust_domain_aliases: list[str] = []
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    path_normalization: PathNormalization = PathNormalization()
    protocol_detection_timeout: str = "0s"
    connect_timeout: str = "10s"
    enable_auto_mtls: bool = True
    h2_upgrade_policy: Literal["DO_NOT_UPGRADE", "UPGRADE"] = "DO_NOT_UPGRADE"
    mesh_mtls: MeshTls = msgspec.field(name="meshMTLS", default=MeshTls())
    access_log_file: str = ""
    access_log_encoding: Literal["TEXT", "JSON"] = "TEXT"


@dataclass(frozen=True, slots=True)
class MeshConfig(Resource):
    """The settings of the whole mesh; one is in force."""

    KIND: ClassVar[str] = "MeshConfig"

    spec: MeshSpec

    @property
    def validate_trust_domain(self) -> bool:
        return self.meta.annotations.get(VALIDATE_TRUST_DOMAIN, "true") != "false"


@dataclass(frozen=True, slots=True)
class Unhonoured(Resource):
    """A kind Istio knows and this version does not honour; kept so that duplicates and listings see it."""

    kind: str
    spec: dict[str, Any]

    @property
    def key(self) -> Key:
        return Key(self.kind, self.meta.namespace, self.meta.name)


def problems_of(spec: MeshSpec | None, written: object, path: Path) -> Iterator[Problem]:
    """Names fields that Istio knows and we do not honour, fields nobody knows, and durations that are none."""
    if isinstance(written, dict):
        honoured = [field.encode_name for field in msgspec.structs.fields(MeshSpec)]
        for name in written:
            if name in _KNOWN_TO_ISTIO:
                yield Problem("MDP0402", (*path, name), f"MeshConfig field {name!r} is not honoured yet")
            elif name not in honoured:
                hint = nearest(name, [*honoured, *_KNOWN_TO_ISTIO])
                yield Problem("MDP0201", (*path, name), f"unknown field {name!r}: {hint}")
    if spec is None:
        return
    for name, domains in (("trustDomain", [spec.trust_domain]), ("trustDomainAliases", spec.trust_domain_aliases)):
        for domain in domains:
            if not _TRUST_DOMAIN.fullmatch(domain):
                yield Problem("MDP0204", (*path, name), f"{domain[:80]!r} is not a trust domain such as cluster.local")
    if duration_ms(spec.connect_timeout) == 0:
        yield Problem("MDP0204", (*path, "connectTimeout"), f"{spec.connect_timeout!r} leaves no time to connect")
    for name, text in (
        ("protocolDetectionTimeout", spec.protocol_detection_timeout),
        ("connectTimeout", spec.connect_timeout),
    ):
        if duration_ms(text) is None:
            yield Problem("MDP0204", (*path, name), f"{text!r} is not a duration such as 5s or 100ms")


def duration_ms(text: str) -> int | None:
    """Milliseconds of a Go-style duration ("1m30s", "100ms", "0s"); None when it is none."""
    if text == "0":
        return 0
    if not _DURATION.fullmatch(text):
        return None
    total = sum(float(number) * _UNITS_MS[unit] for number, unit in _DURATION_PART.findall(text))
    return round(total) if total <= DURATION_LIMIT_MS else None


DURATION_LIMIT_MS = 24 * 3600 * 1000
_TRUST_DOMAIN = re.compile(r"[A-Za-z0-9._@-]{1,255}")  # SPIFFE-ID section 2.1, and what Istio turns into it
_UNITS_MS = {"h": 3600_000.0, "m": 60_000.0, "s": 1000.0, "ms": 1.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s)")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s))+")
_KNOWN_TO_ISTIO = frozenset(
    """proxyListenPort proxyInboundListenPort proxyHttpPort tcpKeepalive ingressClass ingressService
    ingressControllerMode ingressSelector enableTracing accessLogFormat enableEnvoyAccessLogService
    disableEnvoyListenerLog defaultConfig inboundTrafficPolicy configSources caCertificates
    defaultServiceExportTo defaultVirtualServiceExportTo defaultDestinationRuleExportTo localityLbSetting
    dnsRefreshRate inboundClusterStatName outboundClusterStatName certificates serviceSettings
    enablePrometheusMerge verifyCertificateAtClient ca extensionProviders defaultProviders discoverySelectors
    defaultHttpRetryPolicy tlsDefaults serviceScopeConfigs""".split()
)
