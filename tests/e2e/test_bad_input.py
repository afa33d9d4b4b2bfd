"""What goes wrong around a sidecar: certificates, ports, files, signals. Nothing of it lets a byte pass unchecked.

In:     a pair whose files and processes are broken one at a time and repaired again.
Source: attack cases 2.19 (fail closed), CAP-12, TL-03, TL-04; docs/sidecar.md.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from meshdp.control.authority import Authority
from tests.e2e.test_swap import Load, deny
from tests.support import wire
from tests.support.mesh import Mesh, get, position
from tests.support.pair import HTTP_PORT, PATIENCE_S, ROOT, SERVER_IP, SERVICE_IP, TCP_PORT, Side

NONE = "# none\n"
LIFE = "meshdp.control.authority.LEAF_LIFE"


@pytest.fixture
def fresh(mesh: Mesh) -> Iterator[Mesh]:
    """The mesh with no pooled connections: the client's sidecar begins anew, also after the test."""
    restart(mesh, mesh.pair.client)
    assert mesh.status() == 200
    yield mesh
    for side in (mesh.pair.client, mesh.pair.server):
        mesh.pair.certify(side.name)
        restart(mesh, side)
    assert mesh.status() == 200


def restart(mesh: Mesh, side: Side) -> None:
    side.stop()
    side.start(mesh.pair.configuration)


def sidecar(mesh: Mesh, side: Side, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One more sidecar in the namespace, to its end."""
    command = ["ip", "netns", "exec", side.namespace, "setpriv", "--reuid=1337", "--regid=1337", "--clear-groups"]
    command += [sys.executable, "-m", "meshdp", "sidecar", "--workload", f"default/{side.name}"]
    command += ["--config", str(mesh.pair.configuration)]
    command += ["--credentials", str(side.folder / f"credentials-{side.name}"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MESHDP_SINGLE_INSTANCE": "true"}
    if "--any" in arguments:
        command.remove("--any")
        environment["MESHDP_SINGLE_INSTANCE"] = "false"
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


# --- certificates ----------------------------------------------------------------------------------------------------


def test_expired_certificate_of_a_client_is_refused(mesh: Mesh) -> None:
    with mock.patch(LIFE, timedelta(seconds=-10)):
        folder = mesh.pair.certify("expired", "spiffe://cluster.local/ns/default/sa/client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "root-cert.pem")
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["istio"])
    at = position(mesh.pair.server)
    heard = b""
    try:
        with context.wrap_socket(wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, HTTP_PORT))) as connection:
            connection.sendall(get())
            heard = connection.recv(12)
    except (ssl.SSLError, OSError):
        pass
    assert heard == b""
    mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "downstream_tls_untrusted")


def test_own_certificate_that_expires(fresh: Mesh) -> None:
    client = fresh.pair.client
    with mock.patch(LIFE, timedelta(seconds=6)):
        fresh.pair.certify("client")
    restart(fresh, client)
    assert fresh.status() == 200
    assert fresh.origin.wait(lambda: fresh.status() != 200), "an expired certificate opens nothing new"
    assert not ready(client)
    fresh.pair.certify("client")
    assert fresh.origin.wait(lambda: fresh.status() == 200), "a new certificate heals it"
    assert ready(client)


def ready(side: Side) -> bool:
    with side.connect(("127.0.0.1", 15021)) as connection:
        connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def listens(side: Side) -> bool:
    """It answers probes, whatever it says."""
    try:
        return ready(side) or True
    except OSError:
        return False


def test_server_of_a_foreign_authority(fresh: Mesh) -> None:
    own = fresh.pair.authority
    fresh.pair.authority = Authority.open(fresh.pair.folder / "foreign", "test")
    fresh.pair.certify("server")
    fresh.pair.authority = own
    restart(fresh, fresh.pair.server)
    restart(fresh, fresh.pair.client)
    at, before = position(fresh.pair.client), fresh.origin.received()
    assert fresh.status() == 503
    line = fresh.logged(fresh.pair.client, at, lambda line: line["response_code"] == 503)
    assert line["response_code_details"] == "upstream_tls_untrusted"
    assert fresh.origin.received() == before


def test_server_of_another_identity(fresh: Mesh) -> None:
    fresh.pair.certify("server", "spiffe://cluster.local/ns/default/sa/somebody-else")
    restart(fresh, fresh.pair.server)
    restart(fresh, fresh.pair.client)
    at, before = position(fresh.pair.client), fresh.origin.received()
    assert fresh.status() == 503
    line = fresh.logged(fresh.pair.client, at, lambda line: line["response_code"] == 503)
    assert line["response_code_details"] == "upstream_tls_identity"
    assert fresh.origin.received() == before


def test_rotation_under_load(fresh: Mesh) -> None:
    with wire.connect(fresh.pair, "outbound", TCP_PORT) as opaque:
        opaque.sendall(b"Ehello")
        assert opaque.recv(5, socket.MSG_WAITALL) == b"hello"
        with Load(fresh) as load:
            for _ in range(5):
                for side in (fresh.pair.client, fresh.pair.server):
                    before = side.serial()
                    fresh.pair.certify(side.name)
                    assert fresh.origin.wait(lambda side=side, before=before: side.serial() != before)
                    time.sleep(0.05)
        opaque.sendall(b"again")
        assert opaque.recv(5, socket.MSG_WAITALL) == b"again"
    assert load.failures == []
    assert load.served > 100


def test_broken_credentials_leave_the_old_ones(fresh: Mesh) -> None:
    folder = fresh.pair.folder / "credentials-client"
    before = fresh.pair.client.serial()
    (folder / "cert-chain.pem").write_text("not a certificate")
    told = fresh.origin.wait(lambda: "were refused, the old ones stay in use" in fresh.pair.client.log.read_text())
    assert told, fresh.pair.client.log.read_text()[-1000:]
    assert fresh.pair.client.serial() == before
    assert fresh.status() == 200


# --- starting --------------------------------------------------------------------------------------------------------


def test_second_sidecar_in_the_namespace(mesh: Mesh) -> None:
    ended = sidecar(mesh, mesh.pair.client)
    assert ended.returncode == 1
    assert "another sidecar runs in this network namespace" in ended.stderr
    assert mesh.status() == 200


def test_port_in_use(mesh: Mesh) -> None:
    ended = sidecar(mesh, mesh.pair.client, "--any")
    assert ended.returncode == 1
    assert "cannot listen on" in ended.stderr
    assert "free the port" in ended.stderr
    assert mesh.status() == 200


def test_az_13_no_configuration_yet(mesh: Mesh) -> None:
    """A sidecar that knows nothing lets nothing through, in either direction, and says that it is not ready."""
    for side in (mesh.pair.client, mesh.pair.server):
        before, peers = mesh.origin.received(), len(mesh.opaque.peers)
        with tempfile.TemporaryDirectory(prefix="mdpt-") as empty:
            Path(empty).chmod(0o755)
            side.stop()
            with mock.patch.object(
                side, "wait_ready", side_effect=lambda side=side: mesh.origin.wait(lambda: listens(side))
            ):
                side.start(Path(empty))
            assert not ready(side)
            for direction, port in (("outbound", HTTP_PORT), ("outbound", TCP_PORT), ("inbound", HTTP_PORT)):
                if (side is mesh.pair.client) == (direction == "outbound"):
                    with wire.connect(mesh.pair, direction, port) as connection:
                        wire.send_pieces(connection, [get()])
                        assert wire.listen(connection).statuses in ([], [503])
            assert (mesh.origin.received(), len(mesh.opaque.peers)) == (before, peers)
        restart(mesh, side)
    assert mesh.status() == 200


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken", ["a: [", "kind: [Nothing]\n", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: 7\n"]
)
def test_broken_file_keeps_the_last_good_one(mesh: Mesh, broken: str) -> None:
    mesh.pair.configure(deny("/secret"))
    at, digest = mesh.pair.server.log.stat().st_size, mesh.pair.server.digest()
    policies = mesh.pair.configuration / "policies.yaml"
    staged = mesh.pair.folder / "staged.yaml"
    staged.write_text(broken)
    staged.replace(policies)

    def reported() -> bool:
        with mesh.pair.server.log.open() as log:
            log.seek(at)
            return "policies.yaml" in log.read()

    assert mesh.origin.wait(reported)
    assert mesh.pair.server.digest() == digest
    assert mesh.status("/secret") == 403
    assert mesh.status("/open") == 200
    mesh.pair.configure(NONE)
    assert mesh.status("/secret") == 200


def test_directory_that_vanishes_keeps_what_is_in_force(mesh: Mesh) -> None:
    mesh.pair.configure(deny("/secret"))
    policies = mesh.pair.configuration
    policies.rename(mesh.pair.folder / "gone")
    time.sleep(0.5)
    assert (mesh.status("/secret"), mesh.status("/open")) == (403, 200)
    (mesh.pair.folder / "gone").rename(policies)
    time.sleep(0.5)
    assert (mesh.status("/secret"), mesh.status("/open")) == (403, 200)
    restart(mesh, mesh.pair.server)
    mesh.pair.configure(NONE)


UNKNOWN_FIELD = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: misspelt, namespace: default}
spec: {selector: {matchLabels: {app: server}}, rulez: []}
"""


def test_policy_with_an_unknown_field_denies(mesh: Mesh) -> None:
    mesh.pair.configure(UNKNOWN_FIELD)
    assert mesh.status() == 403
    mesh.pair.configure(NONE)
    assert mesh.status() == 200


def unsupported(action: str) -> str:
    """A policy that decodes and cannot be honoured: it asks for what a filter of Envoy says."""
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: with-metadata, namespace: default}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: {action}
  rules:
  - to: [{{operation: {{paths: ["/guarded"]}}}}]
    when: [{{key: "experimental.envoy.filters.a[b]", values: [c]}}]
"""


def test_policy_that_cannot_be_honoured_denies(mesh: Mesh) -> None:
    mesh.pair.configure(unsupported("ALLOW"))
    assert (mesh.status("/guarded"), mesh.status("/open")) == (403, 403), "an ALLOW that never matches"
    mesh.pair.configure(unsupported("DENY"))
    assert (mesh.status("/guarded"), mesh.status("/open")) == (403, 200), "a DENY without the condition: wider"
    mesh.pair.configure(NONE)
    assert (mesh.status("/guarded"), mesh.status("/open")) == (200, 200)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client", "server"])
def test_drain_on_sigterm(mesh: Mesh, name: str) -> None:
    side = {"client": mesh.pair.client, "server": mesh.pair.server}[name]
    direction = "outbound" if name == "client" else "inbound"
    with wire.connect(mesh.pair, direction) as idle, wire.connect(mesh.pair, direction) as busy:
        idle.sendall(get())
        assert wire.listen(idle, 1).statuses == [200]
        before = len(mesh.origin.requests)
        busy.sendall(get("/slow/3000"))
        assert mesh.origin.wait(lambda: len(mesh.origin.requests) > before)
        assert side.process is not None
        started = time.monotonic()
        side.process.send_signal(signal.SIGTERM)
        assert wire.listen(idle).ended == "fin"
        assert time.monotonic() - started < 2, "a connection without a request is closed at once"
        heard = wire.listen(busy)
        assert (heard.statuses, heard.ended) == ([200], "fin"), "a request under way is finished"
        assert side.process.wait(PATIENCE_S) == 0
    side.start(mesh.pair.configuration)
    assert mesh.status() == 200


def test_drain_deadline_cuts_what_does_not_end(mesh: Mesh) -> None:
    side = mesh.pair.client
    side.stop()
    side.start(mesh.pair.configuration, ["--drain-s", "0.5"])
    mesh.origin.release.clear()
    with wire.connect(mesh.pair, "outbound") as stream:
        stream.sendall(get("/stream/for-ever"))
        assert stream.recv(15) == b"HTTP/1.1 200 OK"
        assert side.process is not None
        started = time.monotonic()
        side.process.send_signal(signal.SIGTERM)
        assert side.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - started > 0.4
    mesh.origin.release.set()
    side.start(mesh.pair.configuration)
    assert mesh.status() == 200


@pytest.mark.parametrize("name", ["client", "server"])
def test_crash_while_the_rules_stay(mesh: Mesh, name: str) -> None:
    """CAP-12: without the sidecar connections are refused; nothing passes unfiltered."""
    side = {"client": mesh.pair.client, "server": mesh.pair.server}[name]
    assert side.process is not None
    before, peers = mesh.origin.received(), len(mesh.opaque.peers)
    side.process.kill()
    side.process.wait()
    for address in ((SERVICE_IP, HTTP_PORT), (SERVER_IP, HTTP_PORT), (SERVER_IP, TCP_PORT)):
        if name == "client":
            with pytest.raises(ConnectionRefusedError):
                mesh.pair.client.connect(address, 2).close()
        elif address[0] == SERVER_IP:
            with pytest.raises(ConnectionRefusedError):
                wire.connect_uncaptured(mesh.pair.client, address).close()
    if name == "server":
        assert mesh.status() == 503
    assert (mesh.origin.received(), len(mesh.opaque.peers)) == (before, peers)
    side.start(mesh.pair.configuration)
    assert mesh.status() == 200
