"""Where things run: Pod, WorkloadEntry, ServiceAccount, Namespace.

In:     raw documents, from `decode`.
Out:    resources read by `meshdp.compiler.select`.
Source: Kubernetes core/v1; Istio networking/v1 WorkloadEntry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from meshdp.resources.meta import Resource, account_problems
from meshdp.resources.shape import LooseShape, Problem, Shape
from meshdp.resources.values import is_address

WEIGHT_LIMIT = 2**32 - 1


class ContainerPort(LooseShape, frozen=True):
    """A port a container declares; names serve as target ports."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"

    PASSED_OVER: ClassVar[frozenset[str]] = frozenset({"hostPort", "hostIP"})


class Container(LooseShape, frozen=True):
    """One container of a pod."""

    name: str = ""
    ports: list[ContainerPort] = []

    PASSED_OVER: ClassVar[frozenset[str]] = frozenset(
        """args command env envFrom image imagePullPolicy lifecycle livenessProbe readinessProbe resizePolicy resources
        restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath
        terminationMessagePolicy tty volumeDevices volumeMounts workingDir""".split()
    )


class PodSpec(LooseShape, frozen=True):
    """What a mesh needs of a pod's spec."""

    service_account_name: str = ""
    service_account: str = ""  # the older spelling of the same
    containers: list[Container] = []
    init_containers: list[Container] = []
    host_network: bool = False

    PASSED_OVER: ClassVar[frozenset[str]] = frozenset(
        """activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks
        ephemeralContainers hostAliases hostIPC hostPID hostUsers hostname hostnameOverride imagePullSecrets nodeName
        nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources
        restartPolicy runtimeClassName schedulerName schedulingGates securityContext
        setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations
        topologySpreadConstraints volumes workloadRef""".split()
    )

    @property
    def account(self) -> str:
        """The service account it runs as."""
        return self.service_account_name or self.service_account or "default"


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
    def finished(self) -> bool:
        """A finished pod still shows its address, which may be another's by now."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def ready(self) -> bool:
        """Ready unless the kubelet says otherwise."""
        conditions = {condition.type: condition.status for condition in self.conditions}
        return not self.finished and conditions.get("Ready", "True") == "True"


class WorkloadEntrySpec(Shape, frozen=True):
    """A workload outside Kubernetes."""

    address: str = ""
    ports: dict[str, int] = {}
    labels: dict[str, str] = {}
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


def pod_problems(spec: PodSpec, status: PodStatus) -> Iterator[Problem]:
    """Accounts and addresses that are none."""
    yield from account_problems(spec.service_account_name, ("spec", "serviceAccountName"))
    yield from account_problems(spec.service_account, ("spec", "serviceAccount"))
    for address in status.addresses:
        if not is_address(address):
            yield Problem("MDP0204", ("status", "podIP"), f"{address!r} is not an IP address")


def entry_problems(spec: WorkloadEntrySpec) -> Iterator[Problem]:
    """What istiod refuses, and addresses that are host names."""
    if not spec.address and not spec.network:
        yield Problem("MDP0203", ("spec",), "field 'address' is missing")
    elif _HOST.fullmatch(spec.address) and not is_address(spec.address):
        message = f"{spec.address!r} is a host name: it is not resolved, so the entry is no endpoint"
        yield Problem("MDP0402", ("spec", "address"), message)
    elif spec.address and not is_address(spec.address):
        yield Problem("MDP0204", ("spec", "address"), f"{spec.address!r} is neither an IP address nor a host name")
    for name, port in spec.ports.items():
        if not 1 <= port <= 65535:
            yield Problem("MDP0204", ("spec", "ports", name), f"{port} is not a port (1 to 65535)")
    if not 0 <= spec.weight <= WEIGHT_LIMIT:
        yield Problem("MDP0204", ("spec", "weight"), f"{spec.weight} is not a weight (0 to {WEIGHT_LIMIT})")
    yield from account_problems(spec.service_account, ("spec", "serviceAccount"))


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


_HOST_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
