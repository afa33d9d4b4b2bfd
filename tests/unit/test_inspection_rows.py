"""Rows of `proxy-config` made from compiled sections: what a port, a cluster and an endpoint speak."""

from __future__ import annotations

from typing import Any

from meshdp.local.inspection.configuration import KINDS
from tests.support.meshes import snapshot

GRPC = """
apiVersion: v1
kind: Service
metadata: {name: stub}
spec: {clusterIP: 10.96.0.9, selector: {app: details}, ports: [{name: grpc, port: 50051}, {name: http, port: 81}]}
"""
UPGRADE = "apiVersion: meshdp.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: {h2UpgradePolicy: UPGRADE}\n"
STUB = "stub.default.svc.cluster.local"


def rows(kind: str, *documents: str) -> list[dict[str, Any]]:
    made = snapshot(*documents)
    sections: Any = {name: made.section(name) for name in made.sections}
    return [row for row in KINDS[kind][2](sections) if row["fqdn"] == STUB]


def test_a_grpc_port_shows_as_http2_on_both_sides() -> None:
    shown = {(row["direction"], row["port"], row["name"], row["protocol"]) for row in rows("listeners", GRPC)}
    assert shown == {
        ("inbound", 50051, "mtls-http", "http2"),
        ("inbound", 50051, "plain-http", "http2"),
        ("inbound", 81, "mtls-http", "http"),
        ("inbound", 81, "plain-http", "http"),
        ("outbound", 50051, "service", "http2"),
        ("outbound", 81, "service", "http"),
    }
    assert {row["match"] for row in rows("listeners", GRPC) if row["direction"] == "outbound"} == {"host"}


def test_a_cluster_shows_its_protocol_and_the_upgrade() -> None:
    def shown(*documents: str) -> set[tuple[int, str, bool]]:
        return {(row["port"], row["protocol"], row["h2_upgrade"]) for row in rows("clusters", *documents)}

    assert shown(GRPC) == {(50051, "http2", False), (81, "http", False)}
    assert shown(GRPC, UPGRADE) == {(50051, "http2", True), (81, "http", True)}


def test_an_endpoint_shows_whether_its_sidecar_is_ours() -> None:
    assert [row["capabilities"] for row in rows("endpoints", GRPC) if row["mtls"]] == [["meshdp"], ["meshdp"]]
