"""Compiles the outbound names: what this client may call, by host, address and port.

In:     the directory and the client workload.
Out:    sections `service/<namespace>/<host>/<port>`.
Source: docs/snapshot.md; spec/istio-semantics.md F.1.
"""

from __future__ import annotations

from meshdp.compiler.clusters import cluster_key
from meshdp.compiler.listeners import host_of
from meshdp.compiler.select import Directory, Workload
from meshdp.compiler.snapshot import Route, ServiceRoutes, Weighted
from meshdp.resources.service import Service, protocol_of

WHOLE_WEIGHT = 100


def services(directory: Directory, client: Workload) -> dict[str, ServiceRoutes]:
    """Every service port a client can name; each has one trivial rule until routing comes."""
    sections: dict[str, ServiceRoutes] = {}
    for service in directory.services:
        host = host_of(service)
        for port in service.spec.ports:
            if port.protocol != "TCP" or service.headless or service.spec.type == "ExternalName":
                continue  # whoever dials a headless service means one of its pods: an unknown destination, for now
            target = Weighted(cluster_key(host, port.port), WHOLE_WEIGHT)
            sections[f"service/{service.namespace}/{host}/{port.port}"] = ServiceRoutes(
                host=host,
                namespace=service.namespace,
                name=service.name,
                port=port.port,
                protocol=protocol_of(port),
                addresses=sorted(service.addresses),
                domains=_domains(service, host, client.namespace),
                rules=[Route("default", {}, [target])],
            )
    return sections


def _domains(service: Service, host: str, client_namespace: str) -> list[str]:
    """The spellings of a host: short names as Kubernetes' search path resolves them, and its addresses."""
    qualified = f"{service.name}.{service.namespace}"
    names = [host, f"{qualified}.svc", qualified, *service.addresses]
    if service.namespace == client_namespace:
        names.append(service.name)
    return sorted({name.lower() for name in names})
