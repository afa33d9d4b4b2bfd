"""No request makes the sidecar allocate, once it is warm; what rustls allocates for each record is all there is.

In:     two real sidecars with a counter of allocations preloaded (`counting.c`), N and 3N requests on one kept connection.
Out:    allocations of the worker threads for a request: the difference, so that what happens once falls out.
Limits: `STRAY` for what the clock does meanwhile. A record of TLS costs rustls one allocation to seal (the sealed copy) and one to open
        (it queues a copy of the plaintext); at one connection every request and every answer is a record.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.mesh import get
from tests.support.origin import Origin
from tests.support.pair import BASE, HTTP_PORT, Pair, pair

REQUESTS = 150
STRAY = 0.25
RECORDS = 2  # one sealed, one opened
OURS = 'labels: {app: server, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}'

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler for the counter"),
]


class Counted:
    """A pair whose sidecars count."""

    def __init__(self, made: Pair, counts: dict[str, Path]) -> None:
        self.pair = made
        self._counts = counts

    def per_request(self, direction: str) -> dict[str, float]:
        """Allocations of each sidecar for one more request."""
        with wire.connect(self.pair, direction) as connection:
            self._ask(connection, 3 * REQUESTS)  # warm
            start = self._read()
            self._ask(connection, REQUESTS)
            between = self._read()
            self._ask(connection, 3 * REQUESTS)
            end = self._read()
        return {
            name: (end[name] - between[name] - (between[name] - start[name])) / (2 * REQUESTS) for name in self._counts
        }

    @staticmethod
    def _ask(connection: socket.socket, count: int) -> None:
        for _ in range(count):
            connection.sendall(get())
            answer = b""
            while not answer.startswith(b"HTTP/1.1 200") or b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)

    def _read(self) -> dict[str, int]:
        return {name: struct.unpack("L", path.read_bytes())[0] for name, path in self._counts.items()}


@pytest.fixture(scope="module")
def counted() -> Iterator[Counted]:
    with tempfile.TemporaryDirectory(prefix="mdpt-") as made:
        folder = Path(made)
        counter = folder / "counting.so"
        source = Path(__file__).with_name("counting.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", counter, source], check=True)
        counts = {name: folder / f"{name}.counts" for name in ("client", "server")}
        environment = {}
        for name, path in counts.items():
            path.write_bytes(bytes(8))
            path.chmod(0o666)
            environment[name] = {"LD_PRELOAD": str(counter), "MESHDP_COUNTS": str(path)}
        with pair(folder, environment=environment) as opened:
            origin = Origin(opened.server, [HTTP_PORT])
            yield Counted(opened, counts)
            origin.stop()


def test_a_plaintext_hop_allocates_nothing_for_a_request(counted: Counted) -> None:
    found = counted.per_request("inbound")
    print(found)
    assert found["server"] < STRAY


def test_a_pair_over_http_2_allocates_what_rustls_does_for_records(counted: Counted) -> None:
    found = counted.per_request("outbound")
    print(found)
    assert all(RECORDS - STRAY < each < RECORDS + STRAY for each in found.values())


def test_a_pair_over_http_1_1_allocates_what_rustls_does_for_records(counted: Counted) -> None:
    # The server as a sidecar of another make: a connection for each of the client's.
    assert OURS in BASE
    foreign = BASE.replace(OURS, "labels: {app: server, security.istio.io/tlsMode: istio}")
    counted.pair.replace("base.yaml", foreign, counted.pair.client)
    found = counted.per_request("outbound")
    print(found)
    assert all(RECORDS - STRAY < each < RECORDS + STRAY for each in found.values())
