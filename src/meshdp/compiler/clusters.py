"""Compiles the upstreams of the outbound side: clusters, their endpoints, and whether each is dialled with mTLS.

In:     the directory, and for a DestinationRule the client.
Out:    sections `cluster/<key>` and `endpoints/<key>`.
Source: spec/istio-semantics.md B.2 (SNI), B.4 (auto mTLS), B.5 (DestinationRule), C (expected identities).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshdp.compiler.destinations import DestinationRules, Tls
from meshdp.compiler.listeners import Modes, host_of, namespace_mode
from meshdp.compiler.select import Backend, Directory, Workload, spiffe_id
from meshdp.compiler.snapshot import Cluster, Endpoint, Endpoints, Origination, Section, encoded
from meshdp.resources.mesh import duration_ms
from meshdp.resources.service import Service, ServicePort, protocol_of

DEFAULT_CONNECT_TIMEOUT_MS = 10_000
# Istio's word for the authorities of the operating system.
SYSTEM_AUTHORITIES = "system"


class Upstreams:
    """The sections of all upstreams, made and encoded once for all clients that speak to them alike."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._modes = _ModesByEndpoint(directory)
        self._rules = DestinationRules(directory.resources)
        self._made: dict[tuple[str, Tls], dict[str, bytes]] = {}

    def shared(self) -> dict[str, Section]:
        """A cluster and its endpoints for every TCP port of every service: what holds without a DestinationRule."""
        sections: dict[str, Section] = {}
        for service, port in _ports(self._directory):
            sections |= self._sections(service, port, None)
        return sections

    def of(self, client: Workload) -> dict[str, bytes]:
        """What is different for one client, because a DestinationRule says something of TLS."""
        sections: dict[str, bytes] = {}
        for service, port in _ports(self._directory) if self._rules else ():
            host = host_of(service)
            tls = self._rules.tls(client, host, service.namespace, port.port)
            if tls is None:
                continue
            place = (cluster_key(host, port.port), tls)
            if place not in self._made:
                self._made[place] = encoded(self._sections(service, port, tls))
            sections |= self._made[place]
        return sections

    def _sections(self, service: Service, port: ServicePort, tls: Tls | None) -> dict[str, Section]:
        key = cluster_key(host_of(service), port.port)
        backends = self._directory.backends(service, port)
        cluster = _cluster(self._directory, service, port, backends)
        return {
            f"cluster/{key}": cluster if tls is None else _under_rule(cluster, tls),
            f"endpoints/{key}": Endpoints(_endpoints(self._modes, service, backends, tls)),
        }


def _ports(directory: Directory) -> Iterator[tuple[Service, ServicePort]]:
    for service in directory.services:
        for port in service.spec.ports:
            if port.protocol == "TCP" and service.spec.type != "ExternalName":
                yield service, port


def cluster_key(host: str, port: int, subset: str = "") -> str:
    """Istio's name of an outbound cluster."""
    return f"outbound|{port}|{subset}|{host}"


def _cluster(directory: Directory, service: Service, port: ServicePort, backends: list[Backend]) -> Cluster:
    host = host_of(service)
    timeout_ms = duration_ms(directory.mesh.connect_timeout)
    return Cluster(
        key=cluster_key(host, port.port),
        host=host,
        namespace=service.namespace,
        name=service.name,
        port=port.port,
        protocol=protocol_of(port),
        h2_upgrade=_h2_upgrade(directory, port),
        balance="LEAST_REQUEST",
        sni=f"outbound_.{port.port}_._.{host}",
        identities=_identities(directory, backends),
        connect_timeout_ms=DEFAULT_CONNECT_TIMEOUT_MS if timeout_ms is None else timeout_ms,
        origination=None,
    )


def _under_rule(cluster: Cluster, tls: Tls) -> Cluster:
    """B.5: the cluster with the names that a rule gives, or with TLS of the application's own matter."""
    settings = tls.settings
    match settings.mode:
        case "DISABLE":
            return cluster
        case "ISTIO_MUTUAL":
            names = sorted(settings.subject_alt_names) or cluster.identities
            return msgspec.structs.replace(cluster, sni=settings.sni or cluster.sni, identities=names)
    return msgspec.structs.replace(cluster, origination=_origination(cluster.host, tls))


def _origination(host: str, tls: Tls) -> Origination:
    """Deviation: without `sni` the name asked for is the service's host, not the request's (decision 0140)."""
    settings = tls.settings
    mutual = settings.mode == "MUTUAL"
    return Origination(
        refused=tls.refused,
        sni=settings.sni or host,
        names=sorted(settings.subject_alt_names),
        authorities="" if settings.ca_certificates == SYSTEM_AUTHORITIES else settings.ca_certificates,
        certificate=settings.client_certificate if mutual else "",
        key=settings.private_key if mutual else "",
        verify=not settings.insecure_skip_verify,
    )


def _h2_upgrade(directory: Directory, port: ServicePort) -> bool:
    """Whether sidecars speak HTTP/2 to each other whatever the application speaks; only where HTTP is declared.

    A DestinationRule's connectionPool.http will override the mesh's word here, on ports of every protocol (F.3).
    """
    return directory.mesh.h2_upgrade_policy == "UPGRADE" and protocol_of(port) in ("http", "http2")


def _identities(directory: Directory, backends: list[Backend]) -> list[str]:
    """Every identity an endpoint may prove, under the trust domain and each of its aliases."""
    found = {
        spiffe_id(domain, backend.workload.namespace, backend.workload.service_account)
        for backend in backends
        for domain in directory.trust_domains
        if backend.workload is not None and backend.workload.service_account
    }
    return sorted(found)


def _endpoints(modes: _ModesByEndpoint, service: Service, backends: list[Backend], tls: Tls | None) -> list[Endpoint]:
    """B.4: a rule decides alone; without one every endpoint says for itself what it speaks."""
    if tls is not None:
        mutual = tls.settings.mode == "ISTIO_MUTUAL"
        return [_endpoint(modes, service, backend, mutual) for backend in backends]
    mixed = service.headless and not all(item.workload and item.workload.in_mesh for item in backends)
    auto = modes.auto_mtls(service) and not mixed
    return [_endpoint(modes, service, backend, auto and modes.speaks_mtls(backend)) for backend in backends]


def _endpoint(modes: _ModesByEndpoint, service: Service, backend: Backend, mtls: bool) -> Endpoint:
    workload = backend.workload
    in_mesh = workload is not None and workload.in_mesh
    return Endpoint(
        address=backend.address,
        port=backend.port,
        mtls=mtls,
        tls_mode="istio" if in_mesh else "disabled",
        identity=workload.identity(modes.trust_domain) if workload else "",
        workload=workload.shown_name if workload else "",
        namespace=workload.namespace if workload else service.namespace,
        canonical_name=workload.canonical_name if workload else "",
        canonical_revision=workload.canonical_revision if workload else "",
        locality=backend.locality,
        network=workload.network if workload else "",
        weight=workload.weight if workload else 1,
        health="HEALTHY" if backend.healthy else "UNHEALTHY",
        capabilities=workload.capabilities if workload else [],
    )


class _ModesByEndpoint:
    """Server-side modes, computed once for each workload."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.trust_domain = directory.trust_domain
        self._modes: dict[tuple[str, str], Modes] = {}

    def auto_mtls(self, service: Service) -> bool:
        """B.4, cluster level: switched on, and the service's namespace as a whole does not disable it."""
        enabled = self.directory.mesh.enable_auto_mtls
        return enabled and namespace_mode(self.directory.resources, service.namespace) != "DISABLE"

    def speaks_mtls(self, backend: Backend) -> bool:
        """B.4, endpoint level: it has a sidecar, which does not disable mutual TLS on this port."""
        workload = backend.workload
        if workload is None or not workload.in_mesh:
            return False
        key = (workload.namespace, workload.name)
        if key not in self._modes:
            self._modes[key] = Modes.of(self.directory.resources, workload.namespace, workload.labels)
        return self._modes[key].at(backend.port) != "DISABLE"
