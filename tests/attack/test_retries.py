"""Another try, and only where nothing can have been done twice. RT-01 to RT-03, RT-05, RT-07, RT-08, RT-12, and LC-14's health of endpoints.

In:     a service with two endpoints, both the server's; rules of the kernel refuse or swallow what goes to one or both of them and count
        how often it was tried.
Limits: retries, time-outs and limits that a VirtualService or a DestinationRule asks for come with routing (`retries_waiting.json`).
Source: attack cases 2.11 and 2.12; istio-semantics F.4 (what Istio tries again by default).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.attack.test_lifecycle_tcp import rule
from tests.support import wire
from tests.support.mesh import Mesh, get, opened_mesh, position
from tests.support.pair import HTTP_PORT, SERVER_IP, SERVICE_IP, TCP_PORT, Side

SPARE_IP = "10.99.0.3"
SPARE = f"""
apiVersion: v1
kind: Pod
metadata: {{name: spare, namespace: default, labels: {{app: server, security.istio.io/tlsMode: istio, meshdp.io/sidecar: "true"}}}}
spec: {{serviceAccountName: server}}
status: {{podIP: {SPARE_IP}}}
"""
TRIES = 3


@pytest.fixture(scope="module")
def opened() -> Iterator[Mesh]:
    with opened_mesh((HTTP_PORT,)) as made:
        client, server = made.pair.client, made.pair.server
        subprocess.run(["ip", "-n", server.namespace, "addr", "add", f"{SPARE_IP}/24", "dev", server.link], check=True)
        base = (made.pair.configuration / "base.yaml").read_text()
        made.pair.replace(
            "base.yaml", base.replace("spec: {accessLogFile", "spec: {connectTimeout: 1s, accessLogFile"), client
        )
        made.pair.configure(SPARE)
        yield made


@pytest.fixture
def spared(opened: Mesh) -> Iterator[Mesh]:
    """Both endpoints are well and used, and no connection to either is kept."""
    client = opened.pair.client
    assert opened.origin.wait(lambda: {SERVER_IP, SPARE_IP} <= hosts_of(opened, client))
    forget(opened)
    yield opened
    assert opened.origin.wait(lambda: opened.status() == 200)
    assert "panicked" not in client.log.read_text()


def forget(mesh: Mesh) -> None:
    """End the connections that the client's sidecar keeps to the server's: its next request needs a fresh one."""
    client = mesh.pair.client
    command = ["ip", "netns", "exec", client.namespace, "ss", "-K", "-H", "-t", "dst", "10.99.0.0/24"]
    killed = subprocess.run(command, check=True, capture_output=True, text=True)
    left = subprocess.run([word for word in command if word != "-K"], check=True, capture_output=True, text=True).stdout
    if any("ESTAB" in line for line in left.splitlines()):
        pytest.skip(f"this kernel ends no connection for `ss -K`: {killed.stderr}")


def hosts_of(mesh: Mesh, client: Side) -> set[str]:
    """The endpoints that some requests went to."""
    at = position(client)
    for _ in range(8):
        mesh.status("/echo")
        forget(mesh)
    mesh.logged(client, at, lambda line: line["path"] == "/echo")
    return {str(line["upstream_host"]).partition(":")[0] for line in mesh.log_since(client, at)}


@contextlib.contextmanager
def refusing(side: Side, *addresses: str, how: str = "REJECT --reject-with tcp-reset") -> Iterator[None]:
    """What this side's sidecar sends to these addresses is refused by its own kernel; the first packets are counted."""
    rules = [("filter", "OUTPUT", "-p", "tcp", "-d", address, "--syn", "-j", *how.split()) for address in addresses]
    for words in rules:
        rule(side, "-I", *words)
    try:
        yield
    finally:
        for words in rules:
            rule(side, "-D", *words)


def tried(side: Side) -> int:
    """How many first packets the rules of `refusing` have met."""
    return sum(tried_each(side))


def tried_each(side: Side) -> list[int]:
    """The same for each address."""
    command = ["ip", "netns", "exec", side.namespace, "iptables", "-w", "-nvxL", "OUTPUT"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if " REJECT " in line or " DROP " in line]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_rt_01_an_endpoint_that_refuses_costs_no_request(spared: Mesh, method: str) -> None:
    """Nothing was sent: every method may go to the other endpoint, once, with its body."""
    client, before = spared.pair.client, len(spared.origin.requests)
    with refusing(client, SPARE_IP):
        for number in range(20):
            forget(spared)
            data = get(f"/echo/{number}", "Content-Length: 5", method=method, body=b"hello")
            heard = spared.ask(data)
            assert [answer.body for answer in heard.answers] == [b"hello"], (number, heard)
        assert tried(client) >= 1, "it was tried, or nothing was shown"
    found = [(one.target, one.body) for one in spared.origin.requests[before:]]
    assert found == [(b"/echo/%d" % number, b"hello") for number in range(20)]


def test_rt_01_an_opaque_connection_goes_to_the_other_endpoint(spared: Mesh) -> None:
    with refusing(spared.pair.client, SPARE_IP):
        for _ in range(10):
            with wire.connect(spared.pair, "outbound", TCP_PORT) as connection:
                connection.sendall(b"Ehello")
                assert connection.recv(5) == b"hello"


def test_lc_14_a_failing_endpoint_is_left_alone_and_comes_back(spared: Mesh) -> None:
    """60 requests meet it once or twice; when it is well again it is used again."""
    client = spared.pair.client
    with refusing(client, SPARE_IP):
        began = time.monotonic()
        for _ in range(60):
            assert spared.ask(get("/", "Connection: close")).statuses == [200]
            forget(spared)
        allowed = 2 + (time.monotonic() - began)  # once, and at most once again for each second
        assert 1 <= tried(client) <= allowed, tried(client)
    assert spared.origin.wait(lambda: SPARE_IP in hosts_of(spared, client))


def test_rt_01_tries_are_bounded(spared: Mesh) -> None:
    """Everything refuses: 503 soon, after three tries and no more; and service is back with the first endpoint."""
    client = spared.pair.client
    at = position(client)
    with refusing(client, SPARE_IP, SERVER_IP):
        for number in range(1, 4):
            began = time.monotonic()
            assert spared.ask(get("/refused")).statuses == [503]
            assert time.monotonic() - began < 5
            assert tried(client) <= number * TRIES
        assert tried(client) > 3, "each was tried more than once"
    line = spared.logged(client, at, lambda line: line["path"] == "/refused")
    assert (line["response_code_details"], line["response_flags"]) == ("upstream_connect_failed", "UF")
    assert spared.status() == 200, "RT-07: that all were bad is no reason to refuse"


def test_rt_05_many_requests_while_everything_refuses(spared: Mesh) -> None:
    """Each request tries at most three times, however many there are; the sidecar lives on."""
    client, answers = spared.pair.client, []

    def ask() -> None:
        for _ in range(25):
            answers.extend(spared.ask(get()).statuses)

    with refusing(client, SPARE_IP, SERVER_IP):
        workers = [threading.Thread(target=ask) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert answers == [503] * 200
        assert tried(client) <= 200 * TRIES
    assert spared.status() == 200


def test_rt_02_a_post_is_carried_out_once_at_most(spared: Mesh) -> None:
    """Reset before an answer, on a fresh connection and on a kept one: never sent twice."""
    spared.origin.canned[b"nothing"] = []
    for _ in range(3):
        before = len(spared.origin.requests)
        assert spared.ask(get("/reset/nothing", "Content-Length: 3", method="POST", body=b"abc")).statuses == [503]
        assert [one.target for one in spared.origin.requests[before:]] == [b"/reset/nothing"]


def test_rt_01_an_idempotent_request_is_not_sent_twice_on_a_fresh_connection(spared: Mesh) -> None:
    """It was written in full and the connection was new: the application may have carried it out."""
    spared.origin.canned[b"nothing"] = []
    spared.origin.drop_connections()
    before = len(spared.origin.requests)
    assert spared.ask(get("/reset/nothing", "Connection: close")).statuses == [503]
    assert len(spared.origin.requests) - before == 1


def test_rt_03_a_body_that_is_not_at_hand_is_not_sent_again(spared: Mesh) -> None:
    """PUT may be repeated, but what has been handed on is not kept: the kept connection that dies costs the request."""
    forget(spared)
    with wire.connect(spared.pair, "outbound") as connection:
        wire.send_pieces(connection, [get("/only-first")])
        assert wire.listen(connection, 1).statuses == [200]
        before = len(spared.origin.requests)
        head = get("/only-first", "Content-Length: 300000", method="PUT")
        wire.send_pieces(connection, [head, *[b"x" * 100_000] * 3], 0.01)
        heard = wire.listen(connection, 1)
    assert heard.statuses == [503]
    assert len(spared.origin.requests) - before <= 1


def test_rt_08_the_next_try_uses_the_endpoints_of_now(spared: Mesh) -> None:
    """While a request waits for a connection to the only endpoint, another one comes; the next try is made there."""
    client, base = spared.pair.client, (spared.pair.configuration / "base.yaml").read_text()
    others = base.replace("labels: {app: server,", "labels: {app: another,")
    assert others != base
    answers: list[int] = []
    try:
        spared.pair.replace("base.yaml", others, client)
        assert spared.origin.wait(lambda: hosts_of(spared, client) == {SPARE_IP})
        forget(spared)
        with refusing(client, SPARE_IP, how="DROP"):
            asking = threading.Thread(target=lambda: answers.extend(spared.ask(get("/moved")).statuses))
            asking.start()
            assert spared.origin.wait(lambda: tried(client) >= 1)
            spared.pair.replace("base.yaml", base, client)
            asking.join()
    finally:
        spared.pair.configuration.joinpath("base.yaml").write_text(base)
    assert answers == [200]


def test_rt_12_a_client_that_leaves_while_its_request_looks_for_an_endpoint(spared: Mesh) -> None:
    """LC-06 too: within 100 ms the request is over, and nothing more is tried for it."""
    client = spared.pair.client
    at = position(client)
    with refusing(client, SPARE_IP, SERVER_IP, how="DROP"):
        with wire.connect(spared.pair, "outbound") as connection:
            wire.send_pieces(connection, [get("/left")])
            assert spared.origin.wait(lambda: tried(client) >= 1)
        line = spared.logged(client, at, lambda line: line["path"] == "/left")
        assert line["response_code_details"] == "downstream_closed"
        time.sleep(1.5)  # longer than one try may take; connects that requests share go on to their own end
        assert 0 in tried_each(client), "nothing was tried at the other endpoint"


def test_the_rules_refuse(spared: Mesh) -> None:
    """The test of the test: the counters count what the sidecar tries."""
    assert json.loads(spared.pair.client.admin("/stats"))["panics"] == 0
    with refusing(spared.pair.client, SERVICE_IP):
        assert tried(spared.pair.client) == 0
