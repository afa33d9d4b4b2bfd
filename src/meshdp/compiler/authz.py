"""Compiles the policies that select a workload into rules of predicates; what cannot be honoured fails closed.

In:     the directory and the workload.
Out:    section `authz`, judged by native/model/src/authz.rs.
Fails:  never; the fail-closed table of spec/attack-cases.md 2.19 is applied here, its findings come from `decode`.
Source: spec/istio-semantics.md D.1 (selection), D.2 (combination), D.7 (dry run).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from meshdp.compiler.predicates import Predicates
from meshdp.compiler.select import Directory, Workload, selects
from meshdp.compiler.snapshot import Authz, Policy, Rule
from meshdp.compiler.tokens import selected as token_resources
from meshdp.compiler.tokens import too_many
from meshdp.resources.security import AuthorizationPolicy, RequestAuthentication
from meshdp.resources.security import Rule as WrittenRule


def authz(directory: Directory, workload: Workload) -> Authz:
    """Section `authz`: every policy that selects the workload, by namespace and name."""
    policies = [_policy(policy, directory) for policy in selected(directory, workload)]
    closed = [policy for policy in token_resources(directory, workload) if policy.broken]
    policies.extend(_closed(policy) for policy in (*closed, *too_many(directory, workload)))
    return Authz(sorted(policies, key=lambda policy: (policy.namespace, policy.name)))


def selected(directory: Directory, workload: Workload) -> Iterator[AuthorizationPolicy]:
    """D.1: root and own namespace, selector within the labels; policies with a targetRef are not for sidecars."""
    for policy in directory.resources.all(AuthorizationPolicy):
        if not policy.targets_gateway and selects(policy, directory, workload):
            yield policy


def _policy(policy: AuthorizationPolicy, directory: Directory) -> Policy:
    if policy.broken:
        return _deny_all(policy, policy.name, policy.dry_run and policy.spec.action != "CUSTOM")
    action: Literal["ALLOW", "DENY", "AUDIT"] = "DENY" if policy.spec.action == "CUSTOM" else policy.spec.action
    predicates = Predicates(policy.namespace, directory.trust_domains)
    return Policy(
        namespace=policy.namespace,
        name=policy.name,
        action=action,
        dry_run=policy.dry_run and policy.spec.action != "CUSTOM",
        where=str(policy.where),
        rules=[_rule(rule, predicates) for rule in policy.spec.rules],
    )


def _rule(rule: WrittenRule, predicates: Predicates) -> Rule:
    return Rule(
        from_=[predicates.source(part.source) for part in rule.from_ if part.source is not None],
        to=[predicates.operation(part.operation) for part in rule.to if part.operation is not None],
        when=[predicate for condition in rule.when for predicate in predicates.condition(condition)],
    )


def _closed(policy: RequestAuthentication) -> Policy:
    """A resource that cannot be honoured closes what it selects, under its own name."""
    return _deny_all(policy, f"RequestAuthentication/{policy.name}", False)


def _deny_all(policy: AuthorizationPolicy | RequestAuthentication, name: str, dry_run: bool) -> Policy:
    always = Rule(from_=[], to=[], when=[])
    return Policy(policy.namespace, name, "DENY", dry_run, str(policy.where), [always])
