"""HTTP/2 between two real sidecars: HTTP/1.1 requests of many clients share a connection, and none is lost at its end.

In:     raw HTTP/1.1 from the client namespace; `Origin` (HTTP/1.1) and `Scripted` (HTTP/2, as a test steers it) in the server's.
Source: DESIGN section 5 ("Between sidecars"); RFC 9113 6.8, 8.7; attack cases H2-23 to H2-25, DG-15, DG-16, TL-28.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from tests.e2e.test_swap import deny
from tests.support import wire
from tests.support.listening import Listening
from tests.support.mesh import Mesh, get
from tests.support.origin import Origin, pattern
from tests.support.pair import HTTP_PORT, PATIENCE_S, SERVER_IP, Pair, Side, service

SCRIPTED_PORT, SCRIPTED_IP = 9097, "10.96.0.7"
SCRIPTED = service("scripted", SCRIPTED_IP, http2=SCRIPTED_PORT)
CLIENTS = 64


def upstreams(pair: Pair, port: int = HTTP_PORT) -> int:
    """Connections that the client's sidecar has to the server's."""
    command = ["nsenter", f"--net=/run/netns/{pair.client.namespace}", "ss", "-Htn", "state", "established"]
    command += ["dst", SERVER_IP, "and", "dport", "=", f":{port}"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


def at_once(count: int, work: Callable[[int], None]) -> list[str]:
    """Do something in many threads; what went wrong in any of them."""
    failures: list[str] = []

    def one(number: int) -> None:
        try:
            work(number)
        except (AssertionError, OSError) as failure:
            failures.append(f"{number}: {failure!r}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_64_clients_share_one_connection(mesh: Mesh) -> None:
    mesh.pair.configure(SCRIPTED)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(wire.connect(mesh.pair, "outbound")) for _ in range(CLIENTS)]
        for _ in range(5):
            nonces = [wire.nonce() for _ in clients]
            for client, nonce in zip(clients, nonces, strict=True):
                client.sendall(b"GET /slow/20 HTTP/1.1\r\nHost: server\r\nX-Nonce: %b\r\n\r\n" % nonce)
            heard = [wire.listen(client, 1).answers for client in clients]
            assert [[answer.body for answer in answers] for answers in heard] == [
                [b"nonce:" + nonce] for nonce in nonces
            ]
        assert upstreams(mesh.pair) == 1


def test_upstream_connections_are_counted(mesh: Mesh) -> None:
    """They belong to no downstream connection, so `/connections` has none of them."""
    mesh.pair.configure(SCRIPTED)
    assert mesh.status() == 200

    def shown() -> tuple[int, int]:
        admin = mesh.pair.client.admin
        page = admin("/stats/prometheus").splitlines()
        lines = [line for line in page if line.startswith("meshdp_upstream_http2_connections")]
        return json.loads(admin("/stats"))["upstream_http2"], int(lines[0].rpartition(" ")[2])

    assert Origin.wait(lambda: shown()[0] == shown()[1] >= upstreams(mesh.pair) >= 1), shown()


def test_bodies_of_any_size_both_ways_at_once(mesh: Mesh) -> None:
    def work(number: int) -> None:
        chosen = random.Random(number)
        with wire.connect(mesh.pair, "outbound") as connection:
            for _ in range(6):
                body = pattern(1 << 20)[: int(2 ** chosen.uniform(0, 20))]
                sending = threading.Thread(
                    target=connection.sendall,
                    args=(get("/echo", f"Content-Length: {len(body)}", method="POST") + body,),
                )
                sending.start()
                heard = wire.listen(connection, 1)
                sending.join()
                assert heard.statuses == [200]
                assert heard.answers[0].body == body, f"{len(body)} bytes"

    assert at_once(16, work) == []
    assert upstreams(mesh.pair) <= 2
    assert mesh.origin.faults == []


def test_dg_15_spelling_order_and_reason_come_through(mesh: Mesh) -> None:
    fields = [
        "Host: server",
        "X-UPPER: a",
        "x-lower: b",
        "X-mIxEd: C",
        "Cookie: one=1; two=2",
        "Accept: */*",
        "X-UPPER: d",
    ]
    mesh.ask("\r\n".join(["GET /spelled?q=%41 HTTP/1.1", *fields, "", ""]).encode())
    received = [request for request in mesh.origin.requests if request.target.startswith(b"/spelled")][-1]
    lines = received.head.decode().split("\r\n")
    assert lines[0] == "GET /spelled?q=%41 HTTP/1.1"
    assert lines[1 : 1 + len(fields)] == fields
    assert b"x-meshdp" not in received.head.lower(), "the note on it stays between the sidecars"
    mesh.origin.canned[b"spelled"] = [
        b"HTTP/1.1 203 Whatever You Like\r\nX-NONCE: %NONCE%\r\nx-One: 1\r\nContent-Length: 2\r\nX-two: 2\r\n\r\nok"
    ]
    heard = mesh.ask(get("/canned/spelled"))
    head = heard.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"HTTP/1.1 203 Whatever You Like"
    assert [line.partition(b":")[0] for line in head[1:4]] == [b"X-NONCE", b"x-One", b"X-two"], (
        "the framing is each hop's own"
    )
    assert b"x-meshdp" not in heard.raw.lower()


def test_dg_16_bytes_of_values_come_through(mesh: Mesh) -> None:
    value = bytes(byte for byte in range(0x21, 0x100) if byte != 0x7F)
    mesh.ask(b"GET /bytes-of-values HTTP/1.1\r\nHost: server\r\nX-All: " + value + b"\r\n\r\n")
    received = [request for request in mesh.origin.requests if request.target == b"/bytes-of-values"][-1]
    assert received.values(b"x-all") == [value]


def test_what_the_first_sidecar_takes_the_second_takes_too(mesh: Mesh) -> None:
    # Host and nonce are two of the 100 that a head may have.
    fields = b"".join(b"X-Field-%d: a\r\n" % number for number in range(98))
    mesh.origin.canned[b"many"] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
        + b"".join(b"X-Field-%d: a\r\n" % number for number in range(99))
        + b"\r\nok"
    ]
    for target in (b"/", b"/canned/many"):
        heard = mesh.ask(b"GET %b HTTP/1.1\r\nHost: server\r\nX-Nonce: n\r\n%b\r\n" % (target, fields))
        assert heard.statuses == [200], (target, heard)
    assert mesh.ask(b"GET / HTTP/1.1\r\nHost: server\r\nX-Nonce: n\r\nX: y\r\n%b\r\n" % fields).statuses == [431]


def test_a_note_of_a_client_is_no_note(mesh: Mesh) -> None:
    mesh.ask(get("/noted", "x-meshdp-http1: 1.1,uuuuuuuuuuu"))
    received = [request for request in mesh.origin.requests if request.target == b"/noted"][-1]
    assert b"x-meshdp" not in received.head.lower()
    assert b"X-Nonce: " in received.head


class Load:
    """Keep-alive clients that ask and ask; every answer must be theirs."""

    def __init__(self, mesh: Mesh) -> None:
        self.served = 0
        self.failures: list[str] = []
        self._mesh = mesh
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(12)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            with wire.connect(self._mesh.pair, "outbound") as connection:
                while not self._stop.is_set():
                    nonce = wire.nonce()
                    # Not idempotent: nothing but the certainty that it was not processed lets it be sent again.
                    head = b"POST /slow/2 HTTP/1.1\r\nHost: server\r\nContent-Length: 3\r\nX-Nonce: %b\r\n\r\nabc"
                    connection.sendall(head % nonce)
                    heard = wire.listen(connection, 1)
                    if [answer.body for answer in heard.answers] != [b"nonce:" + nonce]:
                        self.failures.append(f"{heard}")
                        return
                    self.served += 1
        except OSError as failure:
            self.failures.append(repr(failure))


def renewed(mesh: Mesh, side: Side) -> None:
    """Give a side another certificate and wait until it is in use."""
    before = side.serial()
    mesh.pair.certify(side.name)
    assert Origin.wait(lambda: side.serial() != before), f"{side.name} keeps its certificate"


def test_tl_28_rotations_and_swaps_under_load_lose_nothing(mesh: Mesh) -> None:
    with Load(mesh) as load:
        for number in range(6):
            renewed(mesh, (mesh.pair.client, mesh.pair.server)[number % 2])
            for swap in range(10):
                mesh.pair.configure(SCRIPTED + deny(f"/never-{number}-{swap}"))
            if load.failures:
                break
        served = load.served
        assert Origin.wait(lambda: load.served > served + 50 or bool(load.failures))
    assert load.failures == []
    mesh.pair.configure(SCRIPTED)
    assert Origin.wait(lambda: upstreams(mesh.pair) <= 1), "those of old certificates have ended"
    assert mesh.origin.faults == []


class Scripted(Listening):
    """An HTTP/2 application: what it announces, which streams it leaves unprocessed, what it answered on which connection.

    `go_away_at`: the first connection says GOAWAY once so many streams have begun, and takes the first half of them alone.
    """

    def __init__(self, side: Side, limit: int | None = None, go_away_at: int = 0) -> None:
        self.answered: list[list[bytes]] = []
        self.refuse_once: set[bytes] = set()
        self.open_at_most = 0
        self._limit = limit
        self._go_away_at = go_away_at
        self._sockets: list[socket.socket] = []
        super().__init__(side, [SCRIPTED_PORT])

    def stop(self) -> None:
        """Close everything, and wait until the sidecar has too: the next test's requests are for the next application."""
        super().stop()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_WR)
        self.join(PATIENCE_S)

    def _admit(self, accepted: socket.socket, peer: tuple[str, int]) -> Callable[[], None]:
        self._sockets.append(accepted)
        self.answered.append([])
        return partial(self._run, accepted, len(self.answered) - 1)

    def _run(self, accepted: socket.socket, number: int) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        if self._limit is not None:
            connection.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._limit})
        requests: dict[int, dict[bytes, bytes]] = {}
        whole: list[int] = []
        last = 1 << 31
        with accepted, contextlib.suppress(OSError):
            accepted.sendall(connection.data_to_send())
            while data := accepted.recv(1 << 18):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        requests[int(event.stream_id or 0)] = dict(event.headers or [])
                    elif isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                    elif isinstance(event, h2.events.StreamEnded):
                        whole.append(int(event.stream_id or 0))
                self.open_at_most = max(self.open_at_most, len(whole))
                if number == 0 and self._go_away_at and last == 1 << 31:
                    if len(requests) < self._go_away_at:
                        continue
                    last = sorted(requests)[len(requests) // 2]
                    connection.close_connection(last_stream_id=last)
                    # h2 takes its GOAWAY for the end; RFC 9113 6.8 has the streams below it go on.
                    connection.state_machine.state = h2.connection.ConnectionState.SERVER_OPEN
                for stream in [stream for stream in whole if stream <= last]:
                    self._answer(connection, stream, requests[stream], number)
                whole.clear()
                accepted.sendall(connection.data_to_send())

    def _answer(
        self, connection: h2.connection.H2Connection, stream: int, head: dict[bytes, bytes], number: int
    ) -> None:
        nonce = head.get(b"x-nonce", b"-")
        if nonce in self.refuse_once:
            self.refuse_once.discard(nonce)
            connection.reset_stream(stream, 7)
            return
        time.sleep(0.002)
        self.answered[number].append(nonce)
        connection.send_headers(stream, [(b":status", b"200"), (b"x-nonce", nonce)])
        connection.send_data(stream, b"nonce:" + nonce, end_stream=True)


@contextlib.contextmanager
def scripted(mesh: Mesh, limit: int | None = None, go_away_at: int = 0) -> Iterator[Scripted]:
    """An application on its port, which the mesh knows as HTTP/2."""
    mesh.pair.configure(SCRIPTED)
    made = Scripted(mesh.pair.server, limit, go_away_at)
    try:
        yield made
    finally:
        made.stop()


def post(mesh: Mesh, count: int) -> tuple[list[bytes], list[str]]:
    """So many requests at once, none of them idempotent; their nonces and what went wrong."""
    nonces = [wire.nonce() for _ in range(count)]

    def work(number: int) -> None:
        with mesh.pair.client.connect((SCRIPTED_IP, SCRIPTED_PORT)) as connection:
            head = b"POST / HTTP/1.1\r\nHost: scripted\r\nContent-Length: 3\r\nX-Nonce: %b\r\n\r\nabc"
            connection.sendall(head % nonces[number])
            heard = wire.listen(connection, 1)
            assert [answer.body for answer in heard.answers] == [b"nonce:" + nonces[number]], heard

    return nonces, at_once(count, work)


def test_h2_24_a_goaway_loses_no_request_and_repeats_none(mesh: Mesh) -> None:
    with scripted(mesh, go_away_at=20) as application:
        nonces, failures = post(mesh, 20)
        assert failures == []
        assert sorted(nonce for answered in application.answered for nonce in answered) == sorted(nonces)
        assert len(application.answered) == 2, "what was not taken went over another connection"
        assert application.answered[0], "what was taken was answered where it was"


def test_h2_25_a_refused_stream_is_tried_again(mesh: Mesh) -> None:
    with scripted(mesh) as application:
        nonce = wire.nonce()
        application.refuse_once.add(nonce)
        with mesh.pair.client.connect((SCRIPTED_IP, SCRIPTED_PORT)) as connection:
            head = b"POST / HTTP/1.1\r\nHost: scripted\r\nContent-Length: 3\r\nX-Nonce: %b\r\n\r\nabc"
            connection.sendall(head % nonce)
            assert wire.listen(connection, 1).statuses == [200]
        assert application.refuse_once == set()


@pytest.mark.parametrize("limit", [1, 4])
def test_h2_23_a_peer_that_takes_few_streams_gets_more_connections(mesh: Mesh, limit: int) -> None:
    with scripted(mesh, limit) as application:
        _, failures = post(mesh, 1)
        assert failures == []
        nonces, failures = post(mesh, 40)
        assert failures == []
        answered = sorted(nonce for answered in application.answered for nonce in answered)
        assert set(nonces) < set(answered) and len(answered) == 41
        assert application.open_at_most <= limit
        assert 1 < len(application.answered) <= 16
