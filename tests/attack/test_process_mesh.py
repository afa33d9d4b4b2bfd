"""The processes of `meshdp up` die at any moment, `up` first of all: everything of it ends, and the next one takes over.

In:     a small mesh on this machine; SIGKILL and SIGTERM for its supervisor, holders, commands; process 1 of a container.
Source: attack-cases 2.16, PR-03, PR-17; issue 4, item 4; docs/local.md, "Its end".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_mesh import Meshdp, alive, picture_of_the_host, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

MESH = "deaths"
SERVER = "import http.server as h; h.ThreadingHTTPServer(('0.0.0.0', 8080), h.SimpleHTTPRequestHandler).serve_forever()"
FILE = f"""\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {{name: {MESH}}}
spec:
  resources: [services.yaml]
  workloads:
  - {{name: web, serviceAccount: web, labels: {{app: web}}, command: [python3, -c, "{SERVER}"]}}
  - {{name: client, serviceAccount: client, command: [sleep, infinity]}}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
ASK = """\
import urllib.request, urllib.error
try:
    print(urllib.request.urlopen("http://web/", timeout=20).status)
except urllib.error.HTTPError as answer:
    print(answer.code, answer.read().decode())
"""


@pytest.fixture
def meshdp(tmp_path: Path) -> Iterator[Meshdp]:
    tmp_path.chmod(0o755)
    meshdp = Meshdp(tmp_path)
    (tmp_path / "mesh.yaml").write_text(FILE)
    (tmp_path / "services.yaml").write_text(SERVICES)
    yield meshdp
    meshdp("down", "--mesh", MESH)


def up(meshdp: Meshdp) -> subprocess.CompletedProcess[str]:
    done = meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def instance(meshdp: Meshdp, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in meshdp.state_of(MESH)["instances"] if row["name"] == name)
    return found


def descendants(pid: int) -> set[int]:
    """Every process that this one or its children have made."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, fresh = {pid}, {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found - {pid}


def status(meshdp: Meshdp) -> str:
    return (meshdp.python("client", ASK).stdout.split() or ["nothing"])[0]


def root(meshdp: Meshdp) -> str:
    folder = meshdp.state / MESH / "authority"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "cert" in path.name)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_pr_03_a_second_up_cleans_and_adopts_what_a_killed_one_left(meshdp: Meshdp) -> None:
    up(meshdp)
    assert status(meshdp) == "200"
    authority, address = root(meshdp), instance(meshdp, "web")["address"]
    supervisor = meshdp.state_of(MESH)["supervisor"]["pid"]
    everything = descendants(supervisor)
    assert len(everything) >= 7  # link, two holders, two sidecars, two commands
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in {supervisor, *everything}))
    said = up(meshdp).stdout
    assert "did not end by itself" in said
    assert "certificate authority is adopted" in said
    assert status(meshdp) == "200"
    assert root(meshdp) == authority, "saved bundles and old certificates stay valid"
    assert instance(meshdp, "web")["address"] == address
    logs = {path.name for path in (meshdp.state / MESH / "logs").iterdir()}
    assert {"default.web.sidecar.log.1", "default.client.log.1"} <= logs
    assert meshdp("down").returncode == 0
    assert not meshdp.state.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("pause_s", [0.15, 0.3, 0.45, 0.7])
def test_pr_03_up_ends_while_it_starts(meshdp: Meshdp, number: signal.Signals, pause_s: float) -> None:
    """At whatever moment: nothing of it stays alive, the machine is as before, and the next start is an ordinary one."""
    before = picture_of_the_host()
    with meshdp.start("up", "-f", str(meshdp.folder / "mesh.yaml")) as process:
        everything: set[int] = set()
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            everything |= descendants(process.pid)
            time.sleep(0.005)
        process.send_signal(number)
        everything |= descendants(process.pid)
        try:
            process.wait(60)
        finally:
            process.kill()
    wait_until(lambda: not any(alive(pid) for pid in everything))
    assert picture_of_the_host() == before
    if number != signal.SIGKILL:
        assert not meshdp.state.exists() or not list(meshdp.state.iterdir()), "an end that was asked for leaves nothing"
    if pause_s == 0.45:
        up(meshdp)
        assert status(meshdp) == "200"


def test_pr_03_a_holder_is_killed(meshdp: Meshdp) -> None:
    """An instance without its namespaces is gone, is said to be gone, and nobody is sent there; the others serve on."""
    up(meshdp)
    web = instance(meshdp, "web")
    os.kill(web["holder"]["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(web["pid"]) and not alive(web["sidecar_pid"]))
    wait_until(lambda: instance(meshdp, "web")["phase"] == "failed")
    assert "namespaces are gone" in instance(meshdp, "web")["message"]
    wait_until(lambda: status(meshdp) == "503")
    assert instance(meshdp, "client")["phase"] == "ready"
    restarts = instance(meshdp, "web")["restarts"]
    assert restarts <= 2, "there is nothing to start a sidecar in"
    assert meshdp("ps").returncode == 1
    assert meshdp("down").returncode == 0
    assert not meshdp.state.exists()


FIRST = """\
import json, socket, urllib.request
def listens(port):
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
ready = urllib.request.urlopen("http://127.0.0.1:15021/healthz/ready", timeout=20).status
certificate = json.load(urllib.request.urlopen("http://localhost:15000/certs", timeout=20))["certificate"]
digest = json.load(urllib.request.urlopen("http://localhost:15000/config", timeout=20))["digest"]
print(json.dumps([ready, bool(certificate), bool(digest), listens(15001), listens(15006)]), flush=True)
import time; time.sleep(1000)
"""


def test_a_command_starts_only_once_its_sidecar_serves(meshdp: Meshdp) -> None:
    """What a command does first is under the mesh already: configuration and certificate are in force, both ports are taken."""
    (meshdp.folder / "first.py").write_text(FIRST)
    first = "  - {name: first, serviceAccount: first, command: [python3, first.py], replicas: 4}\n"
    (meshdp.folder / "mesh.yaml").write_text(FILE + first)
    up(meshdp)
    for number in range(4):
        wait_until(lambda number=number: meshdp("logs", f"first-{number}").stdout.endswith("\n"))
        assert meshdp("logs", f"first-{number}").stdout == "[200, true, true, true, true]\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_pr_03_a_command_ends(meshdp: Meshdp, number: signal.Signals) -> None:
    """It is nobody's endpoint any more: 503 from the client's own sidecar, not a connection that fails."""
    up(meshdp)
    assert status(meshdp) == "200"
    os.kill(instance(meshdp, "web")["pid"], number)
    wait_until(lambda: instance(meshdp, "web")["phase"] == "exited")
    wait_until(lambda: bool(meshdp.state_of(MESH)["settled"]))
    assert meshdp.python("client", ASK).stdout.strip() == "503 no healthy upstream"
    assert alive(instance(meshdp, "web")["sidecar_pid"])


def test_pr_03_a_sidecar_ends_by_itself_and_is_back(meshdp: Meshdp) -> None:
    up(meshdp)
    for name in ("client", "web"):
        before = instance(meshdp, name)
        os.kill(before["sidecar_pid"], signal.SIGTERM)
        wait_until(lambda name=name: instance(meshdp, name)["restarts"] == 1)
        wait_until(lambda name=name: instance(meshdp, name)["phase"] == "ready")
        wait_until(lambda: status(meshdp) == "200")


LAST_WORDS = """\
import signal, sys, time, urllib.request
def end(*_):
    time.sleep(0.3)
    try:
        said = urllib.request.urlopen("http://web/", timeout=3).status
    except Exception as error:
        said = error
    print("last words:", said, file=open("said.txt", "a"))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    time.sleep(1)
"""
LINGERING = """\
import http.server, os, signal, threading
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(1.5, os._exit, (0,)).start())
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_pr_01_the_last_words_of_a_command_still_reach_another(meshdp: Meshdp) -> None:
    """At the end of a mesh commands go first, all of them, and every sidecar serves until they are gone."""
    (meshdp.folder / "last.py").write_text(LAST_WORDS)
    (meshdp.folder / "lingering.py").write_text(LINGERING)
    text = FILE.replace("[sleep, infinity]", "[python3, last.py]").replace(
        f'[python3, -c, "{SERVER}"]', "[python3, lingering.py]"
    )
    (meshdp.folder / "mesh.yaml").write_text(text)
    up(meshdp)
    started = time.monotonic()
    assert meshdp("down").returncode == 0
    assert (meshdp.folder / "said.txt").read_text() == "last words: 200\n"
    assert time.monotonic() - started < 15, "it waits for what is still there, not for the deadline"
    assert not meshdp.state.exists()


CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
ORPHANS = "for i in 1 2 3; do (sleep 0.1 &) ; done"


def test_pr_17_as_process_one_it_collects_what_nobody_waits_for(meshdp: Meshdp) -> None:
    command = [*CONTAINER, sys.executable, "-m", "meshdp", "up", "-f", str(meshdp.folder / "mesh.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=meshdp.env) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "is ready" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            first = int(children(process.pid)[0][0])
            before = children(first)
            subprocess.run(["nsenter", f"--target={first}", "--pid", "--mount", "sh", "-c", ORPHANS], check=True)
            wait_until(lambda: children(first) == before)
            os.kill(first, signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert not meshdp.state.exists()


def children(pid: int) -> list[tuple[str, str]]:
    """Number and state of every child; one that runs counts as one that waits."""
    found: list[tuple[str, str]] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            found.append((child, state.replace("R", "S")))
    return found
