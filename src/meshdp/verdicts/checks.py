"""Finds what in policies cannot have been meant: beside what is wrong with a document, what is wrong with what it does.

In:     a `PolicySet`.
Out:    findings MDP0350 to MDP0358 (docs/configuration.md), each with the line of its field.
Limits: what is known of ports and workloads is what the files describe; a policy whose workloads no file describes is
        taken to select a workload with its selector's labels and ports of every kind.
Source: spec/istio-semantics.md D.2 to D.5 and J.1; spec/istio-observed.md 6 and 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshdp.compiler.listeners import Modes
from meshdp.compiler.select import Directory, Workload
from meshdp.documents import Path
from meshdp.errors import Finding
from meshdp.resources.meta import matches
from meshdp.resources.security import AuthorizationPolicy, RequestAuthentication
from meshdp.resources.service import protocol_of
from meshdp.resources.shape import dotted
from meshdp.verdicts.checks_rules import Repeated, repeated
from meshdp.verdicts.checks_values import hosts_without_port, idle_values, never_matches
from meshdp.verdicts.places import Places
from meshdp.verdicts.policies import PolicySet
from meshdp.verdicts.written import Field, WrittenRule, rules_of


@dataclass(frozen=True, slots=True)
class Checked:
    """One policy with its rules as written, and the described workloads that it selects."""

    policy: AuthorizationPolicy
    rules: Sequence[WrittenRule]
    workloads: Sequence[Workload]

    @property
    def is_described(self) -> bool:
        return bool(self.workloads)


def findings(policies: PolicySet) -> list[Finding]:
    """Everything there is to say, by place."""
    found = [*policies.loaded.findings, *_Checks(policies).all()]
    return sorted(found, key=lambda each: (each.where, each.code, each.path))


class _Checks:
    """All checks over one set."""

    def __init__(self, policies: PolicySet) -> None:
        self.resources = policies.resources
        self.directory = Directory(self.resources)
        self.places = Places()
        self.checked = [self._checked(each, policies.workloads) for each in self.resources.all(AuthorizationPolicy)]
        self.checked = [each for each in self.checked if not each.policy.broken and not each.policy.targets_gateway]

    def all(self) -> Iterator[Finding]:
        for each in self.checked:
            yield from self._values(each)
            yield from self._on_tcp(each)
            yield from self._tokens(each)
            yield from self._plaintext(each)
        for again in repeated([each.policy for each in self.checked], self.resources, self.directory.trust_domains):
            yield self._repeated(again)

    def _checked(self, policy: AuthorizationPolicy, workloads: Sequence[Workload]) -> Checked:
        root = self.resources.root_namespace
        near = [each for each in workloads if policy.namespace in (root, each.namespace)]
        selected = [each for each in near if matches(policy.spec.selector.match_labels, each.labels)]
        return Checked(policy, rules_of(policy, self.directory.trust_domains), selected)

    def _finding(self, code: str, policy: AuthorizationPolicy, path: Path, message: str) -> Finding:
        where = self.places.of(policy, path)
        return Finding.of(code, where, str(policy.key), dotted(path), message)

    # --- values -------------------------------------------------------------------------------------------------------

    def _values(self, each: Checked) -> Iterator[Finding]:
        for index, rule in enumerate(each.rules):
            for field in rule.fields:
                for place, problem in idle_values(field, self.directory.trust_domains):
                    yield self._finding("MDP0351", each.policy, (*field.path, place), problem)
                for place, problem in hosts_without_port(field):
                    yield self._finding("MDP0354", each.policy, (*field.path, place), problem)
            reason = never_matches(rule, self.directory.trust_domains)
            over_tcp = each.policy.spec.action == "ALLOW" or never_matches(
                _over_tcp(rule), self.directory.trust_domains
            )
            if reason:
                which = "it can never match" if over_tcp else "it can never match a request, and matches over TCP"
                yield self._finding("MDP0350", each.policy, ("spec", "rules", index), f"{which}: {reason}")

    # --- TCP ----------------------------------------------------------------------------------------------------------

    def _on_tcp(self, each: Checked) -> Iterator[Finding]:
        ports = self._tcp_ports(each)
        if ports is None or not each.policy.spec.rules or each.policy.spec.action == "AUDIT":
            return
        if each.policy.spec.action == "ALLOW":
            if all(_http_fields(rule) for rule in each.rules):
                message = f"each of its rules asks for HTTP, so that nothing is allowed {ports}"
                yield self._finding("MDP0352", each.policy, ("spec", "rules"), message)
            return
        for index, rule in enumerate(each.rules):
            asked = _http_fields(rule)
            if asked:
                left = len(list(rule.fields)) - len(asked)
                wider = "what its other fields say" if left else "everything"
                message = f"it denies {wider} {ports}: {', '.join(asked)} cannot be asked there"
                yield self._finding("MDP0353", each.policy, ("spec", "rules", index), message)

    def _tcp_ports(self, each: Checked) -> str | None:
        """Where bytes are carried that are not HTTP, in words; None where nobody declares such a port."""
        if not each.is_described:
            return "on TCP ports"
        for workload in each.workloads:
            for target in self.directory.targets_of(workload):
                if target.port.protocol == "TCP" and protocol_of(target.port) == "tcp":
                    return f"on port {target.number} of {workload.namespace}/{workload.shown_name}"
        return None

    # --- tokens and plaintext -----------------------------------------------------------------------------------------

    def _tokens(self, each: Checked) -> Iterator[Finding]:
        asked = [field for rule in each.rules for field in rule.fields if _is_of_token(field)]
        if not asked or any(self._verifies(token, each.policy) for token in self.resources.all(RequestAuthentication)):
            return
        message = (
            f"no RequestAuthentication verifies tokens for what it selects, so that {asked[0].name} is never there"
        )
        yield self._finding("MDP0355", each.policy, asked[0].path, message)

    def _verifies(self, token: RequestAuthentication, policy: AuthorizationPolicy) -> bool:
        near = token.namespace in (self.resources.root_namespace, policy.namespace)
        return near and matches(token.spec.selector.match_labels, policy.spec.selector.match_labels)

    def _plaintext(self, each: Checked) -> Iterator[Finding]:
        asked = [
            field for rule in each.rules for field in rule.fields if field.name in _IDENTITY or field.key in _IDENTITY
        ]
        mode = self._weakest_mode(each)
        if not asked or mode == "STRICT":
            return
        # What lets plaintext pass is worse than what keeps it out.
        risky = [field for field in asked if field.negated == (each.policy.spec.action == "ALLOW")]
        field = (risky or asked)[0]
        effect = "a caller in plaintext gets past it" if risky else "a caller in plaintext never matches it"
        message = f"{mode} mutual TLS lets plaintext in, which has no identity: {effect}"
        yield self._finding("MDP0356", each.policy, field.path, message)

    def _weakest_mode(self, each: Checked) -> str:
        selector = each.policy.spec.selector.match_labels
        described = [(workload.namespace, workload.labels) for workload in each.workloads]
        labelled = described or [(each.policy.namespace, selector)]
        modes = {mode for namespace, labels in labelled for mode in _modes(Modes.of(self.resources, namespace, labels))}
        return next(mode for mode in ("DISABLE", "PERMISSIVE", "STRICT") if mode in modes)

    # --- rules that others make needless ------------------------------------------------------------------------------

    def _repeated(self, again: Repeated) -> Finding:
        other = self.places.of(again.other, ("spec", "rules", again.other_rule))
        named = f"rule {again.other_rule} of {again.other.namespace}/{again.other.name} ({other})"
        code, verb = ("MDP0357", "the same as") if again.is_same else ("MDP0358", "covered by")
        said = f"it is {verb} {named}"
        if again.other.spec.action != again.policy.spec.action:
            said = f"{named} denies all that it would allow"
        return self._finding(code, again.policy, ("spec", "rules", again.rule), said)


def _http_fields(rule: WrittenRule) -> list[str]:
    """The fields of a rule that only HTTP has (D.5)."""
    return [field.name for field in rule.fields if _is_of_http(field)]


def _over_tcp(rule: WrittenRule) -> WrittenRule:
    """What is left of a rule that is no ALLOW rule."""
    left = [[[field for field in part if not _is_of_http(field)] for part in parts] for parts in (rule.from_, rule.to)]
    return WrittenRule(left[0], left[1], [field for field in rule.when if not _is_of_http(field)])


def _is_of_http(field: Field) -> bool:
    if field.key:
        return field.key.startswith("request.")
    return field.name.removeprefix("not").lower() in ("hosts", "methods", "paths", "requestprincipals")


def _is_of_token(field: Field) -> bool:
    return field.key.startswith("request.auth.") or field.name in ("requestPrincipals", "notRequestPrincipals")


def _modes(modes: Modes) -> set[str]:
    return {modes.workload, *modes.ports.values()}


_IDENTITY = frozenset(
    """principals notPrincipals namespaces notNamespaces serviceAccounts notServiceAccounts trustDomains notTrustDomains
    source.principal source.namespace source.serviceAccount source.trustDomain""".split()
)
