"""AuthorizationPolicy: what a real istiod and a real Envoy answered to 13,799 requests, against our judge."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.conformance import FOREIGN, ROOT, Unsupported, params
from tests.support.judges import judge
from tests.support.verdicts import as_seen, compiled, feature_of, recorded_set, request_feature_of, request_of

TOPIC = "authz-verdicts"
FOLDER = ROOT / TOPIC
IDS = sorted(path.stem for path in FOLDER.glob("[0-9]*.json"))
JUDGE, JUDGED_BY = judge()


@pytest.mark.parametrize("case", params(TOPIC, IDS))
def test_a_recorded_set(case: str) -> None:
    recorded = recorded_set(FOLDER / f"{case}.json")
    unsupported = Unsupported.of(TOPIC)
    transaction, findings = compiled(recorded)
    if not recorded["admission"]["accepted"]:
        refused = any(finding.severity == "error" for finding in findings)
        unsupported.settle(case, None if refused else f"a cluster refuses this set: {recorded['admission']}")
        return
    failures = [str(finding) for finding in findings if finding.severity == "error"]
    for request in recorded["requests"]:
        difference = _difference(transaction, request, hints=feature_of(recorded) is None)
        listed = f"{case}/{request['id']}" in unsupported.entries
        listed = listed or (FOREIGN and difference is not None and request_feature_of(request) is not None)
        if listed and difference is None and JUDGE == "native":
            failures.append(f"{request['id']}: listed as unsupported, but it passes")
        elif difference is not None and not listed:
            failures.append(f"{request['id']}: {difference}")
    unsupported.settle(case, "\n".join(failures) or None, final=JUDGE == "native", feature=feature_of(recorded))


def _difference(transaction: bytes, recorded: dict[str, Any], *, hints: bool) -> str | None:
    """What differs between the recorded answer and ours; None when nothing does.

    hints: whether AUDIT is compared, which a condition that is not honoured yet would widen.
    """
    expect = recorded["expect"]
    request = as_seen(transaction, request_of(recorded))
    answer = JUDGED_BY(transaction, request)
    wanted: dict[str, Any] = {"allowed": expect["allowed"]}
    if "status" in expect:
        wanted["status"] = expect["status"]
    if "grpcStatus" in expect:
        wanted["grpc_status"] = int(expect["grpcStatus"])
    if expect.get("outcome") == "plaintext-answer-to-tls":
        wanted["status"] = 400  # an HTTP answer that a TLS client cannot read
    if expect.get("detail", "").startswith("rbac_access_denied"):
        wanted["detail"] = expect["detail"]
    if expect["allowed"] and "upstreamPath" in expect:
        wanted["upstream_path"] = expect["upstreamPath"]
    got = {name: answer[name] for name in wanted}
    if hints and "auditHint" in expect and JUDGE == "native":
        wanted["audit"], got["audit"] = expect["auditHint"], "audit" in (answer["shadow"] or {})
    return None if got == wanted else f"expected {wanted}, got {got} for {request}"
