"""Configuration changes under load: each takes effect at once, none costs a request, and what lost its permit ends.

In:     a policy file that is rewritten (renamed over) while connections are at work.
Source: DESIGN section 3 (swap, re-authorization); attack cases AZ-12, TL-28.
"""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, get, position
from tests.support.pair import HTTP_PORT, TCP_PORT

SWAPS = 1_000
LOADERS = 8
SOON_S = 5.0  # the machine may be busy; nothing else would end these connections for minutes
NONE = "# none\n"


def deny(*paths: str) -> str:
    listed = ", ".join(f'"{path}"' for path in paths)
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: flips, namespace: default}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: DENY
  rules: [{{to: [{{operation: {{paths: [{listed}]}}}}]}}]
"""


DENY_PORT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-tcp, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {ports: ["9091"]}}]}]
"""

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""


class Load:
    """Keep-alive connections that ask and ask; every answer must be theirs."""

    def __init__(self, mesh: Mesh, target: str = "/load") -> None:
        self.served = 0
        self.failures: list[str] = []
        self._mesh = mesh
        self._target = target
        self._stop = threading.Event()
        directions = (wire.DIRECTIONS * LOADERS)[:LOADERS]
        self._threads = [threading.Thread(target=self._run, args=(direction,)) for direction in directions]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, direction: str) -> None:
        try:
            with wire.connect(self._mesh.pair, direction) as connection:
                while not self._stop.is_set():
                    nonce = wire.nonce()
                    connection.sendall(
                        f"GET {self._target} HTTP/1.1\r\nHost: server\r\nX-Nonce: {nonce.decode()}\r\n\r\n".encode()
                    )
                    heard = wire.listen(connection, 1)
                    if [answer.body for answer in heard.answers] != [b"nonce:" + nonce]:
                        self.failures.append(f"{direction}: {heard}")
                        return
                    self.served += 1
                    time.sleep(0.002)
        except OSError as failure:
            self.failures.append(f"{direction}: {failure!r}")


def test_a_thousand_swaps_under_load(mesh: Mesh) -> None:
    digests = {mesh.pair.server.digest()}
    with Load(mesh) as load, wire.connect(mesh.pair, "outbound") as probe:
        for number in range(SWAPS):
            denied = number % 2 == 0
            mesh.pair.configure(deny("/probe" if denied else "/other", f"/never-{number}"))
            digests.add(mesh.pair.server.digest())
            probe.sendall(get("/probe"))
            verdict = wire.listen(probe, 1).statuses
            assert verdict == [403 if denied else 200], (number, verdict)
            if load.failures:
                break
    assert load.failures == []
    assert load.served > SWAPS, "the load was at work all the time"
    assert len(digests) == SWAPS + 1, "every swap is a version of its own"
    mesh.pair.configure(NONE)


def test_without_the_policy_the_probes_show_the_opposite(mesh: Mesh) -> None:
    """The test of the test."""
    with wire.connect(mesh.pair, "outbound") as probe:
        for number in range(4):
            mesh.pair.configure(f"# nothing is enforced\n{NONE if number % 2 else STRICT}")
            probe.sendall(get("/probe"))
            assert wire.listen(probe, 1).statuses == [200]


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_opaque_connection_that_loses_its_permit_ends(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction, TCP_PORT) as lost:
        lost.sendall(b"Ehello")
        assert lost.recv(5, socket.MSG_WAITALL) == b"hello"
        mesh.pair.configure(DENY_PORT.replace("9091", "9999"))
        lost.sendall(b"again")
        assert lost.recv(5, socket.MSG_WAITALL) == b"again", "a policy about something else changes nothing"
        at = position(mesh.pair.server)
        mesh.pair.configure(DENY_PORT)
        heard = wire.listen(lost, timeout_s=SOON_S)
        assert (heard.raw, heard.ended in ("fin", "reset")) == (b"", True), heard
    line = mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "policy_changed")
    assert line["bytes_received"] == len("Ehelloagain")
    mesh.pair.configure(NONE)


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_streaming_response_that_loses_its_permit_ends(mesh: Mesh, direction: str) -> None:
    mesh.origin.release.clear()
    with wire.connect(mesh.pair, direction) as lost:
        lost.sendall(get("/stream/long"))
        assert b"tick" in lost.recv(4096) + lost.recv(4096)
        mesh.pair.configure(deny("/unrelated"))
        assert b"tick" in lost.recv(4096) + lost.recv(4096), "a policy about something else changes nothing"
        at = position(mesh.pair.server)
        mesh.pair.configure(deny("/stream/*"))
        lost.settimeout(SOON_S)
        heard = b""
        try:
            while chunk := lost.recv(4096):
                heard += chunk
        except ConnectionResetError:
            pass
        assert not heard.endswith(b"0\r\n\r\n"), "the cut is to be seen"
    line = mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "policy_changed")
    assert line["path"] == "/stream/long"
    mesh.origin.release.set()
    mesh.pair.configure(NONE)


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_upgraded_connection_that_loses_its_permit_ends(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction) as lost:
        lost.sendall(get("/upgrade/long", "Connection: upgrade", "Upgrade: loud") + b"early")
        heard = b""
        while not heard.endswith(b"EARLY"):
            heard += lost.recv(4096)
        at = position(mesh.pair.server)
        mesh.pair.configure(deny("/upgrade/*"))
        ended = wire.listen(lost, timeout_s=SOON_S)
        assert (ended.raw, ended.ended in ("fin", "reset")) == (b"", True), ended
    lines = [line for line in mesh.log_since(mesh.pair.server, at) if line["path"] == "/upgrade/long"]
    line = mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "policy_changed")
    assert (line["path"], line["response_code"]) == ("/upgrade/long", 101)
    assert len(lines) <= 1, "one line a request"
    mesh.pair.configure(NONE)


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_request_that_loses_its_permit_before_it_is_answered(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction) as lost:
        lost.sendall(get("/slow/1500"))
        assert mesh.origin.wait(lambda: mesh.origin.requests[-1].target == b"/slow/1500" or _begun(mesh, b"/slow/1500"))
        mesh.pair.configure(deny("/slow/*"))
        heard = wire.listen(lost, 1)
    assert heard.statuses == [403]
    assert heard.answers[0].body == b"RBAC: access denied"
    mesh.pair.configure(NONE)


def _begun(mesh: Mesh, target: bytes) -> bool:
    return any(bytes(connection.received).rfind(target) > 0 for connection in mesh.origin.connections[-20:])


def test_strict_ends_plaintext_connections(mesh: Mesh) -> None:
    with (
        wire.connect(mesh.pair, "inbound") as idle,
        wire.connect(mesh.pair, "inbound", TCP_PORT) as opaque,
        wire.connect(mesh.pair, "outbound") as kept,
        wire.connect(mesh.pair, "outbound", TCP_PORT) as kept_opaque,
    ):
        for connection in (idle, kept):
            connection.sendall(get())
            assert wire.listen(connection, 1).statuses == [200]
        for connection in (opaque, kept_opaque):
            connection.sendall(b"Ehello")
            assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        at = position(mesh.pair.server)
        mesh.pair.configure(STRICT)
        for connection in (idle, opaque):
            heard = wire.listen(connection, timeout_s=SOON_S)
            assert (heard.raw, heard.ended in ("fin", "reset")) == (b"", True), heard
        mesh.logged(mesh.pair.server, at, lambda line: line["response_code_details"] == "policy_changed")
        kept.sendall(get())
        assert wire.listen(kept, 1).statuses == [200], "mutual TLS goes on"
        kept_opaque.sendall(b"again")
        assert kept_opaque.recv(5, socket.MSG_WAITALL) == b"again"
    mesh.pair.configure(NONE)
    with wire.connect(mesh.pair, "inbound", HTTP_PORT) as connection:
        connection.sendall(get())
        assert wire.listen(connection, 1).statuses == [200], "the test of the test: it was STRICT"
