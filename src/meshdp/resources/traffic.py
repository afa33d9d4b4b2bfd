"""How a client speaks to a service: DestinationRule, of which TLS is honoured so far.

In:     raw documents, from `decode`.
Out:    `DestinationRule`, chosen for a client by `meshdp.compiler.destinations`.
Fails:  a rule that asks for TLS and cannot be read or honoured refuses connections to its host.
Source: istio/api networking/v1; spec/istio-semantics.md B.5; istiod's validateTLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from meshdp.documents import Path
from meshdp.resources.meta import Resource
from meshdp.resources.security import Selector
from meshdp.resources.shape import Problem, Shape

REFUSED = "MDP0380"


class ClientTls(Shape, frozen=True):
    """TLS towards a host; certificates are files that the client's sidecar reads."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: list[str] = []
    sni: str = ""
    insecure_skip_verify: bool = False
    ca_crl: str = ""

    @property
    def unhonoured(self) -> str:
        """The field that cannot be honoured, or nothing: TLS as it is asked for must not become less."""
        if self.mode not in ("SIMPLE", "MUTUAL"):
            return ""
        return "credentialName" if self.credential_name else "caCrl" if self.ca_crl else ""


class PortSelector(Shape, frozen=True):
    """A service port."""

    number: int = 0


class PortSettings(Shape, frozen=True):
    """What holds for one service port in place of the whole policy; without `tls` mutual TLS is automatic there."""

    port: PortSelector = PortSelector()
    tls: ClientTls | None = None

    load_balancer: Any = None
    connection_pool: Any = None
    outlier_detection: Any = None


class TrafficPolicy(Shape, frozen=True):
    """Istio's fields; those of the second block are not honoured yet."""

    tls: ClientTls | None = None
    port_level_settings: list[PortSettings] = []

    load_balancer: Any = None
    connection_pool: Any = None
    outlier_detection: Any = None
    tunnel: Any = None
    proxy_protocol: Any = None
    retry_budget: Any = None

    def tls_at(self, port: int) -> ClientTls | None:
        """The settings for a service port; None leaves mutual TLS automatic."""
        for settings in self.port_level_settings:
            if settings.port.number == port:
                return settings.tls
        return self.tls


class DestinationRuleSpec(Shape, frozen=True):
    """The rule as written."""

    host: str = ""
    traffic_policy: TrafficPolicy | None = None
    export_to: list[str] = []
    workload_selector: Selector | None = None
    subsets: list[dict[str, Any]] = []


@dataclass(frozen=True, slots=True)
class DestinationRule(Resource):
    """How clients speak to a host. A broken one that asks for TLS refuses connections to it."""

    KIND: ClassVar[str] = "DestinationRule"

    spec: DestinationRuleSpec

    @property
    def host(self) -> str:
        """The host in full: a short name is one of the rule's own namespace."""
        written = self.spec.host.lower()
        return written if "." in written or "*" in written else f"{written}.{self.namespace}.svc.cluster.local"

    @property
    def asks_for_tls(self) -> bool:
        """Whether it says anything of TLS."""
        policy = self.spec.traffic_policy
        return policy is not None and (
            policy.tls is not None or any(settings.tls for settings in policy.port_level_settings)
        )


def salvaged(spec: Mapping[str, Any]) -> DestinationRuleSpec | None:
    """What a rule that does not decode still binds: its host, where it asks for TLS anywhere."""
    host, policy = spec.get("host"), spec.get("trafficPolicy")
    if not isinstance(host, str) or not host or not _names_tls(policy):
        return None
    return DestinationRuleSpec(host=host, traffic_policy=TrafficPolicy(tls=ClientTls(mode="SIMPLE")))


def _names_tls(policy: object) -> bool:
    if isinstance(policy, dict):
        return "tls" in policy or any(_names_tls(inner) for inner in policy.values())
    return isinstance(policy, list) and any(_names_tls(inner) for inner in policy)


def problems_of(spec: DestinationRuleSpec) -> Iterator[Problem]:
    """What istiod refuses of TLS, what fails closed, and what is not honoured yet."""
    if not spec.host:
        yield Problem(REFUSED, ("spec", "host"), "a rule needs a host")
    yield from _subsets(spec.subsets)
    policy = spec.traffic_policy
    if policy is None:
        return
    path: Path = ("spec", "trafficPolicy")
    yield from _unhonoured(policy, path, ("tls", "portLevelSettings"))
    yield from _tls(policy.tls, (*path, "tls"))
    for index, settings in enumerate(policy.port_level_settings):
        at: Path = (*path, "portLevelSettings", index)
        if not 1 <= settings.port.number <= 65535:
            yield Problem(REFUSED, (*at, "port"), f"{settings.port.number} is not a port (1 to 65535)")
        yield from _unhonoured(settings, at, ("tls", "port"))
        yield from _tls(settings.tls, (*at, "tls"))


def _subsets(subsets: list[dict[str, Any]]) -> Iterator[Problem]:
    if subsets:
        yield Problem("MDP0402", ("spec", "subsets"), "subsets are not honoured yet")
    known: set[object] = set()
    for index, subset in enumerate(subsets):
        name = subset.get("name")
        if not isinstance(name, str) or not name:
            yield Problem(REFUSED, ("spec", "subsets", index), "a subset needs a name")
        elif name in known:
            yield Problem(REFUSED, ("spec", "subsets", index, "name"), f"{name[:80]!r} is the name of another subset")
        else:
            known.add(name)


def _unhonoured(struct: msgspec.Struct, path: Path, honoured: tuple[str, ...]) -> Iterator[Problem]:
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in honoured and getattr(struct, field.name) is not None:
            yield Problem("MDP0402", (*path, field.encode_name), f"{field.encode_name} is not honoured yet")


def _tls(tls: ClientTls | None, path: Path) -> Iterator[Problem]:
    if tls is None or tls.mode not in ("SIMPLE", "MUTUAL"):
        return
    files = {"clientCertificate": tls.client_certificate, "privateKey": tls.private_key}
    given = [name for name, file in (*files.items(), ("caCertificates", tls.ca_certificates)) if file]
    if tls.insecure_skip_verify:
        if tls.ca_certificates or tls.subject_alt_names or (tls.mode == "SIMPLE" and tls.credential_name):
            yield Problem(
                REFUSED, path, "insecureSkipVerify leaves nothing for caCertificates or subjectAltNames to do"
            )
        yield Problem("MDP0382", (*path, "insecureSkipVerify"), "whoever answers is taken for the server")
    if tls.credential_name and (given or tls.ca_crl):
        yield Problem(REFUSED, (*path, "credentialName"), "credentialName cannot stand beside files")
    elif tls.mode == "MUTUAL" and not tls.credential_name:
        for name, file in files.items():
            if not file:
                yield Problem(REFUSED, path, f"MUTUAL needs {name}")
    if tls.unhonoured:
        yield Problem("MDP0381", (*path, tls.unhonoured), f"{tls.unhonoured} is not honoured: name files instead")
