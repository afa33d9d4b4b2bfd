"""Istio's own tables for policies: mode resolution, selection, trust domains, validation; transcribed, not computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from meshdp.compiler import Workload
from meshdp.compiler.authz import selected
from meshdp.compiler.listeners import Modes
from meshdp.compiler.predicates import Predicates
from meshdp.compiler.select import Directory
from meshdp.compiler.trust import expand_principals
from meshdp.resources import load, values
from meshdp.resources.security import Source
from tests.support.conformance import ROOT, Entry, Unsupported, params, read, table

Json = dict[str, Any]
Judgement = Callable[[Json], str | None]


def _named(prefix: str, cases: list[Json]) -> dict[str, Json]:
    """Ids from the cases' names, numbered where a table has none or repeats one."""
    found: dict[str, Json] = {}
    for index, case in enumerate(cases):
        name = case.get("name") or case.get("Name") or case.get("key") or str(index)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", str(name)).strip("-")
        found[f"{prefix}/{slug}" if f"{prefix}/{slug}" not in found else f"{prefix}/{slug}-{index}"] = case
    return found


def _settle(topic: str, case: str, failure: str | None, feature: Entry | None = None) -> None:
    Unsupported.of(topic).settle(case, failure, feature=feature)


def _lost_in_transcription(row: Json) -> Entry | None:
    """Selection cases whose policies differ by action, selector or target, none of which the data kept."""
    policies = json.dumps(row.get("configs") or [])
    told_apart = any(row.get(f"want{action}") for action in ("Deny", "Audit", "Custom"))
    named = re.search("selector|targetRef|waypoint", row["name"], re.IGNORECASE)
    if "action" in policies or not (told_apart or named):
        return None
    return {"reason": "the transcribed case lost what tells its policies apart", "milestone": "data"}


COMPOSE = _named("compose", table("authn/policy_applier_cases.json", "TestComposePeerAuthentication"))


@pytest.mark.parametrize("case", params("authn", list(COMPOSE)))
def test_modes_of_a_workload(case: str) -> None:
    row = COMPOSE[case]
    documents = [_policy("PeerAuthentication", config, str(index)) for index, config in enumerate(row["configs"])]
    resources = load([("mesh.json", _mesh("root-namespace")), ("in.yaml", yaml.safe_dump_all(documents))])
    modes = Modes.of(resources.resources, "my-ns", {"app": "foo", "stage": "prod"})
    wanted = {int(port): mode for port, mode in (row["want"].get("PerPort") or {}).items()}
    got = (modes.workload, dict(modes.ports))
    expected = (row["want"]["Mode"], wanted)
    _settle("authn", case, None if got == expected and not resources.errors else f"{expected} is not {got}")


SELECTION = _named(
    "selection", table("authz/selection_cases.json", "TestAuthorizationPolicies_ListAuthorizationPolicies")
)


@pytest.mark.parametrize("case", params("authz", list(SELECTION)))
def test_policies_of_a_workload(case: str) -> None:
    row = SELECTION[case]
    options = row["selectionOpts"]
    documents = [_policy("AuthorizationPolicy", config, str(i)) for i, config in enumerate(row.get("configs") or [])]
    found = load([("mesh.json", _mesh("istio-config")), ("in.yaml", yaml.safe_dump_all(documents))])
    labels = {name: text for name, text in (options.get("WorkloadLabels") or {}).items() if name != "$type"}
    workload = Workload("w", options["WorkloadNamespace"], "w", labels, ())
    got = sorted(
        (policy.spec.action, policy.namespace, policy.name) for policy in selected(Directory(found.resources), workload)
    )
    expected = sorted(
        (action.upper(), item["Namespace"], item["Name"])
        for action in ("Allow", "Deny", "Audit", "Custom")
        for item in row.get(f"want{action}") or []
    )
    failure = None if got == expected else f"{expected} is not {got}"
    _settle("authz", case, failure, _lost_in_transcription(row))


ALIASES = _named("trust-domain", table("authz/trustdomain_bundle_cases.json", "TestReplaceTrustDomainAliases"))


@pytest.mark.parametrize("case", params("authz", list(ALIASES)))
def test_principals_under_aliases(case: str) -> None:
    row = ALIASES[case]
    own, aliases = row["trustDomainBundle"]["TrustDomains"]
    got = expand_principals(row["principals"], [*own, *(aliases or [])])
    _settle("authz", case, None if got == row["expect"] else f"{row['expect']} is not {got}")


def _regex_of(source: Source) -> list[str]:
    (predicate,) = Predicates("ns", ("cluster.local",)).source(source)
    return [value.value for value in predicate.values]


def _service_account(row: Json) -> str | None:
    identity = row["Identity"]
    if not isinstance(identity, str):  # a Go expression: a prefix and a joined list
        identity = identity["args"][0] + "/".join(identity["args"][1]["args"][0])
    matched = any(re.fullmatch(regex, identity) for regex in _regex_of(Source(service_accounts=[row["Input"]])))
    return None if matched is row["Match"] else f"{row['Input']} on {identity}: {matched}"


def _namespace(row: Json) -> str | None:
    (regex,) = _regex_of(Source(namespaces=[row["v"]]))
    good = re.fullmatch(regex, row["match"]) and not re.fullmatch(regex, row["noMatch"])
    return None if good else regex


def _suffix(row: Json) -> str | None:
    (regex,) = _regex_of(Source(principals=[row["v"]]))
    good = re.fullmatch(regex, row["match"]) and not re.fullmatch(regex, row["noMatch"])
    return None if good else regex


def _refusals(check: values.Check) -> Judgement:
    def judged(row: Json) -> str | None:
        refused = any(check(text) for text in row["values"])
        return None if refused is bool(row.get("wantError")) else f"{row}: refused is {refused}"

    return judged


def _condition(row: Json) -> str | None:
    check = values.value_check(row["key"])
    refused = bool(values.key_problem(row["key"])) or any(not text or check(text) for text in row["values"])
    return None if refused is bool(row.get("wantError")) else f"{row}: refused is {refused}"


def _jwks(row: Json) -> str | None:
    refused = bool(values.jwks_uri_problem(row["in"]))
    return None if refused is bool(row.get("expectedError")) else f"{row}: refused is {refused}"


def _literal(row: Json) -> str | None:
    return None if values.is_literal(row["glob"]) is row["expected"] else str(row)


def _template(row: Json) -> str | None:
    return None if values.is_template(row["path"]) is row["isPathTemplate"] else str(row)


def _port(row: Json) -> str | None:
    return None if bool(values.port_problem(row["V"])) is bool(row.get("Err")) else str(row)


_SECURITY = "authz/security_validation_cases.json"
VALUES: dict[str, tuple[Judgement, Json]] = {
    name: (judged, row)
    for prefix, file, test, judged in (
        ("service-account", "authz/generator_cases.json", "TestServiceAccount", _service_account),
        ("namespace", "authz/generator_cases.json", "TestNamespaceMatcherRegex_Match", _namespace),
        ("suffix", "authz/matcher_string_cases.json", "TestStringMatcherRegex_Match", _suffix),
        ("wildcards", _SECURITY, "TestCheckWildcardValues", _refusals(values.wildcard_problem)),
        ("trust-domains", _SECURITY, "TestCheckTrustDomainValues", _refusals(values.trust_domain_problem)),
        ("condition", _SECURITY, "TestValidateCondition", _condition),
        ("template", _SECURITY, "TestCheckValidPathTemplate", _refusals(values.path_problem)),
        ("jwks-uri", _SECURITY, "TestParseJwksURI", _jwks),
        ("literal", _SECURITY, "TestIsValidLiteral", _literal),
        ("contains-template", _SECURITY, "TestContainsPathTemplate", _template),
        ("port", "authz/model_util_cases.json", "TestConvertToPort", _port),
    )
    for name, row in _named(prefix, table(file, test)).items()
}


@pytest.mark.parametrize("case", params("authz", list(VALUES)))
def test_values(case: str) -> None:
    judged, row = VALUES[case]
    _settle("authz", case, judged(row))


WEBHOOK = {
    f"{kind}/{name}": (kind, row)
    for kind in (
        "AuthorizationPolicy",
        "DestinationRule",
        "PeerAuthentication",
        "RequestAuthentication",
        "WorkloadEntry",
    )
    for name, row in _named(
        "webhook", table("validation/networking_validation_cases.json", f"TestValidate{kind}")
    ).items()
}


@pytest.mark.parametrize("case", params("validation", list(WEBHOOK)))
def test_what_the_webhook_says(case: str) -> None:
    kind, row = WEBHOOK[case]
    spec = {name: value for name, value in row["in"].items() if name != "$type"}
    for rule in spec.get("jwtRules", []):
        if rule.get("issuer") == "":
            del rule["issuer"]  # what is empty in Go is absent in a document, where the schema refuses it written out
    metadata = {"name": "x", "namespace": "default", "annotations": row.get("annotations") or {}}
    document = _object(kind, metadata, spec)
    errors = load([("in.yaml", yaml.safe_dump(document))]).errors
    _settle("validation", case, None if (not errors) is row["valid"] else f"valid={row['valid']}, got {errors}")


TLS = _named("tls", table("validation/mesh_validation_cases.json", "TestValidateTLS"))


@pytest.mark.parametrize("case", params("validation", list(TLS)))
def test_tls_of_a_destination_rule(case: str) -> None:
    row = TLS[case]
    tls = {name: value for name, value in row["tls"].items() if name != "$type"}
    document = _object("DestinationRule", {"name": "x"}, {"host": "h", "trafficPolicy": {"tls": tls}})
    errors = load([("in.yaml", yaml.safe_dump(document))]).errors
    _settle("validation", case, None if (not errors) is row["valid"] else f"valid={row['valid']}, got {errors}")


def _crd_cases() -> dict[str, tuple[bool, Json]]:
    found = {}
    for name in ("authz", "destinationrule", "peerauth", "reqauth"):
        for valid in (True, False):
            path = ROOT / "validation" / "api-crd" / f"{name}-{'valid' if valid else 'invalid'}.yaml"
            documents = yaml.safe_load_all(path.read_text()) if path.exists() else ()
            for document in (document for document in documents if document):
                case = f"api-crd/{name}/{document['metadata']['name']}"
                found[case if case not in found else f"{case}-{len(found)}"] = (valid, document)
    return found


CRD = _crd_cases()


@pytest.mark.parametrize("case", params("validation", list(CRD)))
def test_what_the_schema_says(case: str) -> None:
    valid, document = CRD[case]
    errors = load([("in.yaml", yaml.safe_dump({k: v for k, v in document.items() if k != "_err"}))]).errors
    _settle("validation", case, None if (not errors) is valid else f"valid={valid}, got {errors}")


def test_the_data_is_read() -> None:
    """Guards against a renamed table silently emptying a topic."""
    if not (ROOT / "INDEX.md").exists():
        pytest.skip(f"no conformance data under {ROOT.name}/")
    assert read(_SECURITY)["tables"]


def _policy(kind: str, config: Json, index: str) -> Json:
    meta = config["meta"]
    created = meta.get("creationTimestamp", "<now>")
    second = "10" if created == "<now>" else "09"
    metadata = {
        "name": meta["name"].replace(" ", "-"),
        "namespace": meta["namespace"],
        "creationTimestamp": f"2026-01-01T00:00:{second}Z",
    }
    return _object(kind, metadata, config["spec"])


def _object(kind: str, metadata: Json, spec: Json) -> Json:
    group = "networking" if kind in ("DestinationRule", "WorkloadEntry") else "security"
    return {"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _mesh(root: str) -> str:
    document = {
        "apiVersion": "meshdp.io/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh"},
        "spec": {"rootNamespace": root},
    }
    return json.dumps(document)
