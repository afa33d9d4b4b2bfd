"""Raw documents to resources: what is accepted, what is refused and how it is said."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from meshdp.errors import CODES, Finding
from meshdp.resources import load
from meshdp.resources.mesh import MeshConfig, duration_ms
from meshdp.resources.security import AuthorizationPolicy, PeerAuthentication
from meshdp.resources.service import Service, ServicePort, protocol_of
from meshdp.resources.shape import dotted
from meshdp.resources.workload import Pod


def _policy(spec: str, kind: str = "AuthorizationPolicy") -> str:
    return f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: ns}}\nspec:\n{spec}"


def _one(text: str) -> Finding:
    (finding,) = load([("f.yaml", text)]).findings
    return finding


def test_an_unknown_field_names_place_path_and_the_nearest_known_one() -> None:
    finding = _one(_policy("  rules:\n  - from:\n    - source: {principalz: [a]}\n"))
    assert finding.as_dict() == {
        "code": "MDP0201",
        "severity": "error",
        "title": "unknown field",
        "file": "f.yaml",
        "line": 7,
        "object": "AuthorizationPolicy ns/p",
        "path": "spec.rules[0].from[0].source.principalz",
        "message": "unknown field 'principalz': did you mean 'principals'?",
        "hint": CODES["MDP0201"].cure,
    }
    assert str(finding).startswith("f.yaml:7: error MDP0201: AuthorizationPolicy ns/p spec.rules[0]")


def test_every_problem_is_reported_not_only_the_first() -> None:
    loaded = load([("f.yaml", _policy("  acton: DENY\n  rules:\n  - too: []\n  - to: x\n"))])
    assert [(item.code, item.path) for item in loaded.errors] == [
        ("MDP0201", "spec.acton"),
        ("MDP0201", "spec.rules[0].too"),
        ("MDP0202", "spec.rules[1].to"),
    ]


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        ("apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\n", "MDP0205", "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: ../x}\n", "MDP0205", "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: a.b}\n", "MDP0205", "metadata.namespace"),
        ("apiVersion: v1\nkind: Service\nmetadata: {}\n", "MDP0203", "metadata"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {}}\n", "MDP0201", "metadata.lables"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nsepc: {}\n", "MDP0201", "sepc"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{}]}\n", "MDP0203", "spec.ports[0]"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 65536}]}\n",
            "MDP0204",
            "spec.ports[0].port",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: x}\n", "MDP0204", "spec.clusterIP"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {serviceAcount: a}\n", "MDP0201", "spec.serviceAcount"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: x}\n", "MDP0204", "status.podIP"),
        ("apiVersion: security.istio.io/v2\nkind: PeerAuthentication\n", "MDP0207", "apiVersion"),
        ("apiVersion: security.istio.io/v1\nkind: PeerAuthentification\n", "MDP0207", "kind"),
        (_policy("  action: BLOCK\n"), "MDP0204", "spec.action"),
        (_policy("  selector: {matchLabels: {a: on}}\n"), "MDP0202", "spec.selector.matchLabels.a"),
        (_policy("  mtls: {mode: strict}\n", "PeerAuthentication"), "MDP0204", "spec.mtls.mode"),
    ],
)
def test_refused_fields(text: str, code: str, path: str) -> None:
    finding = _one(text)
    assert (finding.code, finding.path, finding.severity) == (code, path, "error")


def test_kinds_without_meaning_for_a_mesh_are_counted() -> None:
    loaded = load([("f.yaml", "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: batch/v1\nkind: Job\n")])
    assert (loaded.findings, loaded.passed_over, len(loaded.resources)) == ((), 2, 0)


def test_traffic_kinds_are_named_as_not_honoured() -> None:
    text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a]}\n"
    finding = _one(text)
    assert (finding.code, finding.severity) == ("MDP0401", "warning")
    assert "VirtualService is not honoured before" in finding.message


@pytest.mark.parametrize(
    "spec",
    [
        "  rules: 7\n",
        "  rulez: []\n",
        "  action: NOPE\n",
        "  rules: [{from: []}]\n",
        "  rules: [{to: [{operation: {ports: ['x']}}]}]\n",
        "  action: DENY\n",
    ],
)
def test_az_18_a_policy_that_cannot_be_read_is_kept_as_broken(spec: str) -> None:
    loaded = load([("f.yaml", _policy("  selector: {matchLabels: {app: a}}\n" + spec))])
    (policy,) = loaded.resources.all(AuthorizationPolicy)
    assert loaded.errors
    assert policy.broken
    assert policy.spec.selector.match_labels == {"app": "a"}


def test_an_unreadable_selector_selects_the_whole_namespace() -> None:
    (policy,) = load([("f.yaml", _policy("  selector: [a]\n"))]).resources.all(AuthorizationPolicy)
    assert policy.broken
    assert policy.spec.selector.match_labels == {}


def test_an_unreadable_peer_authentication_is_kept_as_broken() -> None:
    (policy,) = load([("f.yaml", _policy("  mtls: on\n", "PeerAuthentication"))]).resources.all(PeerAuthentication)
    assert policy.broken


def test_a_broken_service_is_not_a_resource() -> None:
    loaded = load([("f.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}\n")])
    assert loaded.resources.all(Service) == ()


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("  - when: [{key: 'experimental.envoy.filters.a[b]', values: [b]}]\n", "MDP0302"),
    ],
)
def test_conditions_that_only_envoy_could_honour_are_warned_about(condition: str, code: str) -> None:
    finding = _one(_policy("  rules:\n" + condition))
    assert (finding.code, finding.severity) == (code, "warning")


def _mesh(**spec: Any) -> str:
    document = {"apiVersion": "meshdp.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "m"}, "spec": spec}
    return yaml.safe_dump(document)


def test_mesh_settings_from_the_config_map_of_istio_system_alone() -> None:
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: %s}\n"
    text = head + "data:\n  mesh: |\n    trustDomain: t\n"
    assert load([("f.yaml", text % "istio-system")]).resources.mesh_spec.trust_domain == "t"
    assert load([("f.yaml", text % "default")]).resources.mesh_spec.trust_domain == "cluster.local"


def test_mesh_settings_name_what_is_unknown_and_what_is_not_honoured() -> None:
    loaded = load([("f.yaml", _mesh(trustDomian="x", enableTracing=True, connectTimeout="soon"))])
    assert sorted((item.code, item.path) for item in loaded.findings) == [
        ("MDP0201", "spec.trustDomian"),
        ("MDP0204", "spec.connectTimeout"),
        ("MDP0402", "spec.enableTracing"),
    ]


def test_a_second_mesh_config_has_no_effect_and_is_named() -> None:
    second = _mesh(trustDomain="b").replace("name: m", "name: n")
    loaded = load([("f.yaml", _mesh(trustDomain="a")), ("g.yaml", second)])
    assert loaded.resources.mesh_spec.trust_domain == "a"
    assert [(item.code, item.where.file) for item in loaded.findings] == [("MDP0305", "g.yaml")]
    assert len(loaded.resources.all(MeshConfig)) == 2


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0s", 0),
        ("0", 0),
        ("1m30s", 90_000),
        ("100ms", 100),
        ("1.5s", 1500),
        ("-1s", None),
        ("1e99s", None),
        ("", None),
    ],
)
def test_durations(text: str, milliseconds: int | None) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        (ServicePort(port=80, name="http"), "http"),
        (ServicePort(port=80, name="HTTP-web"), "http"),
        (ServicePort(port=80, name="grpc-web"), "http2"),
        (ServicePort(port=80, name="grpc-webx"), "http2"),
        (ServicePort(port=80, name="GRPC"), "http2"),
        (ServicePort(port=80, name="http2-x"), "http2"),
        (ServicePort(port=80, name="http_proxy"), "http"),
        (ServicePort(port=80, name="kubernetes.io/h2c"), "http2"),
        (ServicePort(port=80, name="https-x"), "tcp"),
        (ServicePort(port=80, name="httpx"), "auto"),
        (ServicePort(port=80, name="tcp", app_protocol="http"), "http"),
        (ServicePort(port=80, name="http", app_protocol="kubernetes.io/wss"), "tcp"),
        (ServicePort(port=80, app_protocol="kubernetes.io/h2c"), "http2"),
        (ServicePort(port=80, app_protocol="kubernetes.io/ws"), "http"),
        (ServicePort(port=80, name="http", app_protocol="GRPC-x"), "http2"),
        (ServicePort(port=80, name="http", app_protocol="acme.example/wire"), "auto"),
        (ServicePort(port=27017, app_protocol="acme.example/wire"), "tcp"),
        (ServicePort(port=3306), "tcp"),
        (ServicePort(port=3306, name="http"), "http"),
        (ServicePort(port=8080), "auto"),
    ],
)
def test_protocols_of_ports(port: ServicePort, protocol: str) -> None:
    assert protocol_of(port) == protocol


def test_a_pod_is_ready_unless_it_says_otherwise() -> None:
    status = "{podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]}"
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus: {status}\n"
    (pod,) = load([("f.yaml", text)]).resources.all(Pod)
    assert not pod.status.ready


def test_paths_are_written_as_people_read_them() -> None:
    assert dotted(("spec", "rules", 0, "from", 1)) == "spec.rules[0].from[1]"
    assert dotted(("metadata", "annotations", "istio.io/dry-run")) == "metadata.annotations[istio.io/dry-run]"


def test_nameless_policies_do_not_take_each_others_place() -> None:
    text = _policy("  rules: []\n").replace("{name: p, namespace: ns}", "{namespace: ns}")
    loaded = load([("a.yaml", text), ("b.yaml", text)])
    assert [policy.broken for policy in loaded.resources.all(AuthorizationPolicy)] == [True, True]


def test_of_two_objects_with_one_name_the_first_by_place_stays() -> None:
    loaded = load([("b.yaml", _policy("  action: DENY\n  rules: [{}]\n")), ("a.yaml", _policy("  rules: []\n"))])
    (policy,) = loaded.resources.all(AuthorizationPolicy)
    assert policy.where.file == "a.yaml"
    ((code, where, message),) = [(item.code, str(item.where), item.message) for item in loaded.findings]
    assert (code, where) == ("MDP0206", "b.yaml:1")
    assert "a.yaml:1" in message


def test_a_broken_policy_never_replaces_a_good_one() -> None:
    good = load([("a.yaml", _policy("  rules: []\n"))]).resources
    (bad,) = load([("a.yaml", _policy("  rules: 7\n"))]).resources.all(AuthorizationPolicy)
    assert not good.with_changes([bad]).all(AuthorizationPolicy)[0].broken
    assert good.with_changes([bad], drop=[bad.key]).all(AuthorizationPolicy)[0].broken
    assert len(good.with_changes(drop=[bad.key])) == 0
