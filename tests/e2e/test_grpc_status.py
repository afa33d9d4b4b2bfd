"""How calls of gRPC end, through a pair of sidecars: exactly as their application ended them, and counted so.

In:     an `h2` client in the client namespace, `Application` in the server's, whose `/hang` lets the test say each frame itself.
Source: gRPC over HTTP/2 ("Responses"); attack cases RT-10, LC-10, PR-01.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.test_http2 import CALLS, GRPC_PORT, new
from tests.support import wire
from tests.support.http2 import Application, Call, Fields
from tests.support.mesh import Mesh, get
from tests.support.origin import Origin
from tests.support.pair import HTTP_PORT, TCP_PORT, Side, pair

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
# One message of gRPC: not compressed, five bytes.
MESSAGE = b"\0\0\0\0\5hello"


@dataclass
class Ending:
    """What an application sends: a head, a message or none, trailers or none; and how that is counted."""

    head: Fields
    data: bytes
    trailers: Fields | None
    counted: str


ENDINGS = {
    "trailers-only-success": Ending([*HEAD, (b"grpc-status", b"0")], b"", None, "0"),
    "trailers-only-failure": Ending([*HEAD, (b"grpc-status", b"5"), (b"grpc-message", b"no%20such")], b"", None, "5"),
    "success": Ending(HEAD, MESSAGE, [(b"grpc-status", b"0")], "0"),
    "failure-behind-a-message": Ending(HEAD, MESSAGE, [(b"grpc-status", b"10"), (b"grpc-message", b"late")], "10"),
    "no-message": Ending(HEAD, b"", [(b"grpc-status", b"9")], "9"),
    "status-in-both": Ending([*HEAD, (b"grpc-status", b"0")], MESSAGE, [(b"grpc-status", b"13")], "13"),
    "status-missing": Ending(HEAD, MESSAGE, None, "2"),
    "status-missing-in-trailers": Ending(HEAD, MESSAGE, [(b"x-sum", b"7")], "2"),
    "http-status": Ending([(b":status", b"503"), (b"content-type", b"text/plain")], b"no", None, "14"),
}


@pytest.fixture(scope="module")
def application(mesh: Mesh) -> Iterator[Application]:
    made = Application(mesh.pair.server, [GRPC_PORT])
    mesh.pair.configure(CALLS)
    yield made
    made.stop()


def end(call: Call, ending: Ending) -> None:
    """Let the application say so."""
    served, stream = call.served, call.stream.id
    with served.lock:
        served.connection.send_headers(stream, ending.head, end_stream=not ending.data and ending.trailers is None)
        if ending.data:
            served.connection.send_data(stream, ending.data, end_stream=ending.trailers is None)
        if ending.trailers is not None:
            served.connection.send_headers(stream, ending.trailers, end_stream=True)
        served.socket.sendall(served.connection.data_to_send())


def counted(mesh: Mesh, status: str) -> int:
    """Calls that the server's sidecar has counted with this status."""
    rows = mesh.pair.server.admin("/stats/prometheus", 15090).splitlines()
    wanted = ("istio_requests_total{", 'request_protocol="grpc"', f'grpc_response_status="{status}"')
    return sum(int(row.rpartition(" ")[2]) for row in rows if all(word in row for word in wanted))


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_rt_10_calls_end_as_their_application_ended_them(
    mesh: Mesh, application: Application, direction: str, name: str
) -> None:
    """Nothing is made up for a status that is missing: its client takes that for UNKNOWN, and so do the metrics."""
    ending, path = ENDINGS[name], f"/hang/{direction}/{name}"
    before = counted(mesh, ending.counted)
    with new(mesh, direction) as client:
        call = client.call(path, end=True)
        end(application.called(path.encode()), ending)
        assert client.wait(lambda: call.over) and call.ended
        head = [field for field in call.heads[-1] if field in ending.head]
        assert head == ending.head
        for fields, sent in ((call.heads[-1], ending.head), (call.trailers, ending.trailers or [])):
            grpc = [field for field in fields if field[0].startswith(b"grpc-")]
            assert grpc == [field for field in sent if field[0].startswith(b"grpc-")]
        assert call.data == ending.data
        assert call.trailers == (ending.trailers or [])
    assert mesh.origin.wait(lambda: counted(mesh, ending.counted) == before + 1), ending.counted


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_rt_10_an_answer_may_end_before_its_request(mesh: Mesh, application: Application, direction: str) -> None:
    """LC-10: trailers come while the client still streams; what it says then harms nobody."""
    path = f"/hang/{direction}/early"
    with new(mesh, direction) as client:
        call, other = client.call(path), client.call("/echo/other")
        client.send(call, MESSAGE)
        end(application.called(path.encode()), ENDINGS["trailers-only-failure"])
        assert client.wait(lambda: bool(call.heads)) and call.trailer(b"grpc-status") == b"5"
        client.send(other, b"on", end=True)
        assert client.wait(lambda: other.over) and other.data == b"on"


def test_calls_over_http1_are_counted_as_calls(mesh: Mesh, application: Application) -> None:
    """As Istio: the content type says it, whichever version carries it."""
    mesh.origin.canned[b"called"] = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 11\r\nContent-Length: 0\r\n\r\n"
    ]
    before = counted(mesh, "11"), counted(mesh, "2")
    for path in ("/canned/called", "/ordinary"):
        with wire.connect(mesh.pair, "inbound") as connection:
            connection.sendall(get(path, "Content-Type: application/grpc", "Content-Length: 0", method="POST"))
            assert wire.listen(connection, 1).statuses == [200]
    wanted = tuple(number + 1 for number in before)
    assert mesh.origin.wait(lambda: (counted(mesh, "11"), counted(mesh, "2")) == wanted)


def readiness(side: Side) -> int:
    with side.connect(("127.0.0.1", 15021)) as connection:
        connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return int(connection.recv(64).split(b" ")[1])


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_pr_01_a_drain_lets_calls_end(direction: str) -> None:
    """Not ready first, then GOAWAY; a stream of messages and a call that is awaited end as they would have; then exit 0."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="mdpt-") as folder, pair(Path(folder)) as made:
        mesh = Mesh(made, Origin(made.server, [HTTP_PORT]), TCP_PORT)
        application = Application(made.server, [GRPC_PORT])
        made.configure(CALLS)
        with new(mesh, direction) as client:
            stream, awaited = client.call("/echo/stream"), client.call("/hang/awaited", end=True)
            client.send(stream, MESSAGE)
            assert client.wait(lambda: stream.data == MESSAGE)
            waiting = application.called(b"/hang/awaited")
            assert made.server.process is not None
            made.server.process.send_signal(signal.SIGTERM)
            assert mesh.origin.wait(lambda: readiness(made.server) == 503)
            if direction == "inbound":  # the client's own sidecar keeps its connection to the client
                assert client.wait(lambda: bool(client.goaways)) and set(client.goaways) == {0}
            for count in range(2, 6):
                client.send(stream, MESSAGE)
                assert client.wait(lambda: stream.data == MESSAGE * count)  # noqa: B023 - used at once
            end(waiting, ENDINGS["failure-behind-a-message"])
            assert client.wait(lambda: awaited.over)
            assert (awaited.data, awaited.trailer(b"grpc-status")) == (MESSAGE, b"10")
            client.send(stream, b"", end=True)
            assert client.wait(lambda: stream.over) and stream.trailer(b"grpc-status") == b"0"
            assert made.server.process.wait(10) == 0, "it ends with its last stream"
        application.stop()
        mesh.stop()
