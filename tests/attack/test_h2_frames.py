"""Frames: their sizes, their identifiers, their states, their compression.

Source: attack cases H2-04, H2-13, H2-15 to H2-22, H2-28, H2-33; RFC 9113 4 to 6, RFC 7541.
"""

from __future__ import annotations

import pytest

from tests.support import frames, wire
from tests.support.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    block,
    data,
    frame,
    head,
    number,
    request_fields,
    settings,
)
from tests.support.h2_arena import H2Arena
from tests.support.pair import PATIENCE_S

GET = request_fields("/never")
POST = request_fields("/never", method="POST")
GOOD = block(GET)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x3f\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff",
        GOOD + b"\x20",
        b"\x3f\xe2\x1f" + GOOD,
        b"\x20\x3f\xe1\x1f\x20" + GOOD,
        b"\x00\x81\xff\x01a",
        b"\x00\x84\xff\xff\xff\xff\x01a",
        b"\x00\x82\x1f\xff\x01a",
        b"\xfe",
    ],
    ids=[
        "size-overflow",
        "index-0",
        "index-overflow",
        "update-late",
        "update-above",
        "three-updates",
        "padding-8-bits",
        "eos",
        "padding-long",
        "index-unknown",
    ],
)
def test_h2_13_faults_of_the_compression(h2: H2Arena, payload: bytes) -> None:
    h2.connection_fault(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, payload), (frames.COMPRESSION_ERROR,))


@pytest.mark.parametrize(
    "sent",
    [
        head(2, GET),
        head(5, POST, end=False) + head(3, GET),
        head(0, GET),
    ],
    ids=["even", "lower", "zero"],
)
def test_h2_15_identifiers(h2: H2Arena, sent: bytes) -> None:
    h2.connection_fault(sent, (frames.PROTOCOL_ERROR, frames.STREAM_CLOSED), upstream=True)


def test_h2_15_the_last_identifier(h2: H2Arena) -> None:
    with h2.open() as peer:
        nonce = wire.nonce()
        assert peer.ask((1 << 31) - 1, nonce=nonce), "the last stream is served"
        assert peer.wait(lambda: bool(peer.of(frames.GOAWAY))), "and then the connection is told to go"
        assert peer.of(frames.GOAWAY)[0].code == frames.NO_ERROR
    h2.arena.healthy()


@pytest.mark.parametrize(
    "sent",
    [
        frame(frames.PING, payload=bytes(7)),
        frame(frames.PING, payload=bytes(9)),
        head(1, POST, end=False) + frame(frames.RST_STREAM, 0, 1, bytes(3)),
        frame(frames.SETTINGS, payload=bytes(5)),
        frame(frames.SETTINGS, ACK, payload=bytes(6)),
        frame(frames.WINDOW_UPDATE, payload=bytes(3)),
        frame(frames.GOAWAY, payload=bytes(7)),
        frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, bytes(16_385)),
        head(1, POST, end=False) + data(1, bytes(16_385)),
    ],
    ids=["ping-7", "ping-9", "reset-3", "settings-5", "ack-6", "update-3", "goaway-7", "headers-large", "data-large"],
)
def test_h2_16_sizes(h2: H2Arena, sent: bytes) -> None:
    h2.connection_fault(sent, (frames.FRAME_SIZE_ERROR,), upstream=True)


def test_h2_17_updates_of_zero_and_windows_beyond_the_largest(h2: H2Arena) -> None:
    h2.stream_fault(lambda at: head(at, POST, end=False) + number(frames.WINDOW_UPDATE, at, 0), in_body=True)
    most = number(frames.WINDOW_UPDATE, 3, (1 << 31) - 1)
    h2.stream_fault(head(3, POST, end=False) + most, (frames.FLOW_CONTROL_ERROR,), in_body=True)
    h2.connection_fault(number(frames.WINDOW_UPDATE, 0, 0), (frames.PROTOCOL_ERROR,))
    h2.connection_fault(number(frames.WINDOW_UPDATE, 0, (1 << 31) - 1), (frames.FLOW_CONTROL_ERROR,))
    h2.connection_fault(number(frames.WINDOW_UPDATE, 5, 1), (frames.PROTOCOL_ERROR,))


def test_h2_18_the_initial_window_moves(h2: H2Arena) -> None:
    size = 300_000
    with h2.open((4, 20_000)) as peer:
        peer.send(number(frames.WINDOW_UPDATE, 0, 1 << 20), head(1, request_fields(f"/bytes/{size}")))
        body = lambda: len(peer.bodies.get(1, b""))  # noqa: E731
        assert peer.wait(lambda: body() == 20_000)
        peer.send(settings((4, 10)))  # the window is 19,990 below zero now
        peer.send(number(frames.WINDOW_UPDATE, 1, 19_990))
        assert not peer.wait(lambda: body() > 20_000, 0.2), "a window of zero lets nothing through"
        peer.send(number(frames.WINDOW_UPDATE, 1, 5))
        assert peer.wait(lambda: body() == 20_005)
        peer.send(settings((4, size)))
        assert peer.wait(lambda: peer.has_ended(1)) and body() == size
    h2.connection_fault(settings((4, 1 << 31)), (frames.FLOW_CONTROL_ERROR,))
    h2.arena.healthy()


def test_h2_19_data_beyond_our_window(h2: H2Arena) -> None:
    # An application that does not read: what our window allows stays unread, what is more is a fault.
    flood = b"".join(data(1, bytes(16_384)) for _ in range(80))
    with h2.open() as peer:
        peer.send(head(1, request_fields("/slow/300", method="POST"), end=False))
        peer.send(flood * 20)
        assert peer.wait(lambda: bool(peer.of(frames.GOAWAY)) or peer.reset_code(1) is not None), peer.frames[-3:]
        codes = {each.code for each in peer.of(frames.GOAWAY) + peer.of(frames.RST_STREAM)}
        assert codes == {frames.FLOW_CONTROL_ERROR}
    h2.arena.healthy()


@pytest.mark.parametrize(
    "sent",
    [
        frame(frames.HEADERS, END_HEADERS | END_STREAM | PADDED, 1, bytes([len(GOOD) + 1]) + GOOD),
        head(1, POST, end=False) + frame(frames.DATA, PADDED, 1, b"\x06hello"),
        head(1, POST, end=False) + frame(frames.DATA, PADDED, 1, b"\xff"),
    ],
    ids=["headers", "data", "data-alone"],
)
def test_h2_20_padding_beyond_the_frame(h2: H2Arena, sent: bytes) -> None:
    h2.connection_fault(sent, (frames.PROTOCOL_ERROR,), upstream=True)


def test_h2_20_padding_never_leaks_a_window(h2: H2Arena) -> None:
    # Three windows of a connection, nearly all of it padding; each third frame is for a stream that we have reset.
    padded, lost = (frame(frames.DATA, PADDED, at, b"\xff" + b"x" + bytes(255)) for at in (1, 3))
    with h2.open() as peer:
        peer.send(head(1, request_fields("/echo", method="POST"), end=False))
        peer.send(head(3, [*POST, *[("x", "y")] * 200], end=False))
        assert peer.wait(lambda: peer.reset_code(3) == frames.NO_ERROR), "answered with 431, its body is not wanted"
        window = room(peer)
        count = 0
        while count < 3 * (1 << 20) // len(padded):
            if window["stream"] < len(padded) or window["connection"] < len(padded):
                assert peer.pump(PATIENCE_S), (count, window, "the window is not given back")
                window = room(peer, window)
                continue
            peer.send(padded)
            window["stream"] -= len(padded) - 9
            window["connection"] -= len(padded) - 9
            count += 1
            if count % 2 == 0:
                peer.send(lost)
                window["connection"] -= len(lost) - 9
        peer.send(data(1, end=True))
        assert peer.wait(lambda: peer.is_over(1)) and len(peer.bodies[1]) == count
    h2.arena.healthy()


def room(peer: frames.Peer, before: dict[str, int] | None = None) -> dict[str, int]:
    """What the sidecar lets us send on stream 1; `seen` is how many frames were counted."""
    found = before or {"stream": 65_535, "connection": 65_535, "seen": 0}
    fresh = peer.frames[found["seen"] :]
    found["seen"] = len(peer.frames)
    for each in fresh:
        if each.kind == frames.WINDOW_UPDATE:
            found["stream" if each.stream == 1 else "connection"] += (
                int.from_bytes(each.payload) if each.stream in (0, 1) else 0
            )
        elif each.kind == frames.SETTINGS and not each.flags & ACK:
            pairs = [each.payload[at : at + 6] for at in range(0, len(each.payload), 6)]
            found["stream"] += sum(int.from_bytes(pair[2:]) - 65_535 for pair in pairs if pair[:2] == b"\0\4")
    return found


@pytest.mark.parametrize(
    ("sent", "codes"),
    [
        (data(1, b"x"), (frames.PROTOCOL_ERROR,)),
        (number(frames.RST_STREAM, 1, 8), (frames.PROTOCOL_ERROR,)),
        (number(frames.RST_STREAM, 0, 8), (frames.PROTOCOL_ERROR,)),
        (data(0, b"x"), (frames.PROTOCOL_ERROR,)),
        (frame(frames.PRIORITY, 0, 0, bytes(5)), (frames.PROTOCOL_ERROR,)),
        (frame(frames.CONTINUATION, END_HEADERS, 1, GOOD), (frames.PROTOCOL_ERROR,)),
        (frame(frames.SETTINGS, 0, 1), (frames.PROTOCOL_ERROR,)),
        (frame(frames.PING, 0, 1, bytes(8)), (frames.PROTOCOL_ERROR,)),
        (frame(frames.GOAWAY, 0, 1, bytes(8)), (frames.PROTOCOL_ERROR,)),
    ],
    ids=[
        "data-idle",
        "reset-idle",
        "reset-0",
        "data-0",
        "priority-0",
        "continuation",
        "settings-1",
        "ping-1",
        "goaway-1",
    ],
)
def test_h2_21_frames_out_of_place(h2: H2Arena, sent: bytes, codes: tuple[int, ...]) -> None:
    h2.connection_fault(sent, codes, upstream=True)


def test_h2_15_an_identifier_is_used_once(h2: H2Arena) -> None:
    # RFC 9113 5.1, "closed": an error of the stream.
    h2.stream_fault(
        lambda at: number(frames.RST_STREAM, at, 8).join([head(at, POST, end=False), head(at, GET)]),
        (frames.STREAM_CLOSED,),
        in_body=True,
    )


def test_h2_21_frames_behind_the_end_of_a_stream(h2: H2Arena) -> None:
    with h2.open() as peer:
        peer.send(head(1, request_fields("/slow/300"), end=True), data(1, b"more"))
        assert peer.wait(lambda: peer.is_over(1)) and peer.reset_code(1) == frames.STREAM_CLOSED, peer.frames
        assert peer.ask(3, nonce=b"after")
    h2.arena.healthy()


def test_h2_22_push_from_a_client(h2: H2Arena) -> None:
    push = frame(frames.PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4) + GOOD)
    h2.connection_fault(head(1, POST, end=False) + push, (frames.PROTOCOL_ERROR,), upstream=True)


def test_h2_28_unknown_frames_flags_and_settings_are_ignored(h2: H2Arena) -> None:
    strange = frame(0x50, 0xFF, 0, b"what") + frame(0xFE, 0, 7, b"") + settings((0x99, 7), (0xFFFF, 1))
    good = frame(frames.HEADERS, END_HEADERS | END_STREAM | 0xC2, 1, block(request_fields("/strange")))
    h2.accept(strange + good + strange, lambda request: None)


@pytest.mark.parametrize(
    "inside",
    [
        head(3, GET),
        frame(frames.PING, payload=bytes(8)),
        data(1, b"x"),
        frame(0x50),
        frame(frames.CONTINUATION, END_HEADERS, 3, GOOD),
    ],
    ids=["headers", "ping", "data", "unknown", "continuation-of-another"],
)
def test_h2_33_nothing_stands_inside_a_block(h2: H2Arena, inside: bytes) -> None:
    begun = frame(frames.HEADERS, END_STREAM, 1, GOOD[:20])
    rest = frame(frames.CONTINUATION, END_HEADERS, 1, GOOD[20:])
    h2.connection_fault(begun + inside + rest, (frames.PROTOCOL_ERROR,))


@pytest.mark.parametrize("piece", [b"", b"\0", GOOD[:1]], ids=["empty", "byte", "name"])
def test_h2_04_blocks_without_end(h2: H2Arena, piece: bytes) -> None:
    begun = frame(frames.HEADERS, END_STREAM, 1, GOOD)
    more = frame(frames.CONTINUATION, 0, 1, piece) * 200
    h2.connection_fault(begun + more, (frames.ENHANCE_YOUR_CALM, frames.COMPRESSION_ERROR, frames.PROTOCOL_ERROR))
