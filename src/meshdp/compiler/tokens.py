"""Compiles the RequestAuthentications that select a workload into one list of rules for tokens.

In:     the directory and the workload.
Out:    section `authn`, judged by native/model/src/jwt; nothing where no token is asked for.
Fails:  never. A resource that was refused is not here: `authz` denies what it selects. Rules without a usable key stay,
        so that tokens of their issuer are refused.
Source: spec/istio-semantics.md E (selection, defaults).
"""

from __future__ import annotations

from collections.abc import Iterator

from meshdp.compiler.select import Directory, Workload, selects
from meshdp.compiler.snapshot import Authn, ClaimHeader, TokenHeader, TokenRule
from meshdp.resources.mesh import duration_ms
from meshdp.resources.security import RequestAuthentication
from meshdp.resources.tokens import DEFAULT_TIMEOUT_MS, RULES_LIMIT, JwtRule, usable_keys


def authn(directory: Directory, workload: Workload) -> dict[str, Authn]:
    """Section `authn`: the rules of all resources that select the workload, by issuer."""
    if too_many(directory, workload):
        return {}
    chosen = (policy for policy in selected(directory, workload) if not policy.broken)
    ordered = sorted(chosen, key=lambda policy: (policy.namespace, policy.name))
    rules = [_rule(policy, rule) for policy in ordered for rule in policy.spec.jwt_rules]
    return {"authn": Authn(sorted(rules, key=lambda rule: rule.issuer))} if rules else {}


def selected(directory: Directory, workload: Workload) -> Iterator[RequestAuthentication]:
    """D.1, as for AuthorizationPolicy."""
    for policy in directory.resources.all(RequestAuthentication):
        if not policy.targets_gateway and selects(policy, directory, workload):
            yield policy


def too_many(directory: Directory, workload: Workload) -> list[RequestAuthentication]:
    """The resources that together have more rules than the engine takes; none when they do not."""
    chosen = [policy for policy in selected(directory, workload) if not policy.broken]
    return chosen if sum(len(policy.spec.jwt_rules) for policy in chosen) > RULES_LIMIT else []


def _rule(policy: RequestAuthentication, rule: JwtRule) -> TokenRule:
    elsewhere = rule.from_headers or rule.from_params or rule.from_cookies
    headers = [TokenHeader(header.name.lower(), header.prefix) for header in rule.from_headers]
    discovery = "" if rule.jwks or rule.keys_at else _discovery(rule.issuer)
    return TokenRule(
        namespace=policy.namespace,
        name=policy.name,
        where=str(policy.where),
        issuer=rule.issuer,
        audiences=sorted(set(rule.audiences)),
        jwks=(usable_keys(rule.jwks) or NO_KEYS) if rule.jwks else "",
        jwks_uri=rule.keys_at,
        discovery=discovery,
        timeout_ms=duration_ms(rule.timeout) or DEFAULT_TIMEOUT_MS,
        headers=headers if elsewhere else [TokenHeader("authorization", "Bearer ")],
        params=list(rule.from_params) if elsewhere else ["access_token"],
        cookies=list(rule.from_cookies),
        forward=rule.forward_original_token,
        payload_header=rule.output_payload_to_header.lower(),
        claim_headers=[
            ClaimHeader(item.header.lower(), item.claim.split(".")) for item in rule.output_claim_to_headers
        ],
        space_delimited=sorted({"permission", "scope", *rule.space_delimited_claims}),
    )


def _discovery(issuer: str) -> str:
    """Where OIDC providers say where their keys are."""
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


# A key set without keys: every token is refused.
NO_KEYS = '{"keys":[]}'
