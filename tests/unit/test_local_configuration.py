"""What `meshdp up` adds to the documents: pods, virtual addresses, names, translation."""

import json
from pathlib import Path

from meshdp.local.configuration import Configuration
from meshdp.local.mesh_file import InstanceKey, load
from meshdp.resources import load as load_resources

MESH = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: shop}
spec:
  workloads:
  - {name: web, serviceAccount: web, labels: {app: web}, command: [web]}
  - {name: cart, serviceAccount: cart, labels: {app: cart}, command: [cart], replicas: 2}
  - {name: old, labels: {app: old}, command: [old], sidecar: false}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: fixed}
spec: {clusterIP: 10.96.5.5, selector: {app: old}, ports: [{name: http, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 82}]}
"""
WEB, CART, OLD = InstanceKey("default", "web"), InstanceKey("default", "cart-0"), InstanceKey("default", "old")


def compiled(folder: Path) -> Configuration:
    path = folder / "mesh.yaml"
    path.write_text(MESH)
    return Configuration(load(path))


def test_only_sidecars_get_snapshots_with_the_identity_of_their_service_account(tmp_path: Path) -> None:
    found = compiled(tmp_path).compile(load_resources([("services.yaml", SERVICES)]).resources)
    assert sorted(found.snapshots) == [CART, InstanceKey("default", "cart-1"), WEB]
    assert found.identities[WEB] == "spiffe://cluster.local/ns/default/sa/web"
    own = json.loads(found.snapshots[WEB].sections["workload"])
    assert (own["identity"], own["canonical_name"]) == (found.identities[WEB], "web")


def test_endpoints_are_the_instances_and_speak_mutual_tls_where_a_sidecar_is(tmp_path: Path) -> None:
    configuration = compiled(tmp_path)
    sections = configuration.compile(load_resources([("services.yaml", SERVICES)]).resources).snapshots[WEB].sections
    cart = json.loads(sections["endpoints/outbound|80||cart.default.svc.cluster.local"])["endpoints"]
    wanted = sorted(configuration.addresses[InstanceKey("default", f"cart-{number}")] for number in range(2))
    assert sorted(each["address"] for each in cart) == wanted
    assert {(each["port"], each["mtls"], each["tls_mode"]) for each in cart} == {(8080, True, "istio")}
    assert {tuple(each["capabilities"]) for each in cart} == {("meshdp",)}
    old = json.loads(sections["endpoints/outbound|81||fixed.default.svc.cluster.local"])["endpoints"]
    assert [(each["address"], each["mtls"]) for each in old] == [(configuration.addresses[OLD], False)]


def test_services_have_stable_addresses_and_written_ones_are_kept(tmp_path: Path) -> None:
    resources = load_resources([("services.yaml", SERVICES)]).resources
    first, second = (compiled(tmp_path).compile(resources) for _ in range(2))
    assert first.services == second.services
    assert {each.name: each.address for each in first.services}["fixed"] == "10.96.5.5"
    assert {each.name for each in first.services} == {"cart", "fixed"}


def test_instances_are_expected_to_listen_on_their_services_target_ports(tmp_path: Path) -> None:
    found = compiled(tmp_path).compile(load_resources([("services.yaml", SERVICES)]).resources)
    assert (found.ports[CART], found.ports[OLD], found.ports[WEB]) == ((8080,), (81,), (82,))


def test_translation_covers_tcp_ports_with_virtual_addresses(tmp_path: Path) -> None:
    configuration = compiled(tmp_path)
    found = configuration.compile(load_resources([("services.yaml", SERVICES)]).resources)
    assert sorted(target.port for target in found.targets) == [80, 81]
    fixed = next(target for target in found.targets if target.port == 81)
    assert (fixed.address, fixed.backends) == ("10.96.5.5", ((configuration.addresses[OLD], 81),))
