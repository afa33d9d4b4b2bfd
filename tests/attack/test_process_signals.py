"""Signals and what they may cost: nothing that is under way, and never a byte past the sidecar.

In:     a pair whose sidecars are told to end, stopped for a while, killed.
Source: attack-cases 2.16, PR-01 to PR-03; docs/sidecar.md, "How it ends".
"""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.support import wire
from tests.support.mesh import Mesh, Opaque, get
from tests.support.origin import Origin
from tests.support.pair import CLIENT_IP, HTTP_PORT, SERVER_IP, SERVICE_IP, TCP_PORT, Side

DRAIN_S = 20.0
UPGRADE = get("/upgrade", "Connection: upgrade", "Upgrade: websocket")


@pytest.fixture
def fresh(mesh: Mesh) -> Mesh:
    """Both sidecars with the deadline of these tests; begun anew, also after the test."""
    for side in (mesh.pair.client, mesh.pair.server):
        restart(mesh, side)
    assert mesh.status() == 200
    return mesh


def restart(mesh: Mesh, side: Side, *arguments: str) -> None:
    side.stop()
    side.start(mesh.pair.configuration, ["--drain-s", str(DRAIN_S), *arguments])


def tell(side: Side, number: signal.Signals = signal.SIGTERM) -> None:
    assert side.process is not None
    side.process.send_signal(number)


def readiness(side: Side) -> int:
    with side.connect(("127.0.0.1", 15021)) as connection:
        connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return int(connection.recv(64).split(b" ")[1])


def exchange(connection: socket.socket, sent: bytes, expected: bytes) -> None:
    connection.sendall(sent)
    assert connection.recv(len(expected), socket.MSG_WAITALL) == expected


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_pr_01_drain_of_the_server_loses_nothing(fresh: Mesh, direction: str) -> None:
    """Readiness fails first, new peers are refused, what runs goes on, and the process ends with its last connection."""
    server, before = fresh.pair.server, len(fresh.origin.requests)
    with (
        wire.connect(fresh.pair, direction) as slow,
        wire.connect(fresh.pair, direction) as upgraded,
        wire.connect(fresh.pair, direction, TCP_PORT) as stream,
    ):
        slow.sendall(get("/slow/1500"))
        upgraded.sendall(UPGRADE)
        assert wire.listen(upgraded, 1).statuses == [101]
        stream.sendall(b"E")
        exchange(stream, b"before", b"before")
        assert fresh.origin.wait(lambda: any(one.target == b"/slow/1500" for one in fresh.origin.requests[before:]))
        tell(server)
        assert fresh.origin.wait(lambda: readiness(server) == 503), "not ready from now on"
        refused(fresh)
        exchange(stream, b"during", b"during")
        exchange(upgraded, b"during", b"DURING")
        heard = wire.listen(slow, 1 if direction == "outbound" else None)
        assert heard.statuses == [200]
        if direction == "inbound":  # the client's sidecar keeps its own connection to the client
            assert (heard.answers[0].value(b"connection"), heard.ended) == (b"close", "fin")
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(8, socket.MSG_WAITALL) == b"bye"
        assert server.process is not None and server.process.poll() is None, "the upgraded connection is still there"
        exchange(upgraded, b"last", b"LAST")
    started = time.monotonic()
    assert server.process.wait(DRAIN_S - 5) == 0
    assert time.monotonic() - started < DRAIN_S - 5, "it ends with its last connection, not at the deadline"


def refused(mesh: Mesh) -> None:
    """New peers meet a closed door, and nothing reaches the application."""
    before, peers = mesh.origin.received(), len(mesh.opaque.peers)
    assert mesh.origin.wait(lambda: shut(mesh))
    assert (mesh.origin.received(), len(mesh.opaque.peers)) == (before, peers)


def shut(mesh: Mesh) -> bool:
    try:
        wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, HTTP_PORT)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_pr_01_the_way_out_stays_open_for_the_application(fresh: Mesh) -> None:
    """While it drains, the application behind a sidecar may still ask others for what its own ending needs."""
    server = fresh.pair.server
    elsewhere = Opaque(fresh.pair.client, TCP_PORT)
    try:
        with server.connect((CLIENT_IP, TCP_PORT)) as old:
            old.sendall(b"E")
            exchange(old, b"before", b"before")
            tell(server)
            assert fresh.origin.wait(lambda: readiness(server) == 503)
            for number in range(3):
                with server.connect((CLIENT_IP, TCP_PORT)) as new:
                    new.sendall(b"E")
                    exchange(new, b"new %d" % number, b"new %d" % number)
            exchange(old, b"during", b"during")
            assert server.process is not None and server.process.poll() is None
        assert server.process.wait(DRAIN_S - 5) == 0
    finally:
        elsewhere.stop()


def test_pr_01_a_connection_made_while_it_drains_has_time_for_its_request(fresh: Mesh) -> None:
    """Nobody sends a request together with the last packet of a handshake."""
    server = fresh.pair.server
    elsewhere, other = Origin(fresh.pair.client, [HTTP_PORT]), Opaque(fresh.pair.client, TCP_PORT)
    try:
        with server.connect((CLIENT_IP, TCP_PORT)) as held:
            held.sendall(b"E")
            exchange(held, b"before", b"before")
            tell(server)
            assert fresh.origin.wait(lambda: readiness(server) == 503)
            for pause_s in (0.0, 0.02, 0.2):
                with server.connect((CLIENT_IP, HTTP_PORT)) as new:
                    time.sleep(pause_s)
                    new.sendall(get(host="elsewhere"))
                    heard = wire.listen(new)
                    assert (heard.statuses, heard.ended) == ([200], "fin"), pause_s
            with server.connect((CLIENT_IP, HTTP_PORT)) as silent:
                assert silent.recv(1) == b"", "who never asks is not waited for till the deadline"
                assert server.process is not None and server.process.poll() is None
        assert server.process.wait(DRAIN_S - 5) == 0
    finally:
        elsewhere.stop()
        other.stop()


@pytest.mark.parametrize("kind", ["tcp", "websocket"])
def test_pr_01_streams_live_until_the_deadline_and_not_longer(fresh: Mesh, kind: str) -> None:
    server = fresh.pair.server
    restart(fresh, server, "--drain-s", "3")
    with wire.connect(fresh.pair, "inbound", TCP_PORT if kind == "tcp" else HTTP_PORT) as stream:
        if kind == "tcp":
            stream.sendall(b"E")
        else:
            stream.sendall(UPGRADE)
            assert wire.listen(stream, 1).statuses == [101]
        exchange(stream, b"A1", b"A1")
        started = time.monotonic()
        tell(server)
        while time.monotonic() - started < 1:
            exchange(stream, b"B2", b"B2")
            time.sleep(0.05)
        assert server.process is not None
        assert server.process.wait(DRAIN_S - 5) == 0
        assert time.monotonic() - started > 2.9


def test_pr_01_requests_of_a_busy_client_are_not_lost_when_its_server_goes(fresh: Mesh) -> None:
    """Every request either has its answer or is told that nobody is there; none is cut, none is mixed up."""
    server = fresh.pair.server
    seen: list[int] = []
    with wire.connect(fresh.pair, "outbound") as client:
        for number in range(400):
            nonce = wire.nonce()
            client.sendall(f"GET /{number} HTTP/1.1\r\nHost: server\r\nX-Nonce: {nonce.decode()}\r\n\r\n".encode())
            heard = wire.listen(client, 1)
            assert len(heard.statuses) == 1, (number, heard)
            seen.append(heard.statuses[0])
            assert heard.statuses[0] == 503 or heard.answers[0].body == b"nonce:" + nonce
            if number == 50:
                tell(server)
            if heard.statuses[0] == 503:
                break
    assert seen[:51] == [200] * 51
    assert set(seen) <= {200, 503}
    assert server.process is not None and server.process.wait(DRAIN_S - 5) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pr_02_a_second_signal_ends_at_once(fresh: Mesh, number: signal.Signals) -> None:
    server = fresh.pair.server
    with wire.connect(fresh.pair, "inbound", TCP_PORT) as stream:
        stream.sendall(b"E")
        exchange(stream, b"x", b"x")
        tell(server, number)
        assert fresh.origin.wait(lambda: readiness(server) == 503)
        tell(server, number)
        assert server.process is not None
        started = time.monotonic()
        assert server.process.wait(DRAIN_S) == -number, "not an orderly end, and its exit code says so"
        assert time.monotonic() - started < DRAIN_S / 2


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_pr_02_signals_that_mean_nothing_change_nothing(fresh: Mesh, number: signal.Signals) -> None:
    with wire.connect(fresh.pair, "outbound", TCP_PORT) as stream:
        stream.sendall(b"E")
        for side in (fresh.pair.client, fresh.pair.server):
            tell(side, number)
        exchange(stream, b"still", b"still")
        assert fresh.status() == 200
        assert [readiness(side) for side in (fresh.pair.client, fresh.pair.server)] == [200, 200]


def test_pr_02_a_stopped_sidecar_goes_on_where_it_was(fresh: Mesh) -> None:
    """SIGSTOP for 3 s: timers that ran out meanwhile end nothing that was alive, and everything held is answered."""
    server = fresh.pair.server
    with wire.connect(fresh.pair, "outbound") as idle, wire.connect(fresh.pair, "outbound", TCP_PORT) as stream:
        idle.sendall(get())
        assert wire.listen(idle, 1).statuses == [200]
        stream.sendall(b"E")
        exchange(stream, b"before", b"before")
        tell(server, signal.SIGSTOP)
        stream.sendall(b"behind")
        with wire.connect(fresh.pair, "outbound") as waiting:
            waiting.sendall(get("/waits"))
            time.sleep(3)
            tell(server, signal.SIGCONT)
            assert wire.listen(waiting, 1).statuses == [200]
        assert stream.recv(6, socket.MSG_WAITALL) == b"behind"
        idle.sendall(get())
        assert wire.listen(idle, 1).statuses == [200]


@pytest.mark.parametrize("pause_s", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_pr_03_killed_while_it_starts(fresh: Mesh, pause_s: float) -> None:
    """Whatever moment it dies at, no lock or socket of it stands in the way of the next."""
    server = fresh.pair.server
    server.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "wait_ready", lambda: time.sleep(pause_s))
        server.start(fresh.pair.configuration)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    refused(fresh)
    restart(fresh, server)
    with fresh.pair.client.connect((SERVICE_IP, HTTP_PORT)) as connection:
        connection.sendall(get())
        assert wire.listen(connection, 1).statuses == [200]
