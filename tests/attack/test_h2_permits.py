"""Permits of HTTP/2 requests that a swap takes back at the worst of times: while they wait for a stream, or while others share their connection.

In:     an HTTP/2 application that takes one stream at a time on each connection (`Upstream`), plaintext and mTLS callers; policies.
Source: DESIGN section 3 (re-authorization); attack cases AZ-12, H2-23; decision 0110.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attack.conftest import Arena
from tests.e2e.test_swap import NONE, STRICT, deny
from tests.support import frames, wire
from tests.support.frames import Peer, head, request_fields, settings
from tests.support.h2_arena import ALPN, over_tls
from tests.support.h2_upstream import Upstream
from tests.support.pair import SERVER_IP, service

PORT = 9101
SERVICE = service("narrow", "10.96.0.11", http2=PORT)
CONNECTIONS = 16


@pytest.fixture
def narrow(attacked: Arena) -> Iterator[Upstream]:
    attacked.pair.configure(SERVICE)
    made = Upstream(attacked.pair.server, PORT)
    made.greeting = settings((3, 1))
    yield made
    made.stop()
    attacked.pair.configure(NONE)


def plain(attacked: Arena) -> Peer:
    peer = Peer(wire.connect_uncaptured(attacked.pair.client, (SERVER_IP, PORT)), "narrow")
    peer.greet()
    return peer


def paths(upstream: Upstream) -> list[bytes]:
    """What the application was asked."""
    return [fields[b":path"] for each in upstream.connections for fields in each.fields.values()]


def test_az_12_a_permit_that_is_taken_back_while_its_request_waits_for_a_stream(
    attacked: Arena, narrow: Upstream
) -> None:
    with plain(attacked) as peer:
        # The first request learns that there is one stream a connection.
        assert peer.ask(1, nonce=(nonce := wire.nonce())), (nonce, peer.frames)
        held = range(3, 3 + 2 * CONNECTIONS, 2)
        for at in held:
            peer.send(head(at, request_fields("/held", authority="narrow")))
        assert peer.wait(lambda: all(peer.status(at) == 200 for at in held)), peer.frames
        denied, permitted = held.stop, held.stop + 2
        peer.send(head(denied, request_fields("/denied", authority="narrow")))
        peer.send(head(permitted, request_fields("/permitted", authority="narrow")))
        assert not peer.wait(lambda: peer.is_over(denied) or peer.is_over(permitted), 0.5), "both wait"
        attacked.pair.configure(SERVICE + deny("/denied"))
        narrow.release.set()
        assert peer.wait(lambda: all(peer.has_ended(at) for at in (*held, denied, permitted))), peer.frames[-5:]
        assert (peer.status(denied), peer.status(permitted)) == (403, 200)
    assert b"/denied" not in paths(narrow)
    assert paths(narrow).count(b"/permitted") == 1


def test_az_12_strict_ends_plaintext_streams_and_no_others_of_the_shared_connection(
    attacked: Arena, narrow: Upstream
) -> None:
    narrow.greeting = settings()
    with plain(attacked) as lost:
        proven = Peer(over_tls(attacked.pair, wire.connect(attacked.pair, "inbound", PORT), ALPN), "narrow")
        proven.greet()
        with proven:
            for peer in (lost, proven):
                peer.send(head(1, request_fields("/held", authority="narrow")))
                assert peer.wait(lambda: peer.status(1) == 200), peer.frames  # noqa: B023 - used at once
            assert len(narrow.live) == 1, "both share a connection to the application"
            attacked.pair.configure(SERVICE + STRICT)
            assert lost.drain() != "open"
            assert not lost.has_ended(1), "cut, not completed"
            narrow.release.set()
            assert proven.wait(lambda: proven.has_ended(1)), proven.frames
            assert bytes(proven.bodies[1]) == b"released"
            assert proven.ask(3, nonce=wire.nonce())
            assert proven.reset_code(1) is None and not proven.of(frames.GOAWAY)
