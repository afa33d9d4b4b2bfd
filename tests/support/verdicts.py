"""Reads sets of conformance/authz-verdicts and peerauth-verdicts: resources in, snapshot and requests out.

In:     one set as documented in conformance/authz-verdicts/README.md.
Out:    `compiled`: the transaction of its workload and the findings; `request_of`: one request for a judge.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from meshdp.compiler import compile_workload
from meshdp.compiler.select import Workload
from meshdp.errors import Finding
from meshdp.resources import Loaded, load
from tests.support.conformance import Entry

Json = dict[str, Any]

ADDRESS = "10.20.0.1"
ISTIO_HTTP1 = ["istio-http/1.1", "istio", "http/1.1"]
ISTIO_HTTP2 = ["istio-h2", "istio", "h2"]
ISTIO_TCP = ["istio-peer-exchange", "istio"]
SPACE_AROUND_A_VALUE = "white space around a value is refused over HTTP/2 (decision 0091)"
CLIENT_HELLO = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
# Every port of the recorded pods: name as the port was declared.
PORTS = {
    8080: "http",
    8081: "http-b",
    8082: "http2",
    7070: "grpc",
    7071: "grpc-web",
    7003: "http-c",
    7004: "http2-b",
    9000: "tcp",
    9001: "tcp-b",
    7005: "tcp-c",
    7006: "tcp-d",
    8443: "https",
    8444: "tls",
    6379: "redis",
    3307: "mysql",
    27018: "mongo",
    7000: "",
    3306: "auto-b",
}


def loaded(case: Json) -> Loaded:
    """The documents of a set with the mesh around them: its settings, and a service for the ports of the recorded pods."""
    namespace, mesh = case["workload"]["namespace"], case["mesh"]
    files = [(f"{index}.json", json.dumps(resource)) for index, resource in enumerate(case["resources"])]
    settings = {
        "trustDomain": mesh["trustDomain"],
        "trustDomainAliases": mesh["trustDomainAliases"],
        "rootNamespace": mesh["rootNamespace"],
        "pathNormalization": {"normalization": mesh["pathNormalization"]},
    }
    validate = "false" if mesh.get("skipValidateTrustDomain") else "true"
    surroundings = [
        _object("meshdp.io/v1alpha1", "MeshConfig", "mesh", "istio-system", spec=settings)
        | {"metadata": {"name": "mesh", "annotations": {"meshdp.io/validate-trust-domain": validate}}},
        _object("v1", "Service", "w", namespace, spec=_service(case["workload"]["labels"])),
    ]
    files.extend((f"surroundings{index}.json", json.dumps(item)) for index, item in enumerate(surroundings))
    return load(files)


def compiled(case: Json) -> tuple[bytes, list[Finding]]:
    """Compiles a set for its workload; findings of its own resources only."""
    found = loaded(case)
    workload = Workload(
        name="w",
        namespace=case["workload"]["namespace"],
        service_account="w",
        labels={**case["workload"]["labels"], "security.istio.io/tlsMode": "istio"},
        addresses=(ADDRESS,),
    )
    findings = [item for item in found.findings if not item.where.file.startswith("surroundings")]
    assert len(findings) == len(found.findings), found.findings
    return compile_workload(found.resources, workload).transaction(None), findings


def feature_of(case: Json) -> Entry | None:
    """What a set needs that is not built yet."""
    text = json.dumps(case["resources"])
    if "experimental." in text:
        return {"reason": "metadata of Envoy's filters: fails closed", "milestone": "by design"}
    if '"CUSTOM"' in text:
        return {"reason": "external authorizers are not called: fails closed", "milestone": "M4"}
    return None


def request_feature_of(recorded: Json) -> Entry | None:
    """What one request needs that is not built yet."""
    if recorded.get("http") == 2 and any(value != value.strip() for _, value in recorded["request"]["headers"]):
        return {"reason": SPACE_AROUND_A_VALUE, "milestone": "by design"}
    if "\t" in recorded["request"].get("path", ""):
        return {"reason": "a tab before the version is refused (attack case H1-49)", "milestone": "by design"}
    note = recorded.get("note", "")
    if note == "crit header":
        reason = "a token with extensions that must be understood is refused (decision 0121)"
        return {"reason": reason, "milestone": "by design"}
    if note == "two Host headers":
        return {"reason": "two Host headers are refused (attack case H1-51)", "milestone": "by design"}
    if "certificate with" in note:
        reason = "a certificate without exactly one SPIFFE URI is refused in the handshake (DESIGN section 5)"
        return {"reason": reason, "milestone": "by design"}
    return None


def request_of(recorded: Json) -> Json:
    """A recorded request as a judge takes it."""
    source, request = recorded["source"], recorded["request"]
    http, http2 = "method" in request, recorded.get("http") == 2
    return {
        "direction": "inbound",
        "peer": None if source["principal"] is None else f"spiffe://{source['principal']}",
        "source": f"{source['ip']}:40000",
        "destination": f"{ADDRESS}:{recorded['port']}",
        "sni": recorded.get("sni"),
        "head": _head(request, source["xff"]) if http and not http2 else None,
        "fields": _fields(request, source["xff"], recorded["tls"]) if http2 else None,
        "detected": {"tls": recorded["tls"], "alpn": _detected(recorded, http, http2)},
    }


def recorded_set(path: Path) -> Json:
    """A set with the tokens that stand in it by name put in."""
    return dict(json.loads(_TOKEN.sub(lambda found: _tokens(path.parent)[found[1]], path.read_text())))


@cache
def _tokens(folder: Path) -> dict[str, str]:
    written = json.loads((folder / "tokens.json").read_text())
    return {name: ".".join(parts) for name, parts in written.items()}


_TOKEN = re.compile(r"\{\{token:(\w+)\}\}")


def _detected(recorded: Json, http: bool, http2: bool) -> list[str]:
    """The list a mesh client offers, or what sniffing finds in plain bytes."""
    if recorded["tls"]:
        return ISTIO_HTTP2 if http2 else ISTIO_HTTP1 if http else ISTIO_TCP
    if http2:
        return ["h2c"]
    return ["http/1.1"] if http and recorded["request"].get("version", "1.1") == "1.1" else []


def as_seen(transaction: bytes, request: Json) -> Json:
    """Where a port does not look for TLS, a TLS client's bytes are what the proxy sees: no ClientHello, no head."""
    sections = json.loads(transaction)["put"]
    port = request["destination"].rpartition(":")[2]
    inbound = sections.get(f"inbound/{port}") or sections["inbound/passthrough"]
    if inbound["inspect_tls"] or not request["detected"]["tls"]:
        return request
    hidden = {"peer": None, "sni": None, "fields": None, "detected": {"tls": False, "alpn": []}}
    return request | hidden | {"head": CLIENT_HELLO}


def _fields(request: Json, forwarded: str | None, tls: bool) -> list[tuple[str, str]]:
    """The same as HTTP/2 has it: names in lower case, the request line and Host as pseudo-headers."""
    line = {":method": "method", ":authority": "host", ":path": "path"}
    pseudo = [(name, request[key]) for name, key in line.items() if request[key] is not None]
    return [
        *pseudo,
        (":scheme", "https" if tls else "http"),
        *((n.lower(), v) for n, v in _headers(request, forwarded)),
    ]


def _headers(request: Json, forwarded: str | None) -> list[tuple[str, str]]:
    """Order on the wire: authorization, headers, x-forwarded-for."""
    first = [] if request["jwt"] is None else [("authorization", f"Bearer {request['jwt']}")]
    last = [] if forwarded is None else [("x-forwarded-for", forwarded)]
    return [*first, *((name, value) for name, value in request["headers"]), *last]


def _head(request: Json, forwarded: str | None) -> str:
    lines = [f"{request['method']} {request['path']} HTTP/{request.get('version', '1.1')}"]
    if request["host"] is not None:
        lines.append(f"Host: {request['host']}")
    lines.extend(f"{name}: {value}" for name, value in _headers(request, forwarded))
    return "\r\n".join(lines) + "\r\n\r\n"


def _service(labels: Json) -> Json:
    ports = [
        {"port": port, "targetPort": port} | ({"name": name} if name else {"name": "anything"})
        for port, name in PORTS.items()
    ]
    return {"selector": labels, "ports": ports, "clusterIP": "10.96.0.1"}


def _object(api_version: str, kind: str, name: str, namespace: str, **rest: Any) -> Json:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}
