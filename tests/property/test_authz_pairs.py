"""Random policies × random requests: `meshdp authz eval` and the plain evaluator say the same of every pair.

MESHDP_AUTHZ_PAIRS=2000000 runs more of them, MESHDP_AUTHZ_SEED=7 others.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from random import Random
from typing import Any

import pytest

from meshdp.resources import load
from tests.support import random_policies, reference_istio
from tests.support.judges import judge

PAIRS = int(os.environ.get("MESHDP_AUTHZ_PAIRS", "20000"))
SEED = int(os.environ.get("MESHDP_AUTHZ_SEED", "1"))
REQUESTS_A_SET = 100
MESH = reference_istio.Mesh("cluster.local", ["td2"])
SETTINGS = {
    "apiVersion": "meshdp.io/v1alpha1",
    "kind": "MeshConfig",
    "metadata": {"name": "mesh", "namespace": "istio-system"},
    "spec": {"trustDomain": MESH.trust_domain, "trustDomainAliases": MESH.aliases},
}
TOLD = ("allowed", "action", "policy", "rule", "shadow")

pytestmark = pytest.mark.skipif(judge()[0] != "native", reason="the native extension is not built: nothing to compare")


def test_az_17_no_pair_of_policies_and_request_is_judged_differently() -> None:
    random = Random(SEED)
    seen: Counter[str] = Counter()
    for _ in range(max(1, PAIRS // REQUESTS_A_SET)):
        documents = random_policies.documents(random)
        requests = [random_policies.request(random) for _ in range(REQUESTS_A_SET)]
        for request, verdict in zip(requests, _evaluated(documents, requests), strict=True):
            expected = reference_istio.verdict(documents, MESH, request)
            told = {name: verdict[name] for name in TOLD}
            assert told == expected, json.dumps({"documents": documents, "request": request}, indent=1)
            seen[_kind(expected)] += 1
    assert sum(seen.values()) >= PAIRS // REQUESTS_A_SET * REQUESTS_A_SET
    for kind in (
        "refused",
        "DENY",
        "ALLOW",
        "unmatched",
        "free",
        "shadow",
    ):  # a run that never gets there shows nothing
        assert seen[kind] > PAIRS / 100, seen


def _evaluated(documents: list[dict[str, Any]], requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from meshdp.verdicts.policies import PolicySet
    from meshdp.verdicts.request import convert

    text = "\n---\n".join(json.dumps(document) for document in (SETTINGS, *documents))
    policies = PolicySet(load([("random.yaml", text)]))
    assert not policies.loaded.errors, policies.loaded.errors
    return [verdict.as_dict() for verdict in policies.verdicts([convert(request) for request in requests])]


def _kind(expected: dict[str, Any]) -> str:
    if expected["shadow"] is not None:
        return "shadow"
    if expected["action"] is None:
        return "free" if expected["allowed"] else "refused"
    return str(expected["action"]) if expected["policy"] else "unmatched"
