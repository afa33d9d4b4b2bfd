"""Life cycle of opaque connections: half-closes, resets, vanished peers, bulk, bad networks. LC-05 to LC-09, LC-12, LC-16 to LC-18.

In:     `patient`: plaintext by the `inbound` way (spliced by the kernel), mutual TLS by the `outbound` way.
Limits: long forms by `MESHDP_BULK_MIB` and `MESHDP_CHURN`; reordering, duplicates and corruption need a kernel with netem.
Source: attack cases 2.11; DESIGN section 5.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attack.test_h1_random import descriptors, resident_bytes
from tests.support import wire
from tests.support.mesh import Mesh, position
from tests.support.origin import pattern
from tests.support.pair import PATIENCE_S, SERVICE_IP, TCP_PORT, Side

BULK_MIB = int(os.environ.get("MESHDP_BULK_MIB", "512"))
CHURN = int(os.environ.get("MESHDP_CHURN", "1500"))
SEED = os.environ.get("MESHDP_SEED", "20261124")
RESET = struct.pack("ii", 1, 0)
LONG = pattern(300_000)  # well behind the bytes after which the kernel moves them


@pytest.fixture(params=wire.DIRECTIONS)
def way(patient: Mesh, request: pytest.FixtureRequest) -> Iterator[str]:
    """A way in; afterwards both sidecars live, serve, and hold no more descriptors than before (U1, U2, U4)."""
    sides = (patient.pair.client, patient.pair.server)
    before = [descriptors(pid_of(side)) for side in sides]
    yield request.param
    for side, had in zip(sides, before, strict=True):
        assert patient.origin.wait(lambda side=side, had=had: descriptors(pid_of(side)) <= had + 4), side.name
        assert "panicked" not in side.log.read_text()
    with wire.connect(patient.pair, request.param, TCP_PORT) as canary:
        canary.sendall(b"Ecanary")
        assert canary.recv(6, socket.MSG_WAITALL) == b"canary"


def pid_of(side: Side) -> int:
    assert side.process is not None and side.process.poll() is None, side.log.read_text()[-2000:]
    return side.process.pid


def read_all(connection: socket.socket, timeout_s: float = PATIENCE_S) -> bytes:
    connection.settimeout(timeout_s)
    heard = bytearray()
    while chunk := connection.recv(1 << 20):
        heard += chunk
    return bytes(heard)


@pytest.mark.parametrize("size", [5, 300_000])
def test_lc_05_half_close_by_the_client(patient: Mesh, way: str, size: int) -> None:
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"S" + LONG[:size])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"%d" % size, "the answer comes after the client's end"


@pytest.mark.parametrize("size", [5, 300_000])
def test_lc_05_half_close_by_the_server(patient: Mesh, way: str, size: int) -> None:
    """`H` sends so much, ends its side, and then counts what still comes until the client's end."""
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"H%d\n" % size)
        assert len(read_all(connection)) == size
        late = len(patient.opaque.counted)
        connection.sendall(LONG)
        connection.shutdown(socket.SHUT_WR)
        assert patient.origin.wait(lambda: patient.opaque.counted[late:] == [len(LONG)]), patient.opaque.counted


@pytest.mark.parametrize("size", [5, 300_000])
def test_lc_05_reset_by_the_client_is_a_reset(patient: Mesh, way: str, size: int) -> None:
    resets = patient.opaque.resets
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"E" + LONG[:size])
        heard = b""
        while len(heard) < size:  # nothing is under way when the reset comes
            heard += connection.recv(size)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    assert patient.origin.wait(lambda: patient.opaque.resets == resets + 1)


@pytest.mark.parametrize("size", [0, 300_000])
def test_lc_07_reset_by_the_server_is_a_reset(patient: Mesh, way: str, size: int) -> None:
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"R%d\n" % size)
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_lc_08_bulk_both_ways(patient: Mesh, way: str) -> None:
    """Byte count and hash are equal and memory is flat; `MESHDP_BULK_MIB=102400` is the catalogue's form."""
    block = pattern(1 << 20)
    sides = (patient.pair.client, patient.pair.server)
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"E")
        connection.settimeout(60)
        expected, heard, count = hashlib.blake2b(), hashlib.blake2b(), 0

        def send() -> None:
            for _ in range(BULK_MIB):
                expected.update(block)
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        memory: list[int] = []
        buffer = memoryview(bytearray(1 << 20))
        while (read := connection.recv_into(buffer)) > 0:
            heard.update(buffer[:read])
            count += read
            if not memory and count > 32 << 20:
                memory = [resident_bytes(pid_of(side)) for side in sides]
        grown = [resident_bytes(pid_of(side)) - had for side, had in zip(sides, memory, strict=True)]
        sender.join()
    expected.update(b"bye")
    assert count == (BULK_MIB << 20) + 3
    assert heard.digest() == expected.digest()
    assert max(grown) < 4 << 20, grown


def test_lc_09_both_sides_only_write(patient: Mesh, way: str) -> None:
    """Nobody reads: everything stands still, other connections go on, and the end of one side frees it all."""
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.setblocking(False)
        connection.send(b"E")
        still = time.monotonic()
        while time.monotonic() - still < 0.5:
            with contextlib.suppress(BlockingIOError):
                if connection.send(b"x" * 65536):
                    still = time.monotonic()
            time.sleep(0.001)
        with wire.connect(patient.pair, way, TCP_PORT) as other:
            other.sendall(b"Egoes on")
            assert other.recv(7, socket.MSG_WAITALL) == b"goes on"


def rule(side: Side, verb: str, *words: str) -> None:
    subprocess.run(
        ["ip", "netns", "exec", side.namespace, "iptables", "-w", "-t", words[0], verb, *words[1:]],
        check=True,
        capture_output=True,
    )


@contextlib.contextmanager
def ruled(side: Side, *words: str) -> Iterator[None]:
    rule(side, "-I", *words)
    try:
        yield
    finally:
        rule(side, "-D", *words)


def test_lc_12_peer_that_vanishes(patient: Mesh, way: str) -> None:
    """Every packet between the two hosts is dropped: both sidecars notice within the keep-alive bound, and say so to both ends."""
    server = patient.pair.server
    at = position(server)

    def ours(line: dict[str, Any]) -> bool:
        return int(line["bytes_received"]) == len(b"Ehello")

    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"Ehello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        time.sleep(
            0.3
        )  # all is acknowledged: bytes that are not are sent again and again instead, and the idle bound ends it
        with (
            ruled(server, "raw", "PREROUTING", "-i", server.link, "-j", "DROP"),
            ruled(server, "mangle", "POSTROUTING", "-o", server.link, "-j", "DROP"),
        ):
            began = time.monotonic()
            assert patient.origin.wait(lambda: any(ours(line) for line in patient.log_since(server, at)))
            if way == "outbound":
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(1) == b"", "the client's sidecar noticed too, and its application heard"
            took = time.monotonic() - began
    assert 2 < took < PATIENCE_S, took  # asked after 2 s, then three times a second; the kernel's timers are coarse


def test_lc_16_small_segments_and_losses(patient: Mesh, way: str) -> None:
    server = patient.pair.server
    loss = ("-i", server.link, "-m", "statistic", "--mode", "random", "--probability", "0.02", "-j", "DROP")
    small = ("-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS", "--set-mss", "88")
    data = random.Random(SEED).randbytes(60_000)
    try:
        rule(server, "-I", "mangle", "FORWARD", *small)
        rule(server, "-D", "mangle", "FORWARD", *small)
    except subprocess.CalledProcessError as failure:
        pytest.skip(f"this kernel cannot change the segment size: {failure.stderr!r}")
    with (
        ruled(server, "mangle", "POSTROUTING", *small),
        ruled(server, "raw", "PREROUTING", *loss),
        wire.connect(patient.pair, way, TCP_PORT) as connection,
    ):
        sender = threading.Thread(target=lambda: (connection.sendall(b"E" + data), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        heard = read_all(connection, 30)
        sender.join()
    assert heard == data + b"bye"


def test_lc_16_reordered_duplicated_corrupt_segments(patient: Mesh, way: str) -> None:
    server = patient.pair.server
    netem = ["netem", "delay", "3ms", "2ms", "reorder", "20%", "duplicate", "2%", "corrupt", "1%", "loss", "1%"]
    added = subprocess.run(
        ["tc", "-n", server.namespace, "qdisc", "add", "dev", server.link, "root", *netem],
        capture_output=True,
        check=False,
    )
    if added.returncode != 0:
        pytest.skip(f"this kernel has no netem: {added.stderr.decode().strip()}")
    try:
        with wire.connect(patient.pair, way, TCP_PORT) as connection:
            data = random.Random(SEED).randbytes(500_000)
            connection.sendall(b"E" + data)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection, 30) == data + b"bye"
    finally:
        subprocess.run(["tc", "-n", server.namespace, "qdisc", "del", "dev", server.link, "root"], check=True)


@pytest.mark.parametrize("before", [1_000, 300_000])
def test_lc_17_urgent_data(patient: Mesh, way: str, before: int) -> None:
    """The urgent byte is out of band and goes no further; what comes before and behind it does, also where splicing has begun."""
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.sendall(b"S" + LONG[:before])
        time.sleep(0.2)
        connection.send(b"!", socket.MSG_OOB)
        connection.sendall(LONG)
        connection.shutdown(socket.SHUT_WR)
        assert int(read_all(connection)) in (before + len(LONG), before + len(LONG) + 1)


def test_lc_17_fast_open(patient: Mesh, way: str) -> None:
    if way == "inbound":
        pytest.skip("the same listener options; one way is enough")
    connection = patient.pair.client.inside(socket.socket)
    with connection:
        patient.pair.client.inside(lambda: connection.sendto(b"Efast", socket.MSG_FASTOPEN, (SERVICE_IP, TCP_PORT)))
        assert connection.recv(4, socket.MSG_WAITALL) == b"fast"


def test_lc_18_churn(patient: Mesh, way: str) -> None:
    """Connection after connection: all are served, descriptors stay (the fixture looks), `MESHDP_CHURN` for longer."""
    for number in range(CHURN):
        with wire.connect(patient.pair, way, TCP_PORT) as connection:
            connection.sendall(b"Ex")
            assert connection.recv(1) == b"x", number
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(8, socket.MSG_WAITALL) == b"bye"


@pytest.mark.parametrize("case", range(8))
def test_lc_15_random_segments_delays_and_back_pressure(patient: Mesh, way: str, case: int) -> None:
    """Property: whatever the sizes, pauses and buffers, what is echoed is what was sent. A fixed sequence for each case."""
    chance = random.Random(f"{SEED} {way} {case}")
    data = chance.randbytes(chance.choice([1, 4_095, 65_537, 1_000_000, 3_000_000]))
    with wire.connect(patient.pair, way, TCP_PORT) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, chance.choice([2_304, 16_384, 1 << 20]))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice([4_608, 65_536, 1 << 20]))
        connection.settimeout(30)
        sender = threading.Thread(target=send_randomly, args=(connection, b"E" + data, random.Random(f"{SEED} {case}")))
        sender.start()
        heard = bytearray()
        while chunk := connection.recv(
            chance.choice([1, 100, 5_000, 65_536, 1 << 20]) if chance.random() < 0.3 else 1 << 18
        ):
            heard += chunk
            if chance.random() < 0.05:
                time.sleep(chance.random() / 50)
        sender.join()
    assert bytes(heard) == data + b"bye"


def send_randomly(connection: socket.socket, data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = int(chance.paretovariate(0.3)) % 200_000 + 1
        connection.sendall(data[at : at + size])
        at += size
        if chance.random() < 0.05:
            time.sleep(chance.random() / 50)
    connection.shutdown(socket.SHUT_WR)
