"""A connection's life at its seams: swaps between its stages, whose connection is reused, how an end is passed on.

In:     the pair; a pair of its own with short bounds for what must end by itself.
Source: DESIGN section 3 (re-authorization) and 5 (pools); attack cases H1-35, LC-03, LC-04, LC-06, TL-19, TL-22, TL-28, U5.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_swap import DENY_PORT, NONE, STRICT, deny
from tests.support import wire
from tests.support.mesh import Mesh, get, position
from tests.support.origin import Origin
from tests.support.pair import AUTO_PORT, HTTP_PORT, PATIENCE_S, SERVICE_IP, TCP_PORT, Side, pair

DISABLE = STRICT.replace("STRICT", "DISABLE")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.mark.parametrize("documents", [STRICT, DENY_PORT], ids=["strict", "deny"])
def test_swap_while_the_first_bytes_are_awaited(mesh: Mesh, documents: str) -> None:
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as waiting:
        mesh.pair.configure(documents)
        wire.send_pieces(waiting, [b"Ehello"])
        assert wire.listen(waiting).raw == b"", "judged by a configuration that is no longer in force"
    mesh.pair.configure(NONE)
    with wire.connect(mesh.pair, "inbound", TCP_PORT) as waiting:
        waiting.sendall(b"Ehello")
        assert waiting.recv(5, socket.MSG_WAITALL) == b"hello", "the test of the test: it was the policy"


def test_denied_request_whose_body_comes_later_is_logged(mesh: Mesh) -> None:
    mesh.pair.configure(deny("/secret"))
    at = position(mesh.pair.server)
    with wire.connect(mesh.pair, "inbound") as connection:
        head = get("/secret", "Content-Length: 10", method="POST")
        wire.send_pieces(connection, [head, b"hello", b"world" + get("/open")], pause_s=0.1)
        assert wire.listen(connection, 2).statuses == [403, 200]
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/secret")
    assert (line["response_code"], line["method"]) == (403, "POST")
    mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/open")
    mesh.pair.configure(NONE)


def test_self_calls_and_callers_do_not_share_connections(mesh: Mesh) -> None:
    """Towards its own address a sidecar dials itself as a client and the application as a server: two things."""
    mesh.pair.configure(DISABLE)
    at = position(mesh.pair.server)
    for number in range(4):
        assert mesh.status(f"/other/{number}", "inbound") == 200
        with mesh.pair.server.connect((SERVICE_IP, HTTP_PORT)) as itself:
            itself.sendall(get(f"/itself/{number}"))
            assert wire.listen(itself, 1).statuses == [200]
    mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/itself/3" and line["direction"] == "outbound")
    lines = mesh.log_since(mesh.pair.server, at)
    mesh.pair.configure(NONE)
    hops = {line["path"]: [] for line in lines}
    for line in lines:
        hops[line["path"]].append(line["direction"])
    for number in range(4):
        assert hops[f"/itself/{number}"] == ["inbound", "outbound"], "a self-call went around its own policies"
        assert hops[f"/other/{number}"] == ["inbound"], "the request of a caller went out again as one of ours"


def test_repeated_request_takes_a_fresh_connection(mesh: Mesh) -> None:
    """LC-04: several pooled connections may have been closed at once; the one repetition must not meet another."""
    askers = [threading.Thread(target=mesh.status, args=("/slow/300", "inbound")) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert mesh.status("/only-first", "inbound") == 200


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_reset_by_the_client_reaches_the_application(mesh: Mesh, direction: str) -> None:
    """TL-22: an end that was cut must not look like one that was meant."""
    before = mesh.opaque.resets
    with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
        connection.sendall(b"Ehello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    assert mesh.origin.wait(lambda: mesh.opaque.resets == before + 1)


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_reset_by_the_application_reaches_the_client(mesh: Mesh, direction: str) -> None:
    with wire.connect(mesh.pair, direction, TCP_PORT) as connection:
        connection.sendall(b"R")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


# --- what must end by itself -------------------------------------------------------------------------------------------

LIMITS = {"handshake_ms": 600, "head_ms": 600, "idle_ms": 1_500}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Mesh]:
    """A pair that waits for nothing for long."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder), limits=LIMITS) as made:
        opened = Mesh(made, Origin(made.server, [HTTP_PORT, AUTO_PORT]), TCP_PORT)
        yield opened
        opened.stop()


def connections(side: Side) -> int:
    """How many connections a sidecar serves."""
    return len(json.loads(side.admin("/connections"))["connections"])


@pytest.mark.parametrize("first", [b"\x16", b"\x16\x03\x01\x02\x00\x01", b"GE", b"GET / HTTP/1."])
def test_half_of_a_first_message_is_not_awaited_for_ever(impatient: Mesh, first: bytes) -> None:
    with wire.connect(impatient.pair, "inbound", AUTO_PORT) as connection:
        connection.sendall(first)
        assert wire.listen(connection, timeout_s=PATIENCE_S).ended in ("fin", "reset")
    assert impatient.origin.wait(lambda: connections(impatient.pair.server) == 0)


def test_silence_at_the_start_ends_at_the_idle_bound(impatient: Mesh) -> None:
    with wire.connect(impatient.pair, "inbound", AUTO_PORT) as connection:
        started = time.monotonic()
        assert wire.listen(connection, timeout_s=PATIENCE_S).ended == "fin"
        assert time.monotonic() - started > 1.2, "a server may speak first: silence is not an error"


def test_caller_that_reads_no_answers_is_cut(impatient: Mesh) -> None:
    """LC-03: our own answers are written under a bound too."""
    impatient.pair.configure(deny("/secret"))
    with wire.connect(impatient.pair, "inbound") as connection:
        connection.settimeout(0.5)
        try:
            while True:
                connection.sendall(get("/secret") * 64)
        except OSError:
            pass  # the socket is full: nobody reads on either side now
        assert connections(impatient.pair.server) == 1
        assert impatient.origin.wait(lambda: connections(impatient.pair.server) == 0)
    impatient.pair.configure(NONE)
