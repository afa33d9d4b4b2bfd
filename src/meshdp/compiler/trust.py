"""Expands principals and trust domains by the mesh's aliases.

In:     values of a policy and (trust domain, aliases…).
Out:    the values that mean the same in every one of these domains.
Source: spec/istio-semantics.md D.3; spec/istio-observed.md 11; conformance/authz/trustdomain_bundle_cases.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# In a policy this trust domain stands for the local one, whatever that is called.
LOCAL_DOMAIN = "cluster.local"
_PRINCIPAL_PARTS = 5  # domain / "ns" / namespace / "sa" / account


def expand_principals(principals: Iterable[str], trust_domains: Sequence[str]) -> list[str]:
    """One value per trust domain for a principal of the five-part form in a known domain; others stay."""
    expanded: list[str] = []
    for principal in principals:
        domain, _, rest = principal.partition("/")
        known = domain == LOCAL_DOMAIN or any(_matches(domain, other) for other in trust_domains)
        if principal.count("/") != _PRINCIPAL_PARTS - 1 or domain == "*" or not known:
            expanded.append(principal)
            continue
        expanded.extend(_unique(principal if _covers(domain, other) else f"{other}/{rest}" for other in trust_domains))
    return expanded


def expand_trust_domains(values: Iterable[str], trust_domains: Sequence[str]) -> list[str]:
    """A known domain stands for all of them; wildcards and foreign domains stay."""
    expanded: list[str] = []
    for value in values:
        expanded.extend(trust_domains if value in trust_domains else [value])
    return _unique(expanded)


def _matches(pattern: str, domain: str) -> bool:
    return _covers(pattern, domain) or (pattern.endswith("*") and domain.startswith(pattern[:-1]))


def _covers(pattern: str, domain: str) -> bool:
    if pattern.startswith("*"):
        return domain.endswith(pattern[1:])
    return pattern == domain


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
