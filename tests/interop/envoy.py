"""Envoy's configuration as istiod writes it for a sidecar: outbound on 15001, inbound on 15006, mutual TLS between the two.

In:     a folder with `cert-chain.pem`, `key.pem`, `root-cert.pem`; the ports of the one service.
Out:    a bootstrap file as JSON; `start` runs Envoy with it in place of a side's sidecar.
Limits: the `istio.alpn` filter and the metadata exchange are Istio's own builds; the first is said here with `set_filter_state`, per
        upstream protocol as there, of the second only a header is sent. Endpoints are static.
Source: istio-semantics A.5, B.2, B.3, B.4, F.0, F.1; Envoy's API of version 1.40.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.interop import rig as ports
from tests.interop import tools
from tests.interop.rig import Rig
from tests.support.mesh import Mesh
from tests.support.origin import Origin
from tests.support.pair import SERVER_IP, SERVICE_IP
from tests.support.wire import SIDECAR_UID

OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT = 15001, 15006, 15000
EXTENSIONS = "type.googleapis.com/envoy.extensions"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SIDES = {"client": ["client"], "server": ["server"], "both": ["server", "client"]}
Config = dict[str, Any]

# B.2: what the client side offers, by the protocol that it speaks upstream.
BASE_ALPN = ["istio-peer-exchange", "istio"]
ALPN = {"http": "istio-http/1.1,istio,http/1.1", "http2": "istio-h2,istio,h2"}
# B.3: what the server side selects from, and what the ClientHello must offer to be of the mesh.
HTTP_SERVED, TCP_SERVED = ["h2", "http/1.1"], ["istio-peer-exchange", "h2", "http/1.1"]
OF_HTTP = ["istio-http/1.0", "istio-http/1.1", "istio-h2"]
OF_TCP = ["istio-peer-exchange", "istio"]
# F.2, F.3: what istiod retries unless told otherwise, without a limit to how many; streams beyond a limit that Envoy does not know yet are among it.
RETRIES = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "num_retries": 2,
}
NO_LIMITS = {
    "thresholds": [dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), 2**32 - 1)]
}

# Ports by family; `auto` is neither.
HTTP1_PORTS, HTTP2_PORTS = (ports.HTTP, ports.WEBSOCKET), (ports.HTTP2, ports.GRPC, ports.GRPC_GO, ports.GRPC_RESET)
IDENTITY = "spiffe://cluster.local/ns/default/sa/{}"


class Beside(Mesh):
    """A mesh with Envoy in the place of one side's sidecar, or of both."""

    def __init__(self, rig: Rig, at: str) -> None:
        self.rig = rig
        self.at = at
        self._started: list[subprocess.Popen[bytes]] = []
        self.restart()
        super().__init__(rig.pair, Origin(rig.pair.server, [ports.HTTP, ports.AUTO]), ports.TCP)

    def restart(self) -> None:
        """A fresh Envoy, which has read its files again and has no connection."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started = [start(self.rig, at) for at in SIDES[self.at]]

    def counter(self, name: str) -> int:
        """A counter of the Envoy at the one side."""
        side = self.pair.client if self.at == "client" else self.pair.server
        page = side.inside(lambda: _admin(f"/stats?filter={quote(f'^{re.escape(name)}$')}"))
        return int(page.rpartition(": ")[2] or 0)


def _admin(path: str) -> str:
    """A page of the Envoy in this namespace."""
    connection = http.client.HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def start(made: Rig, at: str) -> subprocess.Popen[bytes]:
    """End the sidecar of a side and run Envoy in its place, as the same user behind the same rules."""
    side = made.pair.client if at == "client" else made.pair.server
    side.stop()
    side.process = None  # the pair asks it for nothing any more
    credentials = made.folder / f"credentials-{side.name}"
    parts = client(credentials) if at == "client" else server(credentials)
    file = made.folder / f"envoy-{side.name}.json"
    file.write_text(json.dumps({"admin": {"address": _address("127.0.0.1", ADMIN_PORT)}, "static_resources": parts}))
    shutil.chown(file, SIDECAR_UID, SIDECAR_UID)
    words = [tools.envoy(), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
    return made.start(side, words, OUTBOUND_PORT if at == "client" else INBOUND_PORT, as_sidecar=True)


# --- the client's side ------------------------------------------------------------------------------------------------


def client(credentials: Path) -> Config:
    """One listener that takes everything, one that is bound to nothing for each port, one cluster each."""
    every = sorted(ports.PORTS.values())
    taken = {
        "name": "virtualOutbound",
        "address": _address("0.0.0.0", OUTBOUND_PORT),
        "use_original_dst": True,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [_tcp("PassthroughCluster")]}],
    }
    passed = {"name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    return {
        "listeners": [taken, *(_outbound_listener(port) for port in every)],
        "clusters": [passed, *(_outbound_cluster(port, credentials) for port in every)],
    }


def _outbound_listener(port: int) -> Config:
    """HTTP ports route by Host, TCP ports go to their service, auto ports ask the HTTP inspector."""
    listener: Config = {
        "name": f"0.0.0.0_{port}",
        "address": _address("0.0.0.0", port),
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
    }
    tcp = {"filters": [_tcp(_cluster_name(port))]}
    if port == ports.AUTO:
        inspector = {"@type": f"{EXTENSIONS}.filters.listener.http_inspector.v3.HttpInspector"}
        listener["listener_filters"] = [{"name": "envoy.filters.listener.http_inspector", "typed_config": inspector}]
        listener["filter_chains"] = [_sniffed(port, *spoken) for spoken in (("http/1.1", "http"), ("h2c", "http2"))]
        listener["default_filter_chain"] = tcp
        return listener
    protocol = "http2" if port in HTTP2_PORTS else "http"
    routed = {"filters": [_http(_outbound_route(port), [_alpn(protocol)])]}
    return {**listener, "filter_chains": [tcp if port == ports.TCP else routed]}


def _sniffed(port: int, spoken: str, protocol: str) -> Config:
    match = {"application_protocols": [spoken], "transport_protocol": "raw_buffer"}
    return {"filter_chain_match": match, "filters": [_http(_outbound_route(port), [_alpn(protocol)])]}


def _outbound_route(port: int) -> Config:
    names = [ports.SERVICE, "server", "server.default", "server.default.svc", SERVICE_IP]
    action = {"cluster": _cluster_name(port), "timeout": "0s", "retry_policy": RETRIES}
    route = {"match": {"prefix": "/"}, "route": action}
    domains = [name + end for name in names for end in ("", f":{port}")]
    return {
        "name": str(port),
        "virtual_hosts": [{"name": f"{ports.SERVICE}:{port}", "domains": domains, "routes": [route]}],
        "request_headers_to_add": [
            _header("x-envoy-peer-metadata-id", "sidecar~10.99.0.1~client.default~default.svc.cluster.local")
        ],
        "validate_clusters": False,
    }


def _alpn(protocol: str) -> Config:
    """What `istio.alpn` does: the list follows the protocol in use upstream."""
    value = {
        "object_key": "envoy.network.application_protocols",
        "format_string": {"text_format_source": {"inline_string": ALPN[protocol]}},
    }
    config = {"@type": f"{EXTENSIONS}.filters.http.set_filter_state.v3.Config", "on_request_headers": [value]}
    return {"name": "envoy.filters.http.set_filter_state", "typed_config": config}


def _outbound_cluster(port: int, credentials: Path) -> Config:
    endpoint = {
        "endpoint": {"address": _address(SERVER_IP, port)},
        "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}},
    }
    alpn = [*BASE_ALPN, *(["h2"] if port in HTTP2_PORTS else [])]
    mutual = _tls(
        credentials, "UpstreamTlsContext", alpn, {"san_type": "URI", "matcher": {"exact": IDENTITY.format("server")}}
    )
    mutual["typed_config"]["sni"] = f"outbound_.{port}_._.{ports.SERVICE}"
    raw = {"@type": f"{EXTENSIONS}.transport_sockets.raw_buffer.v3.RawBuffer"}
    plain = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": raw}
    return {
        "name": _cluster_name(port),
        "type": "STATIC",
        "load_assignment": {"cluster_name": _cluster_name(port), "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": NO_LIMITS,
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": mutual},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": plain},
        ],
        **_http_options(port),
    }


def _cluster_name(port: int) -> str:
    return f"outbound|{port}||{ports.SERVICE}"


# --- the server's side ------------------------------------------------------------------------------------------------


def server(credentials: Path) -> Config:
    """One listener with the chains of B.3 for every port; what no chain takes is closed."""
    listener_filters = ["original_dst", "tls_inspector", "http_inspector"]
    types = {"original_dst": "OriginalDst", "tls_inspector": "TlsInspector", "http_inspector": "HttpInspector"}
    taken = {
        "name": "virtualInbound",
        "address": _address("0.0.0.0", INBOUND_PORT),
        "traffic_direction": "INBOUND",
        "listener_filters_timeout": "0s",
        "continue_on_listener_filters_timeout": True,
        "listener_filters": [
            {
                "name": f"envoy.filters.listener.{name}",
                "typed_config": {"@type": f"{EXTENSIONS}.filters.listener.{name}.v3.{types[name]}"},
            }
            for name in listener_filters
        ],
        "filter_chains": [chain for port in ports.PORTS.values() for chain in _chains(port, credentials)],
    }
    return {"listeners": [taken], "clusters": [_inbound_cluster(port) for port in ports.PORTS.values()]}


def _chains(port: int, credentials: Path) -> list[Config]:
    """The row of B.3 for a port, PERMISSIVE."""
    http, tcp = [_http(_inbound_route(port), [])], [_tcp(f"inbound|{port}||")]
    if port == ports.AUTO:
        return [
            _chain(port, http, OF_HTTP, _inbound_tls(credentials, HTTP_SERVED)),
            _chain(port, tcp, OF_TCP, _inbound_tls(credentials, TCP_SERVED)),
            _chain(port, http, ["http/1.1", "h2c"], None),
            _chain(port, tcp, [], None),
        ]
    filters, served = (tcp, TCP_SERVED) if port == ports.TCP else (http, HTTP_SERVED)
    mutual = _chain(port, filters, OF_HTTP + OF_TCP, _inbound_tls(credentials, served))
    return [mutual, _chain(port, filters, [], None)]


def _chain(port: int, filters: list[Config], protocols: list[str], tls: Config | None) -> Config:
    match = {"destination_port": port, "transport_protocol": "tls" if tls else "raw_buffer"}
    found: Config = {"filter_chain_match": match, "filters": filters}
    if protocols:
        found["filter_chain_match"]["application_protocols"] = protocols
    return found | ({"transport_socket": tls} if tls else {})


def _inbound_tls(credentials: Path, served: list[str]) -> Config:
    identity = {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
    found = _tls(credentials, "DownstreamTlsContext", served, identity)
    found["typed_config"]["require_client_certificate"] = True
    return found


def _inbound_route(port: int) -> Config:
    route = {"match": {"prefix": "/"}, "route": {"cluster": f"inbound|{port}||", "timeout": "0s"}}
    virtual_host = {"name": f"inbound|http|{port}", "domains": ["*"], "routes": [route]}
    return {"name": f"inbound|{port}||", "virtual_hosts": [virtual_host], "validate_clusters": False}


def _inbound_cluster(port: int) -> Config:
    return {
        "name": f"inbound|{port}||",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        # A.5: the redirection rules know the sidecar's own connections to the application by this address.
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
        **_http_options(port),
    }


# --- what both have ---------------------------------------------------------------------------------------------------


def _http(route: Config, filters: list[Config]) -> Config:
    """A connection manager as istiod sets it up."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
    }
    config = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": route["name"],
        "route_config": route,
        "http_filters": [*filters, router],
        "use_remote_address": False,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": True, "dns": True, "uri": True},
        "server_name": "istio-envoy",
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _tcp(cluster: str) -> Config:
    config = {
        "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}


def _http_options(port: int) -> Config:
    """Declared ports speak what was declared, auto ports what the client spoke."""
    if port == ports.TCP:
        return {}
    versions: Config = {
        "explicit_http_config": {"http2_protocol_options" if port in HTTP2_PORTS else "http_protocol_options": {}}
    }
    if port == ports.AUTO:
        versions = {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}
    options = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", **versions}
    return {"typed_extension_protocol_options": {HTTP_OPTIONS: options}}


def _tls(credentials: Path, context: str, alpn: list[str], identity: Config) -> Config:
    certificate = {"certificate_chain": f"{credentials}/cert-chain.pem", "private_key": f"{credentials}/key.pem"}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": alpn,
        "tls_certificates": [{name: {"filename": file} for name, file in certificate.items()}],
        "validation_context": {
            "trusted_ca": {"filename": f"{credentials}/root-cert.pem"},
            "match_typed_subject_alt_names": [identity],
        },
    }
    config = {"@type": f"{EXTENSIONS}.transport_sockets.tls.v3.{context}", "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}


def _header(name: str, value: str) -> Config:
    return {"header": {"key": name, "value": value}}
