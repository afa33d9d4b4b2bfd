"""What istiod's validation webhook refuses in security policies, and what is accepted without being honoured yet.

In:     decoded policies, from `decode`.
Out:    problems with field paths: MDP0301 (not accepted), MDP0302 to MDP0305 and MDP0330 (accepted, with consequences).
Source: spec/istio-semantics.md D.2 to D.5; spec/istio-observed.md 13; conformance/authz/security_validation_cases.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshdp.documents import Path
from meshdp.resources import tokens
from meshdp.resources import values as value
from meshdp.resources.security import (
    DRY_RUN,
    FALSE_WORDS,
    TRUE_WORDS,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    Operation,
    PeerAuthenticationSpec,
    PolicyTargetReference,
    RequestAuthentication,
    RequestAuthenticationSpec,
    Rule,
    Selector,
    Source,
    When,
)
from meshdp.resources.shape import Problem

REFUSED = "MDP0301"


def peer_authentication(spec: PeerAuthenticationSpec, written: Mapping[str, object]) -> Iterator[Problem]:
    """Port-level settings need a selector and real port numbers. written: the spec before decoding."""
    yield from _selector(spec.selector, ("spec", "selector"))
    if "portLevelMtls" not in written:
        return
    path: Path = ("spec", "portLevelMtls")
    if not spec.port_level_mtls:
        yield Problem(REFUSED, path, "portLevelMtls must name at least one port")
    if not spec.selector.match_labels:
        yield Problem(REFUSED, path, "portLevelMtls needs a selector")
    for port in spec.port_level_mtls:
        if value.port_problem(port) or int(port) == 0:
            yield Problem(REFUSED, (*path, port), f"{port!r} is not a port (1 to 65535)")


def request_authentication(policy: RequestAuthentication, written: Mapping[str, object]) -> Iterator[Problem]:
    """What the webhook and the CRD look at. written: the spec before decoding."""
    spec = policy.spec
    yield from _selector(spec.selector, ("spec", "selector"))
    yield from _targets(spec)
    if DRY_RUN in policy.meta.annotations:
        yield Problem(REFUSED, ("metadata", "annotations", DRY_RUN), "RequestAuthentication has no dry run")
    yield from tokens.problems_of(spec.jwt_rules, written)


def authorization_policy(policy: AuthorizationPolicy, written: Mapping[str, object]) -> Iterator[Problem]:
    """Everything the webhook looks at, then what fails closed. written: the spec before decoding."""
    spec = policy.spec
    yield from _selector(spec.selector, ("spec", "selector"))
    yield from _targets(spec)
    yield from _action(policy)
    for index, rule in enumerate(spec.rules):
        yield from _rule(rule, ("spec", "rules", index), spec.action)
    yield from _empty_lists(written)


def _selector(selector: Selector, path: Path) -> Iterator[Problem]:
    for name, label in selector.match_labels.items():
        if not name:
            yield Problem(REFUSED, (*path, "matchLabels"), "a label name must not be empty")
        if "*" in name or "*" in label:
            yield Problem(REFUSED, (*path, "matchLabels", name), "wildcards are not accepted in a selector")


def _targets(spec: AuthorizationPolicySpec | RequestAuthenticationSpec) -> Iterator[Problem]:
    references = [(("spec", "targetRef"), spec.target_ref)] if spec.target_ref else []
    listed: list[tuple[Path, PolicyTargetReference | None]] = [*references]
    listed.extend((("spec", "targetRefs", index), target) for index, target in enumerate(spec.target_refs))
    for path, target in listed:
        if target is not None:
            yield from _target(target, path)
    if listed and spec.selector.match_labels:
        yield Problem(REFUSED, ("spec", "selector"), "selector and targetRef cannot both be given")
    if listed:
        yield Problem("MDP0305", listed[0][0], "policies with a targetRef are for gateways: sidecars ignore them")


def _target(target: PolicyTargetReference, path: Path) -> Iterator[Problem]:
    if not target.name:
        yield Problem(REFUSED, (*path, "name"), "a target needs a name")
    if target.namespace:
        yield Problem(REFUSED, (*path, "namespace"), "a target is in the policy's own namespace")
    if (target.group, target.kind) not in _TARGETS:
        known = ", ".join(f"{group or 'core'}/{kind}" for group, kind in sorted(_TARGETS))
        yield Problem(REFUSED, path, f"{target.group or 'core'}/{target.kind} is not a target; known: {known}")


def _action(policy: AuthorizationPolicy) -> Iterator[Problem]:
    spec = policy.spec
    if spec.action in ("DENY", "CUSTOM") and not spec.rules:
        yield Problem(REFUSED, ("spec", "action"), f"{spec.action} without rules never matches; add a rule {{}}")
    if spec.action == "CUSTOM":
        if spec.provider is None or not spec.provider.name:
            yield Problem(REFUSED, ("spec", "provider"), "CUSTOM needs a provider with a name")
        yield Problem("MDP0303", ("spec", "action"), "external authorizers are not called before M4: its rules deny")
    elif spec.provider is not None:
        yield Problem(REFUSED, ("spec", "provider"), "only CUSTOM has a provider")
    dry_run = policy.meta.annotations.get(DRY_RUN)
    if dry_run is None:
        return
    path: Path = ("metadata", "annotations", DRY_RUN)
    if dry_run not in TRUE_WORDS | FALSE_WORDS:
        yield Problem(REFUSED, path, f"{dry_run!r} is not a boolean")
    if spec.action not in ("ALLOW", "DENY"):
        yield Problem(REFUSED, path, f"{spec.action} has no dry run")


def _rule(rule: Rule, path: Path, action: str) -> Iterator[Problem]:
    for index, part in enumerate(rule.from_):
        yield from _source(part.source, (*path, "from", index, "source"), action)
    for index, alternative in enumerate(rule.to):
        yield from _operation(alternative.operation, (*path, "to", index, "operation"))
    for index, condition in enumerate(rule.when):
        yield from _condition(condition, (*path, "when", index), action)


def _source(source: Source | None, path: Path, action: str) -> Iterator[Problem]:
    if source is None or source == Source():
        yield Problem(REFUSED, path, "a source must have at least one field")
        return
    lists = value.lists_of(source)
    yield from _no_empty(lists, path)
    for name in ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"):
        yield from _each(lists[name], (*path, name), value.network_problem)
    for name in ("serviceAccounts", "notServiceAccounts"):
        yield from _service_accounts(lists[name], (*path, name))
    for name in ("trustDomains", "notTrustDomains"):
        yield from _each(lists[name], (*path, name), value.trust_domain_problem)
    accounts = source.service_accounts or source.not_service_accounts
    others = ("principals", "notPrincipals", "namespaces", "notNamespaces")
    if accounts and any(lists[name] for name in others):
        yield Problem(REFUSED, path, "serviceAccounts cannot stand beside principals or namespaces")
    for name in ("requestPrincipals", "notRequestPrincipals"):
        yield from _each(lists[name], (*path, name), value.request_principal_problem)
    if action == "CUSTOM":
        for name in _NOT_IN_CUSTOM:
            if lists[name]:
                yield Problem(REFUSED, (*path, name), f"{name} is not accepted with CUSTOM")


def _operation(operation: Operation | None, path: Path) -> Iterator[Problem]:
    if operation is None or operation == Operation():
        yield Problem(REFUSED, path, "an operation must have at least one field")
        return
    lists = value.lists_of(operation)
    yield from _no_empty(lists, path)
    for name in ("ports", "notPorts"):
        yield from _each(lists[name], (*path, name), value.port_problem)
    for name in ("paths", "notPaths"):
        yield from _each(lists[name], (*path, name), value.path_problem)


def _condition(condition: When, path: Path, action: str) -> Iterator[Problem]:
    if not condition.key:
        yield Problem(REFUSED, (*path, "key"), "a condition needs a key")
        return
    if not condition.values and not condition.not_values:
        yield Problem(REFUSED, path, f"{condition.key} needs values or notValues")
    problem = value.key_problem(condition.key)
    if problem:
        yield Problem(REFUSED, (*path, "key"), problem)
        return
    for name, written in (("values", condition.values), ("notValues", condition.not_values)):
        yield from _no_empty({name: written}, path)
        yield from _each(written, (*path, name), value.value_check(condition.key))
        if condition.key == "source.serviceAccount":
            yield from _too_many(written, (*path, name))
    if value.needs_metadata(condition.key):
        yield Problem("MDP0302", (*path, "key"), f"{condition.key} is not honoured before M4")
    if action == "CUSTOM" and _custom_refuses(condition):
        yield Problem(REFUSED, (*path, "key"), f"{condition.key} is not accepted with CUSTOM in this form")


def _custom_refuses(condition: When) -> bool:
    if condition.key.startswith("request.auth."):
        return True
    return bool(condition.not_values) and condition.key in ("source.namespace", "source.principal")


def _service_accounts(accounts: list[str], path: Path) -> Iterator[Problem]:
    yield from _each(accounts, path, value.service_account_problem)
    yield from _too_many(accounts, path)


def _too_many(accounts: list[str], path: Path) -> Iterator[Problem]:
    if len(accounts) > value.SERVICE_ACCOUNTS_LIMIT:
        yield Problem(REFUSED, path, f"more than {value.SERVICE_ACCOUNTS_LIMIT} service accounts")


def _each(written: list[str], path: Path, check: value.Check) -> Iterator[Problem]:
    for index, text in enumerate(written):
        problem = check(text) if text else ""
        if problem:
            yield Problem(REFUSED, (*path, index), problem)


def _no_empty(lists: Mapping[str, list[str]], path: Path) -> Iterator[Problem]:
    for name, written in lists.items():
        for index, text in enumerate(written):
            problem = value.length_problem(text) if text else "a value must not be empty"
            if problem:
                yield Problem(REFUSED, (*path, name, index), problem)


def _empty_lists(written: Mapping[str, object]) -> Iterator[Problem]:
    """`from: []` reads as "from nobody" but means "from anybody": a cluster refuses it."""
    rules = written.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        for name in ("from", "to"):
            if isinstance(rule, dict) and rule.get(name) == []:
                yield Problem(REFUSED, ("spec", "rules", index, name), f"{name} must not be an empty list")


_TARGETS = frozenset(
    {
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
        ("networking.istio.io", "ServiceEntry"),
        ("", "Service"),
    }
)
_NOT_IN_CUSTOM = ("notPrincipals", "requestPrincipals", "notRequestPrincipals", "notNamespaces")
