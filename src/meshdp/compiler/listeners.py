"""Compiles the inbound side: which mode holds on which port, and the filter chains that follow from it.

In:     the directory and the workload.
Out:    sections `inbound/<port>` and `inbound/passthrough`; `Modes`, also read by `clusters`.
Source: spec/istio-semantics.md B.1 (modes) and B.3 (chains).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from meshdp.compiler.select import Directory, Workload
from meshdp.compiler.snapshot import Chain, Inbound
from meshdp.resources import ResourceSet
from meshdp.resources.meta import matches
from meshdp.resources.security import PeerAuthentication
from meshdp.resources.service import Protocol, Service, protocol_of

Mode = Literal["STRICT", "PERMISSIVE", "DISABLE"]


def inbound(directory: Directory, workload: Workload) -> dict[str, Inbound]:
    """Every inbound section of one workload, by section name."""
    modes = Modes.of(directory.resources, workload.namespace, workload.labels)
    sections: dict[str, Inbound] = {}
    for target in directory.targets_of(workload):
        number, protocol = target.number, protocol_of(target.port)
        if target.port.protocol == "TCP":
            sections.setdefault(f"inbound/{number}", _section(number, modes.at(number), protocol, target.service))
    for number in modes.ports:
        sections.setdefault(f"inbound/{number}", _section(number, modes.at(number), "auto", None))
    sections["inbound/passthrough"] = _section(0, modes.workload, "auto", None)
    return sections


class Modes:
    """The effective mTLS modes of one workload (B.1). ports: modes of ports that have their own."""

    def __init__(self, workload: Mode, ports: Mapping[int, Mode]) -> None:
        self.workload: Mode = workload
        self.ports = ports

    @classmethod
    def of(cls, resources: ResourceSet, namespace: str, labels: Mapping[str, str]) -> Modes:
        """Overlays mesh, namespace and workload policy; the oldest of each scope counts alone."""
        scopes = _scopes(resources, namespace, labels)
        mode: Mode = "PERMISSIVE"
        for policy in scopes:
            mode = _overlay(mode, policy)
        if not scopes or not _is_workload_policy(scopes[-1], resources.root_namespace) or scopes[-1].broken:
            return cls(mode, {})
        ports: dict[int, Mode] = {}
        for port, setting in sorted(scopes[-1].spec.port_level_mtls.items()):
            ports[int(port)] = mode if setting.mode == "UNSET" else setting.mode
        return cls(mode, ports)

    def at(self, port: int) -> Mode:
        """The mode of one target port."""
        return self.ports.get(port, self.workload)


def namespace_mode(resources: ResourceSet, namespace: str) -> Mode:
    """The mode of a namespace as a whole: what a client knows of a service before it knows the endpoint."""
    mode: Mode = "PERMISSIVE"
    for policy in _scopes(resources, namespace, {}):
        if not policy.spec.selector.match_labels:
            mode = _overlay(mode, policy)
    return mode


def in_force(resources: ResourceSet, namespace: str, labels: Mapping[str, str]) -> list[PeerAuthentication]:
    """The policies behind `Modes`, from the mesh's to the workload's: for those who explain a mode."""
    return _scopes(resources, namespace, labels)


def _scopes(resources: ResourceSet, namespace: str, labels: Mapping[str, str]) -> list[PeerAuthentication]:
    """The policies in force: at most one each of mesh, namespace and workload scope, in this order."""
    root = resources.root_namespace
    chosen: dict[int, PeerAuthentication] = {}
    for policy in resources.oldest_first(PeerAuthentication):
        selector = policy.spec.selector.match_labels
        if policy.namespace == root and not selector:
            chosen.setdefault(0, policy)
        elif policy.namespace == namespace and policy.namespace != root and matches(selector, labels):
            chosen.setdefault(2 if selector else 1, policy)
    return [chosen[scope] for scope in sorted(chosen)]


def _overlay(mode: Mode, policy: PeerAuthentication) -> Mode:
    if policy.broken:  # unreadable: STRICT, attack-cases 2.19
        return "STRICT"
    return mode if policy.spec.mtls.mode == "UNSET" else policy.spec.mtls.mode


def _is_workload_policy(policy: PeerAuthentication, root: str) -> bool:
    return policy.namespace != root and bool(policy.spec.selector.match_labels)


def _section(port: int, mode: Mode, protocol: Protocol, service: Service | None) -> Inbound:
    return Inbound(
        port=port,
        service=host_of(service) if service else "",
        service_name=service.name if service else "",
        service_namespace=service.namespace if service else "",
        mode=mode,
        protocol=protocol,
        inspect_tls=mode != "DISABLE",
        inspect_http=protocol == "auto" and mode != "STRICT",
        chains=list(_CHAINS[mode, "http" if protocol == "http2" else protocol]),
    )


def host_of(service: Service) -> str:
    """The full host name of a Kubernetes service."""
    return f"{service.name}.{service.namespace}.svc.cluster.local"


def _chain(name: str, transport: Literal["tls", "raw", "any"], application: Iterable[str] = ()) -> Chain:
    return Chain(name, transport, list(application), name.startswith("mtls"), "http" if "http" in name else "tcp")


# ALPN of mesh clients (B.2): the chain is chosen by what the client offers, the handshake by what the chain speaks.
_MESH_HTTP = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
_MESH_TCP = ("istio-peer-exchange", "istio")
_MESH = _MESH_HTTP + _MESH_TCP
# Plaintext that counts as HTTP on ports without a protocol.
_PLAIN_HTTP = ("http/1.1", "h2c")

# Table B.3: rows are modes, columns declared families; specific chains stand before general ones.
_CHAINS: dict[tuple[Mode, Literal["http", "tcp", "auto"]], tuple[Chain, ...]] = {
    ("STRICT", "http"): (_chain("mtls-http", "tls"),),
    ("STRICT", "tcp"): (_chain("mtls-tcp", "tls"),),
    ("STRICT", "auto"): (_chain("mtls-http", "tls", _MESH_HTTP), _chain("mtls-tcp", "tls")),
    ("PERMISSIVE", "http"): (_chain("mtls-http", "tls", _MESH), _chain("plain-http", "raw")),
    ("PERMISSIVE", "tcp"): (
        _chain("mtls-tcp", "tls", _MESH),
        _chain("opaque-tls", "tls"),
        _chain("plain-tcp", "raw"),
    ),
    ("PERMISSIVE", "auto"): (
        _chain("mtls-http", "tls", _MESH_HTTP),
        _chain("mtls-tcp", "tls", _MESH_TCP),
        _chain("opaque-tls", "tls"),
        _chain("plain-http", "raw", _PLAIN_HTTP),
        _chain("plain-tcp", "raw"),
    ),
    ("DISABLE", "http"): (_chain("plain-http", "any"),),
    ("DISABLE", "tcp"): (_chain("plain-tcp", "any"),),
    ("DISABLE", "auto"): (_chain("plain-http", "any", _PLAIN_HTTP), _chain("plain-tcp", "any")),
}
