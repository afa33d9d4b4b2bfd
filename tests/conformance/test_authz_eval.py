"""The same recorded answers through `meshdp authz eval`: requests as people write them, and the shadow results of dry runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.test_authz_verdicts import FOLDER, IDS, TOPIC
from tests.support.conformance import Unsupported
from tests.support.judges import judge
from tests.support.verdicts import ADDRESS, feature_of, loaded, recorded_set, request_feature_of

Json = dict[str, Any]

SETS_A_TEST = 50  # a test for each set would cost more than what it tests
PIECES = [IDS[start : start + SETS_A_TEST] for start in range(0, len(IDS), SETS_A_TEST)]

pytestmark = pytest.mark.skipif(judge()[0] != "native", reason="the native extension is not built")


@pytest.mark.parametrize("ids", PIECES, ids=lambda ids: f"{ids[0]}-{ids[-1]}")
def test_recorded_sets(ids: list[str]) -> None:
    from meshdp.verdicts.policies import PolicySet
    from meshdp.verdicts.request import convert

    unsupported = Unsupported.of(TOPIC).entries
    compared = 0
    for case in ids:
        recorded = recorded_set(FOLDER / f"{case}.json")
        if not recorded["admission"]["accepted"] or case in unsupported or feature_of(recorded):
            continue
        asked = [each for each in recorded["requests"] if not _is_special(each, f"{case}/{each['id']}", unsupported)]
        verdicts = PolicySet(loaded(recorded)).verdicts([convert(_request(recorded, each)) for each in asked])
        for each, verdict in zip(asked, verdicts, strict=True):
            expect, told = each["expect"], verdict.as_dict()
            assert told["allowed"] is expect["allowed"], json.dumps((case, each, told))
            assert _reached(told) == expect.get("shadow", {}), (case, each, told)
            if each["expect"].get("outcome") is None and "method" in each["request"]:
                assert told["status"] == expect["status"], (case, each, told)
            compared += 1
    assert compared or all(_has_no_request(case, unsupported) for case in ids)


def _is_special(recorded: Json, named: str, unsupported: Json) -> bool:
    """Not what somebody can write down as a request: a header without a name, TLS without an identity that is trusted."""
    malformed = any(name.startswith(":") for name, _ in recorded["request"].get("headers", []))
    malformed = malformed or (recorded["tls"] and recorded["source"]["principal"] is None)
    return malformed or named in unsupported or request_feature_of(recorded) is not None


def _has_no_request(case: str, unsupported: Json) -> bool:
    recorded = recorded_set(FOLDER / f"{case}.json")
    return not recorded["admission"]["accepted"] or case in unsupported or feature_of(recorded) is not None


def _request(case: Json, recorded: Json) -> Json:
    source, request = recorded["source"], recorded["request"]
    workload = case["workload"]
    to = {"namespace": workload["namespace"], "labels": workload["labels"], "ip": ADDRESS, "port": recorded["port"]}
    written: Json = {"sni": recorded.get("sni")}
    if "method" in request:
        headers = request["headers"] + ([["x-forwarded-for", source["xff"]]] if source["xff"] is not None else [])
        version = "2" if recorded.get("http") == 2 else request.get("version", "1.1")
        written |= {"method": request["method"], "path": request["path"], "host": request["host"]}
        written |= {"headers": _as_text(headers), "version": version, "jwt": request["jwt"]}
        written |= {"path": _as_text(request["path"]), "host": _as_text(request["host"])}
    return {
        "id": recorded["id"],
        "source": {"principal": source["principal"], "ip": source["ip"]},
        "destination": to,
        "request": written,
    }


def _as_text(written: Any) -> Any:
    """The data has a character a byte; requests have text."""
    if isinstance(written, list):
        return [_as_text(each) for each in written]
    return written.encode("latin-1").decode("utf-8", "surrogateescape") if isinstance(written, str) else written


def _reached(told: Json) -> Json:
    """The shadow as Envoy has it: who is denied by a DENY policy never reaches the filter of the ALLOW policies."""
    found = _shadow(told["shadow"])
    over = told["action"] == "DENY"
    return {name: value for name, value in found.items() if not (over and name.startswith("istio_dry_run_allow"))}


def _shadow(told: Json | None) -> Json:
    """As Istio's metadata has it."""
    found = {}
    for action, result in (told or {}).items():
        if result is None:
            continue
        prefix = f"istio_dry_run_{action}_shadow"
        found[f"{prefix}_engine_result"] = "allowed" if result["allowed"] else "denied"
        if result["policy"] is not None:
            namespace, _, name = result["policy"].partition("/")
            found[f"{prefix}_effective_policy_id"] = f"ns[{namespace}]-policy[{name}]-rule[{result['rule']}]"
    return found
