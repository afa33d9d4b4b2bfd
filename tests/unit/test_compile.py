"""The compiler: sections that are not policy."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from meshdp.compiler import Snapshot, compile_all
from tests.support.meshes import MESH, loaded, policy, section, snapshot

DETAILS = "outbound|9080||details.default.svc.cluster.local"
MESH_CONFIG = "apiVersion: meshdp.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: "


def test_the_sections_of_a_workload() -> None:
    names = list(snapshot().sections)
    assert names == sorted(names)
    assert [name for name in names if "/" not in name] == ["authz", "mesh", "telemetry", "workload"]
    assert [name for name in names if name.startswith("inbound/")] == [
        "inbound/9001",
        "inbound/9080",
        "inbound/passthrough",
    ]
    assert f"cluster/{DETAILS}" in names
    assert f"endpoints/{DETAILS}" in names
    assert "service/default/details.default.svc.cluster.local/53" not in names


def test_a_digest_is_made_as_the_contract_says() -> None:
    made = Snapshot({"b": b"{}", "a": b"[1]"})
    lines = "".join(f"{name}\0{hashlib.sha256(body).hexdigest()}\n" for name, body in (("a", b"[1]"), ("b", b"{}")))
    assert made.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_a_transaction_holds_what_changed_verbatim() -> None:
    before = Snapshot({"a": b'{"x":1}', "b": b"{}", "c": b"{}"})
    after = Snapshot({"a": b'{"x":2}', "b": b"{}", "d": '{"é":1}'.encode()})
    change = after.transaction(before)
    assert json.loads(change) == {
        "schema": 2,
        "base": before.digest,
        "put": {"a": {"x": 2}, "d": {"é": 1}},
        "drop": ["c"],
        "digest": after.digest,
    }
    assert b'"a":{"x":2}' in change
    assert json.loads(after.transaction(None))["base"] == ""
    assert set(json.loads(after.transaction(None))["put"]) == {"a", "b", "d"}


def test_the_workload_and_its_peers() -> None:
    own = section("workload")
    assert own["identity"] == "spiffe://cluster.local/ns/default/sa/bookinfo-details"
    assert (own["canonical_name"], own["canonical_revision"]) == ("details", "v1")
    assert section("peers/10.244.0.0")["peers"] == [
        {
            "address": "10.244.0.2",
            "identity": "spiffe://cluster.local/ns/default/sa/bookinfo-details",
            "workload": "details-v1",
            "namespace": "default",
            "canonical_name": "details",
            "canonical_revision": "v1",
        },
        {
            "address": "10.244.0.3",
            "identity": "",
            "workload": "details-v2",
            "namespace": "default",
            "canonical_name": "details",
            "canonical_revision": "v2",
        },
        {
            "address": "10.244.0.4",
            "identity": "spiffe://cluster.local/ns/default/sa/ratings",
            "workload": "ratings-vm",
            "namespace": "default",
            "canonical_name": "ratings",
            "canonical_revision": "latest",
        },
    ]


def test_mesh_settings() -> None:
    spec = (
        "{trustDomain: a@b, trustDomainAliases: [z, y], outboundTrafficPolicy: {mode: REGISTRY_ONLY},"
        " pathNormalization: {normalization: MERGE_SLASHES}, protocolDetectionTimeout: 5s,"
        " meshMTLS: {minProtocolVersion: TLSV1_3}, accessLogFile: /dev/stdout, accessLogEncoding: JSON}"
    )
    assert section("mesh", MESH_CONFIG + spec) == {
        "trust_domain": "a.b",
        "trust_domain_aliases": ["y", "z"],
        "validate_trust_domain": True,
        "outbound_policy": "REGISTRY_ONLY",
        "path_normalization": "MERGE_SLASHES",
        "protocol_detection_timeout_ms": 5000,
        "min_tls_version": "1.3",
    }
    assert section("telemetry", MESH_CONFIG + spec) == {"access_log": "json"}
    assert section("telemetry") == {"access_log": "off"}
    assert section("mesh")["path_normalization"] == "BASE"


def test_names_of_a_service_as_its_client_writes_them() -> None:
    own = section("service/default/details.default.svc.cluster.local/9080")
    assert own["addresses"] == ["10.96.0.1"]
    assert own["domains"] == [
        "10.96.0.1",
        "details",
        "details.default",
        "details.default.svc",
        "details.default.svc.cluster.local",
    ]
    assert own["rules"] == [{"name": "default", "match": {}, "clusters": [{"key": DETAILS, "weight": 100}]}]
    assert "echo" not in section("service/other/echo.other.svc.cluster.local/80")["domains"]
    assert "service/default/ratings.default.svc.cluster.local/9080" not in snapshot().sections


def test_a_cluster_expects_the_identities_of_its_endpoints_under_every_alias() -> None:
    cluster = section(f"cluster/{DETAILS}", MESH_CONFIG + "{trustDomainAliases: [old]}")
    assert cluster["identities"] == [
        "spiffe://cluster.local/ns/default/sa/bookinfo-details",
        "spiffe://cluster.local/ns/default/sa/default",
        "spiffe://old/ns/default/sa/bookinfo-details",
        "spiffe://old/ns/default/sa/default",
    ]
    assert cluster["sni"] == "outbound_.9080_._.details.default.svc.cluster.local"
    assert cluster["connect_timeout_ms"] == 10_000


def _dialled(*policies: str, key: str = DETAILS) -> dict[str, bool]:
    endpoints = section(f"endpoints/{key}", *policies)["endpoints"]
    return {f"{item['address']}:{item['port']}": item["mtls"] for item in endpoints}


def test_endpoints_are_dialled_with_mtls_where_b4_says() -> None:
    assert _dialled() == {"10.244.0.2:9080": True, "10.244.0.3:9080": False}
    disabled = (
        "{selector: {matchLabels: {app: details}}, mtls: {mode: STRICT}, portLevelMtls: {'9080': {mode: DISABLE}}}"
    )
    assert _dialled(policy("PeerAuthentication", disabled))["10.244.0.2:9080"] is False
    raw = "outbound|9000||details.default.svc.cluster.local"
    assert _dialled(policy("PeerAuthentication", disabled), key=raw) == {"10.244.0.2:9001": True}
    assert not any(_dialled(policy("PeerAuthentication", "{mtls: {mode: DISABLE}}")).values())
    assert not any(_dialled(MESH_CONFIG + "{enableAutoMtls: false}").values())


def test_an_endpoint_in_a_namespace_that_disables_stays_plaintext_though_its_own_policy_is_strict() -> None:
    namespace = policy("PeerAuthentication", "{mtls: {mode: DISABLE}}", name="ns")
    own = policy("PeerAuthentication", "{selector: {matchLabels: {app: details}}, mtls: {mode: STRICT}}")
    assert _dialled(namespace, own)["10.244.0.2:9080"] is False


def test_endpoints_of_slices_win_over_selection_and_unready_ones_are_left_out() -> None:
    endpoints = section("endpoints/outbound|80||echo.other.svc.cluster.local")["endpoints"]
    assert [(item["address"], item["port"], item["mtls"], item["locality"]) for item in endpoints] == [
        ("10.244.0.2", 8080, True, "z1"),
        ("10.244.0.9", 8080, False, ""),
    ]


def test_a_headless_service_is_all_mtls_or_none() -> None:
    key = "outbound|9080||ratings.default.svc.cluster.local"
    assert _dialled(key=key) == {"10.244.0.4:9080": True}
    plain = "apiVersion: v1\nkind: Pod\nmetadata: {name: r, labels: {app: ratings}}\nstatus: {podIP: 10.244.0.5}\n"
    assert _dialled(plain, key=key) == {"10.244.0.4:9080": False, "10.244.0.5:9080": False}


def test_an_endpoint_says_what_its_workload_is() -> None:
    (first, _second) = section(f"endpoints/{DETAILS}")["endpoints"]
    assert first["capabilities"] == ["meshdp"]
    assert first["tls_mode"] == "istio"
    assert first["health"] == "HEALTHY"
    (vm,) = section("endpoints/outbound|9080||ratings.default.svc.cluster.local")["endpoints"]
    assert (vm["weight"], vm["capabilities"]) == (3, [])


def test_what_the_applications_of_a_cluster_speak() -> None:
    def cluster(name: str, *more: str) -> tuple[str, bool]:
        service = (
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{{name: {name}, port: 1}}]}}\n"
        )
        found = section("cluster/outbound|1||s.default.svc.cluster.local", service, *more)
        return found["protocol"], found["h2_upgrade"]

    assert [cluster(name) for name in ("http", "grpc-web", "tcp", "x")] == [
        ("http", False),
        ("http2", False),
        ("tcp", False),
        ("auto", False),
    ]
    upgrade = MESH_CONFIG + "{h2UpgradePolicy: UPGRADE}\n"
    assert [cluster(name, upgrade)[1] for name in ("http", "grpc-web", "tcp", "x")] == [True, True, False, False]


@pytest.mark.parametrize("address", ["not an address", "host.example", "10.0.0.1%eth0"])
def test_what_is_no_address_never_reaches_a_snapshot(address: str) -> None:
    entry = (
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: z}\n"
        f"spec: {{address: '{address}', labels: {{app: details}}}}\n"
    )
    assert "10.244.0.2:9080" in _dialled(entry)
    assert len(_dialled(entry)) == 2


def test_only_workloads_with_a_sidecar_are_compiled() -> None:
    assert list(compile_all(loaded().resources)) == [("default", "details-v1"), ("default", "ratings-vm")]


def test_the_mesh_of_these_tests_has_only_the_headless_warning() -> None:
    assert [finding.code for finding in loaded().findings] == ["MDP0402"]
    assert MESH.count("kind:") == 7


def test_the_name_of_a_replica_set_is_its_deployment() -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a-5d8f-x\n  labels: {pod-template-hash: 5d8f}\n"
        "  ownerReferences: [{kind: ReplicaSet, name: a-5d8f, controller: true}]\nstatus: {podIP: 10.244.0.7}\n"
    )
    assert section("peers/10.244.0.0", pod)["peers"][-1]["workload"] == "a"


def test_a_service_without_a_selector_declares_the_ports_of_its_slices() -> None:
    text = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{name: http, port: 80}]}\n---\n"
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        "metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\n"
        "ports: [{name: http, port: 8088}]\nendpoints: [{addresses: [10.244.0.2]}]\n"
    )
    found = section("inbound/8088", text)
    assert (found["service"], found["protocol"]) == ("s.default.svc.cluster.local", "http")


def test_a_finished_pod_is_nobody() -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: zz, labels: {app: details}}\n"
        "status: {podIP: 10.244.0.2, phase: Succeeded}\n"
    )
    assert section("peers/10.244.0.0", pod) == section("peers/10.244.0.0")
    assert _dialled(pod) == _dialled()


@pytest.mark.parametrize(("spec", "account"), [("{}", "default"), ("{serviceAccount: old}", "old")])
def test_a_pod_without_a_service_account_name(spec: str, account: str) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: zz, labels: {security.istio.io/tlsMode: istio}}\n"
        f"spec: {spec}\nstatus: {{podIP: 10.244.0.7}}\n"
    )
    assert (
        section("peers/10.244.0.0", pod)["peers"][-1]["identity"] == f"spiffe://cluster.local/ns/default/sa/{account}"
    )


def test_digests_need_no_openssl_and_are_the_same_with_it() -> None:
    program = (
        "import sys\n"
        "import meshdp.supervise.reload\n"
        "from meshdp.compiler.digest import sha256\n"
        "own = sha256(b'some')\n"
        "own.update(b'thing')\n"
        "assert 'hashlib' not in sys.modules and '_hashlib' not in sys.modules\n"
        "import hashlib\n"
        "assert own.hexdigest() == sha256(b'something').hexdigest() == hashlib.sha256(b'something').hexdigest()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
