"""DestinationRule: which rule holds for a client, and what its TLS makes of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.meshes import loaded, snapshot

HOST = "details.default.svc.cluster.local"
KEY = f"outbound|9080||{HOST}"
SECOND = f"outbound|9000||{HOST}"
SIMPLE = "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /ca.pem}}"
STATES = ("auto", "plain", "mesh", "origin", "refused")


def rule(body: str, name: str = "r", namespace: str = "default", created: str = "2026-01-01T00:00:00Z") -> str:
    """A DestinationRule; its spec in flow style, without braces."""
    metadata = f"{{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}"
    return f"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {metadata}\nspec: {{{body}}}\n"


def codes(*documents: str) -> list[str]:
    return [item.code for item in loaded(*documents).findings if "headless" not in item.message]


def cluster(*documents: str, key: str = KEY) -> dict[str, Any]:
    found = snapshot(*documents).section(f"cluster/{key}")
    assert isinstance(found, dict)
    return found


def state(*documents: str, key: str = KEY) -> str:
    """How the endpoints of a cluster are dialled. The first has a sidecar, the second has none."""
    made = snapshot(*documents)
    originated: Any = made.section(f"cluster/{key}")
    endpoints: Any = made.section(f"endpoints/{key}")
    mtls = [endpoint["mtls"] for endpoint in endpoints["endpoints"]]
    if originated["origination"] is not None:
        assert mtls == [False] * len(mtls)
        return "refused" if originated["origination"]["refused"] else "origin"
    return {(False, False): "plain", (True, True): "mesh", (True, False): "auto"}[mtls[0], mtls[-1]]


def tls(text: str) -> str:
    return rule(f"host: details, trafficPolicy: {{tls: {{{text}}}}}")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("mode: DISABLE", "plain"),
        ("mode: ISTIO_MUTUAL", "mesh"),
        ("mode: SIMPLE", "origin"),
        ("mode: SIMPLE, insecureSkipVerify: true", "origin"),
        ("mode: MUTUAL, clientCertificate: /c, privateKey: /k", "origin"),
        ("mode: SIMPLE, credentialName: c", "refused"),
        ("mode: MUTUAL, credentialName: c", "refused"),
        ("mode: SIMPLE, caCrl: /crl", "refused"),
        ("mode: MUTUAL, clientCertificate: /c", "refused"),
        ("mode: SIMPLE, caCertificates: /ca, insecureSkipVerify: true", "refused"),
        ("mode: SIMPLE, sny: typo", "refused"),
        ("mode: SIMPEL", "refused"),
    ],
)
def test_what_a_mode_makes_of_a_cluster(settings: str, expected: str) -> None:
    assert state(tls(settings)) == expected


def test_without_tls_mutual_tls_stays_automatic() -> None:
    assert state() == "auto"
    assert state(rule("host: details, trafficPolicy: {loadBalancer: {simple: RANDOM}}")) == "auto"
    assert state(rule("host: other-service, trafficPolicy: {tls: {mode: DISABLE}}")) == "auto"


def test_files_and_names_go_into_the_cluster() -> None:
    settings = (
        "mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, sni: a.example, "
        "subjectAltNames: [z.example, b.example]"
    )
    assert cluster(tls(settings))["origination"] == {
        "refused": "",
        "sni": "a.example",
        "names": ["b.example", "z.example"],
        "authorities": "/ca",
        "certificate": "/c",
        "key": "/k",
        "verify": True,
    }
    simple = cluster(tls("mode: SIMPLE, caCertificates: system, clientCertificate: /c"))["origination"]
    assert (simple["sni"], simple["authorities"], simple["certificate"]) == (HOST, "", "")
    assert not cluster(tls("mode: SIMPLE, insecureSkipVerify: true"))["origination"]["verify"]


def test_mutual_tls_of_the_mesh_takes_the_rules_names() -> None:
    usual, named = cluster(tls("mode: ISTIO_MUTUAL")), "spiffe://cluster.local/ns/default/sa/other"
    assert usual == cluster()
    found = cluster(tls(f"mode: ISTIO_MUTUAL, sni: a.example, subjectAltNames: ['{named}']"))
    assert (found["sni"], found["identities"]) == ("a.example", [named])


def test_a_port_of_its_own_replaces_the_whole() -> None:
    ports = "portLevelSettings: [{port: {number: 9080}, tls: {mode: DISABLE}}, {port: {number: 9000}}]"
    text = rule(f"host: details, trafficPolicy: {{tls: {{mode: SIMPLE}}, {ports}}}")
    assert state(text) == "plain"
    # B.5: without `tls` the entry takes the rule's away.
    assert cluster(text, key=SECOND)["origination"] is None
    other = rule("host: details, trafficPolicy: {portLevelSettings: [{port: {number: 1}, tls: {mode: SIMPLE}}]}")
    assert state(other) == "auto"


def disabling(name: str, namespace: str = "default", host: str = HOST, more: str = "", created: str = "2026") -> str:
    return rule(f"host: '{host}', trafficPolicy: {{tls: {{mode: DISABLE}}}}{more}", name, namespace, created)


def simple(name: str, namespace: str = "default", host: str = HOST, more: str = "", created: str = "2026") -> str:
    return rule(f"host: '{host}', {SIMPLE}{more}", name, namespace, created)


def test_the_clients_namespace_comes_first_then_the_services_then_the_root() -> None:
    echo = "outbound|80||echo.other.svc.cluster.local"
    host = "echo.other.svc.cluster.local"
    own, theirs, root = simple("a", "default", host), disabling("b", "other", host), simple("c", "istio-system", host)
    assert state(own, theirs, root, key=echo) == "origin"
    assert state(theirs, root, key=echo) == "plain"
    assert state(root, key=echo) == "origin"
    assert state(disabling("d", "elsewhere", host), key=echo) == "auto"


@pytest.mark.parametrize(
    ("audience", "seen"), [("['*']", True), ("[default]", True), ("['.']", False), ("[elsewhere]", False)]
)
def test_a_rule_is_seen_by_those_it_is_exported_to(audience: str, seen: bool) -> None:
    host = "echo.other.svc.cluster.local"
    text = disabling("a", "other", host, f", exportTo: {audience}")
    assert state(text, key=f"outbound|80||{host}") == ("plain" if seen else "auto")


def test_a_selector_names_the_clients() -> None:
    mine = ", workloadSelector: {matchLabels: {version: v1}}"
    others = ", workloadSelector: {matchLabels: {version: v2}}"
    assert state(simple("a"), disabling("b", more=mine)) == "plain"
    assert state(simple("a"), disabling("b", more=others)) == "origin"
    assert state(disabling("b", more=others)) == "auto"
    # It counts in its own namespace alone.
    host = "echo.other.svc.cluster.local"
    assert state(disabling("a", "other", host, mine), key=f"outbound|80||{host}") == "auto"


def test_the_most_specific_host_counts_and_short_names_are_of_the_rules_namespace() -> None:
    assert state(simple("a", host="*.cluster.local"), disabling("b", host="*.svc.cluster.local")) == "plain"
    assert state(simple("a", host="details"), disabling("b", host="*")) == "origin"
    assert state(simple("a", "istio-system", host="details")) == "auto"


def test_the_oldest_policy_of_a_host_counts() -> None:
    empty = rule(f"host: {HOST}", "a", created="2025")
    assert state(empty, disabling("c", created="2027"), simple("b", created="2028")) == "plain"


def test_findings_name_what_is_refused_and_what_is_not_honoured() -> None:
    assert codes(tls("mode: SIMPLE, credentialName: c")) == ["MDP0381"]
    assert codes(tls("mode: SIMPLE, insecureSkipVerify: true")) == ["MDP0382"]
    assert codes(tls("mode: MUTUAL, clientCertificate: /c")) == ["MDP0380"]
    assert codes(tls("mode: SIMPLE, credentialName: c, caCertificates: /c")) == ["MDP0380", "MDP0381"]
    assert codes(rule("trafficPolicy: {}")) == ["MDP0380"]
    assert codes(rule("host: details, trafficPolicy: {portLevelSettings: [{tls: {mode: DISABLE}}]}")) == ["MDP0380"]
    unhonoured = "outlierDetection: {}, portLevelSettings: [{port: {number: 1}, connectionPool: {}}]"
    assert codes(rule(f"host: details, subsets: [{{name: a}}], trafficPolicy: {{{unhonoured}}}")) == ["MDP0402"] * 3


def test_a_rule_for_a_host_that_nobody_is_routed_to_is_named() -> None:
    tls = "trafficPolicy: {tls: {mode: SIMPLE}}"
    assert [codes(rule(f"host: '{host}', {tls}")) for host in ("details", "*.svc.cluster.local", "*")] == [[]] * 3
    for host in ("ratings", "api.example.com", "*.example.com"):  # ratings is headless
        assert codes(rule(f"host: '{host}', {tls}")) == ["MDP0305"], host
    assert codes(rule("host: api.example.com, trafficPolicy: {}")) == []


def test_a_rule_that_cannot_be_read_and_asks_for_no_tls_changes_nothing() -> None:
    text = rule("host: details, trafficPolicy: {loadBalancer: {}, typo: 1}")
    assert (codes(text), state(text)) == (["MDP0201"], "auto")
    nested = rule("host: details, trafficPolicy: {typo: 1, portLevelSettings: [{port: {number: 9080}, tls: {}}]}")
    assert state(nested) == "refused"
    assert state(rule("host: 7, trafficPolicy: {tls: {mode: SIMPLE}}")) == "auto"
