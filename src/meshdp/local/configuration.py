"""Turns watched documents and the mesh file's instances into what every process of the mesh needs.

In:      a directory or file source, the mesh file, the addresses given to instances and services.
Out:     `Compiled`: a snapshot per sidecar, the names to resolve, the translation for instances outside the mesh.
Fails:   never for bad documents: what cannot be read is a finding, and its last good version stays in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

from meshdp.compiler import compile_all
from meshdp.compiler.select import SIDECAR, TLS_MODE, WORKLOAD_NAME, Directory, Workload, spiffe_id, target_port
from meshdp.compiler.snapshot import Snapshot
from meshdp.errors import Where
from meshdp.local.addresses import PODS, SERVICES, Pool
from meshdp.local.hosts import ServiceAddress
from meshdp.local.mesh_file import Instance, InstanceKey, MeshFile
from meshdp.local.translation import Target
from meshdp.resources import Meta, ResourceSet
from meshdp.resources.service import Service
from meshdp.resources.workload import Container, ContainerPort, Pod, PodCondition, PodSpec, PodStatus


@dataclass(frozen=True, slots=True)
class Compiled:
    """One state of the documents, compiled for the whole mesh.

    ports: what an instance's services expect it to listen on. documents: a digest of what was compiled.
    """

    snapshots: Mapping[InstanceKey, Snapshot]
    identities: Mapping[InstanceKey, str]
    ports: Mapping[InstanceKey, tuple[int, ...]]
    services: tuple[ServiceAddress, ...]
    targets: tuple[Target, ...]
    documents: str


class Configuration:
    """Compiles a mesh again and again; keeps addresses stable over its life."""

    def __init__(self, mesh: MeshFile) -> None:
        self._mesh = mesh
        self._pods = Pool(PODS)
        self._services = Pool(SERVICES)
        self.addresses: dict[InstanceKey, str] = {}
        given = self._pods.assign(str(instance.key) for instance in mesh.instances)
        for instance in mesh.instances:
            self.addresses[instance.key] = given[str(instance.key)]

    def compile(self, resources: ResourceSet, ended: Collection[InstanceKey] = ()) -> Compiled:
        """Adds what the mesh file and the address pools know, and compiles for every sidecar.

        ended: instances whose command is gone; they are nobody's endpoint any more.
        """
        complete = resources.with_changes([*self._instance_pods(ended), *self._placed_services(resources)])
        directory = Directory(complete)
        known = {(workload.namespace, workload.name): workload for workload in directory.workloads}
        snapshots = compile_all(complete)
        domain = complete.mesh_spec.trust_domain
        meshed = [instance for instance in self._mesh.instances if instance.sidecar]
        return Compiled(
            snapshots={each.key: snapshots[each.key] for each in meshed},
            identities={each.key: spiffe_id(domain, each.key.namespace, each.service_account) for each in meshed},
            ports={each.key: _ports(directory, known[each.key]) for each in self._mesh.instances},
            services=tuple(
                ServiceAddress(service.namespace, service.name, address)
                for service in directory.services
                for address in service.addresses[:1]
            ),
            targets=tuple(_targets(directory)),
            documents=_digest(resources),
        )

    def _instance_pods(self, ended: Collection[InstanceKey]) -> list[Pod]:
        where = Where(str(self._mesh.path), 1)
        return [_pod(each, self._status(each, ended), where) for each in self._mesh.instances]

    def _status(self, instance: Instance, ended: Collection[InstanceKey]) -> PodStatus:
        ready = PodCondition("Ready", "False" if instance.key in ended else "True")
        return PodStatus(pod_ip=self.addresses[instance.key], conditions=[ready])

    def _placed_services(self, resources: ResourceSet) -> list[Service]:
        """Services that need a virtual address and have none written get a stable one."""
        services = {f"{each.namespace}/{each.name}": each for each in resources.all(Service) if _needs_address(each)}
        written = {name: each.addresses[0] for name, each in services.items() if each.addresses}
        fixed = {name: address for name, address in written.items() if ":" not in address}
        given = self._services.assign(services, fixed)
        return [
            replace(each, spec=msgspec.structs.replace(each.spec, cluster_ip=given[name]))
            for name, each in services.items()
            if not each.addresses
        ]


def _digest(resources: ResourceSet) -> str:
    """Tells one state of the documents from another, also where no snapshot differs."""
    text = "\n".join(repr(resource) for resource in resources)
    return hashlib.sha256(text.encode()).hexdigest()


def _pod(instance: Instance, status: PodStatus, where: Where) -> Pod:
    """The Pod that Kubernetes and its injector would have made of this instance."""
    labels = {WORKLOAD_NAME: instance.workload, **instance.labels}
    if instance.sidecar:
        labels |= {TLS_MODE: "istio", SIDECAR: "true"}
    meta = Meta(name=instance.key.name, namespace=instance.key.namespace, labels=labels)
    ports = [ContainerPort(number, name) for name, number in instance.ports.items()]
    spec = PodSpec(service_account_name=instance.service_account, containers=[Container(instance.workload, ports)])
    return Pod(meta, where, spec, status)


def _needs_address(service: Service) -> bool:
    return not service.headless and service.spec.type != "ExternalName"


def _ports(directory: Directory, workload: Workload) -> tuple[int, ...]:
    found = {
        target_port(port, workload)
        for service in directory.services_of(workload)
        for port in service.spec.ports
        if port.protocol == "TCP"
    }
    return tuple(sorted(found - {0}))


def _targets(directory: Directory) -> list[Target]:
    return [
        Target(address, port.port, tuple((each.address, each.port) for each in directory.backends(service, port)))
        for service in directory.services
        for address in service.addresses[:1]
        for port in service.spec.ports
        if port.protocol == "TCP" and ":" not in address
    ]
