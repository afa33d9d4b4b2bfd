"""Properties of the configuration flow: order does not matter, text never raises, transactions compose."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshdp.compiler import Snapshot, compile_all, compile_workload
from meshdp.documents import parse
from meshdp.resources import load
from meshdp.resources.decode import decode
from tests.support import reference_authz
from tests.support.meshes import MESH, loaded, policy, workload_of

DOCUMENTS = MESH.split("---\n")

_LABELS = st.dictionaries(st.sampled_from(["app", "version"]), st.sampled_from(["details", "v1", "v2"]), max_size=2)
_PRINCIPALS = st.lists(
    st.sampled_from(["cluster.local/ns/default/sa/a", "*", "*/sa/a", "cluster.local/*"]), min_size=1, max_size=2
)
_OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "methods": st.just(["GET"]),
        "paths": st.lists(st.sampled_from(["/a", "/b/*", "/c/{*}", "*"]), min_size=1, max_size=2),
        "notPaths": st.just(["/b/x"]),
        "hosts": st.just(["w.example"]),
        "ports": st.just(["9080"]),
    },
).filter(bool)
_RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": _PRINCIPALS.map(lambda values: [{"source": {"principals": values}}]),
        "to": _OPERATIONS.map(lambda operation: [{"operation": operation}]),
        "when": st.just([{"key": "request.headers[x-k]", "notValues": ["v"]}]),
    },
)
_POLICIES = st.lists(
    st.tuples(
        st.sampled_from(["ALLOW", "DENY", "AUDIT"]),
        st.sampled_from(["default", "istio-system", "other"]),
        _LABELS,
        st.lists(_RULES, min_size=1, max_size=3),
    ),
    max_size=4,
)
_REQUESTS = st.fixed_dictionaries(
    {
        "peer": st.sampled_from([None, "spiffe://cluster.local/ns/default/sa/a", "spiffe://cluster.local/ns/x/sa/b"]),
        "target": st.sampled_from(["/a", "/b/x", "/c/d", "/c/d/e", "/"]),
        "host": st.sampled_from(["w.example", "W.Example", "x"]),
        "header": st.sampled_from(["", "x-k: v\r\n", "x-k: w\r\n"]),
    }
)


def _texts(policies: list[Any]) -> list[str]:
    return [
        policy(
            "AuthorizationPolicy",
            json.dumps({"action": action, "selector": {"matchLabels": labels}, "rules": rules}),
            f"p{index}",
            namespace,
        )
        for index, (action, namespace, labels, rules) in enumerate(policies)
    ]


def _allowed(texts: list[str], drawn: dict[str, Any]) -> bool:
    found = loaded(*texts)
    transaction = compile_workload(found.resources, workload_of(found)).transaction(None)
    request = {
        "direction": "inbound",
        "peer": drawn["peer"],
        "source": "10.1.0.5:40000",
        "destination": "10.244.0.2:9080",
        "sni": None,
        "head": f"GET {drawn['target']} HTTP/1.1\r\nHost: {drawn['host']}\r\n{drawn['header']}\r\n",
        "detected": {"tls": drawn["peer"] is not None, "alpn": ["istio-http/1.1", "istio", "http/1.1"]},
    }
    return bool(reference_authz.authorize(transaction, request)["allowed"])


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(DOCUMENTS), policies=_POLICIES)
def test_the_order_of_documents_and_files_does_not_reach_the_bytes(order: list[str], policies: list[Any]) -> None:
    texts = _texts(policies)
    forwards = load([*((f"{text[:40]}.yaml", text) for text in [*DOCUMENTS, *texts])])
    backwards = load([*((f"{text[:40]}.yaml", text) for text in [*reversed(texts), *order])])
    first, second = compile_all(forwards.resources), compile_all(backwards.resources)
    assert {key: made.sections for key, made in first.items()} == {key: made.sections for key, made in second.items()}
    assert list(first) == list(second)


@settings(max_examples=30, deadline=None)
@given(policies=_POLICIES, extra=_RULES, drawn=_REQUESTS)
def test_another_deny_never_allows_and_another_rule_never_denies(
    policies: list[Any], extra: dict[str, Any], drawn: dict[str, Any]
) -> None:
    texts = _texts(policies)
    deny = policy("AuthorizationPolicy", json.dumps({"action": "DENY", "rules": [extra]}), "deny")
    before = _allowed(texts, drawn)
    assert before or not _allowed([*texts, deny], drawn)
    wider = [
        (action, namespace, labels, [*rules, extra] if action == "ALLOW" else rules)
        for action, namespace, labels, rules in policies
    ]
    assert not before or _allowed(_texts(wider), drawn)


@settings(max_examples=30, deadline=None)
@given(policies=_POLICIES, drawn=_REQUESTS)
def test_what_selects_others_does_not_change_our_verdict(policies: list[Any], drawn: dict[str, Any]) -> None:
    texts = _texts(policies)
    other = policy("AuthorizationPolicy", "{action: DENY, rules: [{}]}", "other", "other")
    assert _allowed(texts, drawn) is _allowed([*texts, other], drawn)


_SECTIONS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"{}", b"[1]", b'"x"']))


@given(_SECTIONS, _SECTIONS)
def test_a_transaction_turns_its_base_into_its_result(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    base, result = Snapshot(before), Snapshot(after)
    change = json.loads(result.transaction(base))
    applied = {name: body for name, body in before.items() if name not in change["drop"]}
    applied |= {name: json.dumps(body).encode() for name, body in change["put"].items()}
    assert Snapshot(applied).digest == change["digest"] == result.digest


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_no_text_raises(text: str | bytes) -> None:
    for document in parse(text, "f.yaml")[0]:
        decode(document)


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-10, 70000), st.text(max_size=8), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
_KINDS = st.sampled_from(
    [
        ("v1", "Pod"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1", "PeerAuthentication"),
        ("security.istio.io/v1", "RequestAuthentication"),
        ("networking.istio.io/v1", "WorkloadEntry"),
        ("meshdp.io/v1alpha1", "MeshConfig"),
    ]
)
_FIELDS = st.sampled_from(["spec", "metadata", "status", "data", "endpoints", "ports"])
_SPECS = st.dictionaries(
    st.sampled_from(["selector", "rules", "mtls", "portLevelMtls", "ports", "action", "clusterIP", "address", "x"]),
    _VALUES,
)


@settings(max_examples=150, deadline=None)
@given(_KINDS, st.dictionaries(_FIELDS, st.one_of(_VALUES, _SPECS)))
def test_no_document_raises_and_a_security_policy_is_never_lost(kind: tuple[str, str], fields: dict[str, Any]) -> None:
    document = {"apiVersion": kind[0], "kind": kind[1], **fields}
    found = load([("f.yaml", yaml.safe_dump(document, allow_unicode=False))])
    compile_all(found.resources)
    if kind[0].startswith("security") and not any(item.code < "MDP0200" for item in found.findings):
        assert len(found.resources) == 1
