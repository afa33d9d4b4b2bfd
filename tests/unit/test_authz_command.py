"""`meshdp authz eval` and `explain`: what they print, for people and for programs, and how they exit."""

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshdp import cli

HERE = Path(__file__).parent / "authz"
PAGE = "cluster.local/ns/default/sa/productpage"
DETAILS = {"namespace": "default", "labels": {"app": "details"}, "port": 9080}


@dataclass
class Done:
    stdout: str
    stderr: str


def authz(*words: str, expect: int = 0, given: str = "") -> Done:
    """As the console script does it, without a process for each line."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode()))
    try:
        with contextlib.chdir(HERE), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["authz", *words])
    except SystemExit as leaving:  # argparse, after its help
        code = leaving.code
    finally:
        sys.stdin = before
    assert code == expect, (out.getvalue(), err.getvalue())
    return Done(out.getvalue(), err.getvalue())


def test_it_runs_as_a_program() -> None:
    command = [
        sys.executable,
        "-m",
        "meshdp",
        "authz",
        *EXPLAIN,
        "--to",
        "details",
        "--from",
        "plaintext",
        "-o",
        "json",
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["verdict"]["allowed"] is False


def evaluated(*requests: Any, expect: int = 0, form: str = "jsonl") -> Done:
    given = "".join(f"{request if isinstance(request, str) else json.dumps(request)}\n" for request in requests)
    return authz("eval", "--policies", ".", "--requests", "-", "-o", form, expect=expect, given=given)


def get(principal: str | None, method: str = "GET", path: str = "/details/0", **more: Any) -> dict[str, Any]:
    http = {"method": method, "path": path, "headers": {"x-user": "jason"}} | more
    return {"source": {"principal": principal}, "destination": DETAILS, "request": http}


SHADOW = {"allow": None, "deny": {"allowed": False, "policy": "default/tried", "rule": 0}}
NOT_SHADOW = {"allow": None, "deny": {"allowed": True, "policy": None, "rule": None}}


def test_every_line_has_a_verdict() -> None:
    requests = [
        {"id": "page", **get(PAGE)},
        get(PAGE, "DELETE", "/details/1"),
        get(PAGE, "GET", "/other"),
        get(None),
    ]
    lines = evaluated(*requests).stdout.splitlines()
    keys = ("id", "allowed", "action", "policy", "rule", "status", "shadow", "detail")
    none = "rbac_access_denied_matched_policy[none]"
    deletes = "rbac_access_denied_matched_policy[ns[default]-policy[no-deletes]-rule[0]]"
    assert [tuple(json.loads(line).items()) for line in lines] == [
        tuple(zip(keys, row, strict=True))
        for row in (
            ("page", True, "ALLOW", "default/details-viewer", 1, 200, SHADOW, ""),
            (2, False, "DENY", "default/no-deletes", 0, 403, NOT_SHADOW, deletes),
            (3, False, "ALLOW", None, None, 403, NOT_SHADOW, none),
            (4, False, None, None, None, 0, None, "filter_chain_not_found"),
        )
    ]


def test_forms_hold_the_same() -> None:
    lines = [json.loads(line) for line in evaluated(get(PAGE), get(None)).stdout.splitlines()]
    assert json.loads(evaluated(get(PAGE), get(None), form="json").stdout) == lines
    assert yaml.safe_load(evaluated(get(PAGE), get(None), form="yaml").stdout) == lines
    assert evaluated(get(PAGE), form="table").stdout.splitlines() == [
        "ID  ALLOWED  ACTION  POLICY                  RULE  STATUS  DETAIL",
        "1   yes      ALLOW   default/details-viewer  1     200     -",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("oops", "not JSON: JSON is malformed: invalid character (byte 0)"),
        ({"source": {}}, "destination: is missing"),
        ({"destination": {"namespace": "a"}}, "destination.port: is missing"),
        (get(PAGE) | {"sourc": {}}, "sourc: there is no such field"),
        (get(PAGE) | {"source": {"ip": "localhost"}}, "source.ip: expected an IP address, found 'localhost'"),
        (get(PAGE) | {"source": {"principal": "web"}}, "source.principal: expected TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, found 'web'"),
        (get(PAGE) | {"source": {"principal": PAGE, "namespace": "x"}}, "source.namespace: expected 'default', which the principal names, found 'x'"),
        (get(PAGE) | {"destination": DETAILS | {"labels": {"app": 1}}}, "destination.labels: expected `str`, got `int`"),
        (get(PAGE) | {"destination": DETAILS | {"port": 0}}, "destination.port: expected a port (1 to 65535), found 0"),
        (get(PAGE) | {"destination": DETAILS | {"protocol": "udp"}}, "destination.protocol: expected one of http, http2, grpc, grpc-web, tcp, tls, https, auto, found 'udp'"),
        (get(PAGE, path="/\r\nx: y"), "request.path: expected text without line breaks and zero bytes"),
        (get(PAGE, headers={"a b": "c"}), "request.headers: 'a b' is not the name of a header"),
        (get(PAGE, headers={"a": "b\nc: d"}), "request.headers.a: expected text without line breaks and zero bytes"),
        ('{"id": "' + "x" * (1 << 20) + '"}', "a line has at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_is_named_and_the_others_are_judged(line: Any, said: str) -> None:
    done = evaluated(get(PAGE), line, get(PAGE), expect=1)
    assert done.stderr == f"<stdin>:2: {said}\n"
    assert [json.loads(verdict)["id"] for verdict in done.stdout.splitlines()] == [1, 3]


def test_claims_are_said_not_to_be_seen() -> None:
    assert "request.claims: claims are not seen yet" in evaluated(get(PAGE, claims={"sub": "x"})).stderr


def test_a_policy_with_an_error_denies_and_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: b}\n"
        "spec:\n  rules:\n  - from:\n    - source: {ipBlocks: [nowhere]}\n"
    )
    requests = tmp_path / "r.jsonl"
    requests.write_text(json.dumps({"destination": {"namespace": "default", "port": 80}, "request": {"path": "/"}}))
    done = authz("eval", "--policies", str(broken), "--requests", str(requests), "-o", "jsonl", expect=1)
    assert f"{broken}:7: error MDP0301: AuthorizationPolicy default/b spec.rules[0]" in done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["allowed"], verdict["action"], verdict["policy"]) == (False, "DENY", "default/b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "--policies", "nowhere", "--requests", "-"), "no such file or directory: nowhere"),
        (("eval", "--policies", ".", "--requests", "nowhere"), "--requests nowhere: No such file or directory"),
        (("explain", "--policies", ".", "--to", "details"), "say who is asked and who asks"),
        (("explain", "--policies", ".", "--to", "a/b/c", "--from", "a/b"), "--to: expected [NAMESPACE/]WORKLOAD[:PORT]"),
        (("explain", "--policies", ".", "--to", "a", "--from", "a"), "--from: expected NAMESPACE/ACCOUNT, a whole identity"),
        (("explain", "--policies", ".", "--to", "a", "--from", "a/b", "--header", "x"), "--header: expected NAME:VALUE"),
        (("explain", "--policies", ".", "--log-line", "hello"), "--log-line: expected 24 columns of a sidecar's access log"),
        (("check",), "name a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_a_usage_error(words: tuple[str, ...], said: str) -> None:
    assert said in authz(*words, expect=2).stderr


EXPLAIN = ("explain", "--policies", "policies.yaml")


def test_a_denial_names_the_nearest_rule_and_what_it_lacks() -> None:
    said = authz(
        *EXPLAIN,
        "--to",
        "details:9080",
        "--from",
        "default/reviews",
        "--path",
        "/details/0?x=1",
        "--header",
        "x-user: ann",
    )
    assert said.stdout == (HERE / "denied.txt").read_text()
    assert said.stdout in (HERE.parents[2] / "docs" / "authz.md").read_text()


def test_programs_get_the_same_facts() -> None:
    words = (
        *EXPLAIN,
        "--to",
        "details:9080",
        "--from",
        "default/reviews",
        "--path",
        "/details/0",
        "--header",
        "x-user: ann",
    )
    answer = json.loads(authz(*words, "-o", "json").stdout)
    assert yaml.safe_load(authz(*words, "-o", "yaml").stdout) == answer
    assert list(answer) == ["verdict", "mtls", "steps", "nearest", "besides"]
    assert [(step["action"], step["outcome"], step["decided"]) for step in answer["steps"]] == [
        ("CUSTOM", "no policy", False),
        ("DENY", "no rule matches", False),
        ("ALLOW", "no rule matches", True),
    ]
    assert answer["nearest"]["missed"][0] == {
        "field": "from[0].source.principals",
        "where": "policies.yaml:30",
        "negated": False,
        "wanted": ["cluster.local/ns/default/sa/admin"],
        "found": ["cluster.local/ns/default/sa/reviews"],
        "why": "none of its values matches",
    }
    assert answer["mtls"]["mode"] == "STRICT"


def test_the_rule_behind_a_verdict_is_named_with_its_line() -> None:
    allowed = authz(*EXPLAIN, "--to", "details:9080", "--from", "default/admin", "--method", "GET").stdout
    assert allowed.startswith("allowed by rule 0 of default/details-viewer (ALLOW) at policies.yaml:29\n")
    denied = authz(*EXPLAIN, "--to", "details:9080", "--from", "default/admin", "--method", "DELETE").stdout
    assert denied.startswith("denied with 403 by rule 0 of default/no-deletes (DENY) at policies.yaml:20\n")
    assert "ALLOW       not reached" in denied


def test_the_mode_of_a_port_and_who_says_so() -> None:
    strict = authz(*EXPLAIN, "--to", "details:9080", "--from", "plaintext", "--method", "GET").stdout
    assert strict.startswith("denied: the port takes no such connection")
    assert "mutual TLS  STRICT: PeerAuthentication istio-system/default (mesh, policies.yaml:4); " in strict
    assert "default/open-port (workload, policies.yaml:9) leaves it unset" in strict
    of_port = authz(*EXPLAIN, "--to", "details:9081", "--from", "plaintext", "--method", "GET").stdout
    assert "mutual TLS  PERMISSIVE: PeerAuthentication default/open-port (port, policies.yaml:12)" in of_port
    assert "found nothing: plaintext proves no identity" in of_port


def test_http_conditions_on_a_tcp_port() -> None:
    said = authz(*EXPLAIN, "--to", "details:5432", "--protocol", "tcp", "--from", "default/productpage").stdout
    assert said.startswith("denied by rule 0 of default/no-deletes (DENY)")  # wider than it reads, as in Istio


TEXT = (
    '[2026-11-25T03:00:00.123Z] "GET /details/0 HTTP/1.1" 403 - rbac_denied rbac_access_denied_matched_policy[none] "-" 0 19 0 - '
    '"-" "curl/8.5.0 \\x22x\\x22" "id-1" "details:9080" "-" - - 10.1.0.9:9080 10.1.0.5:41000 - - inbound '
    '"spiffe://cluster.local/ns/default/sa/reviews"'
)
JSON = json.dumps(
    {
        "start_time": "2026-11-25T03:00:00.123Z",
        "direction": "inbound",
        "method": "GET",
        "path": "/details/0",
        "protocol": "HTTP/1.1",
        "authority": "details:9080",
        "user_agent": 'curl/8.5.0 "x"',
        "request_id": "id-1",
        "x_forwarded_for": None,
        "response_code_details": "rbac_denied",
        "downstream_local_address": "10.1.0.9:9080",
        "downstream_remote_address": "10.1.0.5:41000",
        "requested_server_name": None,
        "source_principal": "spiffe://cluster.local/ns/default/sa/reviews",
    }
)


@pytest.mark.parametrize("line", [TEXT, JSON])
def test_a_line_of_the_access_log_is_explained(line: str) -> None:
    said = authz(*EXPLAIN, "--to", "details", "--log-line", line).stdout
    assert said.startswith("denied with 403: no rule of an ALLOW policy matches\n")
    assert (
        "GET /details/0 by cluster.local/ns/default/sa/reviews from 10.1.0.5 of default [app=details] port 9080" in said
    )
    assert "no file describes a workload at 10.1.0.9" in authz(*EXPLAIN, "--log-line", line, expect=2).stderr


def test_an_outbound_line_is_of_the_wrong_side() -> None:
    assert "take an inbound line" in authz(*EXPLAIN, "--log-line", TEXT.replace("inbound", "outbound"), expect=2).stderr


def test_an_action_shows_examples() -> None:
    for action in ("eval", "explain", "check"):
        said = authz(action, "--help").stdout
        assert "examples:" in said
        assert "exit codes:" in said
