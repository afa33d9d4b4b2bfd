"""PeerAuthentication: mode × declared protocol × kind of client, as a real istiod and a real Envoy answered.

Compared: whether the application answered, which kind of chain took the connection (HTTP or TCP), whether mutual TLS
ended there, and the proxy's own HTTP answer.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from meshdp.errors import Finding
from tests.support.conformance import ROOT, Unsupported, params
from tests.support.judges import judge
from tests.support.verdicts import ADDRESS, as_seen, compiled

TOPIC = "peerauth-verdicts"
FILE = ROOT / f"{TOPIC}.json"
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads(FILE.read_text())} if FILE.exists() else {}
JUDGE, JUDGED_BY = judge()
LABELS = {"app": "w", "version": "v1"}
MESH = {
    "trustDomain": "cluster.local",
    "trustDomainAliases": [],
    "rootNamespace": "istio-system",
    "pathNormalization": "DEFAULT",
}


@pytest.mark.parametrize("case", params(TOPIC, sorted(CASES)))
def test_a_recorded_connection(case: str) -> None:
    recorded = CASES[case]
    Unsupported.of(TOPIC).settle(case, _difference(recorded), final=JUDGE == "native")


def _difference(recorded: dict[str, Any]) -> str | None:
    transaction, findings = _compiled(case_set(recorded))
    refused = any(finding.severity == "error" for finding in findings)
    if refused or not recorded["admission"]["accepted"]:
        return None if refused is not recorded["admission"]["accepted"] else f"{findings}: {recorded['admission']}"
    answer = JUDGED_BY(transaction, as_seen(transaction, _request(recorded)))
    wanted, got = _expected(recorded), _observed(answer, recorded)
    return None if got == wanted else f"expected {wanted}, got {got} ({answer}) for {recorded['client']}"


def case_set(recorded: dict[str, Any]) -> str:
    """The cases of one set share their resources."""
    return str(recorded["id"]).partition("-")[0]


@cache
def _compiled(name: str) -> tuple[bytes, list[Finding]]:
    """The resources of a set were created in their order: the data holds no timestamps."""
    first = next(case for case in CASES.values() if case_set(case) == name)
    workload = {"namespace": f"s{name}", "labels": LABELS}
    resources = [_created(resource, second) for second, resource in enumerate(first["resources"])]
    return compiled({"workload": workload, "mesh": MESH, "resources": resources})


def _created(resource: dict[str, Any], second: int) -> dict[str, Any]:
    metadata = {**resource["metadata"], "creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
    return {**resource, "metadata": metadata}


def _request(recorded: dict[str, Any]) -> dict[str, Any]:
    certificate = recorded["clientCertificate"]
    known = certificate is not None and certificate[1] == "ca"
    sniffed = {"http/1.0": ["http/1.0"], "http/1.1": ["http/1.1"], "http/2": ["h2c"]}.get(recorded["carries"], [])
    return {
        "direction": "inbound",
        "peer": f"spiffe://{certificate[0]}" if known else None,
        "source": "10.1.0.5:40000",
        "destination": f"{ADDRESS}:{recorded['port']}",
        "sni": "w.example.com" if recorded["tls"] else None,
        "head": _HEADS.get(recorded["carries"]),
        "fields": _FIELDS if recorded["carries"] == "http/2" else None,
        "detected": {"tls": recorded["tls"], "alpn": recorded["alpn"] if recorded["tls"] else sniffed},
    }


def _expected(recorded: dict[str, Any]) -> dict[str, Any]:
    expect, verdict = recorded["expect"], recorded["verdict"]
    layer = expect.get("layer") if verdict not in ("closed", "tls-rejected") else None
    status = expect["status"] if verdict.startswith("http-") else None
    kind = verdict if expect["allowed"] else None
    return {"allowed": expect["allowed"], "layer": layer, "kind": kind, "status": status}


def _observed(answer: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """Our chains say in their names what they do: mtls-http, mtls-tcp, plain-http, plain-tcp, opaque-tls."""
    chain = answer["chain"]
    served = "served-mtls" if chain.startswith("mtls") else "passed-through" if recorded["tls"] else "served-plaintext"
    refused = recorded["verdict"] in ("closed", "tls-rejected")
    layer = None if refused else "http" if chain.endswith("http") else "tcp"
    return {
        "allowed": answer["allowed"],
        "layer": layer,
        "kind": served if answer["allowed"] else None,
        "status": answer["status"] if recorded["verdict"].startswith("http-") else None,
    }


_HEADS = {
    "http/1.0": "GET / HTTP/1.0\r\nHost: w.example.com\r\n\r\n",
    "http/1.1": "GET / HTTP/1.1\r\nHost: w.example.com\r\n\r\n",
    "tcp": "hello\n",
}
_FIELDS = [(":method", "GET"), (":scheme", "https"), (":authority", "w.example.com"), (":path", "/")]
