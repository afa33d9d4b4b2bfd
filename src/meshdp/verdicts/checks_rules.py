"""Finds rules that others make needless: the same again, or within what another rule says already.

In:     policies and the trust domains of their mesh.
Out:    `Repeated`: a rule, and the one that makes it needless.
Limits: `RULES_COMPARED`; compares compiled conditions by their kinds and texts: it may miss a cover, but names none
        that is not there.
Source: spec/istio-semantics.md D.2, D.3.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshdp.compiler.predicates import Predicates
from meshdp.compiler.snapshot import Predicate, Value
from meshdp.resources import ResourceSet
from meshdp.resources.meta import matches
from meshdp.resources.security import AuthorizationPolicy

RULES_COMPARED = 2_000

All = Sequence[Predicate]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A needless rule, and what makes it so."""

    policy: AuthorizationPolicy
    rule: int
    other: AuthorizationPolicy
    other_rule: int
    is_same: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    policy: AuthorizationPolicy
    index: int
    from_: Sequence[All]
    to: Sequence[All]
    when: All


def repeated(
    policies: Sequence[AuthorizationPolicy], resources: ResourceSet, trust_domains: tuple[str, ...]
) -> Iterator[Repeated]:
    """Each needless rule once; of two that are the same the later one."""
    rules = list(_rules(policies, trust_domains))[:RULES_COMPARED]
    for number, rule in enumerate(rules):
        for place, other in enumerate(rules):
            if place == number or not _may_replace(other.policy, rule.policy, resources):
                continue
            if not _covers(other, rule):
                continue
            both = _covers(rule, other) and _may_replace(rule.policy, other.policy, resources)
            if both and place > number:
                continue  # that one is named when its turn comes
            yield Repeated(rule.policy, rule.index, other.policy, other.index, both)
            break


def _rules(policies: Sequence[AuthorizationPolicy], trust_domains: tuple[str, ...]) -> Iterator[_Rule]:
    for policy in policies:
        if policy.dry_run or policy.spec.action not in ("ALLOW", "DENY"):
            continue
        predicates = Predicates(policy.namespace, trust_domains)
        for index, rule in enumerate(policy.spec.rules):
            yield _Rule(
                policy,
                index,
                [predicates.source(part.source) for part in rule.from_ if part.source is not None],
                [predicates.operation(part.operation) for part in rule.to if part.operation is not None],
                [predicate for when in rule.when for predicate in predicates.condition(when)],
            )


def _may_replace(other: AuthorizationPolicy, policy: AuthorizationPolicy, resources: ResourceSet) -> bool:
    """Whether the other's rules decide for all that the policy selects, in the same way or before it."""
    same = other.spec.action == policy.spec.action or (other.spec.action, policy.spec.action) == ("DENY", "ALLOW")
    near = other.namespace in (resources.root_namespace, policy.namespace)
    return same and near and matches(other.spec.selector.match_labels, policy.spec.selector.match_labels)


def _covers(wide: _Rule, narrow: _Rule) -> bool:
    """Whether `wide` matches whatever `narrow` matches."""
    if wide.policy.spec.action == "ALLOW" and _needs_http(wide) and not _needs_http(narrow):
        return False  # D.5: over TCP the wide one is not there
    return (
        _covers_any(wide.from_, narrow.from_)
        and _covers_any(wide.to, narrow.to)
        and _covers_all(wide.when, narrow.when)
    )


def _needs_http(rule: _Rule) -> bool:
    return any(
        predicate.field not in _OF_CONNECTIONS for part in (*rule.from_, *rule.to, rule.when) for predicate in part
    )


def _covers_any(wide: Sequence[All], narrow: Sequence[All]) -> bool:
    if not wide:
        return True
    return bool(narrow) and all(any(_covers_all(other, each) for other in wide) for each in narrow)


def _covers_all(wide: All, narrow: All) -> bool:
    """Each condition of the wide one follows from one of the narrow one."""
    return all(any(_follows(predicate, given) for given in narrow) for predicate in wide)


def _follows(wanted: Predicate, given: Predicate) -> bool:
    if (wanted.field, wanted.name, wanted.negate) != (given.field, given.name, given.negate):
        return False
    if wanted.field == "unsupported":
        return False  # nobody knows what it means
    wide, narrow = (given, wanted) if wanted.negate else (wanted, given)
    return all(any(_value_covers(other, value, wanted.field) for other in wide.values) for value in narrow.values)


def _value_covers(wide: Value, narrow: Value, field: str) -> bool:
    if wide == narrow:
        return True
    if field == "host" and (wide.kind, wide.value.lower()) == (narrow.kind, narrow.value.lower()):
        return True
    match wide.kind:
        case "prefix":
            return narrow.kind in ("exact", "prefix") and narrow.value.startswith(wide.value)
        case "suffix":
            return narrow.kind in ("exact", "suffix") and narrow.value.endswith(wide.value)
        case "present":
            return narrow.kind in ("prefix", "suffix") or (narrow.kind == "exact" and narrow.value != "")
        case "cidr":
            return narrow.kind == "cidr" and _contains(wide.value, narrow.value)
    return False


def _contains(wide: str, narrow: str) -> bool:
    outer, inner = ipaddress.ip_network(wide), ipaddress.ip_network(narrow)
    if isinstance(outer, ipaddress.IPv4Network) and isinstance(inner, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, ipaddress.IPv6Network) and isinstance(inner, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


_OF_CONNECTIONS = frozenset(
    ("principal", "identity", "source_ip", "remote_ip", "destination_ip", "destination_port", "sni")
)
