"""Names clients use: Service and EndpointSlice.

In:     raw documents, from `decode`.
Out:    resources read by `meshdp.compiler.select`, and the protocol of a port.
Source: Kubernetes core/v1, discovery.k8s.io/v1; protocol rules of spec/istio-semantics.md B.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from meshdp.resources.meta import Resource
from meshdp.resources.shape import LooseShape, Problem, Shape
from meshdp.resources.values import is_address

Protocol = Literal["http", "http2", "tcp", "auto"]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class ServicePort(Shape, frozen=True):
    """One port of a service."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    app_protocol: str = ""
    node_port: int = 0


class ServiceSpec(Shape, frozen=True):
    """All of Kubernetes' fields, so that a misspelt one is found; the mesh reads the first block."""

    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] = msgspec.field(name="clusterIPs", default_factory=list)
    type: str = "ClusterIP"
    external_name: str = ""
    publish_not_ready_addresses: bool = False

    allocate_load_balancer_node_ports: bool = True
    external_ips: list[str] = msgspec.field(name="externalIPs", default_factory=list)
    external_traffic_policy: str = ""
    health_check_node_port: int = 0
    internal_traffic_policy: str = ""
    ip_families: list[str] = []
    ip_family_policy: str = ""
    load_balancer_class: str = ""
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_source_ranges: list[str] = []
    session_affinity: str = ""
    session_affinity_config: Any = None
    traffic_distribution: str = ""


class EndpointConditions(LooseShape, frozen=True):
    """Readiness; absent means ready."""

    ready: bool = True
    serving: bool = True
    terminating: bool = False


class TargetRef(LooseShape, frozen=True):
    """The pod behind an endpoint."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class SliceEndpoint(LooseShape, frozen=True):
    """One endpoint of a slice."""

    addresses: list[str]
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef = TargetRef()
    zone: str = ""
    node_name: str = ""


class SlicePort(LooseShape, frozen=True):
    """One port of a slice, joined to the service port of the same name."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"
    app_protocol: str = ""


class SliceBody(LooseShape, frozen=True):
    """An EndpointSlice keeps its fields beside its metadata."""

    address_type: str = "IPv4"
    endpoints: list[SliceEndpoint] = []
    ports: list[SlicePort] = []


@dataclass(frozen=True, slots=True)
class Service(Resource):
    """A name with ports."""

    KIND: ClassVar[str] = "Service"

    spec: ServiceSpec

    @property
    def headless(self) -> bool:
        return self.spec.cluster_ip == "None"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Cluster addresses; empty for headless services and services that have none yet."""
        written = self.spec.cluster_ips or [self.spec.cluster_ip]
        return tuple(ip for ip in written if ip and ip != "None")


@dataclass(frozen=True, slots=True)
class EndpointSlice(Resource):
    """Part of the endpoints of one service."""

    KIND: ClassVar[str] = "EndpointSlice"

    body: SliceBody

    @property
    def service_name(self) -> str:
        return self.meta.labels.get(SERVICE_NAME_LABEL, "")


def protocol_of(port: ServicePort) -> Protocol:
    """Declared protocol: that of appProtocol, without one that of the name, else the well-known port numbers.

    Both count up to the first '-' and without regard to case; an appProtocol that nobody knows hides the name.
    """
    declared = port.app_protocol or port.name
    word = _KUBERNETES_PROTOCOLS.get(declared.lower(), declared.lower().partition("-")[0])
    if word in _HTTP2:
        return "http2"
    if word in _HTTP1:
        return "http"
    return "tcp" if word in _TCP_FAMILY or port.port in WELL_KNOWN_TCP_PORTS else "auto"


def problems_of(spec: ServiceSpec) -> Iterator[Problem]:
    """Refuses ports that cannot exist."""
    for index, port in enumerate(spec.ports):
        path = ("spec", "ports", index)
        if not 1 <= port.port <= 65535:
            yield Problem("MDP0204", (*path, "port"), f"{port.port} is not a port (1 to 65535)")
        if isinstance(port.target_port, int) and not 0 <= port.target_port <= 65535:
            yield Problem("MDP0204", (*path, "targetPort"), f"{port.target_port} is not a port (1 to 65535)")
    for index, address in enumerate(spec.cluster_ips or [spec.cluster_ip]):
        if address not in ("", "None") and not is_address(address):
            where = ("clusterIPs", index) if spec.cluster_ips else ("clusterIP",)
            yield Problem("MDP0204", ("spec", *where), f"{address!r} is not an IP address")
    if spec.cluster_ip == "None":
        yield Problem("MDP0402", ("spec", "clusterIP"), "headless services are carried as unknown destinations")
    if spec.type == "ExternalName":
        yield Problem("MDP0402", ("spec", "type"), "ExternalName services are carried as unknown destinations")


WELL_KNOWN_TCP_PORTS = frozenset({25, 53, 3306, 27017})
_HTTP1 = frozenset({"http", "http_proxy"})
_HTTP2 = frozenset({"http2", "grpc"})  # and grpc-web, whose word ends at its '-'
_TCP_FAMILY = frozenset({"tcp", "https", "tls", "mongo", "redis", "mysql"})
_KUBERNETES_PROTOCOLS = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}
