"""Looking into a running mesh with `ps`, `logs`, `exec`, `proxy-status` and `proxy-config`, as people and programs do.

In:      the mesh of test_local_mesh, with a policy beside it; a sidecar without a mesh.
Fails:   a table that is not what the engine has in force, a key that docs/inspect.md promises and an answer lacks.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshdp.local import mesh
from tests.e2e.test_local_mesh import FILE, SERVER, SERVICES, get
from tests.support.local_mesh import Done, Meshdp, wait_until
from tests.support.meshes import policy, snapshot
from tests.support.scripted_feed import ScriptedFeed
from tests.support.sidecar import Sidecar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(
        not Path(mesh.__file__).parents[1].joinpath("bin", "meshdp-init").exists() and "MESHDP_INIT" not in os.environ,
        reason="the init program is not built: make build",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewer}
spec:
  selector: {matchLabels: {app: back}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/web"]}}]
    to: [{operation: {methods: [GET], paths: ["/shown/*"], notPaths: ["/shown/not"]}}]
    when: [{key: "request.headers[x-a]", notValues: [b]}]
---
apiVersion: meshdp.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshdp]:
    folder = tmp_path_factory.mktemp("i")
    folder.chmod(0o755)
    (folder / "policies").mkdir()
    for name, text in (
        ("server.py", SERVER),
        ("services.yaml", SERVICES),
        ("policies/viewer.yaml", POLICY),
        ("mesh.yaml", FILE.replace("name: e2e", "name: look")),
    ):
        (folder / name).write_text(text)
    meshdp = Meshdp(folder)
    started = meshdp("up", "-f", str(folder / "mesh.yaml"), "--detach")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield meshdp
    finally:
        meshdp("down", "--mesh", "look")


def answer(up: Meshdp, *words: str, code: int = 0) -> Any:
    done = up(*words, "-o", "json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def status(up: Meshdp, name: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = answer(up, "proxy-status", name, code=code)["sidecars"][0]
    return found


def promised(section: str) -> list[str]:
    """The keys that docs/inspect.md lists for a kind: its table's first column."""
    page = (ROOT / "docs/inspect.md").read_text()
    table = page.split(f"\n### {section}\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(\w+)`", row)]


# --- proxy-status ------------------------------------------------------------------------------------------------------


def test_one_look_says_what_each_sidecar_runs(up: Meshdp) -> None:
    done = up("proxy-status")
    assert done.returncode == 0, done
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == "WORKLOAD STATE VERSION WANTED SINCE READY CERT IN OUT RESTARTS".split()
    assert [row.split()[:2] for row in rows] == [
        ["default/back-0", "SYNCED"],
        ["default/back-1", "SYNCED"],
        ["default/web", "SYNCED"],
    ]
    assert "\x1b" not in done.stdout


def test_status_for_programs_has_the_promised_keys_in_both_forms(up: Meshdp) -> None:
    found = answer(up, "proxy-status")
    assert list(found) == ["mesh", "sidecars", "findings"]
    assert [list(row) for row in found["sidecars"]] == [promised("proxy-status")] * 3
    row = status(up, "web")
    assert (row["state"], row["ready"], row["refusal"], row["version"]) == ("SYNCED", True, "", row["wanted"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["since"])
    assert 0 < row["certificate_remaining_s"] <= 24 * 3600
    as_yaml = yaml.safe_load(up("proxy-status", "web", "-o", "yaml").stdout)
    assert as_yaml["sidecars"][0]["version"] == row["version"]


def test_a_finding_is_shown_and_counts(up: Meshdp) -> None:
    path = up.folder / "policies" / "wrong.yaml"
    path.write_text('kind: AuthorizationPolicy\napiVersion: security.istio.io/v1\nmetadata: {name: "a\\e[31mred"}\n')
    wait_until(lambda: up.state_of("look")["findings"])
    done = up("proxy-status")
    assert done.returncode == 1
    assert "wrong.yaml:" in done.stdout and "error MDP0205" in done.stdout
    assert "\x1b" not in done.stdout, "OB-02: a name is not a terminal command"
    assert answer(up, "proxy-status", code=1)["findings"]
    path.unlink()
    wait_until(lambda: not up.state_of("look")["findings"])
    assert up("proxy-status").returncode == 0


def test_what_is_in_force_is_asked_of_the_engine_and_stale_is_seen(up: Meshdp) -> None:
    before, supervisor = status(up, "back-0"), up.state_of("look")["supervisor"]["pid"]
    extra = up.folder / "policies" / "extra.yaml"
    extra.write_text(POLICY.partition("---")[0].replace("viewer", "extra"))
    wait_until(lambda: status_or_none(up, "back-0", "version") not in (None, before["version"]))
    assert status(up, "back-0")["since"] >= before["since"]
    os.kill(supervisor, signal.SIGSTOP)  # nobody writes the state: it goes on to say what was wanted before
    try:
        state = up.state_of("look")
        path = up.state / "look" / "state.json"
        changed = json.loads(path.read_text())
        for instance in changed["instances"]:
            instance["wanted"] = "0" * 64
        path.write_text(json.dumps(changed))
        assert status(up, "back-0", code=1)["state"] == "STALE"
        path.write_text(json.dumps(state))
    finally:
        os.kill(supervisor, signal.SIGCONT)
    extra.unlink()
    wait_until(lambda: status_or_none(up, "back-0", "version") == before["version"])


def status_or_none(up: Meshdp, name: str, key: str) -> Any:
    done = up("proxy-status", name, "-o", "json")
    return json.loads(done.stdout)["sidecars"][0][key] if done.returncode == 0 else None


def test_a_sidecar_that_is_gone_is_unreachable_and_then_restarted(up: Meshdp) -> None:
    supervisor, row = up.state_of("look")["supervisor"]["pid"], up.rows()["default/back-1"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(row["sidecar"], signal.SIGKILL)
        wait_until(lambda: up("proxy-status", "back-1").returncode == 3)
        assert up("proxy-status").returncode == 1, "the others answer"
        config = up("proxy-config", "listeners", "back-1")
        assert config.returncode == 3
        assert "the sidecar of default/back-1 does not answer" in config.stderr
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_until(lambda: up("proxy-status", "back-1").returncode == 0)
    assert status(up, "back-1")["restarts"] == 1


def test_a_mesh_that_hangs_keeps_enforcing(up: Meshdp) -> None:
    """2.19, control plane lost: the sidecars keep what they have, and go on to enforce it."""
    supervisor = up.state_of("look")["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert get(up, "web", "http://back/shown/it").stdout.startswith("back /shown/it")
            assert "403" in get(up, "web", "http://back/hidden").stderr
        assert up("proxy-status").returncode == 0, "what was wanted last is in force"
    finally:
        os.kill(supervisor, signal.SIGCONT)


# --- proxy-config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["listeners", "routes", "clusters", "endpoints", "policies"])
def test_rows_have_the_promised_keys(up: Meshdp, kind: str) -> None:
    rows = answer(up, "proxy-config", kind, "back-0")
    assert rows
    assert [list(row) for row in rows] == [promised(kind)] * len(rows)
    heading = up("proxy-config", kind, "back-0").stdout.splitlines()[0].lower().replace("dry run", "dry_run").split()
    assert set(heading) <= set(promised(kind))


def test_a_policy_names_its_rule_file_and_line(up: Meshdp) -> None:
    (row,) = answer(up, "proxy-config", "policies", "back-0")
    assert row == {
        "name": "default/viewer",
        "action": "ALLOW",
        "dry_run": False,
        "rule": 0,
        "from": "principal=cluster.local/ns/default/sa/web",
        "to": "method=GET and path=/shown/* and path!=/shown/not",
        "when": "header[x-a]!=b",
        "where": f"{up.folder}/policies/viewer.yaml:1",
    }
    assert up("proxy-config", "policies", "web").stdout == "no policies\n"


def test_filters(up: Meshdp) -> None:
    inbound = answer(up, "proxy-config", "listeners", "back-0", "--direction", "inbound", "--port", "8080")
    assert {(row["port"], row["tls"], row["fqdn"]) for row in inbound} == {
        (8080, "PERMISSIVE", "back.default.svc.cluster.local")
    }
    found = answer(up, "proxy-config", "endpoint", "web", "--fqdn", "back.default.svc.cluster.local")
    assert [(row["port"], row["mtls"], row["identity"]) for row in found] == [
        (8080, True, "spiffe://cluster.local/ns/default/sa/back")
    ] * 2
    assert len(answer(up, "proxy-config", "policies", "back-0", "--name", "viewer")) == 1
    assert answer(up, "proxy-config", "policies", "back-0", "--name", "other") == []
    assert answer(up, "proxy-config", "clusters", "web", "--port", "1") == []


def test_certs_and_all(up: Meshdp) -> None:
    assert "spiffe://cluster.local/ns/default/sa/back" in up("proxy-config", "certs", "back-0").stdout
    whole = answer(up, "proxy-config", "all", "back-0")
    assert list(whole) == promised("all")
    assert whole["version"] == status(up, "back-0")["version"]
    assert whole["policies"][0]["name"] == "default/viewer"
    assert "PRIVATE" not in json.dumps(whole), "no secret"
    text = up("proxy-config", "all", "back-0").stdout
    assert text.startswith(f"default/back-0 version {whole['version'][:12]}\n")
    assert all(f"\n{kind}\n" in text for kind in ("listeners", "routes", "clusters", "endpoints", "policies", "certs"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("proxy-config", "listeners"), 2, "choose one of: default/back-0, default/back-1, default/web"),
        (("proxy-config", "listeners", "stranger"), 2, "outside the mesh: it has no sidecar"),
        (("proxy-config", "wheels", "web"), 2, "expected one of listeners, routes"),
        (("proxy-config", "listeners", "wbe"), 2, "no workload is named wbe"),
        (("proxy-status", "--admin", "127.0.0.1"), 2, "expected --admin ADDRESS:PORT"),
        (("proxy-status", "web", "--admin", "127.0.0.1:1"), 2, "leave WORKLOAD and --mesh out"),
        (("proxy-status", "--mesh", "other"), 3, "mesh other is not up"),
        (("proxy-config", "certs", "--admin", "127.0.0.1:1"), 3, "does not answer"),
        (("logs", "web", "--tail", "few"), 2, "expected a number of lines"),
    ],
)
def test_mistakes_say_what_was_expected(up: Meshdp, words: tuple[str, ...], code: int, said: str) -> None:
    done = up(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_sidecar_without_a_mesh_is_named_by_its_admin_address(tmp_path: Path, up: Meshdp) -> None:
    for name in ("configuration", "credentials"):
        (tmp_path / name).mkdir()
    document = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: alone, namespace: default, labels: {meshdp.io/sidecar: 'true'}}\n"
    )
    (tmp_path / "configuration" / "pod.yaml").write_text(document + "spec: {}\nstatus: {podIP: 10.0.0.1}\n")
    flags = ["--directory", str(tmp_path / "configuration"), "--credentials", str(tmp_path / "credentials")]
    with Sidecar(tmp_path, "--workload", "default/alone", *flags) as sidecar:
        admin = f"127.0.0.1:{sidecar.ports['admin']}"
        wait_until(lambda: "SERVING" in up("proxy-status", "--admin", admin).stdout)
        done = up("proxy-status", "--admin", admin)
        assert done.returncode == 1
        assert "not ready: no certificate yet" in done.stdout
        assert answer(up, "proxy-config", "listeners", "--admin", admin)[0]["direction"] == "inbound"
        assert answer(up, "proxy-config", "certs", "--admin", admin)["certificate"] is None
        # No browser and no other host gets what these commands get.
        assert sidecar.get("admin", "/config?sections=")[0] == 200


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"digest": 1, "sections": {"authz": {"policies": 7}}, "since_unix_ms": "x", "refused": 1, "turnover": 5},
        {"digest": "", "sections": {"inbound/1": [1]}, "since_unix_ms": 1e300, "connections": []},
        [],
        "[" * 100_000,
    ],
    ids=["nothing", "other-types", "beyond-time", "no-object", "too-deep"],
)
def test_an_answer_that_is_no_sidecars_is_said_to_be_none(up: Meshdp, page: Any) -> None:
    """While a sidecar is away, its application may answer in its place; one of them must not hide the others."""
    body = (page if isinstance(page, str) else json.dumps(page)).encode()

    class Impostor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as impostor:
        threading.Thread(target=impostor.serve_forever, daemon=True).start()
        admin = f"127.0.0.1:{impostor.server_port}"
        for words in (("proxy-status",), ("proxy-config", "listeners"), ("proxy-config", "all")):
            done = up(*words, "--admin", admin)
            assert done.returncode != 0
            assert "Traceback" not in done.stderr, done.stderr
        impostor.shutdown()


def test_what_a_sidecar_refuses_is_said_with_its_reason_until_it_accepts(tmp_path: Path, up: Meshdp) -> None:
    first, second = snapshot(), snapshot(policy("PeerAuthentication", "{mtls: {mode: STRICT}}"))
    flags = ["--workload", "default/details-v1", "--feed", str(tmp_path / "feed.sock")]
    with ScriptedFeed(tmp_path / "feed.sock", lambda _: None) as feed, Sidecar(tmp_path, *flags) as sidecar:
        wait_until(lambda: feed.greeted)
        admin = f"127.0.0.1:{sidecar.ports['admin']}"

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(up("proxy-status", "--admin", admin, "-o", "json").stdout)["sidecars"][0]
            return found

        feed.send(b"T", first.transaction(None))
        wait_until(lambda: (shown()["state"], shown()["version"]) == ("SERVING", first.digest))
        since = shown()["since"]
        feed.send(b"T", first.transaction(None).replace(b'"schema":2', b'"schema":99'))
        wait_until(lambda: shown()["state"] == "REFUSED")
        assert (shown()["version"], shown()["since"]) == (first.digest, since), "what it had stays in force"
        assert shown()["refusal"] == "schema 99 is not supported, expected 1 or 2"
        assert f"{admin}: refused: schema 99 is not supported" in up("proxy-status", "--admin", admin).stdout
        feed.send(b"T", second.transaction(first))
        wait_until(lambda: (shown()["state"], shown()["version"]) == ("SERVING", second.digest))
        assert shown()["refusal"] == ""
        rows = answer(up, "proxy-config", "listeners", "--admin", admin, "--direction", "inbound", "--port", "9080")
        assert {row["tls"] for row in rows} == {"STRICT"}
        feed.__exit__(None, None, None)
        wait_until(lambda: shown()["state"] == "STALE")
        assert "it has lost its feed" in up("proxy-status", "--admin", admin).stdout


# --- logs and exec -----------------------------------------------------------------------------------------------------


def test_logs_end_where_they_should_and_are_objects_for_programs(up: Meshdp) -> None:
    for number in range(5):
        get(up, "back-0", f"http://web/line-{number}")
    wait_until(lambda: "GET /line-4" in up("logs", "web").stdout)
    assert up("logs", "web", "--tail", "2").stdout.splitlines() == (up("logs", "web").stdout.splitlines()[-2:])
    assert up("logs", "web", "--tail", "0").stdout == ""
    wait_until(lambda: "/line-4" in up("logs", "web", "--sidecar").stdout)
    lines = [json.loads(line) for line in up("logs", "web", "--sidecar", "-o", "json").stdout.splitlines()]
    assert [line["path"] for line in lines if "path" in line and line["direction"] == "inbound"][-1] == "/line-4"
    assert all("line" in json.loads(line) for line in up("logs", "web", "-o", "json").stdout.splitlines())
    assert list(yaml.safe_load_all(up("logs", "web", "--sidecar", "-o", "yaml", "--tail", "1").stdout))


def test_following_a_log_shows_what_comes(up: Meshdp) -> None:
    with up.start("logs", "web", "-f", "--tail", "0") as follower:
        try:
            wait_until(lambda: get(up, "web", "http://web/followed").returncode == 0)
            assert follower.stdout is not None
            assert "served" in follower.stdout.readline()
        finally:
            follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130


def test_following_a_log_ends_when_nobody_reads_any_more(up: Meshdp) -> None:
    """`| head -1`, though the log stays silent."""
    with up.start("logs", "web", "-f", "--sidecar", "--tail", "1") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline()
        follower.stdout.close()
        assert follower.wait(10) == 0


def test_exec_has_the_terminal(up: Meshdp) -> None:
    ours, theirs = pty.openpty()
    script = "import os, sys; print(os.isatty(0), os.isatty(1), sys.stdin.readline().strip()); sys.exit(7)"
    command = [sys.executable, "-m", "meshdp", "exec", "web", "--", "python3", "-c", script]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=up.env) as process:
        os.close(theirs)
        os.write(ours, b"typed\n")
        said = b""
        while b"True True typed" not in said:
            said += os.read(ours, 1024)
        assert process.wait(10) == 7
    os.close(ours)


def test_every_verb_of_these_answers_for_programs(up: Meshdp) -> None:
    def keys(done: Done) -> list[str]:
        return list(json.loads(done.stdout)[0])

    assert keys(up("ps", "-o", "json")) == promised("ps")
