"""A mesh of two services and a stranger on this machine: started, used, broken and stopped with the real commands.

In:      `meshdp` as installed, its engine and init program.
Fails:   anything left behind, anything that passes a sidecar which is not there, an error without place and cure.
Limits:  what is asked of a running mesh is asked with root's rights, with lent ids and with marks; how meshes start and end, as root.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshdp.local import mesh
from meshdp.local.isolation import inside, kernel, rights
from tests.support.local_mesh import Meshdp, alive, picture_of_the_host, wait_until
from tests.support.ordinary import ALL_RIGHTS, LENT_FIRST, folder_for, user_of
from tests.support.pair import PATIENCE_S

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("meshdp._native") is None, reason="the engine is not built: make build"
    ),
    pytest.mark.skipif(
        "MESHDP_INIT" not in os.environ and not Path(mesh.__file__).parents[1].joinpath("bin", "meshdp-init").exists(),
        reason="the init program is not built: make build",
    ),
]

SERVER = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (sys.argv[2] + " " + self.path + " " + self.client_address[0]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        print("served", *words, flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
FILE = """\
apiVersion: meshdp.io/v1alpha1
kind: LocalMesh
metadata: {name: e2e}
spec:
  resources: [services.yaml, policies]
  workloads:
  - {name: web, serviceAccount: web, labels: {app: web}, command: [python3, server.py, "80", web], env: {COLOR: blue}}
  - {name: back, serviceAccount: back, labels: {app: back}, command: [python3, server.py, "8080", back], replicas: 2}
  - {name: stranger, command: [sleep, infinity], sidecar: false}
"""
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: back}
spec: {selector: {app: back}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
GET = "import urllib.request as u, sys; print(u.urlopen(sys.argv[1], timeout=20).read().decode())"


def write_files(folder: Path) -> Path:
    (folder / "policies").mkdir()
    (folder / "server.py").write_text(SERVER)
    (folder / "services.yaml").write_text(SERVICES)
    (folder / "mesh.yaml").write_text(FILE)
    folder.chmod(0o755)
    return folder / "mesh.yaml"


def get(meshdp: Meshdp, workload: str, url: str) -> subprocess.CompletedProcess[str]:
    return meshdp("exec", workload, "--", "python3", "-c", GET, url)


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return picture_of_the_host()


@pytest.fixture(scope="module", params=ALL_RIGHTS)
def up(request: pytest.FixtureRequest, before: dict[str, str]) -> Iterator[Meshdp]:
    with folder_for(request.param) as folder:
        meshdp = Meshdp(folder, request.param)
        started = meshdp("up", "-f", str(write_files(folder)), "--detach")
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            assert "mesh e2e is ready" in started.stdout
            assert meshdp.state_of("e2e")["rights"] == meshdp.mode
            yield meshdp
        finally:
            meshdp("down", "--mesh", "e2e")


def test_ps_lists_every_instance_with_its_processes(up: Meshdp) -> None:
    rows = up.rows()
    assert sorted(rows) == ["default/back-0", "default/back-1", "default/stranger", "default/web"]
    assert all(row["ready"] and row["state"] == "ready" and alive(row["pid"]) for row in rows.values())
    assert all(
        alive(rows[name]["sidecar"]) and len(rows[name]["digest"]) == 12 for name in rows if "stranger" not in name
    )
    assert (rows["default/stranger"]["sidecar"], rows["default/stranger"]["digest"]) == (None, "")


def test_the_hosts_network_is_untouched_while_a_mesh_runs(up: Meshdp, before: dict[str, str]) -> None:
    assert picture_of_the_host() == before


@pytest.mark.parametrize("name", ["back", "back.default", "back.default.svc", "back.default.svc.cluster.local"])
def test_services_have_their_kubernetes_names(up: Meshdp, name: str) -> None:
    done = get(up, "web", f"http://{name}/hello")
    assert done.stdout.startswith("back /hello"), done.stderr


def test_traffic_of_the_mesh_goes_through_two_sidecars(up: Meshdp) -> None:
    # The server sees its own sidecar's loopback address, not the caller's.
    assert get(up, "web", "http://back/who").stdout.strip() == "back /who 127.0.0.6"


def test_a_workload_without_a_sidecar_reaches_services(up: Meshdp) -> None:
    assert get(up, "stranger", "http://web/hi").stdout.startswith("web /hi")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def test_no_process_of_a_workload_has_a_capability_that_it_does_not_need(up: Meshdp) -> None:
    # A sidecar without a user of its own needs one to mark its packets: NET_ADMIN, bit 12.
    for row in up.rows().values():
        for pid, wanted in ((row["pid"], 0), (row["sidecar"], 1 << 12 if up.mode == rights.MARKED else 0)):
            if pid is None:
                continue
            status = status_of(pid)
            sets = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
            assert set(sets.values()) == {wanted}, (row["workload"], sets)
            assert status["NoNewPrivs"] == "1"


def test_applications_are_the_caller_and_sidecars_are_not_where_that_can_be(up: Meshdp) -> None:
    caller = user_of(up.mode)
    sidecar = {rights.ROOT: 1337, rights.OWNER: LENT_FIRST, rights.MARKED: caller}[up.mode]
    for row in up.rows().values():
        assert status_of(row["pid"])["Uid"].split() == [str(caller)] * 4
        assert str(1337) not in status_of(row["pid"])["Gid"] + status_of(row["pid"])["Groups"]
        if row["sidecar"]:
            assert status_of(row["sidecar"])["Uid"].split() == [str(sidecar)] * 4
            assert status_of(row["sidecar"])["Gid"].split() == [str(sidecar)] * 4


@pytest.mark.parametrize(
    "script",
    [
        "import os; os.setuid(1337)",
        "import os; os.setgid(1337)",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "import socket; socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)",
        "open('/proc/sys/net/ipv6/conf/all/disable_ipv6', 'w').write('0')",
        "import os; os.mkdir('/sys/fs/cgroup/mine')",
    ],
    ids=["uid", "gid", "raw", "mark", "sysctl", "cgroup"],
)
def test_an_application_cannot_step_around_its_sidecar(up: Meshdp, script: str) -> None:
    done = up.python("web", script)
    assert done.returncode == 1
    # A user that the namespace does not know cannot even be asked for: "Invalid argument".
    reasons = ("not permitted", "Permission denied", "Read-only", "Invalid argument")
    assert any(reason in done.stderr for reason in reasons), done.stderr


def test_an_application_does_not_see_the_meshs_secrets(up: Meshdp) -> None:
    assert (up.state / "e2e" / "authority" / "root-key.pem").exists()
    done = up.python("web", f"import os; print(os.listdir({str(up.state)!r}))")
    assert done.stdout.strip() == "[]"


def test_exec_passes_the_exit_code_and_the_arguments_on(up: Meshdp) -> None:
    assert up("exec", "web", "--", "sh", "-c", "exit 42").returncode == 42
    assert up("exec", "web", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert up("exec", "web", "--", "echo", "--", "-x").stdout == "-- -x\n"
    missing = up("exec", "web", "--", "no-such-program")
    assert missing.returncode == 1
    assert "'no-such-program' is not found" in missing.stderr
    unknown = up("exec", "wbe", "--", "true")
    assert unknown.returncode == 2
    assert "choose one of: default/back-0" in unknown.stderr


def test_logs_show_what_the_command_wrote(up: Meshdp) -> None:
    get(up, "web", "http://web/for-the-log")
    wait_until(lambda: "GET /for-the-log" in up("logs", "web").stdout)
    assert up("logs", "web", "--sidecar").returncode == 0


def test_environment_and_folder_are_those_of_the_file(up: Meshdp) -> None:
    pid = up.rows()["default/web"]["pid"]
    assert b"COLOR=blue" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert os.readlink(f"/proc/{pid}/cwd") == str(up.folder)


def refused(pid: int, address: tuple[str, int]) -> bool:
    """A connection made inside a namespace, as its application would make it, is refused at once."""
    with kernel.network_of(pid):
        connection = socket.socket()
    connection.settimeout(PATIENCE_S)
    with connection:
        return connection.connect_ex(address) == errno.ECONNREFUSED


def test_without_its_sidecar_nothing_passes_and_then_it_is_back(up: Meshdp) -> None:
    rows, supervisor = up.rows(), up.state_of("e2e")["supervisor"]["pid"]
    row, stranger, back = rows["default/web"], rows["default/stranger"], rows["default/back-0"]
    os.kill(supervisor, signal.SIGSTOP)  # nobody restarts anything until we have looked
    try:
        os.kill(row["sidecar"], signal.SIGKILL)
        wait_until(lambda: not inside.listening_ports(row["pid"]) & {15001, 15006})
        assert refused(row["pid"], (back["address"], 8080)), "outbound passed without a sidecar"
        assert refused(stranger["pid"], (row["address"], 80)), "inbound passed without a sidecar"
    finally:
        os.kill(supervisor, signal.SIGCONT)
    wait_until(lambda: up.rows()["default/web"]["ready"] and up.rows()["default/web"]["restarts"] == 1)
    again = up.rows()["default/web"]
    assert again["sidecar"] != row["sidecar"]
    assert (again["digest"], again["pid"]) == (row["digest"], row["pid"])
    assert get(up, "web", "http://back/again").stdout.startswith("back /again")


def test_a_broken_document_is_reported_and_the_last_good_one_stays(up: Meshdp) -> None:
    policy = up.folder / "policies" / "policy.yaml"
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody}\n"
    policy.write_text(head + "spec: {selector: {matchLabels: {app: back}}}\n")
    wait_until(lambda: "403" in get(up, "web", "http://back/denied").stderr)
    policy.write_text(head + "spec: {selektor: {}}\n")
    wait_until(lambda: any("policy.yaml:4: error" in finding for finding in up.state_of("e2e")["findings"]))
    assert "403" in get(up, "web", "http://back/denied").stderr
    policy.unlink()
    wait_until(lambda: get(up, "web", "http://back/open").returncode == 0)
    assert up.state_of("e2e")["findings"] == []


def test_a_new_service_is_known_to_those_who_run_already(up: Meshdp) -> None:
    extra = (
        SERVICES.partition("---")[0].replace("name: web", "name: fresh").replace("port: 80", "port: 81, targetPort: 80")
    )
    (up.folder / "policies" / "fresh.yaml").write_text(extra)
    wait_until(lambda: get(up, "back-0", "http://fresh:81/new").stdout.startswith("web /new"))
    assert get(up, "stranger", "http://fresh:81/new").stdout.startswith("web /new")
    (up.folder / "policies" / "fresh.yaml").unlink()


def test_a_second_mesh_of_the_same_name_is_refused(up: Meshdp) -> None:
    again = up("up", "-f", str(up.folder / "mesh.yaml"), "--detach")
    assert again.returncode == 1
    assert "mesh e2e is up already" in again.stderr
    assert all(row["ready"] for row in up.rows().values())


def processes_of(meshdp: Meshdp) -> list[int]:
    state = meshdp.state_of("e2e")
    rows: list[dict[str, Any]] = state["instances"]
    pids = [state["supervisor"]["pid"], state["link"]["pid"]]
    pids += [pid for row in rows for pid in (row["holder"]["pid"], row["pid"], row["sidecar_pid"]) if pid]
    return pids


@pytest.fixture
def meshdp(tmp_path: Path) -> Iterator[Meshdp]:
    meshdp = Meshdp(tmp_path)
    write_files(tmp_path)
    yield meshdp
    meshdp("down", "--mesh", "e2e")


def assert_nothing_is_left(meshdp: Meshdp, pids: list[int], before: dict[str, str]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert not meshdp.state.exists()
    assert picture_of_the_host() == before


def test_down_leaves_nothing_and_may_be_repeated(meshdp: Meshdp, before: dict[str, str]) -> None:
    assert meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach").returncode == 0
    pids = processes_of(meshdp)
    down = meshdp("down")
    assert (down.returncode, down.stdout) == (0, "mesh e2e is down\n")
    assert_nothing_is_left(meshdp, pids, before)
    assert (meshdp("down").returncode, meshdp("down").stdout) == (0, "no mesh is up\n")
    assert meshdp("ps").returncode == 3


def test_ctrl_c_in_the_foreground_leaves_nothing(meshdp: Meshdp, before: dict[str, str]) -> None:
    with meshdp.start("up", "-f", str(meshdp.folder / "mesh.yaml")) as process:
        assert process.stdout is not None
        said = ""
        while "is ready" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        pids = processes_of(meshdp)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert_nothing_is_left(meshdp, pids, before)


def test_down_cleans_up_after_a_crash(meshdp: Meshdp, before: dict[str, str]) -> None:
    assert meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach").returncode == 0
    pids = processes_of(meshdp)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert (meshdp.state / "e2e").exists()
    down = meshdp("down", "-f", str(meshdp.folder / "mesh.yaml"))
    assert (down.returncode, down.stdout) == (0, "mesh e2e was down; nothing is left of it\n")
    assert_nothing_is_left(meshdp, pids, before)


def test_a_command_that_ends_is_reported_and_the_rest_keeps_running(meshdp: Meshdp) -> None:
    path = meshdp.folder / "mesh.yaml"
    broken = '  - {name: broken, command: [sh, -c, "echo no database; exit 7"], sidecar: false}\n'
    path.write_text(FILE + broken)
    started = meshdp("up", "-f", str(path), "--detach")
    assert started.returncode == 1
    assert "default/broken exited: its command ended (exit code 7)\n    no database" in started.stdout
    wait_until(lambda: meshdp.rows()["default/web"]["ready"])
    assert (meshdp.rows()["default/broken"]["state"], meshdp.rows()["default/broken"]["exit_code"]) == ("exited", 7)
    assert meshdp("ps").returncode == 1
    wait_until(lambda: get(meshdp, "stranger", "http://web/").returncode == 0)


def test_a_missing_program_is_named(meshdp: Meshdp) -> None:
    path = meshdp.folder / "mesh.yaml"
    path.write_text(re.sub(r"\[sleep, infinity\]", "[slep, infinity]", FILE))
    started = meshdp("up", "-f", str(path), "--detach")
    assert started.returncode == 1
    assert "default/stranger failed: program 'slep' is not found" in started.stdout


def test_with_sudo_applications_run_as_the_caller(meshdp: Meshdp) -> None:
    path = meshdp.folder / "mesh.yaml"
    path.write_text(
        FILE.partition("  - {name: web")[0] + "  - {name: stranger, command: [sleep, infinity], sidecar: false}\n"
    )
    meshdp.env |= {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    started = meshdp("up", "-f", str(path), "--detach")
    assert (
        "'sleep' cannot be started as nobody: [Errno 13] Permission denied" in started.stdout
    )  # pytest's folder is root's
    assert meshdp("down").returncode == 0
    path.write_text(path.read_text().replace("sidecar: false", "workingDir: /, sidecar: false"))
    started = meshdp("up", "-f", str(path), "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    status = status_of(meshdp.rows()["default/stranger"]["pid"])
    assert (status["Uid"].split(), status["Gid"].split()) == (["65534"] * 4, ["65534"] * 4)
    assert meshdp("exec", "stranger", "--", "id", "-u").stdout == "65534\n"
    meshdp.env["SUDO_UID"] = "1337"
    refused = meshdp("exec", "stranger", "--", "id", "-u")
    assert (refused.returncode, "must not run as 1337" in refused.stderr) == (2, True)


def test_a_mistake_in_the_file_is_named_with_its_place(meshdp: Meshdp) -> None:
    path = meshdp.folder / "mesh.yaml"
    path.write_text(FILE.replace("replicas: 2", "replicaz: 2"))
    started = meshdp("up", "-f", str(path))
    assert started.returncode == 1
    assert f"{path}:8: error MDP0201: LocalMesh e2e spec.workloads[1].replicaz: unknown field" in started.stderr
    assert "did you mean 'replicas'?" in started.stderr
    assert not meshdp.state.exists()


def test_a_missing_init_program_is_named(meshdp: Meshdp, before: dict[str, str]) -> None:
    meshdp.env["MESHDP_INIT"] = "/nowhere/meshdp-init"
    started = meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"))
    assert started.returncode == 1
    assert "init program /nowhere/meshdp-init is missing" in started.stderr
    assert "make build" in started.stderr
    assert_nothing_is_left(meshdp, [], before)


def test_rules_that_cannot_be_made_end_the_start_and_leave_nothing(meshdp: Meshdp, before: dict[str, str]) -> None:
    refusing = meshdp.folder / "meshdp-init"
    refusing.write_text("#!/bin/sh\necho 'iptables is missing: install iptables' >&2\nexit 1\n")
    refusing.chmod(0o755)
    meshdp.env["MESHDP_INIT"] = str(refusing)
    started = meshdp("up", "-f", str(meshdp.folder / "mesh.yaml"), "--detach")
    assert started.returncode == 1
    assert "iptables is missing: install iptables" in started.stderr
    assert_nothing_is_left(meshdp, [], before)
