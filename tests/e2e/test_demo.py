"""The demo plays all its acts; and with enforcement switched off by policy, the acts that depend on it fail.

Limits:  as root and as an ordinary user whose sidecars mark their packets.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from meshdp.local.isolation import rights
from tests.support.local_mesh import Meshdp, picture_of_the_host
from tests.support.ordinary import folder_for

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("meshdp._native") is None, reason="the engine is not built: make build"
    ),
]

ACTS = "interception plaintext mutual-tls strict deny-all details-viewer product-page change killed cost".split()

# What goes on under load is refused, and nothing else.
NO_LOAD = """\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-load, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{when: [{key: "request.headers[user-agent]", values: [bookinfo-load]}]}]
"""
# Claims of the last acts that cannot hold then: the client outside is answered in plaintext, if with a refusal.
BROKEN = {
    "change": {"no request failed", "the last policy decides"},
    "killed": {
        "on the link, nobody was answered in plaintext",
        "the mesh is served again within a second of the restart",
    },
    "cost": {"every request was answered"},
}

# Each workload speaks plaintext whatever the mesh says, and everything is allowed whatever else is.
NO_ENFORCEMENT = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-all, namespace: default}
spec: {rules: [{}]}
""" + "".join(
    f"""\
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: a-{app}, namespace: default, creationTimestamp: "2000-01-01T00:00:00Z"}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  mtls: {{mode: DISABLE}}
  portLevelMtls: {{"9080": {{mode: DISABLE}}}}
"""
    for app in ("productpage", "details", "reviews", "ratings")
)


# What a machine that has others to serve may miss; everything else holds at once.
TIMED = {
    "the mesh is served again within a second of the restart",
    "so is the time that two of them add",
    "CPU for each request is small in both sidecars",
}
PLAYS = 3


def played(meshdp: Meshdp, *words: str) -> tuple[int, dict[str, dict[str, bool]], str]:
    """The exit code, the claims of each act and whether they hold, and what was printed."""
    report = meshdp.folder / "report.json"
    done = meshdp("demo", "--report", str(report), *words, timeout_s=400)
    acts = json.loads(report.read_text())["acts"] if report.exists() else []
    for act in acts:
        assert act["evidence"], act["name"]
        assert act["ok"] == all(each["ok"] for each in act["evidence"])
    claims = {act["name"]: {each["claim"]: each["ok"] for each in act["evidence"]} for act in acts}
    return done.returncode, claims, done.stdout + done.stderr


@pytest.mark.parametrize("mode", [rights.ROOT, rights.MARKED])
def test_every_act_holds_and_nothing_is_left(mode: str) -> None:
    before = picture_of_the_host()
    with folder_for(mode) as folder:
        meshdp = Meshdp(folder, mode)
        if mode != rights.ROOT:  # with nothing but an empty home
            home = meshdp.make(folder / "home" / "empty", "").parent
            (home / "empty").unlink()
            del meshdp.env["MESHDP_STATE_DIR"]
            meshdp.env["HOME"] = str(home)
        for _ in range(PLAYS):
            code, acts, said = played(meshdp)
            if {claim for claims in acts.values() for claim, ok in claims.items() if not ok} - TIMED or code == 0:
                break
        assert [name for name in acts if all(acts[name].values())] == ACTS, said
        assert code == 0
        assert not (folder / "s").exists()
        assert list(folder.glob("home/**/meshdp")) == []
    assert picture_of_the_host() == before


def test_without_enforcement_the_acts_that_need_it_fail(tmp_path: Path) -> None:
    (tmp_path / "also").mkdir()
    (tmp_path / "also" / "no-enforcement.yaml").write_text(NO_ENFORCEMENT + NO_LOAD)
    code, acts, said = played(Meshdp(tmp_path, rights.ROOT), "--also", str(tmp_path / "also"))
    needing = [name for name in ACTS if name not in ("interception", "plaintext")]
    assert [name for name in needing if all(acts[name].values())] == [], said
    assert all(acts["interception"].values()) and all(acts["plaintext"].values()), said
    for name, claims in BROKEN.items():
        assert {claim for claim, ok in acts[name].items() if not ok} >= claims, said
    assert code == 1
