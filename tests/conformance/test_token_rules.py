"""Istio's tables for RequestAuthentication: the providers that it makes of rules, against the rules of our section `authn`.

In:     conformance/authn/policy_applier_cases.json.
Out:    one id a case; a fetched set that istiod would inline is compared by where it is fetched.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from meshdp.compiler import compile_workload
from meshdp.compiler.select import Workload
from meshdp.resources import load
from meshdp.resources.tokens import usable_keys
from tests.support.conformance import Unsupported, params, table
from tests.support.tokens import Issuer

Json = dict[str, Any]
FILE = "authn/policy_applier_cases.json"
INLINE = Issuer().jwks()


def _named(prefix: str, test: str) -> dict[str, Json]:
    return {f"{prefix}/{re.sub(r'[^A-Za-z0-9]+', '-', row['name'])}": row for row in table(FILE, test)}


CASES = _named("jwt-config", "TestConvertToEnvoyJwtConfig") | _named("jwt-filter", "TestJwtFilter")
WORDS = _named("space-delimited", "TestBuildSpaceDelimitedClaims")


@pytest.mark.parametrize("case", params("authn", list(CASES)))
def test_rules_are_istios_providers(case: str) -> None:
    row = CASES[case]
    written = [rule for part in row["in"] for rule in (part["spec"].get("jwtRules", []) if "spec" in part else [part])]
    rules = _compiled([_readable(rule) for rule in written])
    expected = row["expected"] or {}
    expected = expected.get("typedConfig", expected)
    # Providers are named in the order of their rules, which Istio sorts by issuer as we do.
    wanted = [_wanted(provider) for _, provider in sorted(expected.get("providers", {}).items())]
    got = [{name: rule[name] for name in _COMPARED} for rule in rules]
    failure = None
    if sorted(got, key=str) != sorted(wanted, key=str):
        failure = f"expected {wanted}, got {got}"
    Unsupported.of("authn").settle(case, failure or _sources(written, rules))


@pytest.mark.parametrize("case", params("authn", list(WORDS)))
def test_claims_that_are_lists_of_words(case: str) -> None:
    row = WORDS[case]
    (rule,) = _compiled([{"issuer": "https://i", "jwks": INLINE, "spaceDelimitedClaims": row["input"] or []}])
    failure = None if rule["space_delimited"] == row["expected"] else f"{row}: {rule}"
    Unsupported.of("authn").settle(case, failure)


_COMPARED = ("issuer", "forward", "payload_header", "audiences")


def _wanted(provider: Json) -> Json:
    return {
        "issuer": provider["issuer"],
        "forward": provider["forward"],
        "payload_header": provider.get("forwardPayloadHeader", ""),
        "audiences": provider.get("audiences", []),
    }


def _sources(written: list[Json], rules: list[Json]) -> str | None:
    """Keys inline stay inline, keys at an address are fetched there, and without either they are discovered."""
    by_issuer = {rule["issuer"]: rule for rule in rules}
    for rule in written:
        got, readable = by_issuer[rule["issuer"]], _readable(rule)
        inline = usable_keys(INLINE) if "jwks" in rule else ""
        discovery = "" if "jwks" in rule or "jwksUri" in rule else f"{rule['issuer']}/.well-known/openid-configuration"
        wanted = (inline, readable.get("jwksUri", ""), discovery)
        if (got["jwks"], got["jwks_uri"], got["discovery"]) != wanted:
            return f"expected keys from {wanted}, got {got}"
    return None


def _readable(rule: Json) -> Json:
    """The data keeps neither the test server's address nor real keys."""
    changed = dict(rule)
    if "jwks" in rule:
        changed["jwks"] = INLINE
    if isinstance(rule.get("jwksUri"), dict):
        changed["jwksUri"] = "http://keys.example.com" + rule["jwksUri"]["args"][1]
    return changed


def _compiled(rules: list[Json]) -> list[Json]:
    meta = {"name": "r", "namespace": "ns"}
    document = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": meta}
    loaded = load([("in.json", json.dumps(document | {"spec": {"jwtRules": rules}}))])
    assert not loaded.errors, loaded.errors
    snapshot = compile_workload(loaded.resources, Workload("w", "ns", "w", {}, ("10.0.0.1",)))
    section = snapshot.section("authn") if "authn" in snapshot.sections else {"rules": []}
    assert isinstance(section, dict)
    return list(section["rules"])
