"""Where things run: Pod, WorkloadEntry, ServiceAccount, Namespace.

In:     raw documents, from `decode`.
Out:    resources read by `meshdp.compiler.select`.
Source: Kubernetes core/v1; Istio networking/v1 WorkloadEntry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec

from meshdp.resources.meta import Resource
from meshdp.resources.shape import LooseShape, Shape


class ContainerPort(LooseShape, frozen=True):
    """A port a container declares; names serve as target ports."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(LooseShape, frozen=True):
    """One container of a pod."""

    name: str = ""
    ports: list[ContainerPort] = []


class PodSpec(LooseShape, frozen=True):
    """What a mesh needs of a pod's spec."""

    service_account_name: str = "default"
    containers: list[Container] = []
    init_containers: list[Container] = []
    host_network: bool = False


class PodIp(LooseShape, frozen=True):
    """One address of a pod."""

    ip: str


class PodCondition(LooseShape, frozen=True):
    """One condition of a pod."""

    type: str
    status: str


class PodStatus(LooseShape, frozen=True):
    """What the kubelet (or `meshdp up`) reports."""

    phase: str = "Running"
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIp] = msgspec.field(name="podIPs", default_factory=list)
    conditions: list[PodCondition] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, the primary one first."""
        rest = [entry.ip for entry in self.pod_ips if entry.ip != self.pod_ip]
        return tuple(ip for ip in (self.pod_ip, *rest) if ip)

    @property
    def ready(self) -> bool:
        """Ready unless the kubelet says otherwise; a finished pod is not."""
        conditions = {condition.type: condition.status for condition in self.conditions}
        return self.phase not in ("Succeeded", "Failed") and conditions.get("Ready", "True") == "True"


class WorkloadEntrySpec(Shape, frozen=True):
    """A workload outside Kubernetes."""

    address: str = ""
    ports: dict[str, int] = {}
    labels: dict[str, str] = {}
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


@dataclass(frozen=True, slots=True)
class Pod(Resource):
    """A running instance."""

    KIND: ClassVar[str] = "Pod"

    spec: PodSpec
    status: PodStatus


@dataclass(frozen=True, slots=True)
class WorkloadEntry(Resource):
    """An instance outside Kubernetes."""

    KIND: ClassVar[str] = "WorkloadEntry"

    spec: WorkloadEntrySpec


@dataclass(frozen=True, slots=True)
class ServiceAccount(Resource):
    """An identity; it exists whether or not it is written down."""

    KIND: ClassVar[str] = "ServiceAccount"


@dataclass(frozen=True, slots=True)
class Namespace(Resource):
    """A namespace; it exists whether or not it is written down."""

    KIND: ClassVar[str] = "Namespace"
