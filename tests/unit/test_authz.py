"""AuthorizationPolicy to predicates: values, keys, selection, and what fails closed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.meshes import policy, section

ALWAYS: list[dict[str, list[str]]] = [{"from": [], "to": [], "when": []}]


def _policies(*texts: str) -> list[dict[str, Any]]:
    return list(section("authz", *texts)["policies"])


def _authz(spec: str, name: str = "p", namespace: str = "default") -> str:
    return policy("AuthorizationPolicy", spec, name, namespace)


def _source(text: str) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    (found,) = _policies(_authz(f"{{rules: [{{from: [{{source: {{{text}}}}}]}}]}}"))
    return _flat(found["rules"][0]["from"][0])


def _operation(text: str) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    (found,) = _policies(_authz(f"{{rules: [{{to: [{{operation: {{{text}}}}}]}}]}}"))
    return _flat(found["rules"][0]["to"][0])


def _when(text: str) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    (found,) = _policies(_authz(f"{{rules: [{{when: [{{{text}}}]}}]}}"))
    return _flat(found["rules"][0]["when"])


def _flat(predicates: list[dict[str, Any]]) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    return [
        (item["field"], item["negate"], [(value["kind"], value["value"]) for value in item["values"]])
        for item in predicates
    ]


def test_a_policy_keeps_its_place_and_shape() -> None:
    (found,) = _policies(_authz("{action: DENY, rules: [{}]}"))
    assert found == {
        "namespace": "default",
        "name": "p",
        "action": "DENY",
        "dry_run": False,
        "where": "p0.yaml:1",
        "rules": ALWAYS,
    }
    assert _policies(_authz("{}"))[0]["rules"] == []


def test_selection_is_by_namespace_and_labels_and_not_by_target() -> None:
    texts = (
        _authz("{}", "own"),
        _authz("{}", "root", "istio-system"),
        _authz("{}", "other", "other"),
        _authz("{selector: {matchLabels: {app: details}}}", "selected"),
        _authz("{selector: {matchLabels: {app: reviews}}}", "not-selected"),
        _authz("{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g}}", "gateway"),
    )
    names = [(found["namespace"], found["name"]) for found in _policies(*texts)]
    assert names == [("default", "own"), ("default", "selected"), ("istio-system", "root")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("principals: [a/b, 'a*', '*']", [("principal", False, [("exact", "a/b"), ("prefix", "a"), ("present", "")])]),
        (
            "principals: ['*/sa/x', a, 'b*', '*']",
            [
                (
                    "identity",
                    False,
                    [
                        ("regex", "spiffe://.*/sa/x"),
                        ("exact", "spiffe://a"),
                        ("prefix", "spiffe://b"),
                        ("prefix", "spiffe://"),
                    ],
                )
            ],
        ),
        ("notPrincipals: ['*']", [("principal", True, [("present", "")])]),
        ("namespaces: [a.b, 'x*y']", [("identity", False, [("regex", r".*/ns/a\.b/.*"), ("regex", ".*/ns/x.*y/.*")])]),
        (
            "serviceAccounts: [sa, ns/sa]",
            [
                (
                    "identity",
                    False,
                    [
                        ("regex", "spiffe://.+/ns/default/(.+/)?sa/sa(/.+)?"),
                        ("regex", "spiffe://.+/ns/ns/(.+/)?sa/sa(/.+)?"),
                    ],
                )
            ],
        ),
        (
            "trustDomains: [a, '*', 'b.*']",
            [
                (
                    "identity",
                    False,
                    [("prefix", "spiffe://a/"), ("prefix", "spiffe://"), ("regex", r"spiffe://b\.[^/]*/.*")],
                )
            ],
        ),
        ("ipBlocks: [10.1.2.3/8, '::1']", [("source_ip", False, [("cidr", "10.0.0.0/8"), ("cidr", "::1/128")])]),
        ("notRemoteIpBlocks: [1.2.3.4]", [("remote_ip", True, [("cidr", "1.2.3.4/32")])]),
        (
            "requestPrincipals: [i/s, i/*, i/s*, '*/s', '*i/s', '*s', 'i*', i], notRequestPrincipals: ['*']",
            [
                (
                    "request_principal",
                    False,
                    [
                        ("exact", "i\0s"),
                        ("regex", r"i\x00[^\x00]+"),
                        ("prefix", "i\0s"),
                        ("suffix", "\0s"),
                        ("suffix", "i\0s"),
                        ("suffix", "s"),
                        ("prefix", "i"),
                        ("exact", "i"),
                    ],
                ),
                ("request_principal", True, [("regex", r"[^\x00]+\x00[^\x00]+")]),
            ],
        ),
    ],
)
def test_sources(text: str, expected: list[Any]) -> None:
    assert _source(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "hosts: [a.b, '*.b', 'a:*', '*']",
            [("host", False, [("exact", "a.b"), ("suffix", ".b"), ("prefix", "a:"), ("prefix", "")])],
        ),
        ("notHosts: [a]", [("host", True, [("exact", "a")])]),
        ("methods: [GET, '*']", [("method", False, [("exact", "GET"), ("prefix", "")])]),
        (
            "paths: ['/a/{*}', '/b*', '*c*', '*']",
            [("path", False, [("template", "/a/{*}"), ("prefix", "/b"), ("suffix", "c*"), ("present", "")])],
        ),
        (
            "ports: ['080'], notPorts: ['0']",
            [("destination_port", False, [("exact", "80")]), ("destination_port", True, [("exact", "0")])],
        ),
    ],
)
def test_operations(text: str, expected: list[Any]) -> None:
    assert _operation(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "key: 'request.headers[X-A]', values: [v, '*'], notValues: [w]",
            [("header", False, [("exact", "v"), ("prefix", "")]), ("header", True, [("exact", "w")])],
        ),
        ("key: source.ip, values: [1.2.3.0/24]", [("source_ip", False, [("cidr", "1.2.3.0/24")])]),
        ("key: destination.ip, values: [1.2.3.4]", [("destination_ip", False, [("cidr", "1.2.3.4/32")])]),
        ("key: destination.port, values: ['80']", [("destination_port", False, [("exact", "80")])]),
        ("key: connection.sni, values: [A, '*']", [("sni", False, [("exact", "A"), ("present", "")])]),
        ("key: source.principal, values: [a]", [("principal", False, [("exact", "a")])]),
        ("key: source.namespace, notValues: [a]", [("identity", True, [("regex", ".*/ns/a/.*")])]),
        ("key: request.auth.principal, values: [a/b]", [("request_principal", False, [("exact", "a\0b")])]),
        ("key: request.auth.audiences, values: [a]", [("claim", False, [("exact", "a")])]),
        ("key: 'request.auth.claims[a][b]', notValues: ['x*']", [("claim", True, [("prefix", "x")])]),
        ("key: 'experimental.envoy.filters.a[b]', values: [a]", [("unsupported", False, [])]),
    ],
)
def test_conditions(text: str, expected: list[Any]) -> None:
    assert _when(text) == expected


def test_header_names_are_lower_case() -> None:
    (found,) = _policies(_authz("{rules: [{when: [{key: 'request.headers[X-A]', values: [v]}]}]}"))
    assert found["rules"][0]["when"][0]["name"] == "x-a"


@pytest.mark.parametrize(
    ("annotation", "dry_run"), [("true", True), ("T", True), ("1", True), ("false", False), ("0", False)]
)
def test_az_15_a_dry_run_is_marked(annotation: str, dry_run: bool) -> None:
    text = _authz("{action: DENY, rules: [{}]}").replace(
        "namespace:", f"annotations: {{istio.io/dry-run: '{annotation}'}}, namespace:"
    )
    assert _policies(text)[0]["dry_run"] is dry_run


@pytest.mark.parametrize(
    "spec", ["{rules: 7}", "{action: AUDIT, rulez: []}", "{rules: [{when: [{key: nonsense, values: [a]}]}]}"]
)
def test_2_19_a_policy_that_cannot_be_read_denies_what_it_selects(spec: str) -> None:
    (found,) = _policies(_authz(spec))
    assert (found["action"], found["dry_run"], found["rules"]) == ("DENY", False, ALWAYS)


def test_2_19_a_broken_policy_for_others_does_not_deny_us() -> None:
    assert _policies(_authz("{selector: {matchLabels: {app: reviews}}, rules: 7}")) == []


def test_custom_denies_what_its_rules_match_until_providers_are_called() -> None:
    text = "{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/a]}}]}]}"
    (found,) = _policies(_authz(text))
    assert found["action"] == "DENY"
    assert _flat(found["rules"][0]["to"][0]) == [("path", False, [("exact", "/a")])]


@pytest.mark.parametrize(
    "spec",
    [
        "{jwtRules: [{}]}",
        "{jwtRules: [{issuer: https://a, jwksUrl: https://b}]}",
        "{jwtRules: [{issuer: https://a, outputClaimToHeaders: [{header: Host, claim: sub}]}]}",
    ],
)
def test_a_request_authentication_that_cannot_be_honoured_closes_what_it_selects(spec: str) -> None:
    (found,) = _policies(policy("RequestAuthentication", spec, "jwt"))
    assert (found["name"], found["action"], found["rules"]) == ("RequestAuthentication/jwt", "DENY", ALWAYS)


def test_more_rules_than_the_engine_takes_close_what_they_select() -> None:
    rules = ", ".join(f"{{issuer: https://i{number}}}" for number in range(33))
    texts = [policy("RequestAuthentication", f"{{jwtRules: [{rules}]}}", name) for name in ("a", "b")]
    assert [found["action"] for found in _policies("---\n".join(texts))] == ["DENY", "DENY"]


def test_aliases_expand_principals_and_exact_trust_domains() -> None:
    mesh = (
        "apiVersion: meshdp.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\n"
        "spec: {trustDomain: td, trustDomainAliases: [old]}\n"
    )
    text = _authz(
        "{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b, td/ns/a/*], trustDomains: [old, 'o*']}}]}]}"
    )
    (found,) = _policies(mesh, text)
    assert _flat(found["rules"][0]["from"][0]) == [
        ("principal", False, [("exact", "td/ns/a/sa/b"), ("exact", "old/ns/a/sa/b"), ("prefix", "td/ns/a/")]),
        ("identity", False, [("prefix", "spiffe://td/"), ("prefix", "spiffe://old/"), ("regex", "spiffe://o[^/]*/.*")]),
    ]
