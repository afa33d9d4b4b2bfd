"""gRPC's interop cases that need no credentials: two implementations as clients, the same two as servers, through two sidecars.

In:     Python's grpcio with the cases of `grpc_cases`; grpc-go's own interop client and server (`go/`).
Fails:  a case fails; a status, a trailer, a deadline or a cancellation does not get through.
Source: gRPC's interop test descriptions; attack case RT-16 without loss.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.interop import tools
from tests.interop.grpc_rig import CASES, COMPRESSED, SERVERS, go_case, go_cases, python_cases, serving
from tests.interop.rig import GRPC_RESET, WAYS, Rig


@pytest.fixture(scope="module")
def served(sidecars: Rig) -> Iterator[Rig]:
    with serving(sidecars):
        yield sidecars


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_rt_16_python_as_client(served: Rig, way: str, server: str) -> None:
    found = python_cases(served, way, SERVERS[server])
    assert set(found) == {*CASES, *COMPRESSED}
    assert {case: why for case, why in found.items() if why and (server == "python" or case in CASES)} == {}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_rt_16_go_as_client(served: Rig, way: str, server: str) -> None:
    assert go_cases(served, way, SERVERS[server]) == {}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("case", ["rpc_soak", "channel_soak"])
def test_soak(served: Rig, case: str, server: str) -> None:
    """Large calls from several threads at once, on one connection or on a fresh one each."""
    amount = ["--soak_iterations=100", "--soak_num_threads=4", "--soak_overall_timeout_seconds=30"]
    assert go_case(served, "outbound", SERVERS[server], case, *amount) == ""


@pytest.mark.parametrize(("timeout", "status"), [("1m", "4"), ("1H", "14")], ids=["late", "in-time"])
@pytest.mark.parametrize("way", ["outbound", "inbound"])
def test_a_call_that_its_server_resets(sidecars: Rig, way: str, timeout: str, status: str) -> None:
    """After its deadline that is DEADLINE_EXCEEDED, whose clock ever was the first; before, the server was not available."""
    listener = sidecars.pair.server.inside(lambda: socket.create_server(("0.0.0.0", GRPC_RESET)))
    threading.Thread(target=_reset_each, args=(listener,), daemon=True).start()
    _, address = sidecars.where(way)
    fields = ["content-type: application/grpc", "te: trailers", f"grpc-timeout: {timeout}"]
    words = [tools.debian("nghttp"), "--verbose", *(f"--header={field}" for field in fields)]
    with listener:
        done = sidecars.run(way, [*words, f"http://{address}:{GRPC_RESET}/grpc.testing.TestService/EmptyCall"])
        listener.shutdown(socket.SHUT_RDWR)
    assert re.findall(r"grpc-status: (\d+)", done.stdout) == [status], done.stdout + done.stderr


def _reset_each(listener: socket.socket) -> None:
    """An application that ends every stream with CANCEL, a little after it began."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as received:
            connection.sendall(_frame(4, 0, b""))  # SETTINGS
            received.read(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            while head := received.read(9):
                received.read(int.from_bytes(head[:3]))
                if head[3] == 1:  # HEADERS
                    time.sleep(0.002)
                    connection.sendall(_frame(3, int.from_bytes(head[5:9]), (8).to_bytes(4)))


def _frame(kind: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, 0]) + stream.to_bytes(4) + payload
