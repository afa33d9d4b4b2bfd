"""Chooses the DestinationRule that holds for a client and a service, and what it says of TLS on a port.

In:     the rules of a resource set, a client workload, a service port.
Out:    `Tls`, read by `clusters`; None where mutual TLS is automatic.
Fails:  never; a rule that cannot be honoured yields a reason why nothing may be sent.
Source: spec/istio-semantics.md B.5, J.1 (17): the client's namespace, then the service's, then the root; one hit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshdp.compiler.select import Workload
from meshdp.resources import ResourceSet
from meshdp.resources.meta import matches
from meshdp.resources.traffic import ClientTls, DestinationRule, TrafficPolicy

_PUBLIC, _PRIVATE = "*", "."


@dataclass(frozen=True, slots=True, eq=False)
class Tls:
    """What a rule says of TLS. refused: why nothing may be sent; empty when it can be honoured."""

    settings: ClientTls
    refused: str


class DestinationRules:
    """The rules by namespace and host, oldest first."""

    def __init__(self, resources: ResourceSet) -> None:
        self.root_namespace = resources.root_namespace
        self._by_namespace: dict[str, dict[str, list[_Merged]]] = {}
        for rule in resources.oldest_first(DestinationRule):
            hosts = self._by_namespace.setdefault(rule.namespace, {})
            _merge(hosts.setdefault(rule.host, []), rule)

    def __bool__(self) -> bool:
        return bool(self._by_namespace)

    def tls(self, client: Workload, host: str, namespace: str, port: int) -> Tls | None:
        """What holds for a client that calls a port of the service with this host in this namespace."""
        chosen = self._chosen(client, host, namespace)
        return None if chosen is None else chosen.tls_at(port)

    def _chosen(self, client: Workload, host: str, namespace: str) -> _Merged | None:
        # Clients of the root namespace find its rules last, as everybody does.
        own = (client.namespace,) if client.namespace != self.root_namespace else ()
        for owner in dict.fromkeys((*own, namespace, self.root_namespace)):
            hosts = self._by_namespace.get(owner, {})
            for written in _most_specific_first(hosts, host):
                visible = [rule for rule in hosts[written] if rule.seen_from(client.namespace)]
                if visible:
                    return _for_client(visible, client)
        return None


class _Merged:
    """Rules for one host, with the same selector and the same audience: the oldest policy counts."""

    def __init__(self, rule: DestinationRule) -> None:
        self.namespace = rule.namespace
        self.selector = rule.spec.workload_selector
        self.audience = _audience(rule)
        self.rule: DestinationRule | None = None
        self._made: dict[int, Tls | None] = {}

    def add(self, rule: DestinationRule) -> None:
        if self.rule is None and (rule.spec.traffic_policy is not None or rule.broken):
            self.rule = rule

    def seen_from(self, namespace: str) -> bool:
        """Whether clients of a namespace see it: a rule with a selector stays in its own."""
        own = namespace == self.namespace
        if _PUBLIC in self.audience or namespace in self.audience:
            return True
        return own and _PRIVATE in self.audience

    def tls_at(self, port: int) -> Tls | None:
        """What it says of a service port, the same object for the same settings."""
        if port not in self._made:
            self._made[port] = self._tls(port)
        return self._made[port]

    def _tls(self, port: int) -> Tls | None:
        policy = TrafficPolicy() if self.rule is None else self.rule.spec.traffic_policy or TrafficPolicy()
        if self.rule is not None and self.rule.broken:
            refused = f"{self.rule.where}: a DestinationRule that is not accepted asks for TLS"
            return Tls(ClientTls(mode="SIMPLE"), refused) if self.rule.asks_for_tls else None
        settings = policy.tls_at(port)
        if settings is None or self.rule is None:
            return None
        what = settings.unhonoured
        return Tls(settings, f"{self.rule.where}: {what} is not honoured" if what else "")


def _audience(rule: DestinationRule) -> frozenset[str]:
    if rule.spec.workload_selector is not None:
        return frozenset({_PRIVATE})
    return frozenset(rule.spec.export_to or (_PUBLIC,))


def _merge(group: list[_Merged], rule: DestinationRule) -> None:
    for merged in group:
        if (merged.selector, merged.audience) == (rule.spec.workload_selector, _audience(rule)):
            merged.add(rule)
            return
    group.append(_Merged(rule))
    group[-1].add(rule)


def _most_specific_first(hosts: Iterable[str], host: str) -> Sequence[str]:
    """The exact host, then wildcards by length."""
    fits = (name for name in hosts if name == host or (name.startswith("*") and host.endswith(name[1:])))
    return sorted(fits, key=lambda name: (name == host, len(name)), reverse=True)


def _for_client(rules: Sequence[_Merged], client: Workload) -> _Merged | None:
    """The first whose selector the client carries, else the last without a selector, as istiod."""
    for rule in rules:
        if rule.selector is not None and matches(rule.selector.match_labels, client.labels):
            return rule
    return next((rule for rule in reversed(rules) if rule.selector is None), None)
