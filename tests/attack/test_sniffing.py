"""What a connection speaks, decided from its first bytes: table 2.9. SN-01 to SN-09; TLS is in `test_sniffing_tls`.

In:     `sniffing`: ports that declare HTTP, bytes, nothing, and a well-known one; sidecars that wait for seconds only.
Limits: SN-08 with 300 connections each way, MESHDP_SILENT sets more. Every offset of what is short is tried on sockets,
        of the rest in native/proto (first_bytes).
Source: attack cases 2.9; istio-semantics B.3.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.test_h1_random import descriptors
from tests.support import wire
from tests.support.mesh import get, position
from tests.support.pair import AUTO_PORT, HTTP_PORT, PATIENCE_S, TCP_PORT
from tests.support.sniffing import DETECTION_MS, GREETING, HANDSHAKE_MS, IDLE_MS, MYSQL_PORT, SHY_PORT, Sniffing, opened

SILENT = int(os.environ.get("MESHDP_SILENT", "300"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
RESET = struct.pack("ii", 1, 0)
ROOT = Path(__file__).resolve().parents[2]
IDS = [f"SN-{number:02}" for number in range(1, 10)] + ["TL-15", "TL-17", "TL-21"]
# Ids that wait for a milestone, with it and the reason; none does.
WAITING: dict[str, str] = {}


def test_every_id_of_table_2_9_is_tested_or_waits_with_a_milestone() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests/attack").glob("test_*.py"))
    found = {name.upper().replace("_", "-") for name in re.findall(r"def test_((?:sn|tl)_\d\d)_", tests)}
    assert (found | set(WAITING)) >= set(IDS)
    assert {name for name in found if name.startswith("SN")} <= set(IDS)
    assert not found & set(WAITING), "what is tested waits no more"
    assert all(re.match(r"M\d: .{20,}", reason) for reason in WAITING.values())


@pytest.fixture(scope="module")
def sniffing() -> Iterator[Sniffing]:
    with opened() as made:
        yield made


@pytest.fixture(params=wire.DIRECTIONS)
def way(sniffing: Sniffing, request: pytest.FixtureRequest) -> Iterator[str]:
    """A way in; afterwards both sidecars live and serve a fresh connection of every kind (U1, U2, U8)."""
    yield request.param
    sniffing.configure("")
    for direction in wire.DIRECTIONS:
        assert sniffing.mesh.status(direction=direction) == 200
        with sniffing.connect(direction, AUTO_PORT) as canary:
            canary.sendall(get("/canary"))
            assert wire.listen(canary, 1).statuses == [200]


def mode(word: str) -> str:
    """The mode of the whole namespace."""
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d, namespace: default}\n"
        f"spec: {{mtls: {{mode: {word}}}}}\n"
    )


def policy(action: str, operation: str) -> str:
    """A rule about HTTP on the port without a protocol."""
    return (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: layer7, namespace: default}\n"
        f"spec: {{action: {action}, rules: [{{to: [{{operation: {operation}}}]}}]}}\n"
    )


# --- SN-01: who speaks first -----------------------------------------------------------------------------------------


def first_words(sniffing: Sniffing, way: str, port: int, timeout_s: float) -> tuple[bytes, float]:
    """What comes without a byte from us, and after how long."""
    started = time.monotonic()
    with sniffing.connect(way, port) as connection:
        connection.settimeout(timeout_s)
        try:
            heard = connection.recv(len(GREETING), socket.MSG_WAITALL)
        except TimeoutError:
            heard = b""
    return heard, time.monotonic() - started


def test_sn_01_a_server_speaks_first_on_ports_that_are_opaque(sniffing: Sniffing, way: str) -> None:
    sniffing.mesh.opaque.greeting = GREETING
    try:
        # Where plaintext and mutual TLS may come, the client's first byte tells them apart (B.3): here one of them comes.
        sniffing.configure(mode("STRICT") if way == "outbound" else mode("DISABLE"))
        for port in (TCP_PORT, MYSQL_PORT):
            heard, _ = first_words(sniffing, way, port, PATIENCE_S)
            assert heard == GREETING, "declared TCP, and well known (B.3)"
    finally:
        sniffing.mesh.opaque.greeting = b""


def test_sn_01_a_server_speaks_after_the_detection_timeout_where_nothing_is_declared(
    sniffing: Sniffing, way: str
) -> None:
    assert first_words(sniffing, way, SHY_PORT, 0.5)[0] == b"", "without a timeout the client has to begin"
    with sniffing.detection_timeout(f"{DETECTION_MS}ms"):
        heard, waited_s = first_words(sniffing, way, SHY_PORT, PATIENCE_S)
        assert heard == GREETING
        assert waited_s >= DETECTION_MS / 1000
        # What began like a protocol and stopped goes on as bytes, too.
        with sniffing.connect(way, AUTO_PORT) as connection:
            connection.sendall(b"GE")
            assert sniffing.arrived(b"GE")


# --- SN-02, SN-03: beginnings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"\x16", b"\x16\x03\x01", b"GE", b"PRI * HT"], ids=["tls", "tls3", "http", "http2"])
def test_sn_02_half_a_beginning_ends_with_the_timeout(sniffing: Sniffing, way: str, start: bytes) -> None:
    before, started = sniffing.received(), time.monotonic()
    at = position(sniffing.mesh.pair.client if way == "outbound" else sniffing.mesh.pair.server)
    with sniffing.connect(way, AUTO_PORT) as connection:
        connection.sendall(start)
        assert wire.listen(connection, None).ended in ("fin", "reset")
    assert time.monotonic() - started >= HANDSHAKE_MS / 1000 * 0.9, "it waited"
    assert sniffing.received() == before, "nothing was dialled with half a beginning"
    side = sniffing.mesh.pair.client if way == "outbound" else sniffing.mesh.pair.server
    sniffing.mesh.logged(side, at, lambda line: line["response_code_details"] == "sniff_timeout")


def test_sn_02_text_behind_a_record_header_is_no_tls(sniffing: Sniffing, way: str) -> None:
    data = b"\x16\x03\x01" + get()
    with sniffing.connect(way, AUTO_PORT) as connection:
        connection.sendall(data)
        assert sniffing.arrived(data), "as bytes, where bytes may come"
    sniffing.configure(mode("STRICT"))
    before = sniffing.received()
    for port in (AUTO_PORT, TCP_PORT, HTTP_PORT):
        with sniffing.connect("inbound", port) as connection:
            connection.sendall(data)
            heard = wire.listen(connection, None)
            assert (heard.raw, heard.ended in ("fin", "reset")) == (b"", True), "STRICT lets no plaintext through"
    assert sniffing.received() == before


def test_sn_03_a_beginning_waits_and_is_decided_right(sniffing: Sniffing, way: str) -> None:
    request = get("/waits")
    for start, rest, opaque in ((b"GE", request[2:], False), (b"PRI * HT", b"ML\r\n", True)):
        before = sniffing.received()
        with sniffing.connect(way, AUTO_PORT) as connection:
            connection.sendall(start)
            time.sleep(0.1)
            assert sniffing.received() == before, "undecided"
            connection.sendall(rest)
            if opaque:
                assert sniffing.arrived(start + rest)
            else:
                assert wire.listen(connection, 1).statuses == [200]


# --- SN-04, SN-06: nothing slips past a rule by looking like something else -----------------------------------------

LAX = {
    "leading empty lines": b"\r\n\r\n" + get("/secret"),
    "many leading empty lines": b"\r\n" * 20 + get("/secret"),
    "a method in lower case": get("/secret", method="get"),
    "a method of 100 characters": get("/secret", method="G" * 100),
    "line feeds alone": get("/secret").replace(b"\r\n", b"\n"),
    "tabs between the words": get("/secret").replace(b" /secret ", b"\t/secret\t"),
    "HTTP/0.9": b"GET /secret\r\n",
    "HTTP/3.0": get("/secret").replace(b"HTTP/1.1", b"HTTP/3.0"),
    "a version in lower case": get("/secret").replace(b"HTTP/1.1", b"http/1.1"),
    "a space before the method": b" " + get("/secret"),
    "a request line of 9 KiB": get("/secret?" + "a" * 9_000),
    "a NUL in the method": b"GET\0 /secret HTTP/1.1\r\nHost: a\r\n\r\n",
    "the name of HTTP/2, then something else": b"PRI * HTTP/2.0\r\n\r\nXX" + get("/secret"),
    "a record header before it": b"\x16\x03\x01" + get("/secret"),
}


@pytest.mark.parametrize("action", ["DENY", "ALLOW"])
def test_sn_04_what_a_lax_server_takes_for_http_is_not_let_past_a_rule(
    sniffing: Sniffing, way: str, action: str
) -> None:
    sniffing.configure(policy(action, "{paths: [/secret]}" if action == "DENY" else "{paths: [/public, /canary]}"))
    with sniffing.connect(way, AUTO_PORT) as connection:
        connection.sendall(get("/public"))
        assert wire.listen(connection, 1).statuses == [200], "the test of the test: HTTP passes the rule"
    let_in = []
    for name, data in LAX.items():
        before = len(sniffing.mesh.origin.requests), sniffing.mesh.origin.received()
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, [data])
            heard = wire.listen(connection, None)
            assert heard.ended in ("fin", "reset"), (name, heard)
            assert set(heard.statuses) <= {400, 403, 414}, (name, heard)
        if (len(sniffing.mesh.origin.requests), sniffing.mesh.origin.received()) != before:
            let_in.append(name)
    assert let_in == []


@pytest.mark.parametrize("action", ["DENY", "ALLOW"])
def test_sn_04_a_pause_longer_than_the_detection_timeout_is_not_let_past_a_rule(
    sniffing: Sniffing, way: str, action: str
) -> None:
    sniffing.configure(policy(action, "{paths: [/secret]}" if action == "DENY" else "{paths: [/public, /canary]}"))
    request = get("/secret" if action == "DENY" else "/other")
    with sniffing.detection_timeout("100ms"):
        before = sniffing.received()
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, [request[:2], request[2:]], 0.4)
            heard = wire.listen(connection, None)
        assert heard.ended in ("fin", "reset")
        assert set(heard.statuses) <= {403}
        assert sniffing.received() == before, "what became bytes by waiting is judged as bytes"


BINARY = {
    "method": b"GET\0" * 20,
    "record": b"\x16\x03\x01\x00\x40" + bytes(range(64)),
    "ones": b"\x16\x03\x03" + b"\xff" * 80,
}


@pytest.mark.parametrize("data", BINARY.values(), ids=BINARY)
def test_sn_06_what_only_looks_like_a_protocol_is_bytes(sniffing: Sniffing, way: str, data: bytes) -> None:
    for cut, pieces, pause_s in wire.cuts(data):
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, pieces, pause_s)
            assert sniffing.arrived(data), cut
    sniffing.configure(policy("DENY", "{paths: [/secret]}"))
    before = sniffing.received()
    with sniffing.connect(way, AUTO_PORT) as connection:
        wire.send_pieces(connection, [data])
        assert wire.listen(connection, None).ended in ("fin", "reset")
    assert sniffing.received() == before


# --- SN-05: a port that declares HTTP --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9\r\n", b"\x4a\0\0\0\x0a5.7.1\0", b"*1\r\n$4\r\nPING\r\n", b"\xff" * 40],
    ids=["ssh", "mysql", "redis", "ones"],
)
def test_sn_05_what_is_not_http_on_an_http_port_is_answered_400(sniffing: Sniffing, way: str, data: bytes) -> None:
    for cut, pieces, pause_s in wire.cuts(data):
        before = sniffing.received()
        with sniffing.connect(way, HTTP_PORT) as connection:
            wire.send_pieces(connection, pieces, pause_s)
            heard = wire.listen(connection, None)
        assert (heard.statuses, heard.ended) == ([400], "fin"), (cut, heard)
        assert sniffing.received() == before


# --- SN-07, SN-08: silence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("port", [HTTP_PORT, AUTO_PORT, TCP_PORT])
def test_sn_07_an_end_before_any_byte(sniffing: Sniffing, way: str, port: int, reset: bool) -> None:
    sides = (sniffing.mesh.pair.client, sniffing.mesh.pair.server)
    held = [descriptors(pid) for pid in (side.process.pid for side in sides if side.process)]
    dialled, peers = len(sniffing.mesh.origin.connections), len(sniffing.mesh.opaque.peers)
    for _ in range(20):
        with sniffing.connect(way, port) as connection:
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                connection.shutdown(socket.SHUT_WR)
                heard = wire.listen(connection, None)
                assert (heard.raw, heard.ended in ("fin", "reset")) == (b"", True)

    def settled() -> bool:
        now = [descriptors(pid) for pid in (side.process.pid for side in sides if side.process)]
        return all(new <= old + 4 for new, old in zip(now, held, strict=True))

    assert sniffing.mesh.origin.wait(settled), "U4: nothing is held of them"
    assert len(sniffing.mesh.origin.connections) == dialled, "nobody is dialled for nothing"
    assert port == TCP_PORT or len(sniffing.mesh.opaque.peers) == peers


def test_sn_08_silent_connections_end_and_harm_nobody(sniffing: Sniffing, way: str) -> None:
    dialled, started = len(sniffing.mesh.origin.connections), time.monotonic()
    silent = [sniffing.connect(way, AUTO_PORT) for _ in range(SILENT)]
    try:
        asked = time.monotonic()
        assert sniffing.mesh.status(direction=way) == 200
        assert time.monotonic() - asked < IDLE_MS / 1000, "U2 while they are silent"
        for connection in silent:
            assert wire.listen(connection, None).ended in ("fin", "reset")
        assert time.monotonic() - started >= IDLE_MS / 1000 * 0.9
    finally:
        for connection in silent:
            connection.close()
    assert len(sniffing.mesh.origin.connections) <= dialled + 1, "the canary's alone"


# --- SN-09: the same at every split ----------------------------------------------------------------------------------


def test_sn_09_http_and_bytes_are_told_apart_at_every_split(sniffing: Sniffing, way: str) -> None:
    line = b"OPTIONS /split HTTP/1.1\r\n"
    raw = b"HELO there, general\r\n"
    for at in range(1, len(line)):
        data = line + get()[len(b"GET / HTTP/1.1\r\n") :]
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, [data[:at], data[at:]], 0.003)
            assert wire.listen(connection, 1).statuses == [200], at
    for at in range(1, len(raw)):
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, [raw[:at] + b"%d" % at, raw[at:]], 0.003)
            assert sniffing.arrived(raw[:at] + b"%d" % at + raw[at:]), at


def test_sn_09_the_http_2_preface_is_known_at_every_split(sniffing: Sniffing, way: str) -> None:
    def answer(*pieces: bytes) -> bytes:
        with sniffing.connect(way, AUTO_PORT) as connection:
            wire.send_pieces(connection, pieces, 0.003)
            return connection.recv(9)

    assert answer(PREFACE + SETTINGS)[3:5] == b"\4\0"
    before = sniffing.received()
    for at in range(1, len(PREFACE)):
        assert answer(PREFACE[:at], PREFACE[at:] + SETTINGS)[3:5] == b"\4\0", at
    assert sniffing.received() == before, "a preface alone dials nobody"
