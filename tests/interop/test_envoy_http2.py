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
from tests.interop.rig import AUTO, HTTP, HTTP2, SERVICE
from tests.support import wire
from tests.support.mesh import get

wherever_envoy_is = pytest.mark.parametrize("beside_envoy", ["both", "client", "server"], indirect=True)


@pytest.fixture
def served(beside_envoy: Beside) -> Iterator[Beside]:
    with opponent.serving(beside_envoy.rig):
        yield beside_envoy


@pytest.fixture
def served_grpc(beside_envoy: Beside) -> Iterator[Beside]:
    with serving_grpc(beside_envoy.rig):
        yield beside_envoy


@pytest.mark.parametrize("beside_envoy", ["client", "server"], indirect=True)
def test_the_version_on_the_wire(served: Beside) -> None:
    """A foreign sidecar is spoken to in what the port was declared, not in HTTP/2 whenever that is cheaper."""
    for port, version in ((HTTP, 1), (HTTP2, 2)):
        before = [_connections(served, port, each) for each in (1, 2)]
        opponent.load(served.rig, "outbound", "/page" if port == HTTP2 else "/bytes/10", port, requests=20)
        fresh = [_connections(served, port, each) - old for each, old in zip((1, 2), before, strict=True)]
        assert fresh[2 - version] == 0, (port, fresh)
        assert _connections(served, port, version) > 0, port


@pytest.mark.parametrize("beside_envoy", ["server"], indirect=True)
def test_h2_upgrade_policy(served: Beside) -> None:
    """Where the mesh says so, HTTP/1.1 of many connections shares HTTP/2 towards Envoy; the application speaks HTTP/1.1."""
    pair = served.pair
    usual = (pair.configuration / "base.yaml").read_text()
    before = _connections(served, HTTP, 2)
    pair.replace(
        "base.yaml",
        usual.replace("spec: {accessLogFile", "spec: {h2UpgradePolicy: UPGRADE, accessLogFile"),
        pair.client,
    )
    try:
        assert served.ask(*(get("/", "X-Mine: 1") for _ in range(20)), count=20).statuses == [200] * 20
        opponent.load(served.rig, "outbound", "/bytes/10", HTTP, requests=200)
    finally:
        pair.replace("base.yaml", usual, pair.client)
    assert _connections(served, HTTP, 2) > before
    assert served.origin.requests[-201].value(b"x-mine") == b"1"


def _connections(mesh: Beside, port: int, version: int) -> int:
    """How many of this version Envoy has seen on the side of the other sidecar."""
    if mesh.at == "client":
        return mesh.counter(f"cluster.outbound|{port}||{SERVICE}.upstream_cx_http{version}_total")
    return mesh.counter(f"http.inbound|{port}||.downstream_cx_http{version}_total")


@wherever_envoy_is
def test_pages_uploads_and_trailers(served: Beside) -> None:
    for name, size in opponent.SIZES.items():
        assert opponent.fetch(served.rig, "outbound", f"/{name}") == opponent.digest(size)
    heard, received = opponent.upload(served.rig, "outbound", 500_000)
    assert ":status: 200" in heard and opponent.TRAILER in heard, heard
    assert received == 500_000


@wherever_envoy_is
def test_load_in_many_streams(served: Beside) -> None:
    opponent.load(served.rig, "outbound", "/page")


@wherever_envoy_is
def test_http1_before_an_http2_application(served: Beside) -> None:
    with wire.connect(served.pair, "outbound", HTTP2) as connection:
        for _ in range(3):
            connection.sendall(get("/page"))
            heard = wire.listen(connection, 1)
            assert (heard.statuses, len(heard.answers[0].body)) == ([200], opponent.SIZES["page"])


@wherever_envoy_is
def test_http2_before_an_http1_application(served: Beside) -> None:
    opponent.load(served.rig, "outbound", "/bytes/3000", HTTP, requests=500)


@wherever_envoy_is
def test_an_auto_port_speaks_what_the_client_speaks(served: Beside) -> None:
    """There the application speaks HTTP/1.1 alone: it sees the preface, and ends the connection."""
    _, address = served.rig.where("outbound")
    before = len(served.origin.connections)
    served.rig.run("outbound", [tools.debian("nghttp"), "--timeout=5", f"http://{address}:{AUTO}/"])
    seen = [bytes(connection.received) for connection in served.origin.connections[before:]]
    assert seen and all(each.startswith(b"PRI * HTTP/2.0\r\n") for each in seen), seen


# Envoy answers UNAVAILABLE when a server resets a call before its head, as grpc-go's may be the first to do at the deadline.
RACED = {"go": {"timeout_on_sleeping_server"}, "python": set[str]()}


@wherever_envoy_is
@pytest.mark.parametrize("server", SERVERS)
def test_grpc_python_as_client(served_grpc: Beside, server: str) -> None:
    found = python_cases(served_grpc.rig, "outbound", SERVERS[server])
    judged = {*CASES, *(COMPRESSED if server == "python" else [])} - RACED[server]
    assert {case: why for case, why in found.items() if case in judged and why} == {}
    assert judged <= set(found)


@wherever_envoy_is
@pytest.mark.parametrize("server", SERVERS)
def test_grpc_go_as_client(served_grpc: Beside, server: str) -> None:
    judged = [case for case in CASES if case not in RACED[server]]
    assert go_cases(served_grpc.rig, "outbound", SERVERS[server], judged) == {}
