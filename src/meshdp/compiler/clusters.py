"""Compiles the upstreams of the outbound side: clusters, their endpoints, and whether each is dialled with mTLS.

In:     the directory.
Out:    sections `cluster/<key>` and `endpoints/<key>`.
Source: spec/istio-semantics.md B.2 (SNI), B.4 (auto mTLS), C (expected identities).
"""

from __future__ import annotations

from meshdp.compiler.listeners import Modes, host_of, namespace_mode
from meshdp.compiler.select import Backend, Directory, spiffe_id
from meshdp.compiler.snapshot import Cluster, Endpoint, Endpoints
from meshdp.resources.mesh import duration_ms
from meshdp.resources.service import Service, ServicePort, protocol_of

DEFAULT_CONNECT_TIMEOUT_MS = 10_000


def upstreams(directory: Directory) -> dict[str, Cluster | Endpoints]:
    """A cluster and its endpoints for every TCP port of every service."""
    sections: dict[str, Cluster | Endpoints] = {}
    modes = _ModesByEndpoint(directory)
    for service in directory.services:
        for port in service.spec.ports:
            if port.protocol != "TCP" or service.spec.type == "ExternalName":
                continue
            key = cluster_key(host_of(service), port.port)
            backends = directory.backends(service, port)
            sections[f"cluster/{key}"] = _cluster(directory, service, port, backends)
            sections[f"endpoints/{key}"] = Endpoints(_endpoints(modes, service, backends))
    return sections


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
    )


def _h2_upgrade(directory: Directory, port: ServicePort) -> bool:
    """Whether sidecars speak HTTP/2 to each other whatever the application speaks; only where HTTP is declared.

    A DestinationRule will override the mesh's word here, on ports of every protocol (F.3, connectionPool.http).
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


def _endpoints(modes: _ModesByEndpoint, service: Service, backends: list[Backend]) -> list[Endpoint]:
    mixed = service.headless and not all(item.workload and item.workload.in_mesh for item in backends)
    auto = modes.auto_mtls(service) and not mixed
    return [_endpoint(modes, service, backend, auto) for backend in backends]


def _endpoint(modes: _ModesByEndpoint, service: Service, backend: Backend, auto: bool) -> Endpoint:
    workload = backend.workload
    in_mesh = workload is not None and workload.in_mesh
    return Endpoint(
        address=backend.address,
        port=backend.port,
        mtls=auto and in_mesh and modes.at(backend) != "DISABLE",
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

    def at(self, backend: Backend) -> str:
        workload = backend.workload
        if workload is None:
            return "DISABLE"
        key = (workload.namespace, workload.name)
        if key not in self._modes:
            self._modes[key] = Modes.of(self.directory.resources, workload.namespace, workload.labels)
        return self._modes[key].at(backend.port)
