"""Selects what concerns one workload: its own record, the services it is part of, the endpoints of every service.

In:     a `ResourceSet`.
Out:    `Workload`, `Directory`; read by the other modules of this package.
Source: spec/istio-semantics.md B.1, B.3, B.4, C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from meshdp.resources import ResourceSet
from meshdp.resources.mesh import DEFAULT_TRUST_DOMAIN, MeshSpec
from meshdp.resources.meta import Meta, matches
from meshdp.resources.security import AuthorizationPolicy, RequestAuthentication
from meshdp.resources.service import EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort
from meshdp.resources.values import is_address
from meshdp.resources.workload import Pod, WorkloadEntry

TLS_MODE = "security.istio.io/tlsMode"
SIDECAR = "meshdp.io/sidecar"
CANONICAL_NAME = "service.istio.io/canonical-name"
CANONICAL_REVISION = "service.istio.io/canonical-revision"
WORKLOAD_NAME = "service.istio.io/workload-name"
NETWORK = "topology.istio.io/network"
CLUSTER_ID = "Kubernetes"


@dataclass(frozen=True, slots=True)
class Workload:
    """One running instance. addresses: the primary first.

    named_ports: numbers by container port name. service_ports: numbers by service port name (workload entries).
    service_account: empty for an entry without one; it has no identity then.
    """

    name: str
    namespace: str
    service_account: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    named_ports: Mapping[str, int] = field(default_factory=dict)
    service_ports: Mapping[str, int] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cluster_id: str = CLUSTER_ID
    workload_name: str = ""
    ready: bool = True
    locality: str = ""
    network: str = ""
    weight: int = 1

    def identity(self, trust_domain: str) -> str:
        """The SPIFFE id of this workload."""
        return spiffe_id(trust_domain, self.namespace, self.service_account) if self.service_account else ""

    @property
    def in_mesh(self) -> bool:
        """True when a sidecar serves it: it can speak mutual TLS."""
        return self.labels.get(TLS_MODE) == "istio"

    @property
    def shown_name(self) -> str:
        """The name of the deployment-like thing it is an instance of."""
        return self.workload_name or self.labels.get(WORKLOAD_NAME) or self.name

    @property
    def canonical_name(self) -> str:
        labels = self.labels
        return (
            labels.get(CANONICAL_NAME) or labels.get("app.kubernetes.io/name") or labels.get("app") or self.shown_name
        )

    @property
    def canonical_revision(self) -> str:
        labels = self.labels
        return (
            labels.get(CANONICAL_REVISION)
            or labels.get("app.kubernetes.io/version")
            or labels.get("version")
            or "latest"
        )

    @property
    def capabilities(self) -> list[str]:
        """What this build of meshdp can do with it beyond Istio."""
        ours = "true" in (self.labels.get(SIDECAR), self.annotations.get(SIDECAR))
        return ["meshdp"] if ours else []


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint of a service port, before TLS is decided."""

    address: str
    port: int
    workload: Workload | None
    healthy: bool
    locality: str


@dataclass(frozen=True, slots=True)
class Target:
    """A port of one workload and the service port that leads to it."""

    service: Service
    port: ServicePort
    number: int


class Directory:
    """All workloads and services of a resource set, indexed once for a compile."""

    def __init__(self, resources: ResourceSet) -> None:
        self.resources = resources
        self.mesh: MeshSpec = resources.mesh_spec
        written = (self.mesh.trust_domain or DEFAULT_TRUST_DOMAIN, *self.mesh.trust_domain_aliases)
        self.trust_domains = tuple(dict.fromkeys(domain.replace("@", ".") for domain in written))
        self.trust_domain = self.trust_domains[0]
        self.workloads = workloads(resources)
        self.by_address = {address: workload for workload in self.workloads for address in workload.addresses}
        self.services = resources.oldest_first(Service)
        self._by_label: dict[tuple[str, str, str], list[Workload]] = {}
        for workload in self.workloads:
            for name, value in workload.labels.items():
                self._by_label.setdefault((workload.namespace, name, value), []).append(workload)
        self._slices: dict[tuple[str, str], list[EndpointSlice]] = {}
        for piece in resources.all(EndpointSlice):
            self._slices.setdefault((piece.namespace, piece.service_name), []).append(piece)

    def services_of(self, workload: Workload) -> Iterator[Service]:
        """Services that have this workload among their endpoints, oldest first."""
        yield from {target.service.key: target.service for target in self.targets_of(workload)}.values()

    def targets_of(self, workload: Workload) -> Iterator[Target]:
        """The workload's ports that services declare, oldest service first."""
        for service in self.services:
            if service.namespace != workload.namespace:
                continue
            selected = bool(service.spec.selector) and matches(service.spec.selector, workload.labels)
            for port in service.spec.ports:
                numbers = {target_port(port, workload)} if selected else self._sliced_ports(service, port, workload)
                yield from (Target(service, port, number) for number in sorted(numbers) if number)

    def _sliced_ports(self, service: Service, port: ServicePort, workload: Workload) -> set[int]:
        if service.spec.selector:
            return set()
        return {item.port for item in self._sliced(service, port) if item.address in workload.addresses}

    def backends(self, service: Service, port: ServicePort) -> list[Backend]:
        """Endpoints of one service port, by address and port; slices win over selection."""
        if (service.namespace, service.name) in self._slices:
            found = list(self._sliced(service, port))
        else:
            found = list(self._selected(service, port))
        unique = {(item.address, item.port): item for item in found}
        return sorted(unique.values(), key=lambda item: (item.address, item.port))

    def _selected(self, service: Service, port: ServicePort) -> Iterator[Backend]:
        for workload in self._matching(service.namespace, service.spec.selector):
            number = target_port(port, workload)
            usable = workload.ready or service.spec.publish_not_ready_addresses
            if number and usable and workload.addresses:
                yield Backend(workload.addresses[0], number, workload, workload.ready, workload.locality)

    def _matching(self, namespace: str, selector: Mapping[str, str]) -> list[Workload]:
        """Workloads a service selects; looks only at those that have its rarest label. An empty selector has none."""
        candidates = [self._by_label.get((namespace, name, value), []) for name, value in selector.items()]
        rarest = min(candidates, key=len, default=[])
        return [workload for workload in rarest if matches(selector, workload.labels)]

    def _sliced(self, service: Service, port: ServicePort) -> Iterator[Backend]:
        for piece in self._slices.get((service.namespace, service.name), ()):
            for slice_port in piece.body.ports:
                if slice_port.name == port.name and slice_port.protocol == "TCP":
                    for endpoint in piece.body.endpoints:
                        yield from self._slice_backends(service, endpoint, slice_port)

    def _slice_backends(self, service: Service, endpoint: SliceEndpoint, port: SlicePort) -> Iterator[Backend]:
        ready = endpoint.conditions.ready
        if not ready and not service.spec.publish_not_ready_addresses:
            return
        for address in filter(is_address, endpoint.addresses[:1]):
            yield Backend(address, port.port, self.by_address.get(address), ready, endpoint.zone)


def workloads(resources: ResourceSet) -> tuple[Workload, ...]:
    """Every instance that pods and workload entries describe, by namespace and name."""
    found = [_of_pod(pod) for pod in resources.all(Pod) if not pod.spec.host_network and not pod.status.finished]
    found.extend(_of_entry(entry) for entry in resources.all(WorkloadEntry))
    return tuple(sorted(found, key=lambda item: (item.namespace, item.name)))


def target_port(port: ServicePort, workload: Workload) -> int:
    """The workload's port behind a service port; 0 when its name is unknown there."""
    if port.name in workload.service_ports:
        return workload.service_ports[port.name]
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    if port.target_port.isdecimal():
        return int(port.target_port)
    return workload.named_ports.get(port.target_port, 0)


def selects(policy: AuthorizationPolicy | RequestAuthentication, directory: Directory, workload: Workload) -> bool:
    """D.1: root and own namespace, selector within the labels."""
    near = policy.namespace in (directory.resources.root_namespace, workload.namespace)
    return near and matches(policy.spec.selector.match_labels, workload.labels)


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """Writes an identity; an '@' in a trust domain becomes '.'."""
    return f"spiffe://{trust_domain.replace('@', '.')}/ns/{namespace}/sa/{service_account}"


def _of_pod(pod: Pod) -> Workload:
    named = {
        port.name: port.container_port
        for container in (*pod.spec.init_containers, *pod.spec.containers)
        for port in container.ports
        if port.name
    }
    return Workload(
        name=pod.name,
        namespace=pod.namespace,
        service_account=pod.spec.account,
        labels=pod.meta.labels,
        addresses=tuple(filter(is_address, pod.status.addresses)),
        named_ports=named,
        annotations=pod.meta.annotations,
        workload_name=_owner_name(pod.meta),
        ready=pod.status.ready,
        network=pod.meta.labels.get(NETWORK, ""),
    )


def _owner_name(meta: Meta) -> str:
    owner = next((item for item in meta.owner_references if item.controller), None)
    if owner is None:
        return ""
    template = meta.labels.get("pod-template-hash", "")
    if owner.kind == "ReplicaSet" and template and owner.name.endswith("-" + template):
        return owner.name.removesuffix("-" + template)
    return owner.name


def _of_entry(entry: WorkloadEntry) -> Workload:
    spec = entry.spec
    return Workload(
        name=entry.name,
        namespace=entry.namespace,
        service_account=spec.service_account,
        labels={**entry.meta.labels, **spec.labels},
        addresses=tuple(filter(is_address, (spec.address,))),
        service_ports=spec.ports,
        annotations=entry.meta.annotations,
        locality=spec.locality,
        network=spec.network,
        weight=spec.weight or 1,
    )
