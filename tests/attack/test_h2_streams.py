"""Streams: how many, how fast they come and go, who waits for whom; the floods of table 2.2 until they are cut.

Limits: floods here are short and only cut; what they cost beside honest traffic is measured in tests/attack/floods.
Source: attack cases H2-01 to H2-03, H2-05 to H2-07, H2-09 to H2-11, H2-25, H2-28 to H2-30, H2-32, H2-37.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.attack.conftest import HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS
from tests.support import frames, wire
from tests.support.frames import ACK, MAGIC, PADDED, Peer, data, frame, head, number, request_fields, settings
from tests.support.h2_arena import H2Arena
from tests.support.origin import pattern
from tests.support.pair import PATIENCE_S

GET = request_fields("/slow/50")
POST = request_fields("/hold/3000", method="POST")
MIB = 1 << 20
STILL_S = 5.0
# A fresh budget bears 500 resets, and each of the ticks that pass meanwhile 50 more; on a slow machine there are some of them.
MOST_RESETS = 2_000


def until_cut(h2: H2Arena, make: Callable[[int], bytes], most: int, burst: int = 100) -> int:
    """Sends what `make` makes, in bursts, until GOAWAY(ENHANCE_YOUR_CALM); the last stream that was taken.

    Time forgives, 5,000 points a second: a burst is large enough where a busy machine lets us send a few times a second.
    """
    with h2.open() as peer:
        for start in range(0, most, burst):
            peer.send(b"".join(make(number) for number in range(start, start + burst)))
            while peer.pump(0.0005):
                pass
            if peer.ended or peer.of(frames.GOAWAY):
                break
        peer.drain()
        codes = [each.code for each in peer.of(frames.GOAWAY)]
        assert codes == [frames.ENHANCE_YOUR_CALM], (h2.way, peer.ended, peer.frames[-3:])
    h2.arena.healthy()
    return int.from_bytes(peer.of(frames.GOAWAY)[-1].payload[:4])


def odd(number: int) -> int:
    return 1 + 2 * number


def test_h2_01_rapid_reset_is_cut(h2: H2Arena) -> None:
    last = until_cut(h2, lambda at: head(odd(at), GET) + number(frames.RST_STREAM, odd(at), frames.CANCEL), 20_000)
    assert last < 2 * MOST_RESETS, last


def test_h2_02_a_client_that_cancels_200_calls_a_second_is_never_cut(h2: H2Arena) -> None:
    started, count, stream = time.monotonic(), 0, 1
    with h2.open() as peer:
        while time.monotonic() < started + 2:
            due = int((time.monotonic() - started) * 200)
            for _ in range(due - count):
                peer.send(head(stream, request_fields("/slow/30")))
                if count % 2:
                    peer.wait(lambda: bool(peer.heads.get(stream)), 0.001)  # noqa: B023 - used at once
                peer.send(number(frames.RST_STREAM, stream, frames.CANCEL))
                count, stream = count + 1, stream + 2
            peer.pump(0.004)
        assert count > 200 and not peer.of(frames.GOAWAY) and not peer.ended
        assert peer.ask(stream, nonce=b"after")
    h2.arena.healthy()


PROVOKED: dict[str, Callable[[int], bytes]] = {
    "update-zero": lambda at: number(frames.WINDOW_UPDATE, at, 0),
    "update-overflow": lambda at: number(frames.WINDOW_UPDATE, at, (1 << 31) - 1),
    "priority-length": lambda at: frame(frames.PRIORITY, 0, at, bytes(4)),
    "priority-itself": lambda at: frame(frames.PRIORITY, 0, at, at.to_bytes(4) + b"\0"),
    "data-behind-the-end": lambda at: data(at, b"x"),
    "headers-behind-the-end": lambda at: head(at, GET),
}


@pytest.mark.parametrize("kind", PROVOKED)
def test_h2_03_resets_that_we_are_made_to_send_count(h2: H2Arena, kind: str) -> None:
    last = until_cut(h2, lambda at: head(odd(at), GET) + PROVOKED[kind](odd(at)), 20_000)
    assert last < 2 * MOST_RESETS, last


@pytest.mark.parametrize(
    "flood",
    [settings(), frame(frames.SETTINGS, ACK), settings(*[(0x99, value) for value in range(2_000)])],
    ids=["empty", "acknowledgements", "large"],
)
def test_h2_05_settings(h2: H2Arena, flood: bytes) -> None:
    until_cut(h2, lambda _: flood, 80_000 if len(flood) < 100 else 8_000, 1_000 if len(flood) < 100 else 20)


def test_h2_06_pings_of_a_peer_that_does_not_read(h2: H2Arena) -> None:
    memory = resident(h2)
    with h2.open() as peer:
        peer.socket.settimeout(STILL_S)
        flood = frame(frames.PING, payload=bytes(8)) * 1_000
        sent = 0
        for _ in range(2_000):
            try:
                peer.socket.sendall(flood)
            except OSError:
                break
            sent += 1_000
        assert sent < 2_000_000, "it goes on taking what it cannot answer"
        assert resident(h2) - memory < 16 * MIB
    h2.arena.healthy()


@pytest.mark.parametrize(
    "empty", [data(1), frame(frames.DATA, PADDED, 1, b"\0"), frame(frames.DATA, PADDED, 1, b"\x03\0\0\0")]
)
def test_h2_07_empty_data(h2: H2Arena, empty: bytes) -> None:
    opened = head(1, POST, end=False)
    until_cut(h2, lambda at: (opened if at == 0 else b"") + empty, 40_000, 400)


def test_h2_07_ends_without_data_are_no_flood(h2: H2Arena) -> None:
    with h2.open() as peer:
        for at in range(1, 1_201, 2):
            peer.send(head(at, request_fields("/ended", method="POST"), end=False), data(at, end=True))
            if at % 50 == 49:
                assert peer.wait(lambda: peer.is_over(at)), at  # noqa: B023 - used at once
        assert peer.wait(lambda: all(peer.status(at) == 200 for at in range(1, 1_201, 2)))
        assert not peer.of(frames.GOAWAY)
    h2.arena.healthy()


def test_h2_09_tiny_windows_hold_no_memory_and_end_at_a_timeout(h2: H2Arena) -> None:
    memory = resident(h2)
    with h2.open((4, 1)) as peer:
        peer.send(*[head(at, request_fields(f"/bytes/{MIB}")) for at in range(1, 200, 2)])
        assert peer.wait(lambda: all(peer.heads.get(at) for at in range(1, 200, 2)))
        assert resident(h2) - memory < 48 * MIB, "a hundred answers of 1 MiB are not kept"
        assert peer.wait(lambda: all(peer.is_over(at) for at in range(1, 200, 2))), "stalled streams end"
    h2.arena.healthy()


def test_h2_10_resets_of_ours_while_the_peer_does_not_read(h2: H2Arena) -> None:
    memory = resident(h2)
    with h2.open((4, 0)) as peer:
        peer.socket.settimeout(STILL_S)
        try:
            for at in range(200_000):
                peer.socket.sendall(head(odd(at), GET) + number(frames.WINDOW_UPDATE, odd(at), 0))
        except OSError:
            pass
        else:
            pytest.fail("never cut")
        assert resident(h2) - memory < 16 * MIB
    h2.arena.healthy()


@pytest.mark.parametrize(
    "churn",
    [frame(frames.PRIORITY, 0, 1, bytes([0, 0, 0, 0, 9])), frame(0x10, 0, 0, bytes(4) + b"u=1")],
    ids=["old", "new"],
)
def test_h2_11_priorities(h2: H2Arena, churn: bytes) -> None:
    with h2.open() as peer:
        peer.send(churn * 1_000)
        assert peer.ask(3, nonce=b"after"), "some are ignored"
    until_cut(h2, lambda _: churn, 200_000, 2_000)


def test_h2_28_unknown_frames_are_counted(h2: H2Arena) -> None:
    until_cut(h2, lambda _: frame(0x77, 0x55, 0, b"unknown"), 200_000, 2_000)


def test_h2_25_streams_above_the_announced_number_are_refused(h2: H2Arena) -> None:
    with h2.open() as peer:
        announced = next(each.payload for each in peer.of(frames.SETTINGS))
        assert b"\0\3\0\0\0\x64" in announced
        peer.send(*[head(at, request_fields("/slow/400")) for at in range(1, 240, 2)])
        assert peer.wait(lambda: all(peer.is_over(at) for at in range(1, 240, 2)))
        refused = [at for at in range(1, 240, 2) if peer.reset_code(at) == frames.REFUSED_STREAM]
        assert refused == list(range(201, 240, 2))
        assert all(peer.status(at) == 200 for at in range(1, 200, 2))
        assert peer.ask(241, nonce=b"after")
    h2.arena.healthy()


def test_h2_29_peers_that_fall_silent(h2: H2Arena) -> None:
    beginnings = {
        "part of the preface": MAGIC[:3],
        "the preface": MAGIC,
        "half of a frame": MAGIC + settings() + frame(frames.PING)[:5],
        "half of a block": MAGIC
        + settings()
        + frame(frames.SETTINGS, frames.ACK)
        + frame(frames.HEADERS, 0, 1, b"\x82"),
    }
    started = time.monotonic()
    peers = {name: Peer(h2.socket()) for name in beginnings}
    for name, peer in peers.items():
        peer.answers = False
        peer.send(beginnings[name])
    for name, peer in peers.items():
        with peer:
            assert peer.drain() != "open", (h2.way, name, peer.frames)
            assert time.monotonic() - started > HEAD_TIMEOUT_MS / 1000 - 0.6, (h2.way, name)
    h2.arena.healthy()


def test_h2_30_stalled_bodies_end_and_a_moving_one_does_not(h2: H2Arena) -> None:
    with h2.open() as peer:
        peer.send(head(1, request_fields("/duplex", method="POST"), end=False))
        stalled = range(3, 23, 2)
        peer.send(*[head(at, request_fields("/stalled", method="POST"), end=False) + data(at, b"a") for at in stalled])
        started, told = time.monotonic(), 0
        while not all(peer.is_over(at) for at in stalled):
            assert time.monotonic() < started + IDLE_TIMEOUT_MS / 1000 + PATIENCE_S, [
                at for at in stalled if not peer.is_over(at)
            ]
            peer.send(data(1, b"x"))
            told += 1
            peer.pump(0.2)
        assert all(peer.status(at) == 408 or peer.reset_code(at) is not None for at in stalled)
        peer.send(data(1, end=True))
        assert peer.wait(lambda: peer.is_over(1)) and bytes(peer.bodies[1]) == b"x" * told
    h2.arena.healthy()


def test_h2_32_a_stalled_reader_does_not_hold_the_others(h2: H2Arena) -> None:
    with h2.open() as peer:
        peer.send(number(frames.WINDOW_UPDATE, 0, 64 * MIB), head(1, request_fields(f"/bytes/{MIB}")))
        assert peer.wait(lambda: len(peer.bodies.get(1, b"")) == 65_535), "and no credit for it"
        peer.send(*[head(at, request_fields("/bytes/60000")) for at in range(3, 200, 2)])
        assert peer.wait(lambda: all(peer.has_ended(at) for at in range(3, 200, 2)))
        assert all(peer.bodies[at] == pattern(60_000) for at in range(3, 200, 2))


def test_h2_32_an_application_that_does_not_read_does_not_hold_the_others(h2: H2Arena) -> None:
    with h2.open() as peer:
        peer.send(head(1, request_fields("/hold/700", method="POST"), end=False))
        peer.send(*[data(1, bytes(16_000)) for _ in range(4)])
        for at in range(3, 43, 2):
            whole = pattern(60_000)
            peer.send(
                head(at, request_fields("/echo", method="POST"), end=False), number(frames.WINDOW_UPDATE, 0, 60_000)
            )
            peer.send(
                *[data(at, whole[piece : piece + 15_000], end=piece == 45_000) for piece in range(0, 60_000, 15_000)]
            )
            assert peer.wait(lambda: peer.has_ended(at)) and peer.bodies[at] == whole, (at, peer.frames[-3:])  # noqa: B023
        peer.send(data(1, end=True))
        assert peer.wait(lambda: peer.is_over(1)) and peer.status(1) == 200
    h2.arena.healthy()


def test_h2_37_a_reset_with_its_head_starts_nothing_upstream(h2: H2Arena) -> None:
    before = len(h2.origin.requests)
    with h2.open() as peer:
        for at in range(1, 100, 2):
            peer.send(head(at, request_fields("/never")) + number(frames.RST_STREAM, at, frames.CANCEL))
        assert peer.ask(101, nonce=b"after")
        assert len(h2.origin.requests) - before <= 25, "a few, whose reset came in a later read"
    h2.arena.healthy()


def test_h2_37_a_reset_while_the_application_works_gives_its_connection_up(h2: H2Arena) -> None:
    with h2.open() as peer:
        nonce = wire.nonce()
        peer.send(head(1, request_fields("/stream", ("x-nonce", nonce))))
        assert peer.wait(lambda: bool(peer.bodies.get(1)))
        peer.send(number(frames.RST_STREAM, 1, frames.CANCEL))
        upstream = next(each for each in h2.origin.connections if nonce in each.received)
        assert h2.origin.wait(lambda: upstream.ended != "")
        assert peer.ask(3, nonce=b"after")
    h2.arena.healthy()


def resident(h2: H2Arena) -> int:
    """What the sidecar that is met first holds, in bytes."""
    side = h2.pair.client if h2.way == "outbound" else h2.pair.server
    assert side.process is not None
    with open(f"/proc/{side.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4_096
