"""Table 2.14 on a running mesh: certificates and roots turn over under traffic, the authority goes away and comes back.

In:      `meshdp up` with its real sidecars; requests without pause from one workload to another.
Fails:   a request that failed, a connection that noticed, a sidecar that speaks mutual TLS with an expired certificate.
Limits:  needs root; skipped with a reason otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshdp.control.authority import Authority
from meshdp.errors import UsageError
from meshdp.local.control import ask
from tests.support.local_mesh import Meshdp, wait_until
from tests.support.turnover import Load, admin, connected, leaf_of, readiness, serial_shown, status, write_files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces")

ROOT = Path(__file__).resolve().parents[2]
CLIENT = "spiffe://cluster.local/ns/default/sa/web"
# Ids that nothing here can show yet, each with the milestone that brings what it speaks of.
WAITING = {"CA-08": "later, Kubernetes: service-account tokens prove identities there"}


def test_every_id_of_the_table_is_tested_or_waits_for_a_reason() -> None:
    sources = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "native").rglob("*_tests.rs")]
    named = {f"CA-{number}" for path in sources for number in re.findall(r"(?:test_|fn )ca_(\d\d)_", path.read_text())}
    assert named | WAITING.keys() == {f"CA-{number:02}" for number in range(1, 12)}
    assert named & WAITING.keys() == set()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshdp]:
    folder = tmp_path_factory.mktemp("t")
    meshdp = Meshdp(folder)
    try:
        started = meshdp("up", "-f", str(write_files(folder)), "--detach")
        assert started.returncode == 0, started.stdout + started.stderr
        yield meshdp
    finally:
        meshdp("down", "--mesh", "turnover")


@pytest.fixture
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Meshdp]]:
    """A mesh of its own for a test that breaks it."""
    meshes: list[Meshdp] = []

    def starting(*flags: str) -> Meshdp:
        folder = tmp_path_factory.mktemp("b")
        meshdp = Meshdp(folder)
        meshes.append(meshdp)
        started = meshdp("up", "-f", str(write_files(folder)), "--detach", *flags)
        assert started.returncode == 0, started.stdout + started.stderr
        return meshdp

    yield starting
    for each in meshes:
        each("down", "--mesh", "turnover")


def control_of(mesh: Meshdp) -> Path:
    return mesh.state / "turnover" / "control.sock"


def told(mesh: Meshdp) -> dict[str, Any]:
    """What the mesh says of its certificates."""
    return ask(control_of(mesh), "certs")


def row(mesh: Meshdp, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in told(mesh)["workloads"] if row["workload"] == f"default/{name}")
    return found


def serials(mesh: Meshdp) -> set[str]:
    return {row["serial"] for row in told(mesh)["workloads"]}


def renew_all(mesh: Meshdp) -> None:
    before = serials(mesh)
    ask(control_of(mesh), "certs-rotate")
    wait_until(lambda: not serials(mesh) & before)


def authority_of(mesh: Meshdp) -> Authority:
    """The mesh's own, read from its state as root may."""
    return Authority.open(mesh.state / "turnover" / "authority", "turnover root")


def read_until(connection: socket.socket, end: bytes) -> None:
    received = b""
    while not received.endswith(end):
        piece = connection.recv(4096)
        assert piece, received
        received += piece


def answer(mesh: Meshdp, context: ssl.SSLContext) -> bytes:
    """What `back` answers to one request under mutual TLS; empty when it refuses."""
    with contextlib.suppress(ConnectionError, ssl.SSLError), connected(mesh, context) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: back\r\n\r\n")
        return connection.recv(4096)
    return b""


# --- turning over ----------------------------------------------------------------------------------------------------


def test_ca_01_two_hundred_renewals_under_load_fail_no_request(mesh: Meshdp, tmp_path: Path) -> None:
    before = sum(row["renewals"] for row in told(mesh)["workloads"])
    context = leaf_of(authority_of(mesh), CLIENT, tmp_path)
    with Load(mesh) as load:
        for number in range(100):
            renew_all(mesh)
            if number % 20 == 0:
                asked = time.monotonic()
                with connected(mesh, context) as connection:
                    assert serial_shown(connection) == row(mesh, "back")["serial"]
                assert time.monotonic() - asked < 5
    renewals = sum(row["renewals"] for row in told(mesh)["workloads"]) - before
    assert renewals >= 200
    assert load.result["failed"] == 0, load.result
    assert load.result["served"] > 300


def test_ca_01_seconds_of_life_renew_themselves_and_live_connections_stay(brief: Callable[..., Meshdp]) -> None:
    mesh = brief("--certificate-life", "5")
    talk = (
        "import socket, time; c = socket.create_connection(('back', 9000), 20); seen = b''\n"
        "for _ in range(120): c.sendall(b'x'); seen += c.recv(1); time.sleep(0.1)\nprint(len(seen))"
    )
    with Load(mesh) as load:
        assert mesh.python("web", talk).stdout.strip() == "120"
    assert load.result["failed"] == 0, load.result
    rows = told(mesh)["workloads"]
    assert all(row["renewals"] >= 4 and not row["alarm"] for row in rows), rows
    page = admin(mesh, "web", "/certs")
    assert page["turnover"]["renewals"] >= 4
    assert page["turnover"]["alarm"] == "none"
    assert "PRIVATE" not in json.dumps(page)


# --- roots -----------------------------------------------------------------------------------------------------------


def test_ca_06_a_root_rotates_under_load_without_a_lost_request(mesh: Meshdp, tmp_path: Path) -> None:
    old = told(mesh)["signer"]
    context = leaf_of(authority_of(mesh), CLIENT, tmp_path)
    with Load(mesh) as load, connected(mesh, context) as resting:
        resting.sendall(b"GET /before HTTP/1.1\r\nHost: back\r\n\r\n")
        read_until(resting, b"/before")
        rotated = mesh("certs", "rotate", "--root", "--settle", "1")
        assert rotated.returncode == 0, rotated.stdout + rotated.stderr
        # Its peer's root is trusted no more: it is ended, and the reason is counted.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert resting.recv(4096) == b""
    assert load.result["failed"] == 0, load.result
    assert load.result["served"] > 50
    for phase in ("trusting", "settling", "steady"):
        assert f"{phase}: " in rotated.stdout
    now = told(mesh)
    assert (now["phase"], now["waits_for"], len(now["roots"])) == ("steady", [], 1)
    assert now["signer"] != old
    for found in now["workloads"]:
        assert (found["issuer"], found["roots"]) == (now["signer"], [now["signer"]])
    ended = admin(mesh, "back", "/stats")["connections"]["inbound"]["ended"]
    assert ended["trust_changed"] >= 1
    assert answer(mesh, context) == b"", "who comes with a certificate of the old root is a stranger"
    assert answer(mesh, leaf_of(authority_of(mesh), CLIENT, tmp_path)).startswith(b"HTTP/1.1 200")


def test_ca_06_opaque_connections_rest_on_the_root_they_began_with(mesh: Meshdp) -> None:
    echo = (
        "import socket, sys; c = socket.create_connection(('back', 9000), 20); c.settimeout(30)\n"
        "for line in sys.stdin: c.sendall(line.encode()); print(c.recv(100).decode().strip(), flush=True)"
    )
    with mesh.talk("web", echo) as live:
        live.says("before")
        assert live.hears() == "before"
        renew_all(mesh)
        live.says("renewed")
        assert live.hears() == "renewed", "new certificates of the same root cut nothing"
        before = trust_changed(mesh)
        assert mesh("certs", "rotate", "--root", "--settle", "0.2").returncode == 0
        live.says("after")
        assert live.hears() == "", "both proved themselves with a root that is gone"
    assert trust_changed(mesh) > before


def trust_changed(mesh: Meshdp) -> int:
    """Connections that ended because of a root, on either side of the way from `web` to `back`."""
    sides = [("web", "outbound"), ("back", "inbound")]
    ended = [admin(mesh, name, "/stats")["connections"][direction]["ended"] for name, direction in sides]
    return sum(each.get("trust_changed", 0) for each in ended)


def test_ca_06_a_sidecar_that_does_not_answer_holds_the_rotation_up(brief: Callable[..., Meshdp]) -> None:
    mesh = brief()
    stopped = mesh.rows()["default/web"]["sidecar"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        late = mesh("certs", "rotate", "--root", "--timeout", "1")
        assert late.returncode == 1
        assert "phase trusting lasts longer than 1 s: default/web: the bundle is not in force" in late.stderr
        assert len(told(mesh)["roots"]) == 2
        # The mesh falls in the middle; the next one finds the same roots and goes on.
        before = told(mesh)["roots"]
        os.kill(mesh.state_of("turnover")["supervisor"]["pid"], signal.SIGKILL)
    finally:
        os.kill(stopped, signal.SIGCONT)
    again = mesh("up", "-f", str(mesh.folder / "mesh.yaml"), "--detach")
    assert again.returncode == 0, again.stdout + again.stderr
    wait_until(lambda: told(mesh)["phase"] in ("settling", "distrusting", "steady"))
    assert told(mesh)["signer"] == before[1], "the new root signs"
    assert status(mesh, "web", "http://back/").stdout.strip() == "200"


# --- the authority is away -------------------------------------------------------------------------------------------


def test_ca_02_an_expired_certificate_fails_closed_and_recovers_alone(brief: Callable[..., Meshdp]) -> None:
    """The row "own certificate expired, no renewal" of table 2.19, too."""
    mesh = brief("--certificate-life", "4")
    supervisor = mesh.state_of("turnover")["supervisor"]["pid"]
    waiting = (
        "import socket, sys; c = socket.create_connection(('back', 9000), 20); c.settimeout(30)\n"
        "print('open', flush=True)\n"
        "for line in sys.stdin: c.sendall(line.encode()); print(c.recv(100).decode().strip(), flush=True)"
    )
    with mesh.talk("web", waiting) as live:
        assert live.hears() == "open"
        live.says("early")
        assert live.hears() == "early"
        os.kill(supervisor, signal.SIGSTOP)  # the authority is gone, and nobody told the sidecars
        try:
            wait_until(lambda: readiness(mesh, "web")[0] == 503 and readiness(mesh, "back")[0] == 503)
            assert "expired" in readiness(mesh, "web")[1]
            refused = status(mesh, "web", "http://back/")
            assert "503" in refused.stderr, "we prove nothing to others"
            good = leaf_of(authority_of(mesh), CLIENT, mesh.folder)
            assert answer(mesh, good) == b"", "nor do we let others prove themselves to us"
            with connected(mesh) as plain:  # PERMISSIVE: plaintext needs no certificate
                plain.sendall(b"GET /plain HTTP/1.1\r\nHost: back\r\n\r\n")
                assert plain.recv(4096).startswith(b"HTTP/1.1 200")
            live.says("late")
            assert live.hears() == "late", "a live connection lives on"
            page = admin(mesh, "web", "/certs")
            assert page["turnover"]["alarm"] == "expired"
            assert admin(mesh, "web", "/stats")["certificates"]["alarm_percent"] == 100
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_until(lambda: status(mesh, "web", "http://back/").stdout.strip() == "200")
        assert readiness(mesh, "web")[0] == 200
    log = mesh("logs", "web", "--sidecar").stdout
    for percent in (50, 80, 100):
        assert log.count(f"certificate: {percent} % of its life is gone") == 1, log
    assert log.count("certificate: 95 % of its life is gone") <= 1, "a fifth of a second: a busy machine may miss it"


# --- the key ---------------------------------------------------------------------------------------------------------

PEEK = "import os, sys; os.setgid(1337); os.setuid(1337); open(f'/proc/{sys.argv[1]}/mem', 'rb')"


def test_ca_11_not_even_the_sidecars_own_user_reads_its_memory(mesh: Meshdp) -> None:
    for name in ("default/web", "default/back"):
        peek = [sys.executable, "-c", PEEK, str(mesh.rows()[name]["sidecar"])]
        done = subprocess.run(peek, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Permission denied" in done.stderr
    state = mesh.state / "turnover"
    held = [path for path in state.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert all(path.parent.name == "authority" for path in held), "only roots are on disk, no workload's key"
    assert {path.stat().st_mode & 0o777 for path in held} == {0o600}


# --- the command -----------------------------------------------------------------------------------------------------


def test_certs_show_says_who_has_what(mesh: Meshdp) -> None:
    shown = mesh("certs", "show")
    assert shown.returncode == 0, shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:3] == ["WORKLOAD", "IDENTITY", "SERIAL"]
    assert "default/web" in shown.stdout and "spiffe://cluster.local/ns/default/sa/back" in shown.stdout
    rows = json.loads(mesh("certs", "show", "web", "-o", "json").stdout)
    assert [found["workload"] for found in rows] == ["default/web"]
    page = admin(mesh, "web", "/certs")
    assert (rows[0]["serial"], rows[0]["issuer"]) == (page["certificate"]["serial"], page["certificate"]["issuer"])
    assert [root["fingerprint"] for root in page["certificate"]["roots"]] == rows[0]["roots"]
    assert 0 < rows[0]["remaining_s"] <= 3600


def test_certs_rotate_renews_one_and_says_what_it_cannot(mesh: Meshdp) -> None:
    web, back = row(mesh, "web")["serial"], row(mesh, "back")["serial"]
    done = mesh("certs", "rotate", "web")
    assert done.returncode == 0, done.stderr
    assert row(mesh, "web")["serial"] != web
    assert row(mesh, "back")["serial"] == back
    unknown = mesh("certs", "rotate", "wbe")
    assert unknown.returncode == 2
    assert "choose one of: default/back, default/web" in unknown.stderr
    assert mesh("certs", "show", "--mesh", "another").returncode == 3
    assert mesh("certs").returncode == 2
    assert mesh("up", "-f", str(mesh.folder / "mesh.yaml"), "--certificate-life", "1").returncode == 2


def test_the_control_socket_is_its_owners_alone(mesh: Meshdp) -> None:
    assert control_of(mesh).stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="expected a verb"):
        ask(control_of(mesh), "nonsense")
    with pytest.raises(UsageError, match="settle_s"):
        ask(control_of(mesh), "certs-rotate-root", settle_s=-1)
