"""Envoy's configuration for a place in a scenario, as JSON.

In:     a `Role`, a folder with certificates. Out: the text of a bootstrap file.
Limits: generated request ids off, no access log, an RBAC filter where meshdp has policies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.proxies import Role

TYPES = "type.googleapis.com/envoy.extensions"
HTTP = f"{TYPES}.filters.http"
NO_LIMIT = 1_000_000
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
HTTP2 = {"explicit_http_config": {"http2_protocol_options": {}}}


def configuration(folder: Path, role: Role) -> str:
    """The whole file."""
    chain: dict[str, Any] = {"filters": [_tcp() if role.tcp else _http(policies=role.policies)]}
    if role.tls == "server":
        demand = {"require_client_certificate": True}
        chain["transport_socket"] = _tls(folder, "DownstreamTlsContext", demand, h2=role.h2_taken)
    cluster: dict[str, Any] = {
        "name": "application",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(each)}} for each in role.upstreams]}],
        },
        "circuit_breakers": {"thresholds": [dict.fromkeys(LIMITS, NO_LIMIT)]},
    }
    if role.source:
        cluster["upstream_bind_config"] = {"source_address": {"address": role.source, "port_value": 0}}
    if role.h2_dialled:
        cluster["typed_extension_protocol_options"] = {OPTIONS: {"@type": f"type.googleapis.com/{OPTIONS}", **HTTP2}}
    if role.tls == "client":
        cluster["transport_socket"] = _tls(folder, "UpstreamTlsContext", {}, h2=role.h2_dialled)
    listener = {"name": "taken", "address": _address(f"0.0.0.0:{role.port}"), "filter_chains": [chain]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


LIMITS = ("max_connections", "max_pending_requests", "max_requests")


def _address(text: str) -> dict[str, Any]:
    host, port = text.split(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _tcp() -> dict[str, Any]:
    proxy = {
        "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "taken",
        "cluster": "application",
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}


def _http(*, policies: bool) -> dict[str, Any]:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "application"}}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "taken",
            "generate_request_id": False,
            "http_filters": [*(_rbac() if policies else []), router],
            "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        },
    }


def _rbac() -> list[dict[str, Any]]:
    admin = {"url_path": {"path": {"prefix": "/admin"}}}
    rules = {"action": "DENY", "policies": {"no-admin": {"permissions": [admin], "principals": [{"any": True}]}}}
    return [{"name": "envoy.filters.http.rbac", "typed_config": {"@type": f"{HTTP}.rbac.v3.RBAC", "rules": rules}}]


def _tls(folder: Path, context: str, more: dict[str, Any], *, h2: bool) -> dict[str, Any]:
    pair = {"certificate_chain": f"{folder}/leaf.pem", "private_key": f"{folder}/key.pem"}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{name: {"filename": file} for name, file in pair.items()}],
        "validation_context": {"trusted_ca": {"filename": f"{folder}/ca.pem"}},
        **({"alpn_protocols": ["h2"]} if h2 else {}),
    }
    config = {"@type": f"{TYPES}.transport_sockets.tls.v3.{context}", "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}
