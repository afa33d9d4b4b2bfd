"""Resources: what the documents say, decoded, validated and immutable.

In:     texts of files, or raw documents.
Out:    `ResourceSet`, sorted and by kind; the compiler's only input beside the workload.
Fails:  duplicates and rejected documents are findings; nothing raises for bad input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from meshdp.documents import parse
from meshdp.errors import Finding
from meshdp.resources.decode import decode
from meshdp.resources.mesh import DEFAULT_ROOT_NAMESPACE, MeshConfig, MeshSpec
from meshdp.resources.meta import Key, Meta, Resource
from meshdp.resources.security import PeerAuthentication
from meshdp.resources.service import Service
from meshdp.resources.traffic import DestinationRule

__all__ = ["Key", "Loaded", "Meta", "Resource", "ResourceSet", "decode", "load"]

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found. passed_over: documents of kinds that carry nothing for a mesh."""

    resources: ResourceSet
    findings: tuple[Finding, ...]
    passed_over: int

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")


class ResourceSet:
    """All resources in force, unique by key, iterated in key order."""

    def __init__(self, resources: Mapping[Key, Resource]) -> None:
        self._by_key = MappingProxyType(dict(sorted(resources.items())))
        grouped: dict[type[Resource], list[Resource]] = {}
        for resource in self._by_key.values():
            grouped.setdefault(type(resource), []).append(resource)
        self._by_type = {kind: tuple(members) for kind, members in grouped.items()}
        self._by_age = {
            kind: tuple(sorted(members, key=lambda item: item.meta.age_order)) for kind, members in grouped.items()
        }

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> tuple[ResourceSet, list[Finding]]:
        """Collects resources; of two with one key the first by place stays and the other is a finding.

        The findings also name what can have no effect in this set.
        """
        kept: dict[Key, Resource] = {}
        findings: list[Finding] = []
        for resource in sorted(resources, key=lambda item: (item.key, item.where)):
            first = kept.setdefault(resource.key, resource)
            if first is not resource:
                message = f"already defined at {first.where}; the one there stays in force"
                findings.append(Finding.of("MDP0206", resource.where, str(resource.key), "", message))
        made = cls(kept)
        return made, [*findings, *made._ineffective()]

    def with_changes(self, put: Iterable[Resource] = (), drop: Iterable[Key] = ()) -> ResourceSet:
        """A new set; a broken policy never replaces the last good one of the same key."""
        changed = dict(self._by_key)
        for key in drop:
            changed.pop(key, None)
        for resource in put:
            current = changed.get(resource.key)
            if not resource.broken or current is None or current.broken:
                changed[resource.key] = resource
        return ResourceSet(changed)

    def all(self, kind: type[R]) -> tuple[R, ...]:
        """Every resource of one kind, by namespace and name."""
        return self._by_type.get(kind, ())  # type: ignore[return-value]  # grouped by exact type

    def oldest_first(self, kind: type[R]) -> tuple[R, ...]:
        """Every resource of one kind by creation time, ties by name and namespace: where conflicts go to the oldest."""
        return self._by_age.get(kind, ())  # type: ignore[return-value]  # grouped by exact type

    def __getitem__(self, key: Key) -> Resource:
        return self._by_key[key]

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def mesh(self) -> MeshConfig | None:
        """The settings in force: of several, the first by namespace and name."""
        found = self.all(MeshConfig)
        return found[0] if found else None

    @property
    def mesh_spec(self) -> MeshSpec:
        return self.mesh.spec if self.mesh is not None else MeshSpec()

    @property
    def root_namespace(self) -> str:
        return self.mesh_spec.root_namespace or DEFAULT_ROOT_NAMESPACE

    def _ineffective(self) -> list[Finding]:
        winner = self.mesh.where if self.mesh else ""
        found = [_without_effect(other, f"{winner} configures the mesh") for other in self.all(MeshConfig)[1:]]
        found.extend(
            _without_effect(policy, "with a selector it is ignored in the root namespace")
            for policy in self.all(PeerAuthentication)
            if policy.namespace == self.root_namespace and policy.spec.selector.match_labels
        )
        found.extend(
            _without_effect(rule, f"no service that is routed to has the host {rule.host[:80]}: nothing gets TLS by it")
            for rule in self.all(DestinationRule)
            if rule.asks_for_tls and not self._is_routed(rule.host)
        )
        return found

    def _is_routed(self, host: str) -> bool:
        """Whether clients are routed to a service with this host; a host may begin with a star."""
        names = (
            f"{service.name}.{service.namespace}.svc.cluster.local"
            for service in self.all(Service)
            if not service.headless and service.spec.type != "ExternalName"
        )
        return any(name == host or (host.startswith("*") and name.endswith(host[1:])) for name in names)


def load(files: Iterable[tuple[str, str | bytes]]) -> Loaded:
    """Reads (file name, text) pairs into one set: the whole way from text to resources."""
    resources: list[Resource] = []
    findings: list[Finding] = []
    passed_over = 0
    for file, text in files:
        documents, broken = parse(text, file)
        findings.extend(broken)
        for raw in documents:
            resource, more = decode(raw)
            findings.extend(more)
            passed_over += resource is None and not more
            if resource is not None:
                resources.append(resource)
    found, more = ResourceSet.of(resources)
    return Loaded(found, (*findings, *more), passed_over)


def _without_effect(resource: Resource, message: str) -> Finding:
    return Finding.of("MDP0305", resource.where, str(resource.key), "", message)
