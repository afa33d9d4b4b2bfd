"""What the kernel refuses: accept, connect, read and write fail as they do in the worst hour. LC-13 to LC-15.

In:     `patient`, and strace, which makes system calls of a running sidecar fail.
Limits: EAGAIN that is not true, and short writes into a socket that has room, are no faults a kernel can show: edge-triggered
        readiness would be lost by them. Real ones are in test_lifecycle_tcp.py (tiny buffers, 88-byte segments).
Source: attack cases 2.11.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.test_h1_random import descriptors
from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import AUTO_PORT, PATIENCE_S, SERVER_IP, TCP_PORT, Side


@contextlib.contextmanager
def injected(side: Side, *faults: str) -> Iterator[None]:
    """System calls of a sidecar fail as told, in strace's words."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: scripts/debian-packages installs it")
    assert side.process is not None
    words = [word for fault in faults for word in ("-e", f"inject={fault}")]
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(side.process.pid), "-e", f"trace={calls}", *words]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        tasks = f"/proc/{side.process.pid}/task"
        until = time.monotonic() + PATIENCE_S
        while not all("TracerPid:\t0" not in status.read_text() for status in Path(tasks).glob("*/status")):
            if tracer.poll() is not None:
                pytest.skip("strace may not attach to another process here")
            assert time.monotonic() < until
            time.sleep(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def cpu_s(side: Side) -> float:
    """What the sidecar has used of the processors."""
    assert side.process is not None
    tasks = Path(f"/proc/{side.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOBUFS", "ECONNABORTED", "EPERM"])
def test_lc_13_accept_fails(patient: Mesh, error: str) -> None:
    server = patient.pair.server
    with injected(server, f"accept4:error={error}:when=1..4"):
        used = cpu_s(server)
        with wire.connect(patient.pair, "inbound") as connection:
            wire.send_pieces(connection, [get()])
            assert wire.listen(connection, 1).statuses == [200], "the loop went on"
        assert cpu_s(server) - used < 1, "and did not spin"
    assert patient.status() == 200


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("EADDRNOTAVAIL", "upstream_connect_failed"),
        ("ECONNREFUSED", "upstream_connect_failed"),
        ("ETIMEDOUT", "upstream_connect_failed"),
        ("ENETUNREACH", "upstream_connect_failed"),
        ("EACCES", "upstream_connect_failed"),
    ],
)
def test_lc_14_connect_fails(patient: Mesh, error: str, reason: str) -> None:
    server = patient.pair.server
    patient.origin.drop_connections()
    at = server.log.stat().st_size
    with injected(server, f"connect:error={error}"):
        used = cpu_s(server)
        heard = patient.ask(get(), direction="inbound")
        assert heard.statuses == [503], heard
        assert patient.logged(server, at, lambda line: line["response_code"] == 503)["response_code_details"] == reason
        with wire.connect(patient.pair, "inbound", TCP_PORT) as connection:
            wire.send_pieces(connection, [b"Ex"])
            assert wire.listen(connection, None).raw == b""
        assert cpu_s(server) - used < 1, "no spin"
    assert patient.status() == 200, "healthy as soon as connects succeed"


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_14_nobody_listens(patient: Mesh, direction: str) -> None:
    """A real ECONNREFUSED."""
    with (
        wire.connect(patient.pair, direction, AUTO_PORT + 1)
        if direction == "inbound"
        else (patient.pair.client.connect((SERVER_IP, AUTO_PORT + 1))) as connection
    ):
        wire.send_pieces(connection, [get()])
        assert wire.listen(connection, 1).statuses == [503]


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_15_interrupted_calls(patient: Mesh, direction: str) -> None:
    """EINTR now and then, on plaintext, TLS and pipes: nothing is lost, nothing twice."""
    data = bytes(range(256)) * 2_000
    faults = [f"{call}:error=EINTR:when=2+7" for call in ("recvfrom", "sendto", "splice")]
    with injected(patient.pair.server, *faults):
        with wire.connect(patient.pair, direction, TCP_PORT) as connection:
            connection.settimeout(20)
            connection.sendall(b"S" + data)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(16) == b"%d" % len(data)
        for _ in range(5):
            assert patient.status("/bytes/100000", direction) == 200


def echo_until_cut(connection: socket.socket) -> None:
    """Each word is a write of its own: the next is said when the last has come back, or has had its time."""
    until = time.monotonic() + PATIENCE_S
    connection.settimeout(0.1)
    while time.monotonic() < until:
        connection.sendall(b"word")
        with contextlib.suppress(TimeoutError):
            if not connection.recv(100):
                return
    raise AssertionError("it is never cut")


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_15_a_write_of_nothing_ends_the_connection(patient: Mesh, direction: str) -> None:
    server = patient.pair.server
    before = descriptors(server.process.pid) if server.process else 0
    with injected(server, "sendto:retval=0:when=3+"):
        used = cpu_s(server)
        with wire.connect(patient.pair, direction, TCP_PORT) as connection:
            connection.sendall(b"E")
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                echo_until_cut(connection)
        assert cpu_s(server) - used < 1, "no spin"
    assert patient.origin.wait(lambda: descriptors(server.process.pid) <= before + 4 if server.process else False)
    assert patient.status() == 200
