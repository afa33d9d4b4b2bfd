"""Modes (B.1) and chains (B.3): the traps, one test each. The whole table is judged in tests/conformance."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.meshes import policy, section

OWN = "selector: {matchLabels: {app: details}}"


def _mode(*policies: str, port: str = "9080") -> str:
    return str(section(f"inbound/{port}", *policies)["mode"])


def _peer(spec: str, name: str = "p", namespace: str = "default") -> str:
    return policy("PeerAuthentication", spec, name, namespace)


MESH_STRICT = _peer("{mtls: {mode: STRICT}}", "mesh", "istio-system")


def test_permissive_without_any_policy() -> None:
    assert _mode() == "PERMISSIVE"


def test_workload_over_namespace_over_mesh() -> None:
    namespace = _peer("{mtls: {mode: DISABLE}}", "ns")
    workload = _peer(f"{{{OWN}, mtls: {{mode: PERMISSIVE}}}}", "wl")
    assert _mode(MESH_STRICT) == "STRICT"
    assert _mode(MESH_STRICT, namespace) == "DISABLE"
    assert _mode(MESH_STRICT, namespace, workload) == "PERMISSIVE"


def test_a_selector_in_the_root_namespace_is_ignored() -> None:
    assert _mode(_peer(f"{{{OWN}, mtls: {{mode: STRICT}}}}", "x", "istio-system")) == "PERMISSIVE"


def test_unset_inherits() -> None:
    assert _mode(MESH_STRICT, _peer(f"{{{OWN}, mtls: {{mode: UNSET}}}}")) == "STRICT"
    assert _mode(MESH_STRICT, _peer(f"{{{OWN}}}")) == "STRICT"


def test_ports_are_target_ports_and_undeclared_ones_get_their_own_section() -> None:
    ports = _peer(f"{{{OWN}, mtls: {{mode: STRICT}}, portLevelMtls: {{'9000': {{mode: DISABLE}}}}}}")
    assert _mode(ports, port="9001") == "STRICT"
    undeclared = section("inbound/9000", ports)
    assert (undeclared["mode"], undeclared["protocol"], undeclared["service"]) == ("DISABLE", "auto", "")
    assert _mode(ports, port="passthrough") == "STRICT"


def test_the_oldest_policy_of_a_scope_counts_alone() -> None:
    def aged(name: str, second: int, spec: str) -> str:
        return _peer(spec, name).replace("namespace:", f"creationTimestamp: '2026-01-01T00:00:0{second}Z', namespace:")

    newer = aged("a", 2, f"{{{OWN}, mtls: {{mode: DISABLE}}, portLevelMtls: {{'9001': {{mode: DISABLE}}}}}}")
    older = aged("b", 1, f"{{{OWN}, mtls: {{mode: STRICT}}}}")
    assert _mode(newer, older) == "STRICT"
    assert _mode(newer, older, port="9001") == "STRICT"


def test_2_19_an_unreadable_policy_counts_as_strict() -> None:
    assert _mode(_peer("{mtls: on}")) == "STRICT"
    assert _mode(_peer(f"{{{OWN}, mtls: {{mode: DISABLE}}, portLevelMtls: {{'0': {{mode: DISABLE}}}}}}")) == "STRICT"
    assert _mode(_peer("{mtls: {mode: DISABLE}, unknown: 1}", "mesh", "istio-system")) == "STRICT"


def test_the_oldest_service_decides_the_protocol_of_a_shared_port() -> None:
    def service(name: str, second: int, port_name: str) -> str:
        return (
            "apiVersion: v1\nkind: Service\n"
            f"metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}\n"
            f"spec: {{selector: {{app: details}}, ports: [{{name: {port_name}, port: 1, targetPort: 7000}}]}}\n"
        )

    found = section("inbound/7000", service("a", 2, "http"), service("b", 1, "tcp"))
    assert (found["protocol"], found["service_name"]) == ("tcp", "b")


@pytest.mark.parametrize(
    ("mode", "port", "chains", "inspect_tls", "inspect_http"),
    [
        ("STRICT", "9080", ["mtls-http"], True, False),
        ("STRICT", "9001", ["mtls-tcp"], True, False),
        ("STRICT", "passthrough", ["mtls-http", "mtls-tcp"], True, False),
        ("PERMISSIVE", "9080", ["mtls-http", "plain-http"], True, False),
        ("PERMISSIVE", "9001", ["mtls-tcp", "opaque-tls", "plain-tcp"], True, False),
        ("PERMISSIVE", "passthrough", ["mtls-http", "mtls-tcp", "opaque-tls", "plain-http", "plain-tcp"], True, True),
        ("DISABLE", "9080", ["plain-http"], False, False),
        ("DISABLE", "9001", ["plain-tcp"], False, False),
        ("DISABLE", "passthrough", ["plain-http", "plain-tcp"], False, True),
    ],
)
def test_chains(mode: str, port: str, chains: list[str], inspect_tls: bool, inspect_http: bool) -> None:
    found: dict[str, Any] = section(f"inbound/{port}", _peer(f"{{mtls: {{mode: {mode}}}}}"))
    assert [chain["name"] for chain in found["chains"]] == chains
    assert (found["inspect_tls"], found["inspect_http"]) == (inspect_tls, inspect_http)
    assert all(chain["terminate"] is chain["name"].startswith("mtls") for chain in found["chains"])
    plain = [chain for chain in found["chains"] if chain["name"] == "plain-http" and port == "passthrough"]
    assert all(chain["application"] == ["http/1.1", "h2c"] for chain in plain)


def test_http_2_clients_of_the_mesh_land_on_http_chains() -> None:
    (mtls, _plain) = section("inbound/9080")["chains"]
    assert "istio-h2" in mtls["application"]
