"""WebSocket over HTTP/2 (extended CONNECT), bridged to applications that speak HTTP/1.1, both ways round the pair.

In:     an `h2` client that says `:protocol`; `Origin`, which answers 101 to an Upgrade and echoes in capitals what follows.
Source: RFC 8441; attack case H2-34; decision 0112.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.e2e.test_http2 import MIB, old
from tests.e2e.test_swap import deny
from tests.support import wire
from tests.support.http2 import Client, Stream
from tests.support.mesh import Mesh, position
from tests.support.origin import Origin, pattern
from tests.support.pair import HTTP_PORT, TCP_PORT, pair

ENABLE_CONNECT_PROTOCOL = 8


def connect(client: Client, path: str = "/upgrade", protocol: str = "websocket", *fields: tuple[str, str]) -> Stream:
    """Ask for a WebSocket."""
    version = ("sec-websocket-version", "13")
    return client.begin(path, (":protocol", protocol), version, *fields, method="CONNECT", end=False)


def opened(client: Client, path: str = "/upgrade") -> Stream:
    stream = connect(client, path)
    assert client.wait(lambda: bool(stream.heads) or stream.over) and stream.status == 200, stream
    return stream


def says(client: Client, stream: Stream, data: bytes, *, end: bool = False) -> None:
    """What is sent comes back in capitals, behind what came before."""
    had = stream.data
    client.send(stream, data, end=end)
    assert client.wait(lambda: len(stream.data) >= len(had) + len(data)), (len(had), len(stream.data))
    assert stream.data == had + data.upper() + (b"BYE" if end and stream.data.endswith(b"BYE") else b"")


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_h2_34_a_websocket_is_bridged(mesh: Mesh, direction: str) -> None:
    at = position(mesh.pair.server)
    with old(mesh, direction) as client:
        first, second = opened(client), opened(client)
        assert client.connection.remote_settings.get(ENABLE_CONNECT_PROTOCOL) == 1
        assert not {b"upgrade", b"connection", b"sec-websocket-accept"} & {name for name, _ in first.heads[-1]}
        for number in range(10):
            says(client, first, b"first %d" % number)
            says(client, second, b"second %d" % number)
        assert client.ask("/between").status == 200
        client.cancel(second)
        says(client, first, b"still")
        says(client, first, b"last", end=True)
        assert client.wait(lambda: first.over) and first.ended
        assert first.data.endswith(b"LASTBYE"), "what the application says to a half-close still comes"
        assert client.ask("/after").status == 200
    asked = next(request for request in reversed(mesh.origin.requests) if request.target == b"/upgrade")
    assert (asked.method, asked.values(b"upgrade"), asked.values(b"host")) == (b"GET", [b"websocket"], [b"server"])
    (key,) = asked.values(b"sec-websocket-key")
    assert len(key) == 24 and key.endswith(b"==")
    assert asked.values(b"transfer-encoding") == asked.values(b"content-length") == []
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/upgrade")
    assert line["method"] == "GET", "policy and log see what it stands for"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_more_than_every_window_both_ways(mesh: Mesh, direction: str) -> None:
    body = pattern(2 * MIB)
    with old(mesh, direction) as client:
        stream = opened(client)
        says(client, stream, body)
        says(client, stream, b"end", end=True)
        assert client.wait(lambda: stream.over) and stream.ended


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_a_cancelled_websocket_is_cut_upstream(mesh: Mesh, direction: str) -> None:
    with old(mesh, direction) as client:
        stream = opened(client)
        says(client, stream, b"a")
        before = sum(bool(each.ended) for each in mesh.origin.connections)
        client.cancel(stream)
        assert mesh.origin.wait(lambda: sum(bool(each.ended) for each in mesh.origin.connections) > before)
        assert client.ask("/after").status == 200


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_an_application_that_does_not_switch_is_heard(mesh: Mesh, direction: str) -> None:
    mesh.origin.canned[b"no-switch"] = [b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno"]
    with old(mesh, direction) as client:
        stream = connect(client, "/canned/no-switch")
        assert client.wait(lambda: stream.over) and (stream.status, stream.data) == (426, b"no")
        assert client.ask("/after").status == 200


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_dg_14_a_websocket_that_the_application_resets_is_reset(mesh: Mesh, direction: str) -> None:
    mesh.origin.canned[b"ws"] = [SWITCH, b"hello"]
    with old(mesh, direction) as client:
        stream = opened(client, "/reset/ws")
        assert client.wait(lambda: stream.over)
        assert (stream.ended, stream.reset is not None) == (False, True), "what was cut must not look whole"
        assert b"hello".startswith(stream.data)
        assert client.ask("/after").status == 200


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_an_application_may_end_a_websocket_first(mesh: Mesh, direction: str) -> None:
    mesh.origin.canned[b"close-ws"] = [SWITCH, b"first", b"last"]
    with old(mesh, direction) as client:
        stream = opened(client, "/canned/close-ws")
        assert client.wait(lambda: stream.ended), stream
        assert (stream.data, stream.reset) == (b"firstlast", None)
        client.send(stream, b"", end=True)
        assert client.ask("/after").status == 200


def test_pr_01_a_drain_lets_a_websocket_end() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        mesh = Mesh(made, Origin(made.server, [HTTP_PORT]), TCP_PORT)
        with old(mesh, "inbound") as client:
            stream = opened(client)
            says(client, stream, b"before")
            assert made.server.process is not None
            made.server.process.send_signal(signal.SIGTERM)
            assert client.wait(lambda: bool(client.goaways)) and client.goaways[0] == 0
            says(client, stream, b"meanwhile")
            says(client, stream, b"last", end=True)
            assert client.wait(lambda: stream.over) and stream.ended and stream.data.endswith(b"LASTBYE")
            client.wait(lambda: False, 5)
            assert client.closed
        assert made.server.process.wait(10) == 0
        mesh.stop()


def test_nothing_is_sent_before_the_switch(mesh: Mesh) -> None:
    """What comes behind the head would be a request of its own to an application that does not switch."""
    mesh.origin.canned[b"no-switch"] = [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"]
    with old(mesh, "inbound") as client:
        stream = connect(client, "/canned/no-switch")
        client.send(stream, b"GET /smuggled-in-data HTTP/1.1\r\nHost: server\r\n\r\n")
        assert client.wait(lambda: stream.over) and stream.status == 400
        assert client.ask("/after").status == 200
    assert not any(b"smuggled-in-data" in bytes(each.received) for each in mesh.origin.connections)


def test_other_protocols_are_refused(mesh: Mesh) -> None:
    before = mesh.origin.received()
    with old(mesh, "inbound") as client:
        stream = connect(client, "/upgrade", "connect-udp")
        assert client.wait(lambda: stream.over) and stream.status == 501
        assert mesh.origin.received() == before
        assert client.ask("/after").status == 200


def test_policy_sees_the_get_it_stands_for(mesh: Mesh) -> None:
    """Denied by its path; and a swap that takes the permit away ends what is under way, and that alone."""
    with old(mesh, "inbound") as client:
        stream, other = opened(client, "/upgrade"), opened(client, "/upgrade?other")
        says(client, stream, b"a")
        mesh.pair.configure(deny("/upgrade"))
        try:
            assert client.wait(lambda: stream.over and other.over) and not stream.ended
            denied = connect(client)
            assert client.wait(lambda: denied.over) and denied.status == 403
            assert client.ask("/after").status == 200
        finally:
            mesh.pair.configure("# none\n")


def test_a_silent_websocket_ends_at_the_idle_bound() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    limits = {"idle_ms": 2_000}
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder), limits=limits) as made:
        mesh = Mesh(made, Origin(made.server, [HTTP_PORT]), TCP_PORT)
        with old(mesh, "inbound") as client:
            stream = opened(client)
            for _ in range(8):
                says(client, stream, b"alive")
                client.wait(lambda: stream.over, 0.5)
            assert not stream.over, "it is silence that ends it"
            assert client.wait(lambda: stream.over) and not stream.ended
        mesh.stop()
