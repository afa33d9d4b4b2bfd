"""Life cycle of HTTP connections: slow peers, races of reuse, peers that leave, upgrades. LC-01 to LC-07, LC-09, LC-11.

In:     `arena` (short bounds, post-conditions after each case), `patient` (the default bounds).
Limits: what waits is in `waiting.json`.
Source: attack cases 2.11; RFC 9112 9.3 to 9.6.
"""

from __future__ import annotations

import random
import re
import socket
import statistics
import struct
import threading
import time

import pytest

from tests.attack.conftest import HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS, Arena, request
from tests.attack.test_h1_random import descriptors, resident_bytes
from tests.support import wire
from tests.support.mesh import Mesh, get
from tests.support.pair import HTTP_PORT, Side

RESET = struct.pack("ii", 1, 0)
TRICKLE_S = 4.5
TRIES = 5


def counted(side: Side, status: int) -> int:
    """How many requests this sidecar has counted with a status."""
    lines = [line for line in side.admin("/stats/prometheus").splitlines() if line.startswith("istio_requests_total{")]
    return sum(int(line.rpartition(" ")[2]) for line in lines if f'response_code="{status}"' in line)


def test_lc_01_slow_head(arena: Arena) -> None:
    side = arena.pair.client if arena.direction == "outbound" else arena.pair.server
    before = counted(side, 408)
    with wire.connect(arena.pair, arena.direction) as connection:
        began = time.monotonic()
        sender = threading.Thread(
            target=wire.send_pieces, args=(connection, [bytes([b]) for b in request()[:30]], TRICKLE_S / 30)
        )
        sender.start()
        heard = wire.listen(connection, None)
        took = time.monotonic() - began
        sender.join()
    assert (heard.statuses, heard.ended) == ([408], "fin")
    assert HEAD_TIMEOUT_MS / 1000 * 0.6 < took < HEAD_TIMEOUT_MS / 1000 + TRICKLE_S, (
        "a byte now and then is no reason to wait longer"
    )
    assert arena.origin.wait(lambda: counted(side, 408) == before + 1), "a 408 is counted like any other answer"


def test_lc_02_body_that_stalls(arena: Arena) -> None:
    with wire.connect(arena.pair, arena.direction) as connection:
        head = request("/echo", "Content-Length: 9", method="POST")
        wire.send_pieces(connection, [head, b"a", b"b"], 0.2)
        assert wire.listen(connection, None).statuses == [408]


def test_lc_02_body_that_comes_slowly_is_no_stall(arena: Arena) -> None:
    with wire.connect(arena.pair, arena.direction) as connection:
        head = request("/echo", "Content-Length: 4", method="POST")
        wire.send_pieces(connection, [head, *(bytes([byte]) for byte in b"slow")], IDLE_TIMEOUT_MS / 3_000)
        assert [one.body for one in wire.listen(connection, 1).answers] == [b"slow"]


def test_lc_03_reader_that_stops(arena: Arena) -> None:
    pids = [side.process.pid for side in (arena.pair.client, arena.pair.server) if side.process is not None]
    arena.origin.drop_connections()  # so that the request's own connection is the next one
    known, connections = len(arena.origin.connections), arena.origin.connections
    memory = [resident_bytes(pid) for pid in pids]
    with wire.connect(arena.pair, arena.direction) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        wire.send_pieces(connection, [request("/bytes/60000000")])
        let_go = arena.origin.wait(lambda: len(connections) > known and connections[known].ended != "")
        assert let_go, "the application is let go"
        grown = [resident_bytes(pid) - had for pid, had in zip(pids, memory, strict=True)]
        assert max(grown) < 4 << 20, grown
        heard = wire.listen(connection, None)
    assert not heard.answers[0].complete, "and what was cut does not look whole"


def test_lc_04_idle_connection_is_closed_cleanly(arena: Arena) -> None:
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [request()])
        assert wire.listen(connection, 1).statuses == [200]
        heard = wire.listen(connection, None)
    assert (heard.raw, heard.ended) == (b"", "fin")


def test_lc_04_reused_connection_that_dies_costs_no_request(arena: Arena) -> None:
    """The application closes each kept connection at the moment its second request arrives."""
    arena.origin.drop_connections()
    with wire.connect(arena.pair, arena.direction) as connection:
        for number in range(40):
            before = len(arena.origin.requests)
            wire.send_pieces(connection, [request("/only-first")])
            assert wire.listen(connection, 1).statuses == [200], number
            seen = len(arena.origin.requests) - before
            assert seen <= 2, "once on the connection that died and once more, never again"


def test_lc_04_a_post_is_not_sent_twice(arena: Arena) -> None:
    arena.origin.drop_connections()
    with wire.connect(arena.pair, arena.direction) as connection:
        answers = []
        for _ in range(2):
            before = len(arena.origin.requests)
            wire.send_pieces(connection, [request("/only-first", "Content-Length: 0", method="POST")])
            answers += wire.listen(connection, 1).statuses
            assert len(arena.origin.requests) - before <= 1
    assert answers == [200, 503]


LEAVING = {
    "while it waits": (request("/slow/700", nonce=b"left"), b""),
    "mid-response": (request("/stream", nonce=b"left"), b"tick"),
    "mid-upload": (request("/echo", "Content-Length: 100", method="POST", body=b"part", nonce=b"left"), b""),
}


@pytest.mark.parametrize("way", ["reset", "end"])
@pytest.mark.parametrize("when", LEAVING)
def test_lc_06_client_that_leaves(arena: Arena, when: str, way: str) -> None:
    """The upstream is told within 100 ms: once in some tries, for the machine may be busy."""
    data, await_bytes = LEAVING[when]
    took: list[float] = []
    while not took or (took[-1] >= 0.1 and len(took) < TRIES):
        arena.origin.drop_connections()
        had = len(arena.origin.connections)
        with wire.connect(arena.pair, arena.direction) as connection:
            wire.send_pieces(connection, [data])
            heard = b""
            while await_bytes not in heard:
                heard += connection.recv(4096)
            assert arena.origin.wait(lambda had=had: arrived(arena, had))
            if way == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        left = time.monotonic()
        served = arena.origin.connections[had]
        assert arena.origin.wait(lambda served=served: peer_gone(served.socket)), "the upstream is never told"
        took.append(time.monotonic() - left)
    assert took[-1] < 0.1, took


def arrived(arena: Arena, had: int) -> bool:
    """Whether the application has the marked request on a connection made since."""
    return any(b"left" in bytes(one.received) for one in arena.origin.connections[had:])


def peer_gone(connection: socket.socket) -> bool:
    """Whether the peer has ended or reset its side: no more is to come (TCP_INFO's state is not ESTABLISHED)."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1
    except OSError:
        return True


def test_lc_06_what_is_sent_ahead_is_kept(arena: Arena) -> None:
    with wire.connect(arena.pair, arena.direction) as connection:
        wire.send_pieces(connection, [request("/slow/300"), request("/second", nonce=b"kept")], 0.1)
        heard = wire.listen(connection, 2)
    assert heard.statuses == [200, 200]
    assert heard.answers[1].body == b"nonce:kept"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
BROKEN = {
    "before the head": ([], [503], None),
    "after the head": ([HEAD], [200], False),
    "mid-body": ([HEAD + b"12345"], [200], False),
    "mid-chunk": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123"], [200], False),
    "until close": ([b"HTTP/1.1 200 OK\r\n\r\n", b"12345"], [200], False),
    "after the body": ([HEAD + b"1234567890"], [200], True),
}


@pytest.mark.parametrize("when", BROKEN)
def test_lc_07_upstream_reset(arena: Arena, when: str) -> None:
    pieces, statuses, whole = BROKEN[when]
    arena.origin.canned[b"broken"] = pieces
    heard = arena.send([request("/reset/broken", "Connection: close")], 0, 1)
    assert heard.statuses == statuses, heard
    if whole is not None:
        assert heard.answers[0].complete is whole, heard


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_11_upgraded_connection_through_many_swaps(patient: Mesh, direction: str) -> None:
    """Frames of random sizes both ways while the configuration changes; every byte comes back, in capitals."""
    chance = random.Random(f"LC-11 {direction}")
    sent, heard = bytearray(), bytearray()
    with wire.connect(patient.pair, direction) as connection:
        behind = chance.randbytes(500)
        connection.sendall(get("/upgrade", "Connection: upgrade", "Upgrade: websocket") + behind)
        sent += behind
        done = threading.Event()

        def pump() -> None:
            while not done.is_set():
                frame = chance.randbytes(int(chance.paretovariate(0.4)) % 150_000)
                sent.extend(frame)
                connection.sendall(frame)
            connection.shutdown(socket.SHUT_WR)

        def change() -> None:
            for number in range(30):
                patient.pair.configure(f"# swap {number}\n" + POLICY.format(number=number))
            done.set()

        workers = [threading.Thread(target=work) for work in (pump, change)]
        for worker in workers:
            worker.start()
        while chunk := connection.recv(1 << 20):
            heard += chunk
        for worker in workers:
            worker.join()
    patient.pair.configure("# none\n")
    head, _, body = bytes(heard).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 101 ", head)
    assert len(body) == len(sent) + 3, (len(body), len(sent))
    assert body == bytes(sent).upper() + b"BYE"


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: others, namespace: default}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: DENY
  rules: [{{to: [{{operation: {{paths: ["/other-{number}"]}}}}]}}]
"""


@pytest.mark.parametrize("direction", wire.DIRECTIONS)
def test_lc_11_bytes_directly_behind_the_101(patient: Mesh, direction: str) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    patient.origin.canned[b"close-early"] = [switch + b"spoke first", b", and again"]
    with wire.connect(patient.pair, direction, HTTP_PORT) as connection:
        connection.sendall(get("/canned/close-early", "Connection: upgrade", "Upgrade: websocket"))
        heard = b""
        while chunk := connection.recv(65536):
            heard += chunk
    assert heard.endswith(b"\r\n\r\nspoke first, and again"), heard


def test_lc_09_both_sides_stop_reading(arena: Arena) -> None:
    """An upgraded connection whose two ends only write: nothing locks up, and the idle bound ends it."""
    had = len(arena.origin.connections)
    with wire.connect(arena.pair, arena.direction) as connection:
        connection.sendall(request("/upgrade", "Connection: upgrade", "Upgrade: loud"))
        assert connection.recv(12) == b"HTTP/1.1 101"
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            write_for_ever(connection)
    assert arena.origin.wait(lambda: all(one.ended for one in arena.origin.connections[had:]))


def write_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 1_000_000)


def test_lc_10_request_and_answer_flow_at_once(arena: Arena) -> None:
    """Each chunk is answered before the next one is sent; the end of the request ends the answer, exactly."""
    with wire.connect(arena.pair, arena.direction) as connection:
        connection.sendall(request("/duplex", "Transfer-Encoding: chunked", method="POST"))
        heard = b""
        for number in range(50):
            chunk = b"%05d" % number * (number * 40 + 1)
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            while not heard.endswith(chunk + b"\r\n"):
                heard += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while not heard.endswith(b"\r\n0\r\n\r\n"):
            heard += connection.recv(65536)
    assert heard.count(b"00049") >= 1961


def test_lc_10_early_end_of_a_request_while_its_answer_flows(arena: Arena) -> None:
    """The request is whole; that the client then ends its side gives the answer up (decision 0020), which ends upstream too."""
    had = len(arena.origin.connections)
    arena.origin.drop_connections()
    with wire.connect(arena.pair, arena.direction) as connection:
        connection.sendall(request("/stream"))
        assert b"tick" in read_until(connection, b"tick")
        connection.shutdown(socket.SHUT_WR)
        assert arena.origin.wait(lambda: all(one.ended for one in arena.origin.connections[had:]))


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    heard = b""
    while wanted not in heard:
        heard += connection.recv(65536)
    return heard


def test_rt_11_lengths_inside_a_body_mean_nothing(arena: Arena) -> None:
    """A gRPC message that claims 4 GiB, and one that is cut off: each byte passes at once, nothing waits for the rest."""
    with wire.connect(arena.pair, arena.direction) as connection:
        fields = ("Transfer-Encoding: chunked", "Content-Type: application/grpc", "TE: trailers")
        connection.sendall(request("/duplex", *fields, method="POST"))
        heard = b""
        for message in (b"\0\xff\xff\xff\xff", b"part", b"\1\0\0\0\5hell"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(message), message))
            while not heard.endswith(message + b"\r\n"):
                heard += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        assert read_until(connection, b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 200 ")


def test_rt_13_answers_at_the_moment_of_the_bound(arena: Arena) -> None:
    """Answers around the idle bound: each request ends once, as answered or as timed out, and is logged once."""
    side = arena.attacked_side
    before, answers = arena.counted(side, (200, 504)), []

    def ask(delay_ms: int) -> None:
        answers.append(wire.ask(arena.pair, arena.direction, request(f"/slow/{delay_ms}"), 1))

    # Some well before it, for a busy machine; the others as near as can be.
    delays = [IDLE_TIMEOUT_MS // 3] * 3 + [IDLE_TIMEOUT_MS - 150 + 12 * number for number in range(27)]
    workers = [threading.Thread(target=ask, args=(delay_ms,)) for delay_ms in delays]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    statuses = [heard.statuses for heard in answers]
    assert all(heard in ([200], [504]) for heard in statuses), statuses
    assert {200, 504} == {heard[0] for heard in statuses}, "both sides of the bound were tried"
    assert arena.origin.wait(lambda: arena.counted(side, (200, 504)) - before >= 30)


def test_rt_17_random_cancels_leave_nothing(arena: Arena) -> None:
    """A short form: 200 requests that end whenever they like; afterwards nothing is under way and nothing is open."""
    sides = (arena.pair.client, arena.pair.server)
    arena.healthy()
    before = [descriptors(side.process.pid) for side in sides if side.process is not None]
    targets = ["/", "/slow/100", "/bytes/2000000", "/stream", "/echo"]

    def work(seed: int) -> None:
        chance = random.Random(f"RT-17 {arena.direction} {seed}")
        for _ in range(25):
            with wire.connect(arena.pair, arena.direction) as connection:
                body = b"x" * chance.choice([0, 10, 50_000])
                sent = request(chance.choice(targets), "Content-Length: 50000", method="PUT", body=body)
                wire.send_pieces(connection, [sent if chance.random() < 0.5 else request(chance.choice(targets))])
                time.sleep(chance.random() / 20)
                if chance.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for side, had in zip(sides, before, strict=True):
        pid = side.process.pid if side.process is not None else 0
        assert arena.origin.wait(lambda pid=pid, had=had: descriptors(pid) <= had + 12), descriptors(pid) - had


def test_lc_06_many_clients_that_leave(arena: Arena) -> None:
    """Ten clients at once leave: all upstream connections are told, long before they would have answered."""
    took = [ten_leave(arena)]
    while took[-1] >= 0.6 and len(took) < TRIES:  # the machine may be busy
        took.append(ten_leave(arena))
    assert took[-1] < 0.6, took


def ten_leave(arena: Arena) -> float:
    """After how long most of the connections upstream are told."""
    arena.origin.drop_connections()
    had = len(arena.origin.connections)
    connections = [wire.connect(arena.pair, arena.direction) for _ in range(10)]
    for connection in connections:
        wire.send_pieces(connection, [request("/slow/2500")])
    assert arena.origin.wait(lambda: sum(bool(one.received) for one in arena.origin.connections[had:]) == 10)
    left = time.monotonic()
    for connection in connections:
        connection.close()
    told: list[float] = []
    for served in arena.origin.connections[had:]:
        assert arena.origin.wait(lambda served=served: peer_gone(served.socket))
        told.append(time.monotonic() - left)
    return statistics.median(told)
