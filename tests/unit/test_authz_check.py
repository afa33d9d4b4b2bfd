"""`meshdp authz check`: each finding with its code, line and field; and no rule is called needless that is not."""

from __future__ import annotations

import json
from itertools import compress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from meshdp.resources import load
from meshdp.verdicts import checks
from meshdp.verdicts.policies import PolicySet
from meshdp.verdicts.request import convert
from tests.support import random_policies
from tests.unit.test_authz_command import authz

STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
"""
HTTP_ONLY = """\
apiVersion: v1
kind: Service
metadata: {name: w}
spec: {selector: {app: w}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: w, labels: {app: w}}
status: {podIP: 10.1.0.9}
---
"""
HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n"


def found(text: str, tmp_path: Path, before: str = STRICT + HTTP_ONLY) -> list[tuple[str, int, str, str]]:
    """Code, line within the policy's text, field and message of each finding."""
    file = tmp_path / "p.yaml"
    file.write_text(before + HEAD + text)
    first = before.count("\n")
    listed = checks.findings(PolicySet.read([tmp_path]))
    return [(each.code, each.where.line - first - 4, each.path, each.message) for each in listed]


CASES = [
    # rules that can never match
    ("rules: [{to: [{operation: {paths: [/a], notPaths: ['/*']}}]}]", "MDP0350", "spec.rules[0]", "refused by notPaths"),
    ("rules: [{to: [{operation: {notMethods: ['*']}}]}]", "MDP0350", "spec.rules[0]", "notMethods refuses every request"),
    ("rules: [{when: [{key: 'request.headers[x]', values: [a], notValues: ['*']}]}]", "MDP0350", "spec.rules[0]", "refused by request.headers[x] notValues"),
    ("rules: [{to: [{operation: {ports: ['0']}}]}]", "MDP0350", "spec.rules[0]", "no value of ports can be had"),
    # values that nothing has
    ("rules: [{to: [{operation: {paths: [details, /a]}}]}]", "MDP0351", "spec.rules[0].to[0].operation.paths[0]", "does not start with '/'"),
    ("rules: [{to: [{operation: {paths: [/a, /a?b=c]}}]}]", "MDP0351", "spec.rules[0].to[0].operation.paths[1]", "holds a query"),
    ("rules: [{to: [{operation: {paths: [/a, /a/../b]}}]}]", "MDP0351", "spec.rules[0].to[0].operation.paths[1]", "dot segments"),
    ("rules: [{to: [{operation: {methods: [GET, get]}}]}]", "MDP0351", "spec.rules[0].to[0].operation.methods[1]", "not in capitals"),
    ("rules: [{to: [{operation: {hosts: ['https://a:*', 'a:*']}}]}]", "MDP0351", "spec.rules[0].to[0].operation.hosts[0]", "holds a scheme"),
    ("rules: [{when: [{key: connection.sni, values: [A.example, a.example]}]}]", "MDP0351", "spec.rules[0].when[0].values[0]", "compared in lower case"),
    ("rules: [{from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b', '*']}}]}]", "MDP0351", "spec.rules[0].from[0].source.principals[0]", "begins with 'spiffe://'"),
    ("rules: [{from: [{source: {principals: [other/ns/a/sa/b, '*']}}]}]", "MDP0351", "spec.rules[0].from[0].source.principals[0]", "'other', which this mesh does not trust"),
    # hosts
    ("rules: [{to: [{operation: {hosts: [a.example]}}]}]", "MDP0354", "spec.rules[0].to[0].operation.hosts[0]", "names its port is another host"),
    ("action: DENY\n  rules: [{to: [{operation: {notHosts: ['*.example', 'b:80']}}]}]", "MDP0354", "spec.rules[0].to[0].operation.notHosts[0]", "another host"),
    # tokens
    ("rules: [{from: [{source: {requestPrincipals: ['*']}}]}]", "MDP0355", "spec.rules[0].from[0].source.requestPrincipals", "no RequestAuthentication verifies"),
    ("rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]", "MDP0355", "spec.rules[0].when[0].values", "no RequestAuthentication verifies"),
    # repeated rules
    ("rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/a]}}]}]", "MDP0357", "spec.rules[1]", "the same as rule 0 of default/p"),
    ("rules: [{to: [{operation: {paths: [/a/b]}}]}, {to: [{operation: {paths: [/a/*]}}]}]", "MDP0358", "spec.rules[0]", "covered by rule 1 of default/p"),
    ("rules: [{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}, {from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]", "MDP0358", "spec.rules[0]", "covered by rule 1"),
    ("rules: [{to: [{operation: {methods: [GET]}}]}, {}]", "MDP0358", "spec.rules[0]", "covered by rule 1"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "code", "path", "said"), CASES)
def test_a_finding_has_its_code_field_and_reason(spec: str, code: str, path: str, said: str, tmp_path: Path) -> None:
    listed = found(f"  {spec}\n", tmp_path)
    assert [each for each in listed if each[0] == code and each[2] == path and said in each[3]], listed


FINE = [
    "rules: [{to: [{operation: {paths: [/a, '/b/*', '*.png', '/c/{*}'], methods: [GET], hosts: [a, 'a:*', 'b*', '[::1]:80']}}]}]",
    "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}], to: [{operation: {paths: ['/a/*'], notPaths: [/a/b]}}]}]",
    "action: DENY\n  rules: [{from: [{source: {notNamespaces: [a]}}]}, {to: [{operation: {ports: ['8080']}}]}]",
    "rules: [{to: [{operation: {paths: ['/a/*']}}]}, {to: [{operation: {paths: ['*/a']}}]}]",
    "rules: [{when: [{key: 'request.headers[x]', values: [a]}]}, {when: [{key: 'request.headers[y]', values: [a]}]}]",
]


@pytest.mark.parametrize("spec", FINE)
def test_what_may_be_meant_is_left_alone(spec: str, tmp_path: Path) -> None:
    assert found(f"  {spec}\n", tmp_path) == []


def test_tcp_ports_and_http_fields(tmp_path: Path) -> None:
    allow = "  rules:\n  - to: [{operation: {methods: [GET]}}]\n"
    deny = "  action: DENY\n  rules:\n  - to: [{operation: {methods: [GET]}}]\n  - to: [{operation: {methods: [PUT], ports: ['80']}}]\n"
    assert found(allow, tmp_path) == []  # its workloads are described, and speak HTTP alone
    assert [each[:3] for each in found(allow, tmp_path, STRICT)] == [("MDP0352", 1, "spec.rules")]
    described = STRICT + HTTP_ONLY.replace("{name: http, port: 80}", "{name: tcp-raw, port: 9000}")
    assert [(each[0], each[3]) for each in found(allow, tmp_path, described)] == [
        ("MDP0352", "each of its rules asks for HTTP, so that nothing is allowed on port 9000 of default/w")
    ]
    assert [(each[:3], each[3].partition(" on ")[0]) for each in found(deny, tmp_path, described)] == [
        (("MDP0353", 3, "spec.rules[0]"), "it denies everything"),
        (("MDP0353", 4, "spec.rules[1]"), "it denies what its other fields say"),
    ]


@pytest.mark.parametrize(
    ("spec", "mode", "said"),
    [
        ("rules: [{from: [{source: {principals: ['*']}}]}]", "PERMISSIVE", "a caller in plaintext never matches it"),
        ("rules: [{from: [{source: {notPrincipals: ['a']}}]}]", "DISABLE", "a caller in plaintext gets past it"),
        ("action: DENY\n  rules: [{from: [{source: {namespaces: ['a']}}]}]", "PERMISSIVE", "a caller in plaintext gets past it"),
        ("rules: [{when: [{key: source.namespace, values: ['a']}]}]", "PERMISSIVE", "a caller in plaintext never matches it"),
    ],
)  # fmt: skip
def test_identities_where_plaintext_is_accepted(spec: str, mode: str, said: str, tmp_path: Path) -> None:
    listed = found(f"  {spec}\n", tmp_path, STRICT.replace("STRICT", mode) + HTTP_ONLY)
    assert [(each[0], said in each[3], mode in each[3]) for each in listed] == [("MDP0356", True, True)], listed


def test_a_token_condition_with_a_request_authentication_is_fine(tmp_path: Path) -> None:
    token = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r}\nspec: {}\n---\n"
    listed = found("  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]\n", tmp_path, STRICT + HTTP_ONLY + token)
    assert "MDP0355" not in [each[0] for each in listed]


def test_a_rule_that_a_denial_covers_says_so(tmp_path: Path) -> None:
    deny = (
        HEAD.replace("{name: p}", "{name: deny}")
        + "  action: DENY\n  rules: [{to: [{operation: {paths: ['/a*']}}]}]\n---\n"
    )
    listed = found("  rules: [{to: [{operation: {paths: [/a/b]}}]}]\n", tmp_path, STRICT + HTTP_ONLY + deny)
    assert [(each[0], "denies all that it would allow" in each[3]) for each in listed] == [("MDP0358", True)], listed


def test_it_exits_with_1_when_it_finds_something(tmp_path: Path) -> None:
    found("  rules: [{to: [{operation: {hosts: [a.example]}}]}]\n", tmp_path)
    said = authz("check", str(tmp_path), expect=1).stdout
    assert f"{tmp_path}/p.yaml:{(STRICT + HTTP_ONLY + HEAD).count(chr(10)) + 1}: warning MDP0354: " in said
    assert said.endswith("1 finding\n")
    answer = json.loads(authz("check", "--policies", str(tmp_path), "-o", "json", expect=1).stdout)
    assert [each["code"] for each in answer["findings"]] == ["MDP0354"]
    assert authz("check", str(tmp_path), "--ignore", "MDP0354").stdout == "0 findings\n"


NEEDLESS = ("MDP0350", "MDP0357", "MDP0358")


def test_no_verdict_changes_without_a_rule_that_is_called_needless() -> None:
    """Random policies again: what a check calls needless is taken out, and every verdict stays."""
    random, needless = Random(7), 0
    for _ in range(150):
        documents = random_policies.documents(random)
        requests = [convert(random_policies.request(random)) for _ in range(60)]
        whole = _set(documents)
        before = [verdict.allowed for verdict in whole.verdicts(requests)]
        for finding in (each for each in checks.findings(whole) if each.code in NEEDLESS):
            needless += 1
            name, rule = finding.object.rpartition("/")[2], int(finding.path.rpartition("[")[2].rstrip("]"))
            without = json.loads(json.dumps(documents))
            spec = next(each["spec"] for each in without if each["metadata"]["name"] == name)
            del spec["rules"][rule]
            if not spec["rules"] and spec["action"] != "ALLOW":
                without = [each for each in without if each["metadata"]["name"] != name]
            after = [verdict.allowed for verdict in _set(without).verdicts(requests)]
            concerned = [request.is_http or "matches over TCP" not in finding.message for request in requests]
            assert [*compress(after, concerned)] == [*compress(before, concerned)], (finding, documents)
    assert needless > 30


def _set(documents: list[dict[str, Any]]) -> PolicySet:
    settings = {"trustDomain": "cluster.local", "trustDomainAliases": ["td2"]}
    mesh = {"apiVersion": "meshdp.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "m"}, "spec": settings}
    return PolicySet(load([("f.yaml", "\n---\n".join(json.dumps(each) for each in (mesh, *documents)))]))
