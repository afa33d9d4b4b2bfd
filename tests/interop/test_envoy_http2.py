"""HTTP/2 and gRPC with Envoy as an Istio sidecar on one side of the pair, and on both, which is the test of the test.

In:     `beside_envoy`; nghttpd and both interop servers of gRPC behind it.
Fails:  a stream, a trailer, a status or a version does not get through.
Source: istio-semantics B.2, B.3; gRPC's interop test descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop import nghttp2_rig as opponent
from tests.interop import tools
from tests.interop.envoy import Beside
from tests.interop.grpc_rig import CASES, COMPRESSED, SERVERS, go_cases, python_cases
from tests.interop.grpc_rig import serving as serving_grpc
from tests.interop.rig import AUTO, HTTP, HTTP2
from tests.support import wire
from tests.support.mesh import get

pytestmark = pytest.mark.parametrize("beside_envoy", ["both", "client", "server"], indirect=True)


@pytest.fixture
def served(beside_envoy: Beside) -> Iterator[Beside]:
    with opponent.serving(beside_envoy.rig):
        yield beside_envoy


@pytest.fixture
def served_grpc(beside_envoy: Beside) -> Iterator[Beside]:
    with serving_grpc(beside_envoy.rig):
        yield beside_envoy


def test_pages_uploads_and_trailers(served: Beside) -> None:
    for name, size in opponent.SIZES.items():
        assert opponent.fetch(served.rig, "outbound", f"/{name}") == opponent.digest(size)
    heard, received = opponent.upload(served.rig, "outbound", 500_000)
    assert ":status: 200" in heard and opponent.TRAILER in heard, heard
    assert received == 500_000


def test_load_in_many_streams(served: Beside) -> None:
    opponent.load(served.rig, "outbound", "/page")


def test_http1_before_an_http2_application(served: Beside) -> None:
    with wire.connect(served.pair, "outbound", HTTP2) as connection:
        for _ in range(3):
            connection.sendall(get("/page"))
            heard = wire.listen(connection, 1)
            assert (heard.statuses, len(heard.answers[0].body)) == ([200], opponent.SIZES["page"])


def test_http2_before_an_http1_application(served: Beside) -> None:
    opponent.load(served.rig, "outbound", "/bytes/3000", HTTP, requests=500)


def test_an_auto_port_speaks_what_the_client_speaks(served: Beside) -> None:
    """There the application speaks HTTP/1.1 alone: it sees the preface, and ends the connection."""
    _, address = served.rig.where("outbound")
    before = len(served.origin.connections)
    served.rig.run("outbound", [tools.debian("nghttp"), "--timeout=5", f"http://{address}:{AUTO}/"])
    seen = [bytes(connection.received) for connection in served.origin.connections[before:]]
    assert seen and all(each.startswith(b"PRI * HTTP/2.0\r\n") for each in seen), seen


# Envoy answers UNAVAILABLE when a server resets a call before its head, as grpc-go's may be the first to do at the deadline.
RACED = {"go": {"timeout_on_sleeping_server"}, "python": set[str]()}


@pytest.mark.parametrize("server", SERVERS)
def test_grpc_python_as_client(served_grpc: Beside, server: str) -> None:
    found = python_cases(served_grpc.rig, "outbound", SERVERS[server])
    judged = {*CASES, *(COMPRESSED if server == "python" else [])} - RACED[server]
    assert {case: why for case, why in found.items() if case in judged and why} == {}
    assert judged <= set(found)


@pytest.mark.parametrize("server", SERVERS)
def test_grpc_go_as_client(served_grpc: Beside, server: str) -> None:
    judged = [case for case in CASES if case not in RACED[server]]
    assert go_cases(served_grpc.rig, "outbound", SERVERS[server], judged) == {}
