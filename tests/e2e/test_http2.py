"""HTTP/2 on both sides of two real sidecars, by an implementation that is not ours, beside the strict HTTP/1.1 application.

In:     an `h2` client in the client namespace; `Origin` (HTTP/1.1) and `Application` (HTTP/2) in the server's.
Source: RFC 9113; attack cases DG-11 to DG-14, LC-04, LC-06, LC-10, PR-01, RT-09, RT-12, HD-14; istio-semantics D.6, G.2.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_swap import deny
from tests.support import wire
from tests.support.http2 import Application, Client
from tests.support.mesh import Mesh, position
from tests.support.origin import Origin, pattern
from tests.support.pair import HTTP_PORT, PATIENCE_S, SERVER_IP, TCP_PORT, pair, service

GRPC_PORT, ANY_PORT = 9095, 9096
SERVICE = "10.96.0.5"
CALLS = service("calls", SERVICE, grpc=GRPC_PORT, any=ANY_PORT)
MIB = 1 << 20


@pytest.fixture(scope="module")
def application(mesh: Mesh) -> Iterator[Application]:
    made = Application(mesh.pair.server, [GRPC_PORT, ANY_PORT])
    mesh.pair.configure(CALLS)
    yield made
    made.stop()


def old(mesh: Mesh, direction: str = "outbound") -> Client:
    """A client of the application that speaks HTTP/1.1."""
    return Client(wire.connect(mesh.pair, direction))


def new(mesh: Mesh, direction: str = "outbound", port: int = GRPC_PORT) -> Client:
    """A client of the application that speaks HTTP/2."""
    if direction == "outbound":
        return Client(mesh.pair.client.connect((SERVICE, port)), "calls")
    return Client(wire.connect_uncaptured(mesh.pair.client, (SERVER_IP, port)), "calls")


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_many_requests_on_one_connection(mesh: Mesh, direction: str) -> None:
    at = position(mesh.pair.server)
    with old(mesh, direction) as client:
        for _ in range(3):
            nonces = [wire.nonce().decode() for _ in range(50)]
            streams = [client.begin("/many", ("x-nonce", nonce)) for nonce in nonces]
            assert client.wait(lambda: all(stream.over for stream in streams))  # noqa: B023 - used at once
            assert [stream.data.decode() for stream in streams] == [f"nonce:{nonce}" for nonce in nonces]
    found = [request for request in mesh.origin.requests if request.target == b"/many"]
    assert len(found) == 150 * (1 if direction == "outbound" else 2)
    assert found[-1].values(b"host") == [b"server"] and not found[-1].values(b"transfer-encoding")
    mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/many" and line["protocol"] == "HTTP/2")
    assert not mesh.origin.faults


@pytest.mark.parametrize("size", [1, 1_000, 65_536, 3 * MIB])
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_bodies_both_ways(mesh: Mesh, direction: str, size: int) -> None:
    body = pattern(size)
    with old(mesh, direction) as client:
        stream = client.ask("/echo", method="POST", body=body)
        assert (stream.status, stream.data == body, stream.ended) == (200, True, True)
        declared = client.ask("/echo", ("content-length", str(size)), method="POST", body=body)
        assert (declared.status, declared.data == body) == (200, True)
    assert mesh.origin.requests[-1].values(b"content-length") == [b"%d" % size]
    assert mesh.origin.requests[-2].values(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize("kind", ["bytes", "chunks", "until-close"])
def test_responses(mesh: Mesh, kind: str) -> None:
    with old(mesh) as client:
        for size in (0, 1, 70_000, MIB):
            stream = client.ask(f"/{kind}/{size}")
            assert (stream.status, stream.data == pattern(size), stream.ended) == (200, True, True)
        assert client.ask("/bytes/100", method="HEAD").data == b""


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_dg_11_and_fields(mesh: Mesh, direction: str) -> None:
    with old(mesh, direction) as client:
        stream = client.ask("/fields?a=1", ("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("te", "trailers"))
        assert stream.status == 200
    found = mesh.origin.requests[-1]
    assert found.values(b"cookie") == [b"a=1; b=2"]
    assert (found.target, found.values(b"x-a"), found.values(b"te")) == (b"/fields?a=1", [b"1"], [])
    assert bool(found.values(b"x-forwarded-client-cert")) == (direction == "outbound")


def test_interim_responses_and_expect(mesh: Mesh) -> None:
    with old(mesh) as client:
        stream = client.begin("/continue", ("expect", "100-continue"), method="POST", end=False)
        assert client.wait(lambda: bool(stream.heads))
        assert dict(stream.heads[0])[b":status"] == b"100"
        client.send(stream, b"hello", end=True)
        assert client.wait(lambda: stream.over) and (stream.status, stream.data) == (200, b"hello")


def test_trailers_of_an_http1_application(mesh: Mesh) -> None:
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    mesh.origin.canned[b"trailers"] = [chunks]
    for direction in wire.DIRECTIONS:
        with old(mesh, direction) as client:
            stream = client.ask("/canned/trailers")
            assert (stream.data, stream.trailers, stream.ended) == (b"hello", [(b"x-sum", b"7")], True)


@pytest.mark.parametrize("port", [GRPC_PORT, ANY_PORT])
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_10_streaming_both_ways(mesh: Mesh, application: Application, direction: str, port: int) -> None:
    with new(mesh, direction, port) as client:
        call = client.call("/echo/both")
        for number in range(20):
            client.send(call, b"%d," % number)
            expected = b"".join(b"%d," % told for told in range(number + 1))
            assert client.wait(lambda: call.data == expected), (call, number)  # noqa: B023 - used at once
        client.end_with(call, ("x-end", "mine"))
        assert client.wait(lambda: call.over)
        assert call.trailers == [(b"grpc-status", b"0"), (b"told-x-end", b"mine")]
    assert application.called(b"/echo/both").value(b"te") == b"trailers"


def test_large_bodies_of_http2_applications(mesh: Mesh, application: Application) -> None:
    body = pattern(3 * MIB)
    with new(mesh) as client:
        stream = client.ask("/echo/large", method="POST", body=body)
        assert (stream.data == body, stream.ended) == (True, True)


def test_http1_clients_of_http2_applications(mesh: Mesh, application: Application) -> None:
    with mesh.pair.client.connect((SERVICE, GRPC_PORT)) as connection:
        for _ in range(3):
            nonce = wire.nonce()
            connection.sendall(b"GET /old HTTP/1.1\r\nHost: calls\r\nX-Nonce: %b\r\n\r\n" % nonce)
            assert wire.listen(connection, 1).answers[0].body == b"nonce:" + nonce
        body = pattern(200_000)
        connection.sendall(b"POST /echo/old HTTP/1.1\r\nHost: calls\r\nContent-Length: 200000\r\n\r\n" + body)
        heard = wire.listen(connection, 1)
        assert (heard.statuses, heard.answers[0].body == body) == ([200], True)
    with mesh.pair.client.connect((SERVICE, GRPC_PORT)) as connection:
        connection.sendall(
            b"POST /echo/old HTTP/1.1\r\nHost: calls\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        )
        assert wire.listen(connection, 1).answers[0].body == b"ab"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_rt_12_a_cancelled_call_is_cancelled_upstream(mesh: Mesh, application: Application, direction: str) -> None:
    with new(mesh, direction) as client:
        other = client.call("/echo/other")
        call = client.call(f"/hang/{direction}")
        seen = application.called(f"/hang/{direction}".encode())
        client.cancel(call)
        assert mesh.origin.wait(lambda: seen.stream.reset is not None), "the application works for nobody"
        client.send(other, b"on", end=True)
        assert client.wait(lambda: other.over) and other.data == b"on", "one stream's end is not another's"


def test_dg_13_a_cancelled_body_is_never_completed(mesh: Mesh) -> None:
    faults = len(mesh.origin.faults)
    with old(mesh, "inbound") as client:
        call = client.begin("/echo", method="POST", end=False)
        client.send(call, b"part of it")
        there = lambda: any(bytes(each.received).endswith(b"part of it\r\n") for each in mesh.origin.connections)  # noqa: E731
        assert mesh.origin.wait(there)
        client.cancel(call)
        assert mesh.origin.wait(lambda: len(mesh.origin.faults) > faults)
        assert mesh.origin.faults[faults:] == ["cut in chunk size"]
        assert client.ask("/after").status == 200
    del mesh.origin.faults[faults:]


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_dg_14_a_cut_answer_is_reset(mesh: Mesh, direction: str, framing: bytes) -> None:
    mesh.origin.canned[b"close-cut"] = [b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", b"5\r\nhello\r\n"]
    with old(mesh, direction) as client:
        stream = client.ask("/canned/close-cut")
        assert (stream.status, stream.ended, stream.reset is not None) == (200, False, True)
        assert client.ask("/after").status == 200


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_resets_of_the_application_are_passed_on(mesh: Mesh, application: Application, direction: str) -> None:
    with new(mesh, direction) as client:
        stream = client.ask("/reset/now")
        assert (stream.ended, stream.reset is not None) == (False, True)
        refused = client.call("/refuse", end=True)
        assert client.wait(lambda: refused.over)
        assert (refused.status, refused.trailer(b"grpc-status")) == (200, b"14")
        assert client.ask("/after").status == 200
    with mesh.pair.client.connect((SERVICE, GRPC_PORT)) as connection:
        connection.sendall(b"GET /reset/old HTTP/1.1\r\nHost: calls\r\n\r\n")
        heard = wire.listen(connection, None)
        assert heard.answers and not heard.answers[0].complete, "what was cut must not look whole"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_denials(mesh: Mesh, application: Application, direction: str) -> None:
    at = position(mesh.pair.server)
    mesh.pair.configure(CALLS + deny("/secret"))
    try:
        with old(mesh, direction) as client:
            denied = client.ask("/secret")
            assert (denied.status, denied.data) == (403, b"RBAC: access denied")
            assert client.ask("/secret", method="POST", body=pattern(300_000)).status == 403
            assert client.ask("/open").status == 200
        with new(mesh, direction) as client:
            call = client.call("/secret", end=True)
            assert client.wait(lambda: call.over)
            assert (call.status, call.trailer(b"grpc-status")) == (200, b"7")
            assert call.trailer(b"grpc-message") == b"RBAC: access denied"
    finally:
        mesh.pair.configure(CALLS)
    line = mesh.logged(mesh.pair.server, at, lambda line: line["path"] == "/secret" and line["response_code"] == 403)
    assert (line["response_code_details"], line["protocol"]) == ("rbac_denied", "HTTP/2")


def test_swaps_reset_the_streams_that_lost_their_permit(mesh: Mesh, application: Application) -> None:
    with new(mesh, "inbound") as client:
        one, other = client.call("/echo/one"), client.call("/echo/other")
        for call in (one, other):
            client.send(call, b"a")
            assert client.wait(lambda: call.data == b"a")  # noqa: B023 - used at once
        mesh.pair.configure(CALLS + deny("/echo/one"))
        try:
            assert client.wait(lambda: one.over) and not one.ended
            client.send(other, b"b", end=True)
            assert client.wait(lambda: other.ended) and other.data == b"ab"
        finally:
            mesh.pair.configure(CALLS)


@pytest.mark.parametrize(
    ("value", "status"), [("50m", b"4"), ("0n", b"4"), ("99999999H", b"0"), ("-1S", b"13"), ("1X", b"13")]
)
def test_hd_14_deadlines_of_calls(mesh: Mesh, application: Application, value: str, status: bytes) -> None:
    path = "/hang/late" if status == b"4" else "/echo/in-time"
    with new(mesh, "inbound") as client:
        call = client.call(path, ("grpc-timeout", value), end=True)
        assert client.wait(lambda: call.over)
        assert (call.status, call.trailer(b"grpc-status")) == (200, status)


def test_calls_are_counted_as_calls(mesh: Mesh, application: Application) -> None:
    with new(mesh, "inbound") as client:
        call = client.call("/fail/counted", end=True)
        assert client.wait(lambda: call.over) and call.trailer(b"grpc-status") == b"5"
    page = mesh.pair.server.admin("/stats/prometheus", 15090)
    counted = [
        line
        for line in page.splitlines()
        if line.startswith("istio_requests_total") and 'grpc_response_status="5"' in line
    ]
    assert counted and all('request_protocol="grpc"' in line for line in counted), page


def test_connect_is_refused(mesh: Mesh) -> None:
    with old(mesh, "inbound") as client:
        stream = client.begin_connect("server:80")
        assert client.wait(lambda: stream.over) and stream.status == 400
        assert client.ask("/after").status == 200


def test_garbage_ends_the_connection_alone(mesh: Mesh) -> None:
    before = mesh.origin.received()
    with wire.connect(mesh.pair, "inbound") as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 3)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert received[-17:-8] == b"\0\0\x08\x07\0\0\0\0\0", "GOAWAY is the last word"
    assert mesh.origin.received() == before
    assert mesh.status(direction="inbound") == 200


def test_preface_in_pieces(mesh: Mesh) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    for at in (1, 2, 3, 16, 23, 24, 30):
        with wire.connect(mesh.pair, "inbound") as connection:
            wire.send_pieces(connection, [preface[:at], preface[at:]], pause_s=0.02)
            assert connection.recv(9)[3] == 4, "SETTINGS come first"


def test_pr_01_a_drain_loses_no_request() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        origin = Origin(made.server, [HTTP_PORT])
        mesh = Mesh(made, origin, TCP_PORT)
        with old(mesh, "inbound") as client, old(mesh, "inbound") as idle:
            assert idle.ask("/idle").status == 200
            slow = client.begin("/slow/800")
            assert origin.wait(lambda: any(request.target == b"/slow/800" for request in origin.requests))
            assert made.server.process is not None
            made.server.process.send_signal(signal.SIGTERM)
            assert client.wait(lambda: bool(client.goaways)) and client.goaways[0] == 0
            assert client.wait(lambda: slow.over) and slow.status == 200
            client.wait(lambda: False)
            idle.wait(lambda: False)
            assert client.closed and idle.closed and set(client.goaways + idle.goaways) == {0}
        assert made.server.process.wait(PATIENCE_S) == 0
        mesh.stop()


def test_lc_04_idle_connections_are_told_to_go() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    limits = {"idle_ms": 2_000, "head_ms": 2_000}
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder), limits=limits) as made:
        origin = Origin(made.server, [HTTP_PORT])
        mesh = Mesh(made, origin, TCP_PORT)
        with old(mesh, "inbound") as client:
            assert client.ask("/once").status == 200
            client.wait(lambda: False)
            assert client.closed and set(client.goaways) == {0}, "GOAWAY comes before the end"
        with old(mesh, "inbound") as client:
            stalled = client.begin("/echo", method="POST", end=False)
            assert client.wait(lambda: stalled.over) and stalled.status == 408
        with wire.connect(mesh.pair, "inbound") as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            while connection.recv(65536):
                pass  # who says nothing more is not waited for
        mesh.stop()
