"""How long the command line's question takes: decode a snapshot, then ask the data plane's own matcher."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.micro import mesh
from meshdp.supervise.engine import authorize, digest

POLICIES = [10, 1000]


def request(number: int) -> bytes:
    """What caller NUMBER asks of `web`; only the policy with that number allows it."""
    head = f"GET /api/{number}/item HTTP/1.1\r\nhost: web.default\r\n\r\n"
    return json.dumps(
        {
            "direction": "inbound",
            "peer": f"spiffe://cluster.local/ns/default/sa/caller-{number}",
            "source": "10.0.0.9:40000",
            "destination": f"{mesh.WEB_ADDRESS}:8080",
            "sni": None,
            "head": head,
            "detected": {"tls": True, "alpn": ["istio-http/1.1", "istio", "http/1.1"]},
        }
    ).encode()


@pytest.mark.parametrize("policies", POLICIES)
def test_decode_and_authorize(benchmark: Any, policies: int) -> None:
    transaction = mesh.snapshot(10, policies).transaction(None)
    last = request(policies - 1)
    assert json.loads(benchmark(authorize, transaction, last))["allowed"] is True
    assert json.loads(authorize(transaction, request(policies)))["allowed"] is False


@pytest.mark.parametrize("policies", POLICIES)
def test_decode(benchmark: Any, policies: int) -> None:
    """The part of the above that is not the decision."""
    found = mesh.snapshot(10, policies)
    assert benchmark(digest, found.transaction(None)) == found.digest
